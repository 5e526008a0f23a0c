//! Fields that have the same form in several dialects.
//!
//! Invariant: what is here is the same byte for byte wherever it is used. Deliberately absent: anything that one dialect
//! alone has.

use crate::chat::{CacheMark, JsonError, Kind, Out, Reader, Text, Thinking};

/// `cache_control` as Anthropic defines it, which several vendors take on this surface too.
pub fn cache_control(reader: &mut Reader<'_>) -> Result<Option<CacheMark>, JsonError> {
    if reader.null()? {
        return Ok(None);
    }
    let mut ttl = None;
    reader.object("carried by a cache_control that is an object")?;
    while let Some(key) = reader.key()? {
        match &*key {
            "ttl" => ttl = reader.text_or_null()?,
            _ => reader.skip()?,
        }
    }
    Ok(Some(CacheMark::from_ttl(ttl.as_ref().map(Text::as_json))))
}

/// `{"type":"ephemeral","ttl":…}`.
pub fn write_cache_control(mark: CacheMark, out: &mut Out) {
    out.token("{\"type\":\"ephemeral\"");
    if let Some(ttl) = mark.ttl() {
        out.key("ttl").string(ttl);
    }
    out.token("}");
}

/// A string, an array of strings, or null.
pub fn stop<'a>(reader: &mut Reader<'a>) -> Result<Vec<Text<'a>>, JsonError> {
    match reader.kind()? {
        Kind::Null => reader.skip().map(|()| Vec::new()),
        Kind::String => reader.text().map(|text| vec![text]),
        _ => {
            let mut list = Vec::new();
            reader.array("a string or an array of strings")?;
            while reader.item()? {
                list.push(reader.text()?);
            }
            Ok(list)
        }
    }
}

/// Anthropic's `thinking.type`.
pub fn thinking_mode(word: &str) -> Option<Thinking> {
    match word {
        "enabled" => Some(Thinking::Enabled),
        "disabled" => Some(Thinking::Disabled),
        "adaptive" => Some(Thinking::Adaptive),
        _ => None,
    }
}

/// The largest count that is believed: sums of counts stay far from overflow.
pub const COUNT_MAX: u64 = 1_000_000_000_000_000;

/// A count of tokens; anything else than a number counts as unsaid, because an answer is worth more than its accounting.
pub fn count(reader: &mut Reader<'_>) -> Result<Option<u64>, JsonError> {
    match reader.kind()? {
        Kind::Number => Ok(reader.number_or_null()?.and_then(|number| match number.whole() {
            Some(count) => Some(count.min(COUNT_MAX)),
            None => Some(number.f64())
                .filter(|count| *count >= 0.0)
                .map(|count| count.min(COUNT_MAX as f64) as u64),
        })),
        _ => reader.skip().map(|()| None),
    }
}
