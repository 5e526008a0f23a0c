//! [`Table`]: what is known of short words, looked up once for each word of every text.
//!
//! Invariants: nothing of what was put in is lost, and nothing else is found: a word's bytes are compared, not only its hash. Sparse, so
//! that a word that is not there (most are not) costs one look into a table that stays in the nearest cache. Deliberately absent:
//! words of more than [`SHORT_MAX`] bytes, removal.

use super::words::Word;

/// Bytes of a key: a word's, and its length.
const KEY: usize = 16;
/// Longest word that fits, in bytes.
pub(super) const SHORT_MAX: usize = KEY - 1;
/// Places for each word.
const SPARSE: usize = 4;

/// The words, by their bytes.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Of each place, some bits of the hash; 0 if it is free.
    tags: Vec<u16>,
    entries: Vec<(u128, Word)>,
    mask: usize,
}

impl Table {
    /// With these words; longer ones are left out.
    pub fn new<'a>(words: impl ExactSizeIterator<Item = (&'a str, Word)>) -> Self {
        let places = (words.len() * SPARSE).next_power_of_two();
        let mut table = Self {
            tags: vec![0; places],
            entries: vec![(0, Word::default()); places],
            mask: places - 1,
        };
        for (word, known) in words {
            if let Some(key) = key(word.as_bytes(), 0, word.len()) {
                let (mut at, tag) = table.place(key);
                while table.tags[at] != 0 {
                    at = (at + 1) & table.mask;
                }
                (table.tags[at], table.entries[at]) = (tag, (key, known));
            }
        }
        table
    }

    /// What is known of a word.
    pub fn get(&self, key: u128) -> Option<Word> {
        let (mut at, tag) = self.place(key);
        loop {
            match *self.tags.get(at)? {
                0 => return None,
                found if found == tag && self.entries[at].0 == key => return Some(self.entries[at].1),
                _ => at = (at + 1) & self.mask,
            }
        }
    }

    fn place(&self, key: u128) -> (usize, u16) {
        let (low, high) = (key as u64, (key >> 64) as u64);
        let mixed = (low ^ high.rotate_left(29)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 40) as usize & self.mask, mixed as u16 | 1)
    }
}

/// The word between two places of a text, as one number; `None` if it is too long.
pub(super) fn key(text: &[u8], from: usize, to: usize) -> Option<u128> {
    let len = to.checked_sub(from).filter(|len| *len <= SHORT_MAX)?;
    // What stands behind the word is read with it, and cut off.
    let bytes = match text.get(from..).and_then(|rest| rest.first_chunk::<KEY>()) {
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; KEY];
            bytes[..len].copy_from_slice(text.get(from..to)?);
            bytes
        }
    };
    let kept = (1_u128 << (8 * len)) - 1;
    Some(u128::from_le_bytes(bytes) & kept | (len as u128) << (8 * SHORT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(group: u8) -> Word {
        Word {
            group,
            ..Word::default()
        }
    }

    #[test]
    fn every_word_is_found_and_no_other() {
        let words: Vec<String> = (0..250).map(|at| format!("{}{at}", "w".repeat(at % 13))).collect();
        let all: Vec<(&str, Word)> = words
            .iter()
            .zip(0..)
            .map(|(text, at)| (text.as_str(), word(at)))
            .collect();
        let table = Table::new(all.iter().copied());
        let get = |text: &str| table.get(key(text.as_bytes(), 0, text.len())?);
        for (text, known) in &all {
            assert_eq!(get(text), Some(*known), "{text}");
            for other in [&text[1..], &format!("{text}\0"), &format!("{text}x")] {
                let there = all.iter().find(|(text, _)| *text == other).map(|(_, known)| *known);
                assert_eq!(get(other), there, "{other:?}");
            }
        }
        assert_eq!(get(""), None);
    }

    #[test]
    fn what_stands_around_a_word_does_not_matter() {
        let text = b"the gasket of the pump is worn";
        for from in 0..text.len() {
            for to in from..=text.len().min(from + SHORT_MAX) {
                assert_eq!(key(text, from, to), key(&text[from..to], 0, to - from), "{from}..{to}");
            }
        }
        assert_eq!(key(text, 0, SHORT_MAX + 1), None);
        assert_eq!(key(text, 5, 4), None);
    }
}
