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
/// Words that are looked up side by side.
const GROUP: usize = 16;
/// Starts of the two hashes: words, and pieces that continue a word.
const WORD_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const CONTINUATION_SEED: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Memory for one text's pieces, reused.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    ids: Vec<u16>,
    word: Word,
    /// The text in lower case, with eight zeros behind it.
    lowered: Vec<u8>,
    /// What is held back until its order is known: characters with a combining class.
    held: Vec<(u8, char)>,
    /// Words of a plain text: from, to, and hash.
    words: Vec<(u32, u32, u64)>,
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
            vocabulary
                .ends
                .push((u32::try_from(vocabulary.text.len()).ok()?, continues));
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
        if self.is_plain(text.as_bytes()) {
            self.plain(text.as_bytes(), out);
        } else {
            self.any(text, out);
        }
    }

    /// Whether a text is ASCII without control characters that would join what stands around them.
    fn is_plain(&self, text: &[u8]) -> bool {
        text.is_ascii()
            && text
                .iter()
                .all(|byte| (0x20..0x7f).contains(byte) || matches!(byte, b'\n' | b'\r' | b'\t'))
    }

    /// The usual case: words are looked up where they stand.
    fn plain(&self, text: &[u8], out: &mut Pieces) {
        let Pieces {
            ids, lowered, words, ..
        } = out;
        words.clear();
        lowered.clear();
        lowered.extend(text.iter().map(u8::to_ascii_lowercase));
        lowered.extend([0; 8]);
        let mut at = 0;
        while at < text.len() {
            let from = at;
            while self.unicode.ascii(lowered[at]).0 == Class::Word && at < text.len() {
                at += 1;
            }
            if at == from {
                at += 1;
                if self.unicode.ascii(lowered[from]).0 == Class::Space {
                    continue;
                }
            }
            let hash = hash_padded(&lowered[from..], at - from, WORD_SEED);
            words.push((from as u32, at as u32, hash));
        }
        // A table of this size is in no near cache: the words' places in it are read side by side, not one behind the other.
        let mut places = [(EMPTY, 0); GROUP];
        for group in words.chunks(GROUP) {
            for (place, &(_, _, hash)) in places.iter_mut().zip(group) {
                place.0 = self.slots[hash as usize & (self.slots.len() - 1)];
            }
            for (found, begin) in &mut places {
                let id = usize::from((*found & 0x7fff) as u16);
                // Of nothing, or of the first piece: what begins at the front.
                *begin = id
                    .checked_sub(1)
                    .and_then(|before| self.ends.get(before))
                    .map_or(0, |end| end.0);
            }
            for (&(found, begin), &(from, to, hash)) in places.iter().zip(group) {
                let word = &lowered[from as usize..to as usize];
                let id = (found & 0x7fff) as u16;
                let is_it = found != EMPTY && found >> 15 == tag(hash) && {
                    let (end, continues) = self.ends[usize::from(id)];
                    !continues && self.text.as_bytes()[begin as usize..end as usize] == *word
                };
                match Some(id).filter(|_| is_it).or_else(|| self.find(hash, word, false)) {
                    Some(id) => ids.push(id),
                    None => self.rare(word, word.len(), ids),
                }
            }
        }
    }

    fn any(&self, text: &str, out: &mut Pieces) {
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
        match self.find(hash(&word.bytes, WORD_SEED), &word.bytes, false) {
            Some(id) => ids.push(id),
            None => self.rare(&word.bytes, word.chars, ids),
        }
        word.begin();
    }

    /// A word that is no piece by itself. (One that is, is never longer than `WORD_CHARS_MAX`.)
    #[cold]
    fn rare(&self, word: &[u8], chars: usize, ids: &mut Vec<u16>) {
        let before = ids.len();
        if chars > WORD_CHARS_MAX || !self.split(word, ids) {
            ids.truncate(before);
            ids.push(self.unknown);
        }
    }

    /// Longest match first; whether the whole word was matched.
    fn split(&self, word: &[u8], ids: &mut Vec<u16>) -> bool {
        let mut from = 0;
        while from < word.len() {
            let continues = from > 0;
            let seed = if continues { CONTINUATION_SEED } else { WORD_SEED };
            let rest = &word[from..];
            let is_boundary = |len: usize| rest.get(len).is_none_or(|&next| next & 0xc0 != 0x80);
            let longest = (1..=rest.len().min(self.longest))
                .rev()
                .filter(|&len| is_boundary(len))
                .find_map(|len| {
                    let piece = &rest[..len];
                    Some((self.find(hash(piece, seed), piece, continues)?, len))
                });
            let Some((id, len)) = longest else { return false };
            ids.push(id);
            from += len;
        }
        true
    }

    #[inline]
    fn find(&self, hash: u64, bytes: &[u8], continues: bool) -> Option<u16> {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
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
        let hash = hash(bare.as_bytes(), seed);
        let id = (self.ends.len() - 1) as u32;
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
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
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
        self.chars += 1;
    }
}

/// A hash of a word, eight bytes at a time.
#[inline]
fn hash(word: &[u8], seed: u64) -> u64 {
    let mut hash = seed ^ word.len() as u64;
    for chunk in word.chunks(8) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(eight));
    }
    spread(hash)
}

/// The same, of the first `len` bytes of a longer slice with at least eight behind them.
#[inline]
fn hash_padded(bytes: &[u8], len: usize, seed: u64) -> u64 {
    let mut hash = seed ^ len as u64;
    let mut at = 0;
    while at < len {
        let eight = bytes
            .get(at..at + 8)
            .and_then(|eight| eight.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let left = len - at;
        let kept = if left < 8 {
            eight & ((1 << (left * 8)) - 1)
        } else {
            eight
        };
        hash = mix(hash, kept);
        at += 8;
    }
    spread(hash)
}

#[inline]
fn mix(hash: u64, eight: u64) -> u64 {
    (hash.rotate_left(23) ^ eight).wrapping_mul(0x9fb2_1c65_1e98_df25)
}

/// The low bits of a product depend on the low bits of its factors alone.
#[inline]
fn spread(hash: u64) -> u64 {
    hash ^ hash >> 32
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
        // Whether or not it takes the way of plain texts.
        assert_eq!(split(&vocabulary, "[CLS]\u{1}"), ["[", "cl", "##s", "]"]);
    }

    #[test]
    fn accents_case_and_control_characters_go() {
        let vocabulary = builtin();
        assert_eq!(
            split(&vocabulary, "HÉL\u{0}LO \u{feff}re\u{301}sume\u{301}\tИ\u{306}"),
            ["hello", "resume", "и"]
        );
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
            assert_eq!(
                vocabulary.find(hash(piece.as_bytes(), seed), piece.as_bytes(), continues),
                Some(id)
            );
            let padded = format!("{piece}followed by others");
            assert_eq!(
                hash_padded(padded.as_bytes(), piece.len(), seed),
                hash(piece.as_bytes(), seed)
            );
        }
    }
}
