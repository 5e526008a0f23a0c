//! The cost as shipped, measured over whole turns of window and pause against a machine that drifts.
//!
//! Invariants: of each turn there are two fresh gateways, without and with programs, alive at once; the load goes from one to the other
//! every half second in the order ABBA, and a slice with programs is divided by what the slices without them before and after it
//! say of that moment. While exchanges are measured only the gateway with programs is loaded, so that it paces itself as it does
//! alone, and no slice without programs pays for those of the other. Deliberately absent: an opinion on the result.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::measure::{self, Sample};
use super::super::progress;
use super::super::scenario::Scenario;
use super::super::subject::{Name, Running, Stage};

/// Seconds of load before a slice is measured: its connections are open by then.
const WARMUP: f64 = 0.1;
/// Slices until a gateway under load must have begun its first pause.
const SETTLING_SLICES_MAX: usize = 60;
/// Slices of a turn at most: window and pause last at most 152 s.
const SLICES_MAX: usize = 400;

/// One turn.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Microseconds per request without programs: median of its slices.
    pub off_us: f64,
    /// What a request costs more while exchanges are not measured, in hundredths.
    pub paused: f64,
    /// What it costs more while they are.
    pub open: f64,
    /// The share of the turn in which they are, by the clock, 0 to 1.
    pub share: f64,
    /// Slices that were compared.
    pub slices: usize,
    /// Requests that failed.
    pub failures: u64,
}

impl Turn {
    /// What a request costs more over the whole turn, in hundredths.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.open * self.share + self.paused * (1.0 - self.share)
    }
}

/// One slice with programs, or without.
#[derive(Debug, Clone, Copy)]
struct Slice {
    at_s: f64,
    cpu_us: f64,
}

/// What has been seen of a turn so far.
#[derive(Debug, Default)]
struct Seen {
    without: Vec<Slice>,
    paused: Vec<Slice>,
    open: Vec<Slice>,
    failures: u64,
}

/// Measures `count` turns.
///
/// # Errors
/// When a gateway does not start, never pauses, or never measures again.
pub fn run(stage: &mut Stage, scenario: &Scenario, count: usize, slice_s: f64) -> Result<Vec<Turn>> {
    let scenario = Scenario {
        warmup: WARMUP,
        ..scenario.clone()
    };
    let turns = (0..count).map(|number| {
        progress(&format!("turn {}/{count}", number + 1));
        turn(stage, &scenario, slice_s)
    });
    let turns = turns.collect();
    progress("");
    turns
}

fn turn(stage: &mut Stage, scenario: &Scenario, slice_s: f64) -> Result<Turn> {
    let start = |name: Name| {
        let started = stage.start(name, scenario.upstream)?;
        started.with_context(|| format!("{name} is not available"))
    };
    let (bare, shipped) = (start(Name::GatewayBare)?, start(Name::Gateway)?);
    let admin = shipped.admin.context("a gateway has an admin interface")?;
    let begun = Instant::now();
    let mut load = |subject: &Running| -> Result<(Slice, Sample)> {
        let sample = measure::run(stage, scenario, subject, 0, slice_s)?;
        let slice = Slice {
            at_s: begun.elapsed().as_secs_f64(),
            cpu_us: sample.cpu_us,
        };
        Ok((slice, sample))
    };
    let mut settling = 0;
    // The first slices fill caches and pools, too.
    load(&bare)?;
    while load(&shipped).map(|_| is_measuring(admin))?? {
        settling += 1;
        ensure!(settling < SETTLING_SLICES_MAX, "there are no pauses under this load");
    }
    let (mut seen, from_s, mut opened_s) = (Seen::default(), begun.elapsed().as_secs_f64(), None);
    for number in 0.. {
        ensure!(number < SLICES_MAX, "exchanges are never measured again");
        // ABBA, as long as nothing is measured.
        let wants_bare = matches!(number % 4, 0 | 3) && opened_s.is_none();
        let (slice, sample) = load(if wants_bare { &bare } else { &shipped })?;
        seen.failures += sample.failures();
        let (is_open, now_s) = (is_measuring(admin)?, begun.elapsed().as_secs_f64());
        let was_open = opened_s.is_some();
        match (wants_bare, was_open || is_open) {
            (true, false) => seen.without.push(slice),
            // The window began during it.
            (true, true) => {}
            (false, false) => seen.paused.push(slice),
            (false, true) => seen.open.push(slice),
        }
        match (opened_s, is_open) {
            (None, true) => opened_s = Some(now_s - slice_s / 2.0),
            (Some(opened_s), false) => {
                // What the last slices of the window are held against.
                seen.without.push(load(&bare)?.0);
                return seen.judge((now_s - opened_s) / (now_s - from_s));
            }
            _ => {}
        }
    }
    unreachable!("the loop has no other end")
}

impl Seen {
    fn judge(&self, share: f64) -> Result<Turn> {
        let more = |slices: &[Slice]| {
            let percent = slices
                .iter()
                .filter_map(|slice| Some((slice.cpu_us / self.expected(slice.at_s)? - 1.0) * 100.0));
            median(percent.collect()).context("too few slices")
        };
        Ok(Turn {
            off_us: median(self.without.iter().map(|slice| slice.cpu_us).collect()).context("too few slices")?,
            paused: more(&self.paused)?,
            open: more(&self.open)?,
            share,
            slices: self.without.len() + self.paused.len() + self.open.len(),
            failures: self.failures,
        })
    }

    /// What a request would have cost without programs at that time: between the slices before and after.
    fn expected(&self, at_s: f64) -> Option<f64> {
        let before = self.without.iter().rfind(|slice| slice.at_s <= at_s);
        let after = self.without.iter().find(|slice| slice.at_s > at_s);
        match (before, after) {
            (Some(before), Some(after)) => {
                let part = (at_s - before.at_s) / (after.at_s - before.at_s);
                Some(before.cpu_us + part * (after.cpu_us - before.cpu_us))
            }
            (one, other) => one.or(other).map(|slice| slice.cpu_us),
        }
    }
}

fn is_measuring(admin: SocketAddr) -> Result<bool> {
    let page: Value = super::ask(admin)?;
    page["measuring"]
        .as_bool()
        .with_context(|| format!("accounting is off: {}", page["accounting"]))
}

/// The middle one; of an even number the upper one.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The mean of what is measured, and how far off it may be with 95 % confidence (Student's t over the turns).
#[must_use]
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    /// Two-sided 95 % for 1, 2, … degrees of freedom; from the last on, the normal distribution is near enough.
    const T: [f64; 20] = [
        12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10,
        2.09, 2.09,
    ];
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    if values.len() < 2 {
        return (mean, f64::INFINITY);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let t = T.get(values.len() - 2).copied().unwrap_or(2.0);
    (mean, t * (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_drifts_is_no_cost() {
        let drifting = |at_s: f64, more: f64| Slice {
            at_s,
            cpu_us: (10.0 + at_s / 10.0) * more,
        };
        let seen = Seen {
            without: [0.0, 3.0, 4.0, 7.0, 11.0].map(|at_s| drifting(at_s, 1.0)).into(),
            paused: [1.0, 2.0, 5.0, 6.0].map(|at_s| drifting(at_s, 1.005)).into(),
            open: [8.0, 9.0, 10.0].map(|at_s| drifting(at_s, 1.1)).into(),
            failures: 0,
        };
        let turn = seen.judge(0.1).expect("there are slices");
        assert!(
            (turn.paused - 0.5).abs() < 1e-9 && (turn.open - 10.0).abs() < 1e-9,
            "{turn:?}"
        );
        assert!((turn.percent() - 1.45).abs() < 1e-9, "{turn:?}");
    }

    #[test]
    fn confidence_grows_with_the_number_of_turns() {
        let (mean, few) = mean_and_error(&[0.5, 1.5]);
        let (_, more) = mean_and_error(&[0.5, 1.5, 0.5, 1.5, 0.5, 1.5]);
        assert!((mean - 1.0).abs() < 1e-9 && more < few / 4.0, "{few} {more}");
        assert_eq!(mean_and_error(&[1.0]).1, f64::INFINITY);
    }
}
