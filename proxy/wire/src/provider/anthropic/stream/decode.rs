//! Message events into events of the model.

use std::borrow::Cow;

use super::super::error_object;
use super::super::response::{WireUsage, citation, finish};
use crate::chat::{
    ChatEvent, Delta, ErrorKind, Finish, JsonError, Kind, Open, Raw, Reader, StreamEnd, Text, UpstreamError, Usage,
};
use crate::dialect::Dialect;
use crate::error::{ApiError, Code};
use crate::limits::STREAM_PARTS_MAX;
use crate::provider::Sink;
use crate::sse::{SseDecoder, SseError};

const DIALECT: Dialect = Dialect::Anthropic;

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
    /// The open block: its index on the wire, its part, and what it is.
    open: Option<(u64, u32, BlockKind)>,
    parts: u32,
    usage: WireUsage,
    reported: Option<Usage>,
    finish: Option<(Finish, Option<Text<'static>>)>,
    malformed: u32,
}

/// What a block is, which says which deltas it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    Text,
    Thinking,
    Redacted,
    Call,
    Other,
}

/// Why an event cannot be used.
enum Broken {
    /// It is not what it says; the next one may be.
    Event,
    Bound,
}

impl From<JsonError> for Broken {
    fn from(_: JsonError) -> Self {
        Self::Event
    }
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

    /// Reads `bytes`. An error means that this is no stream of events, or one beyond its bounds.
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
        if self.state.ended.is_none() && rest.is_ok() && self.state.finish.is_some() {
            self.state.end(sink);
        }
        self.state.ended.unwrap_or(StreamEnd::Interrupted)
    }
}

fn too_long(error: SseError) -> ApiError {
    ApiError::new(Code::UpstreamProtocolError, format!("The provider's stream: {error}."))
}

/// What an event may hold, whatever its type; gathered first because keys come in any order.
#[derive(Default)]
struct Fields<'a> {
    kind: Cow<'a, str>,
    index: u64,
    message: Option<Raw<'a>>,
    block: Option<Raw<'a>>,
    delta: Option<Raw<'a>>,
    usage: Option<Raw<'a>>,
    error: Option<Raw<'a>>,
}

impl State {
    fn data(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), ApiError> {
        if self.ended.is_some() {
            return Ok(());
        }
        match self.event(data, sink) {
            Ok(()) => Ok(()),
            Err(Broken::Bound) => Err(ApiError::new(
                Code::UpstreamProtocolError,
                "The provider's stream has too many parts.",
            )),
            Err(Broken::Event) => {
                self.malformed = self.malformed.saturating_add(1);
                Ok(())
            }
        }
    }

    fn event(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), Broken> {
        let mut reader = Reader::new(data)?;
        let mut fields = Fields::default();
        reader.object("an event")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "type" => fields.kind = reader.word()?,
                "index" => fields.index = reader.whole_or_null()?.unwrap_or(0),
                "message" => fields.message = Some(reader.raw()?),
                "content_block" => fields.block = Some(reader.raw()?),
                "delta" => fields.delta = Some(reader.raw()?),
                "usage" => fields.usage = Some(reader.raw()?),
                "error" => fields.error = Some(reader.raw()?),
                _ => reader.skip()?,
            }
        }
        reader.end()?;
        match &*fields.kind {
            "content_block_delta" => self.delta(fields, sink),
            "content_block_start" => self.block(fields, sink),
            "content_block_stop" => {
                if self.open.is_none_or(|(index, ..)| index != fields.index) {
                    return Err(Broken::Event);
                }
                self.close(sink);
                Ok(())
            }
            "message_start" => self.start(fields, sink),
            "message_delta" => self.message_delta(fields, sink),
            "message_stop" if self.started => {
                self.end(sink);
                Ok(())
            }
            "ping" => {
                if self.started {
                    sink(ChatEvent::Ping);
                }
                Ok(())
            }
            "error" => self.error(fields, sink),
            _ => Err(Broken::Event),
        }
    }

    fn start(&mut self, fields: Fields<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        if self.started {
            return Err(Broken::Event);
        }
        let message = fields.message.ok_or(Broken::Event)?;
        let (mut id, mut model) = (Text::default(), Text::default());
        let mut tier = None;
        let mut reader = message.reader();
        reader.object("a message")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "id" => id = reader.text_or_null()?.unwrap_or_default(),
                "model" => model = reader.text_or_null()?.unwrap_or_default(),
                "usage" => tier = self.usage.update(&mut reader)?,
                _ => reader.skip()?,
            }
        }
        self.started = true;
        sink(ChatEvent::Start {
            id,
            model,
            created: None,
            fingerprint: None,
            service_tier: tier,
        });
        self.report(sink);
        Ok(())
    }

    fn report(&mut self, sink: Sink<'_>) {
        let usage = self.usage.usage();
        if self.reported != Some(usage) {
            self.reported = Some(usage);
            sink(ChatEvent::Usage(usage));
        }
    }

    fn close(&mut self, sink: Sink<'_>) {
        if let Some((_, part, _)) = self.open.take() {
            sink(ChatEvent::Close { choice: 0, part });
        }
    }

    fn block(&mut self, fields: Fields<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        if !self.started {
            return Err(Broken::Event);
        }
        if self.parts == STREAM_PARTS_MAX {
            return Err(Broken::Bound);
        }
        let raw = fields.block.ok_or(Broken::Event)?;
        let mut reader = raw.reader();
        let (mut kind, mut id, mut name) = (Cow::Borrowed(""), Text::default(), Text::default());
        let (mut text, mut data, mut input) = (Text::default(), Text::default(), None);
        reader.object("a block")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("type", _) => kind = reader.word()?,
                ("id", Kind::String) => id = reader.text()?,
                ("name", Kind::String) => name = reader.text()?,
                ("text" | "thinking", Kind::String) => text = reader.text()?,
                ("data", Kind::String) => data = reader.text()?,
                ("input", Kind::Object) => input = Some(reader.raw()?),
                _ => reader.skip()?,
            }
        }
        let (open, first) = match &*kind {
            "text" => (Open::Text, Some(text).filter(|text| !text.is_empty()).map(Delta::Text)),
            "thinking" => (
                Open::Thinking,
                Some(text).filter(|text| !text.is_empty()).map(Delta::Thinking),
            ),
            "redacted_thinking" => (Open::RedactedThinking(data), None),
            "tool_use" => {
                // Normally empty here and filled by deltas.
                let input = input.filter(|input| input.as_json().len() > 2);
                (
                    Open::ToolCall { id, name },
                    input.map(|input| Delta::Arguments(Text::owned(input.as_json().to_owned()))),
                )
            }
            _ => (Open::Other(DIALECT, raw.borrowed()), None),
        };
        let kind = match &open {
            Open::Text | Open::Refusal => BlockKind::Text,
            Open::Thinking => BlockKind::Thinking,
            Open::RedactedThinking(_) => BlockKind::Redacted,
            Open::ToolCall { .. } => BlockKind::Call,
            Open::Other(..) => BlockKind::Other,
        };
        self.close(sink);
        let part = self.parts;
        self.parts += 1;
        self.open = Some((fields.index, part, kind));
        sink(ChatEvent::Open { choice: 0, part, open });
        if let Some(delta) = first {
            sink(ChatEvent::Delta { choice: 0, part, delta });
        }
        Ok(())
    }

    fn delta(&mut self, fields: Fields<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let (part, block) = match self.open {
            Some((index, part, block)) if index == fields.index => (part, block),
            _ => return Err(Broken::Event),
        };
        let raw = fields.delta.ok_or(Broken::Event)?;
        let mut reader = raw.reader();
        let (mut kind, mut text, mut source) = (Cow::Borrowed(""), Text::default(), None);
        reader.object("a delta")?;
        while let Some(key) = reader.key()? {
            match (&*key, reader.kind()?) {
                ("type", _) => kind = reader.word()?,
                ("text" | "partial_json" | "thinking" | "signature", Kind::String) => text = reader.text()?,
                ("citation", Kind::Object) => source = Some(citation(&mut reader)?),
                _ => reader.skip()?,
            }
        }
        let delta = match (block, &*kind, source) {
            (BlockKind::Other, ..) => Delta::Other(DIALECT, raw.borrowed()),
            (BlockKind::Text, "text_delta", _) => Delta::Text(text),
            (BlockKind::Text, "citations_delta", Some(citation)) => Delta::Citation(citation),
            (BlockKind::Thinking, "thinking_delta", _) => Delta::Thinking(text),
            (BlockKind::Thinking, "signature_delta", _) => Delta::Signature(text),
            (BlockKind::Call, "input_json_delta", _) => Delta::Arguments(text),
            _ => return Err(Broken::Event),
        };
        let empty =
            matches!(&delta, Delta::Text(text) | Delta::Arguments(text) | Delta::Thinking(text) if text.is_empty());
        if !empty {
            sink(ChatEvent::Delta { choice: 0, part, delta });
        }
        Ok(())
    }

    fn message_delta(&mut self, fields: Fields<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        if !self.started {
            return Err(Broken::Event);
        }
        if let Some(raw) = fields.delta {
            let mut reader = raw.reader();
            let (mut reason, mut sequence) = (None, None);
            reader.object("a delta")?;
            while let Some(key) = reader.key()? {
                match &*key {
                    "stop_reason" => reason = finish(&mut reader)?,
                    "stop_sequence" => sequence = reader.text_or_null()?.map(Text::into_owned),
                    _ => reader.skip()?,
                }
            }
            if let Some(reason) = reason {
                self.finish = Some((reason, sequence));
            }
        }
        if let Some(raw) = fields.usage {
            self.usage.update(&mut raw.reader())?;
            self.report(sink);
        }
        Ok(())
    }

    fn error(&mut self, fields: Fields<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let mut error = UpstreamError {
            status: 200,
            kind: ErrorKind::Server,
            message: String::new(),
            code: None,
            param: None,
            retry_after_s: None,
        };
        if let Some(raw) = fields.error {
            error_object(&mut raw.reader(), &mut error)?;
        }
        error.status = error.kind.status();
        self.ended = Some(StreamEnd::Failed);
        sink(ChatEvent::Error(error));
        Ok(())
    }

    fn end(&mut self, sink: Sink<'_>) {
        self.close(sink);
        let (finish, stop_sequence) = self.finish.take().unwrap_or((Finish::Stop, None));
        sink(ChatEvent::Finish {
            choice: 0,
            finish,
            stop_sequence,
        });
        self.ended = Some(StreamEnd::Complete);
        sink(ChatEvent::End);
    }
}
