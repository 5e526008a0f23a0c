//! The guard's words, from YAML into one table by word.
//!
//! Invariants: a word has at most two classes; every list is lower case and without apostrophes. Deliberately absent:
//! defaults in code. What the guard knows of a language stands in the file.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;
use serde::Deserialize;

use super::table::{self, Table};

/// Classes that can be told apart: bits of [`super::Reading`]'s set, with 0 kept for none.
pub(super) const CLASSES_MAX: usize = 256;

/// What a word does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    /// It carries matter.
    #[default]
    Content,
    /// It carries grammar, which counts where all else is the same.
    Function,
    /// It means nothing to the answer.
    Neutral,
}

/// What the guard knows of a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// Classes of the presence groups; 0 is none.
    pub classes: [u8; 2],
    /// 1 for more, -1 for less, 0 for neither.
    pub polarity: i8,
    /// Whether it negates.
    pub negates: bool,
    /// What it does.
    pub part: Part,
    /// Whether it may stand in upper case without being a code.
    pub not_code: bool,
    /// Whether it may stand between a preposition and what names a thing.
    pub generic: bool,
    /// Whether `no` behind it is short for `number`.
    pub numbered: bool,
    /// Whether it is a unit.
    pub unit: bool,
    /// Whether it says how to look at a thing or judge it, which varies freely where the thing is named by codes.
    pub looks: bool,
    /// Whether it is grammar that varies freely where the thing is named by codes.
    pub light: bool,
    /// Whether it says that a number is a limit.
    pub limits: bool,
    /// Words of one meaning, as an index into `groups`, plus 1.
    pub group: u8,
    /// Its value if it is a number, as an index into `numbers`, plus 1.
    pub number: u8,
}

/// The words, by word.
#[derive(Debug)]
pub struct Words {
    table: HashMap<Box<str>, Word, BuildHasherDefault<Quick>>,
    /// The short ones of `table`, which nearly all are.
    short: Table,
    numbers: Vec<String>,
    groups: Vec<String>,
    fingerprint: [u8; 32],
}

/// What is wrong with a file of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordsError {
    /// Not of the form.
    Form(String),
    /// More than 255 classes, or a word with more than two.
    Classes(String),
}

impl fmt::Display for WordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(why) => write!(f, "the guard's words cannot be read: {why}"),
            Self::Classes(word) => write!(f, "`{word}` has more classes than the guard can tell apart"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    presence: IndexMap<String, IndexMap<String, Vec<String>>>,
    polarity: IndexMap<String, Vec<String>>,
    negation: Vec<String>,
    foreign_negation: Vec<String>,
    not_codes: Vec<String>,
    neutral: Vec<String>,
    function: Vec<String>,
    generic: Vec<String>,
    numbered: Vec<String>,
    numbers: IndexMap<String, String>,
    units: Vec<String>,
    looks: Vec<String>,
    light: Vec<String>,
    limits: Vec<String>,
    synonyms: Vec<Vec<String>>,
}

impl Words {
    /// From YAML.
    ///
    /// # Errors
    /// When it is not of the form, or has more classes than can be told apart.
    pub fn parse(yaml: &str) -> Result<Self, WordsError> {
        let file: File = serde_saphyr::from_str(yaml).map_err(|error| WordsError::Form(error.to_string()))?;
        let mut words = Self {
            table: HashMap::default(),
            short: Table::default(),
            numbers: Vec::new(),
            groups: Vec::new(),
            fingerprint: blake3::hash(yaml.as_bytes()).into(),
        };
        let mut class = 0_usize;
        for members in file.presence.values().flat_map(IndexMap::values) {
            class += 1;
            for word in members {
                words.add_class(word, class)?;
            }
        }
        for (sign, polarity) in [("GT", 1), ("LT", -1)] {
            let members = file.polarity.get(sign).map_or(&[][..], Vec::as_slice);
            words.each(members, |word| word.polarity = polarity);
        }
        words.each(&file.negation, |word| word.negates = true);
        words.each(&file.foreign_negation, |word| word.negates = true);
        words.each(&file.not_codes, |word| word.not_code = true);
        words.each(&file.function, |word| word.part = Part::Function);
        words.each(&file.neutral, |word| word.part = Part::Neutral);
        words.each(&file.generic, |word| word.generic = true);
        words.each(&file.numbered, |word| word.numbered = true);
        words.each(&file.units, |word| word.unit = true);
        if let Some(units) = file.presence.get("unit") {
            units
                .values()
                .for_each(|members| words.each(members, |word| word.unit = true));
        }
        words.each(&file.looks, |word| word.looks = true);
        words.each(&file.light, |word| word.light = true);
        words.each(&file.limits, |word| word.limits = true);
        for members in &file.synonyms {
            let Some(first) = members.first() else { continue };
            words.groups.push(first.clone());
            let group = u8::try_from(words.groups.len()).map_err(|_| WordsError::Classes(first.clone()))?;
            words.each(members, |word| word.group = group);
        }
        for (word, value) in file.numbers {
            words.numbers.push(value);
            let number = u8::try_from(words.numbers.len()).map_err(|_| WordsError::Classes(word.clone()))?;
            words.entry(&word).number = number;
        }
        words.short = Table::new(words.table.iter().map(|(word, known)| (&**word, *known)));
        Ok(words)
    }

    /// What is known of a word in lower case.
    pub(super) fn get(&self, word: &str) -> Word {
        self.find(word.as_bytes(), 0, word.len()).unwrap_or_default()
    }

    /// The same for the word between two places of a text in lower case, if anything is known of it.
    pub(super) fn find(&self, text: &[u8], from: usize, to: usize) -> Option<Word> {
        if let Some(key) = table::key(text, from, to) {
            return self.short.get(key);
        }
        let word = std::str::from_utf8(text.get(from..to)?).ok()?;
        self.table.get(word).copied()
    }

    /// A word's value, if it is a number.
    pub(super) fn number(&self, word: Word) -> Option<&str> {
        let index = usize::from(word.number).checked_sub(1)?;
        self.numbers.get(index).map(String::as_str)
    }

    /// A hash of the file.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The word that stands for a group of words of one meaning.
    pub(super) fn group(&self, word: Word) -> Option<&str> {
        let index = usize::from(word.group).checked_sub(1)?;
        self.groups.get(index).map(String::as_str)
    }

    fn entry(&mut self, word: &str) -> &mut Word {
        self.table.entry(word.into()).or_default()
    }

    fn each(&mut self, words: &[String], set: impl Fn(&mut Word)) {
        for word in words {
            set(self.entry(word));
        }
    }

    fn add_class(&mut self, word: &str, class: usize) -> Result<(), WordsError> {
        let error = || WordsError::Classes(word.to_owned());
        let class = u8::try_from(class).map_err(|_| error())?;
        let free = self
            .entry(word)
            .classes
            .iter_mut()
            .find(|slot| **slot == 0 || **slot == class);
        *free.ok_or_else(error)? = class;
        Ok(())
    }
}

/// Eight bytes at a time: the table is the operator's own, so nobody gains from collisions in it.
#[derive(Debug, Default)]
pub(super) struct Quick(u64);

impl Quick {
    fn mix(&mut self, eight: u64) {
        self.0 = (self.0.rotate_left(23) ^ eight).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<8>();
        whole.iter().for_each(|eight| self.mix(u64::from_le_bytes(*eight)));
        let rest = rest
            .iter()
            .fold(rest.len() as u64, |rest, byte| rest << 8 | u64::from(*byte));
        self.mix(rest);
    }

    fn write_u8(&mut self, _: u8) {
        // What ends a string; its length is mixed in already.
    }

    fn finish(&self) -> u64 {
        // The table looks at the highest and the lowest bits.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_words_are_read() {
        let words = Words::parse(super::super::WORDS).unwrap();
        assert!(words.get("left").classes[0] != 0 && words.get("left").classes != words.get("right").classes);
        assert_eq!((words.get("above").polarity, words.get("below").polarity), (1, -1));
        assert!(words.get("not").negates && words.get("nicht").negates && !words.get("weld").negates);
        assert_eq!(words.number(words.get("seven")), Some("7"));
        assert_eq!(words.number(words.get("weld")), None);
        assert!(words.get("mm").unit && words.get("the").part == Part::Neutral);
    }

    #[test]
    fn a_file_of_another_form_is_refused_with_a_reason() {
        assert!(matches!(Words::parse("presence: 3"), Err(WordsError::Form(_))));
        let twice = "a: {x: [w]}, b: {y: [w]}, c: {z: [w]}";
        let rest = "polarity: {}\nnegation: []\nforeign_negation: []\nnot_codes: []\nneutral: []\nfunction: []\n\
                    generic: []\nnumbered: []\nnumbers: {}\nunits: []\nlooks: []\nlight: []\nlimits: []\nsynonyms: []\n";
        let error = Words::parse(&format!("presence: {{{twice}}}\n{rest}")).unwrap_err();
        assert_eq!(error, WordsError::Classes("w".to_owned()));
        assert!(Words::parse(&format!("presence: {{}}\n{rest}")).is_ok());
    }
}
