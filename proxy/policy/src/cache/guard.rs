//! The guard: whether two texts that are near each other may share an answer. Cosine only ranks; this decides.
//!
//! Invariants: deterministic; every rule can only refuse, and what no rule understands is refused. Two texts that may share
//! an answer have equal signatures: the same codes byte for byte, numbers with their units, quoted strings, symbols,
//! negations, and word classes. The signature is therefore part of a bucket's key, and [`Guard::compare`] looks at the rest: which
//! number belongs to what, comparatives, names, order, and edits too small to be another way of saying the same.
//! Deliberately absent: lower-casing of codes and folding of white space inside quotes (`M8` and `m8` are different parts),
//! learned classifiers, and languages that are not written in Latin letters (they are matched exactly).

mod pair;
mod read;
mod slots;
mod stem;
mod table;
mod template;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;

pub use read::Reading;
pub use template::Template;
pub use words::{Words, WordsError};

/// The words that the product carries (where they come from: `model/README.md`).
const WORDS: &str = include_str!("../../model/guard-words.yaml");

/// How strict the pair guard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All rules but those about small edits; for texts whose content words never stand for different things.
    G1,
    /// All rules.
    #[default]
    G2,
}

/// The first rule that keeps two texts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// One is written in letters that the rules do not know, or too long to be looked at.
    Language,
    /// Codes, numbers with units, quoted strings, symbols, negations or word classes differ.
    Signature,
    /// `above` here, `below` there, or bound to another number.
    Polarity,
    /// A number or code belongs to something else: "line 2 … 1 mm" and "line 1 … 2 mm".
    Role,
    /// A name stands in one of them only.
    Name,
    /// The same words in another order.
    Order,
    /// One says `archive`, the other `unarchive`.
    Prefix,
    /// They share less than half of the longer one's content words.
    Apart,
    /// So few words differ that they rather say something else than the same in other words.
    SmallEdit,
    /// The same content, but other prepositions, pronouns, modal verbs or word forms.
    Grammar,
}

impl Refusal {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 10] = [
        Self::Language,
        Self::Signature,
        Self::Polarity,
        Self::Role,
        Self::Name,
        Self::Order,
        Self::Prefix,
        Self::Apart,
        Self::SmallEdit,
        Self::Grammar,
    ];

    /// Its name in metrics and explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Language => "language",
            Self::Signature => "signature",
            Self::Polarity => "polarity",
            Self::Role => "role",
            Self::Name => "name",
            Self::Order => "order",
            Self::Prefix => "prefix",
            Self::Apart => "apart",
            Self::SmallEdit => "small_edit",
            Self::Grammar => "grammar",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rules with their words. Make one, share it.
#[derive(Debug)]
pub struct Guard {
    words: Words,
}

impl Guard {
    /// With the words that the product carries.
    ///
    /// # Panics
    /// Never: a test parses them.
    pub fn builtin() -> Self {
        let words = Words::parse(WORDS).expect("the embedded words are tested");
        Self { words }
    }

    /// With other words.
    pub fn new(words: Words) -> Self {
        Self { words }
    }

    /// A hash of all that a reading depends on.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.words.fingerprint()
    }

    /// Reads a text into `reading`, whose memory is reused.
    pub fn read(&self, text: &str, reading: &mut Reading) {
        reading.read(text, &self.words);
    }

    /// Whether two readings may share an answer.
    ///
    /// # Errors
    /// The first rule that keeps them apart.
    pub fn compare(&self, one: &Reading, other: &Reading, level: Level) -> Result<(), Refusal> {
        pair::compare(one, other, level)
    }
}
