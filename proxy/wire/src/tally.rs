//! What an answer that is forwarded untranslated says it has used: [`UsageScan`] reads `usage` out of the bytes that go by.
//!
//! Invariants: one pass, in pieces of any size; only a `usage` object itself is copied, up to a bound; it is found by its place
//! in the document (`usage`, `message.usage` or `response.usage`), so that nothing that a model or a client wrote, in a
//! string or in a tool's arguments, is taken for it. What cannot be understood says nothing, and never fails an answer. A
//! document that is there as a whole is looked at from that word on, and means the same. Deliberately absent: what tokens cost.

mod path;
mod whole;

use memchr::memchr2;

use self::path::Path;
use self::whole::Seen;
use crate::chat::{ServiceTier, Usage};
use crate::dialect::Dialect;
use crate::eventstream::Decoder;
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
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        *self = Self {
            path,
            ..Self::new(dialect, framing)
        };
    }

    /// Looks at a body that is there as a whole; [`UsageScan::push`] of it does the same, at more cost.
    pub fn push_all(&mut self, body: &[u8]) {
        if let State::Whole = self.framing
            && !self.any
        {
            self.any = !body.is_empty();
            return self.whole(body);
        }
        self.push(body);
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

    /// The tier of processing that the answer names, if it does.
    pub fn tier(&self) -> Option<ServiceTier> {
        self.reader.tier().or(self.path.tier())
    }

    /// Whether the answer has any body so far.
    pub fn has_body(&self) -> bool {
        self.any
    }

    /// A whole document.
    fn whole(&mut self, document: &[u8]) {
        match whole::look(document, &mut self.reader) {
            Some(Seen::Nothing) => {}
            Some(Seen::Usage(usage, tier)) => {
                self.usage = Some(usage);
                if let Some(tier) = tier {
                    self.path.set_tier(tier);
                }
            }
            None => self.document(document),
        }
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
                Line::Data => match end {
                    Some(end) if self.path.is_fresh() && is_object(&rest[..end]) => self.whole(&rest[..end]),
                    _ => self.document(&rest[..end.unwrap_or(rest.len())]),
                },
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
                    self.whole(message.payload);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        self.framing = State::Frames(decoder);
    }
}

/// Whether a line may be a whole document: the lines of one that is spread over several do not both begin and end so.
fn is_object(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.first() == Some(&b'{') && line.last() == Some(&b'}')
}

#[cfg(test)]
mod tests;
