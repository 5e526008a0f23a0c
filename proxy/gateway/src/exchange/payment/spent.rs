//! What a request has been charged so far, over all of its attempts.
//!
//! Invariants: sums saturate; one attempt that is not priced, or not certain, makes the whole so. Deliberately absent: what an
//! attempt costs (`sluice_policy::charge`).

use sluice_policy::money::NanoUsd;
use sluice_wire::chat::Usage;

use crate::record::Label;

/// What has been charged so far.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    pub(super) input: u64,
    pub(super) cached: u64,
    pub(super) output: u64,
    pub(super) cost: NanoUsd,
    pub(super) priced: bool,
    /// Anything has been sent to a provider that took it.
    pub(super) begun: bool,
    /// The answer is a stored one, for which nobody was asked.
    pub(super) stored: bool,
    /// Some of it is not known, but reserved.
    pub(super) uncertain: bool,
    pub(super) model: Label<128>,
}

impl Default for Spent {
    fn default() -> Self {
        Self {
            input: 0,
            cached: 0,
            output: 0,
            cost: NanoUsd::ZERO,
            priced: true,
            begun: false,
            stored: false,
            uncertain: false,
            model: Label::EMPTY,
        }
    }
}

impl Spent {
    pub(super) fn add(&mut self, cost: NanoUsd, priced: bool, usage: &Usage) {
        self.input = self.input.saturating_add(usage.input_total());
        self.cached = self.cached.saturating_add(usage.cache_read);
        self.output = self.output.saturating_add(usage.output);
        self.cost = self.cost.saturating_add(cost);
        self.priced &= priced;
        self.begun = true;
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.input = self.input.saturating_add(other.input);
        self.cached = self.cached.saturating_add(other.cached);
        self.output = self.output.saturating_add(other.output);
        self.cost = self.cost.saturating_add(other.cost);
        self.priced &= other.priced;
        self.begun |= other.begun;
        self.uncertain |= other.uncertain;
    }
}
