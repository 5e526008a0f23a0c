//! Whole Converse answers, both ways.
//!
//! Invariants: `inputTokens` excludes what was read from or written to a cache, so the parts of [`Usage`] are disjoint as
//! they come; a member that is unknown is left out. Deliberately absent: traces of guardrails, which no other dialect has.

use crate::chat::{ChatResponse, Choice, Content, Finish, JsonError, Kind, Out, Part, Reader, Text, ToolIdRule, Usage};
use crate::error::ApiError;
use crate::provider::Reply;

use super::content;

/// Reads a whole answer. An error is an `upstream_protocol_error`.
pub fn parse_response(body: &[u8]) -> Result<ChatResponse<'_>, ApiError> {
    read(body).map_err(JsonError::in_response)
}

/// Appends a whole answer. Converse has one choice, and no id or model in its body.
pub fn write_response(response: &ChatResponse<'_>, _: &Reply<'_>, out: &mut Out) {
    let choice = response.choices.first();
    out.token("{")
        .key("output")
        .token("{")
        .key("message")
        .token("{")
        .key("role")
        .token("\"assistant\"")
        .key("content")
        .token("[");
    // Converse has no empty text; OpenAI sends one beside tool calls.
    let said = |part: &&Part<'_>| !matches!(&part.content, Content::Text { text, .. } if text.is_empty());
    for part in choice.iter().flat_map(|choice| &choice.parts).filter(said) {
        content::write_answer_block(&part.content, ToolIdRule::Any, out);
    }
    out.token("]}}")
        .key("stopReason")
        .string(stop_reason(choice.and_then(|choice| choice.finish)));
    out.key("usage");
    write_usage(&response.usage.unwrap_or_default(), out);
    out.key("metrics")
        .token("{")
        .key("latencyMs")
        .whole(response.latency_ms.unwrap_or(0))
        .token("}");
    if let Some(stop) = choice.and_then(|choice| choice.stop_sequence.as_ref()) {
        out.key("additionalModelResponseFields")
            .token("{")
            .key("stop_sequence")
            .text(stop)
            .token("}");
    }
    if let Some(tier) = response.service_tier.as_ref().filter(|tier| is_tier(tier)) {
        out.key("serviceTier").token("{").key("type").text(tier).token("}");
    }
    out.token("}");
}

fn is_tier(tier: &Text<'_>) -> bool {
    matches!(tier.as_json(), "priority" | "default" | "flex" | "reserved")
}

fn read(body: &[u8]) -> Result<ChatResponse<'_>, JsonError> {
    let mut response = ChatResponse::default();
    let mut choice = Choice {
        index: 0,
        parts: Vec::new(),
        finish: None,
        stop_sequence: None,
        logprobs: None,
    };
    let mut has_output = false;
    let mut reader = Reader::new(body)?;
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "output" => {
                has_output = true;
                choice.parts = parse_output(&mut reader)?;
            }
            "stopReason" => choice.finish = Some(finish(&reader.word()?)),
            "usage" => response.usage = Some(parse_usage(&mut reader)?),
            "metrics" => response.latency_ms = parse_latency(&mut reader)?,
            "serviceTier" => response.service_tier = parse_member(&mut reader, "type")?,
            "additionalModelResponseFields" => choice.stop_sequence = parse_member(&mut reader, "stop_sequence")?,
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    if !has_output {
        return Err(JsonError::Expected("`output`"));
    }
    response.choices.push(choice);
    Ok(response)
}

fn parse_output<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
    let mut parts = Vec::new();
    reader.object("`output`")?;
    while let Some(key) = reader.key()? {
        if &*key != "message" || reader.kind()? != Kind::Object {
            reader.skip()?;
            continue;
        }
        reader.object("`output.message`")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "content" => (parts, _) = content::parse_blocks(reader)?,
                _ => reader.skip()?,
            }
        }
    }
    Ok(parts)
}

/// The string member `name` of an object, whatever else it holds; `None` for anything but an object.
pub(super) fn parse_member<'a>(reader: &mut Reader<'a>, name: &str) -> Result<Option<Text<'a>>, JsonError> {
    if reader.kind()? != Kind::Object {
        reader.skip()?;
        return Ok(None);
    }
    let mut found = None;
    reader.object("")?;
    while let Some(key) = reader.key()? {
        if key == name && reader.kind()? == Kind::String {
            found = Some(reader.text()?);
        } else {
            reader.skip()?;
        }
    }
    Ok(found)
}

/// `{"latencyMs": n}`
pub(super) fn parse_latency(reader: &mut Reader<'_>) -> Result<Option<u64>, JsonError> {
    let mut latency = None;
    reader.object("`metrics`")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "latencyMs" => latency = reader.whole_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok(latency)
}

/// Tokens. The service sends its cache fields under two names (`…Tokens` and `…TokenCount`), sometimes both, with one value.
pub(super) fn parse_usage(reader: &mut Reader<'_>) -> Result<Usage, JsonError> {
    let mut usage = Usage::default();
    reader.object("`usage`")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "inputTokens" => usage.input = reader.whole_or_null()?.unwrap_or(0),
            "outputTokens" => usage.output = reader.whole_or_null()?.unwrap_or(0),
            "cacheReadInputTokens" | "cacheReadInputTokenCount" => {
                usage.cache_read = usage.cache_read.max(reader.whole_or_null()?.unwrap_or(0));
            }
            "cacheWriteInputTokens" | "cacheWriteInputTokenCount" => {
                usage.cache_write = usage.cache_write.max(reader.whole_or_null()?.unwrap_or(0));
            }
            "cacheDetails" if reader.kind()? == Kind::Array => {
                reader.array("")?;
                while reader.item()? {
                    usage.cache_write_1h = usage.cache_write_1h.saturating_add(parse_one_hour(reader)?);
                }
            }
            _ => reader.skip()?,
        }
    }
    // The total includes the one-hour entries.
    usage.cache_write_1h = usage.cache_write_1h.min(usage.cache_write);
    usage.cache_write -= usage.cache_write_1h;
    Ok(usage)
}

/// The tokens of one element of `cacheDetails`, if it is about entries that live for one hour.
fn parse_one_hour(reader: &mut Reader<'_>) -> Result<u64, JsonError> {
    let (mut one_hour, mut tokens) = (false, 0);
    reader.object("a cache detail")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "ttl" => one_hour = reader.text_or_null()?.is_some_and(|ttl| ttl.is("1h")),
            "inputTokens" => tokens = reader.whole_or_null()?.unwrap_or(0),
            _ => reader.skip()?,
        }
    }
    Ok(if one_hour { tokens } else { 0 })
}

/// Appends the object that [`parse_usage`] reads.
pub(super) fn write_usage(usage: &Usage, out: &mut Out) {
    out.token("{")
        .key("inputTokens")
        .whole(usage.input)
        .key("outputTokens")
        .whole(usage.output);
    out.key("totalTokens").whole(usage.total());
    out.key("cacheReadInputTokens")
        .whole(usage.cache_read)
        .key("cacheWriteInputTokens")
        .whole(usage.cache_write_total());
    if usage.cache_write_1h > 0 {
        out.key("cacheDetails").token("[");
        for (ttl, tokens) in [("5m", usage.cache_write), ("1h", usage.cache_write_1h)] {
            out.comma()
                .token("{")
                .key("ttl")
                .string(ttl)
                .key("inputTokens")
                .whole(tokens)
                .token("}");
        }
        out.token("]");
    }
    out.token("}");
}

/// From Converse's word; an unknown one counts as a normal end.
pub(super) fn finish(stop_reason: &str) -> Finish {
    match stop_reason {
        "tool_use" => Finish::ToolCalls,
        "max_tokens" => Finish::Length,
        "stop_sequence" => Finish::StopSequence,
        "guardrail_intervened" | "content_filtered" => Finish::ContentFilter,
        "refusal" => Finish::Refusal,
        "pause_turn" => Finish::Pause,
        "malformed_model_output" | "malformed_tool_use" => Finish::Malformed,
        "model_context_window_exceeded" => Finish::ContextFull,
        _ => Finish::Stop,
    }
}

/// To Converse's word.
pub(super) fn stop_reason(finish: Option<Finish>) -> &'static str {
    match finish {
        None | Some(Finish::Stop | Finish::Pause) => "end_turn",
        Some(Finish::StopSequence) => "stop_sequence",
        Some(Finish::Length) => "max_tokens",
        Some(Finish::ContextFull) => "model_context_window_exceeded",
        Some(Finish::ToolCalls) => "tool_use",
        Some(Finish::ContentFilter | Finish::Refusal) => "content_filtered",
        Some(Finish::Malformed) => "malformed_tool_use",
    }
}
