//! Strings and numbers of JSON, piece by piece: jumping over strings, unescaping the few that are wanted, reading counts.
//!
//! Invariants: long strings are searched with SIMD, short ones word by word; what is unescaped is bounded by the caller.
//! Deliberately absent: checking the strings that are jumped over.

/// Classes of bytes outside strings, for skipping.
pub(super) const PLAIN: u8 = 0;
pub(super) const QUOTE: u8 = 1;
pub(super) const OPEN: u8 = 2;
pub(super) const CLOSE: u8 = 3;
/// No JSON text has such a byte outside its strings: a comment, a single quote, a control character.
pub(super) const BAD: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut table = [BAD; 256];
    let mut byte = 0;
    while byte < 128 {
        let letter = byte as u8;
        table[byte] = match letter {
            b'"' => QUOTE,
            b'{' | b'[' => OPEN,
            b'}' | b']' => CLOSE,
            b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' | b'+' | b'-' | b'.' => PLAIN,
            _ if letter.is_ascii_alphanumeric() => PLAIN,
            _ => BAD,
        };
        byte += 1;
    }
    table
};

#[inline(always)]
pub(super) fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

/// How a jump over a string went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    /// It ended before this index.
    Closed(usize),
    /// The piece ended inside it, just after a backslash or not.
    Cut { escaped: bool },
}

/// Jumps over the rest of a string; `escaped` if the byte at `at` follows a backslash.
#[inline]
pub(super) fn skip_string(input: &[u8], mut at: usize, escaped: bool) -> Skipped {
    at += usize::from(escaped);
    loop {
        // `at` may be one past the end: the byte after a backslash has not come.
        let Some(rest) = input.get(at..) else {
            return Skipped::Cut { escaped: true };
        };
        match find_special(rest) {
            None => return Skipped::Cut { escaped: false },
            Some(found) if rest[found] == b'"' => return Skipped::Closed(at + found + 1),
            Some(found) => at += found + 2,
        }
    }
}

/// The first quote or backslash. Keys and short values end within a few words, long texts are worth a SIMD search.
#[inline]
pub(super) fn find_special(hay: &[u8]) -> Option<usize> {
    const WORDS: usize = 4;
    let mut at = 0;
    for _ in 0..WORDS {
        let Some(word) = hay[at..].first_chunk() else {
            return hay[at..]
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\'))
                .map(|found| at + found);
        };
        let found = special_in(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', &hay[at..]).map(|found| at + found)
}

/// The high bit of each byte that is a quote or a backslash; exact for the lowest one, which is the only one used.
#[inline(always)]
const fn special_in(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    ((quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash)) & (ONES << 7)
}

/// Whether a string holds a character that JSON wants escaped (RFC 8259 §7). Branch-free, for short strings.
#[inline]
pub(super) fn holds_control(text: &[u8]) -> bool {
    text.iter().fold(false, |found, &byte| found | (byte < b' '))
}

/// A control character or an escape that JSON does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextError;

/// Unescapes a string that comes in pieces (RFC 8259 §7).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unescape {
    escape: Escape,
    /// A first half of a surrogate pair that waits for the second; 0 if none.
    high: u32,
    /// More than the bound came; the rest was dropped.
    pub(super) overflowed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    Backslash,
    /// After `\u`: the digits so far and how many.
    Hex(u32, u8),
}

impl Unescape {
    /// Appends what the string says from `at` on, at most `bytes_max` bytes in all. Returns where it stopped and whether that
    /// is after the closing quote. Half a surrogate pair becomes a byte that no UTF-8 has.
    pub(super) fn push(
        &mut self,
        input: &[u8],
        at: usize,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(usize, bool), TextError> {
        for (index, &byte) in input.iter().enumerate().skip(at) {
            match (self.escape, byte) {
                (Escape::None, b'"') => {
                    self.flush_high(out);
                    return Ok((index + 1, true));
                }
                (Escape::None, b'\\') => self.escape = Escape::Backslash,
                (Escape::None, 0..b' ') => return Err(TextError),
                (Escape::None, _) => self.emit(byte, out),
                (Escape::Backslash, b'u') => self.escape = Escape::Hex(0, 0),
                (Escape::Backslash, _) => {
                    let plain = match byte {
                        b'"' | b'\\' | b'/' => byte,
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        _ => return Err(TextError),
                    };
                    self.escape = Escape::None;
                    self.emit(plain, out);
                }
                (Escape::Hex(so_far, digits), _) => {
                    let digit = char::from(byte).to_digit(16).ok_or(TextError)?;
                    let code = so_far << 4 | digit;
                    if digits < 3 {
                        self.escape = Escape::Hex(code, digits + 1);
                    } else {
                        self.escape = Escape::None;
                        self.emit_unit(code, out);
                    }
                }
            }
            if out.len() > bytes_max {
                out.truncate(bytes_max);
                self.overflowed = true;
            }
        }
        Ok((input.len(), false))
    }

    fn emit(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.flush_high(out);
        out.push(byte);
    }

    /// A UTF-16 code unit of a `\u` escape.
    fn emit_unit(&mut self, unit: u32, out: &mut Vec<u8>) {
        let code = match unit {
            0xd800..=0xdbff => {
                self.flush_high(out);
                self.high = unit;
                return;
            }
            0xdc00..=0xdfff if self.high != 0 => {
                let high = std::mem::take(&mut self.high);
                0x1_0000 + ((high - 0xd800) << 10) + (unit - 0xdc00)
            }
            _ => {
                self.flush_high(out);
                unit
            }
        };
        match char::from_u32(code) {
            Some(letter) => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            None => out.push(0xff),
        }
    }

    fn flush_high(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.high) != 0 {
            out.push(0xff);
        }
    }
}

/// A number as a count: a fraction is rounded up, a negative number or anything else is none, a huge one is the largest.
pub(super) fn count(literal: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(literal).ok()?;
    if let Ok(count) = text.parse() {
        return Some(count);
    }
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    Some(number.ceil() as u64) // saturates
}
