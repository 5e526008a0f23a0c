//! [`Webhook`]: tells an administrator's URL that a budget is used up further than its owner wanted to hear of.
//!
//! Invariants: the treasury never waits for it; what waits to be told is bounded, and so is how often each is tried; the URL,
//! which may hold a secret, appears in no message. Deliberately absent: a memory of what was told before a restart.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, header};
use serde_json::json;
use sluice_policy::config::url::BaseUrl;
use tokio::sync::mpsc;

use super::{Event, unix_s};
use crate::control::ask::ask;

/// What waits to be told at most; beyond, it is dropped with a warning.
const WAITING_MAX: usize = 256;
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pauses between attempts.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];

/// The way to the task that tells.
pub struct Webhook {
    events: mpsc::Sender<String>,
}

struct Target {
    url: BaseUrl,
    path_and_query: String,
}

impl Webhook {
    /// For a URL; `None`, with a warning, if it is none. To be called within a runtime.
    pub fn start(url: &str) -> Option<Self> {
        Self::start_with(url, PAUSES)
    }

    fn start_with(url: &str, pauses: [Duration; 3]) -> Option<Self> {
        let Some(target) = Target::new(url) else {
            tracing::warn!("the webhook of budgets is not a URL; nobody is told of them");
            return None;
        };
        let (events, mut waiting) = mpsc::channel::<String>(WAITING_MAX);
        tokio::spawn(async move {
            while let Some(body) = waiting.recv().await {
                target.tell(&body, &pauses).await;
            }
        });
        Some(Self { events })
    }

    /// Tells of it, soon.
    pub fn tell(&self, event: &Event) {
        let Event::Soft { owner, spent, limit } = event else {
            return;
        };
        let text = format!("{spent} of {limit} USD of the budget of {owner} are spent");
        let body = json!({
            "event": "soft_budget",
            "owner": owner,
            "spent_usd": spent.to_string(),
            "limit_usd": limit.to_string(),
            "unix_s": unix_s(),
            "text": text,
        });
        if self.events.try_send(body.to_string()).is_err() {
            tracing::warn!(owner = &**owner, "the webhook is too slow: it is not told of a budget");
        }
    }
}

impl Target {
    fn new(text: &str) -> Option<Self> {
        let (base, query) = text.split_once('?').map_or((text, None), |(base, query)| (base, Some(query)));
        let url: BaseUrl = base.parse().ok()?;
        let path = if url.path.is_empty() { "/" } else { &url.path };
        let path_and_query = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        // What is no target of a request would fail later, at each event.
        hyper::Uri::try_from(&path_and_query).ok()?;
        Some(Self { url, path_and_query })
    }

    async fn tell(&self, body: &str, pauses: &[Duration]) {
        for attempt in 0..=pauses.len() {
            let why = match self.attempt(body).await {
                Ok(()) => return,
                Err(why) => why,
            };
            match pauses.get(attempt) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => tracing::warn!(why, "the webhook could not be told of a budget"),
            }
        }
    }

    async fn attempt(&self, body: &str) -> Result<(), String> {
        let request = Request::post(&self.path_and_query)
            .header(header::HOST, self.url.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|error| error.to_string())?;
        match ask(&self.url, request, PATIENCE).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, _)) => Err(format!("the answer is {status}")),
            Err(failure) => Err(format!("{failure:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_policy::money::NanoUsd;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_webhook_is_told_again_until_it_answers_and_not_for_ever() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/hook?code=7", listener.local_addr().unwrap());
            let webhook = Webhook::start_with(&url, [Duration::from_millis(1); 3]).unwrap();
            let event = |owner: &str| Event::Soft {
                owner: owner.into(),
                spent: NanoUsd(41_000_000_000),
                limit: NanoUsd(50_000_000_000),
            };
            webhook.tell(&event("first"));
            webhook.tell(&event("second"));
            let mut heard = Vec::new();
            // Two failures and a success; then four failures, after which it gives up.
            for status in [500, 503, 204, 500, 500, 500, 500] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    assert!(socket.read_buf(&mut request).await.unwrap() > 0);
                }
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.unwrap();
                heard.push(String::from_utf8(request).unwrap());
            }
            assert!(heard[0].starts_with("POST /hook?code=7 HTTP/1.1\r\n"), "{}", heard[0]);
            assert!(heard[0].contains(r#""owner":"first","spent_usd":"41","limit_usd":"50""#), "{}", heard[0]);
            assert!(heard[..3].iter().all(|request| request.contains("first")));
            assert!(heard[3..].iter().all(|request| request.contains("second")));
            webhook.tell(&event("third"));
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert!(socket.read_buf(&mut request).await.unwrap() > 0);
            }
            assert!(String::from_utf8(request).unwrap().contains("third"), "it gave the second one up");
        });
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in ["", "ftp://x/", "http://", "http://x/ y", "https://user:secret@x/"] {
            assert!(Target::new(url).is_none(), "{url}");
        }
        let target = Target::new("https://hooks.example/a/b?x=1&y=2").unwrap();
        assert_eq!((target.url.tls, &*target.path_and_query), (true, "/a/b?x=1&y=2"));
        assert_eq!(Target::new("http://x:8080").unwrap().path_and_query, "/");
    }
}
