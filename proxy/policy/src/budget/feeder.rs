//! [`Feeder`]: keeps a process's accounts of one budget supplied from the vault, and the vault informed.
//!
//! ```text
//!  plan ──► Plan::apply on the vault, in the store ──► durable ──► Feeder::done
//!                                                 └──► failed  ──► Feeder::failed
//! ```
//!
//! Invariants: one plan at a time; money is granted to an account only after the store has it durably, and taken from the
//! account before the store is told; what was spent is told exactly once. Deliberately absent: the store, and when to call.

use std::sync::Arc;

use super::vault::{Granted, Holder, Vault};
use super::{Account, Period, Window};
use crate::money::NanoUsd;

/// A process leases one of so many parts of the limit at a time, or more if requests need more. It is also what a crash
/// counts as spent at most, besides what has been.
const LEASE_SHARE: u64 = 16;
/// A lease is enough for so many of the largest requests that lacked money.
const WANTED_TIMES: u64 = 4;
/// And for so many times what was spent between two plans.
const SPENT_TIMES: u64 = 16;
/// How long before a period's end money is leased for the next one, in seconds.
const AHEAD_S: u64 = 5;
/// Plans between two questions to a store that had nothing left.
const ASK_AGAIN: u32 = 20;
/// Idle plans after which a process gives back half of its lease, if others share the budget and nothing is left.
const IDLE: u32 = 20;

/// A process's side of one budget.
#[derive(Debug)]
pub struct Feeder {
    window: Window,
    limit: NanoUsd,
    cores: u64,
    lease: u64,
    current: Option<Fed>,
    ahead: Option<Fed>,
    over: Vec<Fed>,
    exhausted: bool,
    plans_since_asked: u32,
    idle: u32,
}

#[derive(Debug)]
struct Fed {
    account: Arc<Account>,
    /// Granted, less what was taken back.
    granted: u64,
    /// What the store counts as spent of it: of what the cores have spent, as much as it knows; more, after it has taken the
    /// process for dead.
    told: u64,
}

/// What a feeder asks of the store, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    settle: Vec<(u64, NanoUsd)>,
    give_back: Vec<(u64, NanoUsd)>,
    want: Option<(u64, u64)>,
    ahead: Option<u64>,
}

/// What the store made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    beyond: Vec<NanoUsd>,
    granted: Option<Granted>,
    ahead: Option<Granted>,
    /// What is neither leased nor spent in the current period; negative by what was spent beyond the limit.
    pub remaining: i64,
    /// What was spent in the current period, without what is leased.
    pub spent: NanoUsd,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Carries it out. `replicas` is the number of processes that share the budget.
    pub fn apply(&self, vault: &mut Vault, holder: Holder, replicas: u64, unix_s: u64) -> Done {
        vault.advance(unix_s);
        let settle = |(period, amount): &(u64, NanoUsd)| vault.settle(holder, *period, *amount, unix_s);
        let beyond = self.settle.iter().map(settle).collect();
        for (period, amount) in &self.give_back {
            vault.give_back(holder, *period, *amount);
        }
        // Alone, a process may have everything that is left; otherwise it leaves the others theirs.
        let share = if replicas > 1 { 2 * replicas } else { 1 };
        let granted = self
            .want
            .map(|(least, most)| vault.grant(holder, least, most, share, false, unix_s));
        let ahead = self.ahead.map(|most| vault.grant(holder, 0, most, share, true, unix_s));
        Done {
            beyond,
            granted,
            ahead,
            remaining: vault.remaining(vault.period),
            spent: vault.spent,
        }
    }
}

impl Feeder {
    /// For a budget of which nothing is leased yet, in a process of `cores` cores.
    pub fn new(limit: NanoUsd, window: Window, cores: u32) -> Self {
        Self {
            window,
            limit,
            cores: u64::from(cores.max(1)),
            lease: (limit.0 / LEASE_SHARE).max(1),
            current: None,
            ahead: None,
            over: Vec::new(),
            exhausted: false,
            plans_since_asked: 0,
            idle: 0,
        }
    }

    /// Follows a change of the limit.
    pub fn set_limit(&mut self, limit: NanoUsd) {
        self.limit = limit;
        self.lease = (limit.0 / LEASE_SHARE).max(1);
        self.plans_since_asked = ASK_AGAIN;
    }

    /// Asks the store at the next plan, even if it had nothing left: it may have more now.
    pub fn ask(&mut self) {
        self.plans_since_asked = ASK_AGAIN;
    }

    /// The lease that it aims at: what is in hand, and at risk in a crash.
    pub fn lease(&self) -> NanoUsd {
        NanoUsd(self.lease)
    }

    /// What to ask of the store now.
    pub fn plan(&mut self, unix_s: u64) -> Plan {
        let mut plan = Plan::default();
        for fed in &mut self.over {
            fed.tell(&mut plan);
            fed.take_back(u64::MAX, &mut plan);
        }
        self.plans_since_asked = self.plans_since_asked.saturating_add(1);
        let Some(fed) = &mut self.current else {
            plan.want = Some((0, self.lease));
            return plan;
        };
        let period = fed.account.period();
        let spent = fed.tell(&mut plan);
        self.idle = if spent > 0 { 0 } else { self.idle.saturating_add(1) };
        if let Some(fed) = &mut self.ahead {
            // A core's clock may run ahead of this one's.
            fed.tell(&mut plan);
        }
        let wanted = fed.account.take_wanted();
        self.lease = self.lease.max(wanted.saturating_mul(WANTED_TIMES));
        self.lease = self
            .lease
            .max(spent.saturating_mul(SPENT_TIMES))
            // One request may need more than the limit, of a budget that was topped up.
            .min(self.limit.0.max(wanted).max(1));
        let free = fed.account.free();
        let short = i128::from(self.lease) - i128::from(free);
        let lease = i128::from(self.lease);
        let may_ask = !self.exhausted || wanted > 0 || self.plans_since_asked > ASK_AGAIN;
        let least = i128::from(wanted) - i128::from(free);
        if (short > lease / 2 || least > 0) && may_ask {
            plan.want = Some((positive(least), positive(short.max(least))));
            self.plans_since_asked = 0;
        } else if unix_s >= period.ends_s {
            plan.want = Some((0, self.lease));
        } else if short < -lease {
            fed.take_back(positive(-short), &mut plan);
        } else if self.exhausted && self.idle > IDLE {
            self.idle = 0;
            fed.take_back(positive(i128::from(free) / 2), &mut plan);
        }
        if self.ahead.is_none() && unix_s.saturating_add(AHEAD_S) >= period.ends_s && unix_s < period.ends_s {
            plan.ahead = Some(self.lease);
        }
        plan
    }

    /// Passes on what the store has granted, now that it is durable. Returns the accounts that the cores do not have yet.
    pub fn done(&mut self, plan: &Plan, done: &Done) -> Vec<Arc<Account>> {
        let mut new = Vec::new();
        for ((period, amount), beyond) in plan.settle.iter().zip(&done.beyond) {
            if let Some(fed) = self.fed_mut(*period) {
                fed.told += amount.0;
                // The store has counted it beyond the lease: the debt is paid.
                fed.grant(beyond.0);
            }
        }
        if let Some(granted) = &done.granted {
            self.exhausted = granted.exhausted;
            new.extend(self.receive(granted, false));
        }
        if let Some(granted) = &done.ahead {
            new.extend(self.receive(granted, true));
        }
        if let Some(current) = &self.current {
            current.account.set_unleased(done.remaining);
        }
        self.over.retain(|fed| !fed.is_finished());
        new
    }

    /// The store could not carry the plan out: what was taken from accounts for it goes back there.
    pub fn failed(&mut self, plan: &Plan) {
        for (period, amount) in &plan.give_back {
            if let Some(fed) = self.fed_mut(*period) {
                fed.grant(amount.0);
            }
        }
        if let Some(fed) = &self.current {
            // Not known to be exhausted: the answer to a client is that the store is not available.
            fed.account.set_exhausted(false);
        }
    }

    /// The store has taken this process for dead and counted what it had leased as spent: so that much has been told already,
    /// and what is left of it in the accounts may still be spent. To be called with no plan under way.
    pub fn fenced(&mut self) {
        for fed in self.over.iter_mut().chain(&mut self.current).chain(&mut self.ahead) {
            fed.told = fed.told.max(fed.granted);
        }
        self.plans_since_asked = ASK_AGAIN;
    }

    /// Takes everything back from the accounts, to be given back to the store before the process ends. The cores have closed
    /// their purses.
    pub fn close(&mut self) -> Plan {
        let mut plan = Plan::default();
        let feds = self.over.iter_mut().chain(&mut self.current).chain(&mut self.ahead);
        for fed in feds {
            fed.tell(&mut plan);
            fed.take_back(u64::MAX, &mut plan);
        }
        plan
    }

    /// The account that holds now, if any.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.current.as_ref().map(|fed| &fed.account)
    }

    /// Every account that cores may still have to do with.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        let all = self.over.iter().chain(&self.current).chain(&self.ahead);
        all.map(|fed| &fed.account)
    }

    /// Of each account: what was granted and not taken back, and what the store knows to be spent.
    #[cfg(test)]
    pub(super) fn books(&self) -> impl Iterator<Item = (&Account, u64, u64)> {
        let all = self.over.iter().chain(&self.current).chain(&self.ahead);
        all.map(|fed| (&*fed.account, fed.granted, fed.told))
    }

    fn receive(&mut self, granted: &Granted, ahead: bool) -> Option<Arc<Account>> {
        let index = granted.period.index;
        let mut new = None;
        if self.fed_mut(index).is_none() {
            let fed = Fed::new(granted.period);
            new = Some(fed.account.clone());
            if ahead {
                self.ahead = Some(fed);
            } else {
                self.over.extend(self.ahead.take());
                self.over.extend(self.current.replace(fed));
            }
        }
        if !ahead
            && self
                .ahead
                .as_ref()
                .is_some_and(|fed| fed.account.period().index == index)
        {
            // Its time has come.
            let begun = self.ahead.take();
            self.over.extend(std::mem::replace(&mut self.current, begun));
        }
        // What one core keeps at most: all together, twice over, no more than one lease.
        let hold_max = self.lease / (2 * self.cores);
        let exhausted = granted.exhausted;
        if let Some(fed) = self.fed_mut(index) {
            fed.account.set_hold_max(hold_max);
            fed.account.set_exhausted(exhausted);
            fed.grant(granted.amount.0);
            if !ahead {
                fed.account.open();
            }
        }
        new
    }

    fn fed_mut(&mut self, period: u64) -> Option<&mut Fed> {
        let mut all = self.over.iter_mut().chain(&mut self.current).chain(&mut self.ahead);
        all.find(|fed| fed.account.period().index == period)
    }

    /// The budget's window.
    pub fn window(&self) -> Window {
        self.window
    }
}

impl Fed {
    fn new(period: Period) -> Self {
        Self {
            account: Arc::new(Account::new(period, 0)),
            granted: 0,
            told: 0,
        }
    }

    fn grant(&mut self, amount: u64) {
        self.granted += amount;
        self.account.grant(amount);
    }

    /// Plans to tell the store what was spent; returns how much that is.
    fn tell(&mut self, plan: &mut Plan) -> u64 {
        let spent = self.account.spent().saturating_sub(self.told);
        if spent > 0 {
            plan.settle.push((self.account.period().index, NanoUsd(spent)));
        }
        spent
    }

    fn take_back(&mut self, most: u64, plan: &mut Plan) {
        let taken = self.account.withdraw(most);
        let back = taken.min(self.granted.saturating_sub(self.told));
        // The rest was counted as spent when the process was taken for dead: it is as if it had never been granted.
        self.granted -= taken;
        self.told -= taken - back;
        if back > 0 {
            plan.give_back.push((self.account.period().index, NanoUsd(back)));
        }
    }

    /// Whether every nano-dollar has come back or was spent, and the store knows it.
    fn is_finished(&self) -> bool {
        self.granted == self.told && self.account.spent() == self.told
    }
}

fn positive(amount: i128) -> u64 {
    u64::try_from(amount).unwrap_or(0)
}
