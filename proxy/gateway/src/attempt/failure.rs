//! Why an attempt gave no answer for the client, what may be tried next, and what the client sees if nothing is left.
//!
//! Invariants: a provider's refusal of our own credentials never reaches the client as 401 (it would think its own key is
//! bad); no message holds a key, an upstream URL or a stack; the body of a refusal is kept within a bound.
//! Deliberately absent: backoff, cooldown and breakers.

use sluice_policy::snapshot::Provider;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::FieldId;
use sluice_wire::http::head::ResponseHead;

use super::Answer;
use crate::buffer::Chunk;
use crate::connection::{ClientGone, Downstream};
use crate::exchange::{Context, End};
use crate::parts::Parts;
use crate::reply;
use crate::scratch::Work;

/// Most bytes of a refusal's body that are kept for the client.
const REJECTION_BYTES_MAX: usize = 256 * 1024;
/// Longest wait for a refusal's body, in milliseconds.
const REJECTION_MS: u64 = 2_000;

/// What may be tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another key of the same provider, then the next target.
    OtherKey,
    /// The next target.
    OtherTarget,
}

/// Why an attempt gave no answer for the client.
pub struct Failure {
    /// What went wrong.
    pub code: Code,
    /// What may be tried next.
    pub next: Next,
    provider: Box<str>,
    rejection: Option<Box<Rejection>>,
}

/// A provider's own error answer, kept in case nothing is left to try.
pub struct Rejection {
    status: u16,
    retry_after_s: Option<u32>,
    content_type: Option<Box<[u8]>>,
    body: Vec<Chunk>,
}

impl Failure {
    /// A failure without an answer: the next target may do better.
    pub fn new(code: Code, provider: &Provider) -> Self {
        Self {
            code,
            next: Next::OtherTarget,
            provider: provider.name.clone(),
            rejection: None,
        }
    }

    /// Of two failures, the one that tells the client more: a refusal with a time to come back beats any other, an earlier
    /// such time beats a later one, and otherwise the later failure counts.
    pub fn prefer_over(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let wait = |failure: &Self| {
            failure
                .rejection
                .as_ref()
                .filter(|kept| kept.status == 429)
                .map(|kept| kept.retry_after_s)
        };
        match (wait(&earlier), wait(&self)) {
            (Some(Some(before)), Some(Some(now))) if before < now => Self {
                next: self.next,
                ..earlier
            },
            (Some(Some(_)), Some(None)) | (Some(_), None) => Self {
                next: self.next,
                ..earlier
            },
            _ => self,
        }
    }

    /// What the client sees if nothing is left to try.
    pub fn into_end(self) -> End {
        match self.rejection {
            Some(rejection) => End::Rejected(rejection),
            None => End::Refused(ApiError::new(
                self.code,
                format!("{}: {}", self.provider, explain(self.code)),
            )),
        }
    }
}

/// Reads the body of an answer that refuses the request, as far as it is worth keeping, so that the connection can be used
/// again and the client can be told the provider's reason.
///
/// # Errors
/// [`ClientGone`].
pub async fn reject(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    mut answer: Answer,
    provider: &Provider,
    next: Next,
    code: Code,
) -> Result<Failure, ClientGone> {
    let status = work.response.status;
    let head = &answer.head_bytes;
    let field = |head_of: &ResponseHead, id: FieldId| head_of.field(id).map(|field| field.value.of(head).into());
    let content_type = field(&work.response, FieldId::ContentType);
    let retry_after_s = field(&work.response, FieldId::RetryAfter)
        .and_then(|value: Box<[u8]>| std::str::from_utf8(&value).ok()?.trim().parse().ok());
    let by_ms = context.total_at_ms.min(context.core.clock.tick_ms() + REJECTION_MS);
    let mut body = Vec::new();
    let complete = down.while_present(collect(&mut answer, work, &mut body, by_ms)).await?;
    if complete && answer.reusable && answer.rest.is_empty() {
        answer
            .upstream
            .release(context.core, context.plane.snapshot.upstream().idle_connections);
    }
    let keep = complete && code != Code::UpstreamAuth;
    let rejection = keep.then(|| {
        Box::new(Rejection {
            status,
            retry_after_s,
            content_type,
            body,
        })
    });
    Ok(Failure {
        code,
        next,
        provider: provider.name.clone(),
        rejection,
    })
}

/// Collects a bounded body; false if it is too large, late or malformed.
async fn collect(answer: &mut Answer, work: &mut Work, body: &mut Vec<Chunk>, by_ms: u64) -> bool {
    answer.upstream.stream.deadline().set(by_ms);
    let mut bytes = 0;
    while !answer.decoder.is_done() {
        if answer.rest.is_empty() {
            match answer.upstream.stream.recv().await {
                Ok(Some(chunk)) => answer.rest = chunk,
                Ok(None) => return answer.decoder.finish_at_eof().is_ok(),
                Err(_) => return false,
            }
        }
        work.spans.clear();
        let Ok(step) = answer.decoder.push(&answer.rest, &mut work.spans) else {
            return false;
        };
        for &(start, end) in &work.spans {
            body.push(answer.rest.slice(start as usize, end as usize));
            bytes += (end - start) as usize;
        }
        answer.rest.advance(step.consumed);
        if bytes > REJECTION_BYTES_MAX {
            return false;
        }
    }
    true
}

impl Rejection {
    /// Writes it for the client; returns the status.
    pub fn write(&self, parts: &mut Parts, client: reply::Client) -> u16 {
        // 529 is one vendor's own (overloaded); clients know 503.
        let status = if self.status == 529 { 503 } else { self.status };
        let body_bytes: usize = self.body.iter().map(|chunk| chunk.len()).sum();
        let text = parts.text();
        reply::status_line(text, status);
        if let Some(content_type) = &self.content_type {
            text.extend_from_slice(b"content-type: ");
            text.extend_from_slice(content_type);
            text.extend_from_slice(b"\r\n");
        }
        if let Some(seconds) = self.retry_after_s {
            reply::number_field(text, b"retry-after: ", u64::from(seconds));
        }
        reply::number_field(text, b"content-length: ", body_bytes as u64);
        reply::request_id_field(text, client.id);
        reply::connection_field(text, client);
        text.extend_from_slice(b"\r\n");
        if !client.head_only {
            self.body.iter().for_each(|chunk| parts.chunk(chunk.clone()));
        }
        status
    }
}

/// What a code means for the client, in a sentence.
fn explain(code: Code) -> &'static str {
    match code {
        Code::UpstreamDns => "the provider's name does not resolve; check `base_url` and the resolver",
        Code::UpstreamConnectFailed => "the provider cannot be reached (refused, or no connection in time)",
        Code::UpstreamTls => "no verified TLS connection to the provider could be made",
        Code::UpstreamReset => "the provider closed the connection before it answered",
        Code::UpstreamTimeout => "the provider did not answer in time",
        Code::UpstreamAuth => "the provider refuses the gateway's key; the operator must check it",
        Code::UpstreamProtocolError => "the provider's answer cannot be understood",
        _ => "the provider did not give an answer",
    }
}
