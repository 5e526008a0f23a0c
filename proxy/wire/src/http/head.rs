//! Parses request and response heads into spans, and decides how the body that follows is framed (RFC 9112 §2 to §6).
//!
//! Invariants: a head that two parsers could read differently is an error, never a guess; structs are reused, so the steady
//! path allocates nothing; a head that arrives in pieces costs time in proportion to its length. Deliberately absent:
//! obs-fold, bare LF, authority-form, decoding of targets, and any decision about what is forwarded.

use std::mem::MaybeUninit;

use httparse::Status;

pub use super::error::HeadError;
use super::field::Present;
use super::framing::Summary;
use super::{Field, FieldId, Framing, KnownLines, Method, Span, Version, field, framing, plain, target};
use crate::limits::{HEAD_BYTES_MAX, HEADER_FIELDS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

/// A request head. Reuse it: [`RequestHead::parse`] overwrites everything.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method's token.
    pub method_span: Span,
    /// The version of the request line.
    pub version: Version,
    /// The request target, as sent.
    pub target: Span,
    /// The target's path; empty only for an absolute URI without one, where it means `/`. `*` for asterisk-form.
    pub path: Span,
    /// The target's query without `?`; empty if there is none.
    pub query: Span,
    /// Host and port: of an absolute URI, else of the Host field; empty only for HTTP/1.0 without Host.
    pub authority: Span,
    /// The header fields, in order; at most [`HEADER_FIELDS_MAX`].
    pub fields: Vec<Field>,
    /// How the body is framed; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the client will send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Bytes of the head: the body begins here.
    pub head_bytes: usize,
    present: Present,
    progress: Progress,
}

/// A response head. Reuse it: [`ResponseHead::parse`] overwrites everything.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// The version of the status line.
    pub version: Version,
    /// The status, 100 to 999.
    pub status: u16,
    /// The reason phrase; possibly empty.
    pub reason: Span,
    /// The header fields, in order; at most [`HEADER_FIELDS_MAX`].
    pub fields: Vec<Field>,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection can be used again after the body.
    pub keep_alive: bool,
    /// Bytes of the head: the body begins here.
    pub head_bytes: usize,
    present: Present,
    progress: Progress,
}

impl RequestHead {
    /// Parses the head at the start of `buf`, which grows from call to call until the head is complete: then `true`, and the
    /// spans index `buf`. One empty line before the request line is allowed (RFC 9112 §2.2) and counts into `head_bytes`.
    /// After `true` or an error the next call begins a new head; to give up an incomplete one, call [`Self::reset`].
    ///
    /// # Errors
    /// The head is not valid, ambiguous, or beyond a limit; as far as possible before it is complete.
    pub fn parse(&mut self, buf: &[u8]) -> Result<bool, HeadError> {
        self.parse_like(buf, &mut KnownLines::default())
    }

    /// [`Self::parse`], quicker for a head whose lines are `known`.
    ///
    /// # Errors
    /// The same.
    pub fn parse_like(&mut self, buf: &[u8], known: &mut KnownLines) -> Result<bool, HeadError> {
        let window = &buf[..buf.len().min(HEAD_BYTES_MAX)];
        let mut progress = std::mem::take(&mut self.progress);
        let complete = match progress.look(window, Progress::REQUEST_LINE_BYTES_MAX)? {
            Look::Parse => self.parse_window(window, known)?,
            Look::Wait => false,
        };
        if !complete {
            progress.wait(window, Progress::REQUEST_LINE_BYTES_MAX)?;
            self.progress = progress;
        }
        Ok(complete)
    }

    /// Forgets an incomplete head.
    pub fn reset(&mut self) {
        self.progress = Progress::default();
    }

    /// The first field with an identity.
    pub fn field(&self, id: FieldId) -> Option<&Field> {
        field::find(&self.fields, self.present, id)
    }

    /// The value of the first field of a name, which is given in lower case. `buf` is what was parsed.
    pub fn named<'a>(&self, buf: &'a [u8], lowercase_name: &[u8]) -> Option<&'a [u8]> {
        field::named(&self.fields, buf, lowercase_name)
    }

    /// Appends the lines (CRLF included) of the fields that `keep` wants, in order. `buf` is what was parsed.
    pub fn copy_fields(&self, buf: &[u8], out: &mut Vec<u8>, keep: impl Fn(&Field) -> bool) {
        field::copy_fields(&self.fields, buf, out, keep);
    }

    fn parse_window(&mut self, buf: &[u8], known: &mut KnownLines) -> Result<bool, HeadError> {
        if self.parse_plain(buf, known).is_some() {
            #[cfg(any(test, fuzzing))]
            assert!(
                agree(self, |other| other.parse_carefully(buf)),
                "two ways to read a head"
            );
            return Ok(true);
        }
        self.parse_carefully(buf)
    }

    /// The quick way; `None` leaves the decision to the careful one.
    pub(super) fn parse_plain(&mut self, buf: &[u8], known: &mut KnownLines) -> Option<()> {
        let line = plain::request_line(buf)?;
        let mut summary = Summary::default();
        self.head_bytes = plain::fields(buf, line.end, &mut self.fields, &mut summary, known)?;
        self.method = Method::of(line.method.of(buf));
        self.method_span = line.method;
        self.target = line.target;
        self.version = plain::VERSION;
        self.settle(buf, &summary).ok()
    }

    fn parse_carefully(&mut self, buf: &[u8]) -> Result<bool, HeadError> {
        let Some(lead) = leading_empty_line(buf)? else {
            return Ok(false);
        };
        let mut headers = [const { MaybeUninit::uninit() }; HEADER_FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let head_bytes = match parsed.parse_with_uninit_headers(&buf[lead..], &mut headers) {
            Ok(Status::Complete(bytes)) => lead + bytes,
            Ok(Status::Partial) => return Ok(false),
            Err(error) => return Err(refusal(error, buf, HeadError::RequestLine)),
        };
        let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(HeadError::RequestLine);
        };
        self.method = Method::of(method.as_bytes());
        self.method_span = Span::new(lead, lead + method.len());
        let target_start = usize::from(self.method_span.end) + 1;
        self.target = Span::new(target_start, target_start + path.len());
        if method.len() > METHOD_BYTES_MAX {
            return Err(HeadError::RequestLine);
        }
        if path.len() > TARGET_BYTES_MAX {
            return Err(HeadError::TargetTooLong);
        }
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        self.head_bytes = head_bytes;
        let line_end = usize::from(self.target.end) + " HTTP/1.1\r\n".len();
        check_crlf(buf, line_end)?;
        let summary = framing::collect(&mut self.fields, buf, parsed.headers, head_bytes)?;
        self.settle(buf, &summary)?;
        Ok(true)
    }

    /// What follows from the fields.
    fn settle(&mut self, buf: &[u8], summary: &Summary) -> Result<(), HeadError> {
        self.present = summary.present;
        self.framing = framing::of_request(summary, self.version)?;
        self.keep_alive = summary.keep_alive(self.version);
        self.expect_continue = summary.expect_continue && self.version == Version::Http11;
        if summary.expect_other && self.version == Version::Http11 {
            return Err(HeadError::Expectation);
        }
        target::split(self, buf, summary.host)
    }
}

impl ResponseHead {
    /// Parses the head at the start of `buf`, as [`RequestHead::parse`] does. An interim response (1xx) is a complete head with
    /// [`Framing::Empty`]; the caller counts them, and refuses 101, for which it never asks.
    ///
    /// # Errors
    /// The head is not valid, ambiguous, or beyond a limit; as far as possible before it is complete.
    pub fn parse(&mut self, buf: &[u8], request_method_was_head: bool) -> Result<bool, HeadError> {
        self.parse_like(buf, request_method_was_head, &mut KnownLines::default())
    }

    /// [`Self::parse`], quicker for a head whose lines are `known`.
    ///
    /// # Errors
    /// The same.
    pub fn parse_like(
        &mut self,
        buf: &[u8],
        request_method_was_head: bool,
        known: &mut KnownLines,
    ) -> Result<bool, HeadError> {
        let window = &buf[..buf.len().min(HEAD_BYTES_MAX)];
        let mut progress = std::mem::take(&mut self.progress);
        let complete = match progress.look(window, usize::MAX)? {
            Look::Parse => self.parse_window(window, request_method_was_head, known)?,
            Look::Wait => false,
        };
        if !complete {
            progress.wait(window, usize::MAX)?;
            self.progress = progress;
        }
        Ok(complete)
    }

    /// Forgets an incomplete head.
    pub fn reset(&mut self) {
        self.progress = Progress::default();
    }

    /// The first field with an identity.
    pub fn field(&self, id: FieldId) -> Option<&Field> {
        field::find(&self.fields, self.present, id)
    }

    /// The value of the first field of a name, which is given in lower case. `buf` is what was parsed.
    pub fn named<'a>(&self, buf: &'a [u8], lowercase_name: &[u8]) -> Option<&'a [u8]> {
        field::named(&self.fields, buf, lowercase_name)
    }

    /// Appends the lines (CRLF included) of the fields that `keep` wants, in order. `buf` is what was parsed.
    pub fn copy_fields(&self, buf: &[u8], out: &mut Vec<u8>, keep: impl Fn(&Field) -> bool) {
        field::copy_fields(&self.fields, buf, out, keep);
    }

    fn parse_window(&mut self, buf: &[u8], to_head: bool, known: &mut KnownLines) -> Result<bool, HeadError> {
        if self.parse_plain(buf, to_head, known).is_some() {
            #[cfg(any(test, fuzzing))]
            assert!(
                agree(self, |other| other.parse_carefully(buf, to_head)),
                "two ways to read a head"
            );
            return Ok(true);
        }
        self.parse_carefully(buf, to_head)
    }

    /// The quick way; `None` leaves the decision to the careful one.
    pub(super) fn parse_plain(&mut self, buf: &[u8], to_head: bool, known: &mut KnownLines) -> Option<()> {
        let line = plain::status_line(buf)?;
        let mut summary = Summary::default();
        self.head_bytes = plain::fields(buf, line.end, &mut self.fields, &mut summary, known)?;
        self.status = line.status;
        self.reason = line.reason;
        self.version = plain::VERSION;
        self.settle(&summary, to_head).ok()
    }

    fn parse_carefully(&mut self, buf: &[u8], to_head: bool) -> Result<bool, HeadError> {
        if matches!(buf.first(), Some(b'\r' | b'\n')) {
            return Err(HeadError::StatusLine);
        }
        let mut headers = [const { MaybeUninit::uninit() }; HEADER_FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        self.head_bytes = match config.parse_response_with_uninit_headers(&mut parsed, buf, &mut headers) {
            Ok(Status::Complete(bytes)) => bytes,
            Ok(Status::Partial) => return Ok(false),
            Err(error) => return Err(refusal(error, buf, HeadError::StatusLine)),
        };
        let (Some(status @ 100..), Some(version)) = (parsed.code, parsed.version) else {
            return Err(HeadError::StatusRange);
        };
        self.status = status;
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        // httparse gives no reason phrase that holds bytes outside ASCII: take it from its place in the line.
        let line_end = match parsed.headers.first() {
            Some(header) => header.name.as_ptr() as usize - buf.as_ptr() as usize,
            None => self.head_bytes - 2,
        };
        check_crlf(buf, line_end)?;
        let reason_from = "HTTP/1.1 200 ".len();
        self.reason = Span::new(reason_from.min(line_end - 2), line_end - 2);
        let summary = framing::collect(&mut self.fields, buf, parsed.headers, self.head_bytes)?;
        self.settle(&summary, to_head)?;
        Ok(true)
    }

    /// What follows from the fields.
    fn settle(&mut self, summary: &Summary, to_head: bool) -> Result<(), HeadError> {
        self.present = summary.present;
        self.framing = framing::of_response(summary, self.version, self.status, to_head)?;
        self.keep_alive = summary.keep_alive(self.version) && self.framing != Framing::UntilClose;
        Ok(())
    }
}

/// How far an incomplete head was looked at: each line is visited once, however small the pieces.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Bytes already searched for line ends.
    searched: usize,
    /// Where the line that is not complete yet begins.
    line_start: usize,
}

enum Look {
    /// The head is complete, or nothing is known about it yet: parse it.
    Parse,
    /// It cannot be complete.
    Wait,
}

impl Progress {
    /// A request line that is longer cannot be sound: an empty line before it, the method, the target, the version.
    const REQUEST_LINE_BYTES_MAX: usize = 2 + METHOD_BYTES_MAX + 1 + TARGET_BYTES_MAX + " HTTP/1.1\r\n".len();

    /// Looks for the empty line in what arrived since the last time.
    #[inline]
    fn look(&mut self, window: &[u8], first_line_bytes_max: usize) -> Result<Look, HeadError> {
        if self.searched == 0 || self.searched > window.len() {
            *self = Self::default();
            if window.is_empty() {
                return Ok(Look::Wait);
            }
            // Most heads arrive whole: the parser itself says so, and nothing is scanned twice.
            return Ok(Look::Parse);
        }
        while let Some(found) = memchr::memchr(b'\n', &window[self.searched..]) {
            let line_end = self.searched + found;
            if line_end == 0 || window[line_end - 1] != b'\r' {
                return Err(HeadError::BareLf);
            }
            let empty = line_end - 1 == self.line_start;
            self.searched = line_end + 1;
            if empty && self.line_start > 0 {
                return Ok(Look::Parse);
            }
            self.line_start = self.searched;
        }
        self.searched = window.len();
        if self.line_start <= 2 && window.len() > first_line_bytes_max {
            return Err(HeadError::TargetTooLong);
        }
        Ok(Look::Wait)
    }

    /// The head is not complete: there must be room for more. After the first look, which left it to the parser, what has
    /// arrived is searched for line ends.
    fn wait(&mut self, window: &[u8], first_line_bytes_max: usize) -> Result<(), HeadError> {
        if self.searched == 0 && !window.is_empty() {
            self.searched = 1; // the parser refused an LF here
            if let Look::Parse = self.look(window, first_line_bytes_max)? {
                // An empty line, and yet the parser wants more: it can only be a head that it does not understand.
                return Err(HeadError::RequestLine);
            }
        }
        if window.len() < HEAD_BYTES_MAX {
            Ok(())
        } else {
            Err(HeadError::HeadTooLarge)
        }
    }
}

/// Whether the careful way reads a head as the quick way did, which left it in `head`. Tests and fuzz targets ask this of
/// every head.
#[cfg(any(test, fuzzing))]
fn agree<H: Default + std::fmt::Debug>(
    head: &H,
    parse_carefully: impl FnOnce(&mut H) -> Result<bool, HeadError>,
) -> bool {
    let mut other = H::default();
    parse_carefully(&mut other) == Ok(true) && format!("{head:?}") == format!("{other:?}")
}

/// Bytes of the one empty line that may stand before a request line; `None` if more must arrive to tell.
#[inline]
fn leading_empty_line(buf: &[u8]) -> Result<Option<usize>, HeadError> {
    match buf {
        [] | [b'\r'] | [b'\r', b'\n'] => Ok(None),
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(HeadError::LeadingEmptyLines),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r', ..] => Err(HeadError::BareCr),
        [b'\n', ..] => Err(HeadError::BareLf),
        _ => Ok(Some(0)),
    }
}

/// Checks that the line that ends at `end` ends with CRLF; httparse saw to LF.
#[inline]
pub(super) fn check_crlf(buf: &[u8], end: usize) -> Result<(), HeadError> {
    if buf.get(end.wrapping_sub(2)) == Some(&b'\r') {
        Ok(())
    } else {
        Err(HeadError::BareLf)
    }
}

/// What httparse's refusal means; `line` for the first line.
#[cold]
fn refusal(error: httparse::Error, buf: &[u8], line: HeadError) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::FieldName,
        httparse::Error::HeaderValue => HeadError::FieldValue,
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version if names_other_version(buf) => HeadError::Version,
        httparse::Error::NewLine => HeadError::BareCr,
        httparse::Error::Version | httparse::Error::Token | httparse::Error::Status => line,
    }
}

/// Whether the first line that is not empty names a version of HTTP that is not spoken here.
fn names_other_version(buf: &[u8]) -> bool {
    let line = buf
        .trim_ascii_start()
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    line.split(|&byte| byte == b' ').any(|word| {
        word.strip_prefix(b"HTTP/").is_some_and(|version| {
            matches!(version, [b'0'..=b'9', b'.', b'0'..=b'9']) && !matches!(version, b"1.0" | b"1.1")
        })
    })
}

#[cfg(test)]
mod tests;
