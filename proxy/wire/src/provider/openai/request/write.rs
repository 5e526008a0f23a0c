//! The chat model as an OpenAI chat request.
//!
//! Invariant: results of tools directly follow the message that called them, as OpenAI demands, whatever else the user's
//! message holds. Deliberately absent: same-dialect requests, which are never written anew.

use crate::chat::{
    CacheMark, ChatRequest, Content, Document, Format, Message, Notes, Out, Param, Part, Role, Source, Text, Thinking,
    Tool, ToolChoice, effort_for_budget, tool_id,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::fields::write_cache_control;
use crate::provider::{Quirks, Target};

const DIALECT: Dialect = Dialect::OpenAi;

/// Appends a request body. What OpenAI, or the vendor, cannot express is noted or refused by [`crate::chat::LOSSES`].
pub fn write_request(
    request: &ChatRequest<'_>,
    target: &Target<'_>,
    out: &mut Out,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    let mut writer = Writer {
        quirks: target.quirks,
        out,
        notes,
    };
    writer.out.token("{").key("model").string(target.model);
    writer.messages(&request.messages)?;
    writer.tools(request)?;
    writer.format(request.format.as_ref())?;
    writer.sampling(request)?;
    writer.reasoning(request)?;
    writer.rest(request)?;
    writer.out.token("}");
    writer.notes.lose_extras(request, DIALECT)
}

struct Writer<'w> {
    quirks: Quirks,
    out: &'w mut Out,
    notes: &'w mut Notes,
}

impl Writer<'_> {
    fn messages(&mut self, messages: &[Message<'_>]) -> Result<(), ApiError> {
        self.out.key("messages").token("[");
        for message in messages {
            match message.role {
                Role::System => self.plain(message, "system")?,
                Role::Developer if self.quirks.no_developer => self.plain(message, "system")?,
                Role::Developer => self.plain(message, "developer")?,
                Role::User => self.user(message)?,
                Role::Assistant => self.assistant(message)?,
            }
        }
        self.out.token("]");
        Ok(())
    }

    fn open(&mut self, role: &str, name: Option<&Text<'_>>) {
        self.out.comma().token("{\"role\":\"").token(role).token("\"");
        if let Some(name) = name {
            self.out.key("name").text(name);
        }
    }

    fn plain(&mut self, message: &Message<'_>, role: &str) -> Result<(), ApiError> {
        self.open(role, message.name.as_ref());
        self.out.key("content");
        self.content(&message.parts.iter().collect::<Vec<_>>())?;
        self.out.token("}");
        Ok(())
    }

    fn user(&mut self, message: &Message<'_>) -> Result<(), ApiError> {
        let mut said: Vec<&Part<'_>> = Vec::with_capacity(message.parts.len());
        let mut results = 0;
        for part in &message.parts {
            let Content::ToolResult { id, parts, is_error } = &part.content else {
                said.push(part);
                continue;
            };
            results += 1;
            if *is_error == Some(true) {
                self.notes.lose(Param::ToolResultError, DIALECT)?;
            }
            self.open("tool", None);
            self.out
                .key("tool_call_id")
                .text(&tool_id(id, self.quirks.tool_ids))
                .key("content");
            let (words, media): (Vec<_>, Vec<_>) = parts.iter().partition(|part| {
                matches!(
                    &part.content,
                    Content::Text { .. } | Content::Json(_) | Content::Refusal(_) | Content::Other(..)
                )
            });
            self.content(&words)?;
            self.out.token("}");
            if !media.is_empty() {
                self.notes.lose(Param::ToolResultMedia, DIALECT)?;
                said.extend(media);
            }
        }
        if !said.is_empty() || results == 0 {
            self.open("user", message.name.as_ref());
            self.out.key("content");
            self.content(&said)?;
            self.out.token("}");
        }
        Ok(())
    }

    /// A string where that says it all, else an array.
    fn content(&mut self, parts: &[&Part<'_>]) -> Result<(), ApiError> {
        match parts {
            [] => {
                self.out.token("\"\"");
            }
            [
                Part {
                    content: Content::Text { text, .. },
                    cache,
                },
            ] if cache.is_none() || !self.quirks.cache_control => {
                self.cache(*cache, false)?;
                self.out.text(text);
            }
            [
                Part {
                    content: Content::Json(raw),
                    ..
                },
            ] => {
                self.out.string(raw.as_json());
            }
            parts => {
                self.out.token("[");
                for part in parts {
                    self.part(part)?;
                }
                self.out.token("]");
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &Part<'_>) -> Result<(), ApiError> {
        let out = &mut *self.out;
        match &part.content {
            Content::Text { text, .. } | Content::Refusal(text) => {
                out.comma().token("{\"type\":\"text\",\"text\":").text(text)
            }
            Content::Json(raw) => out.comma().token("{\"type\":\"text\",\"text\":").string(raw.as_json()),
            Content::Image { source, detail } => {
                self.url(source, "image_url", Param::ImageUrl)?;
                if let Some(detail) = detail {
                    self.out.key("detail").text(detail);
                }
                self.out.token("}")
            }
            Content::Video(source) => {
                if !self.quirks.video_url {
                    self.notes.lose(Param::Video, DIALECT)?;
                }
                self.url(source, "video_url", Param::Video)?;
                self.out.token("}")
            }
            Content::Audio(Source::Base64 { media_type, data }) => {
                let kind = media_type.decode();
                let format = kind.strip_prefix("audio/").unwrap_or("wav");
                out.comma()
                    .token("{\"type\":\"input_audio\",\"input_audio\":{\"data\":")
                    .text(data)
                    .key("format")
                    .string(format);
                out.token("}")
            }
            Content::Audio(_) => return self.refuse(Param::FileId),
            Content::Document(document) => return self.document(document, part.cache),
            Content::Other(Dialect::OpenAi, raw) => {
                out.comma().raw(raw);
                return Ok(());
            }
            Content::Other(..) => return self.notes.lose(Param::ForeignPart, DIALECT),
            // Neither stands in a user's message; an assistant's are written by `assistant`.
            Content::ToolCall { .. } | Content::ToolResult { .. } => {
                return self.notes.lose(Param::ForeignPart, DIALECT);
            }
            Content::Thinking { .. } | Content::RedactedThinking(_) => {
                return self.notes.lose(Param::Thinking, DIALECT);
            }
        };
        self.cache(part.cache, true)?;
        self.out.token("}");
        Ok(())
    }

    /// A marker inside an open object, where the vendor takes it.
    fn cache(&mut self, mark: Option<CacheMark>, open: bool) -> Result<(), ApiError> {
        let Some(mark) = mark else { return Ok(()) };
        if !self.quirks.cache_control || !open {
            return self.notes.lose(Param::CacheControl, DIALECT);
        }
        self.out.key("cache_control");
        write_cache_control(mark, self.out);
        Ok(())
    }

    /// `{"type":KIND,KIND:{"url":…`, left open for more.
    fn url(&mut self, source: &Source<'_>, kind: &str, param: Param) -> Result<(), ApiError> {
        self.out
            .comma()
            .token("{\"type\":\"")
            .token(kind)
            .token("\",\"")
            .token(kind)
            .token("\":{\"url\":\"");
        match source {
            Source::Url(address) => self.out.fragment(address),
            Source::Base64 { media_type, data } => self
                .out
                .token("data:")
                .fragment(media_type)
                .token(";base64,")
                .fragment(data),
            Source::File(..) => return self.refuse(Param::FileId),
            Source::S3 { .. } => return self.refuse(Param::S3),
            Source::Text(_) | Source::Parts(_) => return self.refuse(param),
        };
        self.out.token("\"");
        Ok(())
    }

    fn document(&mut self, document: &Document<'_>, mark: Option<CacheMark>) -> Result<(), ApiError> {
        if document.context.is_some() || document.citations == Some(true) {
            self.notes.lose(Param::DocumentOptions, DIALECT)?;
        }
        match &document.source {
            Source::Base64 { media_type, data } => {
                self.out.comma().token("{\"type\":\"file\",\"file\":{\"filename\":");
                match &document.name {
                    Some(name) => self.out.text(name),
                    None => self.out.token("\"document.pdf\""),
                };
                self.out
                    .key("file_data")
                    .token("\"data:")
                    .fragment(media_type)
                    .token(";base64,")
                    .fragment(data)
                    .token("\"}");
            }
            Source::File(Dialect::OpenAi, id) => {
                self.out
                    .comma()
                    .token("{\"type\":\"file\",\"file\":{\"file_id\":")
                    .text(id)
                    .token("}");
            }
            Source::File(..) => return self.refuse(Param::FileId),
            Source::Url(_) => return self.refuse(Param::DocumentUrl),
            Source::S3 { .. } => return self.refuse(Param::S3),
            Source::Text(text) => {
                self.notes.lose(Param::DocumentText, DIALECT)?;
                self.out.comma().token("{\"type\":\"text\",\"text\":").text(text);
            }
            Source::Parts(parts) => {
                self.notes.lose(Param::DocumentText, DIALECT)?;
                return parts.iter().try_for_each(|part| self.part(part));
            }
        }
        self.cache(mark, true)?;
        self.out.token("}");
        Ok(())
    }

    /// For what the table refuses without exception.
    fn refuse(&mut self, param: Param) -> Result<(), ApiError> {
        self.notes.lose(param, DIALECT)
    }

    fn assistant(&mut self, message: &Message<'_>) -> Result<(), ApiError> {
        self.open("assistant", message.name.as_ref());
        self.out.key("content");
        let words = |part: &&Part<'_>| matches!(part.content, Content::Text { .. });
        // Pieces of one answer are one text: the model wrote it without a break, and not every vendor takes an array here.
        if message.parts.iter().any(|part| words(&part)) {
            self.out.token("\"");
            for part in message.parts.iter().filter(words) {
                if let Content::Text { text, .. } = &part.content {
                    self.out.fragment(text);
                }
                self.cache(part.cache, false)?;
            }
            self.out.token("\"");
        } else {
            self.out.token("null");
        }
        for part in &message.parts {
            match &part.content {
                Content::Refusal(text) => self.out.key("refusal").text(text).done(),
                Content::Other(..) | Content::ToolResult { .. } | Content::Json(_) => {
                    self.notes.lose(Param::ForeignPart, DIALECT)?;
                }
                Content::Image { .. } | Content::Document(_) | Content::Audio(_) | Content::Video(_) => {
                    self.notes.lose(Param::ForeignPart, DIALECT)?;
                }
                _ => {}
            }
        }
        if message
            .parts
            .iter()
            .any(|part| matches!(part.content, Content::Thinking { .. } | Content::RedactedThinking(_)))
        {
            if self.quirks.reasoning {
                super::super::response::write_reasoning(&message.parts, self.out);
            } else {
                self.notes.lose(Param::Thinking, DIALECT)?;
            }
        }
        super::super::response::write_tool_calls(&message.parts, self.quirks.tool_ids, self.out);
        self.out.token("}");
        Ok(())
    }

    fn tools(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        if request.tools.is_empty() {
            return Ok(());
        }
        self.out.key("tools").token("[");
        for tool in &request.tools {
            match tool {
                Tool::Other(Dialect::OpenAi, raw) => self.out.comma().raw(raw).done(),
                Tool::Other(..) => self.refuse(Param::ServerTool)?,
                Tool::Function {
                    name,
                    description,
                    parameters,
                    strict,
                    cache,
                } => {
                    self.out
                        .comma()
                        .token("{\"type\":\"function\",\"function\":{\"name\":")
                        .text(name);
                    if let Some(description) = description {
                        self.out.key("description").text(description);
                    }
                    if let Some(parameters) = parameters {
                        self.out.key("parameters").raw(parameters);
                    }
                    if let Some(strict) = strict {
                        self.out.key("strict").bool(*strict);
                    }
                    self.out.token("}");
                    self.cache(*cache, true)?;
                    self.out.token("}");
                }
            }
        }
        self.out.token("]");
        match &request.tool_choice {
            None => {}
            Some(ToolChoice::Auto) => self.out.key("tool_choice").token("\"auto\"").done(),
            Some(ToolChoice::Any) => self.out.key("tool_choice").token("\"required\"").done(),
            Some(ToolChoice::None) => self.out.key("tool_choice").token("\"none\"").done(),
            Some(ToolChoice::Named(name)) => {
                self.out
                    .key("tool_choice")
                    .token("{\"type\":\"function\",\"function\":{\"name\":")
                    .text(name)
                    .token("}}");
            }
            Some(ToolChoice::Other(Dialect::OpenAi, raw)) => self.out.key("tool_choice").raw(raw).done(),
            Some(ToolChoice::Other(..)) => self.refuse(Param::ToolChoice)?,
        }
        if let Some(parallel) = request.parallel_tool_calls {
            self.out.key("parallel_tool_calls").bool(parallel);
        }
        Ok(())
    }

    fn format(&mut self, format: Option<&Format<'_>>) -> Result<(), ApiError> {
        match format {
            None => {}
            Some(Format::Text) => self.out.key("response_format").token("{\"type\":\"text\"}").done(),
            Some(Format::JsonObject) => self
                .out
                .key("response_format")
                .token("{\"type\":\"json_object\"}")
                .done(),
            Some(Format::JsonSchema {
                name,
                description,
                schema,
                strict,
            }) => {
                self.out
                    .key("response_format")
                    .token("{\"type\":\"json_schema\",\"json_schema\":{\"name\":");
                match name {
                    Some(name) => self.out.text(name),
                    None => self.out.token("\"response\""),
                };
                if let Some(description) = description {
                    self.out.key("description").text(description);
                }
                self.out.key("schema").raw(schema);
                if let Some(strict) = strict {
                    self.out.key("strict").bool(*strict);
                }
                self.out.token("}}");
            }
            Some(Format::Other(Dialect::OpenAi, raw)) => self.out.key("response_format").raw(raw).done(),
            Some(Format::Other(..)) => self.refuse(Param::Format)?,
        }
        Ok(())
    }

    fn sampling(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        if let Some(tokens) = request.max_tokens {
            self.out
                .key(if self.quirks.max_tokens {
                    "max_tokens"
                } else {
                    "max_completion_tokens"
                })
                .whole(tokens);
        }
        let numbers = [
            ("temperature", request.temperature),
            ("top_p", request.top_p),
            ("seed", request.seed),
            ("presence_penalty", request.presence_penalty),
            ("frequency_penalty", request.frequency_penalty),
            ("top_k", request.top_k.filter(|_| self.quirks.top_k)),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                self.out.key(key).number(number);
            }
        }
        if request.top_k.is_some() && !self.quirks.top_k {
            self.notes.lose(Param::TopK, DIALECT)?;
        }
        if !request.stop.is_empty() {
            self.out.key("stop").token("[");
            request.stop.iter().for_each(|stop| self.out.comma().text(stop).done());
            self.out.token("]");
        }
        for (key, value) in [("n", request.n), ("top_logprobs", request.top_logprobs)] {
            if let Some(value) = value {
                self.out.key(key).whole(value);
            }
        }
        if let Some(bias) = &request.logit_bias {
            self.out.key("logit_bias").raw(bias);
        }
        if let Some(logprobs) = request.logprobs {
            self.out.key("logprobs").bool(logprobs);
        }
        Ok(())
    }

    fn reasoning(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        let reasoning = &request.reasoning;
        if reasoning.display.is_some() {
            self.notes.lose(Param::ThinkingDisplay, DIALECT)?;
        }
        if reasoning.mode == Some(Thinking::Disabled) {
            return self.notes.lose(Param::ReasoningDisabled, DIALECT);
        }
        match (&reasoning.effort, reasoning.budget_tokens) {
            (Some(effort), _) if effort.is("max") => {
                self.out.key("reasoning_effort").token("\"xhigh\"");
                self.notes.lose(Param::ReasoningEffort, DIALECT)
            }
            (Some(effort), _) => {
                self.out.key("reasoning_effort").text(effort);
                Ok(())
            }
            (None, Some(budget)) => {
                self.out.key("reasoning_effort").string(effort_for_budget(budget));
                self.notes.lose(Param::ReasoningBudget, DIALECT)
            }
            (None, None) => Ok(()),
        }
    }

    fn rest(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        if let Some(tier) = &request.service_tier {
            match tier.as_json() {
                "auto" | "default" | "flex" | "priority" | "scale" => self.out.key("service_tier").text(tier).done(),
                "standard_only" | "standard" => self.out.key("service_tier").token("\"default\"").done(),
                _ => self.notes.lose(Param::ServiceTier, DIALECT)?,
            }
        }
        if let Some(user) = &request.user {
            self.out.key("user").text(user);
        }
        if let Some(metadata) = &request.metadata {
            self.out.key("metadata").raw(metadata);
        }
        self.cache(request.cache, true)?;
        if request.stream {
            self.out.key("stream").token("true");
            // Always asked for: budgets are settled by it, and other dialects' clients expect it.
            if !self.quirks.no_stream_options {
                self.out.key("stream_options").token("{\"include_usage\":true}");
            }
        }
        for extra in request.extras.iter().filter(|extra| extra.dialect == DIALECT) {
            self.out.comma().string(&extra.key).token(":").raw(&extra.value);
        }
        Ok(())
    }
}
