//! A whole answer.
//!
//! Invariant: as for the request, everything borrows from the body. Deliberately absent: errors, see `failure.rs`.

use crate::chat::{Extra, Part, Raw, Text, Usage};
use crate::dialect::Dialect;

/// An answer that is complete.
#[derive(Clone, Debug, Default)]
pub struct ChatResponse<'a> {
    /// The provider's id for it; empty if it has none in the body (Bedrock).
    pub id: Text<'a>,
    /// The model that answered; empty if the body does not say (Bedrock).
    pub model: Text<'a>,
    /// Seconds since the epoch.
    pub created: Option<u64>,
    /// The answers; one unless the request asked for more.
    pub choices: Vec<Choice<'a>>,
    /// What it cost.
    pub usage: Option<Usage>,
    /// The tier that served it.
    pub service_tier: Option<Text<'a>>,
    /// OpenAI's `system_fingerprint`.
    pub fingerprint: Option<Text<'a>>,
    /// Time the model took, in milliseconds (Bedrock).
    pub latency_ms: Option<u64>,
    /// Fields that only their own dialect understands.
    pub extras: Vec<Extra<'a>>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// Its number.
    pub index: u32,
    /// What the model said.
    pub parts: Vec<Part<'a>>,
    /// Why it stopped; `None` if the provider did not say.
    pub finish: Option<Finish>,
    /// The stop sequence that was met.
    pub stop_sequence: Option<Text<'a>>,
    /// OpenAI's `logprobs` object.
    pub logprobs: Option<Raw<'a>>,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It was done.
    Stop,
    /// It met a stop sequence.
    StopSequence,
    /// It reached the token limit of the request.
    Length,
    /// It filled its context window.
    ContextFull,
    /// It calls tools.
    ToolCalls,
    /// A filter of the provider's held back the answer.
    ContentFilter,
    /// It declined.
    Refusal,
    /// A long turn of server tools paused; send the answer back to go on (Anthropic `pause_turn`).
    Pause,
    /// It called a tool in a form that cannot be read (Bedrock).
    Malformed,
}

/// A source for a piece of text.
#[derive(Clone, Debug, Default)]
pub struct Citation<'a> {
    /// Title of the source.
    pub title: Option<Text<'a>>,
    /// The words cited.
    pub cited_text: Option<Text<'a>>,
    /// Its address.
    pub url: Option<Text<'a>>,
    /// Where in the source.
    pub location: Location,
    /// As its own dialect wrote it; written back for that dialect.
    pub raw: Option<(Dialect, Raw<'a>)>,
}

/// Where in a source. Ranges are half open unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// Not said.
    #[default]
    None,
    /// Characters of document `document`.
    Char {
        /// Index among the request's documents.
        document: u64,
        /// First character.
        start: u64,
        /// Behind the last.
        end: u64,
    },
    /// Pages of document `document`, counted from 1.
    Page {
        /// Index among the request's documents.
        document: u64,
        /// First page.
        start: u64,
        /// Behind the last.
        end: u64,
    },
    /// Content blocks of document `document`.
    Chunk {
        /// Index among the request's documents.
        document: u64,
        /// First block.
        start: u64,
        /// Behind the last.
        end: u64,
    },
    /// Characters of the *answer* that the source supports (OpenAI's annotations).
    Answer {
        /// First character.
        start: u64,
        /// Behind the last.
        end: u64,
    },
    /// Content blocks of search result `result`.
    Search {
        /// Index among the request's search results.
        result: u64,
        /// First block.
        start: u64,
        /// Behind the last.
        end: u64,
    },
}
