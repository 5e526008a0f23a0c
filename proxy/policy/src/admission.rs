//! How many requests one core has at one provider at a time, who waits for a place, and who is turned away.
//!
//! Invariants: a place is given to exactly one request and comes back exactly once; a request waits no longer than it may,
//! and the queue is bounded; while the queue empties now and then, it is served in order, and once it has not been empty for
//! half of the longest wait, newest first: under lasting overload the oldest are the ones that their clients give up next,
//! and in-order service would spend every place on them. Deliberately absent: clocks, wakers and other cores (each core has
//! its own share; a lock between them would cost more than it evens out).

mod gradient;

use std::collections::VecDeque;

pub use self::gradient::Gradient;

/// How a provider's requests are limited, on each core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most requests at a time; with `adaptive`, the ceiling.
    pub concurrency: u32,
    /// Most requests that wait.
    pub queue: u32,
    /// Longest wait, in milliseconds.
    pub queue_ms: u32,
    /// Whether the limit follows the latency of the answers.
    pub adaptive: bool,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What becomes of a request that wants a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has one; [`Gate::leave`] gives it back.
    Admitted,
    /// It waits; [`Gate::next`] or [`Gate::expire`] will name it, unless [`Gate::abandon`] does before.
    Waiting(Ticket),
    /// There is neither a place nor room to wait.
    Refused,
}

/// The gate before one provider, on one core.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    in_flight: u32,
    waiting: VecDeque<Waiter>,
    next_ticket: u64,
    /// Since when the queue has not been empty, in milliseconds.
    busy_since_ms: u64,
    gradient: Gradient,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    ticket: Ticket,
    until_ms: u64,
}

impl Gate {
    /// A gate that nobody has passed yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: 0,
            waiting: VecDeque::new(),
            next_ticket: 0,
            busy_since_ms: 0,
            gradient: Gradient::new(limits.concurrency),
        }
    }

    /// Goes on with other limits; what is in flight or waits, stays so.
    pub fn set_limits(&mut self, limits: Limits) {
        if limits != self.limits {
            self.limits = limits;
            self.gradient = Gradient::new(limits.concurrency);
        }
    }

    /// Most requests at a time, as of now.
    pub fn limit(&self) -> u32 {
        if self.limits.adaptive {
            self.gradient.limit()
        } else {
            self.limits.concurrency
        }
    }

    /// Requests that have a place.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Longest wait, in milliseconds.
    pub fn queue_ms(&self) -> u32 {
        self.limits.queue_ms
    }

    /// A request comes that must have its place by `until_ms`.
    pub fn enter(&mut self, now_ms: u64, until_ms: u64) -> Entry {
        if self.waiting.is_empty() && self.in_flight < self.limit() {
            self.in_flight += 1;
            return Entry::Admitted;
        }
        let until_ms = until_ms.min(now_ms + u64::from(self.limits.queue_ms));
        if self.waiting.len() >= self.limits.queue as usize || until_ms <= now_ms {
            return Entry::Refused;
        }
        if self.waiting.is_empty() {
            self.busy_since_ms = now_ms;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.push_back(Waiter { ticket, until_ms });
        Entry::Waiting(ticket)
    }

    /// A request gives its place back. Afterwards, [`Gate::next`] says who gets it.
    pub fn leave(&mut self) {
        debug_assert!(self.in_flight > 0, "a place comes back once");
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A waiting request does not want a place any more; false if it is not waiting.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        let place = self.waiting.iter().position(|waiter| waiter.ticket == ticket);
        place.and_then(|at| self.waiting.remove(at)).is_some()
    }

    /// The waiting request that gets a free place, if there is both; its place is taken. To be asked until it says `None`.
    pub fn next(&mut self, now_ms: u64) -> Option<Ticket> {
        if self.in_flight >= self.limit() {
            return None;
        }
        let waiter = if self.is_overloaded(now_ms) {
            self.waiting.pop_back()
        } else {
            self.waiting.pop_front()
        }?;
        self.in_flight += 1;
        Some(waiter.ticket)
    }

    /// A waiting request whose time is over, if there is one; it does not wait any more. To be asked until it says `None`.
    pub fn expire(&mut self, now_ms: u64) -> Option<Ticket> {
        let late = self.waiting.iter().position(|waiter| waiter.until_ms <= now_ms)?;
        self.waiting.remove(late).map(|waiter| waiter.ticket)
    }

    /// What the provider did with a request that has a place: the time to the first byte of its answer, or `None` if it
    /// refused for want of capacity or kept silent. Only an adaptive limit heeds it.
    pub fn observe(&mut self, now_ms: u64, latency_us: Option<u64>) {
        if self.limits.adaptive {
            match latency_us {
                Some(latency_us) => self.gradient.sample(now_ms, latency_us, self.in_flight),
                None => self.gradient.refused(now_ms),
            }
        }
    }

    fn is_overloaded(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.busy_since_ms) >= u64::from(self.limits.queue_ms) / 2
    }
}

#[cfg(test)]
mod tests;
