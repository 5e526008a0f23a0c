//! Events of the model into message events.

use super::super::response::{stop_reason, write_citation, write_usage};
use super::super::write_error;
use crate::chat::{ChatEvent, Delta, Finish, Open, Out, Text, Usage};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::limits::STREAM_PARTS_MAX;
use crate::provider::Reply;

/// Writes a stream of one answer; others are left out.
#[derive(Debug)]
pub struct StreamEncoder {
    id: String,
    model: String,
    /// Blocks that were begun.
    blocks: u32,
    /// (part, index on the wire) of every block that is open or that may still get deltas.
    live: Vec<(u32, u32)>,
    finish: Option<(Finish, Option<Text<'static>>)>,
    usage: Usage,
    tier: Option<Text<'static>>,
    ended: bool,
}

impl StreamEncoder {
    /// For one answer.
    pub fn new(reply: &Reply<'_>) -> Self {
        Self {
            id: reply.id.to_owned(),
            model: reply.model.to_owned(),
            blocks: 0,
            live: Vec::new(),
            finish: None,
            usage: Usage::default(),
            tier: None,
            ended: false,
        }
    }

    /// Appends what `event` becomes; nothing behind the end.
    pub fn push(&mut self, event: &ChatEvent<'_>, out: &mut Out) {
        if self.ended {
            return;
        }
        match event {
            ChatEvent::Start {
                id,
                model,
                service_tier,
                ..
            } => self.start(id, model, service_tier.as_ref(), out),
            ChatEvent::Open { choice: 0, part, open } => self.open(*part, open, out),
            ChatEvent::Delta { choice: 0, part, delta } => self.delta(*part, delta, out),
            ChatEvent::Close { choice: 0, part } => self.close(*part, out),
            ChatEvent::Finish {
                choice: 0,
                finish,
                stop_sequence,
            } => {
                self.finish = Some((*finish, stop_sequence.clone().map(Text::into_owned)));
            }
            ChatEvent::Open { .. } | ChatEvent::Delta { .. } | ChatEvent::Close { .. } | ChatEvent::Finish { .. } => {}
            ChatEvent::Usage(usage) => self.usage = *usage,
            ChatEvent::Latency(_) => {}
            ChatEvent::Ping => out.token("event: ping\ndata: {\"type\":\"ping\"}\n\n").done(),
            ChatEvent::Error(error) => {
                self.ended = true;
                out.token("event: error\ndata: ");
                write_error(error, out);
                out.token("\n\n");
            }
            ChatEvent::End => self.end(out),
        }
    }

    /// The stream was cut: one error event, and no `message_stop`.
    pub fn interrupt(&mut self, error: &ApiError, out: &mut Out) {
        if !self.ended {
            self.ended = true;
            out.token("event: error\ndata: ");
            error.write_anthropic(&mut out.buf);
            out.token("\n\n");
        }
    }

    fn start(&mut self, id: &Text<'_>, model: &Text<'_>, tier: Option<&Text<'_>>, out: &mut Out) {
        self.tier = tier.map(|tier| tier.clone().into_owned());
        out.token("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":");
        if id.is_empty() {
            out.string(&self.id)
        } else {
            out.text(id)
        };
        out.token(",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
        if model.is_empty() {
            out.string(&self.model)
        } else {
            out.text(model)
        };
        out.token(",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
        write_usage(&self.usage, tier, out);
        out.token("}}\n\n");
    }

    fn open(&mut self, part: u32, open: &Open<'_>, out: &mut Out) {
        if matches!(open, Open::Other(dialect, _) if *dialect != Dialect::Anthropic) || self.blocks == STREAM_PARTS_MAX
        {
            return;
        }
        let index = self.blocks;
        self.blocks += 1;
        self.live.push((part, index));
        out.token("event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":")
            .whole(u64::from(index));
        out.key("content_block");
        match open {
            Open::Text | Open::Refusal => out.token("{\"type\":\"text\",\"text\":\"\"}"),
            Open::Thinking => out.token("{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}"),
            Open::RedactedThinking(data) => out
                .token("{\"type\":\"redacted_thinking\",\"data\":")
                .text(data)
                .token("}"),
            Open::ToolCall { id, name } => out
                .token("{\"type\":\"tool_use\",\"id\":")
                .text(id)
                .key("name")
                .text(name)
                .token(",\"input\":{}}"),
            Open::Other(_, raw) => out.raw(raw),
        };
        out.token("}\n\n");
    }

    fn delta(&mut self, part: u32, delta: &Delta<'_>, out: &mut Out) {
        let Some(&(_, index)) = self.live.iter().rfind(|(live, _)| *live == part) else {
            return;
        };
        if matches!(delta, Delta::Logprobs(_)) || matches!(delta, Delta::Other(of, _) if *of != Dialect::Anthropic) {
            return;
        }
        out.token("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":")
            .whole(u64::from(index));
        out.key("delta");
        match delta {
            Delta::Text(text) => out.token("{\"type\":\"text_delta\",\"text\":").text(text).token("}"),
            Delta::Thinking(text) => out
                .token("{\"type\":\"thinking_delta\",\"thinking\":")
                .text(text)
                .token("}"),
            Delta::Signature(text) => out
                .token("{\"type\":\"signature_delta\",\"signature\":")
                .text(text)
                .token("}"),
            Delta::Arguments(text) => out
                .token("{\"type\":\"input_json_delta\",\"partial_json\":")
                .text(text)
                .token("}"),
            Delta::Citation(citation) => {
                out.token("{\"type\":\"citations_delta\",\"citation\":");
                write_citation(citation, out);
                out.token("}")
            }
            Delta::Logprobs(raw) | Delta::Other(_, raw) => out.raw(raw),
        };
        out.token("}\n\n");
    }

    fn close(&mut self, part: u32, out: &mut Out) {
        // The index stays known: a provider that interleaves parallel calls may still add to this one.
        if let Some(&(_, index)) = self.live.iter().rfind(|(live, _)| *live == part) {
            out.token("event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":")
                .whole(u64::from(index));
            out.token("}\n\n");
        }
    }

    fn end(&mut self, out: &mut Out) {
        self.ended = true;
        let (finish, sequence) = self.finish.take().unwrap_or((Finish::Stop, None));
        out.token("event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":")
            .string(stop_reason(finish));
        out.key("stop_sequence");
        match &sequence {
            Some(sequence) => out.text(sequence),
            None => out.token("null"),
        };
        out.token("},\"usage\":");
        write_usage(&self.usage, None, out);
        out.token("}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}
