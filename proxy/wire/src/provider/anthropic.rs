//! Anthropic Messages.
//!
//! Invariant: the same items in the same order as every other dialect, see [`crate::provider`]. Deliberately absent: server
//! tools, containers and the like, which pass only between an Anthropic client and Anthropic.

mod request;
mod response;
mod stream;

pub(in crate::provider) use request::calls_without_thinking;
pub use request::{parse_request, thinking_style, write_request};
pub use response::{parse_response, write_response};
pub use stream::{StreamDecoder, StreamEncoder};

use crate::chat::{ErrorKind, JsonError, Kind, Out, Reader, ServiceTier, UpstreamError, Usage};
use crate::error::{ApiError, anthropic_kind};
use crate::provider::{ErrorHead, Target};

/// The path behind the base URL, which holds no version: Anthropic's own SDK adds it.
pub fn request_path(_: &Target<'_>, _: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"/v1/messages");
}

/// The API version that this module writes (<https://docs.anthropic.com/en/api/versioning>).
pub fn request_headers() -> &'static [(&'static str, &'static str)] {
    &[("anthropic-version", "2023-06-01")]
}

/// Reads `{"type":"error","error":{"type","message"}}` (<https://docs.anthropic.com/en/api/errors>).
pub fn parse_error(head: &ErrorHead<'_>, body: &[u8]) -> UpstreamError {
    let mut error = UpstreamError {
        status: head.status,
        kind: if head.status < 400 {
            ErrorKind::Server
        } else {
            ErrorKind::from_status(head.status)
        },
        message: String::new(),
        code: None,
        param: None,
        retry_after_s: head.retry_after_s,
    };
    let read = Reader::new(body).and_then(|mut reader| error_body(&mut reader, &mut error));
    if read.is_err() && error.message.is_empty() {
        error.message = format!("The provider answered {} without a readable message.", head.status);
    }
    error
}

/// `{"error":{…}}`; inside a 200 stream its `type` gives the status.
fn error_body(reader: &mut Reader<'_>, error: &mut UpstreamError) -> Result<(), JsonError> {
    let mut found = false;
    reader.object("an error")?;
    while let Some(key) = reader.key()? {
        match (&*key, reader.kind()?) {
            ("error", Kind::Object) => {
                found = true;
                error_object(reader, error)?;
            }
            ("message", Kind::String) if !found => {
                found = true;
                error.message = reader.word()?.into_owned();
            }
            _ => reader.skip()?,
        }
    }
    if found {
        Ok(())
    } else {
        Err(JsonError::Expected("an error"))
    }
}

fn error_object(reader: &mut Reader<'_>, error: &mut UpstreamError) -> Result<(), JsonError> {
    reader.object("an error")?;
    while let Some(key) = reader.key()? {
        match (&*key, reader.kind()?) {
            ("type", Kind::String) => error.code = Some(reader.word()?.into_owned()),
            ("message", Kind::String) => error.message = reader.word()?.into_owned(),
            _ => reader.skip()?,
        }
    }
    let kind = match error.code.as_deref() {
        Some("invalid_request_error") if too_long(&error.message) => Some(ErrorKind::ContextLength),
        Some("invalid_request_error") => Some(ErrorKind::InvalidRequest),
        Some("authentication_error") => Some(ErrorKind::Authentication),
        Some("billing_error") => Some(ErrorKind::Billing),
        Some("permission_error") => Some(ErrorKind::Permission),
        Some("not_found_error") => Some(ErrorKind::NotFound),
        Some("request_too_large") => Some(ErrorKind::TooLarge),
        Some("rate_limit_error") => Some(ErrorKind::RateLimit),
        Some("timeout_error") => Some(ErrorKind::Timeout),
        Some("overloaded_error") => Some(ErrorKind::Overloaded),
        _ => None,
    };
    if let Some(kind) = kind {
        error.kind = kind;
    }
    if error.status < 400 {
        error.status = error.kind.status();
    }
    Ok(())
}

/// Anthropic has no code for a conversation that is too long, only these words.
fn too_long(message: &str) -> bool {
    message.starts_with("prompt is too long") || message.contains("exceed context limit")
}

/// Appends `{"type":"error","error":{…}}` for an error of a provider; the status is [`UpstreamError::client_status`].
pub fn write_error(error: &UpstreamError, out: &mut Out) {
    let kind = match error.kind {
        ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing | ErrorKind::Server => "api_error",
        ErrorKind::Overloaded => "overloaded_error",
        kind => anthropic_kind(kind.status()),
    };
    out.token("{\"type\":\"error\",\"error\":{\"type\":")
        .string(kind)
        .key("message")
        .string(error.client_message())
        .token("}}");
}

/// Appends `{"type":"error","error":{…}}` for an error of the gateway's own.
pub fn write_own_error(error: &ApiError, out: &mut Out) {
    error.write_anthropic(&mut out.buf);
}

/// Reads `usage` objects, of which each is cumulative and leaves out what has not changed.
#[derive(Debug, Default)]
pub struct UsageReader {
    usage: response::WireUsage,
    tier: Option<ServiceTier>,
}

impl UsageReader {
    /// What all objects so far say.
    pub fn read(&mut self, object: &[u8]) -> Option<Usage> {
        let tier = self.usage.update(&mut Reader::new(object).ok()?).ok()?;
        self.tier = tier
            .and_then(|tier| ServiceTier::new(tier.as_json().as_bytes()))
            .or(self.tier);
        Some(self.usage.usage())
    }

    /// The tier that they name.
    pub fn tier(&self) -> Option<ServiceTier> {
        self.tier
    }
}
