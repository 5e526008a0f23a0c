//! OpenAI chat requests into the chat model (<https://platform.openai.com/docs/api-reference/chat/create>), with the fields
//! that OpenAI-compatible vendors add. Writing them is [`write_request`].
//!
//! Invariants: a known field of the wrong type is a 400 that names it; an unknown top-level field is kept as an
//! [`Extra`]. Deliberately absent: range checks, which are the provider's.

mod messages;
mod write;

use std::borrow::Cow;

pub(super) use messages::{Detail, assemble, content, reasoning_details, tool_calls};
pub use write::write_request;

use crate::chat::{ChatRequest, Extra, Format, JsonError, Kind, Reader, Text, Thinking, Tool, ToolChoice};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::Ingress;
use crate::provider::fields::{cache_control, stop, thinking_mode};

const DIALECT: Dialect = Dialect::OpenAi;

/// Reads a request body. Errors are 400s: [`crate::error::Code::InvalidBody`] or `InvalidParameter`.
pub fn parse_request<'a>(body: &'a [u8], _: &Ingress<'_>) -> Result<ChatRequest<'a>, ApiError> {
    let mut reader = Reader::new(body).map_err(|error| error.in_request(""))?;
    let mut request = ChatRequest::default();
    reader.object("a JSON object").map_err(|error| error.in_request(""))?;
    while let Some(key) = reader.key().map_err(|error| error.in_request(""))? {
        field(&mut reader, &key, &mut request).map_err(|error| error.in_request(&key))?;
    }
    reader.end().map_err(|error| error.in_request(""))?;
    request.ignored = reader.take_ignored();
    Ok(request)
}

#[expect(clippy::ptr_arg, reason = "an unknown key is kept as it is, borrowed or not")]
fn field<'a>(reader: &mut Reader<'a>, key: &Cow<'a, str>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    match &**key {
        "model" => request.model = reader.text()?,
        "messages" => request.messages = messages::messages(reader)?,
        "tools" => request.tools = tools(reader)?,
        "tool_choice" => request.tool_choice = tool_choice(reader)?,
        "parallel_tool_calls" => request.parallel_tool_calls = reader.bool_or_null()?,
        "response_format" => request.format = format(reader)?,
        "max_completion_tokens" => request.max_tokens = reader.whole_or_null()?.or(request.max_tokens),
        "max_tokens" => request.max_tokens = request.max_tokens.or(reader.whole_or_null()?),
        "temperature" => request.temperature = reader.number_or_null()?,
        "top_p" => request.top_p = reader.number_or_null()?,
        "top_k" => request.top_k = reader.number_or_null()?,
        "stop" => request.stop = stop(reader)?,
        "seed" => request.seed = reader.number_or_null()?,
        "n" => request.n = reader.whole_or_null()?,
        "presence_penalty" => request.presence_penalty = reader.number_or_null()?,
        "frequency_penalty" => request.frequency_penalty = reader.number_or_null()?,
        "logit_bias" => request.logit_bias = if reader.null()? { None } else { Some(reader.raw()?) },
        "logprobs" => request.logprobs = reader.bool_or_null()?,
        "top_logprobs" => request.top_logprobs = reader.whole_or_null()?,
        "reasoning_effort" => request.reasoning.effort = reader.text_or_null()?,
        "reasoning" | "thinking" => reasoning(reader, request)?,
        "service_tier" => request.service_tier = reader.text_or_null()?,
        "user" => request.user = reader.text_or_null()?,
        "safety_identifier" => request.user = request.user.take().or(reader.text_or_null()?),
        "metadata" => request.metadata = if reader.null()? { None } else { Some(reader.raw()?) },
        "cache_control" => request.cache = cache_control(reader)?,
        "stream" => request.stream = reader.bool_or_null()?.unwrap_or(false),
        "stream_options" => stream_options(reader, request)?,
        _ => {
            let value = reader.raw()?;
            if value.kind() != Kind::Null {
                request.extras.push(Extra {
                    dialect: DIALECT,
                    key: key.clone(),
                    value,
                });
            }
        }
    }
    Ok(())
}

fn tools<'a>(reader: &mut Reader<'a>) -> Result<Vec<Tool<'a>>, JsonError> {
    let mut tools = Vec::new();
    if reader.null()? {
        return Ok(tools);
    }
    reader.array("an array of tools")?;
    while reader.item()? {
        let mut whole = reader.clone();
        let (mut function, mut mark) = (None, None);
        reader.object("an array of tool objects")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "function" if reader.kind()? == Kind::Object => function = Some(self::function(reader)?),
                "cache_control" => mark = cache_control(reader)?,
                _ => reader.skip()?,
            }
        }
        tools.push(match function {
            Some(Tool::Function {
                name,
                description,
                parameters,
                strict,
                ..
            }) => Tool::Function {
                name,
                description,
                parameters,
                strict,
                cache: mark,
            },
            _ => Tool::Other(DIALECT, whole.raw()?),
        });
    }
    Ok(tools)
}

fn function<'a>(reader: &mut Reader<'a>) -> Result<Tool<'a>, JsonError> {
    let (mut name, mut description, mut parameters, mut strict) = (Text::default(), None, None, None);
    reader.object("an array of tools that hold a function")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "name" => name = reader.text()?,
            "description" => description = reader.text_or_null()?,
            "parameters" => parameters = if reader.null()? { None } else { Some(reader.raw()?) },
            "strict" => strict = reader.bool_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok(Tool::Function {
        name,
        description,
        parameters,
        strict,
        cache: None,
    })
}

fn tool_choice<'a>(reader: &mut Reader<'a>) -> Result<Option<ToolChoice<'a>>, JsonError> {
    match reader.kind()? {
        Kind::Null => reader.skip().map(|()| None),
        Kind::String => match &*reader.word()? {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" | "any" => Ok(Some(ToolChoice::Any)),
            _ => Err(JsonError::Expected("auto, none, required or an object")),
        },
        _ => {
            let mut whole = reader.clone();
            let mut name = None;
            reader.object("a string or an object")?;
            while let Some(key) = reader.key()? {
                match (&*key, reader.kind()?) {
                    ("function", Kind::Object) => {
                        if let Tool::Function { name: chosen, .. } = function(reader)? {
                            name = Some(chosen);
                        }
                    }
                    _ => reader.skip()?,
                }
            }
            Ok(Some(match name {
                Some(name) => ToolChoice::Named(name),
                None => ToolChoice::Other(DIALECT, whole.raw()?),
            }))
        }
    }
}

fn format<'a>(reader: &mut Reader<'a>) -> Result<Option<Format<'a>>, JsonError> {
    if reader.null()? {
        return Ok(None);
    }
    let mut whole = reader.clone();
    let (mut kind, mut schema) = (Cow::Borrowed(""), None);
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => kind = reader.word()?,
            "json_schema" => schema = json_schema(reader)?,
            _ => reader.skip()?,
        }
    }
    Ok(Some(match (&*kind, schema) {
        ("text", _) => Format::Text,
        ("json_object", _) => Format::JsonObject,
        ("json_schema", Some(format)) => format,
        ("json_schema", None) => return Err(JsonError::Expected("an object whose json_schema holds a schema")),
        _ => Format::Other(DIALECT, whole.raw()?),
    }))
}

fn json_schema<'a>(reader: &mut Reader<'a>) -> Result<Option<Format<'a>>, JsonError> {
    let (mut name, mut description, mut schema, mut strict) = (None, None, None, None);
    reader.object("an object whose json_schema is an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "name" => name = reader.text_or_null()?,
            "description" => description = reader.text_or_null()?,
            "schema" => schema = if reader.null()? { None } else { Some(reader.raw()?) },
            "strict" => strict = reader.bool_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok(schema.map(|schema| Format::JsonSchema {
        name,
        description,
        schema,
        strict,
    }))
}

/// OpenRouter's `reasoning` and the `thinking` of several vendors: `effort`, a budget, on or off. A string is neither.
fn reasoning<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    if reader.kind()? != Kind::Object {
        return reader.skip();
    }
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        let reasoning = &mut request.reasoning;
        match &*key {
            "effort" => reasoning.effort = reader.text_or_null()?.or(reasoning.effort.take()),
            "max_tokens" | "budget_tokens" => reasoning.budget_tokens = reader.whole_or_null()?,
            "enabled" => {
                let mode = |on| if on { Thinking::Enabled } else { Thinking::Disabled };
                reasoning.mode = reader.bool_or_null()?.map(mode);
            }
            "type" => reasoning.mode = thinking_mode(&reader.word()?),
            "display" => reasoning.display = reader.text_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok(())
}

fn stream_options(reader: &mut Reader<'_>, request: &mut ChatRequest<'_>) -> Result<(), JsonError> {
    if reader.null()? {
        return Ok(());
    }
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "include_usage" => request.include_usage = reader.bool_or_null()?.unwrap_or(false),
            _ => reader.skip()?,
        }
    }
    Ok(())
}
