//! The dialects a chat answer can be spelled in, behind one set of functions.
//!
//! Each dialect module has the same items: `unary`, `event`, `error`. A dialect that has no spelling for an event appends nothing,
//! and the event then does not count.

pub mod anthropic;
pub mod bedrock;
pub mod openai;
pub mod responses;

use crate::sim::answer::{Answer, Event};

/// How a chat answer and its errors are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI legacy completions.
    Completions,
    /// OpenAI responses.
    Responses,
    /// Anthropic messages.
    Anthropic,
    /// Amazon Bedrock Converse.
    Bedrock,
}

impl Dialect {
    /// Appends the body of a unary answer.
    pub fn unary(self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Chat => openai::unary(answer, out),
            Self::Completions => openai::unary_completion(answer, out),
            Self::Responses => responses::unary(answer, out),
            Self::Anthropic => anthropic::unary(answer, out),
            Self::Bedrock => bedrock::unary(answer, out),
        }
    }

    /// Appends one event of a stream; `sequence` counts the events that carry a number.
    pub fn event(self, answer: &Answer<'_>, event: Event, sequence: &mut u32, out: &mut Vec<u8>) {
        match self {
            Self::Chat => openai::event(answer, event, out),
            Self::Completions => openai::event_completion(answer, event, out),
            Self::Responses => responses::event(answer, event, sequence, out),
            Self::Anthropic => anthropic::event(answer, event, out),
            Self::Bedrock => bedrock::event(answer, event, out),
        }
    }

    /// Appends the body of an error. `code` is the scripted code or type, `None` the status's usual one.
    pub fn error(self, status: u16, code: Option<&str>, message: &str, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::Completions | Self::Responses => openai::error(status, code, message, out),
            Self::Anthropic => anthropic::error(status, code, message, out),
            Self::Bedrock => bedrock::error(message, out),
        }
    }

    /// The content type of a stream.
    #[must_use]
    pub fn stream_type(self) -> &'static str {
        match self {
            Self::Bedrock => "application/vnd.amazon.eventstream",
            _ => "text/event-stream; charset=utf-8",
        }
    }

    /// Appends an event that is well framed but not what it says: cut-off JSON; with `bad_crc`, in an event-stream, a frame whose
    /// checksum is wrong.
    pub fn garbage(self, bad_crc: bool, out: &mut Vec<u8>) {
        match self {
            Self::Bedrock => bedrock::garbage(bad_crc, out),
            Self::Anthropic => out.extend_from_slice(
                b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"del\n\n",
            ),
            _ => out.extend_from_slice(
                b"data: {\"id\":\"chatcmpl-garbled\",\"object\":\"chat.completion.chunk\",\"choi\n\n",
            ),
        }
    }
}

/// The usual message of an error with `status`.
#[must_use]
pub fn message(status: u16) -> &'static str {
    match status {
        400 => "The simulator was told to reject this request.",
        401 => "Incorrect API key provided. You can find your API key in your account settings.",
        402 => "Your credit balance is too low.",
        403 => "Your key does not have permission to use this model.",
        404 => "The model does not exist or you do not have access to it.",
        408 => "The request timed out.",
        413 => "Request exceeds the maximum allowed number of bytes.",
        429 => "Rate limit reached for requests. Please try again later.",
        500 => "The server had an error while processing your request. Sorry about that!",
        503 => "The service is temporarily unavailable.",
        529 => "Overloaded",
        _ => "The simulator was told to answer with this status.",
    }
}
