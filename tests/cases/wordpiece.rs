//! The cache's own tokenizer against the reference, over all of Unicode; with `SLUICE_BLESS=1`, writes its tables.
//!
//! Invariants: the reference is the `tokenizers` crate as it is, asked for ids and nothing else. The tables are derived from
//! what the reference does, not from a Unicode version. Deliberately absent: special tokens and truncation, which the cache
//! does not use.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sluice_policy::cache::embed::{Pieces, Vocabulary};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model as _, NormalizedString, Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
};

const VOCABULARY: &str = include_str!("../../proxy/policy/model/vocab.txt");

struct Reference {
    normalizer: BertNormalizer,
    model: WordPiece,
}

impl Reference {
    fn new() -> Self {
        let vocabulary = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy/policy/model/vocab.txt");
        Self {
            normalizer: BertNormalizer::default(),
            model: WordPiece::from_file(vocabulary).build().expect("the vocabulary is one"),
        }
    }

    fn ids(&self, text: &str) -> Vec<u16> {
        let mut normalized = NormalizedString::from(text);
        self.normalizer
            .normalize(&mut normalized)
            .expect("the reference takes every text");
        let mut split = PreTokenizedString::from(normalized.get());
        BertPreTokenizer
            .pre_tokenize(&mut split)
            .expect("the reference takes every text");
        let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words
            .iter()
            .flat_map(|(word, _, _)| self.model.tokenize(word).expect("the reference takes every text"))
            .map(|token| u16::try_from(token.id).expect("the reference takes every text"))
            .collect()
    }
}

/// Compares on all cores: the reference is slow.
fn compare(texts: &[String]) {
    let vocabulary = Vocabulary::parse(VOCABULARY).expect("the vocabulary is one");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(!texts.is_empty(), "nothing to compare");
    std::thread::scope(|scope| {
        for part in texts.chunks(texts.len().div_ceil(threads)) {
            let vocabulary = &vocabulary;
            scope.spawn(move || {
                let (reference, mut pieces) = (Reference::new(), Pieces::default());
                for text in part {
                    vocabulary.pieces(text, &mut pieces);
                    assert_eq!(pieces.ids(), reference.ids(text), "{text:?}");
                }
            });
        }
    });
}

fn every_char() -> impl Iterator<Item = char> {
    '\u{0}'..=char::MAX
}

/// A generator of numbers below `bound`; the same ones every time.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |bound| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    }
}

#[test]
fn every_character_by_itself_and_inside_a_word() {
    compare(&every_char().map(|c| format!("we{c}ld {c}")).collect::<Vec<_>>());
}

#[test]
fn any_characters_in_any_order() {
    let all: Vec<char> = every_char().collect();
    let assigned: Vec<char> = all.iter().copied().filter(|c| (*c as u32) < 0x3_2000).collect();
    // Those that are decomposed or put in order, where sequences matter most.
    let marks: Vec<char> = assigned.iter().copied().filter(|c| is_ordered(*c)).collect();
    assert!(marks.len() > 500);
    let mut number = numbers(1);
    let texts = (0..40_000).map(|_| {
        let mut text = String::new();
        for _ in 0..number(24) + 1 {
            text.push(match number(10) {
                0 => all[number(all.len())],
                1 | 2 => assigned[number(assigned.len())],
                3..=5 => marks[number(marks.len())],
                6 => ' ',
                7 => char::from(number(128) as u8),
                _ => char::from(b'a' + number(26) as u8),
            });
        }
        text
    });
    compare(&texts.collect::<Vec<_>>());
}

#[test]
fn a_corpus() {
    let pieces: Vec<&str> = VOCABULARY.lines().map(|piece| piece.trim_start_matches("##")).collect();
    let files = [
        "../README.md",
        "../ARCHITECTURE.md",
        "golden/cache/pairs.jsonl",
        "../proxy/policy/model/unicode.txt",
    ];
    let read =
        |file: &&str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
    let lines: Vec<String> = files
        .iter()
        .map(read)
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(lines.len() > 500);
    let mut number = numbers(2);
    let made = (0..20_000).map(|_| {
        let mut text = String::new();
        for _ in 0..number(40) + 1 {
            let piece = pieces[number(pieces.len())];
            match number(4) {
                0 => text.extend(piece.chars().flat_map(char::to_uppercase)),
                _ => text.push_str(piece),
            }
            text.push_str(["", "", " ", " ", " ", "-", ", ", "\n"][number(8)]);
        }
        text
    });
    let texts: Vec<String> = lines.iter().cloned().chain(made).collect();
    compare(&texts);
}

#[test]
fn the_tables_are_those_that_follow_from_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/policy/model/unicode.txt");
    let tables = tables();
    if std::env::var_os("SLUICE_BLESS").is_some() {
        std::fs::write(&path, &tables).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == tables,
        "stale; run this test with SLUICE_BLESS=1"
    );
}

fn nfd(text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    normalized.nfd();
    normalized.get().to_owned()
}

fn normalize(normalizer: &BertNormalizer, text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    normalizer
        .normalize(&mut normalized)
        .expect("the reference takes every text");
    normalized.get().to_owned()
}

fn is_alone(c: char) -> bool {
    let mut split = PreTokenizedString::from(format!("a{c}b"));
    BertPreTokenizer
        .pre_tokenize(&mut split)
        .expect("the reference takes every text");
    split.get_splits(OffsetReferential::Original, OffsetType::Byte).len() == 3
}

/// Whether a character has a combining class, judged by whether marks before and behind it change places.
fn is_ordered(c: char) -> bool {
    !nfd(&format!("\u{345}{c}\u{334}")).starts_with('\u{345}')
}

fn tables() -> String {
    let cleaner = BertNormalizer::new(true, false, Some(false), false);
    let chinese = BertNormalizer::new(false, true, Some(false), false);
    let whole = BertNormalizer::default();
    let mut classes: BTreeMap<&str, Vec<char>> = BTreeMap::new();
    let (mut maps, mut ordered) = (Vec::new(), Vec::new());
    for c in every_char() {
        let text = c.to_string();
        let cleaned = normalize(&cleaner, &text);
        let is_mark = |c: char| normalize(&whole, &c.to_string()).is_empty();
        let class = if cleaned.is_empty() {
            "drop"
        } else if cleaned == " " {
            "space"
        } else if is_mark(c) && nfd(&text) == text {
            if is_ordered(c) { "drop" } else { "break" }
        } else {
            let is_chinese = normalize(&chinese, &text) != text;
            let mut becomes = String::new();
            for part in nfd(&text).chars() {
                if !is_mark(part) {
                    becomes.extend(part.to_lowercase());
                } else if !is_ordered(part) {
                    becomes.push('!');
                }
            }
            let is_syllable = matches!(c, '\u{ac00}'..='\u{d7a3}');
            if becomes != text && !is_syllable && !c.is_ascii() {
                let becomes = if is_chinese { format!(" {becomes} ") } else { becomes };
                maps.push((c, becomes));
            } else if is_ordered(c) {
                ordered.push(c);
            }
            if (is_chinese || is_alone(c)) && (becomes_itself(&maps, c)) {
                "alone"
            } else {
                ""
            }
        };
        classes.entry(class).or_default().push(c);
    }
    classes.remove("");
    let mut out = String::new();
    for (class, members) in &classes {
        writeln!(out, "{class}{}", ranges(members)).expect("a string takes everything");
    }
    if !ordered.is_empty() {
        // Ranks serve as well as the classes themselves, because they are only compared.
        let rank = |c: char| {
            ordered
                .iter()
                .filter(|other| nfd(&format!("{c}{other}")) != format!("{c}{other}"))
                .count()
                + 1
        };
        let ranks: Vec<String> = ordered.iter().map(|&c| format!("{:x}:{}", c as u32, rank(c))).collect();
        writeln!(out, "order {}", ranks.join(" ")).expect("a string takes everything");
    }
    for (from, to) in maps {
        write!(out, "map {:x}", from as u32).expect("a string takes everything");
        for part in to.chars() {
            match part {
                '!' => out.push_str(" !"),
                part => write!(out, " {:x}", part as u32).expect("a string takes everything"),
            }
        }
        out.push('\n');
    }
    out
}

fn becomes_itself(maps: &[(char, String)], c: char) -> bool {
    maps.last().is_none_or(|(last, _)| *last != c)
}

fn ranges(members: &[char]) -> String {
    let mut out = String::new();
    for run in members.chunk_by(|one, next| *one as u32 + 1 == *next as u32) {
        let (from, to) = (run[0] as u32, run[run.len() - 1] as u32);
        match from == to {
            true => write!(out, " {from:x}").expect("a string takes everything"),
            false => write!(out, " {from:x}-{to:x}").expect("a string takes everything"),
        }
    }
    out
}
