//! [`OutputEstimate`]: how long a model's answers are, learned, for budgets that reserve less than the worst case.
//!
//! Invariants: 64 counters, no allocation; the estimate is at least the true p99 of what was recorded, and at most one eighth
//! more; what is old weighs less. A request that is admitted by an estimate can cost more than was reserved for it: by no
//! more than its worst case less its estimate, so `n` requests at a time overshoot a limit by at most `n` times that.
//! Deliberately absent: estimates by prompt.

/// Answers to learn from before there is an estimate.
const ANSWERS_MIN: u32 = 100;
/// When so many are recorded, all counts are halved.
const ANSWERS_MAX: u32 = 10_000;
/// Eight buckets for each doubling, from 8 tokens on.
const BUCKETS: usize = 176;

/// Lengths of one model's answers.
#[derive(Clone, Debug)]
pub struct OutputEstimate {
    counts: [u16; BUCKETS],
    total: u32,
}

impl Default for OutputEstimate {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
        }
    }
}

impl OutputEstimate {
    /// Learns from an answer of so many output tokens.
    pub fn record(&mut self, tokens: u64) {
        let bucket = &mut self.counts[bucket(tokens)];
        *bucket = bucket.saturating_add(1);
        self.total += 1;
        if self.total >= ANSWERS_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// So many output tokens, or fewer, have 99 of 100 answers; `None` before enough were seen.
    pub fn p99(&self) -> Option<u64> {
        if self.total < ANSWERS_MIN {
            return None;
        }
        let beyond_max = self.total / 100;
        let mut beyond = 0;
        for (index, count) in self.counts.iter().enumerate().rev() {
            beyond += u32::from(*count);
            if beyond > beyond_max {
                return Some(upper(index));
            }
        }
        None
    }
}

fn bucket(tokens: u64) -> usize {
    if tokens < 8 {
        return tokens as usize;
    }
    let log = tokens.ilog2() as usize;
    let eighth = (tokens >> (log - 3)) as usize & 7;
    ((log - 2) * 8 + eighth).min(BUCKETS - 1)
}

/// The largest number that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let (log, eighth) = (bucket / 8 + 2, (bucket % 8) as u64);
    ((9 + eighth) << (log - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_numbers_and_are_at_most_an_eighth_wide() {
        for tokens in (0..5_000).chain([1 << 20, (1 << 20) + 12_345]) {
            let largest = upper(bucket(tokens));
            assert!(
                tokens <= largest && largest <= tokens + tokens / 8,
                "{tokens} {largest}"
            );
            assert_eq!(bucket(largest), bucket(tokens));
            assert_eq!(bucket(largest + 1), bucket(tokens) + 1);
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn the_estimate_covers_99_of_100_answers_and_follows_a_change() {
        let mut estimate = OutputEstimate::default();
        for tokens in 0..99 {
            estimate.record(tokens);
        }
        assert_eq!(estimate.p99(), None);
        for tokens in 99..1_000 {
            estimate.record(tokens);
        }
        let p99 = estimate.p99().unwrap();
        assert!((989..=1_120).contains(&p99), "{p99}");
        for _ in 0..60_000 {
            estimate.record(50);
        }
        assert!(estimate.p99().unwrap() < 100);
    }
}
