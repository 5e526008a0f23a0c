//! [`Series`]: where a core finds the rows of its boards: by target, by virtual key, by fallback.
//!
//! Invariants: a row that is there is found by one look into a table of this core's own; only a new one takes memory; its borrow
//! ends with the call. Deliberately absent: the rows themselves, which the control thread reads (`sluice_policy::meter`).

use std::cell::RefCell;

use sluice_policy::meter::CoreMeter;
use sluice_policy::meter::board::Places;
use sluice_policy::meter::series::{FallbackLabel, TargetLabel};

/// The places of one core.
#[derive(Default)]
pub struct Series {
    targets: RefCell<Places>,
    fallbacks: RefCell<Places>,
    callers: RefCell<Places>,
}

impl Series {
    /// The row of a target, by a hash of its label.
    pub fn target(&self, meter: &CoreMeter, tag: u64, label: impl FnOnce() -> TargetLabel) -> usize {
        let add = || meter.boards.targets.share(label());
        self.targets.borrow_mut().find(tag, add)
    }

    /// The row of a fallback, likewise.
    pub fn fallback(&self, meter: &CoreMeter, tag: u64, label: impl FnOnce() -> FallbackLabel) -> usize {
        let add = || meter.boards.fallbacks.share(label());
        self.fallbacks.borrow_mut().find(tag, add)
    }

    /// The row of a virtual key, by its number in the store.
    pub fn caller(&self, meter: &CoreMeter, number: i64, name: impl FnOnce() -> Box<str>) -> usize {
        let add = || meter.boards.callers.add(name());
        self.callers.borrow_mut().find(number.cast_unsigned(), add)
    }
}
