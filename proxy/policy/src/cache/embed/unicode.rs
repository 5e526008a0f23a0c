//! What the reference tokenizer makes of each character: gone, a space, a word of its own, or other characters.
//!
//! Invariants: the tables are data (`model/unicode.txt`), written by the program that compares this tokenizer with the
//! reference, because the reference's own tables are those of older Unicode versions than any current crate's. Hangul
//! syllables are decomposed by arithmetic (Unicode §3.12). Deliberately absent: any opinion of ours about a character.

/// The tables: lines of `drop`, `break`, `space`, `alone` with ranges in hexadecimal; `order` with `character:class`;
/// `map` with a character and what it becomes (`!` stands for a mark that is left out but keeps its neighbours in order).
const TABLES: &str = include_str!("../../../model/unicode.txt");
/// Characters per page of the table.
const PAGE: usize = 128;
/// Stands for "left out, and those before and behind it keep their order".
const BREAK: char = '\u{0}';

/// What a character is to the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Part of a word.
    Word,
    /// Nothing.
    Gone,
    /// The end of a word.
    Space,
    /// A word of its own.
    Alone,
}

/// The tables, indexed.
#[derive(Debug)]
pub struct Unicode {
    /// Class and lower case of the first 128 characters.
    ascii: [(Class, u8); 128],
    /// The page of a character's high bits.
    index: Vec<u16>,
    /// Pages of codes: 0 to 3 is a [`Class`], more is a row of `expansions` plus 4.
    pages: Vec<[u16; PAGE]>,
    /// What characters become, with their combining classes.
    expansions: Vec<Vec<(u8, char)>>,
}

impl Unicode {
    /// The tables that the product carries. Lines of an unknown form are ignored; a test sees to it that there are none.
    pub fn builtin() -> Self {
        let mut tables = Self {
            ascii: [(Class::Word, 0); 128],
            index: vec![0; 0x11_0000 / PAGE],
            pages: vec![[0; PAGE]],
            expansions: Vec::new(),
        };
        let mut orders = Vec::new();
        for line in TABLES.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or_default();
            match word {
                "drop" => tables.set_ranges(rest, 1),
                "break" => tables.set_breaks(rest),
                "space" => tables.set_ranges(rest, 2),
                "alone" => tables.set_ranges(rest, 3),
                "order" => orders.extend(rest.split(' ').filter_map(order)),
                "map" => tables.set_map(rest, &orders),
                _ => {}
            }
        }
        for &(character, class) in &orders {
            tables.set_expansion(character, vec![(class, character)]);
        }
        for byte in 0..128_u8 {
            let class = tables.class(char::from(byte));
            tables.ascii[usize::from(byte)] = (class, byte.to_ascii_lowercase());
        }
        tables
    }

    /// Class and lower case of an ASCII character.
    #[inline]
    pub fn ascii(&self, byte: u8) -> (Class, u8) {
        self.ascii[usize::from(byte & 0x7f)]
    }

    /// What a character is that [`Unicode::expand`] gave, or one that becomes no other.
    pub fn class(&self, character: char) -> Class {
        match self.code(character) {
            1 => Class::Gone,
            2 => Class::Space,
            3 => Class::Alone,
            _ if character == BREAK => Class::Gone,
            _ => Class::Word,
        }
    }

    /// What a character becomes, with combining classes; `room` is for what stands in no table.
    pub fn expand<'a>(&'a self, character: char, room: &'a mut [(u8, char); 3]) -> &'a [(u8, char)] {
        match self.code(character) {
            1 => &[],
            code @ 4.. => self.expansions.get(usize::from(code) - 4).map_or(&[], Vec::as_slice),
            _ if matches!(character, '\u{ac00}'..='\u{d7a3}') => hangul(character, room),
            _ => {
                room[0] = (0, character);
                &room[..1]
            }
        }
    }

    fn code(&self, character: char) -> u16 {
        let at = character as usize;
        self.pages[usize::from(self.index[at / PAGE])][at % PAGE]
    }

    fn set(&mut self, character: u32, code: u16) {
        let at = character as usize;
        let Some(page) = self.index.get_mut(at / PAGE) else {
            return;
        };
        if *page == 0 {
            *page = self.pages.len() as u16;
            self.pages.push([0; PAGE]);
        }
        self.pages[usize::from(*page)][at % PAGE] = code;
    }

    fn set_ranges(&mut self, text: &str, code: u16) {
        ranges(text).flatten().for_each(|character| self.set(character, code));
    }

    fn set_breaks(&mut self, text: &str) {
        self.expansions.push(vec![(0, BREAK)]);
        let code = self.expansions.len() as u16 + 3;
        self.set_ranges(text, code);
    }

    fn set_expansion(&mut self, character: char, expansion: Vec<(u8, char)>) {
        self.expansions.push(expansion);
        self.set(character as u32, self.expansions.len() as u16 + 3);
    }

    fn set_map(&mut self, text: &str, orders: &[(char, u8)]) {
        let mut characters = text.split(' ').filter_map(|word| match word {
            "!" => Some(BREAK),
            word => char::from_u32(hex(word)?),
        });
        let Some(from) = characters.next() else { return };
        let class = |character| {
            orders
                .iter()
                .find(|(of, _)| *of == character)
                .map_or(0, |&(_, class)| class)
        };
        let expansion = characters.map(|character| (class(character), character)).collect();
        self.set_expansion(from, expansion);
    }
}

/// Leading, vowel and trailing part of a syllable.
fn hangul(syllable: char, room: &mut [(u8, char); 3]) -> &[(u8, char)] {
    let index = syllable as u32 - 0xac00;
    let parts = [0x1100 + index / 588, 0x1161 + index % 588 / 28, 0x11a7 + index % 28];
    *room = parts.map(|part| (0, char::from_u32(part).unwrap_or(BREAK)));
    if index.is_multiple_of(28) {
        &room[..2]
    } else {
        &room[..]
    }
}

fn ranges(text: &str) -> impl Iterator<Item = std::ops::RangeInclusive<u32>> {
    text.split(' ').filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(hex(from)?..=hex(to)?)
    })
}

fn order(text: &str) -> Option<(char, u8)> {
    let (character, class) = text.split_once(':')?;
    Some((char::from_u32(hex(character)?)?, class.parse().ok()?))
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_understood() {
        for line in TABLES.lines() {
            let (word, rest) = line.split_once(' ').unwrap();
            let items = rest.split(' ').count();
            let understood = match word {
                "drop" | "break" | "space" | "alone" => ranges(rest).count(),
                "order" => rest.split(' ').filter_map(order).count(),
                "map" => rest
                    .split(' ')
                    .filter(|word| *word == "!" || hex(word).is_some())
                    .count(),
                _ => 0,
            };
            assert_eq!(understood, items, "{line}");
        }
    }

    #[test]
    fn a_syllable_is_its_parts() {
        let tables = Unicode::builtin();
        let expand = |character: char| -> String {
            tables
                .expand(character, &mut [(0, BREAK); 3])
                .iter()
                .map(|&(_, part)| part)
                .collect()
        };
        assert_eq!(expand('한'), "\u{1112}\u{1161}\u{11ab}");
        assert_eq!(expand('가'), "\u{1100}\u{1161}");
        assert_eq!(
            (expand('é'), expand('ß'), expand('Å')),
            ("e".into(), "ß".into(), "a".into())
        );
    }
}
