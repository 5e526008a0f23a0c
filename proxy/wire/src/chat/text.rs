//! Pieces of JSON that pass from one document into another as they are: strings, values, numbers.
//!
//! Invariant: what they hold is valid JSON where it came from and where it goes. Deliberately absent: equality of strings that
//! are escaped in different ways ([`Text::is`] compares characters, `==` the escaped forms).

use std::borrow::Cow;

use crate::chat::json::{JsonError, Kind, Reader, special};

/// The inside of a JSON string, still escaped and valid as it stands between two quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub(super) Cow<'a, str>);

impl<'a> Text<'a> {
    /// From plain characters: escaped if they need it.
    pub fn plain(text: &'a str) -> Self {
        if special(text.as_bytes(), 0) == text.len() {
            Self(Cow::Borrowed(text))
        } else {
            Self(Cow::Owned(escaped(text)))
        }
    }

    /// From plain characters that are owned.
    pub fn owned(text: String) -> Self {
        if special(text.as_bytes(), 0) == text.len() {
            Self(Cow::Owned(text))
        } else {
            Self(Cow::Owned(escaped(&text)))
        }
    }

    /// The escaped form, without quotes.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Whether it has no characters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of the escaped form.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty or holds nothing but spaces, tabs and line ends (which Anthropic and Bedrock refuse as text).
    pub fn is_blank(&self) -> bool {
        let mut bytes = self.0.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b' ' => {}
                b'\\' if matches!(bytes.next(), Some(b'n' | b'r' | b't')) => {}
                _ => return false,
            }
        }
        true
    }

    /// The characters. Borrowed unless there are escapes; a lone surrogate becomes U+FFFD.
    pub fn decode(&self) -> Cow<'_, str> {
        if memchr::memchr(b'\\', self.0.as_bytes()).is_none() {
            Cow::Borrowed(&self.0)
        } else {
            Cow::Owned(decoded(&self.0))
        }
    }

    /// Whether the characters are exactly `plain`.
    pub fn is(&self, plain: &str) -> bool {
        *self.0 == *plain && !plain.contains('\\') || self.0.contains('\\') && self.decode() == plain
    }

    /// The same text, borrowed from this one.
    pub fn borrowed(&self) -> Text<'_> {
        Text(Cow::Borrowed(&self.0))
    }

    /// The same text, independent of the input.
    pub fn into_owned(self) -> Text<'static> {
        Text(Cow::Owned(self.0.into_owned()))
    }

    /// This text and `other` behind it.
    pub fn joined(self, other: Text<'a>) -> Text<'a> {
        if self.is_empty() {
            return other;
        }
        let mut text = self.0.into_owned();
        text.push_str(&other.0);
        Text(Cow::Owned(text))
    }

    /// Part of this text that is known to be cut between two characters, neither inside an escape.
    pub(crate) fn slice_from(&self, from: usize) -> Text<'a> {
        match &self.0 {
            Cow::Borrowed(text) => Text(Cow::Borrowed(&text[from..])),
            Cow::Owned(text) => Text(Cow::Owned(text[from..].to_owned())),
        }
    }

    /// The part before byte `to`, cut between two characters, neither inside an escape.
    pub(crate) fn slice_to(&self, to: usize) -> Text<'a> {
        match &self.0 {
            Cow::Borrowed(text) => Text(Cow::Borrowed(&text[..to])),
            Cow::Owned(text) => Text(Cow::Owned(text[..to].to_owned())),
        }
    }
}

/// The text of one JSON value, checked and otherwise untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw<'a>(pub(super) Cow<'a, str>);

impl<'a> Raw<'a> {
    /// Checks that `text` is one JSON value.
    pub fn parse(text: impl Into<Cow<'a, str>>) -> Result<Self, JsonError> {
        let text = text.into();
        let mut reader = Reader::over(&text);
        reader.skip()?;
        reader.end()?;
        Ok(Self(text))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// A reader over the value.
    pub fn reader(&self) -> Reader<'_> {
        Reader::over(&self.0)
    }

    /// A reader over a value that borrows from the input, which every value does that a [`Reader`] made.
    pub fn into_reader(self) -> Option<Reader<'a>> {
        match self.0 {
            Cow::Borrowed(text) => Some(Reader::over(text)),
            Cow::Owned(_) => None,
        }
    }

    /// What the value is.
    pub fn kind(&self) -> Kind {
        self.reader().kind().unwrap_or(Kind::Null)
    }

    /// The same value, borrowed from this one.
    pub fn borrowed(&self) -> Raw<'_> {
        Raw(Cow::Borrowed(&self.0))
    }

    /// The same value, independent of the input.
    pub fn into_owned(self) -> Raw<'static> {
        Raw(Cow::Owned(self.0.into_owned()))
    }

    /// A value that this crate has written itself.
    pub(crate) fn trusted(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }
}

/// A number with all its digits as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<'a>(pub(super) &'a str);

impl<'a> Number<'a> {
    /// The digits.
    pub fn as_json(&self) -> &'a str {
        self.0
    }

    /// The value, rounded to the nearest double.
    pub fn f64(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// The value, if it is written as a whole number of at least zero, and fits.
    pub fn whole(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// A number that this crate names itself.
    pub(crate) const fn fixed(text: &'static str) -> Number<'static> {
        Number(text)
    }
}

fn escaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 16);
    crate::error::write_string(text, &mut out);
    out.pop();
    out.remove(0);
    String::from_utf8(out).expect("escaping UTF-8 text yields UTF-8 text")
}

/// The characters of an escaped string that was checked by [`Reader::quoted`].
pub(super) fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let bytes = rest.as_bytes();
        let mut used = at + 2;
        match bytes.get(at + 1) {
            Some(b'b') => out.push('\u{8}'),
            Some(b'f') => out.push('\u{c}'),
            Some(b'n') => out.push('\n'),
            Some(b'r') => out.push('\r'),
            Some(b't') => out.push('\t'),
            Some(b'u') => {
                let high = hex(&bytes[at + 2..]);
                used = at + 6;
                let pair = bytes.get(used..used + 2) == Some(b"\\u") && (0xd800..0xdc00).contains(&high);
                let low = if pair { hex(&bytes[used + 2..]) } else { 0 };
                let scalar = if (0xdc00..0xe000).contains(&low) {
                    used += 6;
                    0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                out.push(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(&byte) => out.push(char::from(byte)),
            None => break,
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

fn hex(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |value, &byte| {
        value << 4 | char::from(byte).to_digit(16).unwrap_or(0)
    })
}
