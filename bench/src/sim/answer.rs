//! What a model "said", independent of the dialect that spells it, and the order of a stream's events.
//!
//! An answer is deterministic: its text, its token counts and therefore the bill follow from the request and its script alone.
//! One text token is one stream event. Input tokens are a quarter of the body's bytes, rounded up, unless scripted.

use std::borrow::Cow;
use std::sync::Arc;

use crate::sim::behaviour::Behaviour;
use crate::sim::scan::Fields;
use crate::sim::text::{Json, Put};

/// Output tokens of an answer whose script does not say.
pub const TOKENS_DEFAULT: u32 = 24;
/// Bytes of each token of the standard text.
const WORD_BYTES: usize = 5;
/// The standard text: tokens of five bytes each, which need no JSON escape.
const WORDS: &str = concat!(
    " when they look from here that line will turn into gold once more than half have been read then some",
    " kind word must come back over this long hill with snow like salt upon each tree near town bell lamp",
    " went down late last week when Anna said only rain fell soft calm blue deep wide open",
);
/// Tokens that exercise escapes and every length of UTF-8.
const UNICODE: [&str; 8] = [" é", "\"q\"", "\\", "\n", " 日本", "🦀", "\t", "\u{7f}ß"];

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// Its arguments, JSON.
    pub args: String,
}

/// Why the answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// By itself.
    Stop,
    /// At the request's token limit.
    Length,
    /// To have tools called.
    Tools,
    /// By refusing.
    Refusal,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer<'a> {
    /// The model's name, script removed.
    pub model: Cow<'a, str>,
    /// The request's number, from which identifiers follow.
    pub seq: u64,
    /// Seconds since the epoch.
    pub created: u64,
    /// Input tokens.
    pub input: u32,
    /// Of which read from a prompt cache.
    pub cached: u32,
    /// Reasoning tokens.
    pub reasoning: u32,
    /// Text tokens.
    pub text: u32,
    /// Choices (OpenAI's `n`).
    pub n: u32,
    /// Tools called.
    pub calls: Vec<Call>,
    /// Why it ended.
    pub finish: Finish,
    /// Stream a usage chunk (OpenAI).
    pub usage_chunk: bool,
    /// Filler bytes after the text.
    pub pad: usize,
    /// The script.
    pub behaviour: Option<Arc<Behaviour>>,
}

/// One event of a stream, or of several in a row that are always sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The opening event or events.
    Start,
    /// A content block opens.
    Open(Block),
    /// A keep-alive event (Anthropic).
    Ping,
    /// A reasoning token.
    Think(u32),
    /// The reasoning block's signature.
    Sign,
    /// A text token.
    Text(u32),
    /// A piece of a call's arguments.
    Args {
        /// Index of the call.
        call: u32,
        /// Index of the piece.
        piece: u32,
    },
    /// A content block closes.
    Shut(Block),
    /// The finish reason.
    Finish,
    /// The usage.
    Usage,
    /// The terminator.
    Done,
    /// Scripted: an error inside the stream.
    Error,
}

/// A content block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Reasoning.
    Thinking,
    /// Text.
    Text,
    /// The call with this index.
    Tool(u32),
}

/// Bytes of a call's arguments per event.
const ARGS_BYTES: usize = 8;

impl<'a> Answer<'a> {
    /// The answer to a request.
    #[must_use]
    pub fn new(
        model: &'a str,
        fields: &Fields<'_>,
        body_bytes: usize,
        behaviour: Option<&Arc<Behaviour>>,
        seq: u64,
        created: u64,
    ) -> Self {
        let mut answer = Answer {
            model: Cow::Borrowed(model),
            seq,
            created,
            input: u32::try_from(body_bytes.div_ceil(4)).unwrap_or(u32::MAX),
            cached: 0,
            reasoning: 0,
            text: TOKENS_DEFAULT,
            n: fields.n,
            calls: Vec::new(),
            finish: Finish::Stop,
            usage_chunk: fields.include_usage,
            pad: 0,
            behaviour: behaviour.cloned(),
        };
        if behaviour.is_some() || fields.must_call || fields.thinking {
            answer.script(fields);
        }
        if fields.max_tokens.is_some_and(|max| max < answer.text) {
            answer.text = fields.max_tokens.unwrap_or(0);
            answer.finish = Finish::Length;
        }
        answer
    }

    fn script(&mut self, fields: &Fields<'_>) {
        let healthy = Behaviour::default();
        let script = self.behaviour.clone();
        let b = script.as_deref().unwrap_or(&healthy);
        let calls = if b.tools == 0 && fields.must_call { 1 } else { b.tools };
        for index in 0..calls {
            let name = b
                .tool_name
                .clone()
                .or_else(|| fields.tools.and_then(|tools| tool_name(tools, index as usize)));
            let args = b
                .tool_args
                .clone()
                .unwrap_or_else(|| r#"{"location":"Paris, France","unit":"celsius"}"#.to_owned());
            self.calls.push(Call {
                name: name.unwrap_or_else(|| "get_weather".to_owned()),
                args,
            });
        }
        self.input = b.input_tokens.unwrap_or(self.input);
        self.cached = b.cached_tokens.min(self.input);
        self.reasoning = if b.reasoning == 0 && fields.thinking {
            8
        } else {
            b.reasoning
        };
        self.text = match (&b.say, b.tokens) {
            (Some(say), _) => u32::try_from(say.chars().count().div_ceil(4)).unwrap_or(u32::MAX),
            (None, Some(tokens)) => tokens,
            (None, None) if calls > 0 => 0,
            (None, None) => TOKENS_DEFAULT,
        };
        self.finish = match (b.refusal, calls) {
            (true, _) => Finish::Refusal,
            (false, 0) => Finish::Stop,
            (false, _) => Finish::Tools,
        };
    }

    /// Output tokens of the whole answer.
    #[must_use]
    pub fn output(&self) -> u32 {
        let args: u32 = self
            .calls
            .iter()
            .map(|call| call.args.len().div_ceil(ARGS_BYTES) as u32)
            .sum();
        (self.reasoning + self.text + args) * self.n
    }

    /// The same answer, owning its model's name.
    #[must_use]
    pub fn into_owned(self) -> Answer<'static> {
        Answer {
            model: Cow::Owned(self.model.into_owned()),
            ..self
        }
    }

    /// Appends the text, JSON-escaped.
    pub fn put_text(&self, out: &mut Vec<u8>) {
        if self
            .behaviour
            .as_ref()
            .is_some_and(|b| b.say.is_some() || b.unicode || b.token_bytes > 0)
        {
            (0..self.text).for_each(|index| self.put_token(index, out));
        } else {
            let mut left = self.text as usize * WORD_BYTES;
            while left > 0 {
                let run = left.min(WORDS_LEN);
                out.extend_from_slice(&WORDS.as_bytes()[..run]);
                left -= run;
            }
        }
        self.put_pad(out);
    }

    /// Appends the filler that brings a body to its scripted size.
    pub fn put_pad(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + self.pad, b'x');
    }

    /// Appends text token `index`, JSON-escaped.
    pub fn put_token(&self, index: u32, out: &mut Vec<u8>) {
        let b = self.behaviour.as_deref();
        if let Some(say) = b.and_then(|b| b.say.as_deref()) {
            let from = index as usize * 4;
            say.chars()
                .skip(from)
                .take(4)
                .for_each(|c| Json(c.encode_utf8(&mut [0; 4])).put(out));
        } else if b.is_some_and(|b| b.unicode) {
            Json(UNICODE[index as usize % UNICODE.len()]).put(out);
        } else {
            put_word(index, b.map_or(0, |b| b.token_bytes), out);
        }
    }

    /// Appends reasoning token `index`.
    pub fn put_thought(&self, index: u32, out: &mut Vec<u8>) {
        put_word(index + 7, 0, out);
    }

    /// Piece `piece` of call `call`'s arguments.
    #[must_use]
    pub fn args(&self, call: u32, piece: u32) -> &str {
        let args = &self.calls[call as usize].args;
        let edge = |at: usize| {
            (at.min(args.len())..=args.len())
                .find(|at| args.is_char_boundary(*at))
                .unwrap_or(args.len())
        };
        let from = piece as usize * ARGS_BYTES;
        &args[edge(from)..edge(from + ARGS_BYTES)]
    }

    /// The events of a stream, in order; a dialect skips those it does not know.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let b = self.behaviour.as_deref();
        let mut events = Vec::with_capacity(self.text as usize + self.reasoning as usize + 16);
        events.push(Event::Start);
        if self.reasoning > 0 {
            events.extend([Event::Open(Block::Thinking), Event::Ping]);
            events.extend((0..self.reasoning).map(Event::Think));
            events.extend([Event::Sign, Event::Shut(Block::Thinking)]);
        }
        if self.text > 0 || self.calls.is_empty() {
            events.push(Event::Open(Block::Text));
            if self.reasoning == 0 {
                events.push(Event::Ping);
            }
            events.extend((0..self.text).map(Event::Text));
            events.push(Event::Shut(Block::Text));
        }
        for (index, call) in (0u32..).zip(&self.calls) {
            events.push(Event::Open(Block::Tool(index)));
            events.extend(
                (0..call.args.len().div_ceil(ARGS_BYTES) as u32).map(|piece| Event::Args { call: index, piece }),
            );
            events.push(Event::Shut(Block::Tool(index)));
        }
        events.extend([Event::Finish, Event::Usage]);
        if !b.is_some_and(|b| b.no_done) {
            events.push(Event::Done);
        }
        events
    }
}

const WORDS_LEN: usize = WORDS.len();
const _: () = assert!(WORDS_LEN.is_multiple_of(WORD_BYTES));

fn put_word(index: u32, bytes: usize, out: &mut Vec<u8>) {
    let at = index as usize * WORD_BYTES % WORDS_LEN;
    if bytes == 0 {
        out.extend_from_slice(&WORDS.as_bytes()[at..at + WORD_BYTES]);
        return;
    }
    let mut left = bytes;
    let mut from = at;
    while left > 0 {
        let run = left.min(WORDS_LEN - from);
        out.extend_from_slice(&WORDS.as_bytes()[from..from + run]);
        left -= run;
        from = 0;
    }
}

/// The name of the `index`-th tool (of the last, when there are fewer) in a request's tool list, whatever the dialect.
fn tool_name(tools: &[u8], index: usize) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(tools).ok()?;
    let list = value.as_array().or_else(|| value["tools"].as_array())?;
    let tool = list.get(index.min(list.len().checked_sub(1)?))?;
    let name = [&tool["function"]["name"], &tool["toolSpec"]["name"], &tool["name"]];
    name.iter().find_map(|name| name.as_str()).map(str::to_owned)
}
