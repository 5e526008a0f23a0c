//! [`Duty`]: how long exchanges are measured, and how long they are not, so that measuring costs a busy gateway little.
//!
//! Invariants: the programs take at most [`OWN_SHARE_MAX_PPM`] of the processor time that the gateway itself takes, or
//! [`SHARE_MAX_PPM`] of one processor if that is more; while they take less, all exchanges are measured. Otherwise they are away for as
//! long as it takes, but no longer than [`PAUSE_MAX_MS`]; a window is long enough that most exchanges that begin in it also end in it, as
//! far as [`WINDOW_MAX_MS`] goes. Pure: counters and times are arguments. Deliberately absent: attaching and detaching
//! (`accounting.rs`).

/// What a program at a tracepoint costs each time it runs, being called included, in nanoseconds; see ebpf/README.md.
const RUN_NS: u64 = 300;
/// What the programs may take of the gateway's own processor time, in millionths.
pub const OWN_SHARE_MAX_PPM: u64 = 15_000;
/// What they may take of one processor in any case, in millionths.
pub const SHARE_MAX_PPM: u64 = 2_000;
/// The shortest window.
pub const WINDOW_MIN_MS: u64 = 2_000;
/// The longest one.
pub const WINDOW_MAX_MS: u64 = 32_000;
/// The longest pause between two.
pub const PAUSE_MAX_MS: u64 = 120_000;

/// What was counted in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Runs, on all processors.
    pub runs: u64,
    /// Processor time of the gateway, in microseconds.
    pub cpu_us: u64,
    /// Exchanges that began.
    pub begun: u64,
    /// Exchanges that were recorded to the end.
    pub ended: u64,
}

/// When the programs are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    window_ms: u64,
    pause_ms: u64,
}

impl Default for Duty {
    fn default() -> Self {
        Self {
            window_ms: WINDOW_MIN_MS,
            pause_ms: 0,
        }
    }
}

impl Duty {
    /// How long the next window is, in milliseconds.
    pub fn window_ms(self) -> u64 {
        self.window_ms
    }

    /// How long the programs are away before it, in milliseconds; 0: they stay.
    pub fn pause_ms(self) -> u64 {
        self.pause_ms
    }

    /// The share of exchanges that is measured, 0 to 1.
    pub fn share(self) -> f64 {
        self.window_ms as f64 / (self.window_ms + self.pause_ms) as f64
    }

    /// What follows from a window that has lasted `elapsed_ms`.
    pub fn judge(self, seen: Seen, elapsed_ms: u64) -> Self {
        let cost_ns = seen.runs.saturating_mul(RUN_NS).max(1);
        // A millionth of a millisecond is a nanosecond, and of a microsecond a thousandth of that.
        let of_one = elapsed_ms.saturating_mul(SHARE_MAX_PPM);
        let of_own = seen.cpu_us.saturating_mul(OWN_SHARE_MAX_PPM) / 1_000;
        let allowed_ns = of_one.max(of_own).max(1);
        if cost_ns <= allowed_ns {
            return Self::default();
        }
        // What begins shortly before the end cannot end within: half of them would be a poor sample.
        let window_ms = match seen {
            Seen { begun, ended, .. } if ended < begun / 2 => self.window_ms.saturating_mul(2),
            Seen { begun, ended, .. } if ended >= begun - begun / 4 => self.window_ms / 2,
            _ => self.window_ms,
        };
        let window_ms = window_ms.clamp(WINDOW_MIN_MS, WINDOW_MAX_MS);
        let pause_ms = window_ms.saturating_mul(cost_ns) / allowed_ns - window_ms;
        Self {
            window_ms,
            pause_ms: pause_ms.min(PAUSE_MAX_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_MS: u64 = 1_000;

    fn all_end(runs: u64, cpu_us: u64) -> Seen {
        Seen {
            runs,
            cpu_us,
            begun: 1_000,
            ended: 1_000,
        }
    }

    #[test]
    fn a_quiet_machine_is_measured_without_a_pause() {
        let duty = Duty::default().judge(all_end(6_000, 0), SECOND_MS);
        assert_eq!((duty, duty.share()), (Duty::default(), 1.0));
    }

    #[test]
    fn a_busy_gateway_pays_no_more_than_its_share() {
        for (runs, cpu_us) in [
            (10_000, 20_000),
            (100_000, 400_000),
            (650_000, 1_000_000),
            (9_000_000, 8_000_000),
        ] {
            let duty = Duty::default().judge(all_end(runs, cpu_us), SECOND_MS);
            let cost = runs as f64 * RUN_NS as f64 * 1e-9 * duty.share();
            let allowed = (cpu_us as f64 * 1e-6 * OWN_SHARE_MAX_PPM as f64 * 1e-6).max(SHARE_MAX_PPM as f64 * 1e-6);
            assert!(cost <= allowed * 1.01, "{runs}: {cost} of {allowed}");
            assert!(cost >= allowed * 0.9, "{runs}: {cost} of {allowed}");
        }
    }

    #[test]
    fn windows_grow_until_exchanges_fit_and_shrink_again() {
        let long = Seen {
            runs: 400_000,
            cpu_us: 500_000,
            begun: 1_000,
            ended: 100,
        };
        let mut duty = Duty::default();
        let mut lengths = Vec::new();
        for _ in 0..6 {
            duty = duty.judge(long, SECOND_MS);
            lengths.push(duty.window_ms());
        }
        assert_eq!(lengths, [4_000, 8_000, 16_000, 32_000, 32_000, 32_000]);
        assert_eq!(duty.judge(all_end(400_000, 500_000), SECOND_MS).window_ms(), 16_000);
    }

    #[test]
    fn a_pause_has_an_end_whatever_was_counted() {
        let duty = Duty::default().judge(all_end(u64::MAX, 0), 0);
        assert_eq!(duty.pause_ms(), PAUSE_MAX_MS);
    }

    #[test]
    fn what_was_busy_once_is_measured_whole_again_when_it_is_not() {
        let busy = Duty::default().judge(all_end(400_000, 500_000), SECOND_MS);
        assert_eq!(busy.judge(all_end(0, 0), SECOND_MS), Duty::default());
    }
}
