//! Amazon Bedrock's Converse and ConverseStream
//! (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>).
//!
//! Invariants: the model is in the path, percent-encoded, never in the body; streams are AWS event-stream messages whose
//! CRCs are checked; an exception inside a 200 stream is an error. Deliberately absent: credentials ([`crate::sigv4`]), and
//! `InvokeModel`, whose bodies are the models' own.

mod citations;
mod content;
mod error;
mod request;
mod response;
mod stream;

use std::borrow::Cow;

pub use error::{error_type, own_error_type, parse_error, write_error, write_own_error};
pub use request::{parse_request, write_request};
pub use response::{parse_response, write_response};
pub use stream::{StreamDecoder, StreamEncoder};

use crate::chat::{Reader, Usage};
use crate::provider::Target;

/// Appends the path of the request target: `/model/{id}/converse` or `…/converse-stream`.
pub fn request_path(target: &Target<'_>, stream: bool, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(b"/model/");
    for byte in target.model.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            _ => out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
    out.extend_from_slice(if stream { b"/converse-stream" } else { b"/converse" });
}

/// Fields that every request carries beside `content-type` and the credential: none.
pub const fn request_headers() -> &'static [(&'static str, &'static str)] {
    &[]
}

/// The model and whether to stream, from the path of a client's request without its query; `None` if it is not one of the two operations.
/// The model comes percent-decoded; an ARN may also come with its slash as it is.
pub fn parse_path(path: &str) -> Option<(Cow<'_, str>, bool)> {
    let rest = path.strip_prefix("/model/")?;
    let (model, operation) = rest.rsplit_once('/')?;
    let stream = match operation {
        "converse" => false,
        "converse-stream" => true,
        _ => return None,
    };
    let model = percent_decoded(model)?;
    (!model.is_empty()).then_some((model, stream))
}

fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            decoded.push((high << 4 | low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// Whose model it is: what it takes beside Converse's common fields depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Anthropic's. Also an ARN that does not tell: application inference profiles are mostly Claude's, and the quirk
    /// `thinking` can say otherwise.
    Claude,
    /// Amazon's Nova.
    Nova,
    /// OpenAI's open-weight models.
    GptOss,
    /// Any other.
    Other,
}

impl Family {
    fn of(target: &Target<'_>) -> Self {
        let model = target.model;
        if model.contains("anthropic.") || model.contains("claude") {
            Self::Claude
        } else if model.contains("amazon.nova") {
            Self::Nova
        } else if model.contains("openai.") || model.contains("gpt-oss") {
            Self::GptOss
        } else if model.starts_with("arn:") && !model.contains(":foundation-model/") {
            Self::Claude
        } else {
            Self::Other
        }
    }

    /// Whether prompts can be cached; the others refuse a cache point.
    fn caches(self) -> bool {
        matches!(self, Self::Claude | Self::Nova)
    }
}

/// Reads `usage` objects; there is one.
#[derive(Debug, Default)]
pub struct UsageReader(());

impl UsageReader {
    /// What the object says.
    pub fn read(&mut self, object: &[u8]) -> Option<Usage> {
        response::parse_usage(&mut Reader::new(object).ok()?).ok()
    }
}

#[cfg(test)]
mod tests;
