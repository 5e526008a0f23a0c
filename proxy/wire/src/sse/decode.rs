//! Decodes a stream into events, by the rules of the `EventSource` specification (HTML, §9.2.6).
//!
//! Invariants: buffers are reused from event to event; a line, and an event's data, are bounded by
//! [`SSE_LINE_BYTES_MAX`]; an event that is cut off by the end of the stream is not given. Deliberately absent: replacing invalid
//! UTF-8 (whoever parses the data notices).

use std::fmt;

use super::BYTE_ORDER_MARK;
use crate::limits::SSE_LINE_BYTES_MAX;

/// An event, on loan from the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its type; empty if it has none, which means `message`.
    pub event: &'a [u8],
    /// Its data, lines joined with LF.
    pub data: &'a [u8],
    /// The last id that the stream gave, in this event or an earlier one.
    pub id: &'a [u8],
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SseError {
    /// A line, or an event's data, is longer than [`SSE_LINE_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for SseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a server-sent event is larger than {SSE_LINE_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for SseError {}

/// An incremental decoder.
#[derive(Clone, Debug, Default)]
pub struct SseDecoder {
    /// The line that is cut off by the end of a piece.
    line: Vec<u8>,
    data: Vec<u8>,
    event: Vec<u8>,
    id: Vec<u8>,
    retry_ms: Option<u64>,
    has_data: bool,
    after_cr: bool,
    after_first_line: bool,
}

impl SseDecoder {
    /// A decoder for a stream that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a new stream; buffers are kept.
    pub fn reset(&mut self) {
        self.line.clear();
        self.end_event();
        self.id.clear();
        (self.retry_ms, self.after_cr, self.after_first_line) = (None, false, false);
    }

    /// The last `retry` that the stream gave, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Whether an event has begun and not ended.
    pub fn has_partial_event(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    /// Takes the next bytes of the stream, and gives each event that ends in them to `on_event`.
    ///
    /// # Errors
    /// [`SseError::TooLong`]; the decoder is of no use until [`Self::reset`].
    pub fn push(&mut self, input: &[u8], mut on_event: impl FnMut(Event<'_>)) -> Result<(), SseError> {
        let mut rest = input;
        if self.after_cr && !input.is_empty() {
            self.after_cr = false;
            rest = input.strip_prefix(b"\n").unwrap_or(input);
        }
        while let Some(length) = memchr::memchr2(b'\n', b'\r', rest) {
            let piece = &rest[..length];
            let carriage_return = rest[length] == b'\r';
            rest = &rest[length + 1..];
            if carriage_return {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            if self.line.is_empty() {
                self.end_line(piece, &mut on_event)?;
            } else {
                append(&mut self.line, piece)?;
                let line = std::mem::take(&mut self.line);
                let outcome = self.end_line(&line, &mut on_event);
                self.line = line;
                self.line.clear();
                outcome?;
            }
        }
        append(&mut self.line, rest)
    }

    fn end_line(&mut self, mut line: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<(), SseError> {
        if !std::mem::replace(&mut self.after_first_line, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.len() > SSE_LINE_BYTES_MAX {
            return Err(SseError::TooLong);
        }
        if line.is_empty() {
            if self.has_data {
                on_event(Event {
                    event: &self.event,
                    data: &self.data,
                    id: &self.id,
                });
            }
            self.end_event();
            return Ok(());
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                append(&mut self.data, value)?;
            }
            b"event" => {
                self.event.clear();
                self.event.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) => {
                self.id.clear();
                self.id.extend_from_slice(value);
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            }
            // A comment (no name before the colon) or an unknown field.
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self) {
        self.data.clear();
        self.event.clear();
        self.has_data = false;
    }
}

fn append(buffer: &mut Vec<u8>, piece: &[u8]) -> Result<(), SseError> {
    if buffer.len() + piece.len() > SSE_LINE_BYTES_MAX {
        return Err(SseError::TooLong);
    }
    buffer.extend_from_slice(piece);
    Ok(())
}
