//! What a stream that is forwarded untranslated says of itself: where its events end, and whether it is complete.
//!
//! Invariants: the bytes are only looked at; both framings answer in the same terms. Deliberately absent: translation.

use crate::eventstream::{Decoder, MessageKind};
use crate::sse::{EventScan, Scan};

/// The watcher of one stream.
#[derive(Debug, Default)]
pub enum StreamWatch {
    /// Of server-sent events.
    Events(Box<EventScan>),
    /// Of AWS event-stream frames.
    Frames(Decoder),
    /// Between two streams.
    #[default]
    Idle,
}

impl StreamWatch {
    /// Starts over, for server-sent events or for AWS frames; a scanner's memory is reused.
    pub fn begin(&mut self, frames: bool) {
        match self {
            Self::Events(scan) if !frames => scan.reset(),
            _ if frames => *self = Self::Frames(Decoder::new()),
            _ => *self = Self::Events(Box::default()),
        }
    }

    /// Looks at the next bytes; `None` if they are no stream of this framing (a bad checksum, for instance).
    pub fn push(&mut self, input: &[u8]) -> Option<Scan> {
        match self {
            Self::Events(scan) => Some(scan.push(input)),
            Self::Frames(decoder) => frames(decoder, input),
            Self::Idle => None,
        }
    }

    /// Looks at what is left at the end of the stream: an event without the empty line behind it still counts.
    pub fn finish(&mut self) -> Scan {
        match self {
            Self::Events(scan) => scan.finish(),
            Self::Frames(_) | Self::Idle => Scan::default(),
        }
    }
}

fn frames(decoder: &mut Decoder, input: &[u8]) -> Option<Scan> {
    let mut seen = Scan::default();
    let mut rest = input;
    while let Some(message) = decoder.next_message(&mut rest).ok()? {
        seen.events += 1;
        match message.kind {
            MessageKind::Event if message.event_type == "metadata" => seen.finished = true,
            MessageKind::Event => seen.content = true,
            MessageKind::Exception | MessageKind::Error => seen.error = true,
            MessageKind::Other => {}
        }
        seen.complete = input.len() - rest.len();
    }
    Some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventstream::{begin_event, begin_exception};

    fn frame(name: &str, exception: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let open = if exception {
            begin_exception(name, &mut out)
        } else {
            begin_event(name, &mut out)
        };
        out.extend_from_slice(b"{}");
        open.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn frames_end_where_they_end_and_say_what_they_are() {
        let (start, end) = (frame("messageStart", false), frame("metadata", false));
        let both = [start.clone(), end].concat();
        for cut in 0..both.len() {
            let mut watch = StreamWatch::default();
            watch.begin(true);
            let first = watch.push(&both[..cut]).unwrap();
            let second = watch.push(&both[cut..]).unwrap();
            assert_eq!(
                first.complete,
                if cut < start.len() { 0 } else { start.len() },
                "cut at {cut}"
            );
            assert!(first.content || second.content);
            assert!(second.finished && !first.finished);
            assert_eq!(cut + second.complete, both.len());
        }
    }

    #[test]
    fn an_exception_is_an_error_and_a_bad_checksum_is_no_stream() {
        let mut watch = StreamWatch::default();
        watch.begin(true);
        assert!(watch.push(&frame("throttlingException", true)).unwrap().error);
        let mut broken = frame("messageStart", false);
        let last = broken.len() - 1;
        broken[last] ^= 1;
        watch.begin(true);
        assert!(watch.push(&broken).is_none());
    }
}
