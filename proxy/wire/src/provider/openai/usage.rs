//! `usage` of OpenAI's interfaces, and of those that copy them.
//!
//! `prompt_tokens` includes what was read from and written to a cache, `completion_tokens` includes reasoning. Where
//! `total_tokens` exceeds their sum (Google, xAI), the rest is reasoning that `completion_tokens` leaves out. Invariants: a
//! plain object is read in one go, and means the same read so or thoroughly. Deliberately absent: the vendors' own accounting
//! (cost, timings).

use crate::chat::{JsonError, Kind, Out, Reader, Usage};
use crate::provider::fields::{COUNT_MAX, count};

/// Of transcriptions that are charged by their length.
const SECONDS: &[u8] = b"seconds";

/// What the object says, as it stands on the wire.
#[derive(Default)]
struct Counts {
    prompt: u64,
    completion: u64,
    total: u64,
    hit: Option<u64>,
    seconds: u64,
    input: Details,
    output: Details,
}

#[derive(Default)]
struct Details {
    cached: Option<u64>,
    cache_write: u64,
    reasoning: Option<u64>,
    audio: u64,
    image: u64,
}

/// Reads a `usage` object; `None` for anything else.
pub(super) fn usage(reader: &mut Reader<'_>) -> Result<Option<Usage>, JsonError> {
    if reader.kind()? != Kind::Object {
        return reader.skip().map(|()| None);
    }
    let mut counts = Counts::default();
    reader.object("")?;
    while let Some(key) = reader.key()? {
        match counts.details(key.as_bytes()) {
            Some(details) => *details = Details::parse(reader)?,
            None if key.as_bytes() == SECONDS => counts.seconds = seconds(reader)?,
            None if Counts::knows(key.as_bytes()) => counts.set(key.as_bytes(), count(reader)?),
            None => reader.skip()?,
        }
    }
    Ok(Some(counts.usage()))
}

impl Counts {
    // The second names are those of the Responses interface and of embeddings, images and transcriptions.

    fn details(&mut self, key: &[u8]) -> Option<&mut Details> {
        match key {
            b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details" => Some(&mut self.input),
            b"completion_tokens_details" | b"output_tokens_details" | b"output_token_details" => Some(&mut self.output),
            _ => None,
        }
    }

    fn knows(key: &[u8]) -> bool {
        Self::default().place(key).is_some()
    }

    fn set(&mut self, key: &[u8], count: Option<u64>) {
        match self.place(key) {
            Some(Place::Count(place)) => *place = count.unwrap_or(0),
            Some(Place::Maybe(place)) => *place = place.or(count),
            None => {}
        }
    }

    fn place(&mut self, key: &[u8]) -> Option<Place<'_>> {
        Some(match key {
            b"prompt_tokens" | b"input_tokens" => Place::Count(&mut self.prompt),
            b"completion_tokens" | b"output_tokens" => Place::Count(&mut self.completion),
            b"total_tokens" => Place::Count(&mut self.total),
            SECONDS => Place::Count(&mut self.seconds),
            // DeepSeek; Moonshot and others.
            b"prompt_cache_hit_tokens" | b"cached_tokens" | b"num_cached_tokens" => Place::Maybe(&mut self.hit),
            _ => return None,
        })
    }

    /// In parts that do not overlap.
    fn usage(&self) -> Usage {
        let Self { prompt, completion, .. } = *self;
        let cache_read = self.input.cached.or(self.hit).unwrap_or(0).min(prompt);
        let cache_write = self.input.cache_write.min(prompt - cache_read);
        let hidden = self.total.saturating_sub(prompt.saturating_add(completion));
        Usage {
            input: prompt - cache_read - cache_write,
            cache_read,
            cache_write,
            cache_write_1h: 0,
            output: completion.saturating_add(hidden),
            reasoning: self.output.reasoning.or(Some(hidden).filter(|tokens| *tokens > 0)),
            input_audio: self.input.audio,
            input_image: self.input.image,
            output_audio: self.output.audio,
            output_image: self.output.image,
            audio_seconds: self.seconds,
        }
    }
}

/// Seconds, of which one that has begun counts.
fn seconds(reader: &mut Reader<'_>) -> Result<u64, JsonError> {
    match reader.kind()? {
        Kind::Number => {
            let number = reader.number_or_null()?.map_or(0.0, |number| number.f64());
            Ok(number.ceil().clamp(0.0, COUNT_MAX as f64) as u64)
        }
        _ => reader.skip().map(|()| 0),
    }
}

enum Place<'a> {
    /// Zero if it is not said.
    Count(&'a mut u64),
    /// Of several, the first that is said.
    Maybe(&'a mut Option<u64>),
}

impl Details {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        let mut details = Self::default();
        if reader.kind()? != Kind::Object {
            return reader.skip().map(|()| details);
        }
        reader.object("")?;
        while let Some(key) = reader.key()? {
            let value = match reader.kind()? {
                Kind::Number => count(reader)?,
                _ => reader.skip().map(|()| None)?,
            };
            details.set(key.as_bytes(), value);
        }
        Ok(details)
    }

    fn set(&mut self, key: &[u8], count: Option<u64>) {
        match key {
            b"cached_tokens" => self.cached = count,
            b"cache_write_tokens" => self.cache_write = count.unwrap_or(0),
            b"reasoning_tokens" => self.reasoning = count,
            b"audio_tokens" => self.audio = count.unwrap_or(0),
            b"image_tokens" => self.image = count.unwrap_or(0),
            _ => {}
        }
    }
}

/// Reads the object at the begin of `bytes`, and says how long it is, if it holds nothing but whole numbers, nulls and objects
/// of such: as nearly all do. `None` says nothing of the object.
pub(super) fn plain(bytes: &[u8]) -> Option<(Usage, usize)> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut counts = Counts::default();
    if !cursor.open()? {
        loop {
            let key = cursor.key()?;
            if let Some(details) = counts.details(key) {
                *details = cursor.details()?;
            } else {
                let value = cursor.count()?;
                counts.set(key, value);
            }
            if cursor.ends()? {
                break;
            }
        }
    }
    Some((counts.usage(), cursor.at))
}

/// Goes through a plain object; each step is `None` at anything that is not plain.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next byte that is no whitespace.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Into an object; whether it is empty, and over.
    fn open(&mut self) -> Option<bool> {
        self.expect(b'{')?;
        let empty = self.peek()? == b'}';
        self.at += usize::from(empty);
        Some(empty)
    }

    /// A key, and its colon.
    fn key(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = self.bytes.get(self.at..)?;
        // Short: a search that is prepared would cost more than it saves.
        let key = &rest[..rest.iter().position(|byte| *byte == b'"')?];
        self.at += key.len() + 1;
        if key.last() == Some(&b'\\') {
            return None;
        }
        self.expect(b':').map(|()| key)
    }

    /// After a value: whether the object is over.
    fn ends(&mut self) -> Option<bool> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => Some(false),
            b'}' => Some(true),
            _ => None,
        }
    }

    /// A whole number, or null.
    fn count(&mut self) -> Option<Option<u64>> {
        if self.peek()? == b'n' {
            let rest = self.bytes.get(self.at..)?;
            return rest.starts_with(b"null").then(|| {
                self.at += 4;
                None
            });
        }
        let from = self.at;
        let mut value: u64 = 0;
        while let Some(digit) = self
            .bytes
            .get(self.at)
            .map(|byte| byte.wrapping_sub(b'0'))
            .filter(|digit| *digit < 10)
        {
            value = value * 10 + u64::from(digit);
            self.at += 1;
            // Longer ones, which may not fit, are not plain.
            if self.at - from > 18 {
                return None;
            }
        }
        // Neither is a fraction, an exponent, or a zero too many.
        let length = self.at - from;
        let is_whole = !matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E'));
        (length == 1 || length > 1 && self.bytes[from] != b'0')
            .then_some(Some(value.min(COUNT_MAX)))
            .filter(|_| is_whole)
    }

    fn details(&mut self) -> Option<Details> {
        let mut details = Details::default();
        if self.peek()? == b'n' {
            return self.count().map(|_| details);
        }
        if self.open()? {
            return Some(details);
        }
        loop {
            let key = self.key()?;
            let value = self.count()?;
            details.set(key, value);
            if self.ends()? {
                return Some(details);
            }
        }
    }
}

/// Appends a `usage` object.
pub(super) fn write_usage(usage: &Usage, out: &mut Out) {
    out.token("{\"prompt_tokens\":")
        .whole(usage.input_total())
        .key("completion_tokens")
        .whole(usage.output);
    out.key("total_tokens")
        .whole(usage.total())
        .token(",\"prompt_tokens_details\":{\"cached_tokens\":")
        .whole(usage.cache_read);
    for (key, value) in [
        ("cache_write_tokens", usage.cache_write_total()),
        ("audio_tokens", usage.input_audio),
    ] {
        if value > 0 {
            out.key(key).whole(value);
        }
    }
    out.token("},\"completion_tokens_details\":{\"reasoning_tokens\":")
        .whole(usage.reasoning.unwrap_or(0));
    if usage.output_audio > 0 {
        out.key("audio_tokens").whole(usage.output_audio);
    }
    out.token("}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thorough(text: &str) -> Option<Usage> {
        usage(&mut Reader::new(text.as_bytes()).ok()?).ok()?
    }

    #[test]
    fn a_plain_object_means_the_same_in_one_go() {
        let plain_ones = [
            "{}",
            " { } ",
            r#"{"prompt_tokens":9,"completion_tokens":2,"total_tokens":15}"#,
            r#"{"input_tokens" : 50 , "input_tokens_details":{"text_tokens":10,"image_tokens":40},"output_tokens":7}"#,
            r#"{"prompt_tokens":12,"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":1},"x":0,
                "completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":4,"audio_tokens":2,"image_tokens":1}}"#,
            r#"{"prompt_tokens":5,"prompt_tokens_details":null,"prompt_cache_hit_tokens":3,"cached_tokens":null}"#,
            r#"{"total_tokens":30,"input_tokens":20,"input_token_details":{"audio_tokens":18},"output_tokens":10,"seconds":7}"#,
            r#"{"prompt_tokens":999999999999999999,"completion_tokens":null,"completion_tokens_details":{}}"#,
        ];
        for text in plain_ones {
            let behind = format!("{text},\"service_tier\":1}}");
            let (read, len) = plain(behind.as_bytes()).expect(text);
            assert_eq!(Some(read), thorough(text), "{text}");
            assert_eq!(&behind[..len], text.trim_end(), "{text}");
            for cut in 0..len {
                assert_eq!(plain(&behind.as_bytes()[..cut]), None, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn seconds_of_sound_that_have_begun_count() {
        for (text, seconds) in [
            (r#"{"type":"duration","seconds":42}"#, 42),
            (r#"{"type":"duration","seconds":8.02}"#, 9),
            (r#"{"type":"duration","seconds":null}"#, 0),
            (r#"{"type":"duration","seconds":-3}"#, 0),
        ] {
            let usage = thorough(text).expect(text);
            assert_eq!((usage.audio_seconds, usage.total()), (seconds, 0), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_be_read_thoroughly() {
        for text in [
            r#"{"prompt_tokens":1.5}"#,
            r#"{"prompt_tokens":1e3}"#,
            r#"{"prompt_tokens":-1}"#,
            r#"{"prompt_tokens":01}"#,
            r#"{"prompt_tokens":9999999999999999999}"#,
            r#"{"prompt_tokens":"5"}"#,
            r#"{"cost_details":{"a":1}}"#,
            r#"{"a\"":1}"#,
            r#"{"prompt_tokens":1,}"#,
            r#"{"prompt_tokens":1 2}"#,
            r#"{prompt_tokens:1}"#,
            "[]",
            "",
        ] {
            assert_eq!(plain(text.as_bytes()), None, "{text}");
        }
    }
}
