//! One request to a metadata service, and credentials as all of these services write them.
//!
//! Invariants: an exchange takes [`PATIENCE`] at most and its answer [`limits::METADATA_ANSWER_BYTES_MAX`]; what is returned can
//! stand in a header field. Deliberately absent: redirects, TLS, and connections that live on: there are a few requests a day.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sluice_policy::config::url::BaseUrl;
use sluice_wire::limits;
use tokio::net::TcpStream;

use crate::signing::AwsCredentials;

/// Longest time for one request, connection included.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request without a body.
pub(super) struct Request<'a> {
    pub method: &'static str,
    /// Behind the URL's own.
    pub path: &'a str,
    pub header: Option<(&'static str, &'a str)>,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str, header: Option<(&'static str, &'a str)>) -> Self {
        Self {
            method: "GET",
            path,
            header,
        }
    }
}

/// The body of a 200.
///
/// # Errors
/// In words, naming the address and never the header's value.
pub(super) async fn ask(url: &BaseUrl, request: &Request<'_>) -> Result<Vec<u8>, String> {
    let place = format!("http://{}{}{}", url.authority(), url.path, request.path);
    tokio::time::timeout(PATIENCE, exchange(url, request))
        .await
        .unwrap_or_else(|_| Err("no answer in time".into()))
        .map_err(|reason| format!("{place}: {reason}"))
}

async fn exchange(url: &BaseUrl, request: &Request<'_>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let target = format!("{}{}", url.path, request.path);
    let mut message = hyper::Request::builder()
        .method(request.method)
        .uri(if target.is_empty() { "/" } else { &target })
        .header("host", url.authority());
    if let Some((name, value)) = request.header {
        message = message.header(name, value);
    }
    let message = message.body(Empty::<bytes::Bytes>::new())?;
    let stream = TcpStream::connect((&*url.host, url.port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(message).await?;
        let status = response.status();
        if status != hyper::StatusCode::OK {
            return Err(format!("the answer is {status}").into());
        }
        let body = Limited::new(response.into_body(), limits::METADATA_ANSWER_BYTES_MAX);
        Ok(body.collect().await?.to_bytes().to_vec())
    };
    tokio::pin!(answer);
    // Both in this task, so that nothing outlives the patience. The connection may end first: the answer knows why.
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// `Code` is EC2's only; the other names are common to all.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
}

/// Credentials as a metadata service writes them.
///
/// # Errors
/// What is wrong with them, without repeating any of it but EC2's code.
pub(super) fn parse(body: &[u8]) -> Result<AwsCredentials, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "the answer holds no credentials")?;
    if let Some(code) = answer.code.filter(|code| code != "Success") {
        return Err(format!("the metadata service reports {code:.64}"));
    }
    let (Some(id), Some(secret)) = (answer.access_key_id, answer.secret_access_key) else {
        return Err("the answer holds no access key".into());
    };
    let expires_unix_s = match answer.expiration {
        Some(text) => Some(unix_s(&text).ok_or("the expiration is not a date")?),
        None => None,
    };
    Ok(credentials(&id, &secret, answer.token.as_deref(), expires_unix_s)?)
}

/// Credentials that may stand in a header field (RFC 9110 §5.5).
///
/// # Errors
/// Which part may not.
pub(super) fn credentials(
    id: &str,
    secret: &str,
    token: Option<&str>,
    expires_unix_s: Option<u64>,
) -> Result<AwsCredentials, &'static str> {
    let sound = |text: &str, bytes_max: usize| {
        (1..=bytes_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !sound(id, limits::SIGV4_SCOPE_PART_BYTES_MAX) || id.contains('/') {
        return Err("the access key id holds characters that none has, or is too long");
    }
    if !sound(secret, limits::SECRET_BYTES_MAX) {
        return Err("the secret access key holds characters that none has, or is too long");
    }
    if token.is_some_and(|token| !sound(token, limits::AWS_SESSION_TOKEN_BYTES_MAX)) {
        return Err("the session token holds characters that none has, or is too long");
    }
    Ok(AwsCredentials {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        session_token: token.map(Into::into),
        expires_unix_s,
    })
}

/// `2026-03-04T05:06:07Z`, with or without a fraction (RFC 3339 §5.6, UTC only), in seconds since the Unix epoch.
pub(super) fn unix_s(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (text, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (date, time) = text.split_once('T')?;
    let part = |text: &str, bytes: usize| {
        let sound = text.len() == bytes && text.bytes().all(|byte| byte.is_ascii_digit());
        sound.then(|| text.parse::<u64>().ok()).flatten()
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (part(date.next()?, 4)?, part(date.next()?, 2)?, part(date.next()?, 2)?);
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (part(time.next()?, 2)?, part(time.next()?, 2)?, part(time.next()?, 2)?);
    let sound = (1970..).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sound || hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Days of the civil calendar, with years that begin in March so that a leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    const EPOCH_DAYS: u64 = 719_468;
    Some((days - EPOCH_DAYS) * 86_400 + hour * 3_600 + minute * 60 + second)
}
