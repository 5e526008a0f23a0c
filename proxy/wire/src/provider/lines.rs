//! The `event` and `data` fields of a stream of server-sent events (HTML Living Standard §9.2.6).
//!
//! Invariants: at most [`SSE_LINE_BYTES_MAX`] bytes are held back.
//! Deliberately absent: `id` and `retry`, which no dialect uses.

use crate::error::{ApiError, Code};
use crate::limits::SSE_LINE_BYTES_MAX;

/// Splits a stream into events.
#[derive(Debug, Default)]
pub struct SseLines {
    /// An incomplete line.
    partial: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
}

/// Receives the name and the data of an event.
pub type OnEvent<'f> = &'f mut dyn FnMut(&[u8], &[u8]) -> Result<(), ApiError>;

impl SseLines {
    /// Reads `bytes`. An error is the caller's own, or a line beyond its bound.
    pub fn push(&mut self, mut bytes: &[u8], on_event: OnEvent<'_>) -> Result<(), ApiError> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.partial.is_empty() {
                self.line(&bytes[..end], on_event)?;
            } else {
                self.hold(&bytes[..end])?;
                let line = std::mem::take(&mut self.partial);
                let result = self.line(&line, on_event);
                self.partial = line;
                self.partial.clear();
                result?;
            }
            bytes = &bytes[end + 1..];
        }
        self.hold(bytes)
    }

    /// The stream is at its end: an event whose blank line is missing still counts.
    pub fn finish(&mut self, on_event: OnEvent<'_>) -> Result<(), ApiError> {
        let line = std::mem::take(&mut self.partial);
        self.line(&line, on_event)?;
        self.line(b"", on_event)
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        if self.partial.len() + self.data.len() + bytes.len() > SSE_LINE_BYTES_MAX {
            return Err(ApiError::new(
                Code::UpstreamProtocolError,
                "The provider's stream has an event that is too long.",
            ));
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8], on_event: OnEvent<'_>) -> Result<(), ApiError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let result = if self.has_data {
                on_event(&self.event, &self.data)
            } else {
                Ok(())
            };
            self.event.clear();
            self.data.clear();
            self.has_data = false;
            return result;
        }
        let field = |name: &[u8]| {
            let value = line.strip_prefix(name)?;
            Some(value.strip_prefix(b" ").unwrap_or(value))
        };
        if let Some(value) = field(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data.extend_from_slice(value);
            if self.data.len() > SSE_LINE_BYTES_MAX {
                return Err(ApiError::new(
                    Code::UpstreamProtocolError,
                    "The provider's stream has an event that is too long.",
                ));
            }
        } else if let Some(value) = field(b"event:") {
            self.event.clear();
            self.event.extend_from_slice(value.get(..64).unwrap_or(value));
        }
        Ok(())
    }
}
