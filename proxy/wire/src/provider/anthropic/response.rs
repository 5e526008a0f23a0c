//! Anthropic messages into the chat model and out of it (<https://docs.anthropic.com/en/api/messages>), with citations and
//! `usage`, which streams share.
//!
//! Usage: `input_tokens` excludes what was read from and written to a cache; `output_tokens` includes thinking. Deliberately
//! absent: blocks of server tools, which only an Anthropic client can make sense of.

use std::borrow::Cow;

use crate::chat::{
    ChatResponse, Choice, Citation, Content, Finish, JsonError, Kind, Location, Out, Part, Reader, Text, Usage,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::Reply;
use crate::provider::anthropic::request::blocks;
use crate::provider::fields::count;

const DIALECT: Dialect = Dialect::Anthropic;

/// Reads a whole answer. Errors are `upstream_protocol_error`.
pub fn parse_response(body: &[u8]) -> Result<ChatResponse<'_>, ApiError> {
    response(body).map_err(JsonError::in_response)
}

fn response(body: &[u8]) -> Result<ChatResponse<'_>, JsonError> {
    let mut reader = Reader::new(body)?;
    let mut response = ChatResponse::default();
    let (mut parts, mut reason, mut stop_sequence) = (None, None, None);
    reader.object("a message")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "id" => response.id = reader.text_or_null()?.unwrap_or_default(),
            "model" => response.model = reader.text_or_null()?.unwrap_or_default(),
            "content" => parts = Some(blocks(&mut reader)?),
            "stop_reason" => reason = finish(&mut reader)?,
            "stop_sequence" => stop_sequence = reader.text_or_null()?,
            "usage" => {
                let mut usage = WireUsage::default();
                response.service_tier = usage.update(&mut reader)?;
                response.usage = Some(usage.usage());
            }
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    let parts = parts.ok_or(JsonError::Expected("any content"))?;
    response.choices = vec![Choice {
        index: 0,
        parts,
        finish: reason,
        stop_sequence,
        logprobs: None,
    }];
    Ok(response)
}

/// `stop_reason`
pub(super) fn finish(reader: &mut Reader<'_>) -> Result<Option<Finish>, JsonError> {
    let Some(word) = reader.text_or_null()? else {
        return Ok(None);
    };
    Ok(match word.as_json() {
        "end_turn" => Some(Finish::Stop),
        "stop_sequence" => Some(Finish::StopSequence),
        "max_tokens" => Some(Finish::Length),
        "model_context_window_exceeded" => Some(Finish::ContextFull),
        "tool_use" => Some(Finish::ToolCalls),
        "pause_turn" => Some(Finish::Pause),
        "refusal" => Some(Finish::Refusal),
        _ => Some(Finish::Stop),
    })
}

/// Anthropic's word for why a model stopped.
pub(super) const fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Malformed => "end_turn",
        Finish::StopSequence => "stop_sequence",
        Finish::Length => "max_tokens",
        Finish::ContextFull => "model_context_window_exceeded",
        Finish::ToolCalls => "tool_use",
        Finish::Pause => "pause_turn",
        Finish::ContentFilter | Finish::Refusal => "refusal",
    }
}

/// `usage` as it is on the wire. In a stream each report is cumulative and leaves out what has not changed.
#[derive(Debug, Default)]
pub(super) struct WireUsage {
    input: u64,
    read: u64,
    written: u64,
    written_1h: u64,
    output: u64,
    thinking: Option<u64>,
}

impl WireUsage {
    /// Takes over what the object under the cursor says; returns the tier that it names.
    pub fn update<'a>(&mut self, reader: &mut Reader<'a>) -> Result<Option<Text<'a>>, JsonError> {
        let mut tier = None;
        if reader.kind()? != Kind::Object {
            return reader.skip().map(|()| tier);
        }
        reader.object("")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("input_tokens", _) => self.input = count(reader)?.unwrap_or(self.input),
                ("cache_read_input_tokens", _) => self.read = count(reader)?.unwrap_or(self.read),
                ("cache_creation_input_tokens", _) => self.written = count(reader)?.unwrap_or(self.written),
                ("output_tokens", _) => self.output = count(reader)?.unwrap_or(self.output),
                ("cache_creation", Kind::Object) => self.inner(reader)?,
                ("output_tokens_details", Kind::Object) => self.inner(reader)?,
                ("service_tier", Kind::String) => tier = Some(reader.text()?),
                _ => reader.skip()?,
            }
        }
        Ok(tier)
    }

    fn inner(&mut self, reader: &mut Reader<'_>) -> Result<(), JsonError> {
        reader.object("")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "ephemeral_1h_input_tokens" => self.written_1h = count(reader)?.unwrap_or(self.written_1h),
                "thinking_tokens" => self.thinking = count(reader)?.or(self.thinking),
                _ => reader.skip()?,
            }
        }
        Ok(())
    }

    /// The same in parts that do not overlap.
    pub fn usage(&self) -> Usage {
        let cache_write_1h = self.written_1h.min(self.written);
        Usage {
            input: self.input,
            cache_read: self.read,
            cache_write: self.written - cache_write_1h,
            cache_write_1h,
            output: self.output,
            reasoning: self.thinking,
            ..Usage::default()
        }
    }
}

/// The citations of a text block.
pub(super) fn citations<'a>(reader: &mut Reader<'a>) -> Result<Vec<Citation<'a>>, JsonError> {
    let mut list = Vec::new();
    if reader.kind()? != Kind::Array {
        return reader.skip().map(|()| list);
    }
    reader.array("")?;
    while reader.item()? {
        list.push(citation(reader)?);
    }
    Ok(list)
}

/// One citation, of any type.
pub(super) fn citation<'a>(reader: &mut Reader<'a>) -> Result<Citation<'a>, JsonError> {
    let mut whole = reader.clone();
    let mut citation = Citation::default();
    let (mut kind, mut of, mut start, mut end) = (Cow::Borrowed(""), 0, 0, 0);
    reader.object("a list of citations")?;
    while let Some(key) = reader.key()? {
        match (&*key, reader.kind()?) {
            ("type", Kind::String) => kind = reader.word()?,
            ("cited_text", Kind::String) => citation.cited_text = Some(reader.text()?),
            ("title" | "document_title", Kind::String) => citation.title = Some(reader.text()?),
            ("url" | "source", Kind::String) => citation.url = Some(reader.text()?),
            ("document_index" | "search_result_index", _) => of = count(reader)?.unwrap_or(0),
            ("start_char_index" | "start_page_number" | "start_block_index", _) => start = count(reader)?.unwrap_or(0),
            ("end_char_index" | "end_page_number" | "end_block_index", _) => end = count(reader)?.unwrap_or(0),
            _ => reader.skip()?,
        }
    }
    citation.location = match &*kind {
        "char_location" => Location::Char {
            document: of,
            start,
            end,
        },
        "page_location" => Location::Page {
            document: of,
            start,
            end,
        },
        "content_block_location" => Location::Chunk {
            document: of,
            start,
            end,
        },
        "search_result_location" => Location::Search { result: of, start, end },
        _ => Location::None,
    };
    citation.raw = Some((DIALECT, whole.raw()?));
    Ok(citation)
}

/// Appends a whole answer.
pub fn write_response(response: &ChatResponse<'_>, reply: &Reply<'_>, out: &mut Out) {
    out.token("{\"id\":");
    if response.id.is_empty() {
        out.string(reply.id)
    } else {
        out.text(&response.id)
    };
    out.token(",\"type\":\"message\",\"role\":\"assistant\"").key("model");
    if response.model.is_empty() {
        out.string(reply.model)
    } else {
        out.text(&response.model)
    };
    out.key("content").token("[");
    let choice = response.choices.first();
    for part in choice.iter().flat_map(|choice| &choice.parts) {
        write_part(part, out);
    }
    out.token("]").key("stop_reason").string(stop_reason(
        choice.and_then(|choice| choice.finish).unwrap_or(Finish::Stop),
    ));
    out.key("stop_sequence");
    match choice.and_then(|choice| choice.stop_sequence.as_ref()) {
        Some(text) => out.text(text),
        None => out.token("null"),
    };
    out.key("usage");
    write_usage(&response.usage.unwrap_or_default(), response.service_tier.as_ref(), out);
    out.token("}");
}

fn write_part(part: &Part<'_>, out: &mut Out) {
    match &part.content {
        Content::Text { text, citations } => {
            out.comma().token("{\"type\":\"text\",\"text\":").text(text);
            if !citations.is_empty() {
                out.key("citations").token("[");
                for citation in citations {
                    out.comma();
                    write_citation(citation, out);
                }
                out.token("]");
            }
            out.token("}");
        }
        Content::Refusal(text) => out
            .comma()
            .token("{\"type\":\"text\",\"text\":")
            .text(text)
            .token("}")
            .done(),
        Content::Thinking { text, signature } => {
            out.comma()
                .token("{\"type\":\"thinking\",\"thinking\":")
                .text(text)
                .key("signature");
            match signature {
                Some(signature) => out.text(signature),
                None => out.token("\"\""),
            };
            out.token("}");
        }
        Content::RedactedThinking(data) => {
            out.comma()
                .token("{\"type\":\"redacted_thinking\",\"data\":")
                .text(data)
                .token("}");
        }
        Content::ToolCall {
            id, name, arguments, ..
        } => {
            out.comma()
                .token("{\"type\":\"tool_use\",\"id\":")
                .text(id)
                .key("name")
                .text(name)
                .key("input");
            arguments.write_object(out);
            out.token("}");
        }
        Content::Other(Dialect::Anthropic, raw) => out.comma().raw(raw).done(),
        _ => {}
    }
}

/// One citation, of the type that fits its place.
pub(super) fn write_citation(citation: &Citation<'_>, out: &mut Out) {
    if let Some((Dialect::Anthropic, raw)) = &citation.raw {
        out.raw(raw);
        return;
    }
    let range = |out: &mut Out, unit: &str, start: u64, end: u64| {
        out.token(",\"start_").token(unit).token("\":").whole(start);
        out.token(",\"end_").token(unit).token("\":").whole(end);
    };
    let (kind, of) = match citation.location {
        Location::None | Location::Answer { .. } => ("web_search_result_location", None),
        Location::Char { document, .. } => ("char_location", Some(("document", document))),
        Location::Page { document, .. } => ("page_location", Some(("document", document))),
        Location::Chunk { document, .. } => ("content_block_location", Some(("document", document))),
        Location::Search { result, .. } => ("search_result_location", Some(("search_result", result))),
    };
    out.token("{\"type\":")
        .string(kind)
        .key("cited_text")
        .text(citation.cited_text.as_ref().unwrap_or(&Text::default()));
    if let Some((of, index)) = of {
        out.token(",\"").token(of).token("_index\":").whole(index);
    }
    out.key(if of.is_some_and(|(of, _)| of == "document") {
        "document_title"
    } else {
        "title"
    });
    match &citation.title {
        Some(title) => out.text(title),
        None => out.token("null"),
    };
    match citation.location {
        Location::None | Location::Answer { .. } => {
            out.key("url")
                .text(citation.url.as_ref().unwrap_or(&Text::default()))
                .token(",\"encrypted_index\":\"\"");
        }
        Location::Char { start, end, .. } => range(out, "char_index", start, end),
        Location::Page { start, end, .. } => range(out, "page_number", start, end),
        Location::Chunk { start, end, .. } => range(out, "block_index", start, end),
        Location::Search { start, end, .. } => {
            out.key("source")
                .text(citation.url.as_ref().unwrap_or(&Text::default()));
            range(out, "block_index", start, end);
        }
    }
    out.token("}");
}

/// Appends `,"citations":[…]` with those that Anthropic itself made: it checks them when they come back.
pub(super) fn write_own_citations(citations: &[Citation<'_>], out: &mut Out) {
    let mut own = citations.iter().filter_map(|citation| match &citation.raw {
        Some((Dialect::Anthropic, raw)) => Some(raw),
        _ => None,
    });
    if let Some(first) = own.next() {
        out.key("citations").token("[").raw(first);
        own.for_each(|raw| out.comma().raw(raw).done());
        out.token("]");
    }
}

/// Appends a `usage` object.
pub(super) fn write_usage(usage: &Usage, tier: Option<&Text<'_>>, out: &mut Out) {
    out.token("{\"input_tokens\":").whole(usage.input);
    out.key("cache_creation_input_tokens").whole(usage.cache_write_total());
    out.key("cache_read_input_tokens").whole(usage.cache_read);
    if usage.cache_write_1h > 0 {
        out.token(",\"cache_creation\":{\"ephemeral_5m_input_tokens\":")
            .whole(usage.cache_write);
        out.key("ephemeral_1h_input_tokens")
            .whole(usage.cache_write_1h)
            .token("}");
    }
    out.key("output_tokens").whole(usage.output);
    if let Some(reasoning) = usage.reasoning {
        out.token(",\"output_tokens_details\":{\"thinking_tokens\":")
            .whole(reasoning)
            .token("}");
    }
    // SDKs reject words that they do not know.
    match tier.map(Text::as_json) {
        Some("priority") => out.token(",\"service_tier\":\"priority\"").done(),
        Some("batch") => out.token(",\"service_tier\":\"batch\"").done(),
        Some(_) => out.token(",\"service_tier\":\"standard\"").done(),
        None => {}
    }
    out.token("}");
}
