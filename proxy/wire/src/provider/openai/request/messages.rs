//! Messages of an OpenAI chat request, and the parts of them that answers share.
//!
//! Invariant: a part of a type that nobody else knows is kept whole. Deliberately absent: the order of roles, which is the
//! provider's to judge.

use std::borrow::Cow;

use crate::chat::{
    Arguments, CacheMark, Content, Document, JsonError, Kind, Message, Part, Reader, Role, Source, Text, data_url,
};
use crate::provider::fields::cache_control;

use super::DIALECT;

/// `messages`
pub(super) fn messages<'a>(reader: &mut Reader<'a>) -> Result<Vec<Message<'a>>, JsonError> {
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
pub(in crate::provider::openai) fn assemble<'a>(
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
pub(in crate::provider::openai) fn content<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
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
pub(in crate::provider::openai) fn tool_calls<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
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
pub(in crate::provider::openai) fn reasoning_details<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, JsonError> {
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
pub(in crate::provider::openai) struct Detail<'a> {
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
    pub(in crate::provider::openai) fn parse(reader: &mut Reader<'a>) -> Result<Self, JsonError> {
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
