//! Rate limits: requests and tokens per window, and requests at a time, shared by the cores of one process.
//!
//! Invariants: a limit is never exceeded by what was admitted against it here, on however many cores, and by what others are
//! known to have counted; `used` is the sum of the slices, whenever no core is in the middle of an operation; a slice that has
//! passed never counts again, whatever the clock says; a [`Pass`] gives back on `Drop` what it holds. Deliberately absent: how
//! the counts of other processes come here ([`Limiter::counts_elsewhere`]), and durability: a restart begins with empty
//! windows, unless somebody says what another process has counted.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sluice_wire::limits::LIMITS_PER_REQUEST_MAX;

use crate::budget::Window;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Input tokens, cached or not.
    InputTokens,
    /// Output tokens.
    OutputTokens,
    /// Both.
    TotalTokens,
    /// Requests that are under way at the same time; the window means nothing to it.
    Concurrent,
}

impl Unit {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Requests, "requests"),
        (Self::InputTokens, "input_tokens"),
        (Self::OutputTokens, "output_tokens"),
        (Self::TotalTokens, "total_tokens"),
        (Self::Concurrent, "concurrent"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(unit, _)| *unit == self)
            .map_or("", |(_, name)| name)
    }
}

/// Slices of a rolling window; one more is kept, so that none ends before it is older than the window.
const SLICES: usize = 12;
/// A slice's count is in the low bits, below the low bits of its number.
const COUNT_BITS: u32 = 40;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// One limit, and how much of it is used. On cache lines of its own: one, where it has a single slice.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Limiter {
    used: AtomicU64,
    most: AtomicU64,
    /// Number of the latest slice.
    head: AtomicU64,
    at_a_time: AtomicU32,
    unit: Unit,
    window: Window,
    /// How many of `slices` there are.
    count: u8,
    /// What other processes have counted, as in a slice: it is that of the slice in the upper bits.
    elsewhere: AtomicU64,
    slices: [AtomicU64; SLICES + 1],
}

/// Why a request may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// What there is too much of.
    pub unit: Unit,
    /// The limit.
    pub most: u64,
    /// When it is worth another try, in seconds, from 1.
    pub retry_after_s: u32,
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is counted.
    pub unit: Unit,
    /// The limit.
    pub most: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Seconds until more is left.
    pub resets_in_s: u64,
}

impl Limiter {
    /// A limit that is not used at all.
    pub fn new(unit: Unit, window: Window, most: u64) -> Self {
        let count = match window {
            Window::Rolling(_) => SLICES + 1,
            _ => 1,
        };
        Self {
            unit,
            window,
            most: AtomicU64::new(most.min(COUNT_MAX / 2)),
            used: AtomicU64::new(0),
            head: AtomicU64::new(0),
            count: count as u8,
            elsewhere: AtomicU64::new(0),
            slices: [const { AtomicU64::new(0) }; SLICES + 1],
            at_a_time: AtomicU32::new(0),
        }
    }

    /// Changes the limit; what is used stays used.
    pub fn set_most(&self, most: u64) {
        self.most.store(most.min(COUNT_MAX / 2), Ordering::Relaxed);
    }

    /// What counts now, by the number of its slice, for a process that takes over. Of [`Unit::Concurrent`] nothing: what is under
    /// way stays where it is.
    pub fn counted(&self, unix_s: u64) -> Vec<(u64, u64)> {
        if self.unit == Unit::Concurrent {
            return Vec::new();
        }
        let now = self.roll(unix_s);
        let first = (now + 1).saturating_sub(u64::from(self.count));
        let of = |slice: u64| {
            let packed = self.slices[self.slot(slice)].load(Ordering::Acquire);
            let count = packed & COUNT_MAX;
            (packed >> COUNT_BITS == tag(slice) && count > 0).then_some((slice, count))
        };
        (first..=now).filter_map(of).collect()
    }

    /// What other processes have to know of this one: [`Limiter::counted`], and of [`Unit::Concurrent`] what is under way, as
    /// that of slice 0.
    pub fn shared(&self, unix_s: u64) -> Vec<(u64, u64)> {
        if self.unit == Unit::Concurrent {
            let now = u64::from(self.at_a_time.load(Ordering::Relaxed));
            return Vec::from_iter((now > 0).then_some((0, now)));
        }
        self.counted(unix_s)
    }

    /// The second from which on nothing of what counts now does; the last there is, of what ends otherwise.
    pub fn counts_until_s(&self, unix_s: u64) -> u64 {
        match self.window {
            _ if self.unit == Unit::Concurrent => u64::MAX,
            Window::Rolling(span) => unix_s + span.seconds() + span.seconds() / SLICES as u64,
            window => window.period(unix_s).2,
        }
    }

    /// Has what all other processes have counted, by slices, count here from now on in place of what was said before. It is
    /// as if it had been counted here, but that it may exceed the limit; in a rolling window it stays until the next call.
    pub fn counts_elsewhere(&self, counted: impl Iterator<Item = (u64, u64)>, unix_s: u64) {
        let (first, now) = if self.unit == Unit::Concurrent {
            (0, 0)
        } else {
            let now = self.roll(unix_s);
            ((now + 1).saturating_sub(u64::from(self.count)), now)
        };
        let counts = counted.filter(|(slice, _)| (first..=now).contains(slice));
        let sum = counts.fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
        let packed = tag(now) << COUNT_BITS | sum.min(COUNT_MAX);
        self.elsewhere.store(packed, Ordering::Relaxed);
    }

    /// Adds what another process has counted, as far as it counts now. A limit may be passed by that.
    pub fn add_counted(&self, counted: &[(u64, u64)], unix_s: u64) {
        if self.unit == Unit::Concurrent {
            return;
        }
        let now = self.roll(unix_s);
        let first = (now + 1).saturating_sub(u64::from(self.count));
        for &(slice, count) in counted {
            if !(first..=now).contains(&slice) {
                continue;
            }
            let count = count.min(COUNT_MAX / 4);
            let more = |packed: u64| {
                let sum = (packed & COUNT_MAX) + count;
                (packed >> COUNT_BITS == tag(slice) && sum <= COUNT_MAX).then_some(tag(slice) << COUNT_BITS | sum)
            };
            // What is used is never less than the slices hold.
            self.used.fetch_add(count, Ordering::AcqRel);
            let slot = &self.slices[self.slot(slice)];
            if slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_err() {
                self.used.fetch_sub(count, Ordering::AcqRel);
            }
        }
    }

    /// What is counted.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The time over which it is counted.
    pub fn window(&self) -> Window {
        self.window
    }

    /// How it stands.
    pub fn standing(&self, unix_s: u64) -> Standing {
        let most = self.most.load(Ordering::Relaxed);
        let (used, slice) = if self.unit == Unit::Concurrent {
            (u64::from(self.at_a_time.load(Ordering::Relaxed)), 0)
        } else {
            let slice = self.roll(unix_s);
            (self.used.load(Ordering::Relaxed), slice)
        };
        Standing {
            unit: self.unit,
            most,
            remaining: most.saturating_sub(used.saturating_add(self.elsewhere(slice))),
            resets_in_s: self.resets_in_s(unix_s),
        }
    }

    /// Counts `count`, if that does not exceed the limit; returns the slice that it was counted in.
    fn take(&self, count: u64, unix_s: u64) -> Option<u64> {
        let most = self.most.load(Ordering::Relaxed);
        if self.unit == Unit::Concurrent {
            let most = most.saturating_sub(self.elsewhere(0));
            let more = |now: u32| (u64::from(now) < most).then_some(now + 1);
            return self
                .at_a_time
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
                .ok()
                .map(|_| 0);
        }
        let slice = self.roll(unix_s);
        let most = most.saturating_sub(self.elsewhere(slice));
        let more = |used: u64| used.checked_add(count).filter(|sum| *sum <= most);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(self.add(slice, count))
    }

    /// What others have counted that still counts.
    fn elsewhere(&self, slice: u64) -> u64 {
        let packed = self.elsewhere.load(Ordering::Relaxed);
        let counts = self.count > 1 || packed >> COUNT_BITS == tag(slice);
        if counts { packed & COUNT_MAX } else { 0 }
    }

    /// Corrects what was counted in `slice` to what it has come to.
    fn correct(&self, slice: u64, counted: u64, actual: u64) {
        if actual >= counted {
            // Whatever a provider reports, a slice's count stays within its bits.
            let beyond = (actual - counted).min(COUNT_MAX / 4);
            self.used.fetch_add(beyond, Ordering::AcqRel);
            self.add(slice, beyond);
            return;
        }
        let back = counted - actual;
        let slot = &self.slices[self.slot(slice)];
        // If the slice has passed, what was counted in it is gone already.
        let less = |packed: u64| (packed >> COUNT_BITS == tag(slice)).then(|| packed - back.min(packed & COUNT_MAX));
        if slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less).is_ok() {
            self.used.fetch_sub(back, Ordering::AcqRel);
        }
    }

    fn end_concurrent(&self) {
        self.at_a_time.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts in a slice, or in the latest if that one has passed meanwhile; returns which. `used` has it already.
    fn add(&self, slice: u64, count: u64) -> u64 {
        let slice = slice.max(self.head.load(Ordering::Acquire));
        let slot = &self.slices[self.slot(slice)];
        let mut lost = 0;
        let more = |packed: u64| {
            let (kept, passed) = if packed >> COUNT_BITS == tag(slice) {
                (packed & COUNT_MAX, 0)
            } else {
                // Whoever rolls has not come to this slot yet.
                (0, packed & COUNT_MAX)
            };
            let sum = (kept + count).min(COUNT_MAX);
            lost = passed + (kept + count - sum);
            Some(tag(slice) << COUNT_BITS | sum)
        };
        if slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok() && lost > 0 {
            self.used.fetch_sub(lost, Ordering::AcqRel);
        }
        slice
    }

    fn slot(&self, slice: u64) -> usize {
        (slice % u64::from(self.count)) as usize
    }

    /// The slice of now, after what has passed was taken out.
    fn roll(&self, unix_s: u64) -> u64 {
        let now = self.slice(unix_s);
        let mut head = self.head.load(Ordering::Acquire);
        while head < now {
            match self
                .head
                .compare_exchange(head, now, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    // The slots of all slices that begin now hold slices that have passed.
                    let first = (head + 1).max((now + 1).saturating_sub(u64::from(self.count)));
                    (first..=now).for_each(|slice| self.begin(slice));
                    return now;
                }
                Err(later) => head = later,
            }
        }
        head
    }

    /// Takes out what a slot holds of an earlier slice.
    fn begin(&self, slice: u64) {
        let anew = |packed: u64| (packed >> COUNT_BITS != tag(slice)).then_some(tag(slice) << COUNT_BITS);
        let slot = &self.slices[self.slot(slice)];
        if let Ok(passed) = slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, anew) {
            self.used.fetch_sub(passed & COUNT_MAX, Ordering::AcqRel);
        }
    }

    fn slice(&self, unix_s: u64) -> u64 {
        match self.window {
            Window::Rolling(span) => unix_s / (span.seconds() / SLICES as u64),
            // From 1: the head begins at 0.
            window => window.period(unix_s).0 + 1,
        }
    }

    fn resets_in_s(&self, unix_s: u64) -> u64 {
        match self.window {
            Window::Rolling(span) => {
                let length = span.seconds() / SLICES as u64;
                length - unix_s % length
            }
            window => window.period(unix_s).2.saturating_sub(unix_s),
        }
    }
}

fn tag(slice: u64) -> u64 {
    slice & (u64::MAX >> COUNT_BITS)
}

/// What a request is going to use at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
}

impl Ask {
    fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests | Unit::Concurrent => 1,
            Unit::InputTokens => self.input_tokens,
            Unit::OutputTokens => self.output_tokens,
            Unit::TotalTokens => self.input_tokens.saturating_add(self.output_tokens),
        }
    }
}

/// Leave to begin, from every limit that a request is subject to; none at first.
///
/// Dropped without a word it keeps the tokens that it asked for counted; its place among the requests under way is free again
/// in any case.
#[must_use = "the request counts as under way for as long as this lives"]
#[derive(Debug)]
pub struct Pass<L: Deref<Target = Limiter>> {
    holds: [Option<(L, u64)>; LIMITS_PER_REQUEST_MAX],
    len: u8,
    ask: Ask,
}

impl<L: Deref<Target = Limiter>> Default for Pass<L> {
    fn default() -> Self {
        Self {
            holds: [const { None }; LIMITS_PER_REQUEST_MAX],
            len: 0,
            ask: Ask::default(),
        }
    }
}

impl<L: Deref<Target = Limiter>> Pass<L> {
    /// Asks every limit for its leave; if one refuses, none counts. What it held before is dropped.
    ///
    /// # Errors
    /// The first limit that is reached. Limits beyond `limits::LIMITS_PER_REQUEST_MAX` refuse.
    pub fn enter(&mut self, limits: impl IntoIterator<Item = L>, ask: Ask, unix_s: u64) -> Result<(), Limited> {
        self.clear();
        self.ask = ask;
        for limiter in limits {
            let slice = match self.holds.get(usize::from(self.len)) {
                Some(_) => limiter.take(ask.of(limiter.unit), unix_s),
                None => None,
            };
            let Some(slice) = slice else {
                let limited = refusal(&limiter, unix_s);
                // As if it had never been.
                self.end(Ask::default(), true);
                return Err(limited);
            };
            self.holds[usize::from(self.len)] = Some((limiter, slice));
            self.len += 1;
        }
        Ok(())
    }

    /// Whether any limit has given its leave.
    pub fn is_held(&self) -> bool {
        self.len > 0
    }

    /// The limits that have given their leave.
    pub fn limits(&self) -> impl Iterator<Item = &Limiter> {
        self.held().iter().flatten().map(|(limiter, _)| &**limiter)
    }

    /// The request has ended, and has used so much.
    pub fn settle(&mut self, used: Ask) {
        self.end(used, false);
    }

    /// The request has not begun, or no provider has taken it: its tokens do not count, but it does.
    pub fn release(&mut self) {
        self.end(Ask::default(), false);
    }

    /// Nobody knows what it has used: what it asked for stays counted.
    pub fn clear(&mut self) {
        for hold in &mut self.holds[..usize::from(self.len)] {
            if let Some((limiter, _)) = hold.take()
                && limiter.unit == Unit::Concurrent
            {
                limiter.end_concurrent();
            }
        }
        self.len = 0;
    }

    fn held(&self) -> &[Option<(L, u64)>] {
        &self.holds[..usize::from(self.len)]
    }

    fn end(&mut self, used: Ask, and_requests: bool) {
        for (limiter, slice) in self.held().iter().flatten() {
            match limiter.unit {
                Unit::Concurrent => {}
                Unit::Requests if and_requests => limiter.correct(*slice, 1, 0),
                Unit::Requests => {}
                unit => limiter.correct(*slice, self.ask.of(unit), used.of(unit)),
            }
        }
        self.clear();
    }
}

impl<L: Deref<Target = Limiter>> Drop for Pass<L> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cold]
fn refusal(limiter: &Limiter, unix_s: u64) -> Limited {
    let standing = limiter.standing(unix_s);
    let wait_s = if limiter.unit == Unit::Concurrent {
        1
    } else {
        standing.resets_in_s
    };
    Limited {
        unit: limiter.unit,
        most: standing.most,
        retry_after_s: u32::try_from(wait_s).unwrap_or(u32::MAX).max(1),
    }
}

#[cfg(test)]
mod tests;
