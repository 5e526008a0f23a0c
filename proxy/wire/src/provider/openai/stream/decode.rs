//! Chunks into events.

use super::super::response::{annotations, created, finish};
use super::super::usage::usage;
use super::super::{error_object, request::Detail};
use crate::chat::{
    ChatEvent, Citation, Delta, ErrorKind, Finish, JsonError, Kind, Open, Raw, Reader, StreamEnd, Text, UpstreamError,
    Usage, id_hash, made_id,
};
use crate::error::{ApiError, Code};
use crate::limits::{STREAM_CHOICES_MAX, STREAM_PARTS_MAX};
use crate::provider::Sink;
use crate::sse::{SseDecoder, SseError};

/// Reads a stream, in pieces of any size.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    sse: SseDecoder,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    ended: Option<StreamEnd>,
    choices: Vec<ChoiceState>,
    malformed: u32,
    /// Hash of the answer's id, for calls that come without one.
    salt: u64,
}

#[derive(Debug, Default)]
struct ChoiceState {
    index: u32,
    parts: u32,
    open: Option<(u32, OpenKind)>,
    calls: Vec<Call>,
    finish: Option<Finish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenKind {
    Text,
    Refusal,
    /// With the index that `reasoning_details` gave it.
    Thinking(Option<u64>),
    Call,
}

#[derive(Debug)]
struct Call {
    index: Option<u64>,
    id_hash: u64,
    part: u32,
}

impl StreamDecoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Events of the stream that could not be read and were skipped.
    pub fn malformed(&self) -> u32 {
        self.state.malformed
    }

    /// Reads `bytes`. An error means that this is no stream of chunks, or one beyond its bounds.
    pub fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), ApiError> {
        let (state, mut outcome) = (&mut self.state, Ok(()));
        let split = self.sse.push(bytes, |event| {
            if outcome.is_ok() {
                outcome = state.data(event.data, sink);
            }
        });
        outcome.and(split.map_err(too_long))
    }

    /// The connection is at its end.
    pub fn finish(&mut self, sink: Sink<'_>) -> StreamEnd {
        // The empty line behind the last event may be missing; half an event is no JSON and is skipped.
        let rest = self.push(b"\n\n", sink);
        if self.state.ended.is_none() && rest.is_ok() && self.state.choices.iter().any(|choice| choice.finish.is_some())
        {
            self.state.end(sink);
        }
        self.state.ended.unwrap_or(StreamEnd::Interrupted)
    }
}

impl State {
    fn data(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), ApiError> {
        if self.ended.is_some() {
            return Ok(());
        }
        if data == b"[DONE]" {
            // Without any answer it is the end of nothing.
            if !self.choices.is_empty() {
                self.end(sink);
            }
            return Ok(());
        }
        match self.chunk(data, sink) {
            Ok(()) => Ok(()),
            Err(Broken::Bound) => Err(ApiError::new(
                Code::UpstreamProtocolError,
                "The provider's stream has too many parts.",
            )),
            Err(Broken::Json(_)) => {
                self.malformed = self.malformed.saturating_add(1);
                Ok(())
            }
        }
    }

    fn chunk(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), Broken> {
        let mut reader = Reader::new(data)?;
        // A chunk is judged as a whole before any of it counts: a broken one must leave no half behind.
        let chunk = Chunk::parse(&mut reader)?;
        if !self.started && (chunk.error.is_none() || !chunk.choices.is_empty()) {
            self.started = true;
            self.salt = id_hash(chunk.id.as_json());
            sink(ChatEvent::Start {
                id: chunk.id,
                model: chunk.model,
                created: chunk.created,
                fingerprint: chunk.fingerprint,
                service_tier: chunk.tier,
            });
        }
        for delta in chunk.choices {
            self.choice(delta, sink)?;
        }
        if let Some(usage) = chunk.usage {
            sink(ChatEvent::Usage(usage));
        }
        if let Some(error) = chunk.error {
            self.ended = Some(StreamEnd::Failed);
            sink(ChatEvent::Error(error));
        }
        Ok(())
    }

    fn choice(&mut self, delta: ChoiceDelta<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let at = match self.choices.iter().position(|choice| choice.index == delta.index) {
            Some(at) => at,
            None if self.choices.len() < STREAM_CHOICES_MAX => {
                self.choices.push(ChoiceState {
                    index: delta.index,
                    ..ChoiceState::default()
                });
                self.choices.len() - 1
            }
            None => return Err(Broken::Bound),
        };
        let salt = self.salt;
        let choice = &mut self.choices[at];
        choice.reasoning(delta.reasoning, delta.details, sink)?;
        for (is_thinking, text) in delta.words {
            let kind = if is_thinking {
                OpenKind::Thinking(None)
            } else {
                OpenKind::Text
            };
            let piece = if is_thinking {
                Delta::Thinking(text)
            } else {
                Delta::Text(text)
            };
            choice.piece(kind, piece, sink)?;
        }
        if let Some(text) = delta.refusal {
            choice.piece(OpenKind::Refusal, Delta::Text(text), sink)?;
        }
        for citation in delta.citations {
            choice.piece(OpenKind::Text, Delta::Citation(citation), sink)?;
        }
        if let (Some(logprobs), Some((_, OpenKind::Text))) = (delta.logprobs, choice.open) {
            choice.piece(OpenKind::Text, Delta::Logprobs(logprobs), sink)?;
        }
        for call in delta.calls {
            choice.call(call, salt, sink)?;
        }
        choice.finish = choice.finish.or(delta.finish);
        Ok(())
    }

    fn end(&mut self, sink: Sink<'_>) {
        for choice in &mut self.choices {
            choice.close(sink);
            let called = !choice.calls.is_empty();
            let finish = match choice.finish {
                None | Some(Finish::Stop) if called => Finish::ToolCalls,
                None => Finish::Stop,
                Some(finish) => finish,
            };
            sink(ChatEvent::Finish {
                choice: choice.index,
                finish,
                stop_sequence: None,
            });
        }
        self.ended = Some(StreamEnd::Complete);
        sink(ChatEvent::End);
    }
}

impl ChoiceState {
    fn close(&mut self, sink: Sink<'_>) {
        if let Some((part, _)) = self.open.take() {
            sink(ChatEvent::Close {
                choice: self.index,
                part,
            });
        }
    }

    fn open(&mut self, open: Open<'_>, sink: Sink<'_>) -> Result<u32, Broken> {
        self.close(sink);
        if self.parts == STREAM_PARTS_MAX {
            return Err(Broken::Bound);
        }
        let part = self.parts;
        self.parts += 1;
        sink(ChatEvent::Open {
            choice: self.index,
            part,
            open,
        });
        Ok(part)
    }

    /// A piece of the open part if that is of `kind`, else of a new one.
    fn piece(&mut self, kind: OpenKind, delta: Delta<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let part = match (self.open, kind) {
            (Some((part, open)), kind) if open == kind => part,
            (Some((part, OpenKind::Thinking(_))), OpenKind::Thinking(None)) => part,
            // Bare text and details of one block: vendors send either, or first one and then the other.
            (Some((part, OpenKind::Thinking(None))), OpenKind::Thinking(Some(_))) => {
                self.open = Some((part, kind));
                part
            }
            _ => {
                let open = match kind {
                    OpenKind::Text => Open::Text,
                    OpenKind::Refusal => Open::Refusal,
                    OpenKind::Thinking(_) | OpenKind::Call => Open::Thinking,
                };
                let part = self.open(open, sink)?;
                self.open = Some((part, kind));
                part
            }
        };
        sink(ChatEvent::Delta {
            choice: self.index,
            part,
            delta,
        });
        Ok(())
    }

    /// Details say all that the bare text says, and more.
    fn reasoning(&mut self, text: Option<Text<'_>>, details: Vec<Detail<'_>>, sink: Sink<'_>) -> Result<(), Broken> {
        let told = details.iter().any(|detail| !detail.text.is_empty());
        if let (false, Some(text)) = (told, text) {
            self.piece(OpenKind::Thinking(None), Delta::Thinking(text), sink)?;
        }
        for detail in details {
            let kind = OpenKind::Thinking(detail.index);
            if let Some(data) = detail.data {
                let part = self.open(Open::RedactedThinking(data), sink)?;
                sink(ChatEvent::Close {
                    choice: self.index,
                    part,
                });
                continue;
            }
            if !detail.text.is_empty() {
                self.piece(kind, Delta::Thinking(detail.text), sink)?;
            }
            if let Some(signature) = detail.signature {
                self.piece(kind, Delta::Signature(signature), sink)?;
            }
        }
        Ok(())
    }

    fn call(&mut self, call: CallDelta<'_>, salt: u64, sink: Sink<'_>) -> Result<(), Broken> {
        let id_hash = id_hash(call.id.as_json());
        // Vendors number calls, or repeat index 0 with a new id, or give neither and mean the last one.
        let known = self
            .calls
            .iter()
            .rposition(|known| match (call.index, call.id.is_empty()) {
                (Some(index), true) => known.index == Some(index),
                (Some(index), false) => known.index == Some(index) && known.id_hash == id_hash,
                (None, true) => call.name.is_empty(),
                (None, false) => known.id_hash == id_hash,
            });
        let part = match known {
            Some(at) => self.calls[at].part,
            None => {
                let id = if call.id.is_empty() {
                    made_id(salt, self.parts as usize)
                } else {
                    call.id
                };
                let part = self.open(Open::ToolCall { id, name: call.name }, sink)?;
                self.open = Some((part, OpenKind::Call));
                self.calls.push(Call {
                    index: call.index,
                    id_hash,
                    part,
                });
                part
            }
        };
        if !call.arguments.is_empty() {
            sink(ChatEvent::Delta {
                choice: self.index,
                part,
                delta: Delta::Arguments(call.arguments),
            });
        }
        Ok(())
    }
}

fn too_long(error: SseError) -> ApiError {
    ApiError::new(Code::UpstreamProtocolError, format!("The provider's stream: {error}."))
}

/// Why a chunk cannot be used.
enum Broken {
    Json(#[expect(dead_code, reason = "kept for debugging")] JsonError),
    Bound,
}

impl From<JsonError> for Broken {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

#[derive(Default)]
struct Chunk<'a> {
    id: Text<'a>,
    model: Text<'a>,
    created: Option<u64>,
    fingerprint: Option<Text<'a>>,
    tier: Option<Text<'a>>,
    choices: Vec<ChoiceDelta<'a>>,
    usage: Option<Usage>,
    error: Option<UpstreamError>,
}

impl<'a> Chunk<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Self, JsonError> {
        let mut chunk = Self::default();
        reader.object("a chunk")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "id" => chunk.id = reader.text_or_null()?.unwrap_or_default(),
                "model" => chunk.model = reader.text_or_null()?.unwrap_or_default(),
                "created" => chunk.created = created(reader)?,
                "system_fingerprint" => chunk.fingerprint = reader.text_or_null()?.filter(|text| !text.is_empty()),
                "service_tier" => chunk.tier = reader.text_or_null()?.filter(|text| !text.is_empty()),
                "choices" => {
                    if !reader.null()? {
                        reader.array("a list of choices")?;
                        while reader.item()? {
                            chunk.choices.push(ChoiceDelta::parse(reader)?);
                        }
                    }
                }
                "usage" => chunk.usage = usage(reader)?.or(chunk.usage),
                "error" => chunk.error = error(reader)?,
                _ => reader.skip()?,
            }
        }
        reader.end()?;
        Ok(chunk)
    }
}

fn error(reader: &mut Reader<'_>) -> Result<Option<UpstreamError>, JsonError> {
    let mut error = UpstreamError {
        status: 200,
        kind: ErrorKind::Server,
        message: String::new(),
        code: None,
        param: None,
        retry_after_s: None,
    };
    match reader.kind()? {
        Kind::Null => return reader.skip().map(|()| None),
        Kind::Object => error_object(reader, &mut error)?,
        Kind::String => error.message = reader.word()?.into_owned(),
        _ => reader.skip()?,
    }
    if error.status == 200 {
        error.status = error.kind.status();
    }
    Ok(Some(error))
}

#[derive(Default)]
struct ChoiceDelta<'a> {
    index: u32,
    /// (whether it is reasoning, text); Mistral sends both in one array.
    words: Vec<(bool, Text<'a>)>,
    reasoning: Option<Text<'a>>,
    details: Vec<Detail<'a>>,
    refusal: Option<Text<'a>>,
    citations: Vec<Citation<'a>>,
    calls: Vec<CallDelta<'a>>,
    logprobs: Option<Raw<'a>>,
    finish: Option<Finish>,
}

#[derive(Default)]
struct CallDelta<'a> {
    index: Option<u64>,
    id: Text<'a>,
    name: Text<'a>,
    arguments: Text<'a>,
}

impl<'a> ChoiceDelta<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Self, JsonError> {
        let mut choice = Self::default();
        reader.object("a list of choices")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("index", _) => choice.index = reader.whole_or_null()?.unwrap_or(0).min(u64::from(u32::MAX)) as u32,
                ("delta" | "message", Kind::Object) => choice.delta(reader)?,
                ("finish_reason", _) => choice.finish = finish(reader)?,
                ("logprobs", Kind::Object) => choice.logprobs = Some(reader.raw()?),
                _ => reader.skip()?,
            }
        }
        Ok(choice)
    }

    fn delta(&mut self, reader: &mut Reader<'a>) -> Result<(), JsonError> {
        reader.object("")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("content", Kind::String) => {
                    let text = reader.text()?;
                    if !text.is_empty() {
                        self.words.push((false, text));
                    }
                }
                ("content", Kind::Array) => self.mixed(reader)?,
                ("reasoning" | "reasoning_content", Kind::String) => {
                    self.reasoning = Some(reader.text()?)
                        .filter(|text| !text.is_empty())
                        .or(self.reasoning.take());
                }
                ("reasoning_details", Kind::Array) => {
                    reader.array("")?;
                    while reader.item()? {
                        self.details.push(Detail::parse(reader)?);
                    }
                }
                ("refusal", Kind::String) => self.refusal = Some(reader.text()?).filter(|text| !text.is_empty()),
                ("annotations", Kind::Array) => self.citations = annotations(reader)?,
                ("tool_calls", Kind::Array) => {
                    reader.array("")?;
                    while reader.item()? {
                        self.calls.push(CallDelta::parse(reader)?);
                    }
                }
                _ => reader.skip()?,
            }
        }
        Ok(())
    }

    /// Mistral's array content: text parts, and `thinking` parts with text parts inside.
    fn mixed(&mut self, reader: &mut Reader<'a>) -> Result<(), JsonError> {
        for part in super::super::request::content(reader)? {
            match part.content {
                crate::chat::Content::Text { text, .. } if !text.is_empty() => self.words.push((false, text)),
                crate::chat::Content::Thinking { text, .. } if !text.is_empty() => self.words.push((true, text)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> CallDelta<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Self, JsonError> {
        let mut call = Self::default();
        reader.object("a list of tool calls")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("index", _) => call.index = reader.whole_or_null()?,
                ("id", Kind::String) => call.id = reader.text()?,
                ("function", Kind::Object) => {
                    reader.object("")?;
                    while let Some(key) = reader.key()? {
                        match (&*key, reader.kind()?) {
                            ("name", Kind::String) => call.name = reader.text()?,
                            ("arguments", Kind::String) => call.arguments = reader.text()?,
                            ("arguments", Kind::Object) => {
                                call.arguments = Text::owned(reader.raw()?.as_json().to_owned());
                            }
                            _ => reader.skip()?,
                        }
                    }
                }
                _ => reader.skip()?,
            }
        }
        Ok(call)
    }
}
