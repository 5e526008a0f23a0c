//! Finds the `model`, `stream` and `n` fields of a multipart/form-data body while it streams by (RFC 7578, RFC 2046 §5.1).
//!
//! Invariants: files are searched, never copied; part heads and wanted values are bounded; a body in which two parsers could
//! find different models is an error. Deliberately absent: nested multiparts, transfer encodings of parts, file contents.

mod part;

use std::fmt;

use crate::error::Code;
use crate::json::Located;
use crate::limits::{
    MODEL_BYTES_MAX, MULTIPART_BOUNDARY_BYTES_MAX, MULTIPART_PART_HEAD_BYTES_MAX, MULTIPART_PARTS_MAX,
};
use part::Wanted;

/// Why a multipart body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MultipartError {
    /// The Content-Type is not multipart/form-data with one sound `boundary`.
    Boundary,
    /// The body does not begin with the boundary.
    NoBoundary,
    /// Something else than CRLF or `--` follows a boundary.
    Delimiter,
    /// A part's head is longer than [`MULTIPART_PART_HEAD_BYTES_MAX`].
    PartHeadTooLong,
    /// A part's head has a line that is no header field, or not exactly one sound Content-Disposition.
    PartHead,
    /// There are more than [`MULTIPART_PARTS_MAX`] parts.
    TooManyParts,
    /// A field that the gateway acts on stands twice.
    DuplicateField(&'static str),
    /// A field that the gateway acts on is longer than [`MODEL_BYTES_MAX`].
    ValueTooLong(&'static str),
    /// A field that the gateway acts on holds a control character or invalid UTF-8, or is sent as a file.
    Value(&'static str),
    /// The body ended before its last boundary.
    Truncated,
}

impl MultipartError {
    /// The error that a client sees.
    pub const fn code(self) -> Code {
        match self {
            Self::ValueTooLong(_) | Self::Value(_) => Code::InvalidParameter,
            _ => Code::InvalidBody,
        }
    }

    /// The parameter at fault, if it is one.
    pub const fn param(self) -> Option<&'static str> {
        match self {
            Self::DuplicateField(name) | Self::ValueTooLong(name) | Self::Value(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for MultipartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boundary => f.write_str("the Content-Type is not multipart/form-data with a valid boundary"),
            Self::NoBoundary => f.write_str("the body does not begin with the boundary of its Content-Type"),
            Self::Delimiter => f.write_str("a multipart boundary is not followed by CRLF"),
            Self::PartHeadTooLong => f.write_str("the header of a multipart part is too long"),
            Self::PartHead => f.write_str("a multipart part has no valid Content-Disposition"),
            Self::TooManyParts => write!(f, "there are more than {MULTIPART_PARTS_MAX} multipart parts"),
            Self::DuplicateField(name) => write!(f, "the field `{name}` stands more than once in the body"),
            Self::ValueTooLong(name) => write!(f, "the field `{name}` is longer than {MODEL_BYTES_MAX} bytes"),
            Self::Value(name) => write!(f, "the field `{name}` is not plain text"),
            Self::Truncated => f.write_str("the multipart body ends before its last boundary"),
        }
    }
}

impl std::error::Error for MultipartError {}

/// ```text
/// Start ─boundary─> Delimiter ─CRLF─> Head ─empty line─> Data ─CRLF boundary─> Delimiter ─"--"─> End
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first boundary.
    Start,
    /// After a boundary.
    Delimiter,
    /// After a boundary and `-`.
    Dash,
    /// White space between a boundary and its line end.
    Padding,
    /// After a boundary and CR.
    DelimiterLf,
    Head,
    Data,
    /// After the last boundary: the rest does not count.
    End,
}

/// CRLF, two hyphens and the boundary.
const MARK_BYTES_MAX: usize = 4 + MULTIPART_BOUNDARY_BYTES_MAX;

/// An incremental scanner of a multipart/form-data body.
#[derive(Clone, Debug)]
pub struct Multipart {
    mark: [u8; MARK_BYTES_MAX],
    mark_bytes: usize,
    /// Bytes of the mark that have matched.
    matched: usize,
    state: State,
    base: u64,
    parts: u32,
    /// The current part's head; then, if the part is wanted, its value.
    kept: Vec<u8>,
    wanted: Wanted,
    value_start: u64,
    model: Option<Located>,
    stream: Option<bool>,
    count: Option<u64>,
}

impl Multipart {
    /// A scanner for a body with the boundary that the value of `Content-Type` gives.
    ///
    /// # Errors
    /// [`MultipartError::Boundary`].
    pub fn new(content_type: &[u8]) -> Result<Self, MultipartError> {
        let boundary = part::boundary(content_type).ok_or(MultipartError::Boundary)?;
        let mut mark = [0; MARK_BYTES_MAX];
        mark[..4].copy_from_slice(b"\r\n--");
        let mark_bytes = 4 + boundary.len();
        mark[4..mark_bytes].copy_from_slice(boundary);
        Ok(Self {
            mark,
            mark_bytes,
            matched: 2, // the first boundary has no CRLF before it
            state: State::Start,
            base: 0,
            parts: 0,
            kept: Vec::new(),
            wanted: Wanted::No,
            value_start: 0,
            model: None,
            stream: None,
            count: None,
        })
    }

    /// The value of the `model` field, as soon as it has gone by; its place has no quotes.
    pub fn model(&self) -> Option<&Located> {
        self.model.as_ref()
    }

    /// Whether the `stream` field says `true`.
    pub fn stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// The number of results that the `n` field asks for; the largest number if that is not what it says.
    pub fn n(&self) -> Option<u64> {
        self.count
    }

    /// Parts so far: no fewer than files.
    pub fn parts(&self) -> u32 {
        self.parts
    }

    /// Takes the next bytes of the body, in order.
    ///
    /// # Errors
    /// The body cannot be forwarded safely; the scanner is of no use afterwards.
    pub fn push(&mut self, input: &[u8]) -> Result<(), MultipartError> {
        let mut at = 0;
        while at < input.len() {
            at = match self.state {
                State::Data => self.data(input, at)?,
                State::End => input.len(),
                _ => {
                    self.byte(input[at], self.base + at as u64)?;
                    at + 1
                }
            };
        }
        self.base += input.len() as u64;
        Ok(())
    }

    /// Says that the body is complete.
    ///
    /// # Errors
    /// [`MultipartError::Truncated`] if the last boundary has not come.
    pub fn finish(&mut self) -> Result<(), MultipartError> {
        if self.state == State::End {
            Ok(())
        } else {
            Err(MultipartError::Truncated)
        }
    }

    /// One byte of a boundary line or of a part's head.
    fn byte(&mut self, byte: u8, offset: u64) -> Result<(), MultipartError> {
        self.state = match (self.state, byte) {
            (State::Start, _) => {
                if byte != self.mark[self.matched] {
                    return Err(MultipartError::NoBoundary);
                }
                self.matched += 1;
                if self.matched == self.mark_bytes {
                    State::Delimiter
                } else {
                    State::Start
                }
            }
            (State::Delimiter, b'-') => State::Dash,
            (State::Dash, b'-') => State::End,
            (State::Delimiter | State::Padding, b' ' | b'\t') => State::Padding,
            (State::Delimiter | State::Padding, b'\r') => State::DelimiterLf,
            (State::DelimiterLf, b'\n') => self.part_begins()?,
            (State::Head, _) => self.head_byte(byte, offset)?,
            _ => return Err(MultipartError::Delimiter),
        };
        Ok(())
    }

    fn part_begins(&mut self) -> Result<State, MultipartError> {
        self.parts += 1;
        if self.parts > MULTIPART_PARTS_MAX {
            return Err(MultipartError::TooManyParts);
        }
        self.kept.clear();
        Ok(State::Head)
    }

    fn head_byte(&mut self, byte: u8, offset: u64) -> Result<State, MultipartError> {
        self.kept.push(byte);
        if self.kept.len() > MULTIPART_PART_HEAD_BYTES_MAX {
            return Err(MultipartError::PartHeadTooLong);
        }
        if !self.kept.ends_with(b"\r\n\r\n") && self.kept != b"\r\n" {
            return Ok(State::Head);
        }
        self.wanted = part::wanted(&self.kept)?;
        let twice = match self.wanted {
            Wanted::No => false,
            Wanted::Model => self.model.is_some(),
            Wanted::Stream => self.stream.is_some(),
            Wanted::Count => self.count.is_some(),
        };
        if twice {
            return Err(MultipartError::DuplicateField(self.wanted.name()));
        }
        self.kept.clear();
        // Some parsers take the CRLF that ends a head for the one that begins a boundary: notice it, to refuse it.
        self.matched = 2;
        self.value_start = offset + 1;
        Ok(State::Data)
    }

    /// A part's data, up to the next boundary. The mark begins with CR and has no other, so that a mismatch can only begin a
    /// new match at the byte that did not fit.
    fn data(&mut self, input: &[u8], mut at: usize) -> Result<usize, MultipartError> {
        while at < input.len() {
            if self.matched == 0 {
                let rest = &input[at..];
                let plain = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
                self.keep(&rest[..plain])?;
                at += plain;
                if at == input.len() {
                    break;
                }
            }
            if input[at] == self.mark[self.matched] {
                self.matched += 1;
                at += 1;
                if self.matched == self.mark_bytes {
                    self.part_ends(self.base + at as u64 - self.mark_bytes as u64)?;
                    self.state = State::Delimiter;
                    return Ok(at);
                }
            } else {
                let matched = std::mem::take(&mut self.matched);
                let of_head = self.value_start.saturating_sub(self.base + at as u64 - matched as u64);
                let mark = self.mark;
                self.keep(&mark[of_head as usize..matched])?;
            }
        }
        Ok(at)
    }

    /// Keeps a piece of a wanted value.
    #[inline]
    fn keep(&mut self, piece: &[u8]) -> Result<(), MultipartError> {
        if self.wanted == Wanted::No {
            return Ok(());
        }
        if self.kept.len() + piece.len() > MODEL_BYTES_MAX {
            return Err(MultipartError::ValueTooLong(self.wanted.name()));
        }
        self.kept.extend_from_slice(piece);
        Ok(())
    }

    fn part_ends(&mut self, end: u64) -> Result<(), MultipartError> {
        if end < self.value_start {
            return Err(MultipartError::Delimiter);
        }
        if self.wanted == Wanted::No {
            return Ok(());
        }
        let text = std::str::from_utf8(&self.kept)
            .ok()
            .filter(|text| !text.bytes().any(|byte| byte < b' '));
        let text = text.ok_or(MultipartError::Value(self.wanted.name()))?;
        if self.wanted == Wanted::Stream {
            self.stream = Some(text.eq_ignore_ascii_case("true") || text == "1");
            return Ok(());
        }
        if self.wanted == Wanted::Count {
            self.count = Some(text.trim().parse().unwrap_or(u64::MAX));
            return Ok(());
        }
        let mut model = Located::default();
        model.set(self.value_start, end, text);
        self.model = Some(model);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
