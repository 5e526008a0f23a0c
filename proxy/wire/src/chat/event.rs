//! A streamed answer, event by event.
//!
//! ```text
//!  Start ─► { Open(part) ─► Delta(part)* ─► Close(part) }* ─► Finish(choice)… ─► Usage? ─► End
//!           Ping and Usage may come anywhere behind Start; Error ends the stream instead of End.
//! ```
//! Invariants, which every decoder keeps and every encoder relies on: `Start` is first and comes once; within a choice, parts
//! are numbered from 0 in the order in which they open; a part opens before its deltas, and of one choice only one part is
//! open at a time, except that a late delta of a closed tool call is still delivered (providers may interleave parallel
//! calls). A part gets only deltas of its own kind, one of [`Open::Other`] only [`Delta::Other`]. All parts are closed before `Finish`. `Usage` is cumulative, the last one counts. Nothing follows `End` or
//! `Error`. Deliberately absent: text that was already delivered (memory does not grow with the stream).

use crate::chat::{Citation, Finish, Raw, Text, UpstreamError, Usage};
use crate::dialect::Dialect;

/// One event of a streamed answer.
#[derive(Clone, Debug)]
pub enum ChatEvent<'a> {
    /// The answer begins.
    Start {
        /// The provider's id for it; may be empty.
        id: Text<'a>,
        /// The model that answers; may be empty.
        model: Text<'a>,
        /// Seconds since the epoch.
        created: Option<u64>,
        /// OpenAI's `system_fingerprint`.
        fingerprint: Option<Text<'a>>,
        /// The tier that serves it.
        service_tier: Option<Text<'a>>,
    },
    /// A part begins.
    Open {
        /// Which answer.
        choice: u32,
        /// Which part of it.
        part: u32,
        /// What it is.
        open: Open<'a>,
    },
    /// A piece of a part.
    Delta {
        /// Which answer.
        choice: u32,
        /// Which part of it.
        part: u32,
        /// The piece.
        delta: Delta<'a>,
    },
    /// A part is complete.
    Close {
        /// Which answer.
        choice: u32,
        /// Which part of it.
        part: u32,
    },
    /// An answer is complete.
    Finish {
        /// Which answer.
        choice: u32,
        /// Why it stopped.
        finish: Finish,
        /// The stop sequence that was met.
        stop_sequence: Option<Text<'a>>,
    },
    /// What it has cost so far.
    Usage(Usage),
    /// Time the model took, in milliseconds (Bedrock).
    Latency(u64),
    /// Nothing; keeps the connection alive.
    Ping,
    /// The provider failed in mid-stream.
    Error(UpstreamError),
    /// The stream is complete.
    End,
}

/// What a part is, as far as it is known when it begins.
#[derive(Clone, Debug)]
pub enum Open<'a> {
    /// Text.
    Text,
    /// The model's own words for why it does not answer.
    Refusal,
    /// Reasoning in the clear.
    Thinking,
    /// Reasoning that only its provider can read; complete.
    RedactedThinking(Text<'a>),
    /// A tool call.
    ToolCall {
        /// Ties the result to the call.
        id: Text<'a>,
        /// The tool.
        name: Text<'a>,
    },
    /// A part that only one dialect understands.
    Other(Dialect, Raw<'a>),
}

/// A piece of a part.
#[derive(Clone, Debug)]
pub enum Delta<'a> {
    /// Of text, or of a refusal.
    Text(Text<'a>),
    /// Of reasoning.
    Thinking(Text<'a>),
    /// Of the signature of reasoning.
    Signature(Text<'a>),
    /// Of the JSON text of a tool call's arguments. A string in a string: its characters are JSON.
    Arguments(Text<'a>),
    /// A source of the text so far.
    Citation(Citation<'a>),
    /// OpenAI's `logprobs` object for the text of the same chunk.
    Logprobs(Raw<'a>),
    /// A piece that only one dialect understands.
    Other(Dialect, Raw<'a>),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The provider said all it had to say.
    Complete,
    /// The provider reported an error.
    Failed,
    /// It was cut short, or is not a stream of its dialect: the answer is not complete and must not look so.
    Interrupted,
}
