//! One pass over a text: words, codes, numbers, quotes, and the signature that they add up to.
//!
//! Invariants: every character counts: as part of a token, as a symbol of the signature, or as one of the few marks that
//! only separate. Codes, quoted strings and symbols are kept byte for byte. A text beyond [`CACHE_TEXT_BYTES_MAX`] or with
//! letters that are not Latin is marked as not understood. Deliberately absent: grammar; what belongs to what is found in
//! `slots`, by neighbourhood alone.

use sluice_wire::limits::CACHE_TEXT_BYTES_MAX;

use super::slots::{self, Slot};
use super::stem::stem_len;
use super::words::{CLASSES_MAX, Part, Word, Words};

/// Bytes of a text, from and to.
pub(super) type Span = (u32, u32);

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word, folded to lower case.
    Word,
    /// Letters in upper case, which also serve as a word: `PDF`.
    Upper,
    /// Anything with digits in it that is no plain number, or with marks inside: `4711-B`, `a_b`.
    Code,
    /// A number, in digits or as a word.
    Number,
    /// What stood in quotes.
    Quote,
}

/// A word, code, number or quote of a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    /// In the text as it came.
    pub raw: Span,
    /// In the folded text: a word in lower case, a number in digits.
    pub folded: Span,
    /// In the folded text: the word that stands for all of its meaning; empty if there is none.
    pub group: Span,
    pub word: Word,
    /// Whether anything is known of it: else `word` says nothing.
    pub is_known: bool,
    /// Capitalised, and not because a sentence begins.
    pub is_name: bool,
    /// Behind a mark that ends a clause.
    pub after_break: bool,
    /// Before a full stop, colon or number sign.
    pub before_mark: bool,
    /// Part of a slot: a value, what it belongs to, and what ties it there.
    pub in_slot: bool,
}

/// A text as the guard sees it. Keep it, so that its memory is reused.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub(super) text: String,
    pub(super) folded: String,
    pub(super) tokens: Vec<Token>,
    pub(super) slots: Vec<Slot>,
    /// Comparatives for more, and for less.
    pub(super) polarity: [u32; 2],
    pub(super) understood: bool,
    is_ascii: bool,
    /// Whether there is an apostrophe anywhere: most texts have none, and are not searched word by word.
    has_apostrophes: bool,
    signature: Vec<u8>,
    items: Vec<(u8, Span, Span)>,
    classes: [u64; CLASSES_MAX / 64],
    negations: u32,
}

impl Reading {
    /// Whether the rules apply to this text at all; if not, it may only be matched exactly.
    pub fn is_understood(&self) -> bool {
        self.understood
    }

    /// Codes, numbers with units, quoted strings, symbols, negations and classes, in one canonical form: two texts that
    /// may share an answer have the same.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The text that was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn raw(&self, token: &Token) -> &str {
        span(&self.text, token.raw)
    }

    pub(super) fn folded(&self, token: &Token) -> &str {
        span(&self.folded, token.folded)
    }

    /// The word's stem, or the word that stands for all of its meaning.
    pub(super) fn stem(&self, token: &Token) -> &str {
        let folded = self.folded(token);
        match token.kind {
            Kind::Word if token.word.group != 0 => span(&self.folded, token.group),
            Kind::Word => &folded[..stem_len(folded)],
            _ => folded,
        }
    }

    pub(super) fn read(&mut self, text: &str, words: &Words) {
        self.text.clear();
        self.folded.clear();
        self.tokens.clear();
        self.items.clear();
        self.understood = text.len() <= CACHE_TEXT_BYTES_MAX;
        if self.understood {
            self.text.push_str(text);
            self.is_ascii = text.is_ascii();
            self.has_apostrophes = !self.is_ascii || text.as_bytes().contains(&b'\'');
            if self.is_ascii {
                // Words are then folded where they stand.
                self.folded.push_str(text);
                self.folded.make_ascii_lowercase();
            }
            Scanner::new(self, words).run();
        }
        self.count();
        slots::find(self);
        self.sign();
    }

    /// Classes, negations and comparatives.
    fn count(&mut self) {
        (self.classes, self.negations, self.polarity) = ([0; 4], 0, [0; 2]);
        for at in 0..self.tokens.len() {
            if !self.tokens[at].is_known {
                continue;
            }
            if self.is_number_sign(at) {
                self.tokens[at + 1].after_break = false;
                self.tokens[at].word = Word {
                    part: Part::Neutral,
                    generic: true,
                    ..Word::default()
                };
            }
            let token = &self.tokens[at];
            if matches!(token.kind, Kind::Code | Kind::Quote) {
                continue;
            }
            self.negations += u32::from(token.word.negates);
            for class in token.word.classes {
                self.classes[usize::from(class / 64)] |= u64::from(class != 0) << (class % 64);
            }
            match token.word.polarity {
                1 => self.polarity[0] += 1,
                -1 => self.polarity[1] += 1,
                _ => {}
            }
        }
    }

    /// Whether a `no` is short for "number", or a "number" stands before one: "part no. 12", "order no 12", "no. 7".
    fn is_number_sign(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        if !token.word.generic {
            return false;
        }
        let sign = self.folded(token);
        if token.kind != Kind::Word || !matches!(sign, "no" | "number") {
            return false;
        }
        let before = at.checked_sub(1).map(|before| &self.tokens[before]);
        let names = before.is_some_and(|before| before.word.numbered) && !token.after_break;
        let value = self.tokens.get(at + 1);
        let numbered = value.is_some_and(|next| matches!(next.kind, Kind::Code | Kind::Number | Kind::Upper));
        numbered && (names || token.before_mark || sign == "number")
    }

    fn sign(&mut self) {
        let Self {
            tokens, items, slots, ..
        } = self;
        for token in tokens.iter() {
            match token.kind {
                Kind::Code | Kind::Upper => items.push((b'c', token.raw, (0, 0))),
                Kind::Quote => items.push((b'q', token.raw, (0, 0))),
                Kind::Word | Kind::Number => {}
            }
        }
        for slot in slots.iter() {
            let value = &tokens[slot.value];
            if value.kind == Kind::Number {
                items.push((b'n', value.folded, slot.unit.map_or((0, 0), |unit| tokens[unit].raw)));
            }
        }
        let (text, folded) = (&self.text, &self.folded);
        let key = |&(tag, value, unit): &(u8, Span, Span)| {
            let source = if tag == b'n' { folded } else { text };
            (tag, span(source, value), span(text, unit))
        };
        items.sort_unstable_by(|one, other| key(one).cmp(&key(other)));
        let out = &mut self.signature;
        out.clear();
        out.push(u8::from(self.understood));
        out.extend(self.negations.to_le_bytes());
        self.classes.iter().for_each(|word| out.extend(word.to_le_bytes()));
        for item in items.iter() {
            let (tag, value, unit) = key(item);
            out.push(tag);
            for part in [value, unit] {
                out.extend((part.len() as u32).to_le_bytes());
                out.extend(part.as_bytes());
            }
        }
    }
}

fn span(text: &str, (from, to): Span) -> &str {
    text.get(from as usize..to as usize).unwrap_or_default()
}

/// The pass over the characters.
struct Scanner<'r> {
    reading: &'r mut Reading,
    words: &'r Words,
    at: usize,
    /// Whether a sentence begins here, so that a capital means nothing.
    at_start: bool,
    after_break: bool,
}

impl<'r> Scanner<'r> {
    fn new(reading: &'r mut Reading, words: &'r Words) -> Self {
        Self {
            reading,
            words,
            at: 0,
            at_start: true,
            after_break: true,
        }
    }

    fn run(&mut self) {
        while let Some(next) = self.char_at(self.at) {
            if next == ' ' {
                self.at += 1;
                continue;
            }
            if next.is_ascii_alphabetic() && self.letters() {
                continue;
            }
            let minus = matches!(next, '-' | '\u{2212}') && self.is_minus(next);
            if next.is_alphanumeric() || next == '_' || minus {
                self.chunk(next);
            } else if next.is_whitespace() {
                if next == '\n' {
                    (self.at_start, self.after_break) = (true, true);
                }
                self.at += next.len_utf8();
            } else if !self.quote(next) {
                self.mark(next);
            }
        }
    }

    /// The usual case: ASCII letters up to a space, comma, full stop or the like. `false`: something else follows.
    fn letters(&mut self) -> bool {
        let text = self.reading.text.as_bytes();
        let from = self.at;
        let (mut len, mut is_lower) = (0, true);
        while let Some(byte) = text.get(from + len).filter(|byte| byte.is_ascii_alphabetic()) {
            is_lower &= byte.is_ascii_lowercase();
            len += 1;
        }
        let ends = match text.get(from + len) {
            None | Some(b' ' | b'\n' | b';' | b'?' | b'!' | b')') => true,
            // Inside words they join what stands around them.
            Some(b'.' | b',' | b':') => text.get(from + len + 1).is_none_or(|next| matches!(next, b' ' | b'\n')),
            Some(_) => false,
        };
        if ends {
            if !(is_lower && self.plain(from, from + len)) {
                self.word(from, from + len);
            }
            self.at = from + len;
        }
        ends
    }

    /// A word in lower case, which is what most are: what [`Scanner::word`] makes of it, without asking what it cannot be. `false`, and
    /// nothing is done, if it stands for something else.
    fn plain(&mut self, from: usize, to: usize) -> bool {
        if !self.reading.is_ascii {
            return false;
        }
        let known = self.words.find(self.reading.text.as_bytes(), from, to);
        if known.is_some_and(|word| word.number != 0 || word.group != 0) {
            return false;
        }
        let place = (from as u32, to as u32);
        self.reading.tokens.push(Token {
            kind: Kind::Word,
            raw: place,
            folded: place,
            group: (0, 0),
            word: known.unwrap_or_default(),
            is_known: known.is_some(),
            is_name: false,
            after_break: self.after_break,
            before_mark: false,
            in_slot: false,
        });
        (self.at_start, self.after_break) = (false, false);
        true
    }

    fn char_at(&self, at: usize) -> Option<char> {
        let rest = self.reading.text.as_bytes().get(at)?;
        if rest.is_ascii() {
            return Some(char::from(*rest));
        }
        self.reading.text.get(at..)?.chars().next()
    }

    fn char_before(&self, at: usize) -> Option<char> {
        self.reading.text.get(..at)?.chars().next_back()
    }

    /// A minus sign stands before a digit and behind nothing that it could join.
    fn is_minus(&self, minus: char) -> bool {
        let digit = self
            .char_at(self.at + minus.len_utf8())
            .is_some_and(|next| next.is_ascii_digit());
        digit
            && self
                .char_before(self.at)
                .is_none_or(|before| before.is_whitespace() || before == '(')
    }

    /// Letters and digits, with marks between them that belong to what they join.
    fn chunk(&mut self, first: char) {
        let from = self.at;
        let mut to = from + first.len_utf8();
        while let Some(next) = self.char_at(to) {
            if next.is_alphanumeric() || next == '_' {
                to += next.len_utf8();
                continue;
            }
            let behind = to + next.len_utf8();
            let Some(then) = self.char_at(behind).filter(|then| then.is_alphanumeric()) else {
                break;
            };
            let digits = then.is_ascii_digit() && self.reading.text.as_bytes()[to - 1].is_ascii_digit();
            match next {
                '-' | '.' | '@' | '\\' | '\'' | '\u{2019}' | '/' => {}
                ':' | ',' | '\u{d7}' if digits => {}
                _ => break,
            }
            to = behind;
        }
        let chunk = &self.reading.text[from..to];
        let has_digit = chunk.chars().any(char::is_numeric);
        let joins = chunk.contains(['_', '.', '@', '\\']) || (has_digit && chunk.contains(['/', '-', ':', '\u{d7}']));
        let plain = chunk.strip_prefix(['-', '\u{2212}']).unwrap_or(chunk);
        if is_plain_number(plain) {
            self.push(Kind::Number, (from, to));
        } else if has_digit || joins {
            self.push(Kind::Code, (from, to));
        } else {
            self.split(from, to);
        }
        self.at = to;
    }

    /// Words joined by hyphens, slashes and apostrophes.
    fn split(&mut self, from: usize, to: usize) {
        let mut start = from;
        while start < to {
            let rest = &self.reading.text[start..to];
            let end = rest.find(['-', '/']).map_or(to, |len| start + len);
            self.contraction(start, end);
            if self.char_at(end) == Some('/') && end < to {
                self.symbol(end, 1);
            }
            start = end + 1;
        }
    }

    /// `don't` is one word, `camera's` are two.
    fn contraction(&mut self, from: usize, to: usize) {
        let word = &self.reading.text[from..to];
        let Some(at) = word.find(['\'', '\u{2019}']) else {
            return self.word(from, to);
        };
        if word[at..]
            .trim_start_matches(['\'', '\u{2019}'])
            .eq_ignore_ascii_case("t")
        {
            return self.word(from, to);
        }
        let mark = word[at..].chars().next().map_or(1, char::len_utf8);
        self.word(from, from + at);
        self.contraction(from + at + mark, to);
    }

    fn word(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let word = &self.reading.text[from..to];
        let (first_upper, uppers, lowers) = if word.is_ascii() {
            let bytes = word.as_bytes();
            let uppers = bytes[1..].iter().filter(|byte| byte.is_ascii_uppercase()).count();
            (bytes[0].is_ascii_uppercase(), uppers, bytes.len() - 1 - uppers)
        } else {
            if word.chars().any(|next| next.is_alphabetic() && !is_latin(next)) {
                self.reading.understood = false;
            }
            let mut letters = word.chars();
            let first_upper = letters.next().is_some_and(char::is_uppercase);
            let uppers = letters.clone().filter(|next| next.is_uppercase()).count();
            (first_upper, uppers, letters.count() - uppers)
        };
        let all_upper = first_upper && lowers == 0;
        let kind = if uppers > 0 && lowers > 0 {
            Kind::Code
        } else if all_upper && (uppers > 0 || (!self.at_start && word != "I")) {
            Kind::Upper
        } else {
            Kind::Word
        };
        let starts = self.at_start;
        let index = self.reading.tokens.len();
        self.push(kind, (from, to));
        let token = &mut self.reading.tokens[index];
        if token.kind == Kind::Upper && token.word.not_code && uppers > 0 {
            token.kind = Kind::Word;
            if token.word.part == Part::Neutral || token.word.looks {
                return;
            }
            (token.word.part, token.is_name) = (Part::Content, true);
        } else if token.kind == Kind::Word {
            token.is_name = first_upper && !starts && token.word.part == Part::Content;
        }
    }

    fn push(&mut self, kind: Kind, (from, to): (usize, usize)) {
        let Reading {
            text,
            folded,
            tokens,
            is_ascii,
            has_apostrophes,
            ..
        } = &mut *self.reading;
        let raw = &text[from..to];
        let mut place = (from, to);
        let has_apostrophe = *has_apostrophes && raw.contains(['\'', '\u{2019}']);
        if !*is_ascii || (has_apostrophe && kind == Kind::Word) {
            let begin = folded.len();
            let kept = raw.chars().filter(|next| *next != '\u{2019}' && *next != '\'');
            folded.extend(kept.flat_map(char::to_lowercase));
            place = (begin, folded.len());
        }
        let mut word = Word::default();
        let mut kind = kind;
        let mut group = (0, 0);
        if matches!(kind, Kind::Word | Kind::Upper) {
            let spelled = &folded[place.0..place.1];
            word = self.words.get(spelled);
            word.negates |= has_apostrophe && spelled.ends_with("nt");
            let value = self.words.number(word);
            let value = value.filter(|value| kind == Kind::Word && (*value != "1" || !pronoun(tokens, folded)));
            if let Some(addition) = value.or(self.words.group(word)) {
                let begin = folded.len();
                folded.push_str(addition);
                let added = (begin, folded.len());
                if value.is_some() {
                    (kind, place) = (Kind::Number, added);
                } else {
                    group = added;
                }
            }
        }
        tokens.push(Token {
            kind,
            raw: (from as u32, to as u32),
            folded: (place.0 as u32, place.1 as u32),
            group: (group.0 as u32, group.1 as u32),
            word,
            is_known: true,
            is_name: false,
            after_break: self.after_break,
            before_mark: false,
            in_slot: false,
        });
        (self.at_start, self.after_break) = (false, false);
    }

    /// A quoted string, if one begins here; an apostrophe or an inch mark is none.
    fn quote(&mut self, open: char) -> bool {
        let close = match open {
            '"' => '"',
            '`' => '`',
            '\'' => '\'',
            '\u{201c}' | '\u{201e}' => '\u{201d}',
            '\u{2018}' => '\u{2019}',
            '\u{ab}' => '\u{bb}',
            _ => return false,
        };
        let from = self.at + open.len_utf8();
        let rest = &self.reading.text[from..];
        let opens = self.char_before(self.at).is_none_or(|before| !before.is_alphanumeric());
        let len = rest.match_indices(close).map(|(at, _)| at).find(|&at| {
            let behind = self.char_at(from + at + close.len_utf8());
            at > 0 && behind.is_none_or(|behind| !behind.is_alphanumeric())
        });
        let Some(len) = len.filter(|_| opens) else { return false };
        self.push(Kind::Quote, (from, from + len));
        self.at = from + len + close.len_utf8();
        true
    }

    /// A character outside words: one that separates, or a symbol that counts.
    fn mark(&mut self, next: char) {
        let len = next.len_utf8();
        match next {
            '.' | '?' | '!' | ':' | '\u{2026}' => (self.at_start, self.after_break) = (true, true),
            ',' | ';' | '(' | ')' | '-' | '\u{2013}' | '\u{2014}' => self.after_break = true,
            '\'' | '\u{2019}' => {}
            _ => self.symbol(self.at, len),
        }
        if matches!(next, '.' | ':' | '#')
            && let Some(last) = self.reading.tokens.last_mut()
            && last.raw.1 as usize == self.at
        {
            last.before_mark = true;
        }
        self.at += len;
    }

    fn symbol(&mut self, at: usize, len: usize) {
        self.reading.items.push((b's', (at as u32, (at + len) as u32), (0, 0)));
    }
}

/// Whether "one" stands for something said before: "which one", "no one".
fn pronoun(tokens: &[Token], folded: &str) -> bool {
    let Some(last) = tokens.last() else { return false };
    matches!(
        span(folded, last.folded),
        "the" | "this" | "that" | "which" | "no" | "any" | "each" | "every" | "another" | "some"
    )
}

/// Digits with at most one point or comma inside; more of them make a code.
fn is_plain_number(text: &str) -> bool {
    let marks = text.bytes().filter(|byte| matches!(byte, b'.' | b',')).count();
    marks <= 1
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b','))
}

fn is_latin(letter: char) -> bool {
    matches!(letter, '\u{0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' | '\u{2126}' | '\u{212a}' | '\u{212b}')
}
