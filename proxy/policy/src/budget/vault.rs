//! [`Vault`]: the durable state of one budget, and every way in which it changes.
//!
//! Invariants: limit + extra = remaining + leased + spent, in every period; remaining goes below zero only by a debt, a lower
//! limit, or a reset while leases are out; time moves forward only. A change is made durable before anyone acts on it, by whoever
//! stores this. Deliberately absent: how it is stored, and how much a process should ask for (`feeder.rs`).

use std::collections::VecDeque;

use super::Period;
use super::window::{NEVER_S, SLICES, Window};
use crate::money::NanoUsd;

/// Who holds a lease: one run of one process. Never used again.
pub type Holder = u64;

/// In the place of a holder: what was spent in a period that has not begun here, by one whose clock is ahead.
const SPENT_AHEAD: Holder = 0;

/// What a holder may spend without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub holder: Holder,
    /// In which period.
    pub period: u64,
    /// How much of it has not been reported as spent.
    pub amount: NanoUsd,
}

/// The answer to a holder's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// In which period.
    pub period: Period,
    /// How much; possibly nothing.
    pub amount: NanoUsd,
    /// Whether nothing is left to grant in it.
    pub exhausted: bool,
}

/// The durable state of one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// What may be spent in a period.
    pub limit: NanoUsd,
    /// What may be spent beyond it in the current period.
    pub extra: NanoUsd,
    /// Over what time.
    pub window: Window,
    /// The current period.
    pub period: u64,
    /// What has been spent in it; of a rolling window, what still counts.
    pub spent: NanoUsd,
    /// Of a rolling window: what was spent in each slice of time that still counts, oldest first.
    pub slices: VecDeque<(u64, NanoUsd)>,
    /// What is leased.
    pub leases: Vec<Lease>,
    /// The latest second that was seen.
    pub seen_s: u64,
}

impl Vault {
    /// A budget of which nothing has been spent. The limit is at most [`NanoUsd::LIMIT_MAX`].
    pub fn new(limit: NanoUsd, window: Window, unix_s: u64) -> Self {
        Self {
            limit: limit.min(NanoUsd::LIMIT_MAX),
            extra: NanoUsd::ZERO,
            window,
            period: window.period(unix_s).0,
            spent: NanoUsd::ZERO,
            slices: VecDeque::new(),
            leases: Vec::new(),
            seen_s: unix_s,
        }
    }

    /// Moves to the period of `unix_s` unless that is past, and forgets what no longer counts.
    pub fn advance(&mut self, unix_s: u64) {
        self.seen_s = self.seen_s.max(unix_s);
        let (period, ..) = self.window.period(self.seen_s);
        if period > self.period {
            self.period = period;
            self.extra = NanoUsd::ZERO;
            let is_ahead = |lease: &Lease| lease.holder == SPENT_AHEAD && lease.period <= period;
            let ahead = self
                .leases
                .iter()
                .filter(|lease| is_ahead(lease) && lease.period == period);
            self.spent = ahead.fold(NanoUsd::ZERO, |sum, lease| sum.saturating_add(lease.amount));
            self.leases.retain(|lease| !is_ahead(lease));
        }
        if let Some(slice_s) = self.window.slice_s() {
            let now = self.seen_s / slice_s;
            while self.slices.front().is_some_and(|(slice, _)| slice + SLICES < now) {
                if let Some((_, amount)) = self.slices.pop_front() {
                    self.spent = self.spent.saturating_sub(amount);
                }
            }
        }
    }

    /// What has been leased in a period.
    pub fn leased(&self, period: u64) -> NanoUsd {
        let of = self.leases.iter().filter(|lease| lease.period == period);
        of.fold(NanoUsd::ZERO, |sum, lease| sum.saturating_add(lease.amount))
    }

    /// What is neither leased nor spent in a period, from the current one on; negative by what is spent beyond the limit.
    pub fn remaining(&self, period: u64) -> i64 {
        let wide = |amount: NanoUsd| i128::from(amount.0);
        let current = period == self.period;
        let limit = wide(self.limit) + if current { wide(self.extra) } else { 0 };
        let spent = if current { wide(self.spent) } else { 0 };
        let rest = limit - spent - wide(self.leased(period));
        i64::try_from(rest).unwrap_or(if rest < 0 { i64::MIN } else { i64::MAX })
    }

    /// Leases up to `most` to `holder`, in the current period, or ahead of time in the next one; at most one of `share` parts
    /// of what is left, unless `least` is more than that.
    pub fn grant(&mut self, holder: Holder, least: u64, most: u64, share: u64, ahead: bool, unix_s: u64) -> Granted {
        self.advance(unix_s);
        let now = Period::of(self.window, self.seen_s);
        let period = if ahead && now.ends_s != NEVER_S {
            Period::of(self.window, now.ends_s)
        } else {
            now
        };
        let left = u64::try_from(self.remaining(period.index)).unwrap_or(0);
        let amount = most.min((left / share.max(1)).max(least.min(left)));
        if amount > 0 {
            self.lease_mut(holder, period.index).amount.0 += amount;
        }
        Granted {
            period,
            amount: NanoUsd(amount),
            exhausted: amount == left,
        }
    }

    /// Turns what a holder has spent of its lease into spending, and returns by how much it was more than the lease: that
    /// counts as well, because the provider bills it. Of a period that is over, only the lease goes.
    pub fn settle(&mut self, holder: Holder, period: u64, amount: NanoUsd, unix_s: u64) -> NanoUsd {
        self.advance(unix_s);
        let lease = &mut self.lease_mut(holder, period).amount;
        let beyond = amount.saturating_sub(*lease);
        *lease = lease.saturating_sub(amount);
        self.drop_empty();
        self.spend(period, amount);
        beyond
    }

    /// Takes back what a holder has not spent.
    pub fn give_back(&mut self, holder: Holder, period: u64, amount: NanoUsd) {
        let lease = &mut self.lease_mut(holder, period).amount;
        *lease = lease.saturating_sub(amount);
        self.drop_empty();
    }

    /// Counts everything that holders other than those in `alive` have leased as spent, and returns how much that is: they
    /// are gone, and how much of it their requests have used cannot be known.
    pub fn reclaim(&mut self, alive: &dyn Fn(Holder) -> bool, unix_s: u64) -> NanoUsd {
        self.advance(unix_s);
        let is_gone = |lease: &Lease| lease.holder != SPENT_AHEAD && !alive(lease.holder);
        let gone: Vec<Lease> = self.leases.iter().copied().filter(is_gone).collect();
        self.leases.retain(|lease| !is_gone(lease));
        let mut total = NanoUsd::ZERO;
        for lease in gone {
            self.spend(lease.period, lease.amount);
            total = total.saturating_add(lease.amount);
        }
        total
    }

    /// Allows more in the current period.
    pub fn top_up(&mut self, amount: NanoUsd, unix_s: u64) {
        self.advance(unix_s);
        self.extra = self.extra.saturating_add(amount).min(NanoUsd::LIMIT_MAX);
    }

    /// Forgets what was spent in the current period, but not what is leased.
    pub fn reset(&mut self, unix_s: u64) {
        self.advance(unix_s);
        self.spent = NanoUsd::ZERO;
        self.slices.clear();
    }

    fn spend(&mut self, period: u64, amount: NanoUsd) {
        if period < self.period || amount == NanoUsd::ZERO {
            return;
        }
        if period > self.period {
            let ahead = &mut self.lease_mut(SPENT_AHEAD, period).amount;
            *ahead = ahead.saturating_add(amount);
            return;
        }
        self.spent = self.spent.saturating_add(amount);
        if let Some(slice_s) = self.window.slice_s() {
            let slice = self.seen_s / slice_s;
            match self.slices.back_mut() {
                Some((last, sum)) if *last == slice => *sum = sum.saturating_add(amount),
                _ => self.slices.push_back((slice, amount)),
            }
        }
    }

    fn lease_mut(&mut self, holder: Holder, period: u64) -> &mut Lease {
        let is_it = |lease: &Lease| lease.holder == holder && lease.period == period;
        let at = self.leases.iter().position(is_it).unwrap_or_else(|| {
            self.leases.push(Lease {
                holder,
                period,
                amount: NanoUsd::ZERO,
            });
            self.leases.len() - 1
        });
        &mut self.leases[at]
    }

    fn drop_empty(&mut self) {
        self.leases.retain(|lease| lease.amount > NanoUsd::ZERO);
    }
}
