//! OpenAI chat requests into the chat model (<https://platform.openai.com/docs/api-reference/chat/create>), with the fields
//! that OpenAI-compatible vendors add. Writing them is [`write_request`].
//!
//! Invariants: a known field of the wrong type is a 400 that names it; an unknown top-level field is kept as an
//! [`Extra`]. Deliberately absent: range checks, which are the provider's.

mod write;

use std::borrow::Cow;

pub use write::write_request;

use crate::chat::{
    Arguments, CacheMark, ChatRequest, Content, Document, Extra, Format, JsonError, Kind, Message, Part, Reader, Role,
    Source, Text, Thinking, Tool, ToolChoice, data_url,
};
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
        "messages" => request.messages = messages(reader)?,
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

fn messages<'a>(reader: &mut Reader<'a>) -> Result<Vec<Message<'a>>, JsonError> {
    let mut messages: Vec<Message<'a>> = Vec::with_capacity(8);
    reader.array("an array of messages")?;
    while reader.item()? {
        messages.push(message(reader)?);
    }
    Ok(messages)
}

/// What a message object may hold, whatever its role; gathered first because keys come in any order.
#[derive(Default)]
struct Fields<'a> {
    role: Cow<'a, str>,
    name: Option<Text<'a>>,
    content: Vec<Part<'a>>,
    refusal: Option<Text<'a>>,
    reasoning: Option<Text<'a>>,
    details: Vec<Part<'a>>,
    calls: Vec<Part<'a>>,
    call_id: Text<'a>,
    cache: Option<CacheMark>,
}

fn message<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, JsonError> {
    let mut fields = Fields::default();
    reader.object("an array of message objects")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "role" => fields.role = reader.word()?,
            "name" => fields.name = reader.text_or_null()?,
            "content" => fields.content = content(reader)?,
            "refusal" => fields.refusal = reader.text_or_null()?,
            "reasoning_content" | "reasoning" => {
                if let Kind::String = reader.kind()? {
                    fields.reasoning = Some(reader.text()?);
                } else {
                    reader.skip()?;
                }
            }
            "reasoning_details" => fields.details = reasoning_details(reader)?,
            "tool_calls" => fields.calls = tool_calls(reader)?,
            "tool_call_id" => fields.call_id = reader.text_or_null()?.unwrap_or_default(),
            "cache_control" => fields.cache = cache_control(reader)?,
            "function_call" if reader.kind()? == Kind::Null => reader.skip()?,
            "annotations" => reader.skip()?,
            _ => reader.ignore(key)?,
        }
    }
    fields.into_message()
}

impl<'a> Fields<'a> {
    fn into_message(mut self) -> Result<Message<'a>, JsonError> {
        let role = match &*self.role {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" | "tool" | "function" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                return Err(JsonError::Expected(
                    "an array of messages with the role system, developer, user, assistant or tool",
                ));
            }
        };
        let mut parts = if matches!(&*self.role, "tool" | "function") {
            // The legacy role `function` names the function in place of an id.
            let id = if self.call_id.is_empty() {
                self.name.take().unwrap_or_default()
            } else {
                self.call_id
            };
            vec![
                Content::ToolResult {
                    id,
                    parts: self.content,
                    is_error: None,
                }
                .into(),
            ]
        } else {
            assemble(self.reasoning, self.details, self.content, self.refusal, self.calls)
        };
        if let (Some(mark), Some(last)) = (self.cache, parts.last_mut()) {
            last.cache = Some(mark);
        }
        Ok(Message {
            role,
            name: self.name,
            parts,
        })
    }
}

/// An assistant's parts in the order in which a model makes them: reasoning, words, calls. `details` say all that
/// `reasoning` says, and more.
pub(super) fn assemble<'a>(
    reasoning: Option<Text<'a>>,
    details: Vec<Part<'a>>,
    content: Vec<Part<'a>>,
    refusal: Option<Text<'a>>,
    calls: Vec<Part<'a>>,
) -> Vec<Part<'a>> {
    let mut parts = details;
    let told = parts
        .iter()
        .any(|part| matches!(&part.content, Content::Thinking { text, .. } if !text.is_empty()));
    if let (false, Some(text)) = (told, reasoning.filter(|text| !text.is_empty())) {
        match parts.first_mut().map(|part| &mut part.content) {
            Some(Content::Thinking { text: empty, .. }) => *empty = text,
            _ => parts.insert(0, Content::Thinking { text, signature: None }.into()),
        }
    }
    if parts.is_empty() {
        parts = content;
    } else {
        parts.extend(content);
    }
    parts.extend(
        refusal
            .filter(|text| !text.is_empty())
            .map(|text| Part::from(Content::Refusal(text))),
    );
    parts.extend(calls);
    parts
}

/// A message's `content`: a string, an array of parts, or null.
pub(super) fn content<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
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
                parts.push(part(reader)?);
            }
            Ok(parts)
        }
        _ => Err(JsonError::Expected(
            "an array of messages whose content is a string or an array of parts",
        )),
    }
}

fn part<'a>(reader: &mut Reader<'a>) -> Result<Part<'a>, JsonError> {
    if reader.kind()? == Kind::String {
        return reader.text().map(|text| Content::text(text).into());
    }
    let mut whole = reader.clone();
    let (mut kind, mut text, mut source, mut detail, mut cache) = (Cow::Borrowed(""), None, None, None, None);
    let (mut name, mut thinking) = (None, None);
    reader.object("an array of messages whose content parts are objects")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "type" => kind = reader.word()?,
            "text" | "refusal" => text = reader.text_or_null()?,
            "thinking" => thinking = Some(thinking_text(reader)?),
            "image_url" | "video_url" | "document_url" => (source, detail) = url(reader)?,
            "input_audio" => source = Some(audio(reader)?),
            "file" => (source, name) = file(reader)?,
            "cache_control" => cache = cache_control(reader)?,
            _ => reader.ignore(key)?,
        }
    }
    let content = match (&*kind, text, source) {
        ("text", Some(text), _) => Content::text(text),
        ("refusal", Some(text), _) => Content::Refusal(text),
        ("thinking", _, _) => Content::Thinking {
            text: thinking.unwrap_or_default(),
            signature: None,
        },
        ("image_url", _, Some(source)) => Content::Image { source, detail },
        ("video_url", _, Some(source)) => Content::Video(source),
        ("input_audio", _, Some(source)) => Content::Audio(source),
        ("file" | "document_url", _, Some(source)) => Content::Document(Box::new(Document {
            source,
            name,
            context: None,
            citations: None,
        })),
        ("text" | "refusal" | "image_url" | "video_url" | "input_audio" | "file" | "document_url", ..) => {
            return Err(JsonError::Expected(
                "an array of messages whose content parts hold what their type says",
            ));
        }
        _ => Content::Other(DIALECT, whole.raw()?),
    };
    Ok(Part { content, cache })
}

/// Mistral's `thinking`: a string, or an array of text parts.
fn thinking_text<'a>(reader: &mut Reader<'a>) -> Result<Text<'a>, JsonError> {
    if reader.kind()? != Kind::Array {
        return reader.text();
    }
    let mut all = Text::default();
    for part in content(reader)? {
        if let Content::Text { text, .. } = part.content {
            all = all.joined(text);
        }
    }
    Ok(all)
}

/// `{"url", "detail"}`, or the address alone.
fn url<'a>(reader: &mut Reader<'a>) -> Result<(Option<Source<'a>>, Option<Text<'a>>), JsonError> {
    let (mut address, mut detail) = (Text::default(), None);
    if reader.kind()? == Kind::String {
        address = reader.text()?;
    } else {
        reader.object("an array of messages whose image_url is an object")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "url" => address = reader.text()?,
                "detail" => detail = reader.text_or_null()?,
                _ => reader.skip()?,
            }
        }
    }
    Ok((
        Some(data_url(&address).map_or(Source::Url(address), Source::from)),
        detail,
    ))
}

fn audio<'a>(reader: &mut Reader<'a>) -> Result<Source<'a>, JsonError> {
    let (mut data, mut media_type) = (Text::default(), Text::default());
    reader.object("an array of messages whose input_audio is an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "data" => data = reader.text()?,
            "format" => media_type = Text::owned(format!("audio/{}", reader.word()?)),
            _ => reader.skip()?,
        }
    }
    Ok(Source::Base64 { media_type, data })
}

fn file<'a>(reader: &mut Reader<'a>) -> Result<(Option<Source<'a>>, Option<Text<'a>>), JsonError> {
    let (mut source, mut name) = (None, None);
    reader.object("an array of messages whose file is an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "file_data" => {
                let data = reader.text()?;
                let bare = |data| Source::Base64 {
                    media_type: Text::plain("application/pdf"),
                    data,
                };
                // Some vendors take a web address here; bare base64 is a PDF, the only type OpenAI documents.
                source = Some(match data_url(&data) {
                    Some(url) => url.into(),
                    None if data.as_json().starts_with("http") => Source::Url(data),
                    None => bare(data),
                });
            }
            "file_id" => source = reader.text_or_null()?.map(|id| Source::File(DIALECT, id)).or(source),
            "filename" => name = reader.text_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok((source, name))
}

/// `tool_calls` of a message; also without `type`, without `arguments`, or with the arguments as an object.
pub(super) fn tool_calls<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
    let mut calls = Vec::new();
    if reader.null()? {
        return Ok(calls);
    }
    reader.array("an array of messages whose tool_calls are an array")?;
    while reader.item()? {
        let (mut id, mut function, mut custom, mut is_custom) = (Text::default(), None, None, false);
        reader.object("an array of messages whose tool_calls are objects")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "id" => id = reader.text_or_null()?.unwrap_or_default(),
                "type" => is_custom = reader.text_or_null()?.is_some_and(|kind| kind.is("custom")),
                "function" => function = Some(call(reader)?),
                "custom" => custom = Some(call(reader)?),
                _ => reader.skip()?,
            }
        }
        if let Some((name, arguments)) = if is_custom { custom } else { function.or(custom) } {
            calls.push(
                Content::ToolCall {
                    id,
                    name,
                    arguments,
                    custom: is_custom,
                }
                .into(),
            );
        }
    }
    Ok(calls)
}

fn call<'a>(reader: &mut Reader<'a>) -> Result<(Text<'a>, Arguments<'a>), JsonError> {
    let (mut name, mut arguments) = (Text::default(), Arguments::Encoded(Text::default()));
    reader.object("an array of messages whose tool_calls hold a function")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "name" => name = reader.text_or_null()?.unwrap_or_default(),
            "arguments" | "input" => {
                arguments = match reader.kind()? {
                    Kind::Object => Arguments::Json(reader.raw()?),
                    _ => Arguments::Encoded(reader.text_or_null()?.unwrap_or_default()),
                }
            }
            _ => reader.skip()?,
        }
    }
    Ok((name, arguments))
}

/// `reasoning_details` as OpenRouter defines them. Pieces of a stream that a client sends back unmerged are merged: pieces of
/// one block share their `index`.
pub(super) fn reasoning_details<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    if reader.null()? {
        return Ok(parts);
    }
    let mut last_index = None;
    reader.array("an array of messages whose reasoning_details are an array")?;
    while reader.item()? {
        let detail = Detail::parse(reader)?;
        let same = detail.index.is_some() && detail.index == last_index;
        last_index = detail.index;
        match (detail.data, parts.last_mut().map(|part| &mut part.content)) {
            (Some(data), _) => parts.push(Content::RedactedThinking(data).into()),
            (
                None,
                Some(Content::Thinking {
                    text,
                    signature: open @ None,
                }),
            ) if same => {
                *text = std::mem::take(text).joined(detail.text);
                *open = detail.signature;
            }
            (None, _) => parts.push(
                Content::Thinking {
                    text: detail.text,
                    signature: detail.signature,
                }
                .into(),
            ),
        }
    }
    Ok(parts)
}

/// One entry of `reasoning_details`.
#[derive(Default)]
pub(super) struct Detail<'a> {
    /// Of a `reasoning.text` or `reasoning.summary`.
    pub text: Text<'a>,
    /// Of a `reasoning.text`.
    pub signature: Option<Text<'a>>,
    /// Of a `reasoning.encrypted`.
    pub data: Option<Text<'a>>,
    /// Which block it belongs to.
    pub index: Option<u64>,
}

impl<'a> Detail<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, JsonError> {
        let (mut detail, mut foreign) = (Self::default(), false);
        reader.object("an array of messages whose reasoning_details are objects")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "text" | "summary" => detail.text = reader.text_or_null()?.unwrap_or_default(),
                "signature" => detail.signature = reader.text_or_null()?.filter(|signature| !signature.is_empty()),
                "data" => detail.data = reader.text_or_null()?,
                "index" => detail.index = reader.whole_or_null()?,
                "format" => {
                    foreign = reader
                        .text_or_null()?
                        .is_some_and(|format| !format.as_json().starts_with("anthropic"))
                }
                _ => reader.skip()?,
            }
        }
        if foreign {
            // Another family's proof, which no dialect here can carry: without it the reasoning counts as unsigned.
            (detail.signature, detail.data) = (None, None);
        }
        Ok(detail)
    }
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
