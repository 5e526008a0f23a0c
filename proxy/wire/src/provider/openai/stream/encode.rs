//! Events into chunks.

use super::super::response::{finish_reason, tier_word, write_annotation};
use super::super::usage::write_usage;
use super::super::write_error;
use crate::chat::{ChatEvent, Delta, Open, Out, Usage};
use crate::error::ApiError;
use crate::limits::STREAM_PARTS_MAX;
use crate::provider::Reply;

/// Writes a stream.
#[derive(Debug)]
pub struct StreamEncoder {
    /// `data: {"id":…,"choices":[{"index":`, the same for every chunk; rewritten by `Start`.
    prefix: Vec<u8>,
    id: String,
    model: String,
    created: u64,
    include_usage: bool,
    usage: Option<Usage>,
    /// The last part that opened, of each choice that has opened one.
    open: Vec<OpenPart>,
    /// (choice, part, `index` on the wire) of every tool call.
    calls: Vec<(u32, u32, u32)>,
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenPart {
    choice: u32,
    part: u32,
    kind: PartKind,
    /// How many parts of reasoning there were before.
    thoughts: u32,
    /// Whether a tool call had arguments, or a text characters.
    filled: bool,
    /// Characters of text so far.
    characters: u64,
    /// Sources so far.
    citations: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartKind {
    Text,
    Refusal,
    Thinking,
    Call,
    Other,
}

impl StreamEncoder {
    /// For one answer.
    pub fn new(reply: &Reply<'_>) -> Self {
        Self {
            prefix: Vec::new(),
            id: reply.id.to_owned(),
            model: reply.model.to_owned(),
            created: reply.created,
            include_usage: reply.include_usage,
            usage: None,
            open: Vec::new(),
            calls: Vec::new(),
            ended: false,
        }
    }

    /// Appends what `event` becomes; nothing behind the end.
    pub fn push(&mut self, event: &ChatEvent<'_>, out: &mut Out) {
        if self.ended {
            return;
        }
        match event {
            ChatEvent::Start { .. } => self.start(event),
            ChatEvent::Open { choice, part, open } => self.open(*choice, *part, open, out),
            ChatEvent::Delta { choice, part, delta } => self.delta(*choice, *part, delta, out),
            ChatEvent::Close { choice, part } => self.close(*choice, *part, out),
            ChatEvent::Finish { choice, finish, .. } => {
                self.ensure_role(*choice, out);
                self.begin(*choice, out);
                out.token("{},\"logprobs\":null,\"finish_reason\":")
                    .string(finish_reason(*finish))
                    .token("}]}\n\n");
            }
            ChatEvent::Usage(usage) => self.usage = Some(*usage),
            ChatEvent::Latency(_) => {}
            ChatEvent::Ping => out.token(": ping\n\n").done(),
            ChatEvent::Error(error) => {
                self.ended = true;
                out.token("data: ");
                write_error(error, out);
                out.token("\n\n");
            }
            ChatEvent::End => self.end(out),
        }
    }

    /// The stream was cut: one error event, and no `[DONE]`.
    pub fn interrupt(&mut self, error: &ApiError, out: &mut Out) {
        if !self.ended {
            self.ended = true;
            out.token("data: ");
            error.write_openai(&mut out.buf);
            out.token("\n\n");
        }
    }

    fn start(&mut self, event: &ChatEvent<'_>) {
        let ChatEvent::Start {
            id,
            model,
            created,
            fingerprint,
            service_tier,
        } = event
        else {
            return;
        };
        let mut head = Out::default();
        head.token("data: {\"id\":");
        if id.is_empty() {
            head.string(&self.id)
        } else {
            head.text(id)
        };
        head.token(",\"object\":\"chat.completion.chunk\",\"created\":")
            .whole(created.unwrap_or(self.created))
            .key("model");
        if model.is_empty() {
            head.string(&self.model)
        } else {
            head.text(model)
        };
        if let Some(tier) = service_tier {
            head.key("service_tier").string(tier_word(tier));
        }
        if let Some(fingerprint) = fingerprint {
            head.key("system_fingerprint").text(fingerprint);
        }
        self.prefix = head.buf;
    }

    /// Up to the value of `delta`.
    fn begin(&self, choice: u32, out: &mut Out) {
        out.buf.extend_from_slice(&self.prefix);
        out.token(",\"choices\":[{\"index\":")
            .whole(u64::from(choice))
            .token(",\"delta\":");
    }

    fn end_chunk(out: &mut Out) {
        out.token(",\"finish_reason\":null}]}\n\n");
    }

    /// The first chunk of a choice names the role.
    fn ensure_role(&mut self, choice: u32, out: &mut Out) {
        if self.open.iter().any(|open| open.choice == choice) {
            return;
        }
        self.begin(choice, out);
        out.token("{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}");
        Self::end_chunk(out);
        let kind = PartKind::Other;
        self.open.push(OpenPart {
            choice,
            part: u32::MAX,
            kind,
            thoughts: 0,
            filled: false,
            characters: 0,
            citations: 0,
        });
    }

    fn part(&mut self, choice: u32) -> &mut OpenPart {
        let at = self.open.iter().position(|open| open.choice == choice).unwrap_or(0);
        &mut self.open[at]
    }

    fn open(&mut self, choice: u32, part: u32, open: &Open<'_>, out: &mut Out) {
        self.ensure_role(choice, out);
        let kind = match open {
            Open::Text => PartKind::Text,
            Open::Refusal => PartKind::Refusal,
            Open::Thinking => PartKind::Thinking,
            Open::RedactedThinking(_) | Open::Other(..) => PartKind::Other,
            Open::ToolCall { .. } => PartKind::Call,
        };
        let last = self.part(choice);
        let thought = last.kind == PartKind::Thinking;
        (last.part, last.kind, last.filled) = (part, kind, false);
        last.thoughts += u32::from(thought);
        let thoughts = last.thoughts;
        match open {
            Open::RedactedThinking(data) => {
                self.part(choice).thoughts += 1;
                self.begin(choice, out);
                out.token("{\"reasoning_details\":[{\"type\":\"reasoning.encrypted\",\"index\":")
                    .whole(u64::from(thoughts));
                out.key("data").text(data).token("}]}");
                Self::end_chunk(out);
            }
            Open::ToolCall { id, name } => {
                let index = self.calls.iter().filter(|call| call.0 == choice).count() as u32;
                if index < STREAM_PARTS_MAX {
                    self.calls.push((choice, part, index));
                }
                self.begin(choice, out);
                out.token("{\"tool_calls\":[{\"index\":")
                    .whole(u64::from(index))
                    .key("id")
                    .text(id);
                out.token(",\"type\":\"function\",\"function\":{\"name\":")
                    .text(name)
                    .token(",\"arguments\":\"\"}}]}");
                Self::end_chunk(out);
            }
            _ => {}
        }
    }

    fn delta(&mut self, choice: u32, part: u32, delta: &Delta<'_>, out: &mut Out) {
        let open = *self.part(choice);
        match delta {
            Delta::Text(text) => {
                self.begin(choice, out);
                let key = if open.kind == PartKind::Refusal {
                    "{\"refusal\":"
                } else {
                    "{\"content\":"
                };
                out.token(key).text(text).token("}");
            }
            Delta::Thinking(text) => {
                self.begin(choice, out);
                out.token("{\"reasoning_content\":").text(text);
                out.token(",\"reasoning_details\":[{\"type\":\"reasoning.text\",\"index\":")
                    .whole(u64::from(open.thoughts));
                out.key("text").text(text).token("}]}");
            }
            Delta::Signature(signature) => {
                self.begin(choice, out);
                out.token("{\"reasoning_details\":[{\"type\":\"reasoning.text\",\"index\":")
                    .whole(u64::from(open.thoughts));
                out.key("signature").text(signature).token("}]}");
            }
            Delta::Arguments(text) => {
                let call = self.calls.iter().rfind(|call| (call.0, call.1) == (choice, part));
                let Some(&(_, _, index)) = call else { return };
                self.begin(choice, out);
                out.token("{\"tool_calls\":[{\"index\":")
                    .whole(u64::from(index))
                    .token(",\"function\":{\"arguments\":");
                out.text(text).token("}}]}");
            }
            Delta::Citation(citation) => {
                if citation.url.is_none() {
                    return;
                }
                self.begin(choice, out);
                out.token("{\"annotations\":[");
                write_annotation(citation, Some(open.citations), (0, open.characters), out);
                out.token("]}");
            }
            Delta::Logprobs(logprobs) => {
                self.begin(choice, out);
                out.token("{},\"logprobs\":").raw(logprobs);
            }
            Delta::Other(..) => return,
        }
        let counted = if let Delta::Text(text) = delta {
            text.decode().chars().count() as u64
        } else {
            0
        };
        let last = self.part(choice);
        last.characters += counted;
        last.citations += u64::from(matches!(delta, Delta::Citation(_)));
        last.filled |= last.part == part;
        Self::end_chunk(out);
    }

    fn close(&mut self, choice: u32, part: u32, out: &mut Out) {
        let open = *self.part(choice);
        // A call without arguments is a call with none: clients parse the string.
        if open.part == part && open.kind == PartKind::Call && !open.filled {
            self.delta(choice, part, &Delta::Arguments(crate::chat::Text::plain("{}")), out);
        }
    }

    fn end(&mut self, out: &mut Out) {
        self.ended = true;
        if let (true, Some(usage)) = (self.include_usage, &self.usage) {
            out.buf.extend_from_slice(&self.prefix);
            out.token(",\"choices\":[],\"usage\":");
            write_usage(usage, out);
            out.token("}\n\n");
        }
        out.token("data: [DONE]\n\n");
    }
}
