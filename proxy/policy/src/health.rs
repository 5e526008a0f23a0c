//! Memory of failures: what all cores know of every target and key, and what they may do because of it.
//!
//! Invariants: shared without locks, each state one word that is replaced whole; time, in milliseconds of one clock for all
//! cores, is passed in; a healthy target and key cost a request a few relaxed loads and counts, no allocation. Deliberately
//! absent: which target a request prefers (`route.rs`), and what an answer means (the gateway).

mod breaker;
mod budget;
pub(crate) mod hash;
mod key;
mod late;
mod target;
mod window;
mod word;

pub use breaker::{Admission, Blocked, Change, Permit, Standing};
pub use key::{KeyPermit, KeyStanding, KeyState, KeyVerdict};
pub use target::{Health, Target, TargetReport};
pub use window::Call;

/// When a breaker opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Without it, only what a provider says counts.
    pub enabled: bool,
    /// Failures without an answer between them that open it.
    pub consecutive_failures: u32,
    /// Share of failed calls that opens it, in thousandths.
    pub error_rate_milli: u16,
    /// Fewest calls in the window for a share to count.
    pub requests_min: u32,
    /// How far back calls count, in milliseconds.
    pub window_ms: u32,
    /// An answer that begins later than this is slow, in milliseconds; 0: none is.
    pub slow_ms: u32,
    /// Share of slow calls that opens it, in thousandths.
    pub slow_rate_milli: u16,
    /// From opening until the first probe, in milliseconds; doubled after each failed one.
    pub probe_ms: u32,
    /// Longest such interval, in milliseconds.
    pub probe_max_ms: u32,
}

impl BreakerSettings {
    fn interval_ms(&self, doublings: u32) -> u64 {
        (u64::from(self.probe_ms) << doublings).min(u64::from(self.probe_max_ms.max(self.probe_ms)))
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        (&crate::config::Breaker::default()).into()
    }
}

/// How often and how soon something is tried again at the same target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Most retries of one request at targets that it has asked already.
    pub per_request: u8,
    /// Retries that each request earns for its target, in thousandths.
    pub budget_milli: u16,
    /// Retries that each second earns for every target.
    pub per_second: u16,
    /// Longest pause before the first retry, in milliseconds; doubled for each further one.
    pub first_delay_ms: u32,
    /// Longest pause, in milliseconds.
    pub delay_max_ms: u32,
}

impl RetrySettings {
    /// The pause before retry number `nth`, from 0, in milliseconds: anything up to twice the one before (full jitter).
    pub fn delay_ms(&self, nth: u32, random: u64) -> u64 {
        let most = (u64::from(self.first_delay_ms) << nth.min(16)).min(u64::from(self.delay_max_ms));
        ((u128::from(most + 1) * u128::from(random)) >> 64) as u64
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        (&crate::config::Retries::default()).into()
    }
}

/// How long keys rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySettings {
    /// After a 429 that does not say how long, in milliseconds; doubled after each further one.
    pub rest_ms: u32,
    /// Longest rest after a 429, whatever was said, in milliseconds.
    pub rest_max_ms: u32,
    /// From a refusal until the first probe, in milliseconds; doubled after each failed one.
    pub probe_ms: u32,
    /// Longest such interval, in milliseconds.
    pub probe_max_ms: u32,
}

impl Default for KeySettings {
    fn default() -> Self {
        (&crate::config::KeyRest::default()).into()
    }
}

/// All settings of this module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of breakers.
    pub breaker: BreakerSettings,
    /// Of retries.
    pub retries: RetrySettings,
    /// Of keys.
    pub keys: KeySettings,
}

#[cfg(test)]
mod tests;
