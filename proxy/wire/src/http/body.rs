//! Finds where a message body ends and which of its bytes are payload (RFC 9112 §6 and §7).
//!
//! Invariants: no byte after the end of the body is consumed, so pipelined messages survive; chunk lines, trailers and the
//! framing overhead of tiny chunks are bounded; anything a lenient peer might read differently is an error. Deliberately
//! absent: the payload's own bound (the caller counts) and what trailers say (they are checked and dropped).

use std::fmt;

use super::Framing;
use crate::limits::{CHUNK_EXCESS_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// What ends a chunked body that has no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Most hexadecimal digits of a chunk size: what 64 bits hold.
const SIZE_DIGITS_MAX: u8 = 16;

/// Where in the body the next byte stands.
///
/// ```text
///            digit        ';'        CR        LF  size>0       CR       LF
/// ChunkStart ────> Size ──────> Ext ────> SizeLf ───────> Data ───> DataLf ──> ChunkStart
///                    │ SP/HTAB   ^           │ size=0
///                    └──> Bws ───┘           v         CR          LF
///                                       LineStart ──────────> EndLf ──> Done
///                                        ^   └> Name ':'> Value CR> ValueLf ─┐
///                                        └───────────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length,
    UntilClose,
    ChunkStart,
    Size,
    Bws,
    Ext,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
    Done,
}

/// An incremental body decoder; it holds no bytes.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Payload bytes left: of the body (`Length`) or of the chunk (`Size`, `Data`).
    left: u64,
    digits: u8,
    /// Bytes of the current chunk-size line, or of the whole trailer section.
    line_bytes: u16,
    /// Framing bytes beyond what chunks of a sensible size need.
    excess: u32,
}

/// What one [`BodyDecoder::push`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that belong to this body; less than the input only if `done`.
    pub consumed: usize,
    /// Whether the body is complete.
    pub done: bool,
    /// Whether the consumed bytes are chunked, began and end at a chunk boundary, and hold no extension and no trailer: they
    /// may be forwarded as they are in chunked framing, the last chunk included.
    pub verbatim: bool,
}

/// Why a body cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk size is missing, holds something else than hexadecimal digits, or has more than 16 of them.
    ChunkSize,
    /// A chunk extension holds a control character, or CR without LF.
    ChunkExtension,
    /// A chunk-size line is longer than [`CHUNK_LINE_BYTES_MAX`].
    ChunkLineTooLong,
    /// Chunks so small, or extensions so long, that the framing outweighs the payload.
    ChunkOverhead,
    /// CRLF is missing after a chunk's data.
    ChunkEnd,
    /// A trailer line is not a header field.
    Trailer,
    /// The trailer section is longer than [`TRAILER_BYTES_MAX`].
    TrailerTooLong,
    /// The connection ended before the body did.
    Truncated,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkSize => "a chunk size is not 1 to 16 hexadecimal digits",
            Self::ChunkExtension => "a chunk extension holds a control character or a bare CR",
            Self::ChunkLineTooLong => "a chunk-size line is too long",
            Self::ChunkOverhead => "the chunks are so small that their framing outweighs them",
            Self::ChunkEnd => "a chunk's data is not followed by CRLF",
            Self::Trailer => "a trailer line is not a valid header field",
            Self::TrailerTooLong => "the trailer section is too long",
            Self::Truncated => "the connection ended in the middle of the body",
        })
    }
}

impl std::error::Error for BodyError {}

impl BodyDecoder {
    /// A decoder for a body that has not begun.
    pub fn new(framing: Framing) -> Self {
        let (state, left) = match framing {
            Framing::Empty | Framing::Length(0) => (State::Done, 0),
            Framing::Length(length) => (State::Length, length),
            Framing::Chunked => (State::ChunkStart, 0),
            Framing::UntilClose => (State::UntilClose, 0),
        };
        Self {
            state,
            left,
            digits: 0,
            line_bytes: 0,
            excess: 0,
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Payload bytes still to come, if the framing tells: with `Content-Length`, or when the body is complete.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length => Some(self.left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Takes the next bytes of the body. The payload's places in `input`, `(start, end)` each, are appended to `data`.
    /// At most 4 GiB are looked at in one call.
    ///
    /// # Errors
    /// The framing is not what RFC 9112 §7.1 allows, or beyond its bounds. The decoder is of no use afterwards.
    pub fn push(&mut self, input: &[u8], data: &mut Vec<(u32, u32)>) -> Result<Step, BodyError> {
        let input = &input[..input.len().min(u32::MAX as usize)];
        match self.state {
            State::Done => Ok(Step {
                consumed: 0,
                done: true,
                verbatim: false,
            }),
            State::UntilClose => {
                append(data, 0, input.len());
                Ok(Step {
                    consumed: input.len(),
                    done: false,
                    verbatim: false,
                })
            }
            State::Length => {
                let taken = self.take(input.len());
                append(data, 0, taken);
                if self.left == 0 {
                    self.state = State::Done;
                }
                Ok(Step {
                    consumed: taken,
                    done: self.left == 0,
                    verbatim: false,
                })
            }
            _ => self.push_chunked(input, data),
        }
    }

    /// Says that the connection ended.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if more of the body was to come.
    pub fn finish_at_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    fn push_chunked(&mut self, input: &[u8], data: &mut Vec<(u32, u32)>) -> Result<Step, BodyError> {
        let mut verbatim = self.state == State::ChunkStart;
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let taken = self.take(input.len() - at);
                append(data, at, at + taken);
                at += taken;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.frame(input[at])?;
            verbatim &= !matches!(self.state, State::Bws | State::Ext | State::Name);
            at += 1;
        }
        verbatim &= at > 0 && matches!(self.state, State::ChunkStart | State::Done);
        Ok(Step {
            consumed: at,
            done: self.state == State::Done,
            verbatim,
        })
    }

    /// One byte of framing: the state after it.
    #[inline]
    fn frame(&mut self, byte: u8) -> Result<State, BodyError> {
        Ok(match (self.state, byte) {
            (State::ChunkStart | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.digits == SIZE_DIGITS_MAX {
                    return Err(BodyError::ChunkSize);
                }
                self.digits += 1;
                self.line_bytes += 1;
                self.left = self.left << 4 | u64::from(hex_value(byte));
                State::Size
            }
            (State::Size | State::Ext, b'\r') => State::SizeLf,
            (State::Size | State::Bws, b';') => self.line_byte(State::Ext)?,
            (State::Size | State::Bws, b' ' | b'\t') => self.line_byte(State::Bws)?,
            (State::ChunkStart | State::Size | State::Bws, _) => return Err(BodyError::ChunkSize),
            (State::Ext, b'\t' | b' '..=b'~' | 0x80..) => self.line_byte(State::Ext)?,
            (State::SizeLf, b'\n') => self.end_of_size_line()?,
            (State::Ext | State::SizeLf, _) => return Err(BodyError::ChunkExtension),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::ChunkStart,
            (State::DataCr | State::DataLf, _) => return Err(BodyError::ChunkEnd),
            (State::LineStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::LineStart | State::Name, _) if is_token(byte) => self.trailer_byte(State::Name)?,
            (State::Name, b':') | (State::Value, b'\t' | b' '..=b'~' | 0x80..) => self.trailer_byte(State::Value)?,
            (State::Value, b'\r') => self.trailer_byte(State::ValueLf)?,
            (State::ValueLf, b'\n') => self.trailer_byte(State::LineStart)?,
            (State::LineStart | State::EndLf | State::Name | State::Value | State::ValueLf, _) => {
                return Err(BodyError::Trailer);
            }
            // The three states without framing bytes are handled by the callers.
            (State::Length | State::UntilClose | State::Data | State::Done, _) => self.state,
        })
    }

    /// The size line is complete: account for its cost, and go on to the data or to the trailers.
    #[inline]
    fn end_of_size_line(&mut self) -> Result<State, BodyError> {
        let cost = u64::from(self.line_bytes) + 4;
        let allowed = self.left.saturating_mul(2).saturating_add(16);
        let excess = (u64::from(self.excess) + cost).saturating_sub(allowed);
        if excess > CHUNK_EXCESS_BYTES_MAX {
            return Err(BodyError::ChunkOverhead);
        }
        self.excess = excess as u32; // at most CHUNK_EXCESS_BYTES_MAX
        self.line_bytes = 0;
        self.digits = 0;
        Ok(if self.left == 0 { State::LineStart } else { State::Data })
    }

    fn line_byte(&mut self, next: State) -> Result<State, BodyError> {
        self.line_bytes += 1;
        if usize::from(self.line_bytes) > CHUNK_LINE_BYTES_MAX {
            Err(BodyError::ChunkLineTooLong)
        } else {
            Ok(next)
        }
    }

    fn trailer_byte(&mut self, next: State) -> Result<State, BodyError> {
        self.line_bytes += 1;
        if usize::from(self.line_bytes) > TRAILER_BYTES_MAX {
            Err(BodyError::TrailerTooLong)
        } else {
            Ok(next)
        }
    }

    /// Takes as much payload as there is, at most `available` bytes.
    fn take(&mut self, available: usize) -> usize {
        let taken = self.left.min(available as u64);
        self.left -= taken;
        taken as usize // at most `available`
    }
}

/// Appends the size line of a chunk of `len` bytes. The chunk's data and a CRLF follow; `len` 0 would end the body, for which
/// there is [`LAST_CHUNK`].
pub fn write_chunk_head(len: usize, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(HEX[(len >> (digit * 4)) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

fn append(data: &mut Vec<(u32, u32)>, start: usize, end: usize) {
    if start < end {
        data.push((start as u32, end as u32)); // `push` looks at no more than u32::MAX bytes
    }
}

/// The value of a hexadecimal digit.
const fn hex_value(digit: u8) -> u8 {
    (digit & 15) + 9 * (digit >> 6)
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
const fn is_token(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests;
