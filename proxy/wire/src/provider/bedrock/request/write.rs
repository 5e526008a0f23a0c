//! The chat model as a Converse request.
//!
//! Invariants: roles alternate, because most models on Bedrock insist on it; a conversation that holds tool blocks has a
//! `toolConfig`, because Converse insists on it. Deliberately absent: same-dialect requests, which are never written anew,
//! and ranges, which the service checks itself.

use crate::chat::{
    ChatRequest, Content, Format, Kind, Message, Notes, Number, Out, Param, Raw, Role, Text, Tool, ToolChoice,
    write_object_schema,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::limits;
use crate::provider::Target;

use super::messages::Conversation;
use super::thinking::Plan;
use super::{ADDITIONAL, DIALECT};
use crate::provider::bedrock::Family;

/// Appends a request body. What Converse, or the model, cannot express is noted or refused by [`crate::chat::LOSSES`].
pub fn write_request(
    request: &ChatRequest<'_>,
    target: &Target<'_>,
    out: &mut Out,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    let plan = Plan::of(request, target, notes)?;
    let mut writer = Writer {
        request,
        family: Family::of(target),
        plan,
        out,
        notes,
    };
    writer.out.token("{");
    Conversation::new(target, writer.out, writer.notes).write(request)?;
    writer.inference()?;
    writer.tools()?;
    writer.format()?;
    writer.additional()?;
    writer.rest()?;
    writer.out.token("}");
    writer.notes.lose_extras(request, DIALECT)
}

struct Writer<'w, 'r> {
    request: &'w ChatRequest<'r>,
    family: Family,
    plan: Plan<'w>,
    out: &'w mut Out,
    notes: &'w mut Notes,
}

impl Writer<'_, '_> {
    fn inference(&mut self) -> Result<(), ApiError> {
        let request = self.request;
        let before = self.out.buf.len();
        self.out.key("inferenceConfig").token("{");
        let opened = self.out.buf.len();
        if let Some(tokens) = request.max_tokens {
            self.out.key("maxTokens").whole(tokens);
        }
        let sampling = self.plan.sampling;
        if !sampling && (request.temperature.is_some() || request.top_p.is_some() || request.top_k.is_some()) {
            self.notes.lose(Param::ThinkingSampling, DIALECT)?;
        }
        if let Some(temperature) = request.temperature.filter(|_| sampling) {
            if temperature.f64() > 1.0 {
                self.notes.lose(Param::Temperature, DIALECT)?;
                self.out.key("temperature").token("1");
            } else {
                self.out.key("temperature").number(temperature);
            }
        }
        match request.top_p.filter(|_| sampling) {
            Some(_) if self.family == Family::Claude && request.temperature.is_some() => {
                self.notes.lose(Param::TopPBesideTemperature, DIALECT)?;
            }
            Some(top_p) => self.out.key("topP").number(top_p).done(),
            None => {}
        }
        let taken = |stop: &&Text<'_>| self.family != Family::Claude || !stop.is_blank();
        if !request.stop.iter().all(|stop| taken(&stop)) {
            self.notes.lose(Param::BlankStop, DIALECT)?;
        }
        if request.stop.iter().any(|stop| taken(&stop)) {
            self.out.key("stopSequences").token("[");
            request
                .stop
                .iter()
                .filter(taken)
                .for_each(|stop| self.out.comma().text(stop).done());
            self.out.token("]");
        }
        if self.out.buf.len() == opened {
            self.out.buf.truncate(before);
        } else {
            self.out.token("}");
        }
        Ok(())
    }

    fn tools(&mut self) -> Result<(), ApiError> {
        let request = self.request;
        let choice = request.tool_choice.as_ref();
        let in_use = request.messages.iter().any(has_tool_blocks);
        if matches!(choice, Some(ToolChoice::None)) {
            self.notes.lose(Param::ToolChoiceNone, DIALECT)?;
            if !in_use {
                return Ok(());
            }
        }
        if request.parallel_tool_calls == Some(false) {
            self.notes.lose(Param::ParallelToolCalls, DIALECT)?;
        }
        if request.tools.is_empty() {
            if in_use {
                self.used_tools();
            }
            return Ok(());
        }
        self.out.key("toolConfig").token("{").key("tools").token("[");
        for tool in &request.tools {
            self.tool(tool)?;
        }
        self.out.token("]");
        match choice {
            None | Some(ToolChoice::None) => {}
            Some(ToolChoice::Auto) => self.out.key("toolChoice").token("{\"auto\":{}}").done(),
            Some(ToolChoice::Any) => self.out.key("toolChoice").token("{\"any\":{}}").done(),
            Some(ToolChoice::Named(name)) => {
                self.out
                    .key("toolChoice")
                    .token("{\"tool\":{\"name\":")
                    .text(name)
                    .token("}}");
            }
            Some(ToolChoice::Other(Dialect::Bedrock, raw)) => self.out.key("toolChoice").raw(raw).done(),
            Some(ToolChoice::Other(..)) => self.notes.lose(Param::ToolChoice, DIALECT)?,
        }
        self.out.token("}");
        Ok(())
    }

    fn tool(&mut self, tool: &Tool<'_>) -> Result<(), ApiError> {
        let Tool::Function {
            name,
            description,
            parameters,
            strict,
            cache,
        } = tool
        else {
            if let Tool::Other(Dialect::Bedrock, raw) = tool {
                self.out.comma().raw(raw);
                return Ok(());
            }
            return self.notes.lose(Param::ServerTool, DIALECT);
        };
        self.out.comma().token("{\"toolSpec\":{\"name\":").text(name);
        // Converse refuses an empty description.
        if let Some(description) = description.as_ref().filter(|description| !description.is_blank()) {
            self.out.key("description").text(description);
        }
        self.out.key("inputSchema").token("{\"json\":");
        write_object_schema(parameters.as_ref(), self.out);
        self.out.token("}");
        if let Some(strict) = strict {
            self.out.key("strict").bool(*strict);
        }
        self.out.token("}}");
        if let Some(mark) = cache {
            if self.family.caches() {
                super::messages::write_cache_point(*mark, self.family, self.out);
            } else {
                self.notes.drop_extra("cache_control");
            }
        }
        Ok(())
    }

    /// Converse refuses a conversation with tool blocks that has no `toolConfig`; OpenAI and Anthropic do not ask for the
    /// tools again. The tools that were called are declared, by name.
    fn used_tools(&mut self) {
        let mut names: Vec<&Text<'_>> = Vec::new();
        for part in self.request.messages.iter().flat_map(|message| &message.parts) {
            if let Content::ToolCall { name, .. } = &part.content
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        let fallback = Text::plain("tool");
        if names.is_empty() {
            names.push(&fallback);
        }
        self.out.key("toolConfig").token("{\"tools\":[");
        for name in names {
            self.out.comma().token("{\"toolSpec\":{\"name\":").text(name);
            self.out
                .key("inputSchema")
                .token("{\"json\":{\"type\":\"object\",\"properties\":{}}}}}");
        }
        self.out.token("]}");
    }

    fn format(&mut self) -> Result<(), ApiError> {
        match &self.request.format {
            None | Some(Format::Text) => {}
            Some(Format::JsonObject) => self.notes.lose(Param::JsonObject, DIALECT)?,
            Some(Format::JsonSchema {
                name,
                description,
                schema,
                ..
            }) => {
                self.out
                    .key("outputConfig")
                    .token("{\"textFormat\":{\"type\":\"json_schema\",\"structure\":{\"jsonSchema\":{\"schema\":");
                self.out.string(schema.as_json());
                if let Some(name) = name {
                    self.out.key("name").text(name);
                }
                if let Some(description) = description {
                    self.out.key("description").text(description);
                }
                self.out.token("}}}}");
            }
            Some(Format::Other(Dialect::Bedrock, raw)) => {
                self.out
                    .key("outputConfig")
                    .token("{\"textFormat\":")
                    .raw(raw)
                    .token("}");
            }
            Some(Format::Other(..)) => self.notes.lose(Param::Format, DIALECT)?,
        }
        Ok(())
    }

    /// What travels in the model's own words.
    fn additional(&mut self) -> Result<(), ApiError> {
        let before = self.out.buf.len();
        self.out.key(ADDITIONAL).token("{");
        let opened = self.out.buf.len();
        self.plan.write(self.out);
        if let Some(top_k) = self.request.top_k.filter(|_| self.plan.sampling) {
            self.top_k(top_k);
        }
        let path = |key: &str| {
            key.strip_prefix(ADDITIONAL)
                .and_then(|rest| rest.strip_prefix('.'))
                .map(str::to_owned)
        };
        for extra in self.request.extras.iter().filter(|extra| extra.dialect == DIALECT) {
            // Members of an object that the plan may have written already are left to it.
            if let Some(key) = path(&extra.key).filter(|key| !key.contains('.')) {
                self.out.comma().string(&key).token(":").raw(&extra.value);
            }
        }
        if self.out.buf.len() == opened {
            self.out.buf.truncate(before);
        } else {
            self.out.token("}");
        }
        // The one place where Converse says which stop sequence was met; models that do not know the field ignore it.
        let asked = self
            .request
            .extras
            .iter()
            .any(|extra| extra.key == "additionalModelResponseFieldPaths");
        if self.family == Family::Claude && !self.request.stop.is_empty() && !asked {
            self.out
                .key("additionalModelResponseFieldPaths")
                .token("[\"/stop_sequence\"]");
        }
        Ok(())
    }

    fn top_k(&mut self, top_k: Number<'_>) {
        match self.family {
            Family::Claude | Family::Other => self.out.key("top_k").number(top_k).done(),
            Family::Nova => {
                self.out
                    .key("inferenceConfig")
                    .token("{\"topK\":")
                    .number(top_k)
                    .token("}");
            }
            Family::GptOss => self.notes.drop_extra("top_k"),
        }
    }

    fn rest(&mut self) -> Result<(), ApiError> {
        let request = self.request;
        if let Some(metadata) = &request.metadata {
            self.metadata(metadata);
        }
        if let Some(tier) = &request.service_tier {
            match tier.as_json() {
                // What happens anyway.
                "auto" => {}
                "default" | "flex" | "priority" | "reserved" => {
                    self.out.key("serviceTier").token("{\"type\":").text(tier).token("}");
                }
                "standard_only" | "standard" => self.out.key("serviceTier").token("{\"type\":\"default\"}").done(),
                _ => self.notes.lose(Param::ServiceTier, DIALECT)?,
            }
        }
        for extra in request
            .extras
            .iter()
            .filter(|extra| extra.dialect == DIALECT && !extra.key.contains('.'))
        {
            self.out.comma().string(&extra.key).token(":").raw(&extra.value);
        }
        let not_zero = |penalty: Number<'_>| penalty.f64() != 0.0;
        let lost = [
            (request.n.is_some_and(|n| n > 1), Param::Several),
            (request.logprobs == Some(true), Param::Logprobs),
            (request.seed.is_some(), Param::Seed),
            (request.presence_penalty.is_some_and(not_zero), Param::PresencePenalty),
            (request.frequency_penalty.is_some_and(not_zero), Param::FrequencyPenalty),
            (
                request.logit_bias.as_ref().is_some_and(|bias| bias.as_json().len() > 2),
                Param::LogitBias,
            ),
            (request.user.is_some(), Param::User),
        ];
        lost.iter()
            .filter(|(is_lost, _)| *is_lost)
            .try_for_each(|(_, param)| self.notes.lose(*param, DIALECT))
    }

    /// Pairs that Converse takes: at most 16, of its own small alphabet, with strings for values.
    fn metadata(&mut self, metadata: &Raw<'_>) {
        let mut pairs = Vec::new();
        let mut reader = metadata.reader();
        if reader.object("").is_err() {
            return self.notes.drop_extra("metadata");
        }
        while let Ok(Some(key)) = reader.key() {
            let value = match reader.kind() {
                Ok(Kind::String) => reader.text().ok(),
                _ => reader.skip().err().and(None),
            };
            match value.filter(|value| takes(&key, 1) && takes(&value.decode(), 0)) {
                Some(value) if pairs.len() < limits::BEDROCK_METADATA_MAX => pairs.push((key, value)),
                _ => self.notes.drop_extra(&format!("metadata.{key}")),
            }
        }
        if !pairs.is_empty() {
            self.out.key("requestMetadata").token("{");
            for (key, value) in &pairs {
                self.out.comma().string(key).token(":").text(value);
            }
            self.out.token("}");
        }
    }
}

/// `[a-zA-Z0-9\s:_@$#=/+,-.]{min,256}`
fn takes(text: &str, min: usize) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b":_@$#=/+,-.".contains(&byte);
    (min..=256).contains(&text.len()) && text.bytes().all(allowed)
}

fn has_tool_blocks(message: &Message<'_>) -> bool {
    message.role != Role::System
        && message
            .parts
            .iter()
            .any(|part| matches!(part.content, Content::ToolCall { .. } | Content::ToolResult { .. }))
}
