//! Converse requests into the chat model
//! (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>). Writing them is [`write_request`].
//!
//! Invariants: a known field of the wrong type is a 400 that names it; an unknown top-level field is kept as an [`Extra`], and so is
//! a field of `additionalModelRequestFields` that has no canonical meaning, under its path. Deliberately absent: range
//! checks, which are the provider's, and the model, which is in the path.

mod messages;
mod thinking;
mod write;

use std::borrow::Cow;

pub use write::write_request;

use crate::chat::{
    ChatRequest, Extra, Format, JsonError, Kind, Message, Raw, Reader, Role, Text, Thinking, Tool, ToolChoice,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::Ingress;

use super::content;

const DIALECT: Dialect = Dialect::Bedrock;
/// Where fields of the model's own API travel.
const ADDITIONAL: &str = "additionalModelRequestFields";

/// Reads a request body; the model and whether to stream come from the path. Errors are 400s:
/// [`crate::error::Code::InvalidBody`] or `InvalidParameter`.
pub fn parse_request<'a>(body: &'a [u8], ingress: &Ingress<'_>) -> Result<ChatRequest<'a>, ApiError> {
    let mut reader = Reader::new(body).map_err(|error| error.in_request(""))?;
    let mut request = ChatRequest {
        model: Text::owned(ingress.path_model.unwrap_or_default().to_owned()),
        stream: ingress.path_stream,
        include_usage: true,
        ..ChatRequest::default()
    };
    let mut system = None;
    reader.object("a JSON object").map_err(|error| error.in_request(""))?;
    while let Some(key) = reader.key().map_err(|error| error.in_request(""))? {
        let name = key.clone();
        field(&mut reader, key, &mut request, &mut system).map_err(|error| error.in_request(&name))?;
    }
    reader.end().map_err(|error| error.in_request(""))?;
    if let Some(system) = system {
        request.messages.insert(0, system);
    }
    request.ignored = reader.take_ignored();
    Ok(request)
}

fn field<'a>(
    reader: &mut Reader<'a>,
    key: Cow<'a, str>,
    request: &mut ChatRequest<'a>,
    system: &mut Option<Message<'a>>,
) -> Result<(), JsonError> {
    if reader.null()? {
        return Ok(());
    }
    match &*key {
        "messages" => request.messages = messages(reader)?,
        "system" => {
            let (parts, _) = content::parse_blocks(reader)?;
            *system = (!parts.is_empty()).then_some(Message {
                role: Role::System,
                name: None,
                parts,
            });
        }
        "inferenceConfig" => inference_config(reader, request)?,
        "toolConfig" => tool_config(reader, request)?,
        ADDITIONAL => additional_fields(reader, request)?,
        "requestMetadata" => request.metadata = Some(reader.raw()?),
        "serviceTier" => request.service_tier = typed(reader)?,
        "outputConfig" => output_config(reader, request)?,
        _ => request.extras.push(Extra {
            dialect: DIALECT,
            key,
            value: reader.raw()?,
        }),
    }
    Ok(())
}

fn messages<'a>(reader: &mut Reader<'a>) -> Result<Vec<Message<'a>>, JsonError> {
    let mut messages: Vec<Message<'a>> = Vec::with_capacity(8);
    reader.array("an array of messages")?;
    while reader.item()? {
        let (mut role, mut parts, mut leading) = (None, Vec::new(), None);
        reader.object("a message")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "role" => {
                    role = Some(match &*reader.word()? {
                        "user" => Role::User,
                        "assistant" => Role::Assistant,
                        // Some models take instructions amid the conversation.
                        "system" => Role::System,
                        _ => return Err(JsonError::Expected("messages whose role is `user` or `assistant`")),
                    });
                }
                "content" => (parts, leading) = content::parse_blocks(reader)?,
                _ => reader.ignore(key)?,
            }
        }
        if let (Some(mark), Some(last)) = (
            leading,
            messages.last_mut().and_then(|message| message.parts.last_mut()),
        ) {
            last.cache = Some(mark);
        }
        let role = role.ok_or(JsonError::Expected("messages that have a role"))?;
        messages.push(Message {
            role,
            name: None,
            parts,
        });
    }
    Ok(messages)
}

fn inference_config<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "maxTokens" => request.max_tokens = reader.whole_or_null()?,
            "temperature" => request.temperature = reader.number_or_null()?,
            "topP" => request.top_p = reader.number_or_null()?,
            "stopSequences" => {
                if reader.null()? {
                    continue;
                }
                reader.array("an array of strings")?;
                while reader.item()? {
                    request.stop.push(reader.text()?);
                }
            }
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

fn tool_config<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "tools" => {
                reader.array("an array of tools")?;
                while reader.item()? {
                    tool(reader, &mut request.tools)?;
                }
            }
            "toolChoice" => request.tool_choice = tool_choice(reader)?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

/// One element of `tools`, a union: an element with a member that is not known here is kept as it is, whatever else it has.
fn tool<'a>(reader: &mut Reader<'a>, tools: &mut Vec<Tool<'a>>) -> Result<(), JsonError> {
    let mut whole = reader.clone();
    let (before, mut mark, mut is_other) = (tools.len(), None, false);
    reader.object("a tool")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "toolSpec" => tools.push(tool_spec(reader)?),
            "cachePoint" => mark = Some(content::parse_cache_point(reader)?),
            _ => {
                reader.skip()?;
                is_other = true;
            }
        }
    }
    if is_other {
        tools.truncate(before);
        tools.push(Tool::Other(DIALECT, whole.raw()?));
    } else if let (Some(mark), Some(Tool::Function { cache, .. })) = (mark, tools.last_mut()) {
        // In front of all tools, or behind one that no other dialect knows, it marks nothing that is carried.
        *cache = Some(mark);
    }
    Ok(())
}

fn tool_spec<'a>(reader: &mut Reader<'a>) -> Result<Tool<'a>, JsonError> {
    let (mut name, mut description, mut parameters, mut strict) = (None, None, None, None);
    reader.object("a tool specification")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "name" => name = Some(reader.text()?),
            "description" => description = reader.text_or_null()?,
            "inputSchema" => {
                reader.object("an object with `json`")?;
                while let Some(key) = reader.key()? {
                    match &*key {
                        "json" => parameters = Some(reader.raw()?),
                        _ => reader.ignore(key)?,
                    }
                }
            }
            "strict" => strict = reader.bool_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    let name = name.ok_or(JsonError::Expected("tools that have a name"))?;
    Ok(Tool::Function {
        name,
        description,
        parameters,
        strict,
        cache: None,
    })
}

fn tool_choice<'a>(reader: &mut Reader<'a>) -> Result<Option<ToolChoice<'a>>, JsonError> {
    if reader.null()? {
        return Ok(None);
    }
    let mut whole = reader.clone();
    let mut choice = None;
    reader.object("an object with `auto`, `any` or `tool`")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "auto" => {
                reader.skip()?;
                choice = Some(ToolChoice::Auto);
            }
            "any" => {
                reader.skip()?;
                choice = Some(ToolChoice::Any);
            }
            "tool" => {
                reader.object("an object with `name`")?;
                while let Some(key) = reader.key()? {
                    match &*key {
                        "name" => choice = Some(ToolChoice::Named(reader.text()?)),
                        _ => reader.ignore(key)?,
                    }
                }
            }
            _ => {
                reader.skip()?;
                choice = Some(ToolChoice::Other(DIALECT, whole.raw()?));
                whole = reader.clone();
            }
        }
    }
    Ok(choice)
}

/// `{"type": …}`
fn typed<'a>(reader: &mut Reader<'a>) -> Result<Option<Text<'a>>, JsonError> {
    let mut kind = None;
    reader.object("an object with `type`")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => kind = reader.text_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(kind)
}

fn output_config<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "textFormat" => request.format = text_format(reader)?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

fn text_format<'a>(reader: &mut Reader<'a>) -> Result<Option<Format<'a>>, JsonError> {
    let whole = reader.clone().raw()?;
    let (mut name, mut description, mut schema) = (None, None, None);
    if reader.null()? {
        return Ok(None);
    }
    reader.object("a text format")?;
    while let Some(key) = reader.key()? {
        if &*key != "structure" {
            reader.skip()?;
            continue;
        }
        reader.object("an object with `jsonSchema`")?;
        while let Some(key) = reader.key()? {
            if &*key != "jsonSchema" {
                reader.skip()?;
                continue;
            }
            reader.object("a JSON schema definition")?;
            while let Some(key) = reader.key()? {
                match &*key {
                    "name" => name = reader.text_or_null()?,
                    "description" => description = reader.text_or_null()?,
                    "schema" => {
                        let text = reader.word()?;
                        schema = Some(
                            Raw::parse(text)
                                .map_err(|_| JsonError::Expected("a format whose schema is JSON in a string"))?,
                        );
                    }
                    _ => reader.ignore(key)?,
                }
            }
        }
    }
    Ok(Some(match schema {
        Some(schema) => Format::JsonSchema {
            name,
            description,
            schema,
            strict: Some(true),
        },
        None => Format::Other(DIALECT, whole),
    }))
}

/// The model's own fields: those of Claude, Nova and gpt-oss that have a canonical meaning are understood.
fn additional_fields<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "top_k" => request.top_k = reader.number_or_null()?,
            "thinking" if reader.kind()? == Kind::Object => thinking_field(reader, request)?,
            "reasoning_effort" if reader.kind()? == Kind::String => request.reasoning.effort = Some(reader.text()?),
            "output_config" if reader.kind()? == Kind::Object => {
                object_field(reader, request, "output_config", "effort", |reader, request| {
                    request.reasoning.effort = reader.text_or_null()?;
                    Ok(())
                })?;
            }
            "inferenceConfig" if reader.kind()? == Kind::Object => {
                object_field(reader, request, "inferenceConfig", "topK", |reader, request| {
                    request.top_k = reader.number_or_null()?;
                    Ok(())
                })?;
            }
            "reasoningConfig" if reader.kind()? == Kind::Object => reasoning_config(reader, request)?,
            _ => {
                let key = Cow::Owned(format!("{ADDITIONAL}.{key}"));
                request.extras.push(Extra {
                    dialect: DIALECT,
                    key,
                    value: reader.raw()?,
                });
            }
        }
    }
    Ok(())
}

/// Claude's `{"type","budget_tokens","display"}`.
fn thinking_field<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => {
                request.reasoning.mode = match &*reader.word()? {
                    "enabled" => Some(Thinking::Enabled),
                    "disabled" => Some(Thinking::Disabled),
                    "adaptive" => Some(Thinking::Adaptive),
                    _ => None,
                }
            }
            "budget_tokens" => request.reasoning.budget_tokens = reader.whole_or_null()?,
            "display" => request.reasoning.display = reader.text_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

/// Nova 2's `{"type","maxReasoningEffort"}`.
fn reasoning_config<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => {
                request.reasoning.mode = match &*reader.word()? {
                    "enabled" => Some(Thinking::Enabled),
                    "disabled" => Some(Thinking::Disabled),
                    _ => None,
                }
            }
            "maxReasoningEffort" => request.reasoning.effort = reader.text_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

/// An object of which one member is understood; the others are kept under their path.
fn object_field<'a>(
    reader: &mut Reader<'a>,
    request: &mut ChatRequest<'a>,
    name: &str,
    known: &str,
    read: impl Fn(&mut Reader<'a>, &mut ChatRequest<'a>) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        if key == known {
            read(reader, request)?;
        } else {
            let key = Cow::Owned(format!("{ADDITIONAL}.{name}.{key}"));
            request.extras.push(Extra {
                dialect: DIALECT,
                key,
                value: reader.raw()?,
            });
        }
    }
    Ok(())
}
