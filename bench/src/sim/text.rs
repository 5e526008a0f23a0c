//! Appending text to byte buffers: JSON strings, numbers, realistic identifiers.
//!
//! The fast path is built from these: every piece is a `memcpy` into a buffer that is reused, nothing is formatted through
//! `std::fmt`.

/// Something that appends itself to a buffer.
pub trait Put {
    /// Appends `self` to `out`.
    fn put(self, out: &mut Vec<u8>);
}

impl Put for &str {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Put for &[u8] {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Put for u64 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
    }
}

impl Put for u32 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        u64::from(self).put(out);
    }
}

/// Text inside a JSON string, escaped, without its quotes.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(pub &'a str);

impl Put for Json<'_> {
    fn put(self, out: &mut Vec<u8>) {
        let mut plain = 0;
        let bytes = self.0.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
                continue;
            }
            out.extend_from_slice(&bytes[plain..at]);
            plain = at + 1;
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            }
        }
        out.extend_from_slice(&bytes[plain..]);
    }
}

/// An identifier: `len` characters of the base-62 alphabet, different for every `seq`.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    /// The request's number.
    pub seq: u64,
    /// Characters.
    pub len: usize,
}

impl Put for Id {
    fn put(self, out: &mut Vec<u8>) {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789AB";
        digits(self, out, ALPHABET, 6);
    }
}

/// An identifier of `len` lower-case hex digits.
#[derive(Debug, Clone, Copy)]
pub struct HexId(pub Id);

impl Put for HexId {
    fn put(self, out: &mut Vec<u8>) {
        digits(self.0, out, b"0123456789abcdef", 4);
    }
}

fn digits(id: Id, out: &mut Vec<u8>, alphabet: &[u8], bits: u32) {
    // Mixed once first, or the words of one identifier would come back, shifted, in the next.
    let mut state = mix(id.seq.wrapping_add(0x51CE));
    let mut left = id.len;
    while left > 0 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = mix(state);
        let mut run = [0u8; 10];
        for digit in &mut run {
            *digit = alphabet[word as usize & (alphabet.len() - 1)];
            word >>= bits;
        }
        let take = left.min(10);
        out.extend_from_slice(&run[..take]);
        left -= take;
    }
}

/// The finaliser of SplitMix64.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// Appends each argument to a buffer, in order.
macro_rules! put {
    ($out:expr, $($part:expr),+ $(,)?) => {{
        let out: &mut Vec<u8> = $out;
        $( $crate::sim::text::Put::put($part, out); )+
    }};
}
pub(crate) use put;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_text_round_trips() {
        let text = "a\"b\\c\n\t\u{1}é日🦀";
        let mut out = b"\"".to_vec();
        put!(&mut out, Json(text), "\"");
        assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
    }

    #[test]
    fn identifiers_differ_and_have_their_length() {
        let id = |seq| {
            let mut out = Vec::new();
            Id { seq, len: 29 }.put(&mut out);
            out
        };
        assert_eq!(id(1).len(), 29);
        assert_ne!(id(1), id(2));
        assert_eq!(id(7), id(7));
    }
}
