//! HTTP/1.x vocabulary: spans into a head, methods, versions, body framing and header field identities.
//!
//! Invariants: a [`Span`] indexes the bytes that its head was parsed from, so nothing is copied; only what forwarding,
//! framing and authentication act on has a [`FieldId`]. Deliberately absent: HTTP/2 and HTTP/3 (providers and clients are
//! spoken to over HTTP/1.1), and any decision about a field's fate.

pub mod body;
pub mod date;
mod error;
mod field;
mod framing;
pub mod head;
mod known;
mod plain;
mod target;

pub use field::{Field, FieldId};
pub use known::KnownLines;

/// A range of bytes of a message head, `start..end`, counted from the first byte that was given to the parser.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Span {
    /// First byte.
    pub start: u16,
    /// One past the last byte; never below `start`.
    pub end: u16,
}

impl Span {
    /// A span of a head. Both ends are at most [`crate::limits::HEAD_BYTES_MAX`], which fits.
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u16::MAX as usize);
        Self {
            start: start as u16,
            end: end as u16,
        }
    }

    /// The bytes themselves, out of the buffer that the head was parsed from. Empty if `buf` is shorter than the span.
    #[inline]
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(usize::from(self.start)..usize::from(self.end))
            .unwrap_or_default()
    }

    /// Whether it holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// A request method (RFC 9110 §9); the token itself is kept as a span of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// Anything else, `CONNECT` and `TRACE` included. Methods are case-sensitive: `get` is one of these.
    #[default]
    Other,
}

impl Method {
    /// The method that a token names.
    pub fn of(token: &[u8]) -> Self {
        match token {
            b"POST" => Self::Post,
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }

    /// The token; `Other` has none of its own.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "",
        }
    }
}

/// The protocol version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    #[default]
    Http11,
}

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Framing {
    /// No body.
    #[default]
    Empty,
    /// Exactly as many bytes as `Content-Length` says; 0 is possible.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the peer closes: responses only.
    UntilClose,
}
