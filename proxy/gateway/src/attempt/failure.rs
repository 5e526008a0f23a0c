//! Why an attempt gave no answer for the client, what may be tried next, and what the client sees if nothing is left.
//!
//! Invariants: a provider's refusal of our own credentials never reaches the client as 401 (it would think its own key is
//! bad); no message holds a key, an upstream URL or a stack; the body of a refusal is kept within a bound.
//! Deliberately absent: what is remembered of a failure (`exchange/ticket.rs`) and what follows it (`exchange/forward.rs`).

use sluice_policy::config::Verdict;
use sluice_policy::snapshot::Provider;
use sluice_wire::chat::{ErrorKind, Out, UpstreamError};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code, Fault};
use sluice_wire::http::head::ResponseHead;
use sluice_wire::http::{FieldId, date};
use sluice_wire::provider::{self as dialects, ErrorHead};

use super::Answer;
use crate::admission::Overloaded;
use crate::buffer::Chunk;
use crate::connection::ClientGone;
use crate::exchange::{Context, End};
use crate::parts::Parts;
use crate::presence::Presence;
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
    /// The status of the answer, or what fits an error inside a stream; 0: there was none.
    pub status: u16,
    /// When the provider said to come back, in seconds.
    pub retry_after_s: Option<u32>,
    /// Whether it says that the target is not well, rather than the request, the key or the gateway.
    pub blames_target: bool,
    provider: Box<str>,
    told: Told,
}

/// What there is to tell the client. Boxed throughout: every attempt's result has room for a failure, and is moved.
enum Told {
    /// No more than the code.
    Nothing,
    /// The request cannot be carried to this target, or the target is left alone.
    Refusal(Box<ApiError>),
    /// A limit was reached earlier, and the provider said when to come back.
    Resting(Box<ApiError>),
    /// A limit was reached earlier, and when to come back is a guess.
    Guess(Box<ApiError>),
    /// The provider's own words.
    Rejection(Box<Rejection>),
}

/// A provider's own error, kept in case nothing is left to try.
pub struct Rejection {
    error: UpstreamError,
    dialect: Dialect,
    content_type: Option<Box<[u8]>>,
    /// As it came, for a client of the same dialect; empty if it was reported inside a stream.
    body: Vec<Chunk>,
}

impl Failure {
    /// A failure without an answer: the next target may do better.
    pub fn new(code: Code, provider: &Provider) -> Self {
        Self {
            code,
            next: Next::OtherTarget,
            status: 0,
            retry_after_s: None,
            blames_target: code.fault() == Fault::Upstream
                && !matches!(code, Code::UpstreamAuth | Code::UpstreamRateLimited),
            provider: provider.name.clone(),
            told: Told::Nothing,
        }
    }

    /// Every key of the provider that is left rests for `retry_after_s` more; `said` if the provider prescribed it.
    pub fn resting(provider: &Provider, retry_after_s: u32, said: bool) -> Self {
        let message = format!("{}: every key has reached its limit", provider.name);
        let error = Box::new(ApiError::new(Code::UpstreamRateLimited, message).with_retry_after_s(retry_after_s));
        Self {
            told: if said { Told::Resting(error) } else { Told::Guess(error) },
            ..Self::new(Code::UpstreamRateLimited, provider)
        }
    }

    /// The target failed so often, or said so itself, that it is left alone for `retry_after_s` more.
    pub fn left_alone(provider: &Provider, retry_after_s: u32) -> Self {
        let message = format!(
            "{}: the provider is failing and is left alone for a moment",
            provider.name
        );
        let error = ApiError::new(Code::UpstreamUnavailable, message).with_retry_after_s(retry_after_s);
        Self {
            told: Told::Refusal(Box::new(error)),
            ..Self::new(Code::UpstreamUnavailable, provider)
        }
    }

    /// The request could not even be written: the target's dialect cannot express it, or there is nothing to sign it with.
    pub fn unsent(refusal: ApiError, provider: &Provider) -> Self {
        let next = if refusal.code == Code::UpstreamAuth {
            Next::OtherKey
        } else {
            Next::OtherTarget
        };
        Self {
            next,
            blames_target: false,
            told: Told::Refusal(Box::new(refusal.clone())),
            ..Self::new(refusal.code, provider)
        }
    }

    /// There is no place at the provider: nothing was sent, and the next target may have one.
    pub fn overloaded(overloaded: &Overloaded, provider: &Provider) -> Self {
        let message = format!("{}: {}", provider.name, explain(Code::Overloaded));
        let refusal = ApiError::new(Code::Overloaded, message).with_retry_after_s(overloaded.retry_after_s);
        Self {
            told: Told::Refusal(Box::new(refusal)),
            ..Self::new(Code::Overloaded, provider)
        }
    }

    /// The provider reported an error inside its answer, before the first token.
    pub fn reported(error: UpstreamError, provider: &Provider) -> Self {
        let (next, code) = match error.kind {
            ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing => {
                (Next::OtherKey, Code::UpstreamAuth)
            }
            ErrorKind::RateLimit => (Next::OtherKey, Code::UpstreamRateLimited),
            _ => (Next::OtherTarget, Code::UpstreamError),
        };
        let (status, retry_after_s, blames_target) = (error.status, error.retry_after_s, is_of_target(&error));
        let rejection = Rejection {
            error,
            dialect: provider.dialect,
            content_type: None,
            body: Vec::new(),
        };
        let told = if code == Code::UpstreamAuth {
            Told::Nothing
        } else {
            Told::Rejection(Box::new(rejection))
        };
        Self {
            code,
            next,
            status,
            retry_after_s,
            blames_target,
            provider: provider.name.clone(),
            told,
        }
    }

    /// Of two failures, the one that tells the client more: what a provider said beats what could not be carried to one; a
    /// refusal with a time to come back beats any other, and an earlier such time a later one; else the later failure counts.
    pub fn prefer_over(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let next = self.next;
        let keep_earlier = match (earlier.limited(), self.limited()) {
            _ if matches!(self.told, Told::Refusal(_)) => !matches!(earlier.told, Told::Refusal(_)),
            (Some(Some(before)), Some(Some(now))) => before < now,
            (Some(Some(_)), Some(None)) | (Some(_), None) => true,
            _ => false,
        };
        if keep_earlier { Self { next, ..earlier } } else { self }
    }

    /// If the provider said that a limit is reached: when to come back, if it said that as well.
    fn limited(&self) -> Option<Option<u32>> {
        match &self.told {
            Told::Rejection(rejection) if rejection.error.status == 429 => Some(rejection.error.retry_after_s),
            Told::Resting(error) => Some(error.retry_after_s),
            Told::Guess(_) => Some(None),
            _ => None,
        }
    }

    /// What the client sees if nothing is left to try.
    pub fn into_end(self) -> End {
        match self.told {
            Told::Rejection(rejection) => End::Rejected(rejection),
            Told::Refusal(refusal) | Told::Resting(refusal) | Told::Guess(refusal) => End::Refused(*refusal),
            Told::Nothing => End::Refused(ApiError::new(
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
    down: &mut impl Presence,
    work: &mut Work,
    mut answer: Answer,
    provider: &Provider,
    next: Next,
    code: Code,
) -> Result<Failure, ClientGone> {
    let head_bytes = answer.head_bytes.clone();
    let content_type = work
        .response
        .field(FieldId::ContentType)
        .map(|field| field.value.of(&head_bytes).into());
    let by_ms = context.limit_at_ms().min(context.core.clock.tick_ms() + REJECTION_MS);
    let mut body = Vec::new();
    let complete = down.while_present(collect(&mut answer, work, &mut body, by_ms)).await?;
    if complete && answer.reusable && answer.rest.is_empty() {
        answer
            .upstream
            .release(context.core, context.plane.snapshot.upstream().idle_connections);
    }
    let error_head = error_head(&work.response, &head_bytes);
    let mut failure = Failure {
        next,
        status: error_head.status,
        retry_after_s: error_head.retry_after_s,
        ..Failure::new(code, provider)
    };
    if complete && code != Code::UpstreamAuth {
        let error = dialects::parse_error(provider.dialect, &error_head, &context.core.net.buffers.gather(&body));
        if error.kind == ErrorKind::Billing {
            // No credit, said with a 429: coming back later does not help.
            failure.code = Code::UpstreamAuth;
            return Ok(failure);
        }
        failure.told = Told::Rejection(Box::new(Rejection {
            error,
            dialect: provider.dialect,
            content_type,
            body,
        }));
    }
    Ok(failure)
}

/// Whether the provider's verdict on the request (400, 413, 422) is one after which a fallback may be tried: then that
/// failure. Otherwise the answer is as it was, its body in `answer.rest` as far as it was read.
///
/// # Errors
/// [`ClientGone`].
pub async fn verdict(
    context: &Context<'_>,
    down: &mut impl Presence,
    work: &mut Work,
    answer: &mut Answer,
    provider: &Provider,
) -> Result<Option<Failure>, ClientGone> {
    let mut decoder = answer.decoder.clone();
    let (mut raw, mut body) = (Vec::new(), Vec::new());
    let by_ms = context.limit_at_ms().min(context.core.clock.tick_ms() + REJECTION_MS);
    answer.upstream.stream.deadline().set(by_ms);
    let mut bytes = 0;
    let mut complete = decoder.is_done();
    while !complete && bytes <= REJECTION_BYTES_MAX {
        if answer.rest.is_empty() {
            match down.while_present(answer.upstream.stream.recv()).await? {
                Ok(Some(chunk)) => answer.rest = chunk,
                // Whoever delivers the answer will meet the same end, and say what it means.
                Ok(None) | Err(_) => break,
            }
        }
        let chunk = std::mem::take(&mut answer.rest);
        work.spans.clear();
        let sound = decoder.push(&chunk, &mut work.spans).is_ok();
        for &(start, end) in &work.spans {
            body.push(chunk.slice(start as usize, end as usize));
        }
        bytes += chunk.len();
        raw.push(chunk);
        complete = decoder.is_done();
        if !sound {
            break;
        }
    }
    let fallback = if complete {
        let error_head = error_head(&work.response, &answer.head_bytes);
        let gathered = context.core.net.buffers.gather(&body);
        let error = dialects::parse_error(provider.dialect, &error_head, &gathered);
        let (verdict, code) = match error.kind {
            ErrorKind::ContextLength => (Some(Verdict::ContextLength), Code::ContextLengthExceeded),
            ErrorKind::ContentPolicy => (Some(Verdict::ContentPolicy), Code::ContentPolicyViolation),
            _ => (None, Code::UpstreamError),
        };
        let wanted = verdict.is_some_and(|verdict| context.plane.snapshot.falls_back_on(context.route, verdict));
        wanted.then_some((error, code))
    } else {
        None
    };
    let Some((error, code)) = fallback else {
        answer.rest = context.core.net.buffers.gather(&raw);
        return Ok(None);
    };
    let content_type = work
        .response
        .field(FieldId::ContentType)
        .map(|field| field.value.of(&answer.head_bytes).into());
    Ok(Some(Failure {
        status: error.status,
        blames_target: false,
        told: Told::Rejection(Box::new(Rejection {
            error,
            dialect: provider.dialect,
            content_type,
            body,
        })),
        ..Failure::new(code, provider)
    }))
}

/// Whether an error that a provider reported says that the target is not well.
fn is_of_target(error: &UpstreamError) -> bool {
    error.fault() == Fault::Upstream && error.kind != ErrorKind::RateLimit
}

/// What the head of an error answer says.
pub fn error_head<'h>(response: &ResponseHead, head_bytes: &'h [u8]) -> ErrorHead<'h> {
    let text = |value: &'h [u8]| std::str::from_utf8(value).ok().map(str::trim);
    let value = |id| response.field(id).map(|field| field.value.of(head_bytes));
    let retry_after = value(FieldId::RetryAfter);
    let in_ms = || {
        text(response.named(head_bytes, b"retry-after-ms")?)?
            .parse::<f64>()
            .ok()
    };
    let seconds = match retry_after.and_then(text).map(str::parse::<u32>) {
        Some(Ok(seconds)) => Some(seconds),
        // A date (RFC 9110 §10.2.3), held against the provider's own clock.
        Some(Err(_)) => retry_after
            .zip(value(FieldId::Date))
            .and_then(|(at, now)| date::seconds_between(now, at)),
        // What some providers say beside or in place of it; the cast saturates.
        None => in_ms().map(|ms| (ms / 1000.0).ceil() as u32),
    };
    ErrorHead {
        status: response.status,
        retry_after_s: seconds,
        error_type: response.named(head_bytes, b"x-amzn-errortype").and_then(text),
    }
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
    /// Writes it for the client, in the provider's own bytes if both speak one dialect; returns the status and the
    /// length of the body. `trace` is header fields, each with CRLF.
    pub fn write(&self, parts: &mut Parts, client: reply::Client, trace: &[u8]) -> (u16, u64) {
        let status = self.error.client_status();
        let mut translated = Out::default();
        let verbatim = self.dialect == client.dialect && !self.body.is_empty();
        if !verbatim {
            dialects::write_error(client.dialect, &self.error, &mut translated);
        }
        let content_type = self
            .content_type
            .as_deref()
            .filter(|_| verbatim)
            .unwrap_or(b"application/json");
        let kept: usize = self.body.iter().filter(|_| verbatim).map(|chunk| chunk.len()).sum();
        let body_bytes = (kept + translated.buf.len()) as u64;
        let text = parts.text();
        reply::status_line(text, status);
        text.extend_from_slice(b"content-type: ");
        text.extend_from_slice(content_type);
        text.extend_from_slice(b"\r\n");
        if let Some(seconds) = self.error.retry_after_s {
            reply::number_field(text, b"retry-after: ", u64::from(seconds));
        }
        reply::field(text, dialects::error_field(client.dialect, &self.error));
        reply::number_field(text, b"content-length: ", body_bytes);
        reply::request_id_fields(text, client);
        text.extend_from_slice(trace);
        reply::connection_field(text, client);
        text.extend_from_slice(b"\r\n");
        if !client.head_only {
            text.extend_from_slice(&translated.buf);
            self.body
                .iter()
                .filter(|_| verbatim)
                .for_each(|chunk| parts.chunk(chunk.clone()));
        }
        (status, if client.head_only { 0 } else { body_bytes })
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
        Code::Overloaded => "as many requests as the gateway may have there are under way; try again later",
        Code::UpstreamProtocolError => "the provider's answer cannot be understood",
        _ => "the provider did not give an answer",
    }
}
