//! The chat model as an Anthropic message request.
//!
//! Structured output becomes `output_config.format`, not a forced tool call: the answer then arrives as text, as the client
//! expects, also in a stream, and neither thinking nor the client's own tools are lost. Invariants: messages alternate;
//! results of tools come first in their message; no text block is blank (Anthropic refuses each otherwise). Deliberately
//! absent: an opening message of the user's where a conversation lacks one; Anthropic's own error says it best.

use crate::chat::{
    CacheMark, ChatRequest, Content, Document, Format, Message, Notes, Number, Out, Param, Part, Role, Source, Text,
    Thinking, Tool, ToolChoice, ToolIdRule, budget_for_effort, effort_for_budget, tool_id, write_object_schema,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::fields::write_cache_control;
use crate::provider::{Target, ThinkingStyle};

const DIALECT: Dialect = Dialect::Anthropic;
/// The least thinking budget that Claude takes, in tokens.
const BUDGET_MIN: u64 = 1024;

/// Appends a request body. What Anthropic cannot express is noted or refused by [`crate::chat::LOSSES`].
pub fn write_request(
    request: &ChatRequest<'_>,
    target: &Target<'_>,
    out: &mut Out,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    let mut writer = Writer { out, notes };
    writer.out.token("{").key("model").string(target.model);
    let thinks = writer.thinking(request, target)?;
    writer.system(&request.messages)?;
    writer.messages(&request.messages)?;
    writer.tools(request)?;
    writer.sampling(request, target, thinks)?;
    writer.rest(request)?;
    writer.out.token("}");
    writer.notes.lose_extras(request, DIALECT)
}

/// How models are told to think, by name
/// (<https://docs.anthropic.com/en/docs/build-with-claude/adaptive-thinking>). A Claude that is not listed is taken for a
/// newer one; a model that is no Claude stands behind an API that copied the first form.
pub fn thinking_style(model: &str) -> ThinkingStyle {
    const BUDGET: &[&str] = &["3-", "2", "instant", "opus-4-1", "opus-4-5", "sonnet-4-5", "haiku-4-5"];
    const ADAPTIVE: &[&str] = &["opus-4-6", "sonnet-4-6"];
    let Some((_, claude)) = model.rsplit_once("claude-") else {
        return ThinkingStyle::Budget;
    };
    // `claude-opus-4-20250514`, `claude-sonnet-4@20250514`, `claude-opus-4-0`: the first of the fourth generation.
    let first = |name: &str| {
        let rest = claude.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || ["-20", "@", "-0"].iter().any(|sign| rest.starts_with(sign)))
    };
    if BUDGET.iter().any(|name| claude.starts_with(name)) || first("opus-4") || first("sonnet-4") {
        ThinkingStyle::Budget
    } else if ADAPTIVE.iter().any(|name| claude.starts_with(name)) {
        ThinkingStyle::Adaptive
    } else {
        ThinkingStyle::AdaptiveOnly
    }
}

/// Whether the model's last turn calls tools and does not begin with reasoning that can be sent.
pub fn calls_without_thinking(messages: &[Message<'_>]) -> bool {
    let last = messages.iter().rfind(|message| message.role == Role::Assistant);
    last.is_some_and(|message| {
        let calls = |part: &Part<'_>| matches!(part.content, Content::ToolCall { .. });
        let signed = |part: &Part<'_>| {
            matches!(
                part.content,
                Content::Thinking { signature: Some(_), .. } | Content::RedactedThinking(_)
            )
        };
        message.parts.iter().any(calls) && !message.parts.iter().any(signed)
    })
}

struct Writer<'w> {
    out: &'w mut Out,
    notes: &'w mut Notes,
}

impl Writer<'_> {
    /// `max_tokens`, `thinking` and `output_config`; returns whether the model is to think.
    fn thinking(&mut self, request: &ChatRequest<'_>, target: &Target<'_>) -> Result<bool, ApiError> {
        let reasoning = &request.reasoning;
        let effort = reasoning.effort.as_ref().map(Text::as_json);
        let off = reasoning.mode == Some(Thinking::Disabled) || effort == Some("none");
        let mut on = !off && (reasoning.mode.is_some() || effort.is_some() || reasoning.budget_tokens.is_some());
        if on
            && matches!(request.tool_choice, Some(ToolChoice::Any | ToolChoice::Named(_)))
            && !request.tools.is_empty()
        {
            self.notes.lose(Param::ForcedToolThinking, DIALECT)?;
            on = false;
        }
        let style = match target.quirks.thinking {
            ThinkingStyle::ByModel => thinking_style(target.model),
            style => style,
        };
        if on && style == ThinkingStyle::Budget && calls_without_thinking(&request.messages) {
            self.notes.lose(Param::ThinkingHistory, DIALECT)?;
            on = false;
        }
        let mut max_tokens = request.max_tokens.unwrap_or(u64::from(target.max_tokens_default));
        let mut budget = None;
        if on && style == ThinkingStyle::Budget {
            let mut wanted = reasoning
                .budget_tokens
                .or(effort.and_then(budget_for_effort))
                .unwrap_or(8192)
                .max(BUDGET_MIN);
            if reasoning.budget_tokens.is_none() {
                self.notes.lose(Param::ReasoningEffort, DIALECT)?;
            }
            match request.max_tokens {
                None => max_tokens = wanted + u64::from(target.max_tokens_default),
                Some(max) if max <= BUDGET_MIN => {
                    self.notes.lose(Param::ReasoningOff, DIALECT)?;
                    on = false;
                }
                // Half is left for the answer.
                Some(max) => wanted = if wanted >= max { BUDGET_MIN.max(max / 2) } else { wanted },
            }
            budget = Some(wanted);
        }
        self.out.key("max_tokens").whole(max_tokens);
        if off {
            self.out.key("thinking").token("{\"type\":\"disabled\"}");
        } else if on {
            self.out.key("thinking").token("{\"type\":");
            match budget {
                Some(budget) => self.out.token("\"enabled\",\"budget_tokens\":").whole(budget),
                None => self.out.token("\"adaptive\""),
            };
            if let Some(display) = &reasoning.display {
                self.out.key("display").text(display);
            }
            self.out.token("}");
        }
        let effort = if on && budget.is_none() {
            self.effort(request, style)?
        } else {
            None
        };
        self.output_config(request, effort)?;
        Ok(on)
    }

    /// The word for `output_config.effort`.
    fn effort(&mut self, request: &ChatRequest<'_>, style: ThinkingStyle) -> Result<Option<String>, ApiError> {
        let (effort, budget) = (request.reasoning.effort.as_ref(), request.reasoning.budget_tokens);
        let word = match (effort.map(Text::as_json), budget) {
            (Some("minimal"), _) => "low",
            (Some("xhigh"), _) if style == ThinkingStyle::Adaptive => "high",
            (Some(word), _) => return Ok(Some(word.to_owned())),
            (None, Some(budget)) => {
                self.notes.lose(Param::ReasoningBudget, DIALECT)?;
                return Ok(Some(effort_for_budget(budget).replace("minimal", "low")));
            }
            (None, None) => return Ok(None),
        };
        self.notes.lose(Param::ReasoningEffort, DIALECT)?;
        Ok(Some(word.to_owned()))
    }

    fn output_config(&mut self, request: &ChatRequest<'_>, effort: Option<String>) -> Result<(), ApiError> {
        let schema = match &request.format {
            None | Some(Format::Text) => None,
            Some(Format::JsonObject) => {
                self.notes.lose(Param::JsonObject, DIALECT)?;
                None
            }
            Some(Format::JsonSchema {
                schema, description, ..
            }) => {
                if description.is_some() {
                    self.notes.lose(Param::FormatDescription, DIALECT)?;
                }
                Some(schema)
            }
            Some(Format::Other(..)) => return self.notes.lose(Param::Format, DIALECT),
        };
        if effort.is_none() && schema.is_none() {
            return Ok(());
        }
        self.out.key("output_config").token("{");
        if let Some(effort) = effort {
            self.out.key("effort").token("\"").token(&effort).token("\"");
        }
        if let Some(schema) = schema {
            self.out
                .key("format")
                .token("{\"type\":\"json_schema\",\"schema\":")
                .raw(schema)
                .token("}");
        }
        self.out.token("}");
        Ok(())
    }

    /// All instructions, in order, wherever they stand in the conversation.
    fn system(&mut self, messages: &[Message<'_>]) -> Result<(), ApiError> {
        let instructs = |message: &&Message<'_>| matches!(message.role, Role::System | Role::Developer);
        if messages.iter().skip_while(instructs).any(|message| instructs(&message)) {
            self.notes.lose(Param::SystemPosition, DIALECT)?;
        }
        let mut any = false;
        for part in messages.iter().filter(instructs).flat_map(|message| &message.parts) {
            let Content::Text { text, .. } = &part.content else {
                self.notes.lose(Param::ForeignPart, DIALECT)?;
                continue;
            };
            if text.is_blank() {
                continue;
            }
            if !any {
                self.out.key("system").token("[");
                any = true;
            }
            self.out.comma().token("{\"type\":\"text\",\"text\":").text(text);
            self.cache(part.cache);
            self.out.token("}");
        }
        if any {
            self.out.token("]");
        }
        if messages.iter().any(|message| message.name.is_some()) {
            self.notes.lose(Param::MessageName, DIALECT)?;
        }
        Ok(())
    }

    fn messages(&mut self, messages: &[Message<'_>]) -> Result<(), ApiError> {
        self.out.key("messages").token("[");
        let said: Vec<&Message<'_>> = messages
            .iter()
            .filter(|message| matches!(message.role, Role::User | Role::Assistant))
            .collect();
        for turn in said.chunk_by(|one, next| one.role == next.role) {
            let role = if turn[0].role == Role::User {
                "user"
            } else {
                "assistant"
            };
            let parts = || turn.iter().flat_map(|message| &message.parts);
            let is_result = |part: &&Part<'_>| matches!(part.content, Content::ToolResult { .. });
            let begin = self.out.buf.len();
            self.out
                .comma()
                .token("{\"role\":\"")
                .token(role)
                .token("\",\"content\":[");
            let empty = self.out.buf.len();
            for part in parts().filter(is_result).chain(parts().filter(|part| !is_result(part))) {
                self.part(part)?;
            }
            if self.out.buf.len() == empty {
                // Nothing of the turn is left, and Anthropic takes no empty message.
                self.out.buf.truncate(begin);
            } else {
                self.out.token("]}");
            }
        }
        self.out.token("]");
        Ok(())
    }

    fn cache(&mut self, mark: Option<CacheMark>) {
        if let Some(mark) = mark {
            self.out.key("cache_control");
            write_cache_control(mark, self.out);
        }
    }

    fn part(&mut self, part: &Part<'_>) -> Result<(), ApiError> {
        let out = &mut *self.out;
        match &part.content {
            Content::Text { text, .. } | Content::Refusal(text) if text.is_blank() => return Ok(()),
            Content::Text { text, citations } => {
                out.comma().token("{\"type\":\"text\",\"text\":").text(text);
                super::super::response::write_own_citations(citations, out);
            }
            Content::Refusal(text) => {
                out.comma().token("{\"type\":\"text\",\"text\":").text(text);
                self.notes.lose(Param::Refusal, DIALECT)?;
            }
            Content::Json(raw) => out
                .comma()
                .token("{\"type\":\"text\",\"text\":")
                .string(raw.as_json())
                .done(),
            Content::Image { source, detail } => {
                if detail.as_ref().is_some_and(|detail| !detail.is("auto")) {
                    self.notes.lose(Param::ImageDetail, DIALECT)?;
                }
                self.out.comma().token("{\"type\":\"image\",\"source\":");
                self.source(source)?;
            }
            Content::Document(document) => self.document(document)?,
            Content::Audio(_) => return self.notes.lose(Param::Audio, DIALECT),
            Content::Video(_) => return self.notes.lose(Param::Video, DIALECT),
            Content::ToolCall { custom: true, .. } => return self.notes.lose(Param::CustomTool, DIALECT),
            Content::ToolCall {
                id, name, arguments, ..
            } => {
                out.comma()
                    .token("{\"type\":\"tool_use\",\"id\":")
                    .text(&tool_id(id, ToolIdRule::Word64));
                out.key("name").text(name).key("input");
                arguments.write_object(out);
            }
            Content::ToolResult { id, parts, is_error } => {
                out.comma()
                    .token("{\"type\":\"tool_result\",\"tool_use_id\":")
                    .text(&tool_id(id, ToolIdRule::Word64));
                out.key("content").token("[");
                for part in parts {
                    self.part(part)?;
                }
                self.out.token("]");
                if let Some(is_error) = is_error {
                    self.out.key("is_error").bool(*is_error);
                }
            }
            Content::Thinking {
                text,
                signature: Some(signature),
            } => {
                out.comma()
                    .token("{\"type\":\"thinking\",\"thinking\":")
                    .text(text)
                    .key("signature")
                    .text(signature);
            }
            Content::Thinking { .. } => return self.notes.lose(Param::Thinking, DIALECT),
            Content::RedactedThinking(data) => out
                .comma()
                .token("{\"type\":\"redacted_thinking\",\"data\":")
                .text(data)
                .done(),
            Content::Other(Dialect::Anthropic, raw) => {
                out.comma().raw(raw);
                return Ok(());
            }
            Content::Other(..) => return self.notes.lose(Param::ForeignPart, DIALECT),
        }
        self.cache(part.cache);
        self.out.token("}");
        Ok(())
    }

    /// An image's source.
    fn source(&mut self, source: &Source<'_>) -> Result<(), ApiError> {
        match source {
            Source::Base64 { media_type, data } => {
                self.out
                    .token("{\"type\":\"base64\",\"media_type\":")
                    .text(media_type)
                    .key("data")
                    .text(data)
                    .token("}");
            }
            Source::Url(url) => self.out.token("{\"type\":\"url\",\"url\":").text(url).token("}").done(),
            Source::File(Dialect::Anthropic, id) => {
                self.out.token("{\"type\":\"file\",\"file_id\":").text(id).token("}");
            }
            Source::File(..) => return self.notes.lose(Param::FileId, DIALECT),
            Source::S3 { .. } => return self.notes.lose(Param::S3, DIALECT),
            Source::Text(text) => {
                self.out
                    .token("{\"type\":\"text\",\"media_type\":\"text/plain\",\"data\":")
                    .text(text)
                    .token("}");
            }
            Source::Parts(parts) => {
                self.out.token("{\"type\":\"content\",\"content\":[");
                for part in parts {
                    self.part(part)?;
                }
                self.out.token("]}");
            }
        }
        Ok(())
    }

    /// A document, left open for a cache marker.
    fn document(&mut self, document: &Document<'_>) -> Result<(), ApiError> {
        if let Source::Base64 { media_type, .. } = &document.source {
            // Plain text does not come in base64; the other types are not read at all.
            if !media_type.is("application/pdf") {
                return self.notes.lose(Param::DocumentFormat, DIALECT);
            }
        }
        self.out.comma().token("{\"type\":\"document\",\"source\":");
        self.source(&document.source)?;
        if let Some(name) = &document.name {
            self.out.key("title").text(name);
        }
        if let Some(context) = &document.context {
            self.out.key("context").text(context);
        }
        if let Some(citations) = document.citations {
            self.out
                .key("citations")
                .token("{\"enabled\":")
                .bool(citations)
                .token("}");
        }
        Ok(())
    }

    fn tools(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        if request.tools.is_empty() {
            return Ok(());
        }
        self.out.key("tools").token("[");
        for tool in &request.tools {
            match tool {
                Tool::Other(Dialect::Anthropic, raw) => self.out.comma().raw(raw).done(),
                Tool::Other(..) => self.notes.lose(Param::ServerTool, DIALECT)?,
                Tool::Function {
                    name,
                    description,
                    parameters,
                    strict,
                    cache,
                } => {
                    self.out.comma().token("{\"name\":").text(name);
                    if let Some(description) = description {
                        self.out.key("description").text(description);
                    }
                    self.out.key("input_schema");
                    write_object_schema(parameters.as_ref(), self.out);
                    if let Some(strict) = strict {
                        self.out.key("strict").bool(*strict);
                    }
                    self.cache(*cache);
                    self.out.token("}");
                }
            }
        }
        self.out.token("]");
        let sequential = request.parallel_tool_calls == Some(false);
        let choice = match &request.tool_choice {
            Some(ToolChoice::None) => {
                self.out.key("tool_choice").token("{\"type\":\"none\"}");
                return Ok(());
            }
            Some(ToolChoice::Other(..)) => return self.notes.lose(Param::ToolChoice, DIALECT),
            None if !sequential => return Ok(()),
            None | Some(ToolChoice::Auto) => "auto",
            Some(ToolChoice::Any) => "any",
            Some(ToolChoice::Named(_)) => "tool",
        };
        self.out
            .key("tool_choice")
            .token("{\"type\":\"")
            .token(choice)
            .token("\"");
        if let Some(ToolChoice::Named(name)) = &request.tool_choice {
            self.out.key("name").text(name);
        }
        if let Some(parallel) = request.parallel_tool_calls {
            self.out.key("disable_parallel_tool_use").bool(!parallel);
        }
        self.out.token("}");
        Ok(())
    }

    fn sampling(&mut self, request: &ChatRequest<'_>, target: &Target<'_>, thinks: bool) -> Result<(), ApiError> {
        let style = match target.quirks.thinking {
            ThinkingStyle::ByModel => thinking_style(target.model),
            style => style,
        };
        let given = request.temperature.or(request.top_p).or(request.top_k).is_some();
        if given && (thinks || style == ThinkingStyle::AdaptiveOnly) {
            self.notes.lose(Param::ThinkingSampling, DIALECT)?;
        } else {
            if let Some(temperature) = request.temperature {
                let above = temperature.f64() > 1.0;
                if above {
                    self.notes.lose(Param::Temperature, DIALECT)?;
                }
                self.out
                    .key("temperature")
                    .number(if above { Number::fixed("1") } else { temperature });
            }
            // Claude from 4.1 on takes either temperature or top_p, not both.
            match (request.temperature, request.top_p) {
                (Some(_), Some(_)) => self.notes.lose(Param::TopPBesideTemperature, DIALECT)?,
                (None, Some(top_p)) => self.out.key("top_p").number(top_p).done(),
                _ => {}
            }
            if let Some(top_k) = request.top_k {
                self.out.key("top_k").number(top_k);
            }
        }
        if request.stop.iter().any(|stop| !stop.is_blank()) {
            // Anthropic refuses blank sequences.
            self.out.key("stop_sequences").token("[");
            request
                .stop
                .iter()
                .filter(|stop| !stop.is_blank())
                .for_each(|stop| self.out.comma().text(stop).done());
            self.out.token("]");
        }
        let lost = [
            (request.stop.iter().any(Text::is_blank), Param::BlankStop),
            (request.seed.is_some(), Param::Seed),
            (request.n.is_some_and(|n| n > 1), Param::Several),
            (
                request.presence_penalty.is_some_and(|penalty| penalty.f64() != 0.0),
                Param::PresencePenalty,
            ),
            (
                request.frequency_penalty.is_some_and(|penalty| penalty.f64() != 0.0),
                Param::FrequencyPenalty,
            ),
            (
                request.logit_bias.as_ref().is_some_and(|bias| bias.as_json().len() > 2),
                Param::LogitBias,
            ),
            (request.logprobs == Some(true), Param::Logprobs),
            (request.metadata.is_some(), Param::Metadata),
        ];
        lost.into_iter()
            .filter(|(given, _)| *given)
            .try_for_each(|(_, param)| self.notes.lose(param, DIALECT))
    }

    fn rest(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        if let Some(user) = &request.user {
            self.out.key("metadata").token("{\"user_id\":").text(user).token("}");
        }
        if let Some(tier) = &request.service_tier {
            match tier.as_json() {
                "auto" | "priority" => self.out.key("service_tier").token("\"auto\"").done(),
                "default" | "standard_only" | "standard" => {
                    self.out.key("service_tier").token("\"standard_only\"").done()
                }
                _ => self.notes.lose(Param::ServiceTier, DIALECT)?,
            }
        }
        self.cache(request.cache);
        if request.stream {
            self.out.key("stream").token("true");
        }
        for extra in request.extras.iter().filter(|extra| extra.dialect == DIALECT) {
            self.out.comma().string(&extra.key).token(":").raw(&extra.value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_think_in_the_form_of_their_generation() {
        for (model, style) in [
            ("claude-3-7-sonnet-20250219", ThinkingStyle::Budget),
            ("claude-opus-4-20250514", ThinkingStyle::Budget),
            ("claude-sonnet-4-5", ThinkingStyle::Budget),
            ("claude-haiku-4-5-20251001", ThinkingStyle::Budget),
            ("us.anthropic.claude-sonnet-4-20250514-v1:0", ThinkingStyle::Budget),
            ("some-vendor-model", ThinkingStyle::Budget),
            ("claude-opus-4-6", ThinkingStyle::Adaptive),
            ("claude-sonnet-4-6", ThinkingStyle::Adaptive),
            ("claude-opus-4-7", ThinkingStyle::AdaptiveOnly),
            ("claude-sonnet-5", ThinkingStyle::AdaptiveOnly),
        ] {
            assert_eq!(thinking_style(model), style, "{model}");
        }
    }
}
