//! Templates: a text with its slots taken out, to gather evidence for pairs of ways to say something.
//!
//! Invariants: two texts that differ only in codes, numbers and quoted strings have one template, whatever case and
//! punctuation they are written in; a template cannot be read back. Deliberately absent: names in placeholders, because a
//! name may change what is asked for.

use super::read::{Kind, Reading};

/// What identifies a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Template(pub [u8; 16]);

impl Template {
    /// The template of a text.
    pub fn of(reading: &Reading) -> Self {
        let mut hasher = blake3::Hasher::new();
        for token in &reading.tokens {
            match token.kind {
                Kind::Word | Kind::Upper => hasher.update(reading.folded(token).as_bytes()),
                Kind::Code => hasher.update(b"\x01"),
                Kind::Number => hasher.update(b"\x02"),
                Kind::Quote => hasher.update(b"\x03"),
            };
            hasher.update(b"\0");
        }
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        Self(id)
    }
}
