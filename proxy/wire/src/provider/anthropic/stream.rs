//! Anthropic's stream of message events, read into events and written from them
//! (<https://docs.anthropic.com/en/docs/build-with-claude/streaming>).
//!
//! ```text
//!  message_start ─► { content_block_start ─► content_block_delta* ─► content_block_stop }* ─► message_delta ─► message_stop
//!                   ping anywhere; error instead of the rest
//! ```
//! Invariants: reading, an event out of this order is skipped, and a stream without its stop reason is interrupted; writing,
//! `message_delta` waits for the end, because it carries the usage too. Deliberately absent: more than one answer.

mod decode;
mod encode;

pub use decode::StreamDecoder;
pub use encode::StreamEncoder;
