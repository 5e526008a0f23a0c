//! Anthropic message requests into the chat model (<https://docs.anthropic.com/en/api/messages>). Writing them is
//! [`write_request`].
//!
//! Invariants: a known field of the wrong type is a 400 that names it; an unknown top-level field is kept as an [`Extra`],
//! an unknown block as [`Content::Other`]. Deliberately absent: range checks, which are the provider's.

mod write;

use std::borrow::Cow;

pub(in crate::provider) use write::calls_without_thinking;
pub use write::{thinking_style, write_request};

use crate::chat::{
    Arguments, CacheMark, ChatRequest, Content, Document, Extra, Format, JsonError, Kind, Message, Part, Raw, Reader,
    Role, Source, Text, Tool, ToolChoice,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::provider::Ingress;
use crate::provider::anthropic::response::citations;
use crate::provider::fields::{cache_control, stop, thinking_mode};

const DIALECT: Dialect = Dialect::Anthropic;

/// Reads a request body. Errors are 400s: [`crate::error::Code::InvalidBody`] or `InvalidParameter`.
pub fn parse_request<'a>(body: &'a [u8], _: &Ingress<'_>) -> Result<ChatRequest<'a>, ApiError> {
    let mut reader = Reader::new(body).map_err(|error| error.in_request(""))?;
    let mut request = ChatRequest {
        include_usage: true,
        ..ChatRequest::default()
    };
    let mut system = None;
    reader.object("a JSON object").map_err(|error| error.in_request(""))?;
    while let Some(key) = reader.key().map_err(|error| error.in_request(""))? {
        field(&mut reader, &key, &mut request, &mut system).map_err(|error| error.in_request(&key))?;
    }
    reader.end().map_err(|error| error.in_request(""))?;
    if let Some(parts) = system.filter(|parts| !parts.is_empty()) {
        request.messages.insert(
            0,
            Message {
                role: Role::System,
                name: None,
                parts,
            },
        );
    }
    request.ignored = reader.take_ignored();
    Ok(request)
}

#[expect(clippy::ptr_arg, reason = "an unknown key is kept as it is, borrowed or not")]
fn field<'a>(
    reader: &mut Reader<'a>,
    key: &Cow<'a, str>,
    request: &mut ChatRequest<'a>,
    system: &mut Option<Vec<Part<'a>>>,
) -> Result<(), JsonError> {
    match &**key {
        "model" => request.model = reader.text()?,
        "messages" => request.messages = messages(reader)?,
        "system" => *system = Some(blocks(reader)?),
        "max_tokens" => request.max_tokens = reader.whole_or_null()?,
        "stop_sequences" => request.stop = stop(reader)?,
        "stream" => request.stream = reader.bool_or_null()?.unwrap_or(false),
        "temperature" => request.temperature = reader.number_or_null()?,
        "top_p" => request.top_p = reader.number_or_null()?,
        "top_k" => request.top_k = reader.number_or_null()?,
        "tools" => request.tools = tools(reader)?,
        "tool_choice" => tool_choice(reader, request)?,
        "thinking" => thinking(reader, request)?,
        "output_config" => output_config(reader, request)?,
        "metadata" => metadata(reader, request)?,
        "service_tier" => request.service_tier = reader.text_or_null()?,
        "cache_control" => request.cache = cache_control(reader)?,
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

fn messages<'a>(reader: &mut Reader<'a>) -> Result<Vec<Message<'a>>, JsonError> {
    let mut messages = Vec::with_capacity(8);
    reader.array("an array of messages")?;
    while reader.item()? {
        let (mut role, mut parts) = (None, Vec::new());
        reader.object("an array of message objects")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "role" => {
                    role = match &*reader.word()? {
                        "user" => Some(Role::User),
                        "assistant" => Some(Role::Assistant),
                        "system" => Some(Role::System),
                        _ => None,
                    };
                }
                "content" => parts = blocks(reader)?,
                _ => reader.ignore(key)?,
            }
        }
        let role = role.ok_or(JsonError::Expected(
            "an array of messages with the role user or assistant",
        ))?;
        messages.push(Message {
            role,
            name: None,
            parts,
        });
    }
    Ok(messages)
}

/// Content: a string, or an array of blocks.
pub(super) fn blocks<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
    match reader.kind()? {
        Kind::Null => reader.skip().map(|()| Vec::new()),
        Kind::String => {
            let text = reader.text()?;
            Ok(if text.is_empty() {
                Vec::new()
            } else {
                vec![Content::text(text).into()]
            })
        }
        Kind::Array => {
            let mut parts = Vec::with_capacity(2);
            reader.array("")?;
            while reader.item()? {
                parts.push(block(reader)?);
            }
            Ok(parts)
        }
        _ => Err(JsonError::Expected("a string or an array of content blocks")),
    }
}

/// What a block may hold, whatever its type; gathered first because keys come in any order.
#[derive(Default)]
struct Fields<'a> {
    kind: Cow<'a, str>,
    text: Option<Text<'a>>,
    thinking: Text<'a>,
    signature: Option<Text<'a>>,
    data: Text<'a>,
    id: Text<'a>,
    name: Text<'a>,
    input: Option<Raw<'a>>,
    content: Option<Raw<'a>>,
    source: Option<Source<'a>>,
    title: Option<Text<'a>>,
    context: Option<Text<'a>>,
    citations: Option<Raw<'a>>,
    is_error: Option<bool>,
    cache: Option<CacheMark>,
}

/// One content block of a request or an answer.
pub(super) fn block<'a>(reader: &mut Reader<'a>) -> Result<Part<'a>, JsonError> {
    let mut whole = reader.clone();
    let mut fields = Fields::default();
    reader.object("an array of content blocks")?;
    while let Some(key) = reader.key()? {
        match (&*key, reader.kind()?) {
            ("type", _) => fields.kind = reader.word()?,
            ("text", Kind::String) => fields.text = Some(reader.text()?),
            ("thinking", Kind::String) => fields.thinking = reader.text()?,
            ("signature", Kind::String) => fields.signature = Some(reader.text()?).filter(|text| !text.is_empty()),
            ("data", Kind::String) => fields.data = reader.text()?,
            ("id" | "tool_use_id", Kind::String) => fields.id = reader.text()?,
            ("name", Kind::String) => fields.name = reader.text()?,
            ("input", _) => fields.input = Some(reader.raw()?),
            ("content", _) => fields.content = Some(reader.raw()?),
            ("source", Kind::Object) => fields.source = Some(source(reader)?),
            ("title", Kind::String) => fields.title = Some(reader.text()?),
            ("context", Kind::String) => fields.context = Some(reader.text()?),
            ("citations", Kind::Object | Kind::Array) => fields.citations = Some(reader.raw()?),
            ("is_error", _) => fields.is_error = reader.bool_or_null()?,
            ("cache_control", _) => fields.cache = cache_control(reader)?,
            // Who called a tool, and what a server tool's block holds: meaningful to Anthropic alone, which gets the whole.
            _ => reader.skip()?,
        }
    }
    let cache = fields.cache;
    let content = match fields.into_content()? {
        Some(content) => content,
        None => Content::Other(DIALECT, whole.raw()?),
    };
    Ok(Part { content, cache })
}

impl<'a> Fields<'a> {
    /// `None` for a block that only Anthropic understands.
    fn into_content(self) -> Result<Option<Content<'a>>, JsonError> {
        const LACKING: JsonError = JsonError::Expected("an array of content blocks that hold what their type says");
        Ok(Some(match &*self.kind {
            "text" => {
                let citations = match self.citations.and_then(Raw::into_reader) {
                    Some(mut reader) => citations(&mut reader)?,
                    None => Vec::new(),
                };
                Content::Text {
                    text: self.text.ok_or(LACKING)?,
                    citations,
                }
            }
            "image" => Content::Image {
                source: self.source.ok_or(LACKING)?,
                detail: None,
            },
            "document" => {
                let source = self.source.ok_or(LACKING)?;
                let citations = self
                    .citations
                    .and_then(Raw::into_reader)
                    .map(|mut reader| enabled(&mut reader))
                    .transpose()?;
                let (name, context) = (self.title, self.context);
                Content::Document(Box::new(Document {
                    source,
                    name,
                    context,
                    citations,
                }))
            }
            "tool_use" => {
                let arguments = Arguments::Json(self.input.unwrap_or(Raw::trusted("{}")));
                Content::ToolCall {
                    id: self.id,
                    name: self.name,
                    arguments,
                    custom: false,
                }
            }
            "tool_result" => {
                let parts = match self.content.and_then(Raw::into_reader) {
                    Some(mut reader) => blocks(&mut reader)?,
                    None => Vec::new(),
                };
                Content::ToolResult {
                    id: self.id,
                    parts,
                    is_error: self.is_error,
                }
            }
            "thinking" => Content::Thinking {
                text: self.thinking,
                signature: self.signature,
            },
            "redacted_thinking" => Content::RedactedThinking(self.data),
            _ => return Ok(None),
        }))
    }
}

/// `{"enabled": bool}`
fn enabled(reader: &mut Reader<'_>) -> Result<bool, JsonError> {
    let mut on = false;
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "enabled" => on = reader.bool_or_null()?.unwrap_or(false),
            _ => reader.skip()?,
        }
    }
    Ok(on)
}

fn source<'a>(reader: &mut Reader<'a>) -> Result<Source<'a>, JsonError> {
    let (mut kind, mut media_type, mut data) = (Cow::Borrowed(""), Text::default(), Text::default());
    let (mut url, mut id, mut content) = (Text::default(), Text::default(), None);
    reader.object("")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => kind = reader.word()?,
            "media_type" => media_type = reader.text_or_null()?.unwrap_or_default(),
            "data" => data = reader.text()?,
            "url" => url = reader.text()?,
            "file_id" => id = reader.text()?,
            "content" => content = Some(blocks(reader)?),
            _ => reader.skip()?,
        }
    }
    Ok(match &*kind {
        "base64" => Source::Base64 { media_type, data },
        "url" => Source::Url(url),
        "file" => Source::File(DIALECT, id),
        "text" => Source::Text(data),
        "content" => Source::Parts(content.unwrap_or_default()),
        _ => {
            return Err(JsonError::Expected(
                "an array of messages whose sources are base64, url, file, text or content",
            ));
        }
    })
}

fn tools<'a>(reader: &mut Reader<'a>) -> Result<Vec<Tool<'a>>, JsonError> {
    let mut tools = Vec::new();
    if reader.null()? {
        return Ok(tools);
    }
    reader.array("an array of tools")?;
    while reader.item()? {
        let mut whole = reader.clone();
        let (mut kind, mut name, mut description) = (Cow::Borrowed("custom"), Text::default(), None);
        let (mut parameters, mut strict, mut cache) = (None, None, None);
        reader.object("an array of tool objects")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("type", Kind::String) => kind = reader.word()?,
                ("name", Kind::String) => name = reader.text()?,
                ("description", _) => description = reader.text_or_null()?,
                ("input_schema", Kind::Object) => parameters = Some(reader.raw()?),
                ("strict", _) => strict = reader.bool_or_null()?,
                ("cache_control", _) => cache = cache_control(reader)?,
                ("type", _) => reader.skip()?,
                _ if kind == "custom" => reader.ignore(key)?,
                _ => reader.skip()?,
            }
        }
        tools.push(match &*kind {
            "custom" => Tool::Function {
                name,
                description,
                parameters,
                strict,
                cache,
            },
            _ => Tool::Other(DIALECT, whole.raw()?),
        });
    }
    Ok(tools)
}

fn tool_choice<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    if reader.null()? {
        return Ok(());
    }
    let (mut kind, mut name) = (Cow::Borrowed(""), None);
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => kind = reader.word()?,
            "name" => name = reader.text_or_null()?,
            "disable_parallel_tool_use" => request.parallel_tool_calls = reader.bool_or_null()?.map(|disable| !disable),
            _ => reader.ignore(key)?,
        }
    }
    request.tool_choice = Some(match (&*kind, name) {
        ("auto", _) => ToolChoice::Auto,
        ("any", _) => ToolChoice::Any,
        ("none", _) => ToolChoice::None,
        ("tool", Some(name)) => ToolChoice::Named(name),
        _ => return Err(JsonError::Expected("an object of the type auto, any, none or tool")),
    });
    Ok(())
}

fn thinking<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    if reader.null()? {
        return Ok(());
    }
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => request.reasoning.mode = thinking_mode(&reader.word()?),
            "budget_tokens" => request.reasoning.budget_tokens = reader.whole_or_null()?,
            "display" => request.reasoning.display = reader.text_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

fn output_config<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    if reader.null()? {
        return Ok(());
    }
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "effort" => request.reasoning.effort = reader.text_or_null()?,
            "format" => request.format = format(reader)?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}

fn format<'a>(reader: &mut Reader<'a>) -> Result<Option<Format<'a>>, JsonError> {
    if reader.null()? {
        return Ok(None);
    }
    let mut whole = reader.clone();
    let (mut kind, mut schema) = (Cow::Borrowed(""), None);
    reader.object("an object whose format is an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "type" => kind = reader.word()?,
            "schema" => schema = Some(reader.raw()?),
            _ => reader.ignore(key)?,
        }
    }
    Ok(Some(match (&*kind, schema) {
        // Anthropic's is always strict.
        ("json_schema", Some(schema)) => Format::JsonSchema {
            name: None,
            description: None,
            schema,
            strict: Some(true),
        },
        _ => Format::Other(DIALECT, whole.raw()?),
    }))
}

fn metadata<'a>(reader: &mut Reader<'a>, request: &mut ChatRequest<'a>) -> Result<(), JsonError> {
    if reader.null()? {
        return Ok(());
    }
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "user_id" => request.user = reader.text_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(())
}
