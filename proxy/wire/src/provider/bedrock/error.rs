//! Bedrock's errors: a status, `x-amzn-ErrorType`, and `{"message"}`
//! (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_Errors>).
//!
//! Invariant: one table maps exceptions, for whole answers and inside streams alike. Deliberately absent: what a client does with
//! an error.

use crate::chat::{ErrorKind, JsonError, Kind, Out, Reader, UpstreamError};
use crate::error::ApiError;
use crate::provider::ErrorHead;

/// (exception without its `Exception`, kind, status).
const EXCEPTIONS: &[(&str, ErrorKind, u16)] = &[
    ("Validation", ErrorKind::InvalidRequest, 400),
    ("Throttling", ErrorKind::RateLimit, 429),
    ("TooManyRequests", ErrorKind::RateLimit, 429),
    ("ServiceQuotaExceeded", ErrorKind::RateLimit, 429),
    ("ServiceUnavailable", ErrorKind::Overloaded, 503),
    ("ModelNotReady", ErrorKind::Overloaded, 429),
    ("InternalServer", ErrorKind::Server, 500),
    ("InternalFailure", ErrorKind::Server, 500),
    ("ModelError", ErrorKind::Server, 424),
    ("ModelStreamError", ErrorKind::Server, 424),
    ("ModelTimeout", ErrorKind::Timeout, 408),
    ("ResourceNotFound", ErrorKind::NotFound, 404),
    ("UnknownOperation", ErrorKind::NotFound, 404),
    ("AccessDenied", ErrorKind::Permission, 403),
    ("UnrecognizedClient", ErrorKind::Authentication, 403),
    ("InvalidSignature", ErrorKind::Authentication, 403),
    ("IncompleteSignature", ErrorKind::Authentication, 403),
    ("MissingAuthenticationToken", ErrorKind::Authentication, 403),
    ("InvalidClientTokenId", ErrorKind::Authentication, 403),
    ("ExpiredToken", ErrorKind::Authentication, 403),
    ("NotAuthorized", ErrorKind::Permission, 403),
    ("RequestExpired", ErrorKind::Authentication, 400),
];

/// Reads a whole error answer; never fails, for an error that cannot be read is an error still.
pub fn parse_error(head: &ErrorHead<'_>, body: &[u8]) -> UpstreamError {
    let said = Said::read(body).unwrap_or_default();
    let code = head.error_type.map(str::to_owned).or(said.code);
    let mut error = from_exception(code.as_deref().unwrap_or_default(), said.message, None);
    error.retry_after_s = head.retry_after_s;
    if error.code.is_none() {
        error.kind = match head.status {
            424 => ErrorKind::Server,
            status => ErrorKind::from_status(status),
        };
        refine(&mut error);
    }
    error.status = head.status;
    error
}

/// Reads an exception inside a stream.
pub(super) fn parse_exception(name: &str, payload: &[u8], message: &str) -> UpstreamError {
    let said = Said::read(payload).unwrap_or_default();
    let message = if said.message.is_empty() {
        message.to_owned()
    } else {
        said.message
    };
    from_exception(name, message, said.original_status)
}

/// Appends `{"message":…}` for an error of a provider's.
pub fn write_error(error: &UpstreamError, out: &mut Out) {
    write_message(error.client_message(), out);
}

/// Appends `{"message":…}` for an error of the gateway's own.
pub fn write_own_error(error: &ApiError, out: &mut Out) {
    write_message(&error.message, out);
}

/// The value of `x-amzn-ErrorType` for an error of a provider's: SDKs choose their exception class by it.
pub fn error_type(error: &UpstreamError) -> &'static str {
    match error.kind {
        ErrorKind::InvalidRequest | ErrorKind::ContextLength | ErrorKind::ContentPolicy | ErrorKind::TooLarge => {
            "ValidationException"
        }
        ErrorKind::NotFound => "ResourceNotFoundException",
        ErrorKind::RateLimit => "ThrottlingException",
        ErrorKind::Overloaded => "ServiceUnavailableException",
        ErrorKind::Timeout => "ModelTimeoutException",
        ErrorKind::Server | ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing => {
            "InternalServerException"
        }
    }
}

/// The value of `x-amzn-ErrorType` for an error of the gateway's own.
pub fn own_error_type(error: &ApiError) -> &'static str {
    match error.status() {
        401 => "UnrecognizedClientException",
        402 => "ServiceQuotaExceededException",
        403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        408 | 504 => "ModelTimeoutException",
        429 => "ThrottlingException",
        503 => "ServiceUnavailableException",
        400..=499 => "ValidationException",
        _ => "InternalServerException",
    }
}

/// The exception that stands for an error inside a stream, of the five that ConverseStream has.
pub(super) fn stream_exception(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::RateLimit => "throttlingException",
        ErrorKind::Overloaded => "serviceUnavailableException",
        ErrorKind::Timeout => "modelStreamErrorException",
        ErrorKind::Server | ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Billing => {
            "internalServerException"
        }
        _ => "validationException",
    }
}

pub(super) fn write_message(message: &str, out: &mut Out) {
    out.token("{\"message\":").string(message).token("}");
}

/// `name` may come as `ThrottlingException`, `throttlingException`, `com.amazon…#ThrottlingException` or with a `:` and
/// an address behind it.
fn from_exception(name: &str, message: String, original_status: Option<u16>) -> UpstreamError {
    let name = name.split(':').next().unwrap_or_default();
    let name = name.rsplit('#').next().unwrap_or_default().trim();
    let stem = name.strip_suffix("Exception").unwrap_or(name);
    let known = EXCEPTIONS
        .iter()
        .find(|(exception, ..)| exception.eq_ignore_ascii_case(stem));
    let (kind, status) = match (known, original_status) {
        // The status of the model's own server says more than that it failed.
        (Some((_, ErrorKind::Server, 424)), Some(status @ (429 | 503 | 529))) => {
            (ErrorKind::from_status(status), status)
        }
        (Some((_, kind, status)), _) => (*kind, *status),
        (None, _) => (ErrorKind::Server, 500),
    };
    let mut error = UpstreamError {
        status,
        kind,
        message,
        code: (!name.is_empty()).then(|| name.to_owned()),
        param: None,
        retry_after_s: None,
    };
    refine(&mut error);
    error
}

/// Bedrock says `ValidationException` to much that routing must tell apart; only the message does.
fn refine(error: &mut UpstreamError) {
    const CONTEXT: &[&str] = &[
        "too long",
        "too many input tokens",
        "context length",
        "context limit",
        "maximum number of tokens",
        "context window",
    ];
    const MODEL: &[&str] = &["model identifier is invalid", "could not resolve the foundation model"];
    let message = error.message.to_ascii_lowercase();
    let says = |needles: &[&str]| needles.iter().any(|needle| message.contains(needle));
    if error.kind == ErrorKind::InvalidRequest && says(CONTEXT) {
        error.kind = ErrorKind::ContextLength;
    } else if error.kind == ErrorKind::InvalidRequest && says(MODEL) {
        error.kind = ErrorKind::NotFound;
    }
}

#[derive(Default)]
struct Said {
    message: String,
    code: Option<String>,
    original_status: Option<u16>,
}

impl Said {
    fn read(body: &[u8]) -> Result<Self, JsonError> {
        let mut said = Self::default();
        let mut reader = Reader::new(body)?;
        reader.object("an object")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("message" | "Message", Kind::String) => said.message = reader.word()?.into_owned(),
                ("originalMessage", Kind::String) if said.message.is_empty() => {
                    said.message = reader.word()?.into_owned()
                }
                ("__type" | "code", Kind::String) => said.code = Some(reader.word()?.into_owned()),
                ("originalStatusCode", Kind::Number) => {
                    said.original_status = reader.whole_or_null()?.and_then(|status| u16::try_from(status).ok());
                }
                _ => reader.skip()?,
            }
        }
        Ok(said)
    }
}
