//! The circuit breaker of one target.
//!
//! ```text
//!            too many failures, or the provider says when to come back
//!   closed ─────────────────────────────────────────────────────────────► open ◄─┐
//!     ▲                                                       time is up   │     │ the probe fails,
//!     │            an answer to a call that began since then               ▼     │ or is given up
//!     └─────────────────────────────────────────────────────────────── half-open ┘
//!                                                    (one probe; one that never reports is replaced)
//! ```
//!
//! Invariants: what a call says counts only in the generation that it began in, so a late answer to an old call closes
//! nothing and a late failure opens nothing; at most one probe at a time, unless its holder stays silent too long; a time that
//! the provider said is never cut short. Deliberately absent: keys, and any memory that differs between cores.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::BreakerSettings;
use super::window::{Call, Window};
use super::word::{Phase, State, Word};

/// How long the holder of a probe may say nothing before another request may probe, in milliseconds.
pub(super) const CLAIM_MS: u64 = 10_000;
/// Most doublings of the probe interval.
const DOUBLINGS_MAX: u32 = 12;

/// What a request was let through with; it comes back with what became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what became of the request must be reported"]
pub struct Permit {
    generation: u32,
    /// Whether the request is the probe.
    pub is_probe: bool,
}

/// Whether a request may be sent to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go(Permit),
    /// Not now.
    Blocked(Blocked),
}

/// Why a request may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// When that may change, in milliseconds of the shared clock.
    pub until_ms: u64,
    /// Whether the provider itself named that time; otherwise failures of the past are the reason.
    pub said: bool,
}

/// A change that somebody may want to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From closed to open.
    Opened,
    /// From open or half-open to closed.
    Closed,
}

/// What the admin interface shows of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Requests pass.
    Closed,
    /// A probe is under way.
    HalfOpen,
    /// Nothing passes until the time given, in milliseconds of the shared clock.
    Open(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    word: Word,
    window: Window,
    /// Failures without an answer between them.
    consecutive: AtomicU32,
    /// How often the probe interval has been doubled.
    doublings: AtomicU32,
    closed_at_ms: AtomicU64,
}

impl Breaker {
    /// Whether a request may pass. A healthy target costs one load.
    pub fn admit(&self, now_ms: u64, settings: &BreakerSettings) -> Admission {
        let state = self.word.load();
        let permit = |is_probe| {
            Admission::Go(Permit {
                generation: state.generation,
                is_probe,
            })
        };
        if state.phase == Phase::Free || !settings.enabled && (!state.said || now_ms >= state.until_ms) {
            return permit(false);
        }
        let claimed = State {
            phase: Phase::Probing,
            said: false,
            until_ms: now_ms + CLAIM_MS,
            ..state
        };
        if now_ms >= state.until_ms && self.word.replace(state, claimed) {
            return permit(true);
        }
        Admission::Blocked(Blocked {
            until_ms: state.until_ms.max(now_ms + 1),
            said: state.said,
        })
    }

    /// What a request is let through with that has no other target left. `None` if the provider itself said not to come.
    pub fn last_resort(&self, now_ms: u64) -> Option<Permit> {
        let state = self.word.load();
        let forbidden = state.said && now_ms < state.until_ms;
        (!forbidden).then_some(Permit {
            generation: state.generation,
            is_probe: false,
        })
    }

    /// What became of a request; returns what that changed, and the permit for what else the same request may report.
    pub fn report(
        &self,
        permit: Permit,
        call: Call,
        now_ms: u64,
        settings: &BreakerSettings,
    ) -> (Option<Change>, Permit) {
        if !settings.enabled {
            return (None, permit);
        }
        let state = self.word.load();
        if state.generation != permit.generation {
            return (None, permit);
        }
        if state.phase == Phase::Free {
            self.window.add(call, now_ms, settings.window_ms);
            return (self.judge(state, call, now_ms, settings), permit);
        }
        match call {
            Call::Failed | Call::Slow if permit.is_probe => self.reopen(permit, now_ms, settings),
            Call::Failed | Call::Slow => {}
            Call::Good => {
                let closed = self.word.update(|now| {
                    (now.generation == permit.generation && now.phase != Phase::Free).then(|| now.freed())
                });
                if let Some(before) = closed {
                    self.forget(now_ms);
                    let permit = Permit {
                        generation: before.next_generation(),
                        is_probe: false,
                    };
                    return (Some(Change::Closed), permit);
                }
            }
        }
        (None, permit)
    }

    /// A request ended without saying anything about the target: its probe, if it had one, is free again.
    pub fn abandon(&self, permit: Permit, now_ms: u64) {
        if permit.is_probe {
            self.word.update(|now| {
                (now.generation == permit.generation && now.phase == Phase::Probing).then_some(State {
                    phase: Phase::Shut,
                    until_ms: now_ms,
                    ..now
                })
            });
        }
    }

    /// The provider said when to come back: nothing passes before.
    pub fn hold(&self, until_ms: u64) -> Option<Change> {
        let before = self.word.update(|now| {
            let longer = !now.said || until_ms > now.until_ms;
            longer.then_some(State {
                phase: Phase::Shut,
                said: true,
                generation: if now.phase == Phase::Free {
                    now.next_generation()
                } else {
                    now.generation
                },
                until_ms,
            })
        });
        before
            .filter(|before| before.phase == Phase::Free)
            .map(|_| Change::Opened)
    }

    /// An operator closes it.
    pub fn reset(&self, now_ms: u64) {
        self.word.update(|now| (now.phase != Phase::Free).then(|| now.freed()));
        self.forget(now_ms);
        self.doublings.store(0, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn standing(&self) -> Standing {
        let state = self.word.load();
        match state.phase {
            Phase::Free => Standing::Closed,
            Phase::Probing => Standing::HalfOpen,
            Phase::Shut | Phase::Refused => Standing::Open(state.until_ms),
        }
    }

    /// How often the probe interval has been doubled, up to 12 times.
    pub fn doublings(&self) -> u32 {
        self.doublings.load(Ordering::Relaxed)
    }

    /// Whether [`Breaker::admit`] would let a request pass, without letting it.
    pub fn is_passable(&self, now_ms: u64) -> bool {
        let state = self.word.load();
        state.phase == Phase::Free || now_ms >= state.until_ms
    }

    fn judge(&self, state: State, call: Call, now_ms: u64, settings: &BreakerSettings) -> Option<Change> {
        let trips = match call {
            Call::Good => {
                if self.consecutive.load(Ordering::Relaxed) != 0 {
                    self.consecutive.store(0, Ordering::Relaxed);
                }
                return None;
            }
            Call::Failed => {
                let consecutive = self.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                let sums = self.window.sums(now_ms, settings.window_ms);
                consecutive >= settings.consecutive_failures
                    || sums.total >= settings.requests_min
                        && u64::from(sums.failed) * 1000 >= u64::from(sums.total) * u64::from(settings.error_rate_milli)
            }
            Call::Slow => {
                self.consecutive.store(0, Ordering::Relaxed);
                let sums = self.window.sums(now_ms, settings.window_ms);
                sums.total >= settings.requests_min
                    && u64::from(sums.slow) * 1000 >= u64::from(sums.total) * u64::from(settings.slow_rate_milli)
            }
        };
        if !trips {
            return None;
        }
        let doublings = if now_ms.saturating_sub(self.closed_at_ms.load(Ordering::Relaxed))
            < u64::from(settings.window_ms)
            && self.closed_at_ms.load(Ordering::Relaxed) > 0
        {
            (self.doublings.load(Ordering::Relaxed) + 1).min(DOUBLINGS_MAX)
        } else {
            0
        };
        let opened = State {
            phase: Phase::Shut,
            said: false,
            generation: state.next_generation(),
            until_ms: now_ms + settings.interval_ms(doublings),
        };
        if !self.word.replace(state, opened) {
            return None;
        }
        self.doublings.store(doublings, Ordering::Relaxed);
        Some(Change::Opened)
    }

    fn reopen(&self, permit: Permit, now_ms: u64, settings: &BreakerSettings) {
        let doublings = (self.doublings.load(Ordering::Relaxed) + 1).min(DOUBLINGS_MAX);
        let reopened = self.word.update(|now| {
            (now.generation == permit.generation && now.phase == Phase::Probing).then_some(State {
                phase: Phase::Shut,
                until_ms: now_ms + settings.interval_ms(doublings),
                ..now
            })
        });
        if reopened.is_some() {
            self.doublings.store(doublings, Ordering::Relaxed);
        }
    }

    fn forget(&self, now_ms: u64) {
        self.window.clear();
        self.consecutive.store(0, Ordering::Relaxed);
        self.closed_at_ms.store(now_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
