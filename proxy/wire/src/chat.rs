//! The one chat model that every dialect is translated to and from: a request, a response, and the events of a stream.
//!
//! Invariants: everything borrows from the body or the event that it was read from, strings in their escaped form
//! ([`Text`]), values that no dialect needs to understand as their own text ([`Raw`]). The model can hold whatever any of
//! the dialects can say; what a target cannot say is decided by one table, [`loss`], never by a translator alone.
//! Deliberately absent: defaults (`None` means "the client did not say") and any opinion about a model's abilities.

mod effort;
mod event;
mod failure;
mod ids;
mod json;
mod loss;
mod media;
mod out;
mod pointer;
mod replay;
mod response;
mod schema;
mod text;
mod usage;

pub use effort::{budget_for_effort, effort_for_budget};
pub use event::{ChatEvent, Delta, Open, StreamEnd};
pub use failure::{ErrorKind, UpstreamError};
pub use ids::{ToolIdRule, tool_id};
pub(crate) use ids::{id_hash, made_id};
pub use json::{JsonError, Kind, Reader};
pub use loss::{LOSSES, Loss, Note, Notes, Param, loss, losses_markdown};
pub use media::{DataUrl, data_url, document_format, document_media_type, image_format, image_media_type};
pub use out::Out;
pub use pointer::pointed;
pub use replay::{Gathered, play};
pub use response::{ChatResponse, Choice, Citation, Finish, Location};
pub use schema::write_object_schema;
pub use text::{Number, Raw, Text};
pub use usage::{ServiceTier, Usage};

use crate::dialect::Dialect;

/// A chat request.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest<'a> {
    /// The model as the client names it.
    pub model: Text<'a>,
    /// The conversation, system prompts included, in the client's order.
    pub messages: Vec<Message<'a>>,
    /// Tools on offer.
    pub tools: Vec<Tool<'a>>,
    /// Which tool the model may or must call.
    pub tool_choice: Option<ToolChoice<'a>>,
    /// Whether several tools may be called in one turn.
    pub parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    pub format: Option<Format<'a>>,
    /// Most tokens to generate, those of reasoning included.
    pub max_tokens: Option<u64>,
    /// Sampling temperature, on the client's own scale (OpenAI 0 to 2, Anthropic and Bedrock 0 to 1).
    pub temperature: Option<Number<'a>>,
    /// Nucleus sampling, 0 to 1.
    pub top_p: Option<Number<'a>>,
    /// Sampling among the k likeliest tokens.
    pub top_k: Option<Number<'a>>,
    /// Strings that end generation.
    pub stop: Vec<Text<'a>>,
    /// Seed for repeatable sampling.
    pub seed: Option<Number<'a>>,
    /// Answers to generate.
    pub n: Option<u64>,
    /// Penalty on tokens that are present, -2 to 2.
    pub presence_penalty: Option<Number<'a>>,
    /// Penalty on tokens by how often they occur, -2 to 2.
    pub frequency_penalty: Option<Number<'a>>,
    /// Object from token id to bias.
    pub logit_bias: Option<Raw<'a>>,
    /// Whether to return the log probabilities of output tokens.
    pub logprobs: Option<bool>,
    /// How many alternatives each.
    pub top_logprobs: Option<u64>,
    /// How much to think.
    pub reasoning: Reasoning<'a>,
    /// Processing tier, in the client's own words.
    pub service_tier: Option<Text<'a>>,
    /// The end user, as an opaque id.
    pub user: Option<Text<'a>>,
    /// Object of the client's own keys and strings.
    pub metadata: Option<Raw<'a>>,
    /// A cache marker on the whole request (Anthropic's automatic caching).
    pub cache: Option<CacheMark>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream ends with its usage (OpenAI's `stream_options.include_usage`; always so elsewhere).
    pub include_usage: bool,
    /// Top-level fields that only their own dialect understands, in order.
    pub extras: Vec<Extra<'a>>,
    /// Names of fields below the top level that mean nothing to the model, each once.
    pub ignored: Vec<std::borrow::Cow<'a, str>>,
}

/// A field that only one dialect understands; written back for that dialect alone.
#[derive(Clone, Debug)]
pub struct Extra<'a> {
    /// Whose field it is.
    pub dialect: Dialect,
    /// Its name.
    pub key: std::borrow::Cow<'a, str>,
    /// Its value.
    pub value: Raw<'a>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions; OpenAI's `system`, and the top-level `system` of the others.
    System,
    /// Instructions; OpenAI's newer name for them.
    Developer,
    /// The user. Tool results are [`Content::ToolResult`] parts of a user's message, whatever the dialect calls it.
    User,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Who speaks.
    pub role: Role,
    /// A name for the speaker (OpenAI only).
    pub name: Option<Text<'a>>,
    /// What is said; may be empty.
    pub parts: Vec<Part<'a>>,
}

/// One piece of a message.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What it is.
    pub content: Content<'a>,
    /// A prompt-cache breakpoint behind this part.
    pub cache: Option<CacheMark>,
}

impl<'a> From<Content<'a>> for Part<'a> {
    fn from(content: Content<'a>) -> Self {
        Self { content, cache: None }
    }
}

/// What one piece of a message is.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// Text, with what it cites.
    Text {
        /// The text.
        text: Text<'a>,
        /// Sources, in order.
        citations: Vec<Citation<'a>>,
    },
    /// The model's own words for why it does not answer.
    Refusal(Text<'a>),
    /// An image.
    Image {
        /// Where its bytes are.
        source: Source<'a>,
        /// OpenAI's `detail`: `auto`, `low` or `high`.
        detail: Option<Text<'a>>,
    },
    /// A document.
    Document(Box<Document<'a>>),
    /// Sound.
    Audio(Source<'a>),
    /// A video.
    Video(Source<'a>),
    /// The model calls a tool of the client's.
    ToolCall {
        /// Ties the result to the call.
        id: Text<'a>,
        /// The tool.
        name: Text<'a>,
        /// What it is called with.
        arguments: Arguments<'a>,
        /// Whether it is one of OpenAI's `custom` tools, whose argument is free text.
        custom: bool,
    },
    /// What a tool returned.
    ToolResult {
        /// The call's id.
        id: Text<'a>,
        /// Text, images, documents or [`Content::Json`].
        parts: Vec<Part<'a>>,
        /// Whether it failed; `None` if the client did not say.
        is_error: Option<bool>,
    },
    /// A JSON value in a tool result (Bedrock's `json`).
    Json(Raw<'a>),
    /// Reasoning in the clear.
    Thinking {
        /// The reasoning; empty if only the signature is given out.
        text: Text<'a>,
        /// The provider's proof that it is its own, to be sent back unchanged.
        signature: Option<Text<'a>>,
    },
    /// Reasoning that only its provider can read, to be sent back unchanged.
    RedactedThinking(Text<'a>),
    /// A part that only one dialect understands, whole.
    Other(Dialect, Raw<'a>),
}

impl<'a> Content<'a> {
    /// Text that cites nothing.
    pub fn text(text: Text<'a>) -> Self {
        Self::Text {
            text,
            citations: Vec::new(),
        }
    }
}

/// A document and how to use it.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    /// Its bytes or text.
    pub source: Source<'a>,
    /// File name or title.
    pub name: Option<Text<'a>>,
    /// What the model should know about it, outside the citable text.
    pub context: Option<Text<'a>>,
    /// Whether the model may cite it.
    pub citations: Option<bool>,
}

/// Where a medium's bytes are.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// In the body.
    Base64 {
        /// `type/subtype`, empty if unknown.
        media_type: Text<'a>,
        /// Base64 of RFC 4648 §4.
        data: Text<'a>,
    },
    /// On the web; never fetched by the gateway.
    Url(Text<'a>),
    /// Uploaded to the provider before.
    File(Dialect, Text<'a>),
    /// In S3 (Bedrock only).
    S3 {
        /// Media type, derived from Bedrock's `format`.
        media_type: Text<'a>,
        /// `s3://bucket/key`.
        uri: Text<'a>,
        /// AWS account id of the bucket's owner.
        owner: Option<Text<'a>>,
    },
    /// A plain-text document.
    Text(Text<'a>),
    /// A document made of parts.
    Parts(Vec<Part<'a>>),
}

/// What a tool is called with.
#[derive(Clone, Debug)]
pub enum Arguments<'a> {
    /// A JSON object (Anthropic, Bedrock).
    Json(Raw<'a>),
    /// The text of a JSON object, in a string (OpenAI). A model wrote it, so it may be empty or broken.
    Encoded(Text<'a>),
}

impl Arguments<'_> {
    /// Appends them as a JSON object. Empty text is `{}`; text that is no JSON object becomes `{"raw_arguments": text}`, so
    /// that a model's slip neither breaks the conversation nor disappears.
    pub fn write_object(&self, out: &mut Out) {
        match self {
            Arguments::Json(raw) if raw.kind() == Kind::Object => out.raw(raw),
            Arguments::Json(raw) => out.token("{\"raw_arguments\":").string(raw.as_json()).token("}"),
            Arguments::Encoded(text) if text.is_blank() => out.token("{}"),
            Arguments::Encoded(text) => match Raw::parse(text.decode()) {
                Ok(raw) if raw.kind() == Kind::Object => out.raw(&raw),
                _ => out.token("{\"raw_arguments\":").text(text).token("}"),
            },
        };
    }

    /// Appends them as a JSON string; what is empty is `{}`, because clients parse it.
    pub fn write_string(&self, out: &mut Out) {
        match self {
            Arguments::Encoded(text) if text.is_empty() => out.token("\"{}\""),
            Arguments::Json(raw) => out.string(raw.as_json()),
            Arguments::Encoded(text) => out.text(text),
        };
    }
}

/// A tool on offer.
#[derive(Clone, Debug)]
pub enum Tool<'a> {
    /// A function of the client's.
    Function {
        /// Its name.
        name: Text<'a>,
        /// What it does.
        description: Option<Text<'a>>,
        /// JSON schema of its arguments.
        parameters: Option<Raw<'a>>,
        /// Whether calls must match the schema exactly.
        strict: Option<bool>,
        /// A prompt-cache breakpoint behind it.
        cache: Option<CacheMark>,
    },
    /// A tool that only one dialect understands (its server runs it), whole.
    Other(Dialect, Raw<'a>),
}

/// Which tool the model may or must call.
#[derive(Clone, Debug)]
pub enum ToolChoice<'a> {
    /// As it sees fit.
    Auto,
    /// At least one of them.
    Any,
    /// None.
    None,
    /// This one.
    Named(Text<'a>),
    /// A choice that only one dialect understands, whole.
    Other(Dialect, Raw<'a>),
}

/// The form of the answer.
#[derive(Clone, Debug)]
pub enum Format<'a> {
    /// Free text.
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that matches a schema.
    JsonSchema {
        /// A name for the schema.
        name: Option<Text<'a>>,
        /// What it is for.
        description: Option<Text<'a>>,
        /// The schema.
        schema: Raw<'a>,
        /// Whether the answer must match it exactly.
        strict: Option<bool>,
    },
    /// A format that only one dialect understands, whole.
    Other(Dialect, Raw<'a>),
}

/// How much to think.
#[derive(Clone, Debug, Default)]
pub struct Reasoning<'a> {
    /// On, off, or as the model sees fit.
    pub mode: Option<Thinking>,
    /// In words (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`, …).
    pub effort: Option<Text<'a>>,
    /// In tokens.
    pub budget_tokens: Option<u64>,
    /// Anthropic's `thinking.display`: `summarized` or `omitted`.
    pub display: Option<Text<'a>>,
}

/// Whether to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Always.
    Enabled,
    /// Never.
    Disabled,
    /// As the model sees fit.
    Adaptive,
}

/// A prompt-cache breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMark {
    /// Kept for the provider's default time.
    Default,
    /// Kept for five minutes.
    FiveMinutes,
    /// Kept for one hour.
    OneHour,
}

impl CacheMark {
    /// From a `ttl`.
    pub fn from_ttl(ttl: Option<&str>) -> Self {
        match ttl {
            Some("5m") => Self::FiveMinutes,
            Some("1h") => Self::OneHour,
            _ => Self::Default,
        }
    }

    /// The `ttl`, if one was given.
    pub fn ttl(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::FiveMinutes => Some("5m"),
            Self::OneHour => Some("1h"),
        }
    }
}
