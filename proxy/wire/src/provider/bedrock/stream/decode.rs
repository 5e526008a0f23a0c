//! Event-stream messages into events.

use crate::chat::{ChatEvent, Citation, Delta, JsonError, Kind, Open, Raw, Reader, StreamEnd, Text};
use crate::dialect::Dialect;
use crate::error::{ApiError, Code};
use crate::eventstream::{Decoder, FrameError, Message, MessageKind};
use crate::limits::STREAM_PARTS_MAX;
use crate::provider::Sink;
use crate::provider::bedrock::{citations, content, error, response};

/// Reads a stream, in pieces of any size.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    frames: Decoder,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    /// `messageStop` was seen.
    stopped: bool,
    ended: Option<StreamEnd>,
    parts: u32,
    open: Option<Block>,
    malformed: u32,
}

/// The block that is open.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Its `contentBlockIndex`.
    index: u64,
    part: u32,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    Thinking,
    Redacted,
    Call,
    /// Only Bedrock knows it.
    Foreign,
}

enum Broken {
    Json,
    Bound,
}

impl From<JsonError> for Broken {
    fn from(_: JsonError) -> Self {
        Self::Json
    }
}

/// What a `contentBlockDelta` adds.
enum Piece<'a> {
    Text(Text<'a>),
    Thinking(Text<'a>),
    Signature(Text<'a>),
    Redacted(Text<'a>),
    Arguments(Text<'a>),
    Citation(Citation<'a>),
    Foreign(Raw<'a>),
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

    /// Reads `bytes`. An error means that this is no event stream (a CRC or a length is wrong), or one beyond its bounds.
    pub fn push(&mut self, mut bytes: &[u8], sink: Sink<'_>) -> Result<(), ApiError> {
        while let Some(message) = self.frames.next_message(&mut bytes).map_err(broken_frame)? {
            self.state.message(&message, sink)?;
        }
        Ok(())
    }

    /// The connection is at its end.
    pub fn finish(&mut self, sink: Sink<'_>) -> StreamEnd {
        let state = &mut self.state;
        if state.ended.is_none() && state.stopped && self.frames.finish().is_ok() {
            state.end(sink);
        }
        state.ended.unwrap_or(StreamEnd::Interrupted)
    }
}

impl State {
    fn message(&mut self, message: &Message<'_>, sink: Sink<'_>) -> Result<(), ApiError> {
        if self.ended.is_some() {
            return Ok(());
        }
        let result = match message.kind {
            MessageKind::Event => self.event(message, sink),
            MessageKind::Exception | MessageKind::Error => {
                self.ended = Some(StreamEnd::Failed);
                sink(ChatEvent::Error(error::parse_exception(
                    message.exception_type,
                    message.payload,
                    message.error_message,
                )));
                Ok(())
            }
            MessageKind::Other => Ok(()),
        };
        match result {
            Ok(()) => Ok(()),
            Err(Broken::Bound) => Err(ApiError::new(
                Code::UpstreamProtocolError,
                "The provider's stream has too many parts.",
            )),
            Err(Broken::Json) => {
                self.malformed = self.malformed.saturating_add(1);
                Ok(())
            }
        }
    }

    fn event(&mut self, message: &Message<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let mut reader = Reader::new(message.payload)?;
        match message.event_type {
            "messageStart" => {
                reader.skip()?;
                self.start(sink);
            }
            "contentBlockStart" => self.block_start(&mut reader, sink)?,
            "contentBlockDelta" => self.block_delta(&mut reader, sink)?,
            "contentBlockStop" => {
                let index = index(&mut reader)?;
                if self.open.is_some_and(|open| open.index == index) {
                    self.close(sink);
                }
            }
            "messageStop" => self.message_stop(&mut reader, sink)?,
            "metadata" => self.metadata(&mut reader, sink)?,
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, sink: Sink<'_>) {
        if !std::mem::replace(&mut self.started, true) {
            sink(ChatEvent::Start {
                id: Text::default(),
                model: Text::default(),
                created: None,
                fingerprint: None,
                service_tier: None,
            });
        }
    }

    fn open(&mut self, index: u64, shape: Shape, open: Open<'_>, sink: Sink<'_>) -> Result<u32, Broken> {
        self.start(sink);
        self.close(sink);
        if self.parts == STREAM_PARTS_MAX {
            return Err(Broken::Bound);
        }
        let part = self.parts;
        self.parts += 1;
        self.open = Some(Block { index, part, shape });
        sink(ChatEvent::Open { choice: 0, part, open });
        Ok(part)
    }

    fn close(&mut self, sink: Sink<'_>) {
        if let Some(open) = self.open.take() {
            sink(ChatEvent::Close {
                choice: 0,
                part: open.part,
            });
        }
    }

    fn block_start(&mut self, reader: &mut Reader<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let (mut index, mut call, mut foreign) = (0, None, None);
        reader.object("a block start")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "contentBlockIndex" => index = reader.whole_or_null()?.unwrap_or(0),
                "start" => {
                    let whole = reader.clone().raw()?;
                    reader.object("a block start")?;
                    while let Some(key) = reader.key()? {
                        if &*key == "toolUse" {
                            call = parse_call(reader)?;
                        } else {
                            reader.skip()?;
                        }
                    }
                    foreign = Some(whole);
                }
                _ => reader.skip()?,
            }
        }
        match (call, foreign) {
            (Some((id, name)), _) => self.open(index, Shape::Call, Open::ToolCall { id, name }, sink)?,
            (None, Some(raw)) => self.open(index, Shape::Foreign, Open::Other(Dialect::Bedrock, raw), sink)?,
            (None, None) => return Err(Broken::Json),
        };
        Ok(())
    }

    fn block_delta(&mut self, reader: &mut Reader<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let (mut index, mut piece) = (0, None);
        reader.object("a block delta")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "contentBlockIndex" => index = reader.whole_or_null()?.unwrap_or(0),
                "delta" => piece = Some(parse_piece(reader)?),
                _ => reader.skip()?,
            }
        }
        let piece = piece.ok_or(Broken::Json)?;
        let open = self.open.filter(|open| open.index == index);
        if let (
            Some(Block {
                part,
                shape: Shape::Foreign,
                ..
            }),
            Piece::Foreign(raw),
        ) = (open, &piece)
        {
            sink(ChatEvent::Delta {
                choice: 0,
                part,
                delta: Delta::Other(Dialect::Bedrock, raw.borrowed()),
            });
            return Ok(());
        }
        let (shape, first, delta) = match piece {
            Piece::Text(text) => (Shape::Text, Open::Text, Delta::Text(text)),
            Piece::Citation(citation) => (Shape::Text, Open::Text, Delta::Citation(citation)),
            Piece::Thinking(text) => (Shape::Thinking, Open::Thinking, Delta::Thinking(text)),
            Piece::Signature(signature) => (Shape::Thinking, Open::Thinking, Delta::Signature(signature)),
            Piece::Redacted(data) => {
                self.open(index, Shape::Redacted, Open::RedactedThinking(data), sink)?;
                return Ok(());
            }
            Piece::Arguments(text) => {
                return match open {
                    Some(Block {
                        part,
                        shape: Shape::Call,
                        ..
                    }) => {
                        sink(ChatEvent::Delta {
                            choice: 0,
                            part,
                            delta: Delta::Arguments(text),
                        });
                        Ok(())
                    }
                    // A server tool's arguments: nobody else's business.
                    Some(Block {
                        shape: Shape::Foreign, ..
                    }) => Ok(()),
                    _ => Err(Broken::Json),
                };
            }
            Piece::Foreign(_) => return Ok(()),
        };
        let part = match open {
            Some(open) if open.shape == shape => open.part,
            _ => self.open(index, shape, first, sink)?,
        };
        sink(ChatEvent::Delta { choice: 0, part, delta });
        Ok(())
    }

    fn message_stop(&mut self, reader: &mut Reader<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let (mut reason, mut stop_sequence) = (None, None);
        reader.object("a message stop")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "stopReason" => reason = Some(response::finish(&reader.word()?)),
                "additionalModelResponseFields" => stop_sequence = response::parse_member(reader, "stop_sequence")?,
                _ => reader.skip()?,
            }
        }
        let finish = reason.ok_or(Broken::Json)?;
        if !std::mem::replace(&mut self.stopped, true) {
            self.start(sink);
            self.close(sink);
            sink(ChatEvent::Finish {
                choice: 0,
                finish,
                stop_sequence,
            });
        }
        Ok(())
    }

    fn metadata(&mut self, reader: &mut Reader<'_>, sink: Sink<'_>) -> Result<(), Broken> {
        let (mut usage, mut latency) = (None, None);
        reader.object("metadata")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "usage" => usage = Some(response::parse_usage(reader)?),
                "metrics" => latency = response::parse_latency(reader)?,
                _ => reader.skip()?,
            }
        }
        self.start(sink);
        if let Some(usage) = usage {
            sink(ChatEvent::Usage(usage));
        }
        if let Some(latency) = latency {
            sink(ChatEvent::Latency(latency));
        }
        if self.stopped {
            self.end(sink);
        }
        Ok(())
    }

    fn end(&mut self, sink: Sink<'_>) {
        self.ended = Some(StreamEnd::Complete);
        sink(ChatEvent::End);
    }
}

fn broken_frame(error: FrameError) -> ApiError {
    let message = match error {
        FrameError::PreludeCrc | FrameError::MessageCrc => "The provider's stream has a message with a wrong checksum.",
        FrameError::TooLarge => "The provider's stream has a message that is too long.",
        FrameError::Length | FrameError::Header | FrameError::Truncated => {
            "The provider's stream is not an event stream."
        }
    };
    ApiError::new(Code::UpstreamProtocolError, message)
}

fn index(reader: &mut Reader<'_>) -> Result<u64, JsonError> {
    let mut index = 0;
    reader.object("a block stop")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "contentBlockIndex" => index = reader.whole_or_null()?.unwrap_or(0),
            _ => reader.skip()?,
        }
    }
    Ok(index)
}

/// Id and name of a call; `None` for one that the provider's own server runs.
fn parse_call<'a>(reader: &mut Reader<'a>) -> Result<Option<(Text<'a>, Text<'a>)>, JsonError> {
    let (mut id, mut name, mut server) = (Text::default(), Text::default(), false);
    reader.object("a tool call")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "toolUseId" => id = reader.text()?,
            "name" => name = reader.text()?,
            "type" => server = reader.text_or_null()?.is_some_and(|kind| kind.is("server_tool_use")),
            _ => reader.skip()?,
        }
    }
    Ok((!server).then_some((id, name)))
}

fn parse_piece<'a>(reader: &mut Reader<'a>) -> Result<Piece<'a>, JsonError> {
    let mut whole = reader.clone();
    let mut piece = None;
    reader.object("a delta")?;
    while let Some(key) = reader.key()? {
        match (&*key, reader.kind()?) {
            ("text", Kind::String) => piece = Some(Piece::Text(reader.text()?)),
            ("citation", Kind::Object) => piece = Some(Piece::Citation(citations::parse_citation(reader)?)),
            ("toolUse", Kind::Object) => {
                reader.object("a tool delta")?;
                while let Some(key) = reader.key()? {
                    match (&*key, reader.kind()?) {
                        ("input", Kind::String) => piece = Some(Piece::Arguments(reader.text()?)),
                        _ => reader.skip()?,
                    }
                }
            }
            ("reasoningContent", Kind::Object) => {
                reader.object("a reasoning delta")?;
                while let Some(key) = reader.key()? {
                    match (&*key, reader.kind()?) {
                        ("text", Kind::String) => piece = Some(Piece::Thinking(reader.text()?)),
                        ("signature", Kind::String) => piece = Some(Piece::Signature(reader.text()?)),
                        ("redactedContent", Kind::String) => {
                            piece = Some(Piece::Redacted(content::redacted_from_blob(&reader.text()?)));
                        }
                        _ => reader.skip()?,
                    }
                }
            }
            _ => reader.skip()?,
        }
    }
    match piece {
        Some(piece) => Ok(piece),
        None => Ok(Piece::Foreign(whole.raw()?)),
    }
}
