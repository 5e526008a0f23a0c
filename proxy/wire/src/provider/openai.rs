//! OpenAI Chat Completions, and every vendor that is compatible with it.
//!
//! Invariant: the same items in the same order as every other dialect, see [`crate::provider`]. Deliberately absent: vendors;
//! what they do differently is [`crate::provider::Quirks`].

mod request;
mod response;
mod stream;
mod usage;

pub use request::{parse_request, write_request};
pub use response::{parse_response, write_response};
pub use stream::{StreamDecoder, StreamEncoder};

use crate::chat::{ErrorKind, JsonError, Kind, Out, Reader, UpstreamError, Usage};
use crate::error::{ApiError, write_string};
use crate::provider::{ErrorHead, Target};

/// The path behind the vendor's base URL, which holds the version.
pub fn request_path(_: &Target<'_>, _: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"/chat/completions");
}

/// No header fields beyond credentials and framing.
pub fn request_headers() -> &'static [(&'static str, &'static str)] {
    &[]
}

/// Reads an error answer of any form: `{"error":{…}}`, `{"error":"…"}`, `{"message":…}`, `{"detail":…}`, or not JSON at all.
pub fn parse_error(head: &ErrorHead<'_>, body: &[u8]) -> UpstreamError {
    let mut error = UpstreamError {
        status: head.status,
        kind: ErrorKind::from_status(head.status),
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

fn error_body(reader: &mut Reader<'_>, error: &mut UpstreamError) -> Result<(), JsonError> {
    let (mut code, mut kind) = (None, None);
    reader.object("an error")?;
    while let Some(key) = reader.key()? {
        match (&*key, reader.kind()?) {
            ("error", Kind::Object) => return error_object(reader, error),
            ("error" | "message" | "detail", _) => {
                error.message = response::said(reader)?.unwrap_or_default().into_owned()
            }
            ("code", _) => code = response::said(reader)?,
            ("type", _) => kind = response::said(reader)?,
            _ => reader.skip()?,
        }
    }
    classify(error, code.as_deref(), kind.as_deref());
    Ok(())
}

/// The inside of `{"error":{…}}`, which a stream may carry too.
fn error_object(reader: &mut Reader<'_>, error: &mut UpstreamError) -> Result<(), JsonError> {
    let (mut code, mut kind) = (None, None);
    reader.object("an error")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "message" => error.message = response::said(reader)?.unwrap_or_default().into_owned(),
            "code" => code = response::said(reader)?,
            "type" => kind = response::said(reader)?,
            "param" => error.param = response::said(reader)?.map(|param| param.into_owned()),
            "status_code" if error.status == 200 => {
                error.status = reader
                    .whole_or_null()?
                    .and_then(|status| u16::try_from(status).ok())
                    .unwrap_or(200);
            }
            _ => reader.skip()?,
        }
    }
    classify(error, code.as_deref(), kind.as_deref());
    Ok(())
}

/// Sharpens the kind that the status gave by the vendor's own words; inside a 200 stream they are all there is.
fn classify(error: &mut UpstreamError, code: Option<&str>, kind: Option<&str>) {
    if error.status == 200 {
        let number = code
            .and_then(|code| code.parse::<u16>().ok())
            .filter(|status| (400..600).contains(status));
        error.kind = match (number, kind) {
            (Some(status), _) => ErrorKind::from_status(status),
            (None, Some("invalid_request_error")) => ErrorKind::InvalidRequest,
            (None, Some("rate_limit_error" | "rate_limit_exceeded" | "tokens" | "requests")) => ErrorKind::RateLimit,
            (None, Some("authentication_error")) => ErrorKind::Authentication,
            _ => ErrorKind::Server,
        };
        error.status = number.unwrap_or(error.kind.status());
    } else if error.status < 400 {
        error.kind = ErrorKind::Server;
    } else {
        error.kind = ErrorKind::from_status(error.status);
    }
    match code {
        Some("context_length_exceeded") => error.kind = ErrorKind::ContextLength,
        Some("content_policy_violation" | "content_filter" | "moderation_blocked") => {
            error.kind = ErrorKind::ContentPolicy
        }
        Some("insufficient_quota") => error.kind = ErrorKind::Billing,
        Some("rate_limit_exceeded") => error.kind = ErrorKind::RateLimit,
        _ => {}
    }
    error.code = code.or(kind).map(str::to_owned);
}

/// Appends `{"error":{…}}` for an error of a provider; the status is [`UpstreamError::client_status`].
pub fn write_error(error: &UpstreamError, out: &mut Out) {
    let (kind, code) = match error.kind {
        ErrorKind::InvalidRequest => ("invalid_request_error", error.code.as_deref()),
        ErrorKind::TooLarge => ("invalid_request_error", Some("request_too_large")),
        ErrorKind::ContextLength => ("invalid_request_error", Some("context_length_exceeded")),
        ErrorKind::ContentPolicy => ("invalid_request_error", Some("content_policy_violation")),
        ErrorKind::NotFound => ("invalid_request_error", Some("model_not_found")),
        ErrorKind::RateLimit => ("rate_limit_error", Some("rate_limit_exceeded")),
        ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing => {
            ("server_error", Some("upstream_auth"))
        }
        ErrorKind::Overloaded | ErrorKind::Timeout | ErrorKind::Server => ("server_error", error.code.as_deref()),
    };
    out.token("{\"error\":{\"message\":")
        .string(error.client_message())
        .key("type")
        .string(kind)
        .key("param");
    match &error.param {
        Some(param) => out.string(param),
        None => out.token("null"),
    };
    out.key("code");
    match code {
        Some(code) => write_string(code, &mut out.buf),
        None => out.token("null").done(),
    }
    out.token("}}");
}

/// Appends `{"error":{…}}` for an error of the gateway's own.
pub fn write_own_error(error: &ApiError, out: &mut Out) {
    error.write_openai(&mut out.buf);
}

/// Reads `usage` objects; the last one counts.
#[derive(Debug, Default)]
pub struct UsageReader(());

impl UsageReader {
    /// What the object says.
    pub fn read(&mut self, object: &[u8]) -> Option<Usage> {
        usage::usage(&mut Reader::new(object).ok()?).ok()?
    }

    /// What the object at the begin of `bytes` says, and its length, if it is as plain as such objects nearly always are.
    pub fn read_plain(&mut self, bytes: &[u8]) -> Option<(Usage, usize)> {
        usage::plain(bytes)
    }
}
