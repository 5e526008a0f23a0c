//! The providers' dialects, each translated to and from the chat model: the only place that chooses code by dialect.
//!
//! Every module below has the same items in the same order:
//! ```text
//! request_path(&Target, stream: bool, out: &mut Vec<u8>)           request_headers() -> &'static [(&str, &str)]
//! parse_request(body: &'a [u8], &Ingress) -> Result<ChatRequest<'a>, ApiError>
//! write_request(&ChatRequest, &Target, &mut Out, &mut Notes) -> Result<(), ApiError>
//! parse_response(body: &'a [u8]) -> Result<ChatResponse<'a>, ApiError>
//! write_response(&ChatResponse, &Reply, &mut Out)
//! parse_error(&ErrorHead, body: &[u8]) -> UpstreamError
//! write_error(&UpstreamError, &mut Out)                            write_own_error(&ApiError, &mut Out)
//! StreamDecoder::new()  .push(&mut self, &[u8], Sink) -> Result<(), ApiError>  .finish(&mut self, Sink) -> StreamEnd
//! StreamEncoder::new(&Reply)  .push(&mut self, &ChatEvent, &mut Out)  .interrupt(&mut self, &ApiError, &mut Out)
//! ```
//! Invariants: a translation is parse, then write, with nothing in between; nothing here keeps a byte of a
//! body. Deliberately absent: same-dialect traffic, which is spliced and never translated, and credentials.

pub mod anthropic;
pub mod bedrock;
mod fields;
mod lines;
pub mod openai;

use crate::chat::{ChatEvent, ToolIdRule};

/// What a client's request line says of its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ingress<'p> {
    /// The model, where the path names it (Bedrock), percent-decoded.
    pub path_model: Option<&'p str>,
    /// Whether the path asks for a stream (Bedrock).
    pub path_stream: bool,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The provider's own name of the model; must need no JSON escaping.
    pub model: &'t str,
    /// Tokens to generate at most, where the dialect demands a number and the client gave none.
    pub max_tokens_default: u32,
    /// What this vendor or model does differently.
    pub quirks: Quirks,
}

/// What a vendor or a model does differently from its dialect's first provider. All `false` is OpenAI, Anthropic or
/// Bedrock itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// Takes `max_tokens`, not `max_completion_tokens`.
    pub max_tokens: bool,
    /// Does not know the role `developer`.
    pub no_developer: bool,
    /// Does not know `stream_options` (it sends usage unasked).
    pub no_stream_options: bool,
    /// Takes `top_k`.
    pub top_k: bool,
    /// Takes `cache_control` markers.
    pub cache_control: bool,
    /// Takes reasoning back in messages: `reasoning_content` and `reasoning_details`.
    pub reasoning: bool,
    /// Takes `video_url` parts.
    pub video_url: bool,
    /// Which tool-call ids it accepts.
    pub tool_ids: ToolIdRule,
    /// How the model is told to think.
    pub thinking: ThinkingStyle,
}

/// How a Claude model is told to think, and what it takes besides
/// (<https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkingStyle {
    /// Judged by the model's name, see `anthropic::thinking_style`.
    #[default]
    ByModel,
    /// `thinking.budget_tokens`; no effort.
    Budget,
    /// `thinking: adaptive` and `output_config.effort`; sampling parameters unless it thinks.
    Adaptive,
    /// As `Adaptive`, and no sampling parameters at all.
    AdaptiveOnly,
}

/// What a written answer must say of itself.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'r> {
    /// The model's name for the client: the one that it asked for.
    pub model: &'r str,
    /// An id for the answer, where the provider gave none; must need no JSON escaping.
    pub id: &'r str,
    /// Seconds since the epoch, where the provider did not say.
    pub created: u64,
    /// Whether the client asked for usage at the end of a stream (OpenAI; the others always send it).
    pub include_usage: bool,
}

/// What came in front of an error's body.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorHead<'h> {
    /// The status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// `x-amzn-ErrorType` (Bedrock).
    pub error_type: Option<&'h str>,
}

/// Receives the events of a stream.
pub type Sink<'s> = &'s mut dyn FnMut(ChatEvent<'_>);
