//! What an answer's body must be, checked as its bytes arrive: its length, its end, and the events of a stream.
//!
//! Sans-IO; nothing of the body is kept. Invariant: the verdict does not depend on how the bytes were split.

use super::exchange::Failure;
use crate::h1::{ChunkScan, Framing, Head};

/// Bytes of a line that are kept to recognise it: enough for `data: [DONE]`.
const LINE_KEPT_BYTES: usize = 16;

/// Counts server-sent events: a `data` line makes one, the empty line after it completes it.
#[derive(Debug, Default)]
struct Events {
    complete: u64,
    done: bool,
    in_event: bool,
    line: [u8; LINE_KEPT_BYTES],
    line_len: usize,
}

impl Events {
    fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.keep(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let at = self.line_len.min(LINE_KEPT_BYTES);
        let take = bytes.len().min(LINE_KEPT_BYTES - at);
        self.line[at..at + take].copy_from_slice(&bytes[..take]);
        self.line_len += bytes.len();
    }

    fn end_line(&mut self) {
        let kept = &self.line[..self.line_len.min(LINE_KEPT_BYTES)];
        let kept = kept.strip_suffix(b"\r").unwrap_or(kept);
        if kept.is_empty() {
            if self.in_event && !self.done {
                self.complete += 1;
            }
            self.in_event = false;
        } else if kept == b"data: [DONE]" {
            self.done = true;
        } else if kept.starts_with(b"data:") {
            self.in_event = true;
        }
        self.line_len = 0;
    }
}

/// The data of a body, whatever carried it.
#[derive(Debug, Default)]
struct Data {
    bytes: u64,
    first: u8,
    last: u8,
    events: Option<Events>,
}

impl Data {
    fn push(&mut self, bytes: &[u8]) {
        if let (0, Some(first)) = (self.bytes, bytes.first()) {
            self.first = *first;
        }
        if let Some(last) = bytes.iter().rev().find(|byte| !byte.is_ascii_whitespace()) {
            self.last = *last;
        }
        self.bytes += bytes.len() as u64;
        if let Some(events) = &mut self.events {
            events.push(bytes);
        }
    }
}

/// One answer's body on its way in.
#[derive(Debug)]
pub struct BodyScan {
    framing: Framing,
    left: u64,
    chunks: ChunkScan,
    data: Data,
}

impl BodyScan {
    /// A scan of the body behind `head`; `stream` says that server-sent events are expected.
    #[must_use]
    pub fn new(head: &Head, stream: bool) -> Self {
        let left = if let Framing::Length(length) = head.framing {
            length
        } else {
            0
        };
        let data = Data {
            events: stream.then(Events::default),
            ..Data::default()
        };
        Self {
            framing: head.framing,
            left,
            chunks: ChunkScan::new(),
            data,
        }
    }

    /// Takes the next bytes; true once the body is complete.
    ///
    /// # Errors
    /// [`Failure::Framing`] for broken chunks and for bytes behind the end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        let used = match self.framing {
            Framing::Length(_) => {
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= take as u64;
                self.data.push(&bytes[..take]);
                take
            }
            Framing::Chunked => {
                let data = &mut self.data;
                self.chunks
                    .push(bytes, |run| data.push(run))
                    .map_err(|_| Failure::Framing)?
            }
            Framing::UntilClose => {
                self.data.push(bytes);
                bytes.len()
            }
        };
        if used < bytes.len() {
            Err(Failure::Framing)
        } else {
            Ok(self.is_complete())
        }
    }

    fn is_complete(&self) -> bool {
        match self.framing {
            Framing::Length(_) => self.left == 0,
            Framing::Chunked => self.chunks.is_done(),
            Framing::UntilClose => false,
        }
    }

    /// Whether the end of the connection ends this body whole.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// Complete events so far, `[DONE]` not counted.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.data.events.as_ref().map_or(0, |events| events.complete)
    }

    /// Bytes of data so far, without chunk framing.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.data.bytes
    }

    /// Judges the complete body: a JSON object, or a stream that says `[DONE]`.
    ///
    /// # Errors
    /// [`Failure::Body`] or [`Failure::NoDone`].
    pub fn verdict(&self) -> Result<(), Failure> {
        match &self.data.events {
            Some(events) if !events.done => Err(Failure::NoDone),
            None if (self.data.first, self.data.last) != (b'{', b'}') => Err(Failure::Body),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(framing: Framing) -> Head {
        Head {
            len: 0,
            status: 200,
            framing,
            close: false,
        }
    }

    #[test]
    fn events_are_counted_whatever_the_split() {
        let text = b"data: {\"a\":1}\n\n: comment\n\ndata: {\"b\":2}\r\n\r\nevent: x\ndata: {}\n\ndata: [DONE]\n\n";
        for split in 0..=text.len() {
            let mut scan = BodyScan::new(&head(Framing::Length(text.len() as u64)), true);
            assert_eq!(scan.push(&text[..split]), Ok(split == text.len()));
            assert_eq!(scan.push(&text[split..]), Ok(true));
            assert_eq!((scan.events(), scan.verdict()), (3, Ok(())), "split at {split}");
        }
    }

    #[test]
    fn a_stream_without_done_is_a_failure() {
        let mut scan = BodyScan::new(&head(Framing::Chunked), true);
        assert_eq!(scan.push(b"a\r\ndata: {}\n\n\r\n0\r\n\r\n"), Ok(true));
        assert_eq!(scan.verdict(), Err(Failure::NoDone));
    }

    #[test]
    fn bytes_behind_the_end_are_a_failure() {
        let mut scan = BodyScan::new(&head(Framing::Length(2)), false);
        assert_eq!(scan.push(b"{}x"), Err(Failure::Framing));
    }

    #[test]
    fn an_answer_that_is_no_json_object_is_a_failure() {
        let mut scan = BodyScan::new(&head(Framing::Length(4)), false);
        assert_eq!(scan.push(b"oops"), Ok(true));
        assert_eq!(scan.verdict(), Err(Failure::Body));
    }
}
