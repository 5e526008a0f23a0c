//! A strict pull parser over JSON bytes that never copies and never changes them (RFC 8259).
//!
//! Invariants: a string is borrowed in its *escaped* form, because it is written into another JSON document, where its bytes
//! are already right; it is decoded only where its characters matter. Values that nobody needs to understand are borrowed as
//! text and keep every digit. Nesting is bounded by [`JSON_DEPTH_MAX`]; nothing here recurses. Deliberately absent: a tree
//! of values (one pass over the bytes, straight into the chat model, is cheaper), and leniency of any kind.

use std::borrow::Cow;

use crate::chat::text::{Number, Raw, Text, decoded};
use crate::error::{ApiError, Code};
use crate::limits::{JSON_DEPTH_MAX, NOTES_MAX};

/// What the next value is, judged by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// A digit or a minus sign.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`
    Null,
}

/// Why JSON could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, or not UTF-8, at this byte offset.
    Syntax(usize),
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    Depth,
    /// JSON, but another kind of value than the field takes.
    Expected(&'static str),
}

impl JsonError {
    /// The error for a request: a client's fault, at the parameter `param` (empty: the whole body).
    pub fn in_request(self, param: &str) -> ApiError {
        match self {
            JsonError::Syntax(at) => {
                ApiError::new(Code::InvalidBody, format!("The body is not valid JSON at byte {at}."))
            }
            JsonError::Depth => ApiError::new(
                Code::InvalidBody,
                format!("The body is nested deeper than {JSON_DEPTH_MAX} levels."),
            ),
            JsonError::Expected(what) if param.is_empty() => {
                ApiError::new(Code::InvalidBody, format!("The body must be {what}."))
            }
            JsonError::Expected(what) => {
                ApiError::new(Code::InvalidParameter, format!("`{param}` must be {what}.")).with_param(param.to_owned())
            }
        }
    }

    /// The error for a response: an upstream's fault.
    pub fn in_response(self) -> ApiError {
        let message = match self {
            JsonError::Syntax(at) => format!("The provider's answer is not valid JSON at byte {at}."),
            JsonError::Depth => format!("The provider's answer is nested deeper than {JSON_DEPTH_MAX} levels."),
            JsonError::Expected(what) => format!("The provider's answer lacks {what}."),
        };
        ApiError::new(Code::UpstreamProtocolError, message)
    }
}

/// A cursor over one JSON document.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    /// Directly behind an opening bracket, where no comma is due.
    fresh: bool,
    ignored: Vec<Cow<'a, str>>,
}

impl<'a> Reader<'a> {
    /// Over a body, which must be UTF-8.
    pub fn new(body: &'a [u8]) -> Result<Self, JsonError> {
        match std::str::from_utf8(body) {
            Ok(text) => Ok(Self::over(text)),
            Err(error) => Err(JsonError::Syntax(error.valid_up_to())),
        }
    }

    pub(super) fn over(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            fresh: false,
            ignored: Vec::new(),
        }
    }

    /// What comes next.
    pub fn kind(&mut self) -> Result<Kind, JsonError> {
        Ok(match self.peek()? {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b't' | b'f' => Kind::Bool,
            b'n' => Kind::Null,
            b'-' | b'0'..=b'9' => Kind::Number,
            _ => return Err(JsonError::Syntax(self.at)),
        })
    }

    /// Enters an object.
    pub fn object(&mut self, what: &'static str) -> Result<(), JsonError> {
        self.enter(Kind::Object, what)
    }

    /// Enters an array.
    pub fn array(&mut self, what: &'static str) -> Result<(), JsonError> {
        self.enter(Kind::Array, what)
    }

    fn enter(&mut self, kind: Kind, what: &'static str) -> Result<(), JsonError> {
        if self.kind()? != kind {
            return Err(JsonError::Expected(what));
        }
        self.depth += 1;
        if self.depth > JSON_DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        self.at += 1;
        self.fresh = true;
        Ok(())
    }

    /// The next key of the object that was entered, decoded; `None` behind its end. Its value must be read before the next call.
    pub fn key(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        if !self.more(b'}')? {
            return Ok(None);
        }
        if self.peek()? != b'"' {
            return Err(JsonError::Syntax(self.at));
        }
        let key = match self.quoted()?.0 {
            Cow::Borrowed(text) if memchr::memchr(b'\\', text.as_bytes()).is_none() => Cow::Borrowed(text),
            text => Cow::Owned(decoded(&text)),
        };
        if self.peek()? != b':' {
            return Err(JsonError::Syntax(self.at));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether the array that was entered has another item, which must be read before the next call.
    pub fn item(&mut self) -> Result<bool, JsonError> {
        self.more(b']')
    }

    fn more(&mut self, close: u8) -> Result<bool, JsonError> {
        let next = self.peek()?;
        if next == close {
            self.at += 1;
            self.depth -= 1;
            self.fresh = false;
            return Ok(false);
        }
        if !self.fresh {
            if next != b',' {
                return Err(JsonError::Syntax(self.at));
            }
            self.at += 1;
        }
        self.fresh = false;
        Ok(true)
    }

    /// A string.
    pub fn text(&mut self) -> Result<Text<'a>, JsonError> {
        if self.kind()? != Kind::String {
            return Err(JsonError::Expected("a string"));
        }
        self.quoted()
    }

    /// A string, or null.
    pub fn text_or_null(&mut self) -> Result<Option<Text<'a>>, JsonError> {
        if self.null()? { Ok(None) } else { self.text().map(Some) }
    }

    /// A string whose characters matter.
    pub fn word(&mut self) -> Result<Cow<'a, str>, JsonError> {
        match self.text()?.0 {
            Cow::Borrowed(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
            text => Ok(Cow::Owned(decoded(&text))),
        }
    }

    /// Consumes `null` if it is next.
    pub fn null(&mut self) -> Result<bool, JsonError> {
        if self.kind()? != Kind::Null {
            return Ok(false);
        }
        self.literal("null")?;
        Ok(true)
    }

    /// A boolean; null counts as absent.
    pub fn bool_or_null(&mut self) -> Result<Option<bool>, JsonError> {
        match self.kind()? {
            Kind::Null => self.literal("null").map(|()| None),
            Kind::Bool if self.peek()? == b't' => self.literal("true").map(|()| Some(true)),
            Kind::Bool => self.literal("false").map(|()| Some(false)),
            _ => Err(JsonError::Expected("a boolean")),
        }
    }

    /// A number; null counts as absent.
    pub fn number_or_null(&mut self) -> Result<Option<Number<'a>>, JsonError> {
        match self.kind()? {
            Kind::Null => self.literal("null").map(|()| None),
            Kind::Number => self.number().map(Some),
            _ => Err(JsonError::Expected("a number")),
        }
    }

    /// A whole number of at least zero (`5.0` is one); null counts as absent.
    pub fn whole_or_null(&mut self) -> Result<Option<u64>, JsonError> {
        const WHAT: JsonError = JsonError::Expected("a whole number of at least 0");
        let Some(number) = (match self.kind()? {
            Kind::Null | Kind::Number => self.number_or_null()?,
            _ => return Err(WHAT),
        }) else {
            return Ok(None);
        };
        if let Ok(value) = number.0.parse::<u64>() {
            return Ok(Some(value));
        }
        let value = number.f64();
        // 2^53: above it a double no longer holds every whole number.
        if value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value) {
            Ok(Some(value as u64))
        } else {
            Err(WHAT)
        }
    }

    /// Any value, as it stands.
    pub fn raw(&mut self) -> Result<Raw<'a>, JsonError> {
        self.peek()?;
        let from = self.at;
        self.skip()?;
        Ok(Raw(Cow::Borrowed(&self.text[from..self.at])))
    }

    /// Passes over the value of a key that means nothing here, and remembers the key, unless the value is null.
    pub fn ignore(&mut self, key: Cow<'a, str>) -> Result<(), JsonError> {
        if !self.null()? {
            if self.ignored.len() < NOTES_MAX && !self.ignored.contains(&key) {
                self.ignored.push(key);
            }
            self.skip()?;
        }
        Ok(())
    }

    /// The keys that [`Reader::ignore`] remembers, each once, at most [`NOTES_MAX`].
    pub fn take_ignored(&mut self) -> Vec<Cow<'a, str>> {
        std::mem::take(&mut self.ignored)
    }

    /// Checks that nothing but white space follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Err(JsonError::Syntax(at)) if at == self.text.len() => Ok(()),
            _ => Err(JsonError::Syntax(self.at)),
        }
    }

    /// Checks and passes over one value of any kind.
    pub fn skip(&mut self) -> Result<(), JsonError> {
        // One bit a level, from the innermost: set for an object.
        let (mut kinds, base) = (0_u128, self.depth);
        loop {
            match self.kind()? {
                kind @ (Kind::Object | Kind::Array) => {
                    self.enter(kind, "")?;
                    kinds = kinds << 1 | u128::from(kind == Kind::Object);
                }
                Kind::String => drop(self.quoted()?),
                Kind::Number => drop(self.number()?),
                Kind::Null => self.literal("null")?,
                Kind::Bool if self.text.as_bytes()[self.at] == b't' => self.literal("true")?,
                Kind::Bool => self.literal("false")?,
            }
            loop {
                if self.depth == base {
                    return Ok(());
                }
                let more = if kinds & 1 == 1 { self.pass_key()? } else { self.item()? };
                if more {
                    break;
                }
                kinds >>= 1;
            }
        }
    }

    /// As [`Reader::key`], without decoding.
    fn pass_key(&mut self) -> Result<bool, JsonError> {
        if !self.more(b'}')? {
            return Ok(false);
        }
        if self.peek()? != b'"' {
            return Err(JsonError::Syntax(self.at));
        }
        self.quoted()?;
        if self.peek()? != b':' {
            return Err(JsonError::Syntax(self.at));
        }
        self.at += 1;
        Ok(true)
    }

    fn peek(&mut self) -> Result<u8, JsonError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(byte);
            }
            self.at += 1;
        }
        Err(JsonError::Syntax(self.at))
    }

    fn literal(&mut self, word: &'static str) -> Result<(), JsonError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(JsonError::Syntax(self.at));
        }
        self.at += word.len();
        self.fresh = false;
        Ok(())
    }

    /// A string; the cursor is on its opening quote.
    fn quoted(&mut self) -> Result<Text<'a>, JsonError> {
        let bytes = self.text.as_bytes();
        let from = self.at + 1;
        let mut at = from;
        loop {
            at = special(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += escape_length(&bytes[at..]).ok_or(JsonError::Syntax(at))?,
                _ => return Err(JsonError::Syntax(at)),
            }
        }
        self.at = at + 1;
        self.fresh = false;
        Ok(Text(Cow::Borrowed(&self.text[from..at])))
    }

    /// A number by the grammar of RFC 8259 §6; the cursor is on its first byte.
    fn number(&mut self) -> Result<Number<'a>, JsonError> {
        let bytes = self.text.as_bytes();
        let from = self.at;
        let mut at = from + usize::from(bytes[from] == b'-');
        let digits = |at: usize| {
            bytes[at.min(bytes.len())..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count()
        };
        let whole = digits(at);
        if whole == 0 || whole > 1 && bytes[at] == b'0' {
            return Err(JsonError::Syntax(at));
        }
        at += whole;
        if bytes.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            if fraction == 0 {
                return Err(JsonError::Syntax(at));
            }
            at += 1 + fraction;
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let exponent = digits(at);
            if exponent == 0 {
                return Err(JsonError::Syntax(at));
            }
            at += exponent;
        }
        self.at = at;
        self.fresh = false;
        Ok(Number(&self.text[from..at]))
    }
}

/// Index of the first byte at or behind `at` that may not stand in a JSON string: a quote, a backslash or a control
/// character; the length if there is none.
pub(super) fn special(bytes: &[u8], mut at: usize) -> usize {
    const BLOCK: usize = 64;
    let bad = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
    // Short strings end within the first few bytes; long ones are passed by the block, which compiles to vector compares.
    let near = (at + 32).min(bytes.len());
    while at < near {
        if bad(bytes[at]) {
            return at;
        }
        at += 1;
    }
    while let Some(block) = bytes.get(at..at + BLOCK) {
        if block.iter().fold(false, |any, &byte| any | bad(byte)) {
            break;
        }
        at += BLOCK;
    }
    while at < bytes.len() && !bad(bytes[at]) {
        at += 1;
    }
    at
}

/// Bytes of the escape at the start of `bytes`; `None` if it is not a valid one.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
