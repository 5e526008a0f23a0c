//! A stored answer with all that finds it again, and its form as bytes.
//!
//! Invariants: immutable once made, so that cores share it; its form as bytes is the same in a snapshot and between replicas, names
//! no position in any table, and ends where it says. What decodes is a well-formed entry, whatever the bytes were.
//! Deliberately absent: counters of use, which each core keeps for itself.

use std::sync::Arc;

use bytes::Bytes;
use sluice_wire::dialect::Dialect;
use sluice_wire::limits::{CACHE_ANSWER_BYTES_MAX, CACHE_TAGS_MAX};

use super::embed::{DIMENSIONS, Vector};
use super::evidence::Namespace;
use super::guard::Template;
use super::image::FrameMap;
use super::key::Key;

/// How an answer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One body.
    Whole,
    /// The events of a stream, as they came.
    Stream,
    /// The same, and what was used is among them.
    CountedStream,
}

/// A complete, successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How `body` is to be read.
    pub shape: Shape,
    /// The dialect that it is written in.
    pub dialect: Dialect,
    /// Its bytes; shared, never copied.
    pub body: Bytes,
    /// Tokens that were paid for it, in and out.
    pub tokens: [u64; 2],
    /// What it cost, in nano-dollars.
    pub cost_nano_usd: u64,
}

/// What purges go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Whose it is.
    pub tenant: Box<str>,
    /// The model that answered.
    pub model: Box<str>,
    /// Values of the route's context keys, as `name=value`.
    pub context: Vec<Box<str>>,
    /// The client's or the route's own.
    pub tags: Vec<Box<str>>,
}

/// How an entry is found by meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Its bucket.
    pub bucket: Key,
    /// The direction of its last user text.
    pub vector: Vector,
    /// The template of that text.
    pub template: Template,
}

/// How an entry is found by its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Of all requests that differ in the images' bytes alone.
    pub key: Key,
    /// One map an image. They are not part of the form as bytes: a restart forgets them.
    pub maps: Arc<[FrameMap]>,
}

/// A stored answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key of its request.
    pub exact: Key,
    /// Its request, to be compared.
    pub request: Bytes,
    /// What evidence about it counts for.
    pub namespace: Namespace,
    /// By meaning, if it may be.
    pub meaning: Option<Meaning>,
    /// By images, if it may be.
    pub frames: Option<Frames>,
    /// The answer.
    pub answer: Answer,
    /// What purges go by.
    pub labels: Labels,
    /// When it was stored, in milliseconds since the epoch.
    pub stored_ms: u64,
    /// How long it is fresh, in milliseconds.
    pub ttl_ms: u64,
}

impl Entry {
    /// Bytes of memory, the vector in the index aside.
    pub fn bytes(&self) -> usize {
        let Labels {
            tenant,
            model,
            context,
            tags,
        } = &self.labels;
        let strings = context
            .iter()
            .chain(tags)
            .map(|label| label.len() + size_of::<Box<str>>());
        let maps = self
            .frames
            .iter()
            .flat_map(|frames| frames.maps.iter().map(FrameMap::bytes));
        let labels = tenant.len() + model.len() + strings.sum::<usize>();
        size_of::<Self>() + self.request.len() + self.answer.body.len() + labels + maps.sum::<usize>()
    }

    /// Appends its form as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.exact.0);
        blob(out, &self.request);
        out.extend(self.namespace.to_le_bytes());
        out.push(u8::from(self.meaning.is_some()));
        if let Some(meaning) = &self.meaning {
            out.extend(meaning.bucket.0);
            out.extend(meaning.vector.0.map(|value| value as u8));
            out.extend(meaning.template.0);
        }
        let Answer {
            shape,
            dialect,
            body,
            tokens,
            cost_nano_usd,
        } = &self.answer;
        out.push(*shape as u8);
        blob(out, dialect.as_str().as_bytes());
        blob(out, body);
        for number in [tokens[0], tokens[1], *cost_nano_usd, self.stored_ms, self.ttl_ms] {
            out.extend(number.to_le_bytes());
        }
        blob(out, self.labels.tenant.as_bytes());
        blob(out, self.labels.model.as_bytes());
        for list in [&self.labels.context, &self.labels.tags] {
            out.push(list.len().min(CACHE_TAGS_MAX) as u8);
            list.iter()
                .take(CACHE_TAGS_MAX)
                .for_each(|label| blob(out, label.as_bytes()));
        }
    }

    /// Reads an entry from the front of `bytes`, without copying the body, and says where it ends. `None` if there is none.
    pub fn decode(bytes: &Bytes) -> Option<(Self, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let exact = Key(reader.array()?);
        let request = reader.blob()?;
        let namespace = reader.number()?;
        let meaning = match reader.byte()? {
            0 => None,
            1 => Some(Meaning {
                bucket: Key(reader.array()?),
                vector: Vector(reader.array::<DIMENSIONS>()?.map(|value| value as i8)),
                template: Template(reader.array()?),
            }),
            _ => return None,
        };
        let shape = match reader.byte()? {
            0 => Shape::Whole,
            1 => Shape::Stream,
            2 => Shape::CountedStream,
            _ => return None,
        };
        let name = reader.blob()?;
        let dialect = *Dialect::ALL
            .iter()
            .find(|dialect| dialect.as_str().as_bytes() == &name[..])?;
        let body = reader.blob()?;
        if body.len() > CACHE_ANSWER_BYTES_MAX {
            return None;
        }
        let tokens = [reader.number()?, reader.number()?];
        let cost_nano_usd = reader.number()?;
        let (stored_ms, ttl_ms) = (reader.number()?, reader.number()?);
        let labels = Labels {
            tenant: reader.text()?,
            model: reader.text()?,
            context: reader.texts()?,
            tags: reader.texts()?,
        };
        let entry = Self {
            exact,
            request,
            namespace,
            meaning,
            frames: None,
            answer: Answer {
                shape,
                dialect,
                body,
                tokens,
                cost_nano_usd,
            },
            labels,
            stored_ms,
            ttl_ms,
        };
        Some((entry, reader.at))
    }
}

fn blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// A cursor over bytes of unknown origin.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn blob(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.number()?).ok()?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        let blob = self.bytes.slice(self.at..end);
        self.at = end;
        Some(blob)
    }

    fn text(&mut self) -> Option<Box<str>> {
        let blob = self.blob()?;
        std::str::from_utf8(&blob).ok().map(Into::into)
    }

    fn texts(&mut self) -> Option<Vec<Box<str>>> {
        let count = usize::from(self.byte()?);
        (count <= CACHE_TAGS_MAX).then(|| (0..count).map(|_| self.text()).collect())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(semantic: bool) -> Entry {
        let meaning = Meaning {
            bucket: Key([2; 32]),
            vector: Vector(std::array::from_fn(|at| at as i8 - 64)),
            template: Template([3; 16]),
        };
        Entry {
            exact: Key([1; 32]),
            request: Bytes::from_static(b"request"),
            namespace: 9,
            meaning: semantic.then_some(meaning),
            frames: None,
            answer: Answer {
                shape: Shape::Stream,
                dialect: Dialect::ALL[1],
                body: Bytes::from_static(b"data: {}\n\n"),
                tokens: [10, 20],
                cost_nano_usd: 1_500,
            },
            labels: Labels {
                tenant: "plant".into(),
                model: "m".into(),
                context: vec!["variant=4711-B".into()],
                tags: vec!["shift-1".into(), String::new().into()],
            },
            stored_ms: 1_700_000_000_000,
            ttl_ms: 60_000,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for semantic in [false, true] {
            let mut bytes = Vec::new();
            entry(semantic).encode(&mut bytes);
            let len = bytes.len();
            bytes.extend(b"what follows");
            assert_eq!(Entry::decode(&bytes.into()), Some((entry(semantic), len)));
        }
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_no_entry_or_another_but_never_a_panic() {
        let mut bytes = Vec::new();
        entry(true).encode(&mut bytes);
        for len in 0..bytes.len() {
            assert_eq!(Entry::decode(&Bytes::copy_from_slice(&bytes[..len])), None, "{len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            assert_ne!(
                Entry::decode(&damaged.into()).map(|(entry, _)| entry),
                Some(entry(true))
            );
        }
    }

    #[test]
    fn memory_counts_what_is_large() {
        let small = entry(true).bytes();
        let mut large = entry(true);
        large.answer.body = Bytes::from(vec![0; 100_000]);
        assert!(large.bytes() >= small + 99_000 && small < 2_000);
    }
}
