//! A translated body: JSON appended piece by piece, with large strings referenced in the body they came from.
//!
//! Invariants: a string of at least [`SPLICE_BYTES_MIN`] bytes that borrows from the source body is never copied; a comma is
//! written exactly where one is due. Deliberately absent: pretty printing, and any check of what is written.

use std::ops::Range;

use crate::chat::{Number, Raw, Text};
use crate::error::write_string;
use crate::limits::SPLICE_BYTES_MIN;

/// A body under construction. Keep it and [`Out::begin`] again, so that its memory is reused.
#[derive(Clone, Debug, Default)]
pub struct Out {
    /// What is not referenced.
    pub buf: Vec<u8>,
    /// Ranges of the source body, each with the offset in `buf` in front of which it belongs; in order.
    splices: Vec<(usize, Range<usize>)>,
    /// Address and length of the source body: only ever compared, never dereferenced.
    source: Range<usize>,
}

impl Out {
    /// Starts over. Strings that borrow from `source` may then be referenced; give an empty slice to have all copied.
    pub fn begin(&mut self, source: &[u8]) {
        self.buf.clear();
        self.splices.clear();
        let from = source.as_ptr() as usize;
        self.source = from..from + source.len();
    }

    /// Bytes in all.
    pub fn total_len(&self) -> usize {
        self.buf.len() + self.splices.iter().map(|(_, range)| range.len()).sum::<usize>()
    }

    /// The referenced ranges of the source body, each with the offset in `buf` in front of which it belongs; in order.
    pub fn splices(&self) -> &[(usize, Range<usize>)] {
        &self.splices
    }

    /// The body's pieces in order; `source` is the body given to [`Out::begin`].
    pub fn parts<'s>(&'s self, source: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
        let mut from = 0;
        let spliced = self.splices.iter().flat_map(move |(at, range)| {
            let piece = &self.buf[from..*at];
            from = *at;
            [piece, source.get(range.clone()).unwrap_or_default()]
        });
        let tail = self.splices.last().map_or(0, |(at, _)| *at);
        spliced
            .chain(std::iter::once(&self.buf[tail..]))
            .filter(|piece| !piece.is_empty())
    }

    /// The whole body in one piece (tests, and bodies that must be signed or stored).
    pub fn collect(&self, source: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.total_len());
        self.parts(source).for_each(|piece| whole.extend_from_slice(piece));
        whole
    }

    /// Appends JSON syntax as it stands.
    pub fn token(&mut self, token: &str) -> &mut Self {
        self.buf.extend_from_slice(token.as_bytes());
        self
    }

    /// A comma, unless the value is the first of its object or array.
    pub fn comma(&mut self) -> &mut Self {
        if !matches!(self.buf.last(), None | Some(b'{' | b'[' | b':')) {
            self.buf.push(b',');
        }
        self
    }

    /// A comma if one is due, and a key (which must need no escaping).
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.comma();
        self.buf.push(b'"');
        self.buf.extend_from_slice(key.as_bytes());
        self.buf.extend_from_slice(b"\":");
        self
    }

    /// A string that is already escaped.
    pub fn text(&mut self, text: &Text<'_>) -> &mut Self {
        self.buf.push(b'"');
        self.fragment(text);
        self.buf.push(b'"');
        self
    }

    /// The inside of a string, without quotes.
    pub fn fragment(&mut self, text: &Text<'_>) -> &mut Self {
        self.place(text.as_json())
    }

    /// A string from plain characters.
    pub fn string(&mut self, text: &str) -> &mut Self {
        write_string(text, &mut self.buf);
        self
    }

    /// A value as it stands.
    pub fn raw(&mut self, raw: &Raw<'_>) -> &mut Self {
        self.place(raw.as_json())
    }

    /// A number as it came.
    pub fn number(&mut self, number: Number<'_>) -> &mut Self {
        self.token(number.as_json())
    }

    /// A whole number.
    pub fn whole(&mut self, value: u64) -> &mut Self {
        self.token(itoa::Buffer::new().format(value))
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.token(if value { "true" } else { "false" })
    }

    /// Ends a chain of writes where nothing is to be returned.
    pub fn done(&mut self) {}

    fn place(&mut self, text: &str) -> &mut Self {
        let from = text.as_ptr() as usize;
        if text.len() >= SPLICE_BYTES_MIN && from >= self.source.start && from + text.len() <= self.source.end {
            // A comma is judged by the last byte of `buf`: after a splice the closing quote or bracket must be there. A raw
            // value that is spliced leaves its last byte behind for that.
            let offset = from - self.source.start;
            self.splices.push((self.buf.len(), offset..offset + text.len() - 1));
            self.buf.push(text.as_bytes()[text.len() - 1]);
        } else {
            self.buf.extend_from_slice(text.as_bytes());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Reader;

    #[test]
    fn large_values_of_the_source_are_referenced_and_everything_reads_as_if_it_were_copied() {
        let (large, small) = ("x".repeat(SPLICE_BYTES_MIN), "y".repeat(SPLICE_BYTES_MIN - 1));
        let source = format!("[\"{large}\",\"{small}\",[\"{large}\"]]");
        let mut reader = Reader::new(source.as_bytes()).unwrap();
        let mut out = Out::default();
        out.begin(source.as_bytes());
        out.token("[");
        reader.array("").unwrap();
        for _ in 0..2 {
            reader.item().unwrap();
            out.comma().text(&reader.text().unwrap());
        }
        reader.item().unwrap();
        out.comma().raw(&reader.raw().unwrap());
        // Large, but not of the source.
        out.comma().string(&large).token("]");
        assert_eq!(out.splices().len(), 2);
        let whole = out.collect(source.as_bytes());
        assert_eq!(
            String::from_utf8(whole).unwrap(),
            format!("{},\"{large}\"]", &source[..source.len() - 1])
        );
        assert_eq!(out.total_len(), source.len() + large.len() + 3);
        out.begin(&[]);
        assert_eq!((out.total_len(), out.parts(&[]).count()), (0, 0));
    }
}
