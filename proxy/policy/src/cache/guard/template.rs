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
        let mut text = Vec::with_capacity(reading.text.len() + reading.tokens.len());
        for token in &reading.tokens {
            match token.kind {
                Kind::Word | Kind::Upper => text.extend(reading.folded(token).as_bytes()),
                Kind::Code => text.push(1),
                Kind::Number => text.push(2),
                Kind::Quote => text.push(3),
            }
            text.push(0);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&text);
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        Self(id)
    }
}
