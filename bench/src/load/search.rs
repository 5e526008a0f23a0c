//! The highest arrival rate a target carries within a p99 limit and without one failure, found by bisection.
//!
//! Every step is an open-loop run, and steps are shared between the limits: a rate that was good enough for 1 ms is
//! good enough for 10 ms. The first step is a closed loop, which bounds the search from above. A rate is given up only
//! when two runs at it were too slow: one hiccup of the machine must not halve the result.

use anyhow::Result;
use serde_json::{Value, json};

use super::Flags;
use super::run::measure;

/// The search ends once the bracket is this narrow, as a share of the closed loop's rate.
const BRACKET: f64 = 0.02;

/// Most steps for one limit.
const STEPS_MAX: usize = 8;

struct Step {
    rate: f64,
    p99_us: f64,
    p50_us: f64,
    failures: u64,
}

async fn step(flags: &Flags, rate: f64) -> Result<Step> {
    let stats = measure(
        &Flags {
            rate: Some(rate.max(1.0)),
            ..flags.clone()
        },
        false,
    )
    .await?;
    let (p99_us, p50_us) = (stats.latency.micros(0.99), stats.latency.micros(0.5));
    Ok(Step {
        rate,
        p99_us,
        p50_us,
        failures: stats.failures_total(),
    })
}

fn better(one: Step, other: Step) -> Step {
    if (one.failures, one.p99_us) <= (other.failures, other.p99_us) {
        one
    } else {
        other
    }
}

/// Searches for each limit of `--search`, and returns limits, best rates and every step.
///
/// # Errors
/// When a run cannot be performed at all.
pub async fn run(flags: &Flags) -> Result<Value> {
    let closed = measure(
        &Flags {
            rate: None,
            ..flags.clone()
        },
        false,
    )
    .await?;
    let top = closed.rps();
    let mut steps: Vec<Step> = Vec::new();
    let mut found = Vec::new();
    for &limit in &flags.search {
        let good = |step: &Step| step.failures == 0 && step.p99_us <= limit as f64;
        for _ in 0..STEPS_MAX {
            let low = steps
                .iter()
                .filter(|step| good(step))
                .map(|step| step.rate)
                .fold(0.0, f64::max);
            let bad = steps
                .iter()
                .filter(|step| !good(step) && step.rate > low)
                .map(|step| step.rate);
            let high = bad.fold(top * 1.1, f64::min);
            if high - low < top * BRACKET {
                break;
            }
            let rate = if low == 0.0 { high * 0.6 } else { (low + high) / 2.0 };
            let first = step(flags, rate).await?;
            steps.push(if good(&first) {
                first
            } else {
                better(first, step(flags, rate).await?)
            });
        }
        let best = steps
            .iter()
            .filter(|step| good(step))
            .map(|step| step.rate)
            .fold(0.0, f64::max);
        found.push(json!({ "p99_limit_us": limit, "rate": best }));
    }
    let steps: Vec<_> = steps
        .iter()
        .map(|step| json!({"rate": step.rate, "p50_us": step.p50_us, "p99_us": step.p99_us, "failures": step.failures}))
        .collect();
    Ok(json!({
        "closed_loop_rps": top,
        "closed_loop_failures": closed.failures_total(),
        "limits": found,
        "steps": steps,
    }))
}
