//! OpenAI's stream of chat completion chunks, read into events and written from them
//! (<https://platform.openai.com/docs/api-reference/chat/streaming>).
//!
//! Chunks do not say where a part begins or ends; the decoder derives it:
//! ```text
//!           text, reasoning, refusal or a new tool call             finish_reason: remembered
//!  Idle ───────────────────────────────────────────────► Open(part) ───┐
//!   ▲                                                      │  ▲        │ another kind: close, then open
//!   └────────────────────── [DONE], or EOF behind a finish ┘  └────────┘
//! ```
//! Invariants: the finish is reported at the end, because vendors repeat it and send content and usage behind it; a stream
//! that ends with neither `[DONE]` nor a finish is interrupted; what is kept does not grow with the text. Deliberately
//! absent: audio, and vendors' own events beside the choices.

mod decode;
mod encode;

pub use decode::StreamDecoder;
pub use encode::StreamEncoder;
