//! Whether two answers agree, and the note that is taken of it.
//!
//! Invariants: answers agree if they are the same text, spaces apart, or if the guard finds no code, number, negation or name that
//! only one of them has and they are near each other; every doubt is a disagreement. Deliberately absent: a judge model.

use super::embed::Scratch;
use super::evidence::{Namespace, TemplatePair};
use super::guard::{Level, Reading};
use super::key::Key;
use super::{Brain, Hit, SIMILARITY_DEFAULT};
use sluice_wire::limits::CACHE_TEXT_BYTES_MAX;

/// What a comparison with the provider's answer has shown; plain data, for all cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What it counts for.
    pub namespace: Namespace,
    /// The templates of both requests, if they were matched by meaning.
    pub pair: Option<TemplatePair>,
    /// The entry that was compared.
    pub exact: Key,
    /// What was found.
    pub agrees: bool,
}

impl Settled {
    /// What the comparison with a match has shown.
    pub fn of(hit: &Hit, agrees: bool) -> Self {
        Self {
            namespace: hit.entry.namespace,
            pair: hit.pair,
            exact: hit.entry.exact,
            agrees,
        }
    }
}

impl Brain {
    /// Whether two answers to what should be one question agree.
    pub fn agrees(&self, one: &str, other: &str) -> bool {
        if one.split_whitespace().eq(other.split_whitespace()) {
            return true;
        }
        if one.len().max(other.len()) > CACHE_TEXT_BYTES_MAX {
            return false;
        }
        let (mut reading, mut theirs) = (Reading::default(), Reading::default());
        self.guard.read(one, &mut reading);
        self.guard.read(other, &mut theirs);
        // The strict level: a word or two that differ may be all that matters in an answer.
        if self.guard.compare(&reading, &theirs, Level::G2).is_err() {
            return false;
        }
        let mut scratch = Scratch::default();
        let one = self.model.embed(one, &mut scratch);
        one.cosine(&self.model.embed(other, &mut scratch)) >= SIMILARITY_DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Secret;

    #[test]
    fn answers_agree_in_what_matters_or_not_at_all() {
        let brain = Brain::new(Secret::new([7; 32]));
        for (one, other) in [
            ("Torque is 12 Nm.", "  Torque is\n12 Nm. "),
            ("Tighten the bolt to 12 Nm.", "Please tighten the bolt to 12 Nm."),
        ] {
            assert!(brain.agrees(one, other), "{one} | {other}");
        }
        for (one, other) in [
            ("Torque is 12 Nm.", "Torque is 21 Nm."),
            ("Use part 4711-B here.", "Use part 4711-C here."),
            ("The seal is fitted.", "The seal is not fitted."),
            ("Accept the part.", "Call the supplier about the missing pallet."),
        ] {
            assert!(!brain.agrees(one, other), "{one} | {other}");
        }
    }
}
