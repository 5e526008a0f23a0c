//! Several streams into one: what a second provider adds to a stream that a first one left unfinished.
//!
//! Invariants: the client's stream has one beginning, one id and one end; the text that the second stream begins with goes on
//! in the part that the first one left open; usage is the sum of all; only an answer that is nothing but text so far, and
//! not too long, can be continued. Deliberately absent: which provider goes on, and what it is asked.

use crate::chat::{ChatEvent, Delta, Open, Text, Usage};
use crate::limits::RESUMED_TEXT_BYTES_MAX;

/// What is known of a stream that may have to be continued.
#[derive(Debug, Default)]
pub(super) struct Joint {
    /// The answer so far, as the client has it.
    text: String,
    /// The answer holds something else than text, several answers, or too much: nobody else can go on with it.
    lost: bool,
    /// The part of text that is open at the client.
    open: Option<u32>,
    /// Parts that the client has seen open.
    parts: u32,
    /// Whether an earlier stream has begun the answer.
    joined: bool,
    /// Whether the first part of this stream has found its place.
    placed: bool,
    /// What is added to this stream's part numbers.
    offset: u32,
    /// The text so far ended in white space, which was kept from this stream's provider: its own is left out.
    swallow: bool,
    /// Usage of earlier streams.
    before: Usage,
    /// Usage of this one.
    last: Option<Usage>,
    finished: bool,
}

impl Joint {
    /// The text that another provider may go on from, without white space at its end, which some refuse; `None`: no other can.
    pub fn continuation(&self) -> Option<&str> {
        (!self.lost && !self.finished).then(|| self.text.trim_end())
    }

    /// The next stream goes on from [`Joint::continuation`].
    pub fn resume(&mut self) {
        self.joined = true;
        self.placed = false;
        self.offset = 0;
        self.swallow = self.text.ends_with(char::is_whitespace);
        self.before = self.total();
        self.last = None;
    }

    /// Passes one event of the current stream on to the client's, if it belongs there.
    pub fn pass(&mut self, event: &ChatEvent<'_>, push: &mut dyn FnMut(&ChatEvent<'_>)) {
        match event {
            ChatEvent::Start { .. } if self.joined => {}
            ChatEvent::Open { choice, part, open } => self.open(*choice, *part, open, push),
            ChatEvent::Delta { choice, part, delta } => self.delta(*choice, *part, delta, push),
            ChatEvent::Close { choice, part } => {
                self.open = None;
                push(&ChatEvent::Close {
                    choice: *choice,
                    part: part + self.offset,
                });
            }
            ChatEvent::Finish { .. } => {
                self.finished = true;
                self.close(push);
                push(event);
            }
            ChatEvent::Usage(usage) => {
                self.last = Some(*usage);
                push(&ChatEvent::Usage(self.total()));
            }
            // Another provider may go on; if none does, the client is told then.
            ChatEvent::Error(_) if self.continuation().is_some() => {}
            _ => push(event),
        }
    }

    fn open(&mut self, choice: u32, part: u32, open: &Open<'_>, push: &mut dyn FnMut(&ChatEvent<'_>)) {
        let is_text = choice == 0 && matches!(open, Open::Text);
        self.lost |= !is_text;
        if self.joined && !self.placed {
            self.placed = true;
            if let (Some(at), true) = (self.open, is_text) {
                self.offset = at.saturating_sub(part);
                return;
            }
            self.close(push);
            self.offset = self.parts.saturating_sub(part);
        }
        let part = part + self.offset;
        if choice == 0 {
            self.parts = part + 1;
            self.open = is_text.then_some(part);
        }
        push(&ChatEvent::Open {
            choice,
            part,
            open: open.clone(),
        });
    }

    fn delta(&mut self, choice: u32, part: u32, delta: &Delta<'_>, push: &mut dyn FnMut(&ChatEvent<'_>)) {
        let part = part + self.offset;
        let Delta::Text(text) = delta else {
            return push(&ChatEvent::Delta {
                choice,
                part,
                delta: delta.clone(),
            });
        };
        let plain = text.decode();
        let fresh = if self.swallow { plain.trim_start() } else { &plain };
        if fresh.is_empty() && !plain.is_empty() {
            return;
        }
        let delta = if fresh.len() == plain.len() {
            delta.clone()
        } else {
            Delta::Text(Text::owned(fresh.to_owned()))
        };
        self.swallow = false;
        if !self.lost && self.text.len() + fresh.len() <= RESUMED_TEXT_BYTES_MAX {
            self.text.push_str(fresh);
        } else {
            self.lost = true;
            self.text = String::new();
        }
        push(&ChatEvent::Delta { choice, part, delta });
    }

    /// Closes the part that an earlier stream left open.
    fn close(&mut self, push: &mut dyn FnMut(&ChatEvent<'_>)) {
        if let Some(part) = self.open.take() {
            push(&ChatEvent::Close { choice: 0, part });
        }
    }

    fn total(&self) -> Usage {
        let (a, b) = (&self.before, &self.last.unwrap_or_default());
        Usage {
            input: a.input.saturating_add(b.input),
            cache_read: a.cache_read.saturating_add(b.cache_read),
            cache_write: a.cache_write.saturating_add(b.cache_write),
            cache_write_1h: a.cache_write_1h.saturating_add(b.cache_write_1h),
            output: a.output.saturating_add(b.output),
            reasoning: match (a.reasoning, b.reasoning) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
            },
            input_audio: a.input_audio.saturating_add(b.input_audio),
            input_image: a.input_image.saturating_add(b.input_image),
            output_audio: a.output_audio.saturating_add(b.output_audio),
            output_image: a.output_image.saturating_add(b.output_image),
            audio_seconds: a.audio_seconds.saturating_add(b.audio_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> ChatEvent<'static> {
        ChatEvent::Start {
            id: Text::plain("first"),
            model: Text::plain("m"),
            created: None,
            fingerprint: None,
            service_tier: None,
        }
    }

    fn open(part: u32, open: Open<'static>) -> ChatEvent<'static> {
        ChatEvent::Open { choice: 0, part, open }
    }

    fn text(part: u32, text: &'static str) -> ChatEvent<'static> {
        ChatEvent::Delta {
            choice: 0,
            part,
            delta: Delta::Text(Text::plain(text)),
        }
    }

    fn close(part: u32) -> ChatEvent<'static> {
        ChatEvent::Close { choice: 0, part }
    }

    fn output(tokens: u64) -> ChatEvent<'static> {
        ChatEvent::Usage(Usage {
            output: tokens,
            ..Usage::default()
        })
    }

    /// What the client's stream is told, in short.
    fn told(joint: &mut Joint, events: &[ChatEvent<'_>]) -> Vec<String> {
        let mut told = Vec::new();
        for event in events {
            joint.pass(event, &mut |event| {
                told.push(match event {
                    ChatEvent::Start { .. } => "start".into(),
                    ChatEvent::Open { part, open, .. } => format!("open {part} {}", matches!(open, Open::Text)),
                    ChatEvent::Delta {
                        part,
                        delta: Delta::Text(text),
                        ..
                    } => format!("{part}:{}", text.decode()),
                    ChatEvent::Close { part, .. } => format!("close {part}"),
                    ChatEvent::Usage(usage) => format!("used {}", usage.output),
                    ChatEvent::End => "end".into(),
                    other => format!("{other:?}"),
                });
            });
        }
        told
    }

    #[test]
    fn a_second_stream_goes_on_in_the_part_that_the_first_left_open() {
        let mut joint = Joint::default();
        let first = [start(), open(0, Open::Text), text(0, "The quick "), output(2)];
        assert_eq!(
            told(&mut joint, &first),
            ["start", "open 0 true", "0:The quick ", "used 2"]
        );
        assert_eq!(joint.continuation(), Some("The quick"));
        joint.resume();
        let second = [
            start(),
            open(0, Open::Text),
            text(0, " "),
            text(0, " brown"),
            text(0, " fox"),
            output(3),
            close(0),
        ];
        assert_eq!(told(&mut joint, &second), ["0:brown", "0: fox", "used 5", "close 0"]);
        assert_eq!(joint.continuation(), Some("The quick brown fox"));
        joint.resume();
        assert_eq!(
            told(&mut joint, &[start(), open(0, Open::Text), text(0, ".")]),
            ["open 1 true", "1:."]
        );
    }

    #[test]
    fn a_tool_call_after_the_joint_is_a_part_of_its_own_and_the_last_thing_that_can_be_continued() {
        let mut joint = Joint::default();
        told(&mut joint, &[start(), open(0, Open::Text), text(0, "Let me look.")]);
        joint.resume();
        let call = Open::ToolCall {
            id: Text::plain("c"),
            name: Text::plain("f"),
        };
        assert_eq!(told(&mut joint, &[start(), open(0, call)]), ["close 0", "open 1 false"]);
        assert_eq!(joint.continuation(), None);
    }

    #[test]
    fn only_text_of_a_bounded_length_is_continued() {
        for lost in [
            open(0, Open::Thinking),
            open(0, Open::Refusal),
            ChatEvent::Open {
                choice: 1,
                part: 0,
                open: Open::Text,
            },
        ] {
            let mut joint = Joint::default();
            told(&mut joint, &[start(), lost]);
            assert_eq!(joint.continuation(), None);
        }
        let mut joint = Joint::default();
        told(&mut joint, &[start(), open(0, Open::Text)]);
        let long = "x".repeat(RESUMED_TEXT_BYTES_MAX / 2 + 1);
        let delta = ChatEvent::Delta {
            choice: 0,
            part: 0,
            delta: Delta::Text(Text::owned(long)),
        };
        told(&mut joint, std::slice::from_ref(&delta));
        assert!(joint.continuation().is_some());
        told(&mut joint, &[delta]);
        assert_eq!((joint.continuation(), joint.text.capacity()), (None, 0));
    }

    #[test]
    fn nothing_follows_a_finished_answer() {
        let mut joint = Joint::default();
        let finish = ChatEvent::Finish {
            choice: 0,
            finish: crate::chat::Finish::Stop,
            stop_sequence: None,
        };
        told(
            &mut joint,
            &[start(), open(0, Open::Text), text(0, "All."), close(0), finish],
        );
        assert_eq!(joint.continuation(), None);
    }
}
