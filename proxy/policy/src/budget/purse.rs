//! [`Purse`]: what one core holds of all budgets, and the [`Reservation`]s made from it.
//!
//! Invariants: of each account, what the core has leased is free, reserved, or spent and not reported yet; a reservation
//! ends once, by `settle`, `release` or `Drop`, and in the account that it was made in; a core moves from one period of a
//! budget to the next and never back. What was not used for a whole tick goes back to the account.
//! Deliberately absent: locks (one thread), waiting, and any clock but the one passed in.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use sluice_wire::limits::BUDGETS_PER_REQUEST_MAX;

use super::{Account, BudgetId};
use crate::money::NanoUsd;

/// What one core holds of all budgets.
#[derive(Debug)]
pub struct Purse {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    cores: u64,
    slots: Vec<Slot>,
    /// Budgets that [`Purse::tick`] has to look at, each once.
    active: Vec<BudgetId>,
}

/// A core's part of one budget. On a cache line of its own, which is all that a request looks at but for the account itself.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// What new reservations are made in.
    now: Option<Part>,
    /// Other periods that the core still has to do with.
    rest: Option<Box<Rest>>,
    /// From when until when `now` holds for certain, in seconds since the epoch; empty if that must be looked at.
    from_s: u32,
    until_s: u32,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// Periods beside the current one, in order.
#[derive(Debug, Default)]
struct Rest {
    /// Those that are over, in which requests are under way.
    over: Vec<Part>,
    /// Those that have not begun.
    later: Vec<Part>,
}

/// A core's part of one budget in one period.
#[derive(Debug)]
struct Part {
    account: Arc<Account>,
    free: u64,
    reserved: u64,
    unreported: u64,
    /// What the core might keep for later, as of the last lease or tick: to look at the account itself would cost every
    /// request a line of memory that all cores write.
    hold: u64,
    /// Reservations that have not ended, those of nothing included.
    open: u32,
    /// Which part of its slot it is: told apart from all others that live at the same time.
    number: u16,
    /// Of the current part: whether [`Inner::active`] has it.
    is_active: bool,
    used_since_tick: bool,
}

/// Why there is no reservation, and by which budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The budget.
    pub budget: BudgetId,
    /// Why.
    pub why: Refusal,
    /// When its period ends, in seconds since the epoch; `u64::MAX` if it never does.
    pub resets_s: u64,
}

/// Why a budget refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has not enough left.
    Exhausted,
    /// The process has leased too little of it, or nothing yet, and the store has more, or has not been heard.
    NotLeased,
    /// The request is charged to more budgets than it may be, or costs more than any budget can hold.
    OutOfBounds,
}

impl Purse {
    /// An empty purse of one of `cores` cores.
    pub fn new(cores: u32) -> Rc<Self> {
        let inner = Inner {
            cores: u64::from(cores.max(1)),
            slots: Vec::new(),
            active: Vec::new(),
        };
        Rc::new(Self {
            inner: RefCell::new(inner),
        })
    }

    /// Lets the core use an account from now on, or from the begin of its period. One that is not newer than what the core
    /// has of that budget is ignored.
    pub fn fund(&self, id: BudgetId, account: Arc<Account>) {
        let mut inner = self.inner.borrow_mut();
        let index = id.0 as usize;
        if inner.slots.len() <= index {
            inner.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut inner.slots[index];
        let newest = slot
            .rest
            .as_ref()
            .and_then(|rest| rest.later.last())
            .or(slot.now.as_ref());
        let Some(newest) = newest else {
            slot.now = Some(Part::new(account, 0));
            return;
        };
        if newest.account.period().index < account.period().index {
            let part = Part::new(account, newest.number.wrapping_add(1));
            slot.rest.get_or_insert_default().later.push(part);
        }
    }

    /// Sets `amount` aside in each of `budgets`, or in none of them. An amount of zero is always admitted: what costs nothing
    /// is not blocked by a budget that is used up.
    ///
    /// # Errors
    /// The first budget that refuses.
    pub fn reserve(
        self: &Rc<Self>,
        budgets: &[BudgetId],
        amount: NanoUsd,
        unix_s: u64,
    ) -> Result<Reservation, Refused> {
        let mut reservation = Reservation {
            purse: self.clone(),
            entries: [(BudgetId(0), 0); BUDGETS_PER_REQUEST_MAX],
            amount: amount.0,
            len: 0,
            sent: false,
        };
        let out_of_bounds = amount > NanoUsd::LIMIT_MAX || budgets.len() > BUDGETS_PER_REQUEST_MAX;
        if let (true, Some(budget)) = (out_of_bounds, budgets.first()) {
            return Err(Refused {
                budget: *budget,
                why: Refusal::OutOfBounds,
                resets_s: u64::MAX,
            });
        }
        let mut inner = self.inner.borrow_mut();
        let mut refused = None;
        for &budget in budgets {
            match inner.reserve(budget, amount.0, unix_s) {
                Ok(number) => reservation.push(budget, number),
                Err(_) if amount == NanoUsd::ZERO => {}
                Err(refusal) => {
                    refused = Some(refusal);
                    break;
                }
            }
        }
        // A reservation that is dropped looks into the purse.
        drop(inner);
        match refused {
            None => Ok(reservation),
            Some(refusal) => {
                reservation.release();
                Err(refusal)
            }
        }
    }

    /// The largest amount that [`Purse::reserve`] would set aside now.
    ///
    /// # Errors
    /// A budget of which the process has nothing.
    pub fn affordable(&self, budgets: &[BudgetId], unix_s: u64) -> Result<NanoUsd, Refused> {
        let mut inner = self.inner.borrow_mut();
        let mut least = NanoUsd::LIMIT_MAX.0;
        for &budget in budgets {
            let part = inner.current(budget, unix_s)?;
            let shared = u64::try_from(part.account.free()).unwrap_or(0);
            least = least.min(part.free.saturating_add(shared));
        }
        Ok(NanoUsd(least))
    }

    /// What is left of the budget of which least is, as far as this core knows without asking: what the process has leased and
    /// what the store had last, less what was spent and what this core has reserved. `None` without budgets, or if one is not
    /// known yet.
    pub fn remaining(&self, budgets: &[BudgetId], unix_s: u64) -> Option<NanoUsd> {
        let mut inner = self.inner.borrow_mut();
        let mut least = None;
        for &budget in budgets {
            let part = inner.current(budget, unix_s).ok()?;
            let gone = part.unreported.saturating_add(part.reserved);
            let left = part.account.remaining().saturating_sub_unsigned(gone);
            let left = u64::try_from(left).unwrap_or(0);
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        least.map(NanoUsd)
    }

    /// Reports what was spent, and gives back what was not used since the last tick. To be called every few milliseconds.
    pub fn tick(&self) {
        let mut inner = self.inner.borrow_mut();
        let Inner { slots, active, cores } = &mut *inner;
        active.retain(|id| {
            let slot = &mut slots[id.0 as usize];
            slot.retire();
            let Some(part) = &mut slot.now else { return false };
            let idle = !std::mem::take(&mut part.used_since_tick);
            part.flush(idle);
            if part.free > 0 {
                part.hold = part.hold.min(part.account.hold_now(*cores));
                part.trim(*cores);
            }
            part.is_active = part.free > 0;
            part.is_active
        });
    }

    /// Gives back and reports everything, but for what is reserved.
    pub fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        for slot in &mut inner.slots {
            slot.parts_mut().for_each(|part| part.flush(true));
            slot.retire();
        }
    }

    /// What is reserved now, over all budgets. Nothing is once no request is under way.
    pub fn reserved(&self) -> NanoUsd {
        let inner = self.inner.borrow();
        let parts = inner.slots.iter().flat_map(Slot::parts);
        NanoUsd(parts.map(|part| part.reserved).sum())
    }

    /// Reservations in these budgets and parts end.
    fn end(&self, entries: &[(BudgetId, u16)], amount: u64, cost: u64) {
        let mut inner = self.inner.borrow_mut();
        let Inner { slots, active, cores } = &mut *inner;
        for &(budget, number) in entries {
            let slot = &mut slots[budget.0 as usize];
            match &mut slot.now {
                Some(part) if part.number == number => {
                    part.end(amount, cost);
                    part.trim(*cores);
                    part.wake(budget, active);
                }
                _ => slot.end_over(number, amount, cost),
            }
        }
    }

    /// What the core has leased of an account and not reported as spent.
    #[cfg(test)]
    pub(super) fn held(&self, id: BudgetId, account: &Account) -> u64 {
        let inner = self.inner.borrow();
        let parts = inner.slots.get(id.0 as usize).into_iter().flat_map(Slot::parts);
        let of = parts.filter(|part| std::ptr::eq(&*part.account, account));
        of.map(|part| part.free + part.reserved + part.unreported).sum()
    }
}

/// What the requests that end last have spent is reported like that of all others.
impl Drop for Purse {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// The part that a reservation is made in now.
    fn current(&mut self, budget: BudgetId, unix_s: u64) -> Result<&mut Part, Refused> {
        let refused = |resets_s: u64| Refused {
            budget,
            why: Refusal::NotLeased,
            resets_s,
        };
        let slot = self.slots.get_mut(budget.0 as usize).ok_or(refused(u64::MAX))?;
        if !slot.is_current(unix_s) {
            slot.move_on(unix_s).map_err(refused)?;
        }
        slot.now.as_mut().ok_or(refused(u64::MAX))
    }

    /// Sets money aside; returns the part's number.
    fn reserve(&mut self, budget: BudgetId, amount: u64, unix_s: u64) -> Result<u16, Refused> {
        let cores = self.cores;
        let part = self.current(budget, unix_s)?;
        if part.free < amount {
            match part.account.lease(amount - part.free, cores) {
                Some(leased) => {
                    part.hold = leased - (amount - part.free);
                    part.free += leased;
                }
                None => {
                    let why = if part.account.is_exhausted() {
                        Refusal::Exhausted
                    } else {
                        Refusal::NotLeased
                    };
                    let resets_s = part.account.period().ends_s;
                    return Err(Refused { budget, why, resets_s });
                }
            }
        }
        part.free -= amount;
        part.reserved += amount;
        part.open += 1;
        let number = part.number;
        part.used_since_tick = true;
        if !std::mem::replace(&mut part.is_active, true) {
            self.active.push(budget);
        }
        Ok(number)
    }
}

impl Slot {
    /// Whether `now` holds, as far as that can be told at a glance.
    fn is_current(&self, unix_s: u64) -> bool {
        self.rest.is_none() && (u64::from(self.from_s)..u64::from(self.until_s)).contains(&unix_s)
    }

    /// Goes on to the latest period that has begun.
    ///
    /// # Errors
    /// None holds; when the last one ends or has ended.
    #[cold]
    fn move_on(&mut self, unix_s: u64) -> Result<(), u64> {
        (self.from_s, self.until_s) = (0, 0);
        if let Some(rest) = &mut self.rest {
            let begun = |part: &Part| part.account.has_begun(unix_s);
            while rest.later.first().is_some_and(begun) {
                let next = rest.later.remove(0);
                if let Some(mut before) = self.now.replace(next) {
                    before.flush(true);
                    if let Some(now) = &mut self.now {
                        (now.is_active, now.used_since_tick) = (before.is_active, before.used_since_tick);
                    }
                    rest.over.push(before);
                }
            }
        }
        self.retire();
        let now = self.now.as_ref().ok_or(u64::MAX)?;
        let period = now.account.period();
        if !now.account.has_begun(unix_s) || unix_s >= period.ends_s {
            return Err(period.ends_s);
        }
        let seconds = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        (self.from_s, self.until_s) = (seconds(period.begins_s), seconds(period.ends_s));
        Ok(())
    }

    /// Forgets periods that are over and in which no request is under way.
    fn retire(&mut self) {
        let Some(rest) = &mut self.rest else { return };
        rest.over.retain(|part| {
            debug_assert!(
                part.open > 0 || part.free == 0 && part.unreported == 0,
                "flushed before"
            );
            part.open > 0
        });
        if rest.over.is_empty() && rest.later.is_empty() {
            self.rest = None;
        }
    }

    /// A reservation ends in a period that is over.
    #[cold]
    fn end_over(&mut self, number: u16, amount: u64, cost: u64) {
        let mut over = self.rest.iter_mut().flat_map(|rest| &mut rest.over);
        let part = over.find(|part| part.number == number);
        let part = part.expect("a part stays for as long as a reservation is open in it");
        part.end(amount, cost);
        part.flush(true);
        self.retire();
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let rest = self.rest.iter().flat_map(|rest| rest.over.iter().chain(&rest.later));
        self.now.iter().chain(rest)
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        let rest = self
            .rest
            .iter_mut()
            .flat_map(|rest| rest.over.iter_mut().chain(&mut rest.later));
        self.now.iter_mut().chain(rest)
    }
}

impl Part {
    fn new(account: Arc<Account>, number: u16) -> Self {
        Self {
            account,
            free: 0,
            reserved: 0,
            unreported: 0,
            hold: 0,
            open: 0,
            number,
            is_active: false,
            used_since_tick: false,
        }
    }

    /// The next tick has to look at it.
    fn wake(&mut self, budget: BudgetId, active: &mut Vec<BudgetId>) {
        self.used_since_tick = true;
        if !std::mem::replace(&mut self.is_active, true) {
            active.push(budget);
        }
    }

    fn end(&mut self, amount: u64, cost: u64) {
        self.reserved = self.reserved.checked_sub(amount).expect("what ends was reserved");
        self.open -= 1;
        self.unreported += cost;
        match amount.checked_sub(cost) {
            Some(rest) => self.free += rest,
            None => {
                let beyond = cost - amount;
                let own = self.free.min(beyond);
                self.free -= own;
                if own < beyond {
                    self.account.owe(beyond - own);
                }
            }
        }
    }

    /// Gives back what is clearly more than the core may hold.
    fn trim(&mut self, cores: u64) {
        if self.free <= self.hold.saturating_mul(2) {
            return;
        }
        self.hold = self.account.hold_now(cores);
        if self.free > self.hold.saturating_mul(2) {
            self.account.give(self.free - self.hold);
            self.free = self.hold;
        }
    }

    fn flush(&mut self, and_give_back: bool) {
        self.account.report(std::mem::take(&mut self.unreported));
        if and_give_back {
            self.account.give(std::mem::take(&mut self.free));
        }
    }
}

/// Money set aside for one attempt at a provider, in every budget that it is charged to.
///
/// It ends exactly once. Until [`Reservation::sent`] was called, dropping it gives everything back; afterwards, dropping it
/// charges all of it, because the provider may.
#[must_use = "what is reserved is given back, or charged, when this is dropped"]
#[derive(Debug)]
pub struct Reservation {
    purse: Rc<Purse>,
    /// Budgets, and numbers of their parts.
    entries: [(BudgetId, u16); BUDGETS_PER_REQUEST_MAX],
    amount: u64,
    len: u8,
    sent: bool,
}

impl Reservation {
    fn push(&mut self, budget: BudgetId, number: u16) {
        self.entries[usize::from(self.len)] = (budget, number);
        self.len += 1;
    }

    /// What is set aside, in each of its budgets.
    pub fn amount(&self) -> NanoUsd {
        NanoUsd(self.amount)
    }

    /// The first byte of the request goes to the provider now.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// Charges what the attempt has cost, be it more than was reserved, and gives the rest back.
    pub fn settle(mut self, cost: NanoUsd) {
        self.end(cost.0.min(NanoUsd::LIMIT_MAX.0));
    }

    /// Gives everything back: nothing was sent, or the provider has refused it.
    pub fn release(mut self) {
        self.end(0);
    }

    /// The period of its first budget.
    #[cfg(test)]
    pub(super) fn period(&self) -> Option<u64> {
        let inner = self.purse.inner.borrow();
        let (budget, number) = *self.entries[..usize::from(self.len)].first()?;
        let mut parts = inner.slots[budget.0 as usize].parts();
        parts
            .find(|part| part.number == number)
            .map(|part| part.account.period().index)
    }

    fn end(&mut self, cost: u64) {
        let len = usize::from(std::mem::take(&mut self.len));
        if len > 0 {
            self.purse.end(&self.entries[..len], self.amount, cost);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(if self.sent { self.amount } else { 0 });
    }
}
