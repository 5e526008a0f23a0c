//! [`Histogram`]: how often values of each size were seen, by one thread, and [`Sums`] of several threads' histograms.
//!
//! Invariants: bounds are fixed when it is made, so that histograms of one metric can be added up; observing writes two words
//! and takes no memory. Deliberately absent: quantiles, which are the reader's work.

use super::{COUNTED, Counter};

/// Bounds of the gateway's own times, in microseconds, inclusive.
pub const TIMES_US: &[u64] = &[
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// Bounds of `gen_ai.client.operation.duration`, in microseconds (OpenTelemetry's semantic conventions).
pub const DURATION_US: &[u64] = &[
    10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000, 2_560_000, 5_120_000, 10_240_000, 20_480_000,
    40_960_000, 81_920_000,
];

/// Bounds of `gen_ai.server.time_to_first_token`, in microseconds (likewise).
pub const FIRST_TOKEN_US: &[u64] = &[
    1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];

/// Bounds of `gen_ai.server.time_per_output_token`, in microseconds (likewise).
pub const PER_TOKEN_US: &[u64] = &[
    10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000, 750_000, 1_000_000, 2_500_000,
];

/// Bounds of `gen_ai.client.token.usage`, in tokens (likewise).
pub const TOKENS: &[u64] = &[
    1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864,
];

/// Values of one thread, counted by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// By the number of a value's binary digits: the first bound that may hold it. From there it is a step or two.
    starts: [u8; u64::BITS as usize + 1],
    /// One more than there are bounds: the last is for what is larger than all of them.
    counts: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// One without values. `bounds` are inclusive and grow; there are at most 255.
    pub fn new(bounds: &'static [u64]) -> Self {
        let start = |digits: usize| {
            let least = if digits == 0 { 0 } else { 1_u64 << (digits - 1) };
            bounds.partition_point(|bound| *bound < least) as u8
        };
        Self {
            bounds,
            starts: std::array::from_fn(start),
            counts: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            sum: Counter::default(),
        }
    }

    /// Adds a value. Only the owning core may call this.
    pub fn observe(&self, value: u64) {
        if !COUNTED {
            return;
        }
        let start = self.starts[(u64::BITS - value.leading_zeros()) as usize];
        let later = self.bounds[usize::from(start)..].iter();
        let index = usize::from(start) + later.take_while(|bound| **bound < value).count();
        self.counts[index].add(1);
        self.sum.add(value);
    }
}

/// Several threads' histograms of one metric, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// The bounds that they share.
    pub bounds: &'static [u64],
    /// Values within each bound and above the one before; the last is for what is larger than all.
    pub counts: Vec<u64>,
    /// All values together.
    pub sum: u64,
}

impl Sums {
    /// Nothing yet.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0,
        }
    }

    /// The sum of all of them; they have the same bounds.
    pub fn of<'a>(bounds: &'static [u64], histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sums = Self::new(bounds);
        histograms.for_each(|histogram| sums.add(histogram));
        sums
    }

    /// Adds a histogram of the same bounds.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum += count.get();
        }
        self.sum += histogram.sum.get();
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound below which the given share (0 to 1) of the values is; 0 without values. What is larger than every bound is
    /// said to be at the last.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return self.bounds[index.min(self.bounds.len() - 1)];
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_inclusive_and_what_is_beyond_the_last_is_counted() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21] {
            histogram.observe(value);
        }
        let sums = Sums::of(&[10, 20], [&histogram, &histogram].into_iter());
        assert_eq!(sums.counts, [4, 4, 2]);
        assert_eq!((sums.sum, sums.count()), (124, 10));
        assert_eq!(
            (sums.quantile(0.4), sums.quantile(0.5), sums.quantile(1.0)),
            (10, 20, 20)
        );
        assert_eq!(Sums::new(&[10]).quantile(0.5), 0);
    }

    #[test]
    fn a_value_is_counted_where_the_first_bound_is_that_holds_it() {
        for bounds in [TIMES_US, DURATION_US, FIRST_TOKEN_US, PER_TOKEN_US, TOKENS] {
            let near = bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            let powers = (0..u64::BITS).flat_map(|digit| [1 << digit, (1 << digit) - 1]);
            for value in near.chain(powers).chain([u64::MAX]) {
                let histogram = Histogram::new(bounds);
                histogram.observe(value);
                let expected = bounds.partition_point(|bound| *bound < value);
                let counted = histogram.counts.iter().position(|count| count.get() == 1);
                assert_eq!(counted, Some(expected), "{value}");
            }
        }
    }

    #[test]
    fn bounds_grow() {
        for bounds in [TIMES_US, DURATION_US, FIRST_TOKEN_US, PER_TOKEN_US, TOKENS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
