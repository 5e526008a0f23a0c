//! Lines of heads that were read before: peers send the same header fields again and again, and a line that is byte for byte
//! one that was read need not be read, only placed.
//!
//! Invariants: only lines that the plain way accepted are remembered, and what a line says depends on nothing but its bytes, so
//! a known line means what reading it would mean. Lines with credentials are neither kept nor compared: nobody's secret stays
//! here, and how long a comparison takes tells nothing about one. Deliberately absent: whose lines they are (a core's clients
//! use the same few libraries), and values that `Connection` names.

use super::{Field, FieldId, Span};

/// Lines that were read in vain before a new head is remembered: some lines differ in every head (an id, a date), and learning
/// costs about as much as reading a dozen of them.
const DEBT_MAX: u32 = 64;

/// The lines of one head that was read before. One for the requests of a core and one for the answers do.
#[derive(Clone, Debug, Default)]
pub struct KnownLines {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Lines that were not known, since the last time that a head was remembered.
    debt: u32,
}

/// One line: where it stands in `bytes`, and its field as if the line stood at 0.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: u16,
    field: Field,
}

impl KnownLines {
    /// The field of the line that `text` begins with, which stands at `at`, if it is the known one with this index.
    #[inline(always)]
    pub(super) fn field(&self, index: usize, text: &[u8], at: usize) -> Option<Field> {
        let line = self.lines.get(index)?;
        let start = usize::from(line.start);
        let known = self.bytes.get(start..start + line.field.line.len())?;
        if known.is_empty() || !text.starts_with(known) {
            return None;
        }
        // The line ends inside a head, so no sum is beyond its bound.
        let shifted = |span: Span| Span::new(at + usize::from(span.start), at + usize::from(span.end));
        Some(Field {
            line: shifted(line.field.line),
            name: shifted(line.field.name),
            value: shifted(line.field.value),
            ..line.field
        })
    }

    /// A head of `buf` has been read whose fields are these; `read` of its lines were not known. Remembers it if that has
    /// happened often enough.
    #[inline]
    pub(super) fn learn(&mut self, buf: &[u8], fields: &[Field], read: u32) {
        self.debt += read;
        if self.debt >= DEBT_MAX {
            self.remember(buf, fields);
        }
    }

    #[cold]
    fn remember(&mut self, buf: &[u8], fields: &[Field]) {
        self.debt = 0;
        self.bytes.clear();
        self.lines.clear();
        for field in fields {
            let from = field.line.start;
            let moved = |span: Span| Span {
                start: span.start - from,
                end: span.end - from,
            };
            let start = self.bytes.len() as u16;
            let mut line = Line {
                start,
                field: Field {
                    line: moved(field.line),
                    name: moved(field.name),
                    value: moved(field.value),
                    ..*field
                },
            };
            if holds_secret(field.id) {
                line.field.line = Span::default();
            } else {
                self.bytes.extend_from_slice(field.line.of(buf));
            }
            self.lines.push(line);
        }
    }
}

/// Whether a field's value is somebody's secret.
pub(super) const fn holds_secret(id: FieldId) -> bool {
    matches!(
        id,
        FieldId::Authorization
            | FieldId::ProxyAuthorization
            | FieldId::XApiKey
            | FieldId::ApiKey
            | FieldId::XGoogApiKey
            | FieldId::XBfVk
            | FieldId::Sluice
            | FieldId::Cookie
            | FieldId::SetCookie
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::RequestHead;

    const HEAD: &[u8] = b"POST /v1/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-secret\r\nX-Same: 1\r\nContent-Length: 12\r\n\r\n";

    fn taught(head: &[u8]) -> KnownLines {
        let mut known = KnownLines::default();
        for _ in 0..DEBT_MAX {
            assert_eq!(RequestHead::default().parse_like(head, &mut known), Ok(true));
        }
        known
    }

    #[test]
    fn a_head_like_the_last_ones_is_known_but_for_its_secrets() {
        let known = taught(HEAD);
        let at = |line: &str| {
            HEAD.windows(line.len())
                .position(|window| window == line.as_bytes())
                .unwrap()
        };
        for (index, line) in ["Host: a", "Authorization", "X-Same: 1", "Content-Length"]
            .into_iter()
            .enumerate()
        {
            let start = at(line);
            let field = known.field(index, &HEAD[start..], start);
            assert_eq!(field.is_some(), line != "Authorization", "{line}");
            assert!(
                field.is_none_or(|field| usize::from(field.line.start) == start),
                "{line}"
            );
        }
        assert!(
            !known.bytes.windows(3).any(|window| window == b"sk-"),
            "a secret is kept"
        );
    }

    #[test]
    fn a_line_that_only_begins_like_a_known_one_is_read() {
        let known = taught(b"GET / HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n\r\n");
        assert!(known.field(1, b"X-One: 1\r\n\r\n", 0).is_some());
        assert!(known.field(1, b"X-One: 12\r\n\r\n", 0).is_none());
        assert!(known.field(1, b"X-One: 1\r", 0).is_none());
        assert!(known.field(2, b"\r\n", 0).is_none());
    }

    #[test]
    fn a_head_that_changes_a_little_is_not_remembered_each_time() {
        let mut known = taught(HEAD);
        let before = known.bytes.clone();
        let other = [&HEAD[..HEAD.len() - 6], b"99\r\n\r\n"].concat();
        for _ in 1..DEBT_MAX / 2 {
            assert_eq!(RequestHead::default().parse_like(&other, &mut known), Ok(true));
        }
        assert_eq!(known.bytes, before);
    }
}
