//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>): a scanner for streams that are
//! relayed as they are, a decoder for streams that are translated, and the writer.
//!
//! Invariants: lines end with LF, CR or CRLF, cut anywhere; the scanner keeps a few bytes of the line that is cut and never
//! copies the stream; the decoder's memory is bounded. Deliberately absent: reconnection, which a proxy must not do.

mod decode;
mod strip;

use memchr::memmem::Finder;

pub use decode::{Event, SseDecoder, SseError};
pub use strip::remove_usage;

/// The start of a line that is enough to know what it is: the longest name of a last event, and room.
const LINE_START_BYTES: usize = 40;
/// Some part of a chat completion is finished when this key has a value other than null.
const FINISH_KEY: &[u8] = b"\"finish_reason\"";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What one piece of a stream held. The flags speak of the events that ended in the piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Bytes of the piece up to and including its last event boundary; 0 if it has none.
    pub complete: usize,
    /// Events with data that ended in it.
    pub events: u32,
    /// One was `data: [DONE]`.
    pub done: bool,
    /// One had a `finish_reason` that is not null, or is the last of its kind: `message_stop` (Anthropic),
    /// `response.completed`, `response.incomplete`, `response.failed` (OpenAI Responses).
    pub finished: bool,
    /// One was an error: named `error`, or its data starts with `{"error"`.
    pub error: bool,
    /// One held something for the client: data, and neither an error, a ping, nor `[DONE]`.
    pub content: bool,
}

/// Finds event boundaries in a stream that is relayed as it is, and notices how it ends.
#[derive(Clone, Debug)]
pub struct EventScan {
    finder: Finder<'static>,
    /// The first bytes of the current line, if it began in an earlier piece.
    start: [u8; LINE_START_BYTES],
    /// Bytes of the current line that came in earlier pieces, counted up to a little more than fits `start`.
    line_bytes: usize,
    key: KeyMatch,
    /// The last piece ended with CR: an LF at the start of the next one belongs to it.
    after_cr: bool,
    /// The last line was an empty one.
    after_boundary: bool,
    first_line: bool,
    event: Pending,
}

/// The event whose lines are coming in.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    data: bool,
    ping: bool,
    done: bool,
    finished: bool,
    error: bool,
}

impl Default for EventScan {
    fn default() -> Self {
        Self::new()
    }
}

impl EventScan {
    /// A scanner for a stream that has not begun.
    pub fn new() -> Self {
        Self {
            finder: Finder::new(FINISH_KEY),
            start: [0; LINE_START_BYTES],
            line_bytes: 0,
            key: KeyMatch::default(),
            after_cr: false,
            after_boundary: false,
            first_line: true,
            event: Pending::default(),
        }
    }

    /// Begins a new stream.
    pub fn reset(&mut self) {
        (self.line_bytes, self.after_cr, self.after_boundary, self.first_line) = (0, false, false, true);
        (self.key, self.event) = (KeyMatch::default(), Pending::default());
    }

    /// Looks at the next bytes of the stream.
    pub fn push(&mut self, input: &[u8]) -> Scan {
        let mut scan = Scan::default();
        let mut at = 0;
        if self.after_cr && !input.is_empty() {
            self.after_cr = false;
            if input[0] == b'\n' {
                at = 1;
                // The boundary itself was complete with its CR; its LF must not be held back.
                scan.complete = usize::from(self.after_boundary);
            }
        }
        while at < input.len() {
            let rest = &input[at..];
            let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.cut_line(rest);
                break;
            };
            at += length + 1;
            if rest[length] == b'\r' {
                match input.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            let boundary = if self.line_bytes == 0 {
                self.whole_line(&rest[..length])
            } else {
                self.cut_line(&rest[..length]);
                self.end_cut_line()
            };
            self.after_boundary = boundary;
            if boundary {
                scan.complete = at;
                self.dispatch(&mut scan);
            }
        }
        scan
    }

    /// Says that the stream ended. What the last event said counts, though the empty line after it is missing: providers
    /// have been seen to close after `data: [DONE]`.
    pub fn finish(&mut self) -> Scan {
        let mut scan = Scan::default();
        if self.line_bytes > 0 {
            self.end_cut_line();
        }
        self.dispatch(&mut scan);
        scan
    }

    fn dispatch(&mut self, scan: &mut Scan) {
        let event = std::mem::take(&mut self.event);
        if !event.data {
            return;
        }
        scan.events += 1;
        scan.done |= event.done;
        scan.finished |= event.finished;
        scan.error |= event.error;
        scan.content |= !(event.done | event.error | event.ping);
    }

    /// A line that is whole in its piece; true if it is empty.
    #[inline]
    fn whole_line(&mut self, line: &[u8]) -> bool {
        let is_data = line.first() == Some(&b'd');
        if is_data && !self.event.finished {
            self.event.finished = self.finish_key(line).0 == KeyMatch::FOUND;
        }
        self.line(&line[..line.len().min(LINE_START_BYTES)], line.len())
    }

    /// A piece of a line whose end has not come yet.
    fn cut_line(&mut self, piece: &[u8]) {
        if self.line_bytes < LINE_START_BYTES {
            let taken = piece.len().min(LINE_START_BYTES - self.line_bytes);
            self.start[self.line_bytes..self.line_bytes + taken].copy_from_slice(&piece[..taken]);
        }
        // Beyond `start` only "longer than that" matters, so the count cannot overflow.
        self.line_bytes = (self.line_bytes + piece.len()).min(2 * LINE_START_BYTES);
        if self.line_bytes > 0 && self.start[0] == b'd' && !self.event.finished {
            self.event.finished = self.finish_key_cut(piece);
        }
    }

    fn end_cut_line(&mut self) -> bool {
        let (start, bytes) = (self.start, std::mem::take(&mut self.line_bytes));
        self.key = KeyMatch::default();
        self.line(&start[..bytes.min(LINE_START_BYTES)], bytes)
    }

    /// What a line of `bytes` bytes says, of which at least the start is given; true if it is empty.
    #[inline]
    fn line(&mut self, mut start: &[u8], mut bytes: usize) -> bool {
        if std::mem::take(&mut self.first_line) && start.starts_with(BYTE_ORDER_MARK) {
            start = &start[BYTE_ORDER_MARK.len()..];
            bytes -= BYTE_ORDER_MARK.len();
        }
        if bytes == 0 {
            return true;
        }
        if let Some(value) = field(start, b"data") {
            let first = !std::mem::replace(&mut self.event.data, true);
            self.event.done = first && bytes <= LINE_START_BYTES && value.trim_ascii() == b"[DONE]";
            self.event.error |= first && starts_error(value);
        } else if let Some(value) = field(start, b"event") {
            match value {
                b"ping" => self.event.ping = true,
                b"error" => self.event.error = true,
                b"message_stop" | b"response.completed" | b"response.incomplete" | b"response.failed" => {
                    self.event.finished = true;
                }
                _ => {}
            }
        }
        false
    }

    /// Searches for the finish key: found with a value other than null, cut off by the end of the text, or not there. With
    /// it comes the text after the last whole key: the quote that ends a key does not begin the next one.
    #[inline]
    fn finish_key<'a>(&self, text: &'a [u8]) -> (KeyMatch, &'a [u8]) {
        let mut rest = text;
        while let Some(found) = self.finder.find(rest) {
            rest = &rest[found + FINISH_KEY.len()..];
            let mut key = KeyMatch::KEY;
            let decided = rest.iter().any(|&byte| key.step(byte) || !key.is_value_open());
            if !decided || key == KeyMatch::FOUND {
                return (key, rest);
            }
        }
        (KeyMatch::default(), rest)
    }

    /// The same for a line in pieces: a match that is cut is carried on byte by byte.
    fn finish_key_cut(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while self.key != KeyMatch::default() {
            let Some((&byte, after)) = rest.split_first() else {
                return false;
            };
            if self.key.step(byte) {
                return true;
            }
            rest = after;
        }
        (self.key, rest) = self.finish_key(rest);
        if self.key == KeyMatch::default() {
            let from = rest.len().saturating_sub(FINISH_KEY.len() - 1);
            rest[from..].iter().for_each(|&byte| _ = self.key.step(byte));
        }
        self.key == KeyMatch::FOUND
    }
}

/// How much of `"finish_reason" : value` has matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct KeyMatch(u8);

impl KeyMatch {
    /// The whole key: white space and the colon may follow.
    const KEY: Self = Self(FINISH_KEY.len() as u8);
    /// The colon too: white space and the value may follow.
    const COLON: Self = Self(Self::KEY.0 + 1);
    /// A value other than null followed.
    const FOUND: Self = Self(Self::KEY.0 + 2);

    /// Whether the key has matched, and what follows decides.
    fn is_value_open(self) -> bool {
        matches!(self, Self::KEY | Self::COLON)
    }

    /// Takes a byte; true if it completes a match.
    fn step(&mut self, byte: u8) -> bool {
        let space = byte.is_ascii_whitespace();
        *self = match *self {
            Self::KEY | Self::COLON if space => *self,
            Self::KEY if byte == b':' => Self::COLON,
            Self::COLON if byte != b'n' => Self::FOUND,
            Self(matched) if FINISH_KEY.get(usize::from(matched)) == Some(&byte) => Self(matched + 1),
            // The key has a quote at both ends and nowhere else: a mismatch can only begin anew.
            _ => Self(u8::from(byte == FINISH_KEY[0])),
        };
        *self == Self::FOUND
    }
}

/// The value of a line, if it is of the field: what follows the colon and one space.
#[inline]
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [] => Some(b""),
        _ => None,
    }
}

/// Whether JSON data starts with the key `error`.
fn starts_error(value: &[u8]) -> bool {
    let Some(rest) = value.trim_ascii_start().strip_prefix(b"{") else {
        return false;
    };
    rest.trim_ascii_start().starts_with(b"\"error\"")
}

/// Appends an event: its name, if it has one, and its data, one `data:` line for each of its lines.
pub fn write_event(event: Option<&str>, data: &[u8], out: &mut Vec<u8>) {
    if let Some(event) = event {
        debug_assert!(!event.contains(['\r', '\n']), "names are our own");
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    let mut rest = data;
    loop {
        let end = memchr::memchr2(b'\n', b'\r', rest);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { break };
        let crlf = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
        rest = &rest[end + 1 + usize::from(crlf)..];
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests;
