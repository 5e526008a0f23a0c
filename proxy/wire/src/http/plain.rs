//! Heads as nearly all peers write them, read in one pass: `name: value` lines of visible ASCII that end with CRLF.
//!
//! Invariants: what is accepted here is accepted, and read alike, by the careful way of `head.rs` (httparse and the checks
//! after it); at the first byte that is out of the ordinary nothing is decided here, and the careful way begins anew. So
//! errors are the careful way's alone. Deliberately absent: errors, and heads that are not complete.

use super::framing::Summary;
use super::{Field, FieldId, KnownLines, Span, Version, known};
use crate::limits::{HEADER_FIELDS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

/// A request line.
pub(super) struct RequestLine {
    pub(super) method: Span,
    pub(super) target: Span,
    /// Where the header fields begin.
    pub(super) end: usize,
}

/// A status line.
pub(super) struct StatusLine {
    pub(super) status: u16,
    pub(super) reason: Span,
    /// Where the header fields begin.
    pub(super) end: usize,
}

/// The version that a plain head has.
pub(super) const VERSION: Version = Version::Http11;

/// Reads `METHOD target HTTP/1.1`.
pub(super) fn request_line(buf: &[u8]) -> Option<RequestLine> {
    let method = name_bytes(buf);
    let rest = buf.get(method..)?.strip_prefix(b" ")?;
    let target = rest.iter().position(|&byte| !matches!(byte, 0x21..=0x7e))?;
    if method == 0 || method > METHOD_BYTES_MAX || target == 0 || target > TARGET_BYTES_MAX {
        return None;
    }
    const BEHIND: &[u8] = b" HTTP/1.1\r\n";
    rest[target..].starts_with(BEHIND).then(|| RequestLine {
        method: Span::new(0, method),
        target: Span::new(method + 1, method + 1 + target),
        end: method + 1 + target + BEHIND.len(),
    })
}

/// Reads `HTTP/1.1 200 OK`.
pub(super) fn status_line(buf: &[u8]) -> Option<StatusLine> {
    let rest = buf.strip_prefix(b"HTTP/1.1 ")?;
    let [
        hundreds @ b'1'..=b'9',
        tens @ b'0'..=b'9',
        ones @ b'0'..=b'9',
        b' ',
        reason @ ..,
    ] = rest
    else {
        return None;
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let start = buf.len() - reason.len();
    let length = text_bytes(reason);
    reason[length..].starts_with(b"\r\n").then(|| StatusLine {
        status: digit(hundreds) * 100 + digit(tens) * 10 + digit(ones),
        reason: Span::new(start, start + length),
        end: start + length + 2,
    })
}

/// Reads the header fields that begin at `at`, up to and including the empty line; gives where the body begins.
pub(super) fn fields(
    buf: &[u8],
    mut at: usize,
    fields: &mut Vec<Field>,
    summary: &mut Summary,
    known: &mut KnownLines,
) -> Option<usize> {
    fields.clear();
    let mut read = 0;
    loop {
        let rest = buf.get(at..)?;
        let field = match known.field(fields.len(), rest, at) {
            Some(field) => field,
            None if rest.starts_with(b"\r\n") => break,
            None => {
                let field = line(rest, at)?;
                read += u32::from(!known::holds_secret(field.id));
                field
            }
        };
        if fields.len() == HEADER_FIELDS_MAX {
            return None;
        }
        fields.push(field);
        if field.id != FieldId::Other {
            summary.add(field.id, field.value, field.value.of(buf)).ok()?;
        }
        at = usize::from(field.line.end);
    }
    if summary.names_fields() {
        return None;
    }
    known.learn(buf, fields, read);
    Some(at + 2)
}

/// Reads the line that `text` begins with, which stands at `at`.
#[inline(always)]
fn line(text: &[u8], at: usize) -> Option<Field> {
    let name = name_bytes(text);
    let (name_text, rest) = text.split_at(name);
    let (gap, rest) = match rest {
        [b':', b' ', rest @ ..] => (2, rest),
        [b':', rest @ ..] => (1, rest),
        _ => return None,
    };
    let length = text_bytes(rest);
    let (text, rest) = rest.split_at(length);
    let spaced = matches!(text, [b' ', ..] | [.., b' ']);
    if !rest.starts_with(b"\r\n") || name == 0 || spaced {
        return None;
    }
    let id = FieldId::of(name_text);
    let value = at + name + gap;
    Some(Field {
        line: Span::new(at, value + length + 2),
        name: Span::new(at, at + name),
        value: Span::new(value, value + length),
        id,
        hop: id.is_hop_by_hop(),
    })
}

/// How many letters, digits and hyphens `text` begins with: of the bytes of a token (RFC 9110 §5.6.2) the ones in use.
#[inline(always)]
fn name_bytes(text: &[u8]) -> usize {
    prefix_bytes(text, |word| {
        let low = word & !HIGH;
        // For bytes below 128, adding `0x80 - x` sets the high bit of those from `x` on, without a carry.
        let from = |word: u64, first: u8| word.wrapping_add(ONES * u64::from(0x80 - first));
        let folded = low | (ONES * 0x20);
        let letter = from(folded, b'a') & !from(folded, b'z' + 1) & from(low, b'A');
        let digit = from(low, b'0') & !from(low, b'9' + 1);
        let hyphen = from(low, b'-') & !from(low, b'-' + 1);
        !((letter | digit | hyphen) & !word) & HIGH
    })
}

/// How many bytes from space to tilde `text` begins with.
#[inline(always)]
fn text_bytes(text: &[u8]) -> usize {
    // The high bit of each byte below space, of DEL and of each byte above it; exact for the lowest such byte.
    prefix_bytes(text, |word| {
        ((word.wrapping_sub(ONES * 0x20) & !word) | word.wrapping_add(ONES) | word) & HIGH
    })
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES << 7;

/// How many bytes `text` begins with that `other` does not mark; eight at a time. `other` sets the high bit of at least the
/// lowest byte that ends the prefix, and of none before it.
#[inline(always)]
fn prefix_bytes(text: &[u8], other: impl Fn(u64) -> u64) -> usize {
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk() {
        let marked = other(u64::from_le_bytes(*word));
        if marked != 0 {
            return at + (marked.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    // Padded with a byte that always ends it.
    let rest = &text[at..];
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    let marked = other(u64::from_le_bytes(word));
    at + (marked.trailing_zeros() / 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{RequestHead, ResponseHead};

    #[test]
    fn text_ends_at_the_first_byte_that_is_not_printable_ascii() {
        check(text_bytes, |byte| matches!(byte, 0x20..=0x7e));
    }

    #[test]
    fn a_name_ends_at_the_first_byte_that_is_no_letter_digit_or_hyphen() {
        check(name_bytes, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
    }

    fn check(length_of: impl Fn(&[u8]) -> usize, belongs: impl Fn(u8) -> bool) {
        for stop in 0..=255u8 {
            for at in 0..20 {
                let mut text = vec![b'a'; 24];
                text[at] = stop;
                let expected = if belongs(stop) { text.len() } else { at };
                assert_eq!(length_of(&text), expected, "{stop:#x} at {at}");
                // What follows must not be mistaken for it, nor hide it.
                text[at + 1..].fill(0xff);
                let expected = if belongs(stop) { at + 1 } else { at };
                assert_eq!(length_of(&text), expected, "{stop:#x} at {at}");
            }
        }
    }

    /// Readings of a head after which its lines are known.
    const LESSONS: usize = 64;

    /// Every head that differs from a usual one in a byte: changed, missing or doubled.
    fn neighbours(head: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        (0..head.len()).flat_map(move |at| {
            let changed = (0..=255).map(move |byte| [&head[..at], &[byte], &head[at + 1..]].concat());
            let missing = [&head[..at], &head[at + 1..]].concat();
            let doubled = [&head[..=at], &head[at..]].concat();
            changed.chain([missing, doubled])
        })
    }

    #[test]
    fn the_quick_way_reads_what_the_careful_way_reads() {
        let usual =
            b"POST /v1/chat?a=b HTTP/1.1\r\nHost: api.example:80\r\nConnection: keep-alive\r\ncontent-length: 12\r\n\
            X-E:\r\nExpect: 100-continue\r\nx-sluice-tag: q r\r\n\r\n";
        let mut known = KnownLines::default();
        for _ in 0..LESSONS {
            assert!(RequestHead::default().parse_plain(usual, &mut known).is_some());
        }
        let mut quick = 0;
        for head in neighbours(usual) {
            let nothing = &mut KnownLines::default();
            quick += usize::from(RequestHead::default().parse_plain(&head, nothing).is_some());
            // These compare the two ways in tests, with and without lines that are known.
            let read = RequestHead::default().parse(&head);
            assert_eq!(RequestHead::default().parse_like(&head, &mut known.clone()), read);
        }
        assert!(quick > 1000, "{quick} of the neighbours were read the quick way");

        let usual = b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\nx: y z\r\nvia:\r\n\r\n";
        let mut known = KnownLines::default();
        for _ in 0..LESSONS {
            assert!(ResponseHead::default().parse_plain(usual, false, &mut known).is_some());
        }
        let mut quick = 0;
        for head in neighbours(usual) {
            let nothing = &mut KnownLines::default();
            quick += usize::from(ResponseHead::default().parse_plain(&head, false, nothing).is_some());
            let read = ResponseHead::default().parse(&head, false);
            assert_eq!(
                ResponseHead::default().parse_like(&head, false, &mut known.clone()),
                read
            );
        }
        assert!(quick > 1000, "{quick} of the neighbours were read the quick way");
    }
}
