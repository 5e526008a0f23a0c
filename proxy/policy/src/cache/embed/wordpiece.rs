//! WordPiece: a text into pieces of a vocabulary, exactly as the reference tokenizer of BERT (uncased) does it.
//!
//! Invariants: for every text, the same ids as the `tokenizers` crate gives with `BertNormalizer`, `BertPreTokenizer` and
//! `WordPiece` (a test of the tests' package compares them over all of Unicode). Time is bounded: a word of n characters
//! costs at most n times the longest piece. Deliberately absent: special tokens (`[CLS]` in a text is four pieces) and
//! offsets into the text.

use super::unicode::{Class, Unicode};

/// Longest word that is looked up, in characters; a longer one is one unknown piece (the reference's own bound).
const WORD_CHARS_MAX: usize = 100;
const EMPTY: u32 = u32::MAX;
/// Starts of the two hashes: words, and pieces that continue a word.
const WORD_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const CONTINUATION_SEED: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Memory for one text's pieces, reused.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    ids: Vec<u16>,
    word: Word,
    /// What is held back until its order is known: characters with a combining class.
    held: Vec<(u8, char)>,
}

impl Pieces {
    /// The ids of the last text.
    pub fn ids(&self) -> &[u16] {
        &self.ids
    }
}

/// The word under construction.
#[derive(Clone, Debug, Default)]
struct Word {
    bytes: Vec<u8>,
    chars: usize,
    hash: u64,
    /// Hashes of the prefixes of what is left of a word, by the bytes that they cover.
    prefixes: Vec<(u64, usize)>,
}

/// The pieces, in a table by hash.
#[derive(Debug)]
pub struct Vocabulary {
    /// All pieces, without the `##` of continuations.
    text: String,
    /// Where the piece of an id ends, and whether it continues a word.
    ends: Vec<(u32, bool)>,
    /// Ids by hash, probed linearly, with a piece of the hash above the id's 15 bits.
    slots: Vec<u32>,
    /// Longest piece, in bytes.
    longest: usize,
    unknown: u16,
    unicode: Unicode,
}

impl Vocabulary {
    /// From one piece a line, its id being the line's number from 0. `None` if `[UNK]` is missing or there are more than
    /// 32,767 of them.
    pub fn parse(lines: &str) -> Option<Self> {
        let pieces: Vec<&str> = lines.lines().collect();
        if pieces.len() > i16::MAX as usize {
            return None;
        }
        let unknown = pieces.iter().position(|piece| *piece == "[UNK]")?;
        let mut vocabulary = Self {
            text: String::with_capacity(lines.len()),
            ends: Vec::with_capacity(pieces.len()),
            slots: vec![EMPTY; (pieces.len() * 2).next_power_of_two()],
            longest: 0,
            unknown: u16::try_from(unknown).ok()?,
            unicode: Unicode::builtin(),
        };
        for piece in pieces {
            let (bare, continues) = match piece.strip_prefix("##") {
                Some(bare) if !bare.is_empty() => (bare, true),
                _ => (piece, false),
            };
            vocabulary.text.push_str(bare);
            vocabulary.ends.push((u32::try_from(vocabulary.text.len()).ok()?, continues));
            vocabulary.longest = vocabulary.longest.max(bare.len());
            vocabulary.insert(bare, continues);
        }
        Some(vocabulary)
    }

    /// Pieces in all.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The piece of an id, without the `##` of a continuation; empty if there is none.
    pub fn piece(&self, id: u16) -> &str {
        let id = usize::from(id);
        let from = id.checked_sub(1).map_or(0, |before| self.ends[before].0 as usize);
        self.ends.get(id).map_or("", |&(to, _)| &self.text[from..to as usize])
    }

    /// Splits a text into pieces.
    pub fn pieces(&self, text: &str, out: &mut Pieces) {
        out.ids.clear();
        out.held.clear();
        out.word.begin();
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if byte < 0x80 {
                let (class, lowered) = self.unicode.ascii(byte);
                if !out.held.is_empty() && class != Class::Gone {
                    self.release(out);
                }
                match class {
                    Class::Word => out.word.push(lowered),
                    Class::Space => self.finish(out),
                    Class::Alone => self.alone(&[byte], out),
                    Class::Gone => {}
                }
                at += 1;
            } else {
                let Some(next) = text[at..].chars().next() else { break };
                self.beyond_ascii(next, out);
                at += next.len_utf8();
            }
        }
        self.release(out);
        self.finish(out);
    }

    /// Canonical decomposition and order (Unicode §3.11), with the marks already left out that are no piece of a word.
    #[cold]
    fn beyond_ascii(&self, from: char, out: &mut Pieces) {
        for &(order, to) in self.unicode.expand(from, &mut [(0, from); 3]) {
            if order != 0 {
                out.held.push((order, to));
            } else {
                self.release(out);
                self.take(to, out);
            }
        }
    }

    /// Takes what was held back, in order of combining classes.
    fn release(&self, out: &mut Pieces) {
        if out.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut out.held);
        held.sort_by_key(|&(order, _)| order);
        for (_, next) in held.drain(..) {
            self.take(next, out);
        }
        out.held = held;
    }

    fn take(&self, next: char, out: &mut Pieces) {
        let mut buffer = [0; 4];
        match self.unicode.class(next) {
            Class::Word => {
                let bytes = next.encode_utf8(&mut buffer).as_bytes();
                bytes.iter().for_each(|&byte| out.word.push(byte));
                out.word.chars -= bytes.len() - 1;
            }
            Class::Space => self.finish(out),
            Class::Alone => self.alone(next.encode_utf8(&mut buffer).as_bytes(), out),
            Class::Gone => {}
        }
    }

    /// A character that is a word of its own.
    fn alone(&self, bytes: &[u8], out: &mut Pieces) {
        self.finish(out);
        bytes.iter().for_each(|&byte| out.word.push(byte));
        self.finish(out);
    }

    /// Looks up the word and begins the next.
    fn finish(&self, out: &mut Pieces) {
        let Pieces { ids, word, .. } = out;
        if word.bytes.is_empty() {
            return;
        }
        if let Some(id) = self.find(word.hash, &word.bytes, false) {
            // A piece in the vocabulary is never longer than `WORD_CHARS_MAX`.
            ids.push(id);
        } else {
            let before = ids.len();
            if word.chars > WORD_CHARS_MAX || !self.split(word, ids) {
                ids.truncate(before);
                ids.push(self.unknown);
            }
        }
        word.begin();
    }

    /// Longest match first; whether the whole word was matched.
    fn split(&self, word: &mut Word, ids: &mut Vec<u16>) -> bool {
        let mut from = 0;
        while from < word.bytes.len() {
            let continues = from > 0;
            let rest = &word.bytes[from..];
            let mut hash = if continues { CONTINUATION_SEED } else { WORD_SEED };
            word.prefixes.clear();
            for (at, &byte) in rest.iter().take(self.longest).enumerate() {
                hash = step(hash, byte);
                let is_boundary = rest.get(at + 1).is_none_or(|&next| next & 0xc0 != 0x80);
                if is_boundary {
                    word.prefixes.push((hash, at + 1));
                }
            }
            let longest = word
                .prefixes
                .iter()
                .rev()
                .find_map(|&(hash, len)| Some((self.find(hash, &rest[..len], continues)?, len)));
            let Some((id, len)) = longest else { return false };
            ids.push(id);
            from += len;
        }
        true
    }

    #[inline]
    fn find(&self, hash: u64, bytes: &[u8], continues: bool) -> Option<u16> {
        let mask = self.slots.len() - 1;
        let mut slot = spread(hash) as usize & mask;
        loop {
            let found = self.slots[slot];
            if found == EMPTY {
                return None;
            }
            if found >> 15 == tag(hash) {
                let id = (found & 0x7fff) as u16;
                if self.ends[usize::from(id)].1 == continues && self.piece(id).as_bytes() == bytes {
                    return Some(id);
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Gives the piece that was added last its slot. A repeated piece takes the slot of the former, as in the reference.
    fn insert(&mut self, bare: &str, continues: bool) {
        let seed = if continues { CONTINUATION_SEED } else { WORD_SEED };
        let hash = bare.bytes().fold(seed, step);
        let id = (self.ends.len() - 1) as u32;
        let mask = self.slots.len() - 1;
        let mut slot = spread(hash) as usize & mask;
        while self.slots[slot] != EMPTY {
            let former = (self.slots[slot] & 0x7fff) as u16;
            if self.ends[usize::from(former)].1 == continues && self.piece(former) == bare {
                break;
            }
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = tag(hash) << 15 | id;
    }
}

impl Word {
    fn begin(&mut self) {
        self.bytes.clear();
        self.chars = 0;
        self.hash = WORD_SEED;
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
        self.chars += 1;
        self.hash = step(self.hash, byte);
    }
}

#[inline]
fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// The low bits of the hash depend on the low bits of the bytes alone.
#[inline]
fn spread(hash: u64) -> u64 {
    hash ^ hash >> 29
}

/// 17 bits; never all ones together with an id of all ones, because ids end before 32,767.
#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 47) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(vocabulary: &Vocabulary, text: &str) -> Vec<String> {
        let mut pieces = Pieces::default();
        vocabulary.pieces(text, &mut pieces);
        pieces
            .ids()
            .iter()
            .map(|&id| {
                let mark = if vocabulary.ends[usize::from(id)].1 { "##" } else { "" };
                format!("{mark}{}", vocabulary.piece(id))
            })
            .collect()
    }

    fn builtin() -> Vocabulary {
        Vocabulary::parse(super::super::VOCABULARY).unwrap()
    }

    #[test]
    fn words_are_split_into_the_longest_pieces() {
        let vocabulary = builtin();
        assert_eq!(
            split(&vocabulary, "Unaffable  WELDING, 4711-B"),
            ["una", "##ffa", "##ble", "welding", ",", "47", "##11", "-", "b"]
        );
        assert_eq!(split(&vocabulary, "[CLS]"), ["[", "cl", "##s", "]"]);
    }

    #[test]
    fn accents_case_and_control_characters_go() {
        let vocabulary = builtin();
        assert_eq!(split(&vocabulary, "HÉL\u{0}LO \u{feff}re\u{301}sume\u{301}\tИ\u{306}"), ["hello", "resume", "и"]);
        assert_eq!(split(&vocabulary, "中国"), ["中", "国"]);
    }

    #[test]
    fn what_no_piece_covers_is_unknown_as_a_whole() {
        let vocabulary = builtin();
        assert_eq!(split(&vocabulary, "ab\u{1f600}cd x"), ["[UNK]", "x"]);
        let long = "a".repeat(WORD_CHARS_MAX);
        assert_ne!(split(&vocabulary, &long), ["[UNK]"]);
        assert_eq!(split(&vocabulary, &format!("{long}a")), ["[UNK]"]);
        // Characters are counted, not bytes.
        assert_ne!(split(&vocabulary, &"и".repeat(WORD_CHARS_MAX)), ["[UNK]"]);
        assert_eq!(split(&vocabulary, &"и".repeat(WORD_CHARS_MAX + 1)), ["[UNK]"]);
    }

    #[test]
    fn every_piece_is_found_by_its_own_text() {
        let vocabulary = builtin();
        for id in 0..vocabulary.len() as u16 {
            let (piece, continues) = (vocabulary.piece(id), vocabulary.ends[usize::from(id)].1);
            let seed = if continues { CONTINUATION_SEED } else { WORD_SEED };
            let hash = piece.bytes().fold(seed, step);
            assert_eq!(vocabulary.find(hash, piece.as_bytes(), continues), Some(id));
        }
    }
}
