//! Events into event-stream messages.

use crate::chat::{ChatEvent, Delta, Finish, Open, Out, Text, ToolIdRule, UpstreamError, Usage, tool_id};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::eventstream::{begin_event, begin_exception};
use crate::provider::Reply;
use crate::provider::bedrock::{citations, content, error, response};

/// Writes a stream.
///
/// Messages carry a checksum of all their bytes, so `out` must have been begun without a source ([`Out::begin`] with an
/// empty slice), and then holds only whole messages.
#[derive(Debug, Default)]
pub struct StreamEncoder {
    /// The part that is open, and what was written of it.
    open: Option<(u32, Written)>,
    usage: Usage,
    latency_ms: u64,
    finish: Option<(Finish, Option<Text<'static>>)>,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Nothing yet: text and reasoning begin with their first delta.
    Nothing,
    /// A start or a delta.
    Some,
    /// A part that Converse has no form for.
    Never,
}

impl StreamEncoder {
    /// At the start of a stream. Neither id nor model has a place in it.
    pub fn new(_: &Reply<'_>) -> Self {
        Self::default()
    }

    /// Appends the messages for one event; often none.
    pub fn push(&mut self, event: &ChatEvent<'_>, out: &mut Out) {
        if self.over {
            return;
        }
        match event {
            ChatEvent::Start { .. } => message("messageStart", out, |out| {
                out.token("{\"role\":\"assistant\"}");
            }),
            // Converse has one answer.
            ChatEvent::Open { choice: 1.., .. } | ChatEvent::Delta { choice: 1.., .. } => {}
            ChatEvent::Close { choice: 1.., .. } | ChatEvent::Finish { choice: 1.., .. } => {}
            ChatEvent::Open { part, open, .. } => self.open(*part, open, out),
            ChatEvent::Delta { part, delta, .. } => self.delta(*part, delta, out),
            ChatEvent::Close { part, .. } => self.close(*part, out),
            ChatEvent::Finish {
                finish, stop_sequence, ..
            } => {
                self.finish = Some((*finish, stop_sequence.clone().map(Text::into_owned)));
            }
            ChatEvent::Usage(usage) => self.usage = *usage,
            ChatEvent::Latency(latency_ms) => self.latency_ms = *latency_ms,
            ChatEvent::Ping => {}
            ChatEvent::Error(error) => self.error(error, out),
            ChatEvent::End => self.end(out),
        }
    }

    /// Appends an exception: the stream was cut, and must not look complete.
    pub fn interrupt(&mut self, error: &ApiError, out: &mut Out) {
        if !std::mem::replace(&mut self.over, true) {
            exception("modelStreamErrorException", &error.message, out);
        }
    }

    fn open(&mut self, part: u32, open: &Open<'_>, out: &mut Out) {
        let written = match open {
            Open::Text | Open::Refusal | Open::Thinking => Written::Nothing,
            Open::RedactedThinking(data) => {
                delta(part, out, |out| {
                    out.key("reasoningContent")
                        .token("{")
                        .key("redactedContent")
                        .text(&content::blob_from_redacted(data))
                        .token("}");
                });
                Written::Some
            }
            Open::ToolCall { id, name } => {
                message("contentBlockStart", out, |out| {
                    out.token("{")
                        .key("contentBlockIndex")
                        .whole(part.into())
                        .key("start")
                        .token("{")
                        .key("toolUse")
                        .token("{");
                    out.key("toolUseId")
                        .text(&tool_id(id, ToolIdRule::Any))
                        .key("name")
                        .text(name)
                        .token("}}}");
                });
                Written::Some
            }
            Open::Other(Dialect::Bedrock, raw) => {
                message("contentBlockStart", out, |out| {
                    out.token("{")
                        .key("contentBlockIndex")
                        .whole(part.into())
                        .key("start")
                        .raw(raw)
                        .token("}");
                });
                Written::Some
            }
            Open::Other(..) => Written::Never,
        };
        self.open = Some((part, written));
    }

    fn delta(&mut self, part: u32, piece: &Delta<'_>, out: &mut Out) {
        match piece {
            Delta::Text(text) => delta(part, out, |out| {
                out.key("text").text(text);
            }),
            Delta::Thinking(text) => delta(part, out, |out| {
                out.key("reasoningContent").token("{").key("text").text(text).token("}");
            }),
            Delta::Signature(signature) => delta(part, out, |out| {
                out.key("reasoningContent")
                    .token("{")
                    .key("signature")
                    .text(signature)
                    .token("}");
            }),
            Delta::Arguments(text) => delta(part, out, |out| {
                out.key("toolUse").token("{").key("input").text(text).token("}");
            }),
            Delta::Citation(citation) => delta(part, out, |out| {
                out.key("citation");
                citations::write_citation(citation, out);
            }),
            Delta::Other(Dialect::Bedrock, raw) => message("contentBlockDelta", out, |out| {
                out.token("{")
                    .key("contentBlockIndex")
                    .whole(part.into())
                    .key("delta")
                    .raw(raw)
                    .token("}");
            }),
            Delta::Other(..) | Delta::Logprobs(_) => return,
        }
        // A late delta of a call that is closed already changes nothing about the part that is open now.
        if let Some((open, written)) = &mut self.open
            && *open == part
        {
            *written = Written::Some;
        }
    }

    fn close(&mut self, part: u32, out: &mut Out) {
        match self.open {
            Some((open, written)) if open == part => {
                self.open = None;
                if written == Written::Some {
                    message("contentBlockStop", out, |out| {
                        out.token("{").key("contentBlockIndex").whole(part.into()).token("}");
                    });
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, out: &mut Out) {
        self.over = true;
        let (finish, stop_sequence) = self.finish.take().unwrap_or((Finish::Stop, None));
        message("messageStop", out, |out| {
            out.token("{")
                .key("stopReason")
                .string(response::stop_reason(Some(finish)));
            if let Some(stop) = &stop_sequence {
                out.key("additionalModelResponseFields")
                    .token("{")
                    .key("stop_sequence")
                    .text(stop)
                    .token("}");
            }
            out.token("}");
        });
        let (usage, latency_ms) = (self.usage, self.latency_ms);
        message("metadata", out, |out| {
            out.token("{").key("usage");
            response::write_usage(&usage, out);
            out.key("metrics")
                .token("{")
                .key("latencyMs")
                .whole(latency_ms)
                .token("}}");
        });
    }

    fn error(&mut self, error: &UpstreamError, out: &mut Out) {
        self.over = true;
        exception(error::stream_exception(error.kind), error.client_message(), out);
    }
}

/// One event whose payload `write` appends.
fn message(name: &str, out: &mut Out, write: impl FnOnce(&mut Out)) {
    let open = begin_event(name, &mut out.buf);
    write(out);
    debug_assert!(out.splices().is_empty(), "a message must lie in one piece to be summed");
    // Over its bound only if one event of the other side was; it is then left out, for half of it would be worse.
    let _ = open.finish(&mut out.buf);
}

/// A `contentBlockDelta` whose `delta` object `write` fills.
fn delta(part: u32, out: &mut Out, write: impl FnOnce(&mut Out)) {
    message("contentBlockDelta", out, |out| {
        out.token("{")
            .key("contentBlockIndex")
            .whole(part.into())
            .key("delta")
            .token("{");
        write(out);
        out.token("}}");
    });
}

fn exception(name: &str, text: &str, out: &mut Out) {
    let open = begin_exception(name, &mut out.buf);
    error::write_message(text, out);
    let _ = open.finish(&mut out.buf);
}
