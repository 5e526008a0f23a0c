//! The AWS credentials that the gateway's own surroundings are granted: variables, the container's role, the EC2 instance's.
//!
//! Invariants: they are asked for by a task of its own, so that a metadata service that is slow holds nothing up; they are
//! renewed before they expire, and if that fails serve until the second in which they expire and not longer; a secret is in
//! no log line. Only IMDSv2 is spoken, and a container's address must be one of this machine or of ECS and EKS, since the
//! answer comes over plain HTTP. Deliberately absent: web identity tokens, profiles, IMDSv1, and the signing itself.
//!
//! Specification: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html> and
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>.

mod metadata;
mod source;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use self::source::Source;
use crate::signing::AwsCredentials;

/// How long before they expire credentials are renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// Spread over which gateways that were started together ask, on top of [`RENEW_BEFORE`].
const JITTER: Duration = Duration::from_secs(60);
/// Shortest time between two successful requests, even if the answer is about to expire.
const RENEW_MIN: Duration = Duration::from_secs(10);
/// First and longest pause after a failure; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The latest credentials, kept by a task that runs from the first time that they are needed.
#[derive(Default)]
pub struct InstanceCredentials {
    latest: Option<watch::Receiver<Option<Arc<AwsCredentials>>>>,
}

impl InstanceCredentials {
    /// Starts asking for them, if that has not begun, and waits up to `patience` for the first answer.
    pub async fn start(&mut self, patience: Duration) {
        if self.latest.is_none() {
            let source = Source::from_environment(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
            self.follow(source);
            let _ = tokio::time::timeout(patience, self.changed()).await;
        }
    }

    fn follow(&mut self, source: Source) {
        let (sender, receiver) = watch::channel(None);
        self.latest = Some(receiver);
        tokio::spawn(keep(source, sender));
    }

    /// Those to sign with now, if there are any.
    pub fn latest(&self) -> Option<Arc<AwsCredentials>> {
        self.latest.as_ref().and_then(|latest| latest.borrow().clone())
    }

    /// Returns when others are to be used than before; never if none are needed. Safe to drop.
    pub async fn changed(&mut self) {
        if let Some(latest) = &mut self.latest
            && latest.changed().await.is_ok()
        {
            return;
        }
        // Not started, or the variables, which do not change.
        std::future::pending().await
    }
}

/// Fetches, waits, and fetches again, for as long as anybody wants to know.
async fn keep(source: Source, sender: watch::Sender<Option<Arc<AwsCredentials>>>) {
    let mut retry = RETRY.0;
    loop {
        let pause = match source.fetch().await.and_then(unexpired) {
            Ok(credentials) => {
                retry = RETRY.0;
                let expires_unix_s = credentials.expires_unix_s;
                tracing::info!(source = source.name(), expires_unix_s, "AWS credentials are in force");
                publish(&sender, Some(credentials));
                let Some(expires_unix_s) = expires_unix_s else { return };
                renew_after(expires_unix_s, now_unix_s(), jitter(JITTER))
            }
            Err(reason) => {
                tracing::warn!(source = source.name(), reason, "no AWS credentials; trying again");
                let pause = retry + jitter(retry);
                retry = (retry * 2).min(RETRY.1);
                pause
            }
        };
        let expiry = until_expiry(sender.borrow().as_deref());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = tokio::time::sleep(expiry.unwrap_or(Duration::MAX)), if expiry.is_some() => {
                tracing::error!(source = source.name(), "the AWS credentials have expired and could not be renewed");
                publish(&sender, None);
            }
            () = sender.closed() => return,
        }
    }
}

/// A service that hands out what has expired has failed like one that answers nothing.
fn unexpired(credentials: AwsCredentials) -> Result<AwsCredentials, String> {
    if until_expiry(Some(&credentials)) == Some(Duration::ZERO) {
        return Err("the credentials have expired already".into());
    }
    Ok(credentials)
}

/// Wakes the receiver only if it has to do something.
fn publish(sender: &watch::Sender<Option<Arc<AwsCredentials>>>, credentials: Option<AwsCredentials>) {
    sender.send_if_modified(|latest| {
        let differs = latest.as_deref() != credentials.as_ref();
        if differs {
            *latest = credentials.map(Arc::new);
        }
        differs
    });
}

fn until_expiry(credentials: Option<&AwsCredentials>) -> Option<Duration> {
    let expires_unix_s = credentials?.expires_unix_s?;
    Some(Duration::from_secs(expires_unix_s.saturating_sub(now_unix_s())))
}

/// How long credentials that expire then are used before new ones are asked for.
fn renew_after(expires_unix_s: u64, now_unix_s: u64, jitter: Duration) -> Duration {
    Duration::from_secs(expires_unix_s.saturating_sub(now_unix_s))
        .saturating_sub(RENEW_BEFORE + jitter)
        .max(RENEW_MIN)
}

fn jitter(max: Duration) -> Duration {
    max.mul_f64(fastrand::f64())
}

fn now_unix_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
