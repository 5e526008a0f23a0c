//! What became of the calls of the last seconds: a ring of buckets, each one word.
//!
//! Invariants: a bucket is read and replaced whole; one that is older than the window counts as empty; counts that would
//! overflow are halved, which keeps their ratio. Deliberately absent: what follows from the counts (`breaker.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a window: its end moves in steps of an eighth.
const BUCKETS: u64 = 8;

/// What became of one call, as far as the provider is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// An answer in good time.
    Good,
    /// An answer, but later than the configured threshold.
    Slow,
    /// No answer, or one that says that the provider failed.
    Failed,
}

/// Counts over the whole window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub total: u32,
    pub failed: u32,
    pub slow: u32,
}

/// From the top: 16 bits each of epoch (the bucket's number since the clock's zero), total, failed, slow.
#[derive(Debug, Default)]
pub(super) struct Window([AtomicU64; BUCKETS as usize]);

impl Window {
    pub fn add(&self, call: Call, now_ms: u64, window_ms: u32) {
        let epoch = epoch(now_ms, window_ms);
        let bucket = &self.0[(epoch % BUCKETS) as usize];
        let one = 1 << 32 | u64::from(call == Call::Failed) << 16 | u64::from(call == Call::Slow);
        let mut word = bucket.load(Ordering::Relaxed);
        loop {
            let fresh = epoch << 48;
            let next = if word >> 48 != fresh >> 48 {
                fresh + one
            } else if word >> 32 & 0xffff == 0xffff {
                fresh | ((word >> 1 & 0x7fff_7fff_7fff) + one)
            } else {
                word + one
            };
            match bucket.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    pub fn sums(&self, now_ms: u64, window_ms: u32) -> Sums {
        let epoch = epoch(now_ms, window_ms);
        let mut sums = Sums::default();
        for age in 0..BUCKETS.min(epoch + 1) {
            let of = epoch - age;
            let word = self.0[(of % BUCKETS) as usize].load(Ordering::Relaxed);
            if word >> 48 == of & 0xffff {
                sums.total += (word >> 32 & 0xffff) as u32;
                sums.failed += (word >> 16 & 0xffff) as u32;
                sums.slow += (word & 0xffff) as u32;
            }
        }
        sums
    }

    pub fn clear(&self) {
        self.0.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
    }
}

fn epoch(now_ms: u64, window_ms: u32) -> u64 {
    now_ms / (u64::from(window_ms) / BUCKETS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_until_the_window_has_passed_over_them() {
        let window = Window::default();
        window.add(Call::Failed, 10_000, 8_000);
        window.add(Call::Slow, 11_000, 8_000);
        window.add(Call::Good, 11_999, 8_000);
        let all = Sums {
            total: 3,
            failed: 1,
            slow: 1,
        };
        assert_eq!(window.sums(12_000, 8_000), all);
        assert_eq!(window.sums(17_999, 8_000), all);
        assert_eq!(
            window.sums(18_000, 8_000),
            Sums {
                total: 2,
                failed: 0,
                slow: 1
            }
        );
        assert_eq!(window.sums(19_000, 8_000), Sums::default());
        window.add(Call::Good, 26_000, 8_000);
        assert_eq!(window.sums(26_000, 8_000).total, 1, "an old bucket is taken over empty");
        window.clear();
        assert_eq!(window.sums(26_000, 8_000), Sums::default());
    }

    #[test]
    fn a_bucket_that_is_full_keeps_its_ratios() {
        let window = Window::default();
        for index in 0..200_000 {
            let call = match index % 4 {
                0 => Call::Failed,
                1 => Call::Slow,
                _ => Call::Good,
            };
            window.add(call, 5_000, 8_000);
        }
        let sums = window.sums(5_000, 8_000);
        assert!((32_000..65_536).contains(&sums.total), "{sums:?}");
        let quarter = sums.total / 4;
        assert!(
            sums.failed.abs_diff(quarter) < 10 && sums.slow.abs_diff(quarter) < 10,
            "{sums:?}"
        );
    }
}
