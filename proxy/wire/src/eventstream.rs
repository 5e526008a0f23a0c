//! AWS event-stream framing (`application/vnd.amazon.eventstream`): an incremental decoder and an encoder.
//!
//! Invariants: both CRCs of every message are checked before anything in it is shown; a message that lies whole in the input
//! is borrowed from there, one that is split is gathered in a buffer that never exceeds
//! [`limits::EVENTSTREAM_MESSAGE_BYTES_MAX`]; after an error the decoder stays in error, for the framing is lost.
//! Deliberately absent: what the payloads mean (`provider/bedrock`), and message signing (`:chunk-signature`), which
//! no Bedrock operation uses.
//!
//! Layout, all integers big-endian
//! (<https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html>,
//! <https://smithy.io/2.0/aws/amazon-eventstream.html>):
//!
//! ```text
//! | total length u32 | headers length u32 | CRC32 of these 8 bytes | headers | payload | CRC32 of all before |
//! header = | name length u8 | name | type u8 | value |
//! ```

use crate::limits;

/// Prelude (two lengths and their CRC), in bytes.
const PRELUDE_BYTES: usize = 12;
/// CRC at the end of a message, in bytes.
const TRAILER_BYTES: usize = 4;
/// Smallest message: no headers, no payload.
const MESSAGE_BYTES_MIN: usize = PRELUDE_BYTES + TRAILER_BYTES;

/// Why a byte sequence is not an event stream. None can be repaired: the start of the next message is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The CRC of the two lengths does not match.
    PreludeCrc,
    /// The CRC of the whole message does not match.
    MessageCrc,
    /// The lengths contradict each other.
    Length,
    /// The message, or its header section, is over the bound in [`limits`].
    TooLarge,
    /// A header is cut, unnamed, of an unknown type, not UTF-8 where it must be, or a `:` header comes twice.
    Header,
    /// The stream ended inside a message.
    Truncated,
}

/// The value of one header; the discriminants are the wire's type codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderValue<'a> {
    /// Codes 0 (true) and 1 (false).
    Bool(bool),
    /// Code 2.
    Byte(i8),
    /// Code 3.
    Short(i16),
    /// Code 4.
    Integer(i32),
    /// Code 5.
    Long(i64),
    /// Code 6, at most 65,535 bytes.
    Bytes(&'a [u8]),
    /// Code 7, at most 65,535 bytes of UTF-8.
    String(&'a str),
    /// Code 8, milliseconds since the Unix epoch.
    Timestamp(i64),
    /// Code 9.
    Uuid([u8; 16]),
}

/// One message, borrowed; headers and CRCs are already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `:message-type`: `event`, `exception` or `error`; absent counts as `event`.
    pub kind: MessageKind,
    /// `:event-type`, empty if absent.
    pub event_type: &'a str,
    /// `:exception-type` of an exception, `:error-code` of an error, else empty.
    pub exception_type: &'a str,
    /// `:error-message` of an error, else empty.
    pub error_message: &'a str,
    /// `:content-type`, empty if absent.
    pub content_type: &'a str,
    /// The payload, JSON for Bedrock.
    pub payload: &'a [u8],
    headers: &'a [u8],
}

/// What `:message-type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A normal event.
    Event,
    /// An error that the service's model describes; the payload says more.
    Exception,
    /// An error that it does not describe; `:error-code` and `:error-message` are all there is.
    Error,
    /// A kind that this specification does not name.
    Other,
}

impl<'a> Message<'a> {
    /// All headers in order of the wire, the known ones included.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers }
    }
}

/// Walks the headers of a message.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, HeaderValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        // A `Message` exists only after all its headers were parsed once, so there is no error to lose here.
        take_header(&mut self.rest).ok()
    }
}

/// Incremental decoder: feed it what arrives, take messages until it wants more.
///
/// ```text
///            input < 12 bytes        lengths fit, CRC good         last byte, CRC good
///  PRELUDE ------------------> PRELUDE ----------------> BODY --------------------------> PRELUDE, message out
///     |                                                   |
///     +---- bad CRC / lengths --------> FAILED <----------+  (final)
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    /// The message in progress, from its first byte; empty between messages.
    partial: Vec<u8>,
    /// `partial` is a whole message that the caller has seen; it is dropped at the next call.
    shown: bool,
    failed: Option<FrameError>,
}

/// What the first four bytes of a message say of its length, all of it included. `None` if they are not there.
pub fn stated_bytes(stream: &[u8]) -> Option<usize> {
    let total = stream.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*total)).ok()
}

impl Decoder {
    /// A decoder at the start of a stream. Allocates nothing until a message is split.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next whole message from what was kept and from `input`, which is advanced past what was used;
    /// `None` when more bytes are needed, and then all of `input` is used.
    ///
    /// # Errors
    /// Any [`FrameError`] but `Truncated`; the same one again at every later call.
    pub fn next_message<'d, 'i: 'd>(&'d mut self, input: &mut &'i [u8]) -> Result<Option<Message<'d>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.shown {
            self.shown = false;
            self.partial.clear();
            self.partial.shrink_to(limits::EVENTSTREAM_RETAINED_BYTES_MAX);
        }
        let whole: &[u8] = match self.take(input) {
            Ok(Taken::More) => return Ok(None),
            Ok(Taken::Borrowed(message)) => message,
            Ok(Taken::Gathered) => &self.partial,
            Err(error) => {
                self.failed = Some(error);
                return Err(error);
            }
        };
        match open(whole) {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// To be called at the end of the stream.
    ///
    /// # Errors
    /// `Truncated` if it ended inside a message, or the error that came before.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.partial.is_empty() || self.shown => Ok(()),
            None => Err(FrameError::Truncated),
        }
    }

    /// Bytes of the message in progress that are held, for accounting.
    pub fn held_bytes(&self) -> usize {
        if self.shown { 0 } else { self.partial.len() }
    }

    fn take<'i>(&mut self, input: &mut &'i [u8]) -> Result<Taken<'i>, FrameError> {
        if self.partial.is_empty() && input.len() >= PRELUDE_BYTES {
            let total = message_bytes(input)?;
            if let Some((message, rest)) = input.split_at_checked(total) {
                *input = rest;
                return Ok(Taken::Borrowed(message));
            }
        }
        self.gather(PRELUDE_BYTES, input);
        if self.partial.len() < PRELUDE_BYTES {
            return Ok(Taken::More);
        }
        // The prelude is checked before a byte of the body is kept, so a wrong length never makes us wait or grow.
        let total = message_bytes(&self.partial)?;
        self.gather(total, input);
        if self.partial.len() < total {
            return Ok(Taken::More);
        }
        self.shown = true;
        Ok(Taken::Gathered)
    }

    fn gather(&mut self, bytes: usize, input: &mut &[u8]) {
        let wanted = bytes.saturating_sub(self.partial.len()).min(input.len());
        let (part, rest) = input.split_at(wanted);
        self.partial.extend_from_slice(part);
        *input = rest;
    }
}

/// A message being written: its payload is what the caller appends to the same buffer until [`OpenMessage::finish`].
#[must_use = "a message without its lengths and CRCs is not a message"]
#[derive(Debug)]
pub struct OpenMessage {
    start: usize,
    payload: usize,
}

/// Starts a message with these headers; the caller then appends the payload to `out`.
///
/// # Errors
/// `Header` if a name is empty or longer than 255 bytes, or a value longer than 65,535; `out` is then unchanged.
pub fn begin(headers: &[(&str, HeaderValue<'_>)], out: &mut Vec<u8>) -> Result<OpenMessage, FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; PRELUDE_BYTES]);
    for (name, value) in headers {
        if put_header(name, *value, out).is_none() {
            out.truncate(start);
            return Err(FrameError::Header);
        }
    }
    Ok(OpenMessage {
        start,
        payload: out.len(),
    })
}

/// Starts an event with a JSON payload, headers in the order that AWS sends them. `event_type` is cut at 255 bytes, which
/// no operation reaches.
pub fn begin_event(event_type: &str, out: &mut Vec<u8>) -> OpenMessage {
    begin_json(":event-type", event_type, "event", out)
}

/// Starts an exception with a JSON payload (`{"message": …}`).
pub fn begin_exception(exception_type: &str, out: &mut Vec<u8>) -> OpenMessage {
    begin_json(":exception-type", exception_type, "exception", out)
}

impl OpenMessage {
    /// Writes lengths and CRCs. `out` must be the buffer that the message was begun in, with only the payload appended.
    ///
    /// # Errors
    /// `TooLarge` if the message is over its bound; it is then taken back out of the buffer.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        assert!(
            out.len() >= self.payload,
            "the buffer shrank below the start of the payload"
        );
        let total = out.len() - self.start + TRAILER_BYTES;
        let headers = self.payload - self.start - PRELUDE_BYTES;
        if total > limits::EVENTSTREAM_MESSAGE_BYTES_MAX || headers > limits::EVENTSTREAM_HEADERS_BYTES_MAX {
            out.truncate(self.start);
            return Err(FrameError::TooLarge);
        }
        let message = &mut out[self.start..];
        // Both fit 32 bits: the bounds are asserted to in `limits`.
        message[..4].copy_from_slice(&(total as u32).to_be_bytes());
        message[4..8].copy_from_slice(&(headers as u32).to_be_bytes());
        let prelude_crc = crc32fast::hash(&message[..8]);
        message[8..12].copy_from_slice(&prelude_crc.to_be_bytes());
        let crc = crc32fast::hash(message);
        out.extend_from_slice(&crc.to_be_bytes());
        Ok(())
    }
}

enum Taken<'i> {
    More,
    Borrowed(&'i [u8]),
    Gathered,
}

/// The total length that a prelude announces, once its CRC and both lengths are sound.
fn message_bytes(bytes: &[u8]) -> Result<usize, FrameError> {
    let (prelude, _) = bytes.split_first_chunk::<PRELUDE_BYTES>().ok_or(FrameError::Length)?;
    let total = be_u32(prelude, 0) as usize;
    let headers = be_u32(prelude, 4) as usize;
    if crc32fast::hash(&prelude[..8]) != be_u32(prelude, 8) {
        return Err(FrameError::PreludeCrc);
    }
    if total < MESSAGE_BYTES_MIN || headers > total - MESSAGE_BYTES_MIN {
        return Err(FrameError::Length);
    }
    if total > limits::EVENTSTREAM_MESSAGE_BYTES_MAX || headers > limits::EVENTSTREAM_HEADERS_BYTES_MAX {
        return Err(FrameError::TooLarge);
    }
    Ok(total)
}

fn be_u32(prelude: &[u8; PRELUDE_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([prelude[at], prelude[at + 1], prelude[at + 2], prelude[at + 3]])
}

/// Checks the CRC of a whole message and parses its headers. `message_bytes` has accepted its prelude.
fn open(message: &[u8]) -> Result<Message<'_>, FrameError> {
    let (body, trailer) = message.split_last_chunk::<TRAILER_BYTES>().ok_or(FrameError::Length)?;
    if crc32fast::hash(body) != u32::from_be_bytes(*trailer) {
        return Err(FrameError::MessageCrc);
    }
    let (prelude, rest) = body.split_first_chunk::<PRELUDE_BYTES>().ok_or(FrameError::Length)?;
    let (headers, payload) = rest
        .split_at_checked(be_u32(prelude, 4) as usize)
        .ok_or(FrameError::Length)?;
    let mut view = Message {
        kind: MessageKind::Event,
        event_type: "",
        exception_type: "",
        error_message: "",
        content_type: "",
        payload,
        headers,
    };
    let mut seen = 0u8;
    let mut left = headers;
    while !left.is_empty() {
        let (name, value) = take_header(&mut left)?;
        let HeaderValue::String(text) = value else { continue };
        let (bit, slot) = match name {
            ":message-type" => {
                view.kind = match text {
                    "event" => MessageKind::Event,
                    "exception" => MessageKind::Exception,
                    "error" => MessageKind::Error,
                    _ => MessageKind::Other,
                };
                (1, None)
            }
            ":event-type" => (2, Some(&mut view.event_type)),
            ":exception-type" => (4, Some(&mut view.exception_type)),
            ":error-code" => (4, Some(&mut view.exception_type)),
            ":error-message" => (8, Some(&mut view.error_message)),
            ":content-type" => (16, Some(&mut view.content_type)),
            _ => continue,
        };
        if seen & bit != 0 {
            return Err(FrameError::Header);
        }
        seen |= bit;
        if let Some(slot) = slot {
            *slot = text;
        }
    }
    Ok(view)
}

fn take_header<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, HeaderValue<'a>), FrameError> {
    let name_bytes = take::<1>(rest)?[0];
    if name_bytes == 0 {
        return Err(FrameError::Header);
    }
    let name = text(take_slice(rest, usize::from(name_bytes))?)?;
    let value = match take::<1>(rest)?[0] {
        0 => HeaderValue::Bool(true),
        1 => HeaderValue::Bool(false),
        2 => HeaderValue::Byte(i8::from_be_bytes(take(rest)?)),
        3 => HeaderValue::Short(i16::from_be_bytes(take(rest)?)),
        4 => HeaderValue::Integer(i32::from_be_bytes(take(rest)?)),
        5 => HeaderValue::Long(i64::from_be_bytes(take(rest)?)),
        6 => HeaderValue::Bytes(take_sized(rest)?),
        7 => HeaderValue::String(text(take_sized(rest)?)?),
        8 => HeaderValue::Timestamp(i64::from_be_bytes(take(rest)?)),
        9 => HeaderValue::Uuid(take(rest)?),
        _ => return Err(FrameError::Header),
    };
    Ok((name, value))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(FrameError::Header)?;
    *rest = tail;
    Ok(*head)
}

fn take_slice<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], FrameError> {
    let (head, tail) = rest.split_at_checked(bytes).ok_or(FrameError::Header)?;
    *rest = tail;
    Ok(head)
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FrameError> {
    let bytes = u16::from_be_bytes(take(rest)?);
    take_slice(rest, usize::from(bytes))
}

fn text(bytes: &[u8]) -> Result<&str, FrameError> {
    std::str::from_utf8(bytes).map_err(|_| FrameError::Header)
}

fn put_header(name: &str, value: HeaderValue<'_>, out: &mut Vec<u8>) -> Option<()> {
    let name_bytes = u8::try_from(name.len()).ok().filter(|&bytes| bytes > 0)?;
    out.push(name_bytes);
    out.extend_from_slice(name.as_bytes());
    let mut put = |code: u8, bytes: &[u8]| {
        out.push(code);
        out.extend_from_slice(bytes);
    };
    match value {
        HeaderValue::Bool(true) => put(0, &[]),
        HeaderValue::Bool(false) => put(1, &[]),
        HeaderValue::Byte(value) => put(2, &value.to_be_bytes()),
        HeaderValue::Short(value) => put(3, &value.to_be_bytes()),
        HeaderValue::Integer(value) => put(4, &value.to_be_bytes()),
        HeaderValue::Long(value) => put(5, &value.to_be_bytes()),
        HeaderValue::Bytes(value) => {
            put(6, &u16::try_from(value.len()).ok()?.to_be_bytes());
            out.extend_from_slice(value);
        }
        HeaderValue::String(value) => {
            put(7, &u16::try_from(value.len()).ok()?.to_be_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        HeaderValue::Timestamp(value) => put(8, &value.to_be_bytes()),
        HeaderValue::Uuid(value) => put(9, &value),
    }
    Some(())
}

fn begin_json(type_name: &str, type_value: &str, kind: &str, out: &mut Vec<u8>) -> OpenMessage {
    let type_value = &type_value[..type_value.floor_char_boundary(255)];
    let headers = [
        (type_name, HeaderValue::String(type_value)),
        (":content-type", HeaderValue::String("application/json")),
        (":message-type", HeaderValue::String(kind)),
    ];
    begin(&headers, out).expect("names are constants and values at most 255 bytes")
}

#[cfg(test)]
mod tests;
