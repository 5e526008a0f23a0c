//! Slots: values of a text (numbers, codes) with what they belong to.
//!
//! Invariants: every number and code is a slot, in the text's order. A value belongs to its unit, or else to the noun on its
//! left, however that is tied to it ("line 2", "part no. 7", "the limit is 3"). Deliberately absent: nouns on the right, and
//! anything beyond the clause.

use super::read::{Kind, Reading, Token};
use super::words::Part;

/// Tokens that are looked at to the left of a value.
const REACH: usize = 5;

/// A value and its ties, as indices of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub value: usize,
    /// The unit behind a number.
    pub unit: Option<usize>,
    /// The noun on the left.
    pub role: Option<usize>,
    /// The preposition in front of it all.
    pub tie: Option<usize>,
    /// 1 if it is to be exceeded, -1 if it is not, 0 if the text does not compare.
    pub polarity: i8,
}

/// Finds the slots and marks their tokens.
pub(super) fn find(reading: &mut Reading) {
    let mut slots = std::mem::take(&mut reading.slots);
    slots.clear();
    for value in 0..reading.tokens.len() {
        if matches!(reading.tokens[value].kind, Kind::Number | Kind::Code) {
            slots.push(slot(&mut reading.tokens, value));
        }
    }
    reading.slots = slots;
}

fn slot(tokens: &mut [Token], value: usize) -> Slot {
    let unit = unit(tokens, value);
    let (role, polarity) = left(tokens, value);
    let mut first = value;
    if unit.is_none()
        && let Some(role) = role
    {
        first = role;
        while first > 0 && !tokens[first].after_break && names_a_thing(&tokens[first - 1]) {
            first -= 1;
        }
    }
    let tie = tie(tokens, first);
    let from = if unit.is_none() { tie.unwrap_or(first) } else { first };
    for token in &mut tokens[from..=unit.unwrap_or(value)] {
        token.in_slot = true;
    }
    if let Some(tie) = tie {
        tokens[tie].in_slot = true;
    }
    Slot {
        value,
        unit,
        role,
        tie,
        polarity,
    }
}

fn unit(tokens: &[Token], value: usize) -> Option<usize> {
    let next = tokens.get(value + 1)?;
    let is_unit = next.word.unit && matches!(next.kind, Kind::Word | Kind::Upper) && !next.after_break;
    (is_unit && tokens[value].kind == Kind::Number).then_some(value + 1)
}

/// The noun on the left of a value, and the comparative between them.
fn left(tokens: &[Token], value: usize) -> (Option<usize>, i8) {
    let mut polarity = 0;
    let mut role = None;
    let mut at = value;
    while at > 0 && value - at < REACH && !tokens[at].after_break {
        at -= 1;
        let token = &tokens[at];
        if token.word.polarity != 0 {
            polarity = token.word.polarity;
            continue;
        }
        if role.is_some() || matches!(token.kind, Kind::Number | Kind::Code | Kind::Quote) {
            break;
        }
        let is_bare = token.word.part == Part::Neutral || (token.word.generic && !token.word.numbered);
        if is_bare {
            continue;
        }
        if token.word.part == Part::Function {
            break;
        }
        role = Some(at);
        if value - at > 1 {
            break;
        }
    }
    (role, polarity)
}

/// Whether a token in front of a role belongs to the name of the thing: "PCB rev", "part part no.".
fn names_a_thing(token: &Token) -> bool {
    token.kind == Kind::Upper || (token.word.generic && token.kind == Kind::Word && !token.word.negates)
}

/// The preposition in front of a token, articles left out.
fn tie(tokens: &[Token], first: usize) -> Option<usize> {
    let mut at = first;
    while at > 0 && !tokens[at].after_break {
        at -= 1;
        let token = &tokens[at];
        match token.word.part {
            Part::Neutral if first - at < 2 => {}
            Part::Function if !token.word.negates && token.word.polarity == 0 && token.kind == Kind::Word => {
                return Some(at);
            }
            _ => return None,
        }
    }
    None
}
