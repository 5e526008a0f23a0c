//! What one target's requests may cost beyond themselves: a token bucket that requests fill and extra attempts (retries, or
//! second targets beside it) empty.
//!
//! Invariants: over any time, extra attempts are at most the burst, plus the configured share of requests, plus the configured
//! rate times that time, however many cores take from it. Deliberately absent: whether an extra attempt makes sense.

use std::sync::atomic::{AtomicU64, Ordering};

/// Thousandths of a token in the lower 24 bits, the time of the last refill in milliseconds above. All zero is a bucket that
/// was last refilled at the clock's zero: full, if it refills by time at all.
#[derive(Debug, Default)]
pub(super) struct ExtraBudget(AtomicU64);

const TOKEN_BITS: u32 = 24;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;
/// Extra attempts that a full bucket holds.
pub(super) const BURST: u64 = 10;

impl ExtraBudget {
    /// A request begins: the share of a token that it earns, in thousandths. A full bucket is only read.
    pub fn earn(&self, milli: u16) {
        let earned = u64::from(milli);
        let mut word = self.0.load(Ordering::Relaxed);
        while word & TOKEN_MASK < BURST * 1000 && earned > 0 {
            let tokens = (word & TOKEN_MASK) + earned;
            let next = word & !TOKEN_MASK | tokens.min(BURST * 1000);
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Takes the token of one extra attempt; false if there is none. `per_second` is what time earns.
    pub fn take(&self, now_ms: u64, per_second: u16) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let at_ms = word >> TOKEN_BITS;
            let elapsed_ms = now_ms.saturating_sub(at_ms);
            // One thousandth of a token a millisecond is one token a second.
            let refill = elapsed_ms.saturating_mul(u64::from(per_second));
            let tokens = (word & TOKEN_MASK).saturating_add(refill).min(BURST * 1000);
            let Some(rest) = tokens.checked_sub(1000) else {
                return false;
            };
            let next = now_ms.max(at_ms) << TOKEN_BITS | rest;
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }
}

const _: () = assert!(BURST * 1000 < TOKEN_MASK / 2, "earning must not carry into the time");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let budget = ExtraBudget::default();
        assert!(!budget.take(1_000_000, 0), "nothing was earned");
        let mut taken = 0;
        for _ in 0..1000 {
            budget.earn(200);
            taken += u32::from(budget.take(1_000_000, 0));
        }
        assert_eq!(taken, 200);
    }

    #[test]
    fn what_is_saved_is_bounded_and_what_time_gives_as_well() {
        let budget = ExtraBudget::default();
        for _ in 0..1000 {
            budget.earn(200);
        }
        let take = |now_ms| (0..100).filter(|_| budget.take(now_ms, 2)).count() as u64;
        assert_eq!(take(50_000), BURST);
        assert_eq!(take(51_000), 2);
        assert_eq!(take(51_499), 0);
        assert_eq!(take(51_500), 1);
        assert_eq!(take(900_000), BURST);
        assert_eq!(take(1_000), 0, "an earlier time takes nothing from the future");
    }
}
