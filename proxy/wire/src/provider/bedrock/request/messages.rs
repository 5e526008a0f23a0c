//! The conversation as `messages` and `system` of Converse.
//!
//! Invariants: no block is blank text, which the service refuses; neighbours of one role are one message; documents have
//! names that Converse takes, each once. Deliberately absent: what a message may contain for which model; the service says so.

use crate::chat::{
    CacheMark, ChatRequest, Content, Document, Message, Notes, Out, Param, Part, Role, Source, Text, ToolIdRule,
    document_format, image_format,
};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::limits;
use crate::provider::Target;
use crate::provider::bedrock::{Family, content};

use super::DIALECT;

/// Text beside a document whose message says nothing, because Converse wants a document to be accompanied.
const ACCOMPANYING: &str = "See the document.";

/// Writes one conversation.
pub(super) struct Conversation<'w> {
    family: Family,
    tool_ids: ToolIdRule,
    out: &'w mut Out,
    notes: &'w mut Notes,
    /// Names of documents so far.
    names: Vec<String>,
}

impl<'w> Conversation<'w> {
    pub(super) fn new(target: &Target<'_>, out: &'w mut Out, notes: &'w mut Notes) -> Self {
        let tool_ids = match target.quirks.tool_ids {
            ToolIdRule::Any => ToolIdRule::Word64,
            rule => rule,
        };
        Self {
            family: Family::of(target),
            tool_ids,
            out,
            notes,
            names: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, request: &ChatRequest<'_>) -> Result<(), ApiError> {
        let instructs = |message: &&Message<'_>| matches!(message.role, Role::System | Role::Developer);
        if request.messages.iter().any(|message| message.name.is_some()) {
            self.notes.lose(Param::MessageName, DIALECT)?;
        }
        if request
            .messages
            .iter()
            .skip_while(instructs)
            .any(|message| instructs(&message))
        {
            self.notes.lose(Param::SystemPosition, DIALECT)?;
        }
        self.out.key("messages").token("[");
        let family = self.family;
        for message in request.messages.iter().filter(|message| !instructs(message)) {
            let lost = message.parts.iter().filter_map(|part| lost(&part.content, family));
            lost.into_iter().try_for_each(|param| self.notes.lose(param, DIALECT))?;
        }
        // A message of which nothing is left must not part its neighbours: roles alternate in what is written.
        let left = |message: &&Message<'_>| message.parts.iter().any(|part| is_left(&part.content, family));
        let said: Vec<&Message<'_>> = request
            .messages
            .iter()
            .filter(|message| !instructs(message) && left(message))
            .collect();
        let mut turns = said.chunk_by(|one, next| one.role == next.role).peekable();
        while let Some(turn) = turns.next() {
            let cache = request.cache.filter(|_| turns.peek().is_none());
            self.turn(turn, cache)?;
        }
        self.out.token("]");
        self.system(
            request
                .messages
                .iter()
                .filter(instructs)
                .flat_map(|message| &message.parts),
        )
    }

    /// Neighbours of one role as one message, results of tools first.
    fn turn(&mut self, turn: &[&Message<'_>], cache: Option<CacheMark>) -> Result<(), ApiError> {
        let family = self.family;
        let role = if turn[0].role == Role::Assistant {
            "assistant"
        } else {
            "user"
        };
        self.out
            .comma()
            .token("{")
            .key("role")
            .string(role)
            .key("content")
            .token("[");
        let parts = || {
            turn.iter()
                .flat_map(|message| &message.parts)
                .filter(|part| is_left(&part.content, family))
        };
        let is_result = |part: &&Part<'_>| matches!(part.content, Content::ToolResult { .. });
        for part in parts().filter(is_result).chain(parts().filter(|part| !is_result(part))) {
            self.part(part)?;
        }
        let is_document = |part: &Part<'_>| matches!(part.content, Content::Document(_));
        let is_text = |part: &Part<'_>| matches!(part.content, Content::Text { .. });
        if parts().any(is_document) && !parts().any(is_text) {
            self.text(&Text::plain(ACCOMPANYING));
        }
        if let Some(mark) = cache {
            self.cache(mark);
        }
        self.out.token("]}");
        Ok(())
    }

    fn system<'p>(&mut self, parts: impl Iterator<Item = &'p Part<'p>>) -> Result<(), ApiError> {
        let before = self.out.buf.len();
        self.out.key("system").token("[");
        let opened = self.out.buf.len();
        for part in parts.filter(|part| !is_blank(&part.content)) {
            match &part.content {
                Content::Text { text, .. } | Content::Refusal(text) => self.text(text),
                Content::Other(Dialect::Bedrock, raw) => self.out.comma().raw(raw).done(),
                _ => self.notes.lose(Param::ForeignPart, DIALECT)?,
            }
            if let Some(mark) = part.cache.filter(|_| self.out.buf.len() > opened) {
                self.cache(mark);
            }
        }
        if self.out.buf.len() == opened {
            self.out.buf.truncate(before);
        } else {
            self.out.token("]");
        }
        Ok(())
    }

    fn text(&mut self, text: &Text<'_>) {
        self.out.comma().token("{\"text\":").text(text).token("}");
    }

    fn part(&mut self, part: &Part<'_>) -> Result<(), ApiError> {
        let before = self.out.buf.len();
        let mut cache = part.cache;
        match &part.content {
            Content::ToolResult { id, parts, is_error } => {
                self.out
                    .comma()
                    .token("{\"toolResult\":{\"toolUseId\":")
                    .text(&crate::chat::tool_id(id, self.tool_ids));
                self.out.key("content").token("[");
                for part in parts.iter().filter(|part| !is_blank(&part.content)) {
                    // A cache point cannot stand inside a result; behind it, it marks as much.
                    cache = cache.or(part.cache);
                    self.result_part(&part.content)?;
                }
                self.out.token("]");
                if let Some(is_error) = is_error {
                    self.out
                        .key("status")
                        .string(if *is_error { "error" } else { "success" });
                }
                self.out.token("}}");
            }
            content => self.content(content)?,
        }
        if let Some(mark) = cache.filter(|_| self.out.buf.len() > before) {
            self.cache(mark);
        }
        Ok(())
    }

    fn result_part(&mut self, content: &Content<'_>) -> Result<(), ApiError> {
        match content {
            Content::Json(raw) => self.out.comma().token("{\"json\":").raw(raw).token("}").done(),
            Content::Text { text, .. } | Content::Refusal(text) => self.text(text),
            Content::Image { .. } | Content::Document(_) | Content::Video(_) => self.content(content)?,
            Content::Other(Dialect::Bedrock, raw) => self.out.comma().raw(raw).done(),
            _ => self.notes.lose(Param::ForeignPart, DIALECT)?,
        }
        Ok(())
    }

    fn content(&mut self, content: &Content<'_>) -> Result<(), ApiError> {
        match content {
            Content::Refusal(_) => self.notes.lose(Param::Refusal, DIALECT)?,
            Content::ToolCall { custom: true, .. } => return self.notes.lose(Param::CustomTool, DIALECT),
            _ => {}
        }
        if content::write_answer_block(content, self.tool_ids, self.out) {
            return Ok(());
        }
        match content {
            Content::Image { source, detail } => {
                if detail.as_ref().is_some_and(|detail| !detail.is("auto")) {
                    self.notes.lose(Param::ImageDetail, DIALECT)?;
                }
                self.medium("image", source, image_format, Param::ImageFormat, Param::ImageUrl)?;
                self.out.token("}}");
                Ok(())
            }
            Content::Video(source) => {
                self.medium("video", source, content::video_format, Param::Video, Param::ImageUrl)?;
                self.out.token("}}");
                Ok(())
            }
            Content::Audio(source) => {
                self.medium("audio", source, content::sound_format, Param::Audio, Param::Audio)?;
                self.out.token("}}");
                Ok(())
            }
            Content::Document(document) => self.document(document),
            Content::Json(raw) => {
                self.out.comma().token("{\"text\":").string(raw.as_json()).token("}");
                Ok(())
            }
            _ => self.notes.lose(Param::ForeignPart, DIALECT),
        }
    }

    /// `{"KIND":{"format":…,"source":{…}`, left open for more. `no_format` and `no_url` are what is lost where the source
    /// has no form in Converse.
    fn medium(
        &mut self,
        kind: &str,
        source: &Source<'_>,
        format_of: impl Fn(&str) -> Option<&'static str>,
        no_format: Param,
        no_url: Param,
    ) -> Result<(), ApiError> {
        let format = match source {
            Source::Base64 { media_type, .. } | Source::S3 { media_type, .. } => format_of(&media_type.decode()),
            Source::Text(_) | Source::Parts(_) => (kind == "document").then_some("txt"),
            Source::Url(_) => return self.refuse(no_url),
            Source::File(..) => return self.refuse(Param::FileId),
        };
        let Some(format) = format else {
            return self.refuse(no_format);
        };
        self.out
            .comma()
            .token("{")
            .key(kind)
            .token("{")
            .key("format")
            .string(format)
            .key("source")
            .token("{");
        match source {
            Source::Base64 { data, .. } => self.out.key("bytes").text(data).done(),
            Source::S3 { uri, owner, .. } => {
                self.out.key("s3Location").token("{").key("uri").text(uri);
                if let Some(owner) = owner {
                    self.out.key("bucketOwner").text(owner);
                }
                self.out.token("}");
            }
            Source::Text(text) => self.out.key("text").text(text).done(),
            Source::Parts(parts) => {
                self.out.key("content").token("[");
                for part in parts {
                    match &part.content {
                        Content::Text { text, .. } => self.text(text),
                        _ => self.notes.lose(Param::ForeignPart, DIALECT)?,
                    }
                }
                self.out.token("]");
            }
            Source::Url(_) | Source::File(..) => {}
        }
        self.out.token("}");
        Ok(())
    }

    fn document(&mut self, document: &Document<'_>) -> Result<(), ApiError> {
        self.medium(
            "document",
            &document.source,
            document_format,
            Param::DocumentFormat,
            Param::DocumentUrl,
        )?;
        let name = self.document_name(document.name.as_ref());
        if document.name.as_ref().is_some_and(|wanted| !wanted.is(&name)) {
            self.notes.lose(Param::DocumentName, DIALECT)?;
        }
        self.out.key("name").string(&name);
        self.names.push(name);
        if let Some(context) = &document.context {
            self.out.key("context").text(context);
        }
        if let Some(enabled) = document.citations {
            self.out
                .key("citations")
                .token("{\"enabled\":")
                .bool(enabled)
                .token("}");
        }
        self.out.token("}}");
        Ok(())
    }

    /// A name of letters, digits, single blanks, hyphens, parentheses and brackets that no other document has.
    fn document_name(&self, name: Option<&Text<'_>>) -> String {
        let wanted = name.map(Text::decode).unwrap_or_default();
        let mut base = String::new();
        for c in wanted.chars() {
            let c = match c {
                c if c.is_ascii_alphanumeric() || matches!(c, '-' | '(' | ')' | '[' | ']') => c,
                c if c.is_whitespace() => ' ',
                _ => '-',
            };
            if !(c == ' ' && (base.is_empty() || base.ends_with(' '))) {
                base.push(c);
            }
        }
        // Room for the number behind a name that is taken.
        base.truncate(limits::BEDROCK_DOCUMENT_NAME_BYTES_MAX - 12);
        let base = base.trim_end();
        let base = if base.is_empty() { "Document" } else { base };
        let mut name = base.to_owned();
        let mut number = 1_u32;
        while self.names.contains(&name) {
            number += 1;
            name = format!("{base} {number}");
        }
        name
    }

    fn cache(&mut self, mark: CacheMark) {
        if self.family.caches() {
            write_cache_point(mark, self.family, self.out);
        } else {
            self.notes.drop_extra("cache_control");
        }
    }

    /// For what the table refuses without exception, or is wrong in any dialect.
    fn refuse(&mut self, param: Param) -> Result<(), ApiError> {
        self.notes.lose(param, DIALECT)?;
        let message = "A medium of this kind cannot be carried to Amazon Bedrock.";
        Err(ApiError::new(crate::error::Code::UnsupportedParameter, message).with_param("messages.content"))
    }
}

/// Appends a cache point as an element of an array.
pub(super) fn write_cache_point(mark: CacheMark, family: Family, out: &mut Out) {
    out.comma().token("{\"cachePoint\":{\"type\":\"default\"");
    // Nova knows one lifetime only.
    if let Some(ttl) = mark.ttl().filter(|_| family == Family::Claude) {
        out.key("ttl").string(ttl);
    }
    out.token("}}");
}

/// What a message's part is lost for, if the target has no use for it.
fn lost(content: &Content<'_>, family: Family) -> Option<Param> {
    match content {
        Content::Thinking { signature: None, .. } => Some(Param::Thinking),
        Content::Thinking { .. } | Content::RedactedThinking(_) if family != Family::Claude => Some(Param::Thinking),
        Content::Other(dialect, _) if *dialect != DIALECT => Some(Param::ForeignPart),
        _ => None,
    }
}

fn is_left(content: &Content<'_>, family: Family) -> bool {
    !is_blank(content) && lost(content, family).is_none()
}

fn is_blank(content: &Content<'_>) -> bool {
    match content {
        Content::Text { text, .. } | Content::Refusal(text) => text.is_blank(),
        _ => false,
    }
}
