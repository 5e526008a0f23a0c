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
//! UsageReader::default()  .read(&mut self, object: &[u8]) -> Option<Usage>
//! ```
//! Invariants: a translation is parse, then write, with nothing in between; nothing here keeps a byte of a
//! body. Deliberately absent: same-dialect traffic, which is spliced and never translated, and credentials.

pub mod anthropic;
pub mod bedrock;
mod fields;
mod joint;
pub mod openai;

use self::joint::Joint;
use crate::chat::{
    ChatEvent, ChatRequest, ChatResponse, Notes, Out, ServiceTier, StreamEnd, ToolIdRule, UpstreamError, Usage,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::eventstream;

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

/// The path of a chat request, behind the provider's base URL.
pub fn request_path(dialect: Dialect, target: &Target<'_>, stream: bool, out: &mut Vec<u8>) {
    match dialect {
        Dialect::OpenAi => openai::request_path(target, stream, out),
        Dialect::Anthropic => anthropic::request_path(target, stream, out),
        Dialect::Bedrock => bedrock::request_path(target, stream, out),
    }
}

/// Header fields that the dialect demands, credentials and framing apart.
pub fn request_headers(dialect: Dialect) -> &'static [(&'static str, &'static str)] {
    match dialect {
        Dialect::OpenAi => openai::request_headers(),
        Dialect::Anthropic => anthropic::request_headers(),
        Dialect::Bedrock => bedrock::request_headers(),
    }
}

/// The `Content-Type` of its streams.
pub const fn stream_content_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi | Dialect::Anthropic => "text/event-stream; charset=utf-8",
        Dialect::Bedrock => "application/vnd.amazon.eventstream",
    }
}

/// Bytes of the first event of a stored stream, 1 at least: up to its end, or all there is.
pub fn event_bytes(dialect: Dialect, stream: &[u8]) -> usize {
    let end = match dialect {
        Dialect::OpenAi | Dialect::Anthropic => memchr::memmem::find(stream, b"\n\n").map(|at| at + 2),
        Dialect::Bedrock => eventstream::stated_bytes(stream),
    };
    end.unwrap_or(stream.len()).clamp(1, stream.len().max(1))
}

/// Whether its streams say what was used without being asked.
pub const fn streams_usage_unasked(dialect: Dialect) -> bool {
    !matches!(dialect, Dialect::OpenAi)
}

/// The field in which the dialect's SDK looks for a request's id, if not in `x-request-id`
/// (<https://docs.anthropic.com/en/api/errors#request-id>; `ResponseMetadata.RequestId` of the AWS SDKs).
pub const fn request_id_field(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::OpenAi => None,
        Dialect::Anthropic => Some("request-id"),
        Dialect::Bedrock => Some("x-amzn-requestid"),
    }
}

/// Reads a client's request. Errors are 400s.
pub fn parse_request<'a>(dialect: Dialect, body: &'a [u8], ingress: &Ingress<'_>) -> Result<ChatRequest<'a>, ApiError> {
    match dialect {
        Dialect::OpenAi => openai::parse_request(body, ingress),
        Dialect::Anthropic => anthropic::parse_request(body, ingress),
        Dialect::Bedrock => bedrock::parse_request(body, ingress),
    }
}

/// Appends a request for a provider. An error is a 400 that names what the dialect cannot express.
pub fn write_request(
    dialect: Dialect,
    request: &ChatRequest<'_>,
    target: &Target<'_>,
    out: &mut Out,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    match dialect {
        Dialect::OpenAi => openai::write_request(request, target, out, notes),
        Dialect::Anthropic => anthropic::write_request(request, target, out, notes),
        Dialect::Bedrock => bedrock::write_request(request, target, out, notes),
    }
}

/// Reads a provider's answer. Errors are `upstream_protocol_error`.
pub fn parse_response(dialect: Dialect, body: &[u8]) -> Result<ChatResponse<'_>, ApiError> {
    match dialect {
        Dialect::OpenAi => openai::parse_response(body),
        Dialect::Anthropic => anthropic::parse_response(body),
        Dialect::Bedrock => bedrock::parse_response(body),
    }
}

/// Appends an answer for a client.
pub fn write_response(dialect: Dialect, response: &ChatResponse<'_>, reply: &Reply<'_>, out: &mut Out) {
    match dialect {
        Dialect::OpenAi => openai::write_response(response, reply, out),
        Dialect::Anthropic => anthropic::write_response(response, reply, out),
        Dialect::Bedrock => bedrock::write_response(response, reply, out),
    }
}

/// Reads a provider's error, whatever its body holds.
pub fn parse_error(dialect: Dialect, head: &ErrorHead<'_>, body: &[u8]) -> UpstreamError {
    match dialect {
        Dialect::OpenAi => openai::parse_error(head, body),
        Dialect::Anthropic => anthropic::parse_error(head, body),
        Dialect::Bedrock => bedrock::parse_error(head, body),
    }
}

/// Appends a provider's error for a client; the status is [`UpstreamError::client_status`].
pub fn write_error(dialect: Dialect, error: &UpstreamError, out: &mut Out) {
    match dialect {
        Dialect::OpenAi => openai::write_error(error, out),
        Dialect::Anthropic => anthropic::write_error(error, out),
        Dialect::Bedrock => bedrock::write_error(error, out),
    }
}

/// Appends an error of the gateway's own for a client; the status is [`ApiError::status`].
pub fn write_own_error(dialect: Dialect, error: &ApiError, out: &mut Out) {
    match dialect {
        Dialect::OpenAi => openai::write_own_error(error, out),
        Dialect::Anthropic => anthropic::write_own_error(error, out),
        Dialect::Bedrock => bedrock::write_own_error(error, out),
    }
}

/// Whether models of that dialect commonly go on with the beginning of an answer that they are given as a last message of the
/// assistant's. Vendors of OpenAI's dialect that do have switches of their own for it.
pub fn takes_beginnings(dialect: Dialect, model: &str) -> bool {
    match dialect {
        Dialect::OpenAi => false,
        Dialect::Anthropic => true,
        Dialect::Bedrock => model.contains("claude"),
    }
}

/// The header field that an answer with a provider's error carries beside its body, if the dialect has one.
pub fn error_field(dialect: Dialect, error: &UpstreamError) -> Option<(&'static str, &'static str)> {
    (dialect == Dialect::Bedrock).then(|| ("x-amzn-errortype", bedrock::error_type(error)))
}

/// The same for an error of the gateway's own.
pub fn own_error_field(dialect: Dialect, error: &ApiError) -> Option<(&'static str, &'static str)> {
    (dialect == Dialect::Bedrock).then(|| ("x-amzn-errortype", bedrock::own_error_type(error)))
}

/// Reads a provider's stream.
#[derive(Debug)]
pub enum StreamDecoder {
    /// Of chat completion chunks.
    OpenAi(openai::StreamDecoder),
    /// Of message events.
    Anthropic(anthropic::StreamDecoder),
    /// Of Converse events.
    Bedrock(bedrock::StreamDecoder),
}

impl StreamDecoder {
    /// At the start of a stream.
    pub fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::StreamDecoder::new()),
            Dialect::Anthropic => Self::Anthropic(anthropic::StreamDecoder::new()),
            Dialect::Bedrock => Self::Bedrock(bedrock::StreamDecoder::new()),
        }
    }

    /// Reads the next bytes, in pieces of any size. An error means that this is no stream of the dialect: nothing more of it
    /// can be trusted.
    pub fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), ApiError> {
        match self {
            Self::OpenAi(decoder) => decoder.push(bytes, sink),
            Self::Anthropic(decoder) => decoder.push(bytes, sink),
            Self::Bedrock(decoder) => decoder.push(bytes, sink),
        }
    }

    /// The connection is at its end.
    pub fn finish(&mut self, sink: Sink<'_>) -> StreamEnd {
        match self {
            Self::OpenAi(decoder) => decoder.finish(sink),
            Self::Anthropic(decoder) => decoder.finish(sink),
            Self::Bedrock(decoder) => decoder.finish(sink),
        }
    }

    /// Events that could not be read and were skipped.
    pub fn malformed(&self) -> u32 {
        match self {
            Self::OpenAi(decoder) => decoder.malformed(),
            Self::Anthropic(decoder) => decoder.malformed(),
            Self::Bedrock(decoder) => decoder.malformed(),
        }
    }
}

/// Reads the `usage` objects of one answer, which a stream may send in parts.
#[derive(Debug)]
pub enum UsageReader {
    /// Of chat completions, and of OpenAI's other interfaces.
    OpenAi(openai::UsageReader),
    /// Of messages.
    Anthropic(anthropic::UsageReader),
    /// Of Converse.
    Bedrock(bedrock::UsageReader),
}

impl UsageReader {
    /// Before the first object.
    pub fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::UsageReader::default()),
            Dialect::Anthropic => Self::Anthropic(anthropic::UsageReader::default()),
            Dialect::Bedrock => Self::Bedrock(bedrock::UsageReader::default()),
        }
    }

    /// All that is known with the next object; `None` if it is not one.
    pub fn read(&mut self, object: &[u8]) -> Option<Usage> {
        match self {
            Self::OpenAi(reader) => reader.read(object),
            Self::Anthropic(reader) => reader.read(object),
            Self::Bedrock(reader) => reader.read(object),
        }
    }

    /// The same of an object at the begin of `bytes`, and the object's length, if it is plain enough to be read in one go.
    pub fn read_plain(&mut self, bytes: &[u8]) -> Option<(Usage, usize)> {
        match self {
            Self::OpenAi(reader) => reader.read_plain(bytes),
            Self::Anthropic(_) | Self::Bedrock(_) => None,
        }
    }

    /// The tier of processing that the objects so far name, if they do.
    pub fn tier(&self) -> Option<ServiceTier> {
        match self {
            Self::Anthropic(reader) => reader.tier(),
            Self::OpenAi(_) | Self::Bedrock(_) => None,
        }
    }
}

/// Writes a client's stream.
#[derive(Debug)]
pub enum StreamEncoder {
    /// Of chat completion chunks.
    OpenAi(openai::StreamEncoder),
    /// Of message events.
    Anthropic(anthropic::StreamEncoder),
    /// Of Converse events.
    Bedrock(bedrock::StreamEncoder),
}

impl StreamEncoder {
    /// For one answer.
    pub fn new(dialect: Dialect, reply: &Reply<'_>) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::StreamEncoder::new(reply)),
            Dialect::Anthropic => Self::Anthropic(anthropic::StreamEncoder::new(reply)),
            Dialect::Bedrock => Self::Bedrock(bedrock::StreamEncoder::new(reply)),
        }
    }

    /// Appends what `event` becomes; nothing behind the end.
    pub fn push(&mut self, event: &ChatEvent<'_>, out: &mut Out) {
        match self {
            Self::OpenAi(encoder) => encoder.push(event, out),
            Self::Anthropic(encoder) => encoder.push(event, out),
            Self::Bedrock(encoder) => encoder.push(event, out),
        }
    }

    /// The provider's stream was cut: appends one error event, and no end.
    pub fn interrupt(&mut self, error: &ApiError, out: &mut Out) {
        match self {
            Self::OpenAi(encoder) => encoder.interrupt(error, out),
            Self::Anthropic(encoder) => encoder.interrupt(error, out),
            Self::Bedrock(encoder) => encoder.interrupt(error, out),
        }
    }
}

/// A provider's stream into a client's: decoder, encoder, and what the gateway needs to know of it.
#[derive(Debug)]
pub struct Transcoder {
    decoder: StreamDecoder,
    encoder: StreamEncoder,
    usage: Option<Usage>,
    output: bool,
    error: Option<UpstreamError>,
    /// If the stream may have to be continued by another provider.
    joint: Option<Box<Joint>>,
}

impl Transcoder {
    /// From a provider's dialect to a client's.
    pub fn new(from: Dialect, to: Dialect, reply: &Reply<'_>) -> Self {
        let (decoder, encoder) = (StreamDecoder::new(from), StreamEncoder::new(to, reply));
        Self {
            decoder,
            encoder,
            usage: None,
            output: false,
            error: None,
            joint: None,
        }
    }

    /// The same for a stream that another provider may go on with if it is cut.
    pub fn resumable(from: Dialect, to: Dialect, reply: &Reply<'_>) -> Self {
        Self {
            joint: Some(Box::default()),
            ..Self::new(from, to, reply)
        }
    }

    /// The text that another provider may go on from, now that the stream was cut; `None`: none can.
    pub fn continuation(&self) -> Option<&str> {
        self.joint.as_ref()?.continuation()
    }

    /// A provider of that dialect goes on from [`Transcoder::continuation`].
    pub fn resume(&mut self, from: Dialect) {
        self.decoder = StreamDecoder::new(from);
        self.error = None;
        if let Some(joint) = &mut self.joint {
            joint.resume();
        }
    }

    /// Reads the next bytes and appends what they become.
    pub fn push(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), ApiError> {
        let Self {
            decoder,
            encoder,
            usage,
            output,
            error,
            joint,
        } = self;
        decoder.push(bytes, &mut |event| {
            watch(&event, usage, output, error);
            write(joint, encoder, &event, out);
        })
    }

    /// The provider's connection is at its end: appends the end of the stream if it is complete. If it is
    /// [`StreamEnd::Interrupted`], call [`Transcoder::interrupt`].
    pub fn finish(&mut self, out: &mut Out) -> StreamEnd {
        let Self {
            decoder,
            encoder,
            usage,
            output,
            error,
            joint,
        } = self;
        decoder.finish(&mut |event| {
            watch(&event, usage, output, error);
            write(joint, encoder, &event, out);
        })
    }

    /// Appends an error event, and no end.
    pub fn interrupt(&mut self, error: &ApiError, out: &mut Out) {
        self.encoder.interrupt(error, out);
    }

    /// The last usage that the provider reported.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether anything that the model made has been seen: the first token is here.
    pub fn has_output(&self) -> bool {
        self.output
    }

    /// The error that the provider reported in its stream.
    pub fn error(&self) -> Option<&UpstreamError> {
        self.error.as_ref()
    }

    /// Events that could not be read and were skipped.
    pub fn malformed(&self) -> u32 {
        self.decoder.malformed()
    }
}

fn write(joint: &mut Option<Box<Joint>>, encoder: &mut StreamEncoder, event: &ChatEvent<'_>, out: &mut Out) {
    match joint {
        Some(joint) => joint.pass(event, &mut |event| encoder.push(event, out)),
        None => encoder.push(event, out),
    }
}

fn watch(event: &ChatEvent<'_>, usage: &mut Option<Usage>, output: &mut bool, error: &mut Option<UpstreamError>) {
    match event {
        ChatEvent::Usage(latest) => *usage = Some(*latest),
        ChatEvent::Delta { .. } => *output = true,
        ChatEvent::Error(reported) => *error = Some(reported.clone()),
        _ => {}
    }
}
