//! Converse content blocks, which requests and answers share.
//!
//! Invariants: a block is an object with one member; a member that this module does not know is kept whole as
//! [`Content::Other`]; base64 stays base64. Deliberately absent: what only a request can hold once it is written (media,
//! tool results, cache points: `request/messages.rs`).

use std::borrow::Cow;

use crate::chat::{
    Arguments, CacheMark, Content, Document, JsonError, Kind, Out, Part, Raw, Reader, Source, Text, ToolIdRule,
    document_media_type, image_media_type, tool_id,
};
use crate::dialect::Dialect;

use super::citations;

/// (Bedrock `format`, media type) of videos; the first of two rows with one media type is the one written.
const VIDEOS: &[(&str, &str)] = &[
    ("mp4", "video/mp4"),
    ("mov", "video/quicktime"),
    ("mkv", "video/x-matroska"),
    ("webm", "video/webm"),
    ("flv", "video/x-flv"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("wmv", "video/x-ms-wmv"),
    ("three_gp", "video/3gpp"),
];

/// (Bedrock `format`, media type) of sound.
const SOUNDS: &[(&str, &str)] = &[
    ("mp3", "audio/mpeg"),
    ("mp3", "audio/mp3"),
    ("wav", "audio/wav"),
    ("opus", "audio/opus"),
    ("aac", "audio/aac"),
    ("x-aac", "audio/x-aac"),
    ("flac", "audio/flac"),
    ("m4a", "audio/mp4"),
    ("mp4", "audio/mp4"),
    ("ogg", "audio/ogg"),
    ("mka", "audio/x-matroska"),
    ("mkv", "audio/x-matroska"),
    ("webm", "audio/webm"),
    ("mpeg", "audio/mpeg"),
    ("mpga", "audio/mpeg"),
    ("pcm", "audio/pcm"),
];

/// Marks an opaque reasoning blob that is not the base64 of text (see [`redacted_from_blob`]).
const BLOB_MARK: &str = "bedrock:";

/// Converse's word for a video's media type.
pub(super) fn video_format(media_type: &str) -> Option<&'static str> {
    VIDEOS
        .iter()
        .find(|(_, known)| media_type.eq_ignore_ascii_case(known))
        .map(|(format, _)| *format)
}

/// Converse's word for a sound's media type.
pub(super) fn sound_format(media_type: &str) -> Option<&'static str> {
    SOUNDS
        .iter()
        .find(|(_, known)| media_type.eq_ignore_ascii_case(known))
        .map(|(format, _)| *format)
}

/// What kind of medium a block holds.
#[derive(Clone, Copy)]
enum Medium {
    Image,
    Document,
    Video,
    Sound,
}

impl Medium {
    fn media_type(self, format: &str) -> Text<'static> {
        let known = |table: &'static [(&str, &str)]| table.iter().find(|(known, _)| *known == format).map(|row| row.1);
        let media_type = match self {
            Self::Image => image_media_type(format),
            Self::Document => document_media_type(format),
            Self::Video => known(VIDEOS),
            Self::Sound => known(SOUNDS),
        };
        Text::plain(media_type.unwrap_or_default())
    }
}

/// One element of a content array.
pub(super) enum Block<'a> {
    /// A piece of the message.
    Content(Content<'a>),
    /// A cache point: it marks the piece before it.
    Cache(CacheMark),
}

/// A content array. A cache point marks the piece before it; one in front of all is handed back.
pub(super) fn parse_blocks<'a>(reader: &mut Reader<'a>) -> Result<(Vec<Part<'a>>, Option<CacheMark>), JsonError> {
    let (mut parts, mut leading) = (Vec::<Part<'a>>::new(), None);
    if reader.null()? {
        return Ok((parts, leading));
    }
    reader.array("an array of content blocks")?;
    while reader.item()? {
        match (parse_block(reader)?, parts.last_mut()) {
            (Block::Content(content), _) => parts.push(content.into()),
            (Block::Cache(mark), Some(last)) => last.cache = Some(mark),
            (Block::Cache(mark), None) => leading = Some(mark),
        }
    }
    Ok((parts, leading))
}

/// One content block.
pub(super) fn parse_block<'a>(reader: &mut Reader<'a>) -> Result<Block<'a>, JsonError> {
    let mut whole = reader.clone();
    let mut block = None;
    let mut foreign = false;
    reader.object("a content block")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        let content = match &*key {
            "text" => Some(Content::text(reader.text()?)),
            "image" => Some(parse_medium(reader, Medium::Image)?),
            "document" => Some(parse_medium(reader, Medium::Document)?),
            "video" => Some(parse_medium(reader, Medium::Video)?),
            "audio" => Some(parse_medium(reader, Medium::Sound)?),
            "toolUse" => parse_tool_use(reader)?,
            "toolResult" => parse_tool_result(reader)?,
            "json" => Some(Content::Json(reader.raw()?)),
            "reasoningContent" => parse_reasoning(reader)?,
            "citationsContent" => Some(citations::parse_citations_content(reader)?),
            "guardContent" => parse_guard_content(reader)?,
            "cachePoint" => {
                block = Some(Block::Cache(parse_cache_point(reader)?));
                continue;
            }
            _ => {
                reader.skip()?;
                None
            }
        };
        match content {
            Some(content) => block = Some(Block::Content(content)),
            None => foreign = true,
        }
    }
    match block {
        Some(block) => Ok(block),
        None if foreign => Ok(Block::Content(Content::Other(Dialect::Bedrock, whole.raw()?))),
        None => Err(JsonError::Expected("a content block with one member")),
    }
}

/// `{"type":"default","ttl":…}`
pub(super) fn parse_cache_point(reader: &mut Reader<'_>) -> Result<CacheMark, JsonError> {
    let mut ttl = None;
    reader.object("a cache point")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "ttl" if reader.kind()? == Kind::String => ttl = Some(reader.word()?),
            _ => reader.skip()?,
        }
    }
    Ok(CacheMark::from_ttl(ttl.as_deref()))
}

/// Appends what an answer can hold as a block, with the comma before it; `false` if the block has no such form.
pub(super) fn write_answer_block(content: &Content<'_>, rule: ToolIdRule, out: &mut Out) -> bool {
    match content {
        Content::Text { text, citations } if citations.iter().any(citations::can_cite) => {
            out.comma()
                .token("{")
                .key("citationsContent")
                .token("{")
                .key("content")
                .token("[{")
                .key("text")
                .text(text);
            out.token("}]").key("citations").token("[");
            for citation in citations.iter().filter(|citation| citations::can_cite(citation)) {
                out.comma();
                citations::write_citation(citation, out);
            }
            out.token("]}}");
        }
        Content::Text { text, .. } | Content::Refusal(text) => {
            out.comma().token("{").key("text").text(text).token("}");
        }
        Content::Thinking { text, signature } => {
            out.comma()
                .token("{")
                .key("reasoningContent")
                .token("{")
                .key("reasoningText")
                .token("{")
                .key("text")
                .text(text);
            if let Some(signature) = signature {
                out.key("signature").text(signature);
            }
            out.token("}}}");
        }
        Content::RedactedThinking(data) => {
            out.comma()
                .token("{")
                .key("reasoningContent")
                .token("{")
                .key("redactedContent");
            out.text(&blob_from_redacted(data)).token("}}");
        }
        Content::ToolCall {
            id, name, arguments, ..
        } => {
            out.comma()
                .token("{")
                .key("toolUse")
                .token("{")
                .key("toolUseId")
                .text(&tool_id(id, rule))
                .key("name")
                .text(name);
            out.key("input");
            arguments.write_object(out);
            out.token("}}");
        }
        Content::Other(Dialect::Bedrock, raw) => {
            out.comma().raw(raw);
        }
        _ => return false,
    }
    true
}

/// The canonical form of a `redactedContent` blob. Bedrock's blob is the base64 of the very text that Anthropic's own API
/// calls `data`, so it is decoded; a blob of another kind is kept as it is, and marked.
pub(super) fn redacted_from_blob<'a>(blob: &Text<'a>) -> Text<'a> {
    let text = crate::base64::decode(&blob.decode()).and_then(|bytes| String::from_utf8(bytes).ok());
    match text {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(':') => {
            Text::owned(text)
        }
        _ => Text::owned(format!("{BLOB_MARK}{}", blob.decode())),
    }
}

/// The inverse of [`redacted_from_blob`].
pub(super) fn blob_from_redacted(data: &Text<'_>) -> Text<'static> {
    let data = data.decode();
    match data.strip_prefix(BLOB_MARK) {
        Some(blob) => Text::owned(blob.to_owned()),
        None => Text::owned(crate::base64::encode(data.as_bytes())),
    }
}

fn parse_medium<'a>(reader: &mut Reader<'a>, medium: Medium) -> Result<Content<'a>, JsonError> {
    let (mut format, mut source) = (Cow::Borrowed(""), None);
    let (mut name, mut context, mut citations) = (None, None, None);
    reader.object("an object with `format` and `source`")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "format" => format = reader.word()?,
            "source" => source = parse_source(reader)?,
            "name" => name = Some(reader.text()?),
            "context" => context = Some(reader.text()?),
            "citations" => citations = parse_enabled(reader)?,
            _ => reader.ignore(key)?,
        }
    }
    const SOURCE: JsonError = JsonError::Expected("a block with a `source` of a kind that it takes");
    let mut source = source.ok_or(SOURCE)?;
    if matches!(source, Source::Text(_) | Source::Parts(_)) && !matches!(medium, Medium::Document) {
        return Err(SOURCE);
    }
    if let Source::Base64 { media_type, .. } | Source::S3 { media_type, .. } = &mut source {
        *media_type = medium.media_type(&format);
    }
    Ok(match medium {
        Medium::Image => Content::Image { source, detail: None },
        Medium::Document => Content::Document(Box::new(Document {
            source,
            name,
            context,
            citations,
        })),
        Medium::Video => Content::Video(source),
        Medium::Sound => Content::Audio(source),
    })
}

fn parse_source<'a>(reader: &mut Reader<'a>) -> Result<Option<Source<'a>>, JsonError> {
    let mut source = None;
    reader.object("an object with `bytes` or `s3Location`")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "bytes" => {
                source = Some(Source::Base64 {
                    media_type: Text::default(),
                    data: reader.text()?,
                })
            }
            "s3Location" => source = Some(parse_s3(reader)?),
            "text" => source = Some(Source::Text(reader.text()?)),
            "content" => source = Some(Source::Parts(parse_blocks(reader)?.0)),
            _ => reader.ignore(key)?,
        }
    }
    Ok(source)
}

fn parse_s3<'a>(reader: &mut Reader<'a>) -> Result<Source<'a>, JsonError> {
    let (mut uri, mut owner) = (Text::default(), None);
    reader.object("an S3 location")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "uri" => uri = reader.text()?,
            "bucketOwner" => owner = reader.text_or_null()?,
            _ => reader.ignore(key)?,
        }
    }
    Ok(Source::S3 {
        media_type: Text::default(),
        uri,
        owner,
    })
}

/// `{"enabled": bool}`
fn parse_enabled(reader: &mut Reader<'_>) -> Result<Option<bool>, JsonError> {
    let mut enabled = None;
    reader.object("an object with `enabled`")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "enabled" => enabled = reader.bool_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok(enabled)
}

/// `None` for a call that the provider's own server runs: it is no call for the client to answer.
fn parse_tool_use<'a>(reader: &mut Reader<'a>) -> Result<Option<Content<'a>>, JsonError> {
    let (mut id, mut name, mut input, mut server) = (Text::default(), Text::default(), None, false);
    reader.object("a tool call")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "toolUseId" => id = reader.text()?,
            "name" => name = reader.text()?,
            "input" => input = Some(reader.raw()?),
            "type" => server = reader.text_or_null()?.is_some_and(|kind| kind.is("server_tool_use")),
            _ => reader.ignore(key)?,
        }
    }
    let arguments = Arguments::Json(
        input
            .filter(|input| input.kind() != Kind::Null)
            .unwrap_or(Raw::trusted("{}")),
    );
    Ok((!server).then_some(Content::ToolCall {
        id,
        name,
        arguments,
        custom: false,
    }))
}

/// `None` for a result that the provider's own server made (its `type` names the server's tool).
fn parse_tool_result<'a>(reader: &mut Reader<'a>) -> Result<Option<Content<'a>>, JsonError> {
    let (mut id, mut parts, mut is_error, mut server) = (Text::default(), Vec::new(), None, false);
    reader.object("a tool result")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "toolUseId" => id = reader.text()?,
            "content" => parts = parse_blocks(reader)?.0,
            "status" => is_error = reader.text_or_null()?.map(|status| status.is("error")),
            "type" => server = reader.text_or_null()?.is_some_and(|kind| !kind.is("tool_result")),
            _ => reader.ignore(key)?,
        }
    }
    Ok((!server).then_some(Content::ToolResult { id, parts, is_error }))
}

fn parse_reasoning<'a>(reader: &mut Reader<'a>) -> Result<Option<Content<'a>>, JsonError> {
    let mut content = None;
    reader.object("reasoning content")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "reasoningText" => {
                let (mut text, mut signature) = (Text::default(), None);
                reader.object("a reasoning text")?;
                while let Some(key) = reader.key()? {
                    match &*key {
                        "text" => text = reader.text_or_null()?.unwrap_or_default(),
                        "signature" => signature = reader.text_or_null()?,
                        _ => reader.ignore(key)?,
                    }
                }
                content = Some(Content::Thinking { text, signature });
            }
            "redactedContent" => content = Some(Content::RedactedThinking(redacted_from_blob(&reader.text()?))),
            _ => reader.ignore(key)?,
        }
    }
    Ok(content)
}

/// What is guarded is said to the model like anything else; only the guardrail treats it apart.
fn parse_guard_content<'a>(reader: &mut Reader<'a>) -> Result<Option<Content<'a>>, JsonError> {
    let mut content = None;
    reader.object("guarded content")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "text" => {
                reader.object("a guarded text")?;
                while let Some(key) = reader.key()? {
                    match &*key {
                        "text" => content = Some(Content::text(reader.text()?)),
                        _ => reader.ignore(key)?,
                    }
                }
            }
            "image" => content = Some(parse_medium(reader, Medium::Image)?),
            _ => reader.ignore(key)?,
        }
    }
    Ok(content)
}
