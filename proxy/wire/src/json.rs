//! Finds the few members of a request body's top-level object that the gateway acts on, while the body streams by.
//!
//! Invariants: one pass, in pieces of any size; only the model name is copied; offsets count from the body's first byte; a
//! body that two JSON parsers could read differently where it matters (a wanted key twice, an escaped key, a BOM, anything
//! after the object) is an error or read as the provider would. Deliberately absent: validation of what is skipped (the
//! provider validates; here only strings, brackets and depth count), and a document tree.

mod error;
mod found;
mod key;
mod text;

use crate::limits::{JSON_DEPTH_MAX, MODEL_BYTES_MAX};
pub use error::JsonError;
use key::Key;
use text::{Skipped, TextError, Unescape};

/// Longest recognised key; a longer one is not kept.
const KEY_BYTES_MAX: usize = 24;
/// Longest number or word that is looked at; a longer one has no value here.
const LITERAL_BYTES_MAX: usize = 64;

/// A range of bytes of the body, `start..end`, counted from its first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A string value, where it stands and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Located {
    /// Offset of its first byte in the body: the opening quote, in JSON.
    pub start: u64,
    /// Offset after its last byte: after the closing quote, in JSON.
    pub end: u64,
    text: String,
}

impl Located {
    /// The value, unescaped; at most [`MODEL_BYTES_MAX`] bytes.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn set(&mut self, start: u64, end: u64, text: &str) {
        (self.start, self.end) = (start, end);
        self.text.clear();
        self.text.push_str(text);
    }
}

/// Where the next byte stands. Members are followed in the top-level object and in `stream_options`; everything else that
/// nests is skipped by counting brackets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the object.
    #[default]
    Lead,
    /// After `{`.
    FirstKey,
    /// After `,`.
    Key,
    /// Inside a key that is cut or escaped.
    InKey,
    Colon,
    Value,
    /// Inside the value of `model`, cut or escaped.
    InText,
    /// Inside a string that is skipped, at the level of members.
    InString,
    InLiteral,
    /// Inside an array or object that is skipped.
    Nested,
    /// The same, inside a string of it.
    NestedString,
    AfterValue,
    /// After the object.
    End,
}

/// An incremental scanner of a request body's top-level object. Reuse it: [`TopKeys::reset`] keeps its buffers.
#[derive(Clone, Debug, Default)]
pub struct TopKeys {
    state: State,
    /// Offset of the next piece's first byte.
    base: u64,
    depth: u32,
    /// The kinds of the open brackets, outermost in bit 0: 1 is an object.
    kinds: u128,
    /// Whether members are followed inside `stream_options`.
    in_options: bool,
    /// Whether a skipped string was cut after a backslash.
    escaped: bool,
    key: Key,
    key_start: u64,
    value_start: u64,
    /// Offset of the comma before the current member, unless it is the first.
    comma: Option<u64>,
    seen: u32,
    unescape: Unescape,
    scratch: Vec<u8>,
    found: Found,
    model: Located,
}

/// What was found so far, the model's text excepted.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    model: bool,
    stream: bool,
    include_usage: Option<(bool, Range)>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    /// Where the values of `max_tokens`, `max_completion_tokens` and `max_output_tokens` stand.
    limits_at: [Option<Range>; 3],
    service_tier: Option<Range>,
    metadata: Option<Range>,
    inference_config: Option<Range>,
    prompt: Option<Range>,
    input: Option<Range>,
    best_of: Option<u64>,
    stream_options: Option<Range>,
    user: Option<Range>,
    fallbacks: Option<(Range, Range)>,
    object_start: u64,
    has_members: bool,
}

impl TopKeys {
    /// A scanner for a body that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a new body.
    pub fn reset(&mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        let model = std::mem::take(&mut self.model);
        *self = Self {
            scratch,
            model,
            ..Self::default()
        };
    }

    /// Takes the next bytes of the body, in order.
    ///
    /// # Errors
    /// The body cannot be forwarded safely; the scanner is of no use until [`Self::reset`].
    pub fn push(&mut self, input: &[u8]) -> Result<(), JsonError> {
        let mut at = 0;
        while at < input.len() {
            at = match self.state {
                State::Nested => self.nested(input, at)?,
                State::NestedString | State::InString => self.skip_string(input, at),
                State::InKey => self.key_piece(input, at)?,
                State::InText => self.text_piece(input, at)?,
                State::InLiteral => self.literal(input, at)?,
                _ => self.members(input, at)?,
            };
        }
        self.base += input.len() as u64;
        Ok(())
    }

    /// Says that the body is complete.
    ///
    /// # Errors
    /// [`JsonError::Truncated`] if the object is not.
    pub fn finish(&mut self) -> Result<(), JsonError> {
        match self.state {
            State::End => Ok(()),
            State::Lead => Err(JsonError::NotAnObject),
            _ => Err(JsonError::Truncated),
        }
    }

    /// Everything between members: white space, keys, colons, commas and the first byte of each value.
    fn members(&mut self, input: &[u8], mut at: usize) -> Result<usize, JsonError> {
        while let Some(&byte) = input.get(at) {
            if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                at += 1;
                continue;
            }
            match (self.state, byte) {
                (State::FirstKey | State::Key, b'"') => {
                    at = self.key(input, at)?;
                    if self.state == State::InKey {
                        return Ok(at);
                    }
                    self.key_done()?;
                    continue;
                }
                (State::Colon, b':') => self.state = State::Value,
                (State::Value, _) => {
                    at = self.value(input, at)?;
                    if self.state != State::AfterValue && self.state != State::FirstKey {
                        return Ok(at);
                    }
                    continue;
                }
                (State::AfterValue, b',') => self.comma(at),
                (State::AfterValue | State::FirstKey, b'}') => self.end_members(at + 1),
                (State::Lead, b'{') => {
                    self.state = State::FirstKey;
                    self.found.object_start = self.base + at as u64 + 1;
                    self.open(true)?;
                }
                (State::Lead, 0xef) => return Err(JsonError::ByteOrderMark),
                (State::Lead, _) => return Err(JsonError::NotAnObject),
                (State::End, _) => return Err(JsonError::TrailingBytes),
                (State::AfterValue, b']') => return Err(JsonError::BracketMismatch),
                _ => return Err(JsonError::Syntax),
            }
            at += 1;
        }
        Ok(at)
    }

    /// A key that begins at `at`: read in place, if it is whole and plain.
    #[inline]
    fn key(&mut self, input: &[u8], at: usize) -> Result<usize, JsonError> {
        self.key_start = self.base + at as u64;
        if self.state == State::FirstKey {
            self.comma = None;
        }
        let rest = &input[at + 1..];
        match text::find_special(rest) {
            Some(length) if rest[length] == b'"' => {
                let name = &rest[..length];
                if text::holds_control(name) {
                    return Err(JsonError::Syntax);
                }
                self.key = Key::of(name);
                Ok(at + length + 2)
            }
            _ => {
                self.scratch.clear();
                self.unescape = Unescape::default();
                self.state = State::InKey;
                Ok(at + 1)
            }
        }
    }

    /// The next piece of a key that is cut or escaped.
    fn key_piece(&mut self, input: &[u8], at: usize) -> Result<usize, JsonError> {
        let (next, done) = self
            .unescape
            .push(input, at, &mut self.scratch, KEY_BYTES_MAX)
            .map_err(|_| JsonError::Syntax)?;
        if done {
            self.key = if self.unescape.overflowed {
                Key::Other
            } else {
                Key::of(&self.scratch)
            };
            self.key_done()?;
        }
        Ok(next)
    }

    /// The key is known: keep it if it is wanted here, and not for the second time.
    #[inline]
    fn key_done(&mut self) -> Result<(), JsonError> {
        self.state = State::Colon;
        self.found.has_members = true;
        if (self.key == Key::IncludeUsage) != self.in_options {
            self.key = Key::Other;
        }
        if self.key != Key::Other {
            let bit = 1 << self.key as u32;
            if self.seen & bit != 0 {
                return Err(JsonError::DuplicateKey(self.key.name()));
            }
            self.seen |= bit;
        }
        Ok(())
    }

    /// The first byte of a value, which is not white space; short strings are done with at once.
    #[inline]
    fn value(&mut self, input: &[u8], at: usize) -> Result<usize, JsonError> {
        self.value_start = self.base + at as u64;
        match (self.key, input[at]) {
            (Key::Model, b'"') => self.model_start(input, at),
            (Key::Model, _) => Err(JsonError::ModelNotString),
            (_, b'-' | b'0'..=b'9' | b'a'..=b'z') => {
                self.scratch.clear();
                self.state = State::InLiteral;
                self.literal(input, at)
            }
            (Key::Stream | Key::IncludeUsage, _) => Err(JsonError::NotBoolean(self.key.name())),
            (_, b'"') => {
                // Some providers read numbers out of strings: how many is not known then.
                match self.key {
                    Key::N => self.found.n = Some(u64::MAX),
                    Key::BestOf => self.found.best_of = Some(u64::MAX),
                    _ => {}
                }
                self.state = State::InString;
                Ok(self.skip_string(input, at + 1))
            }
            (Key::StreamOptions, b'{') => {
                self.open(true)?;
                self.in_options = true;
                self.found.stream_options = Some(Range {
                    start: self.value_start,
                    end: self.value_start,
                });
                self.state = State::FirstKey;
                Ok(at + 1)
            }
            (_, b'{' | b'[') => {
                self.state = State::Nested;
                self.nested(input, at)
            }
            _ => Err(JsonError::Syntax),
        }
    }

    fn model_start(&mut self, input: &[u8], at: usize) -> Result<usize, JsonError> {
        let rest = &input[at + 1..];
        match text::find_special(rest) {
            Some(length) if rest[length] == b'"' => {
                let text = &rest[..length];
                if length > MODEL_BYTES_MAX {
                    return Err(JsonError::ModelTooLong);
                }
                if text::holds_control(text) {
                    return Err(JsonError::ModelText);
                }
                let text = std::str::from_utf8(text).map_err(|_| JsonError::ModelText)?;
                let end = at + length + 2;
                self.model.set(self.value_start, self.base + end as u64, text);
                self.found.model = true;
                self.state = State::AfterValue;
                Ok(end)
            }
            _ => {
                self.scratch.clear();
                self.unescape = Unescape::default();
                self.state = State::InText;
                Ok(at + 1)
            }
        }
    }

    /// The next piece of a model name that is cut or escaped.
    fn text_piece(&mut self, input: &[u8], at: usize) -> Result<usize, JsonError> {
        let (next, done) = self
            .unescape
            .push(input, at, &mut self.scratch, MODEL_BYTES_MAX)
            .map_err(|TextError| JsonError::ModelText)?;
        if self.unescape.overflowed {
            return Err(JsonError::ModelTooLong);
        }
        if done {
            let text = std::str::from_utf8(&self.scratch).map_err(|_| JsonError::ModelText)?;
            self.model.set(self.value_start, self.base + next as u64, text);
            self.found.model = true;
            self.state = State::AfterValue;
        }
        Ok(next)
    }

    /// The next piece of a string that is skipped.
    #[inline]
    fn skip_string(&mut self, input: &[u8], at: usize) -> usize {
        match text::skip_string(input, at, std::mem::take(&mut self.escaped)) {
            Skipped::Closed(next) => {
                if self.state == State::NestedString {
                    self.state = State::Nested;
                } else {
                    self.end_value(next);
                }
                next
            }
            Skipped::Cut { escaped } => {
                self.escaped = escaped;
                input.len()
            }
        }
    }

    /// The next piece of a number or word, which ends before the byte that cannot be part of it.
    fn literal(&mut self, input: &[u8], at: usize) -> Result<usize, JsonError> {
        let rest = &input[at..];
        let length = rest
            .iter()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'+' | b'.'))
            .unwrap_or(rest.len());
        if self.key != Key::Other {
            let room = LITERAL_BYTES_MAX.saturating_sub(self.scratch.len());
            self.scratch.extend_from_slice(&rest[..length.min(room)]);
        }
        if length < rest.len() {
            self.take_literal(self.base + (at + length) as u64)?;
            self.end_value(at + length);
        }
        Ok(at + length)
    }

    /// A number or word is complete, in `scratch`.
    fn take_literal(&mut self, end: u64) -> Result<(), JsonError> {
        let boolean = || match self.scratch.as_slice() {
            b"true" => Ok(Some(true)),
            b"false" => Ok(Some(false)),
            b"null" => Ok(None),
            _ => Err(JsonError::NotBoolean(self.key.name())),
        };
        match self.key {
            Key::Stream => self.found.stream = boolean()? == Some(true),
            Key::IncludeUsage => {
                let range = Range {
                    start: self.value_start,
                    end,
                };
                self.found.include_usage = boolean()?.map(|value| (value, range));
            }
            Key::MaxTokens => self.found.max_tokens = text::count(&self.scratch),
            Key::MaxCompletionTokens => self.found.max_completion_tokens = text::count(&self.scratch),
            Key::MaxOutputTokens => self.found.max_output_tokens = text::count(&self.scratch),
            Key::N => self.found.n = text::count(&self.scratch),
            Key::BestOf => self.found.best_of = text::count(&self.scratch),
            _ => {}
        }
        Ok(())
    }

    /// A value that is skipped: brackets are counted, strings are jumped over.
    fn nested(&mut self, input: &[u8], mut at: usize) -> Result<usize, JsonError> {
        let floor = 1 + u32::from(self.in_options);
        while let Some(&byte) = input.get(at) {
            at += 1;
            match text::class(byte) {
                text::PLAIN => {}
                text::QUOTE => match text::skip_string(input, at, false) {
                    Skipped::Closed(next) => at = next,
                    Skipped::Cut { escaped } => {
                        self.escaped = escaped;
                        self.state = State::NestedString;
                        return Ok(input.len());
                    }
                },
                text::OPEN => self.open(byte == b'{')?,
                text::CLOSE => {
                    self.close(byte == b'}')?;
                    if self.depth == floor {
                        self.end_value(at);
                        return Ok(at);
                    }
                }
                _ => return Err(JsonError::Syntax),
            }
        }
        Ok(at)
    }

    /// A value ended before `at`.
    #[inline]
    fn end_value(&mut self, at: usize) {
        self.state = State::AfterValue;
        let value = Range {
            start: self.value_start,
            end: self.base + at as u64,
        };
        match self.key {
            Key::User => self.found.user = Some(value),
            Key::Fallbacks => {
                let start = self.comma.unwrap_or(self.key_start);
                self.found.fallbacks = Some((value, Range { start, end: value.end }));
            }
            Key::StreamOptions => self.found.stream_options = Some(value),
            Key::MaxTokens => self.found.limits_at[0] = Some(value),
            Key::MaxCompletionTokens => self.found.limits_at[1] = Some(value),
            Key::MaxOutputTokens => self.found.limits_at[2] = Some(value),
            Key::ServiceTier => self.found.service_tier = Some(value),
            Key::Metadata => self.found.metadata = Some(value),
            Key::InferenceConfig => self.found.inference_config = Some(value),
            Key::Prompt => self.found.prompt = Some(value),
            Key::Input => self.found.input = Some(value),
            _ => {}
        }
    }

    /// The comma after a member. If that was the first one and is to be cut out, the comma goes with it.
    fn comma(&mut self, at: usize) {
        let at = self.base + at as u64;
        if let (Key::Fallbacks, None, Some((_, member))) = (self.key, self.comma, &mut self.found.fallbacks) {
            member.end = at + 1;
        }
        self.comma = Some(at);
        self.state = State::Key;
    }

    /// The `}` before `at` closes the object whose members are followed.
    fn end_members(&mut self, at: usize) {
        self.depth -= 1;
        if !std::mem::take(&mut self.in_options) {
            self.state = State::End;
            return;
        }
        self.state = State::AfterValue;
        // The commas inside are behind: the next one is the object's own, and this member is none that is cut out.
        self.key = Key::Other;
        if let Some(range) = &mut self.found.stream_options {
            range.end = self.base + at as u64;
        }
    }

    fn open(&mut self, object: bool) -> Result<(), JsonError> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        let bit = 1 << self.depth;
        self.kinds = if object { self.kinds | bit } else { self.kinds & !bit };
        self.depth += 1;
        Ok(())
    }

    /// Closes a bracket; only called where one is open.
    fn close(&mut self, object: bool) -> Result<(), JsonError> {
        self.depth -= 1;
        if (self.kinds >> self.depth & 1 == 1) == object {
            Ok(())
        } else {
            Err(JsonError::BracketMismatch)
        }
    }
}

const _: () = assert!(JSON_DEPTH_MAX <= u128::BITS, "one bit for each open bracket");

#[cfg(test)]
mod tests;
