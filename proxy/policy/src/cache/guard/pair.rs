//! The pair guard: what equal signatures leave open between two texts.
//!
//! Invariants: symmetric; each rule refuses or passes on, none accepts. Deliberately absent: scores.

use super::read::{Kind, Reading, Token};
use super::slots::Slot;
use super::stem::stem_len;
use super::words::Part;
use super::{Level, Refusal};

/// Content words of either text that the other lacks, up to which a difference is an edit and no other way of saying it.
const SMALL_EDIT_WORDS: usize = 2;

/// The same for long texts: one word that differs in so many that are shared.
const SMALL_EDIT_SHARE: usize = 3;
/// Codes and numbers that say what a text is about, so that words of looking and judging may vary.
const SLOTS_THAT_NAME: usize = 2;

/// A content word.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    /// What decides whether two are the same.
    stem: &'a str,
    /// What must be the same besides, where all stems are.
    form: &'a str,
    /// Whether it must stand in the other text.
    is_name: bool,
}

/// Whether two readings may share an answer.
pub(super) fn compare(one: &Reading, other: &Reading, level: Level) -> Result<(), Refusal> {
    if !one.understood || !other.understood {
        return Err(Refusal::Language);
    }
    if one.signature() != other.signature() {
        return Err(Refusal::Signature);
    }
    if one.polarity != other.polarity {
        return Err(Refusal::Polarity);
    }
    slots(one, other)?;
    let named = one.slots.len().min(other.slots.len()) >= SLOTS_THAT_NAME;
    let (mine, theirs) = (items(one, named), items(other, named));
    names(&mine, other)?;
    names(&theirs, one)?;
    let (only_mine, only_theirs) = differences(&mine, &theirs);
    order(&mine, &theirs, &only_mine, &only_theirs)?;
    prefixes(&only_mine, &only_theirs)?;
    if only_mine.is_empty() && only_theirs.is_empty() {
        return grammar(one, other, &mine, &theirs, named);
    }
    let shared = mine.len() - only_mine.len();
    if shared * 2 < mine.len().max(theirs.len()) {
        return Err(Refusal::Apart);
    }
    let fewer = only_mine.len().min(only_theirs.len());
    if level >= Level::G2 && is_small_edit(fewer, shared, named) {
        return Err(Refusal::SmallEdit);
    }
    Ok(())
}

/// Whether a difference of so many words, beside so many that are shared, is rather an edit than another way of saying the same.
/// Where codes name the object, they fill most of the text and draw any two questions about it together, so that every
/// difference is small.
fn is_small_edit(differing: usize, shared: usize, named: bool) -> bool {
    named || differing <= SMALL_EDIT_WORDS || differing * SMALL_EDIT_SHARE <= shared
}

/// A slot as it is compared: what it belongs to, its value, and what else ties it.
#[derive(Clone, Copy, Debug)]
struct Bound<'a> {
    key: &'a str,
    value: &'a str,
    role: &'a str,
    tie: &'a str,
    polarity: i8,
}

fn bound<'a>(reading: &'a Reading, slot: &Slot) -> Bound<'a> {
    let stem = |token: Option<usize>| token.map_or("", |at| reading.stem(&reading.tokens[at]));
    let value = &reading.tokens[slot.value];
    let role = stem(slot.role);
    Bound {
        key: slot.unit.map_or(role, |unit| reading.raw(&reading.tokens[unit])),
        value: match value.kind {
            Kind::Number => reading.folded(value),
            _ => reading.raw(value),
        },
        role,
        tie: stem(slot.tie),
        polarity: slot.polarity,
    }
}

/// Each value must belong to the same thing in both texts.
fn slots(one: &Reading, other: &Reading) -> Result<(), Refusal> {
    let all = |reading: &Reading| reading.slots.len();
    if all(one) != all(other) {
        return Err(Refusal::Role);
    }
    let mut mine: Vec<Bound<'_>> = one.slots.iter().map(|slot| bound(one, slot)).collect();
    let mut theirs: Vec<Bound<'_>> = other.slots.iter().map(|slot| bound(other, slot)).collect();
    things_in_order(one, other, &mine, &theirs)?;
    mine.sort_by_key(|slot| slot.key);
    theirs.sort_by_key(|slot| slot.key);
    let mut loose = (None, None);
    let (mut at, mut there) = (0, 0);
    while at < mine.len() || there < theirs.len() {
        let key = match (mine.get(at), theirs.get(there)) {
            (Some(slot), Some(their)) => slot.key.min(their.key),
            (Some(slot), None) => slot.key,
            (None, Some(their)) => their.key,
            (None, None) => break,
        };
        let group = run(&mine, &mut at, key);
        let their_group = run(&theirs, &mut there, key);
        if group.len() == their_group.len() {
            same_group(group, their_group)?;
        } else if let ([slot], []) = (group, their_group) {
            if loose.0.replace(*slot).is_some() {
                return Err(Refusal::Role);
            }
        } else if let ([], [slot]) = (group, their_group) {
            if loose.1.replace(*slot).is_some() {
                return Err(Refusal::Role);
            }
        } else {
            return Err(Refusal::Role);
        }
    }
    match loose {
        (None, None) => Ok(()),
        // One value without a noun in one of the texts: it can only be the other text's remaining one.
        (Some(slot), Some(their)) if slot.value == their.value && (slot.role.is_empty() || their.role.is_empty()) => {
            same_polarity(&slot, &their)
        }
        _ => Err(Refusal::Role),
    }
}

fn run<'s, 'a>(slots: &'s [Bound<'a>], at: &mut usize, key: &str) -> &'s [Bound<'a>] {
    let from = *at;
    *at += slots[from..].iter().take_while(|slot| slot.key == key).count();
    &slots[from..*at]
}

fn same_group(group: &[Bound<'_>], theirs: &[Bound<'_>]) -> Result<(), Refusal> {
    for (slot, their) in group.iter().zip(theirs) {
        // Several values of one unit or noun are told apart by what else stands around them.
        let ambiguous = group.len() > 1 && (slot.role != their.role || slot.tie != their.tie);
        if slot.value != their.value || ambiguous {
            return Err(Refusal::Role);
        }
        same_polarity(slot, their)?;
    }
    Ok(())
}

fn same_polarity(slot: &Bound<'_>, their: &Bound<'_>) -> Result<(), Refusal> {
    if slot.polarity == their.polarity {
        Ok(())
    } else {
        Err(Refusal::Polarity)
    }
}

/// Things that are named by a code stand in the same order, and where one of them is a goal, a source or a measure of another,
/// each keeps its preposition.
fn things_in_order(one: &Reading, other: &Reading, mine: &[Bound<'_>], theirs: &[Bound<'_>]) -> Result<(), Refusal> {
    fn things<'s, 'a>(reading: &'s Reading, slots: &'s [Bound<'a>]) -> impl Iterator<Item = &'s Bound<'a>> {
        let with = reading.slots.iter().zip(slots);
        with.filter(|(slot, _)| slot.unit.is_none()).map(|(_, bound)| bound)
    }
    let values = |reading, slots| things(reading, slots).map(|slot| slot.value).collect::<Vec<_>>();
    if values(one, mine) != values(other, theirs) {
        return Err(Refusal::Order);
    }
    let directed = |reading, slots| things(reading, slots).any(|slot| is_directed(slot.tie));
    if directed(one, mine) || directed(other, theirs) {
        let ties = |reading, slots| things(reading, slots).map(|slot| slot.tie).collect::<Vec<_>>();
        if ties(one, mine) != ties(other, theirs) {
            return Err(Refusal::Role);
        }
    }
    Ok(())
}

/// Prepositions and conjunctions that make two things unlike each other.
fn is_directed(tie: &str) -> bool {
    matches!(
        tie,
        "to" | "into"
            | "onto"
            | "toward"
            | "by"
            | "and"
            | "or"
            | "but"
            | "with"
            | "without"
            | "between"
            | "until"
            | "till"
            | "through"
            | "via"
            | "against"
            | "as"
            | "since"
            | "upon"
            | "over"
            | "under"
            | "off"
            | "out"
            | "about"
    )
}

fn is_content(token: &Token) -> bool {
    match token.kind {
        Kind::Word => token.word.part == Part::Content && token.word.polarity == 0 || token.is_name,
        Kind::Upper | Kind::Quote => true,
        Kind::Number | Kind::Code => false,
    }
}

/// The content words outside slots. Where codes name the object (`named`), words of looking, judging and limiting are left
/// out, and words of one meaning count once.
fn items(reading: &Reading, named: bool) -> Vec<Item<'_>> {
    let mut items: Vec<Item<'_>> = Vec::with_capacity(reading.tokens.len());
    for token in reading
        .tokens
        .iter()
        .filter(|token| is_content(token) && !token.in_slot)
    {
        let (raw, folded) = (reading.raw(token), reading.folded(token));
        let (stem, form) = match token.kind {
            Kind::Word if named && token.word.group != 0 => (reading.stem(token), ""),
            Kind::Word => (&folded[..stem_len(folded)], folded),
            _ => (raw, raw),
        };
        let is_name = token.is_name;
        let item = Item { stem, form, is_name };
        let varies = named && !token.is_name && (token.word.looks || token.word.limits);
        let repeats = named && token.word.group != 0 && items.iter().any(|before| before.stem == stem);
        if !varies && !repeats {
            items.push(item);
        }
    }
    items
}

/// A name of one text stands in the other, however it is written there.
fn names(mine: &[Item<'_>], other: &Reading) -> Result<(), Refusal> {
    let is_there = |name: &str| other.tokens.iter().any(|token| other.folded(token) == name);
    match mine.iter().any(|item| item.is_name && !is_there(item.form)) {
        true => Err(Refusal::Name),
        false => Ok(()),
    }
}

/// Stems that stand more often in the one than in the other, both ways, each as often as it is missing.
fn differences<'a>(mine: &[Item<'a>], theirs: &[Item<'a>]) -> (Vec<&'a str>, Vec<&'a str>) {
    let sorted = |items: &[Item<'a>]| {
        let mut stems: Vec<&str> = items.iter().map(|item| item.stem).collect();
        stems.sort_unstable();
        stems
    };
    let (mine, theirs) = (sorted(mine), sorted(theirs));
    let (mut only_mine, mut only_theirs) = (Vec::new(), Vec::new());
    let (mut at, mut there) = (0, 0);
    loop {
        match (mine.get(at), theirs.get(there)) {
            (Some(my), Some(their)) if my == their => (at, there) = (at + 1, there + 1),
            (Some(my), their) if their.is_none_or(|their| my < their) => {
                only_mine.push(*my);
                at += 1;
            }
            (_, Some(their)) => {
                only_theirs.push(*their);
                there += 1;
            }
            _ => return (only_mine, only_theirs),
        }
    }
}

/// What both texts say, they say in the same order.
fn order(mine: &[Item<'_>], theirs: &[Item<'_>], only_mine: &[&str], only_theirs: &[&str]) -> Result<(), Refusal> {
    let is_shared = |item: &&Item<'_>| !only_mine.contains(&item.stem) && !only_theirs.contains(&item.stem);
    let (mut mine, mut theirs) = (mine.iter().filter(is_shared), theirs.iter().filter(is_shared));
    match mine
        .by_ref()
        .map(|item| item.stem)
        .eq(theirs.by_ref().map(|item| item.stem))
    {
        true => Ok(()),
        false => Err(Refusal::Order),
    }
}

/// A word of one text is not the other's with a prefix that turns it around.
fn prefixes(only_mine: &[&str], only_theirs: &[&str]) -> Result<(), Refusal> {
    const PREFIXES: [&str; 10] = ["un", "in", "im", "ir", "il", "dis", "non", "de", "mis", "anti"];
    let turned = |one: &str, other: &str| PREFIXES.iter().any(|prefix| one.strip_prefix(prefix) == Some(other));
    let found = only_mine.iter().any(|mine| {
        only_theirs
            .iter()
            .any(|their| turned(mine, their) || turned(their, mine))
    });
    if found { Err(Refusal::Prefix) } else { Ok(()) }
}

/// Where all content is shared, the words themselves, and those that tie them, are the same too.
fn grammar(one: &Reading, other: &Reading, mine: &[Item<'_>], theirs: &[Item<'_>], named: bool) -> Result<(), Refusal> {
    let same_forms = mine.iter().zip(theirs).all(|(my, their)| my.form == their.form);
    if same_forms && function_words(one, named).eq(function_words(other, named)) {
        Ok(())
    } else {
        Err(Refusal::Grammar)
    }
}

fn function_words(reading: &Reading, named: bool) -> impl Iterator<Item = &str> {
    let is_function = move |token: &Token| {
        let varies = named && token.word.light;
        !varies
            && token.kind == Kind::Word
            && token.word.part == Part::Function
            && token.word.polarity == 0
            && !token.in_slot
            && !token.is_name
    };
    reading
        .tokens
        .iter()
        .enumerate()
        .filter(move |(at, token)| is_function(token) && !is_how_can(reading, *at))
        .map(|(_, token)| reading.folded(token))
}

/// "How can I" asks what "How do I" asks.
fn is_how_can(reading: &Reading, at: usize) -> bool {
    let folded = |at: usize| reading.folded(&reading.tokens[at]);
    at > 0 && matches!(folded(at), "can" | "could" | "would") && folded(at - 1) == "how"
}
