//! The time that 95 of 100 answers need at most to begin, learnt answer by answer in one word of memory.
//!
//! The estimate moves up by a large step for each answer that is later and down by a small one for each that is not; where
//! both balance, one in twenty is later. Invariants: one load and one store an answer, no lock; of two cores at once one may
//! not be heard; nothing is said before enough answers were seen. Deliberately absent: a distribution.

use std::sync::atomic::{AtomicU64, Ordering};

/// Answers before the estimate is worth anything.
const SAMPLES_MIN: u32 = 20;
/// Step up, as a share of the estimate (1/n); the step down is a nineteenth of it.
const STEP: u64 = 16;
/// Later answers for each that is not, where the estimate stands.
const ODDS: u64 = 19;

/// The estimate in microseconds in the lower 32 bits, the answers seen above.
#[derive(Debug, Default)]
pub(super) struct Late(AtomicU64);

impl Late {
    /// An answer began after that many microseconds.
    pub fn add(&self, us: u32) {
        let word = self.0.load(Ordering::Relaxed);
        let (old, seen) = (u64::from(word as u32), (word >> 32) as u32);
        let new = match seen {
            0 => u64::from(us),
            _ if u64::from(us) > old => old + (old / STEP).max(1),
            _ => old - old / (STEP * ODDS),
        };
        let new = new.clamp(1, u64::from(u32::MAX));
        self.0
            .store(u64::from(seen.saturating_add(1)) << 32 | new, Ordering::Relaxed);
    }

    /// The estimate; `None` while too few answers were seen.
    pub fn get(&self) -> Option<u32> {
        let word = self.0.load(Ordering::Relaxed);
        ((word >> 32) as u32 >= SAMPLES_MIN).then_some(word as u32)
    }

    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random numbers below `bound`.
    fn random(bound: u64) -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        }
    }

    #[test]
    fn about_one_answer_in_twenty_is_later() {
        let late = Late::default();
        let mut pick = random(100_000);
        let mut later = 0;
        for index in 0..20_000 {
            let us = 50_000 + pick() as u32;
            later += u32::from(index >= 10_000 && late.get().is_some_and(|estimate| us > estimate));
            late.add(us);
        }
        assert!((300..800).contains(&later), "{later} of 10000");
    }

    #[test]
    fn it_follows_a_provider_that_becomes_slower_or_faster() {
        let late = Late::default();
        (0..100).for_each(|_| late.add(10_000));
        assert!(
            late.get().is_some_and(|us| (9_000..12_000).contains(&us)),
            "{:?}",
            late.get()
        );
        (0..100).for_each(|_| late.add(1_000_000));
        assert!(late.get().is_some_and(|us| us > 900_000), "{:?}", late.get());
        (0..2000).for_each(|_| late.add(10_000));
        assert!(late.get().is_some_and(|us| us < 20_000), "{:?}", late.get());
    }

    #[test]
    fn nothing_is_said_before_enough_was_seen() {
        let late = Late::default();
        for _ in 0..SAMPLES_MIN {
            assert_eq!(late.get(), None);
            late.add(5);
        }
        assert!(late.get().is_some());
        late.forget();
        assert_eq!(late.get(), None);
    }
}
