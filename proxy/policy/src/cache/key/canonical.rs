//! The canonical form of a request: fields in one order, each with its length, strings unescaped.
//!
//! Invariants: two requests have one form only if they are equal in everything that may change an answer; every piece is
//! preceded by what it is and how long it is, so that no two sequences of pieces run together. Attachments stand in it as
//! hashes of their bytes. The last user text and the images are kept apart, because they are matched apart. Deliberately
//! absent: a way back.

use sluice_wire::chat::{
    ChatRequest, Citation, Content, Document, Format, Message, Number, Part, Raw, Role, Source, Text,
};
use sluice_wire::limits::CACHE_TEXT_BYTES_MAX;

use super::{Bypass, Scope, Secret};

/// A request in canonical form. Keep it, so that its memory is reused.
#[derive(Clone, Debug, Default)]
pub struct Canonical {
    frame: Vec<u8>,
    pub(super) frame_hash: [u8; 32],
    images: Vec<u8>,
    text: String,
    /// Whether there is such a text, and it may be matched by its meaning.
    semantic: bool,
}

impl Canonical {
    /// All but the last user text and the images' bytes.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// The images' hashes, in order; 32 bytes each.
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// The last user text; empty if the last message is not a user's, or has none.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the last user text may be matched by its meaning.
    pub fn is_semantic(&self) -> bool {
        self.semantic
    }

    /// All of it, in one piece, to be stored and compared.
    pub fn store(&self) -> Vec<u8> {
        [&self.lengths()[..], &self.frame, &self.images, self.text.as_bytes()].concat()
    }

    /// Whether `stored` is this request.
    pub fn is(&self, stored: &[u8]) -> bool {
        let mut rest = stored;
        let lengths = self.lengths();
        let mut pieces = [&lengths[..], &self.frame, &self.images, self.text.as_bytes()].into_iter();
        pieces.all(|piece| match rest.strip_prefix(piece) {
            Some(behind) => {
                rest = behind;
                true
            }
            None => false,
        }) && rest.is_empty()
    }

    /// The last user text of a stored request.
    pub fn text_of(stored: &[u8]) -> Option<&str> {
        let (lengths, rest) = stored.split_first_chunk::<24>()?;
        let text = u64::from_le_bytes(lengths[16..].try_into().ok()?);
        let at = rest.len().checked_sub(usize::try_from(text).ok()?)?;
        std::str::from_utf8(&rest[at..]).ok()
    }

    fn lengths(&self) -> [u8; 24] {
        let mut lengths = [0; 24];
        for (to, len) in lengths
            .chunks_mut(8)
            .zip([self.frame.len(), self.images.len(), self.text.len()])
        {
            to.copy_from_slice(&(len as u64).to_le_bytes());
        }
        lengths
    }

    pub(super) fn write(
        &mut self,
        request: &ChatRequest<'_>,
        scope: &Scope<'_>,
        secret: &Secret,
    ) -> Result<(), Bypass> {
        self.frame.clear();
        self.images.clear();
        self.text.clear();
        self.semantic = false;
        self.scope(scope);
        self.parameters(request);
        self.count(b'M', request.messages.len());
        let last = request.messages.len().checked_sub(1);
        for (at, message) in request.messages.iter().enumerate() {
            self.message(message, Some(at) == last && message.role == Role::User, secret)?;
        }
        self.frame_hash = secret.hasher("frame").update(&self.frame).finalize().into();
        self.semantic &= !self.text.is_empty() && self.text.len() <= CACHE_TEXT_BYTES_MAX;
        Ok(())
    }

    fn scope(&mut self, scope: &Scope<'_>) {
        // Another version of this form shares nothing with this one.
        self.put(b'V', &[1]);
        self.put(b'T', scope.tenant.as_bytes());
        self.put(b'R', scope.route.as_bytes());
        self.put(b'D', scope.dialect.as_str().as_bytes());
        self.put(b'E', &scope.epoch.to_le_bytes());
        self.count(b'C', scope.context.len());
        for (name, value) in scope.context {
            self.put(b'n', name.as_bytes());
            self.put_some(b'v', value.map(str::as_bytes));
        }
    }

    fn parameters(&mut self, request: &ChatRequest<'_>) {
        let ChatRequest {
            // In their own places: the conversation, what `check` refuses, and what never changes an answer.
            messages: _,
            tools: _,
            tool_choice: _,
            n: _,
            ignored: _,
            cache: _,
            stream: _,
            include_usage: _,
            model,
            parallel_tool_calls,
            format,
            max_tokens,
            temperature,
            top_p,
            top_k,
            stop,
            seed,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            logprobs,
            top_logprobs,
            reasoning,
            service_tier,
            user,
            metadata,
            extras,
        } = request;
        self.text_of_json(b'm', model);
        self.flag(b'1', *parallel_tool_calls);
        self.format(format.as_ref());
        let numbers: [(u8, &Option<Number<'_>>); 6] = [
            (b'2', temperature),
            (b'3', top_p),
            (b'4', top_k),
            (b'5', seed),
            (b'6', presence_penalty),
            (b'7', frequency_penalty),
        ];
        for (tag, number) in numbers {
            self.put_some(tag, number.map(|number| number.as_json().as_bytes()));
        }
        let wholes = [
            (b'8', *max_tokens),
            (b'9', *top_logprobs),
            (b'a', reasoning.budget_tokens),
        ];
        for (tag, whole) in wholes {
            self.put_some(tag, whole.map(u64::to_le_bytes).as_ref().map(|bytes| &bytes[..]));
        }
        self.count(b'b', stop.len());
        stop.iter().for_each(|stop| self.text_of_json(b'b', stop));
        self.raw(b'c', logit_bias.as_ref());
        self.flag(b'd', *logprobs);
        self.put_some(
            b'e',
            reasoning.mode.map(|mode| [mode as u8]).as_ref().map(|mode| &mode[..]),
        );
        for (tag, text) in [
            (b'f', &reasoning.effort),
            (b'g', &reasoning.display),
            (b'h', service_tier),
            (b'i', user),
        ] {
            self.some_text(tag, text.as_ref());
        }
        self.raw(b'j', metadata.as_ref());
        self.count(b'k', extras.len());
        for extra in extras {
            self.put(b'l', extra.dialect.as_str().as_bytes());
            self.put(b'l', extra.key.as_bytes());
            self.raw(b'l', Some(&extra.value));
        }
    }

    fn format(&mut self, format: Option<&Format<'_>>) {
        let Some(format) = format else {
            return self.put(b'F', b"-");
        };
        match format {
            Format::Text => self.put(b'F', b"text"),
            Format::JsonObject => self.put(b'F', b"object"),
            Format::JsonSchema {
                name,
                description,
                schema,
                strict,
            } => {
                self.put(b'F', b"schema");
                self.some_text(b'F', name.as_ref());
                self.some_text(b'F', description.as_ref());
                self.raw(b'F', Some(schema));
                self.flag(b'F', *strict);
            }
            Format::Other(dialect, raw) => {
                self.put(b'F', b"other");
                self.put(b'F', dialect.as_str().as_bytes());
                self.raw(b'F', Some(raw));
            }
        }
    }

    fn message(&mut self, message: &Message<'_>, is_last: bool, secret: &Secret) -> Result<(), Bypass> {
        let role = match message.role {
            Role::System => b"s",
            Role::Developer => b"d",
            Role::User => b"u",
            Role::Assistant => b"a",
        };
        self.put(b'r', role);
        self.some_text(b'n', message.name.as_ref());
        self.count(b'p', message.parts.len());
        let is_text = |part: &Part<'_>| matches!(part.content, Content::Text { .. });
        let last_text = message.parts.iter().rposition(is_text).filter(|_| is_last);
        for (at, part) in message.parts.iter().enumerate() {
            match &part.content {
                // The text that is matched by itself: the last one. Those before it stand in the frame.
                Content::Text { text, citations } if Some(at) == last_text => {
                    self.text.push_str(&text.decode());
                    self.semantic = citations.is_empty();
                    self.citations(citations);
                }
                _ => self.part(part, secret)?,
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &Part<'_>, secret: &Secret) -> Result<(), Bypass> {
        match &part.content {
            Content::Text { text, citations } => {
                self.citations(citations);
                self.text_of_json(b't', text);
            }
            Content::Refusal(text) => self.text_of_json(b'R', text),
            Content::Image { source, detail } => {
                self.some_text(b'i', detail.as_ref());
                self.source(source, true, secret)?;
            }
            Content::Document(document) => self.document(document, secret)?,
            Content::Audio(source) => {
                self.put(b'S', b"audio");
                self.source(source, false, secret)?;
            }
            Content::Video(source) => {
                self.put(b'S', b"video");
                self.source(source, false, secret)?;
            }
            Content::ToolCall { .. } | Content::ToolResult { .. } => return Err(Bypass::Tools),
            Content::Json(raw) => self.raw(b'J', Some(raw)),
            Content::Thinking { text, signature } => {
                self.text_of_json(b'h', text);
                self.some_text(b'h', signature.as_ref());
            }
            Content::RedactedThinking(text) => self.text_of_json(b'H', text),
            Content::Other(dialect, raw) => {
                self.put(b'o', dialect.as_str().as_bytes());
                self.raw(b'o', Some(raw));
            }
        }
        Ok(())
    }

    fn citations(&mut self, citations: &[Citation<'_>]) {
        self.count(b'q', citations.len());
        for citation in citations {
            // The debug form names every field; citations are rare, and their form is no interface.
            self.put(b'q', format!("{citation:?}").as_bytes());
        }
    }

    fn document(&mut self, document: &Document<'_>, secret: &Secret) -> Result<(), Bypass> {
        self.put(b'S', b"document");
        self.some_text(b'S', document.name.as_ref());
        self.some_text(b'S', document.context.as_ref());
        self.flag(b'S', document.citations);
        self.source(&document.source, false, secret)
    }

    fn source(&mut self, source: &Source<'_>, is_image: bool, secret: &Secret) -> Result<(), Bypass> {
        match source {
            Source::Base64 { media_type, data } => {
                self.put(b'B', b"bytes");
                self.text_of_json(b'B', media_type);
                let hash = secret.hasher("attachment").update(data.decode().as_bytes()).finalize();
                if is_image {
                    self.images.extend_from_slice(hash.as_bytes());
                } else {
                    self.put(b'B', hash.as_bytes());
                }
            }
            Source::Url(_) | Source::S3 { .. } => return Err(Bypass::Remote),
            Source::File(dialect, id) => {
                self.put(b'B', b"file");
                self.put(b'B', dialect.as_str().as_bytes());
                self.text_of_json(b'B', id);
            }
            Source::Text(text) => {
                self.put(b'B', b"text");
                self.text_of_json(b'B', text);
            }
            Source::Parts(parts) => {
                self.put(b'B', b"parts");
                self.count(b'B', parts.len());
                for part in parts {
                    self.part(part, secret)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, tag: u8, bytes: &[u8]) {
        self.frame.push(tag);
        self.frame.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.frame.extend_from_slice(bytes);
    }

    /// What is missing is not what is empty.
    fn put_some(&mut self, tag: u8, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.put(tag, bytes),
            None => self
                .frame
                .extend_from_slice(&[tag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        }
    }

    fn count(&mut self, tag: u8, count: usize) {
        self.put(tag, &(count as u64).to_le_bytes());
    }

    fn flag(&mut self, tag: u8, flag: Option<bool>) {
        self.put(tag, flag.map_or(b"-", |flag| if flag { b"1" } else { b"0" }));
    }

    fn text_of_json(&mut self, tag: u8, text: &Text<'_>) {
        self.put(tag, text.decode().as_bytes());
    }

    fn some_text(&mut self, tag: u8, text: Option<&Text<'_>>) {
        match text {
            Some(text) => self.text_of_json(tag, text),
            None => self.put_some(tag, None),
        }
    }

    fn raw(&mut self, tag: u8, raw: Option<&Raw<'_>>) {
        self.put_some(tag, raw.map(|raw| raw.as_json().as_bytes()));
    }
}
