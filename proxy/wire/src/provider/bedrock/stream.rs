//! ConverseStream's events, read into the events of the chat model and written from them
//! (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html>).
//!
//! ```text
//!  messageStart ─► { contentBlockStart? ─► contentBlockDelta* ─► contentBlockStop }* ─► messageStop ─► metadata
//!                    (tools and server tools only; text and reasoning begin with their first delta)
//! ```
//! Invariants: a stream is complete when `messageStop` was seen, and ends with `metadata`, which is the only place for usage; an
//! exception message ends it as a failure; what is kept does not grow with the text. Deliberately absent: the padding `p`,
//! which is read over and not written.

mod decode;
mod encode;

pub use decode::StreamDecoder;
pub use encode::StreamEncoder;
