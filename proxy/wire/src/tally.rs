//! What an answer that is forwarded untranslated says it has used: [`UsageScan`] reads `usage` out of the bytes that go by.
//!
//! Invariants: one pass, in pieces of any size; only a `usage` object itself is copied, up to a bound; it is found by its place
//! in the document (`usage`, `message.usage` or `response.usage`), so that nothing that a model or a client wrote, in a
//! string or in a tool's arguments, is taken for it. What cannot be understood says nothing, and never fails an answer.
//! Deliberately absent: what tokens cost.

use memchr::memchr2;

use crate::chat::Usage;
use crate::dialect::Dialect;
use crate::eventstream::Decoder;
use crate::limits::USAGE_BYTES_MAX;
use crate::provider::UsageReader;

/// How an answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One JSON document.
    Whole,
    /// Server-sent events, each with a JSON document.
    Events,
    /// AWS event-stream messages, each with a JSON document.
    Frames,
}

/// A scanner of one answer at a time.
#[derive(Debug)]
pub struct UsageScan {
    framing: State,
    path: Path,
    reader: UsageReader,
    usage: Option<Usage>,
    any: bool,
}

#[derive(Debug)]
enum State {
    Whole,
    Events(Line),
    Frames(Box<Decoder>),
    /// The frames cannot be read any further.
    Lost,
}

/// Where a line of server-sent events stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:` have gone by, and nothing else.
    Begin(u8),
    Data,
    Other,
}

const DATA: &[u8] = b"data:";

/// A scanner of an answer that is one document of OpenAI's.
impl Default for UsageScan {
    fn default() -> Self {
        Self::new(Dialect::OpenAi, Framing::Whole)
    }
}

impl UsageScan {
    /// A scanner for an answer that has not begun.
    pub fn new(dialect: Dialect, framing: Framing) -> Self {
        let framing = match framing {
            Framing::Whole => State::Whole,
            Framing::Events => State::Events(Line::Begin(0)),
            Framing::Frames => State::Frames(Box::new(Decoder::new())),
        };
        Self {
            framing,
            path: Path::default(),
            reader: UsageReader::new(dialect),
            usage: None,
            any: false,
        }
    }

    /// Begins another answer; memory is reused.
    pub fn reset(&mut self, dialect: Dialect, framing: Framing) {
        let object = std::mem::take(&mut self.path.object);
        *self = Self::new(dialect, framing);
        self.path.object = object;
    }

    /// Looks at the next bytes of the answer's body, in order.
    pub fn push(&mut self, input: &[u8]) {
        self.any |= !input.is_empty();
        match &mut self.framing {
            State::Whole => self.document(input),
            State::Events(line) => {
                let line = *line;
                let line = self.lines(line, input);
                self.framing = State::Events(line);
            }
            State::Frames(_) => self.frames(input),
            State::Lost => {}
        }
    }

    /// What was said last; of a stream that reports in parts, all of it together.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether the answer has any body so far.
    pub fn has_body(&self) -> bool {
        self.any
    }

    fn document(&mut self, input: &[u8]) {
        let (reader, usage) = (&mut self.reader, &mut self.usage);
        self.path.push(input, &mut |object| {
            if let Some(found) = reader.read(object) {
                *usage = Some(found);
            }
        });
    }

    fn lines(&mut self, mut line: Line, input: &[u8]) -> Line {
        let mut rest = input;
        while let Some(&first) = rest.first() {
            let end = memchr2(b'\n', b'\r', rest);
            match line {
                Line::Begin(_) if end == Some(0) => {
                    // An empty line ends an event; the second half of CRLF is one more.
                    self.path.begin();
                    rest = &rest[1..];
                    line = Line::Begin(0);
                    continue;
                }
                Line::Begin(at) if DATA.get(usize::from(at)) == Some(&first) => {
                    let at = at + 1;
                    line = if usize::from(at) == DATA.len() {
                        Line::Data
                    } else {
                        Line::Begin(at)
                    };
                    rest = &rest[1..];
                    continue;
                }
                Line::Begin(_) => line = Line::Other,
                Line::Data => self.document(&rest[..end.unwrap_or(rest.len())]),
                Line::Other => {}
            }
            match end {
                Some(end) if line != Line::Other || end < rest.len() => {
                    // CRLF is one end: its second half must not look like an empty line before the next `data:`.
                    let crlf = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
                    rest = &rest[end + 1 + usize::from(crlf)..];
                    line = Line::Begin(0);
                }
                _ => return line,
            }
        }
        line
    }

    fn frames(&mut self, input: &[u8]) {
        let State::Frames(mut decoder) = std::mem::replace(&mut self.framing, State::Lost) else {
            return;
        };
        let mut rest = input;
        loop {
            match decoder.next_message(&mut rest) {
                Ok(Some(message)) => {
                    self.path.begin();
                    self.document(message.payload);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        self.framing = State::Frames(decoder);
    }
}

/// What a key says of its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Other,
    /// `usage`.
    Usage,
    /// `message` or `response`: what a stream's events wrap.
    Wrapper,
}

/// Where in a JSON document the next byte stands, as far as that matters.
#[derive(Debug, Default)]
struct Path {
    depth: u32,
    /// The kinds of the open brackets, outermost in bit 0: 1 is an object.
    kinds: u128,
    in_string: bool,
    escaped: bool,
    expects_key: bool,
    /// Of the key under way, if it may matter; longer ones do not.
    key: [u8; 8],
    key_len: Option<u8>,
    /// The current keys of the outermost two objects.
    names: [Name; 2],
    /// The object that is being copied, and the depth at which it ends.
    object: Vec<u8>,
    object_depth: Option<u32>,
    /// Nested too deeply to be followed.
    lost: bool,
}

impl Path {
    /// Before a document; memory is reused.
    fn begin(&mut self) {
        let object = std::mem::take(&mut self.object);
        *self = Self {
            object,
            ..Self::default()
        };
    }

    fn push(&mut self, input: &[u8], found: &mut dyn FnMut(&[u8])) {
        let mut at = 0;
        // From where on what is copied is not copied yet.
        let mut from = 0;
        while at < input.len() && !self.lost {
            if self.in_string {
                at = self.string(input, at);
                continue;
            }
            let was_copying = self.object_depth.is_some();
            self.structure(input[at]);
            if !was_copying && self.object_depth.is_some() {
                from = at;
            }
            at += 1;
            if self.object_depth == Some(self.depth) {
                self.copy(&input[from..at]);
                if self.object_depth.take().is_some() {
                    found(&self.object);
                }
            }
        }
        if self.object_depth.is_some() {
            self.copy(&input[from..at]);
        }
    }

    /// Copies more of the object, unless it becomes too large to be what it should be.
    fn copy(&mut self, more: &[u8]) {
        if self.object.len() + more.len() > USAGE_BYTES_MAX {
            self.object_depth = None;
        } else {
            self.object.extend_from_slice(more);
        }
    }

    /// Goes on within a string; returns where to go on.
    fn string(&mut self, input: &[u8], at: usize) -> usize {
        if std::mem::take(&mut self.escaped) {
            self.key_len = None;
            return at + 1;
        }
        let rest = &input[at..];
        let stop = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        if let Some(len) = self.key_len {
            let (from, to) = (usize::from(len), usize::from(len) + stop);
            self.key_len = self.key.get_mut(from..to).map(|room| {
                room.copy_from_slice(&rest[..stop]);
                to as u8
            });
        }
        match rest.get(stop) {
            Some(b'"') => {
                self.in_string = false;
                self.end_key();
                at + stop + 1
            }
            Some(_) => {
                self.escaped = true;
                at + stop + 1
            }
            None => input.len(),
        }
    }

    fn end_key(&mut self) {
        if !self.expects_key || !(1..=2).contains(&self.depth) {
            return;
        }
        let len = self.key_len.take().unwrap_or(0);
        self.names[self.depth as usize - 1] = match &self.key[..usize::from(len)] {
            b"usage" => Name::Usage,
            b"message" | b"response" => Name::Wrapper,
            _ => Name::Other,
        };
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                self.key_len = (self.expects_key && self.depth <= 2).then_some(0);
            }
            b'{' | b'[' => {
                let is_usage = match self.depth {
                    1 => self.names[0] == Name::Usage,
                    2 => self.names == [Name::Wrapper, Name::Usage],
                    _ => false,
                };
                if self.depth >= u128::BITS {
                    self.lost = true;
                    return;
                }
                if is_usage && byte == b'{' && self.object_depth.is_none() {
                    self.object.clear();
                    self.object_depth = Some(self.depth);
                }
                self.expects_key = byte == b'{';
                self.kinds &= !(1 << self.depth);
                self.kinds |= u128::from(self.expects_key) << self.depth;
                self.depth += 1;
                if let Some(name) = self.names.get_mut(self.depth as usize - 1) {
                    *name = Name::Other;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.expects_key = false;
            }
            b':' => self.expects_key = false,
            b',' => self.expects_key = self.depth > 0 && self.kinds >> (self.depth - 1) & 1 == 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
