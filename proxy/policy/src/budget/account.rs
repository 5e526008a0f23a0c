//! [`Account`]: what one process may spend of one budget in one period, shared by its cores.
//!
//! Invariants: granted = free + held by cores + spent, whenever no core is in the middle of an operation; `free` goes below
//! zero only by a debt, that is, by a request that cost more than was reserved for it; only the control thread grants and
//! withdraws. Deliberately absent: waiting. Whoever finds too little leaves a note of how much it needed.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::Window;

/// When an account holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its number among the periods of its budget; higher is later.
    pub index: u64,
    /// Its first second since the epoch.
    pub begins_s: u64,
    /// The second after its last.
    pub ends_s: u64,
}

impl Period {
    /// The period of `window` that a moment falls into.
    pub fn of(window: Window, unix_s: u64) -> Self {
        let (index, begins_s, ends_s) = window.period(unix_s);
        Self {
            index,
            begins_s,
            ends_s,
        }
    }
}

/// A process's part of one budget in one period, in nano-dollars. What requests look at is in one cache line.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Account {
    free: AtomicI64,
    /// What the store has neither leased to anybody nor counted as spent, as of the last time it was asked.
    unleased: AtomicI64,
    /// What was granted and not withdrawn.
    granted: AtomicI64,
    spent: AtomicU64,
    wanted: AtomicU64,
    /// Most that one core keeps for later.
    hold_max: AtomicU64,
    exhausted: AtomicBool,
    open: AtomicBool,
    period: Period,
}

/// The share of what is free that a core takes for later, beyond what it needs: one of so many, divided by the cores.
const HOLD_SHARE: u64 = 8;

impl Account {
    /// An account with nothing granted yet. `hold_max` is what one core may keep at most.
    pub fn new(period: Period, hold_max: u64) -> Self {
        Self {
            free: AtomicI64::new(0),
            unleased: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            spent: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
            open: AtomicBool::new(false),
            hold_max: AtomicU64::new(hold_max),
            period,
        }
    }

    /// When it holds.
    pub fn period(&self) -> Period {
        self.period
    }

    /// What no core holds; negative by what was spent beyond all grants.
    pub fn free(&self) -> i64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Control: what the store could still lease; negative by what was spent beyond the limit.
    pub fn set_unleased(&self, amount: i64) {
        self.unleased.store(amount, Ordering::Relaxed);
    }

    /// What may still be spent in its period, what cores hold or have reserved included, but not what other processes have
    /// leased; negative by what was spent beyond the limit.
    pub(super) fn remaining(&self) -> i64 {
        let unleased = self.unleased.load(Ordering::Relaxed);
        let granted = self.granted.load(Ordering::Relaxed);
        let all = unleased.saturating_add(granted);
        all.saturating_sub_unsigned(self.spent.load(Ordering::Relaxed))
    }

    /// What cores have reported as spent, over the account's whole life.
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Acquire)
    }

    /// Control: adds what the store has granted, durably.
    pub fn grant(&self, amount: u64) {
        self.granted.fetch_add(signed(amount), Ordering::Relaxed);
        self.free.fetch_add(signed(amount), Ordering::AcqRel);
    }

    /// Control: takes back up to `most` of what no core holds.
    pub fn withdraw(&self, most: u64) -> u64 {
        let taken = self.take(0, most).unwrap_or(0);
        self.granted.fetch_sub(signed(taken), Ordering::Relaxed);
        taken
    }

    /// Control: the largest amount that was missing since the last call.
    pub fn take_wanted(&self) -> u64 {
        // Asked of every account, many times a second: writing would take its line away from the cores each time.
        match self.wanted.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.wanted.swap(0, Ordering::Relaxed),
        }
    }

    /// Control: whether the store has nothing more to grant now; tells an exhausted budget from one whose lease is late.
    pub fn set_exhausted(&self, exhausted: bool) {
        self.exhausted.store(exhausted, Ordering::Release);
    }

    /// Control: the store is in this period, whatever the clock says; it may have been set back since.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Core: whether it holds now. Where it ends is for the next one to say.
    pub(super) fn has_begun(&self, unix_s: u64) -> bool {
        self.period.begins_s <= unix_s || self.open.load(Ordering::Acquire)
    }

    /// Control: what one core may keep at most.
    pub fn set_hold_max(&self, amount: u64) {
        self.hold_max.store(amount, Ordering::Relaxed);
    }

    /// Whether the store has nothing more to grant.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Acquire)
    }

    /// Core: takes what it needs, and some more for later: less the less is free, so that near the limit no core keeps
    /// what another needs. `None` if there is less than it needs.
    pub(super) fn lease(&self, needed: u64, cores: u64) -> Option<u64> {
        let hold_max = self.hold_max.load(Ordering::Relaxed);
        let mut taken = 0;
        let update = |free: i64| {
            let free = u64::try_from(free).ok()?;
            let rest = free.checked_sub(needed)?;
            taken = needed + hold(rest, hold_max, cores);
            Some(signed(free - taken))
        };
        match self.free.fetch_update(Ordering::AcqRel, Ordering::Relaxed, update) {
            Ok(_) => Some(taken),
            Err(_) => {
                self.wanted.fetch_max(needed, Ordering::Relaxed);
                None
            }
        }
    }

    /// Core: what it may keep for later now.
    pub(super) fn hold_now(&self, cores: u64) -> u64 {
        hold(
            u64::try_from(self.free()).unwrap_or(0),
            self.hold_max.load(Ordering::Relaxed),
            cores,
        )
    }

    /// Core: gives back.
    pub(super) fn give(&self, amount: u64) {
        if amount > 0 {
            self.free.fetch_add(signed(amount), Ordering::AcqRel);
        }
    }

    /// Core: takes what it has spent beyond what it held, whether it is there or not.
    pub(super) fn owe(&self, amount: u64) {
        self.free.fetch_sub(signed(amount), Ordering::AcqRel);
    }

    /// Core: reports as spent.
    pub(super) fn report(&self, amount: u64) {
        if amount > 0 {
            self.spent.fetch_add(amount, Ordering::AcqRel);
        }
    }

    fn take(&self, least: u64, most: u64) -> Option<u64> {
        let mut taken = 0;
        let update = |free: i64| {
            taken = u64::try_from(free).ok()?.min(most);
            (taken >= least).then(|| free - signed(taken))
        };
        self.free
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, update)
            .ok()
            .map(|_| taken)
    }
}

fn hold(free: u64, hold_max: u64, cores: u64) -> u64 {
    (free / (HOLD_SHARE * cores.max(1))).min(hold_max)
}

/// Amounts are bounded by `NanoUsd::LIMIT_MAX` where budgets are made, and by it again where costs come in.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).expect("amounts are within NanoUsd::LIMIT_MAX")
}
