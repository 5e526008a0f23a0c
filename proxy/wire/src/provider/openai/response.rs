//! OpenAI chat completions into the chat model and out of it
//! (<https://platform.openai.com/docs/api-reference/chat/object>).
//!
//! Invariants: reasoning is written twice, as `reasoning_content` for people and as `reasoning_details` (OpenRouter's form) for the way
//! back, because only the latter can carry a signature. Deliberately absent: the vendors' own accounting (cost, timings).

use std::borrow::Cow;

use crate::chat::{
    ChatResponse, Choice, Citation, Content, Finish, JsonError, Kind, Location, Out, Part, Reader, Text, ToolIdRule,
    id_hash, made_id, tool_id,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::Reply;
use crate::provider::openai::request::{assemble, content, reasoning_details, tool_calls};
use crate::provider::openai::usage::{usage, write_usage};

const DIALECT: Dialect = Dialect::OpenAi;

/// Reads a whole answer. Errors are `upstream_protocol_error`.
pub fn parse_response(body: &[u8]) -> Result<ChatResponse<'_>, ApiError> {
    response(body).map_err(JsonError::in_response)
}

fn response(body: &[u8]) -> Result<ChatResponse<'_>, JsonError> {
    let mut reader = Reader::new(body)?;
    let mut response = ChatResponse::default();
    let mut chosen = false;
    reader.object("a chat completion")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "id" => response.id = reader.text_or_null()?.unwrap_or_default(),
            "model" => response.model = reader.text_or_null()?.unwrap_or_default(),
            "created" => response.created = created(&mut reader)?,
            "choices" => {
                reader.array("a list of choices")?;
                chosen = true;
                while reader.item()? {
                    response.choices.push(choice(&mut reader)?);
                }
            }
            "usage" => response.usage = usage(&mut reader)?.or(response.usage),
            "service_tier" => response.service_tier = reader.text_or_null()?.filter(|tier| !tier.is_empty()),
            "system_fingerprint" => response.fingerprint = reader.text_or_null()?.filter(|print| !print.is_empty()),
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    if !chosen || response.choices.is_empty() {
        return Err(JsonError::Expected("any choice"));
    }
    name_calls(&mut response);
    Ok(response)
}

/// Gives an id to each call that came without one (Google's do), because other dialects tie the result to it.
fn name_calls(response: &mut ChatResponse<'_>) {
    let answer = id_hash(response.id.as_json());
    let parts = response.choices.iter_mut().flat_map(|choice| &mut choice.parts);
    for (nth, part) in parts.enumerate() {
        if let Content::ToolCall { id, .. } = &mut part.content
            && id.is_empty()
        {
            *id = made_id(answer, nth);
        }
    }
}

/// Seconds since the epoch; some vendors send fractions, or nothing of use.
pub(super) fn created(reader: &mut Reader<'_>) -> Result<Option<u64>, JsonError> {
    Ok(match reader.kind()? {
        Kind::Number => reader
            .number_or_null()?
            .map(|number| number.f64())
            .filter(|seconds| *seconds >= 1.0)
            .map(|s| s as u64),
        _ => reader.skip().map(|()| None)?,
    })
}

fn choice<'a>(reader: &mut Reader<'a>) -> Result<Choice<'a>, JsonError> {
    let mut choice = Choice {
        index: 0,
        parts: Vec::new(),
        finish: None,
        stop_sequence: None,
        logprobs: None,
    };
    reader.object("a list of choices")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "index" => choice.index = reader.whole_or_null()?.unwrap_or(0).min(u64::from(u32::MAX)) as u32,
            "message" => choice.parts = message(reader)?,
            "finish_reason" => choice.finish = finish(reader)?,
            "logprobs" => choice.logprobs = if reader.null()? { None } else { Some(reader.raw()?) },
            _ => reader.skip()?,
        }
    }
    let calls = choice
        .parts
        .iter()
        .any(|part| matches!(part.content, Content::ToolCall { .. }));
    if matches!(choice.finish, None | Some(Finish::Stop)) {
        // A forced call finishes with `stop`; some vendors leave the reason empty.
        choice.finish = Some(if calls { Finish::ToolCalls } else { Finish::Stop });
    }
    Ok(choice)
}

fn message<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
    let (mut words, mut calls, mut details) = (Vec::new(), Vec::new(), Vec::new());
    let (mut refusal, mut reasoning, mut sources) = (None, None, Vec::new());
    reader.object("a message")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "content" => words = content(reader)?,
            "refusal" => refusal = reader.text_or_null()?,
            "reasoning" | "reasoning_content" => match reader.kind()? {
                Kind::String => reasoning = Some(reader.text()?).filter(|text| !text.is_empty()).or(reasoning),
                _ => reader.skip()?,
            },
            "reasoning_details" => details = reasoning_details(reader)?,
            "annotations" => sources = annotations(reader)?,
            "tool_calls" => calls = tool_calls(reader)?,
            _ => reader.skip()?,
        }
    }
    if let Some(Content::Text { citations, .. }) = words.last_mut().map(|part| &mut part.content) {
        *citations = sources;
    }
    Ok(assemble(reasoning, details, words, refusal, calls))
}

/// `annotations`: web sources with the range of the answer that they support.
pub(super) fn annotations<'a>(reader: &mut Reader<'a>) -> Result<Vec<Citation<'a>>, JsonError> {
    let mut list = Vec::new();
    if reader.null()? {
        return Ok(list);
    }
    reader.array("a list of annotations")?;
    while reader.item()? {
        let mut whole = reader.clone();
        let mut citation = Citation::default();
        reader.object("a list of annotations")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("url_citation", Kind::Object) => url_citation(reader, &mut citation)?,
                _ => reader.skip()?,
            }
        }
        citation.raw = Some((DIALECT, whole.raw()?));
        list.push(citation);
    }
    Ok(list)
}

fn url_citation<'a>(reader: &mut Reader<'a>, citation: &mut Citation<'a>) -> Result<(), JsonError> {
    let (mut start, mut end) = (0, 0);
    reader.object("")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "url" => citation.url = reader.text_or_null()?,
            "title" => citation.title = reader.text_or_null()?,
            "content" => citation.cited_text = reader.text_or_null()?,
            "start_index" => start = reader.whole_or_null()?.unwrap_or(0),
            "end_index" => end = reader.whole_or_null()?.unwrap_or(0),
            _ => reader.skip()?,
        }
    }
    citation.location = Location::Answer { start, end };
    Ok(())
}

/// `finish_reason`; an empty or unknown one says nothing.
pub(super) fn finish(reader: &mut Reader<'_>) -> Result<Option<Finish>, JsonError> {
    let word = match reader.kind()? {
        Kind::String => reader.word()?,
        _ => return reader.skip().map(|()| None),
    };
    Ok(match &*word {
        "stop" | "eos" | "end_turn" => Some(Finish::Stop),
        "length" | "max_tokens" | "model_length" => Some(Finish::Length),
        "tool_calls" | "function_call" => Some(Finish::ToolCalls),
        "content_filter" => Some(Finish::ContentFilter),
        _ => None,
    })
}

/// OpenAI's word for why a model stopped.
pub(super) const fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence | Finish::Pause | Finish::Malformed => "stop",
        Finish::Length | Finish::ContextFull => "length",
        Finish::ToolCalls => "tool_calls",
        Finish::ContentFilter | Finish::Refusal => "content_filter",
    }
}

/// Appends a whole answer.
pub fn write_response(response: &ChatResponse<'_>, reply: &Reply<'_>, out: &mut Out) {
    out.token("{\"id\":");
    if response.id.is_empty() {
        out.string(reply.id)
    } else {
        out.text(&response.id)
    };
    out.token(",\"object\":\"chat.completion\",\"created\":")
        .whole(response.created.unwrap_or(reply.created))
        .key("model");
    if response.model.is_empty() {
        out.string(reply.model)
    } else {
        out.text(&response.model)
    };
    out.key("choices").token("[");
    for choice in &response.choices {
        write_choice(choice, out);
    }
    out.token("]");
    if let Some(usage) = &response.usage {
        out.key("usage");
        write_usage(usage, out);
    }
    if let Some(tier) = &response.service_tier {
        out.key("service_tier").text(&Text::plain(tier_word(tier)));
    }
    if let Some(fingerprint) = &response.fingerprint {
        out.key("system_fingerprint").text(fingerprint);
    }
    out.token("}");
}

/// OpenAI's word for a tier; SDKs reject words that they do not know.
pub(super) fn tier_word(tier: &Text<'_>) -> &'static str {
    match tier.as_json() {
        "auto" => "auto",
        "flex" => "flex",
        "scale" => "scale",
        "priority" => "priority",
        _ => "default",
    }
}

fn write_choice(choice: &Choice<'_>, out: &mut Out) {
    out.comma()
        .token("{\"index\":")
        .whole(u64::from(choice.index))
        .key("message")
        .token("{\"role\":\"assistant\",\"content\":");
    let texts = || {
        choice.parts.iter().filter_map(|part| match &part.content {
            Content::Text { text, citations } => Some((text, citations)),
            _ => None,
        })
    };
    if texts().next().is_some() {
        out.token("\"");
        texts().for_each(|(text, _)| out.fragment(text).done());
        out.token("\"");
    } else {
        out.token("null");
    }
    out.key("refusal");
    match choice.parts.iter().find_map(|part| {
        if let Content::Refusal(text) = &part.content {
            Some(text)
        } else {
            None
        }
    }) {
        Some(text) => out.text(text),
        None => out.token("null"),
    };
    if texts().any(|(_, citations)| citations.iter().any(|citation| citation.url.is_some())) {
        out.key("annotations").token("[");
        let mut at = 0;
        for (text, citations) in texts() {
            let end = at + text.decode().chars().count() as u64;
            citations
                .iter()
                .for_each(|citation| write_annotation(citation, None, (at, end), out));
            at = end;
        }
        out.token("]");
    }
    write_reasoning(&choice.parts, out);
    write_tool_calls(&choice.parts, ToolIdRule::Any, out);
    out.token("}");
    if let Some(logprobs) = &choice.logprobs {
        out.key("logprobs").raw(logprobs);
    } else {
        out.key("logprobs").token("null");
    }
    out.key("finish_reason")
        .string(finish_reason(choice.finish.unwrap_or(Finish::Stop)))
        .token("}");
}

/// One entry of `annotations`, which in a stream is numbered; sources without an address have no place there. `range` is the
/// text that it stands behind.
pub(super) fn write_annotation(citation: &Citation<'_>, index: Option<u64>, range: (u64, u64), out: &mut Out) {
    if let (Some((Dialect::OpenAi, raw)), None) = (&citation.raw, index) {
        out.comma().raw(raw);
        return;
    }
    let Some(url) = &citation.url else { return };
    let (start, end) = match citation.location {
        Location::Answer { start, end } => (start, end),
        _ => range,
    };
    out.comma().token("{\"type\":\"url_citation\"");
    if let Some(index) = index {
        // OpenAI's own library merges the entries of streamed lists by it, and fails without.
        out.key("index").whole(index);
    }
    out.token(",\"url_citation\":{\"start_index\":")
        .whole(start)
        .key("end_index")
        .whole(end);
    out.key("url")
        .text(url)
        .key("title")
        .text(citation.title.as_ref().unwrap_or(url));
    if let Some(cited) = &citation.cited_text {
        out.key("content").text(cited);
    }
    out.token("}}");
}

/// Appends `,"reasoning_content":…,"reasoning_details":[…]` for the reasoning among `parts`, if there is any.
pub(super) fn write_reasoning(parts: &[Part<'_>], out: &mut Out) {
    let thoughts = || {
        parts
            .iter()
            .map(|part| &part.content)
            .filter(|content| matches!(content, Content::Thinking { .. } | Content::RedactedThinking(_)))
    };
    if thoughts().next().is_none() {
        return;
    }
    let mut texts = thoughts().filter_map(|content| match content {
        Content::Thinking { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    });
    if let Some(first) = texts.next() {
        out.key("reasoning_content").token("\"").fragment(first);
        texts.for_each(|text| out.token("\\n\\n").fragment(text).done());
        out.token("\"");
    }
    out.key("reasoning_details").token("[");
    for (index, content) in thoughts().enumerate() {
        write_detail(content, index as u64, out);
    }
    out.token("]");
}

fn write_detail(content: &Content<'_>, index: u64, out: &mut Out) {
    match content {
        Content::Thinking { text, signature } => {
            out.comma()
                .token("{\"type\":\"reasoning.text\",\"index\":")
                .whole(index)
                .key("text")
                .text(text);
            if let Some(signature) = signature {
                out.key("signature").text(signature);
            }
            out.token("}");
        }
        Content::RedactedThinking(data) => {
            out.comma()
                .token("{\"type\":\"reasoning.encrypted\",\"index\":")
                .whole(index)
                .key("data")
                .text(data)
                .token("}");
        }
        _ => {}
    }
}

/// Appends `,"tool_calls":[…]` for the calls among `parts`, if there are any.
pub(super) fn write_tool_calls(parts: &[Part<'_>], rule: ToolIdRule, out: &mut Out) {
    let mut any = false;
    for part in parts {
        let Content::ToolCall {
            id,
            name,
            arguments,
            custom,
        } = &part.content
        else {
            continue;
        };
        if !any {
            out.key("tool_calls").token("[");
            any = true;
        }
        out.comma().token("{\"id\":").text(&tool_id(id, rule));
        if *custom {
            out.token(",\"type\":\"custom\",\"custom\":{\"name\":")
                .text(name)
                .key("input");
        } else {
            out.token(",\"type\":\"function\",\"function\":{\"name\":")
                .text(name)
                .key("arguments");
        }
        arguments.write_string(out);
        out.token("}}");
    }
    if any {
        out.token("]");
    }
}

/// The words that a JSON value of any kind says of itself: a string as it is, a number or anything else as its text.
pub(super) fn said<'a>(reader: &mut Reader<'a>) -> Result<Option<Cow<'a, str>>, JsonError> {
    Ok(match reader.kind()? {
        Kind::Null => reader.skip().map(|()| None)?,
        Kind::String => Some(reader.word()?),
        _ => Some(Cow::Owned(reader.raw()?.as_json().to_owned())),
    })
}
