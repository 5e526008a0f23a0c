//! What the kernel does and has measured: in `/admin`, as metrics, and beside what the gateway itself has measured.
//!
//! Invariants: reading touches neither a core nor a program; rows are bounded by the maps. Deliberately absent: how it is shown
//! in a terminal (`cli/latency.rs`).

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_ebpf_common::accounting::{BUCKETS, Histogram, lower_bound};

use super::spent::summary;
use super::{Status, health, json, lock};
use crate::ebpf::accounting::{Accounting, HISTOGRAMS};
use crate::ebpf::{Kernel, Tier, cpu_us, mode_name, mode_named};

/// Buckets of a power of two, which metrics show as one.
const PER_OCTAVE: usize = 4;

/// What `/admin` says of it.
pub fn overview(kernel: &Kernel) -> Value {
    let tiers = kernel.tiers().into_iter().map(|(tier, reason)| {
        json!({
            "tier": tier,
            "state": state(reason),
            "reason": reason,
        })
    });
    let tiers: Value = tiers.collect();
    let steering = kernel.steering.get().map(|steering| {
        json!({
            "mode": mode_name(steering.mode()),
            "cores": steering.listed(),
            "picked": steering.picked(),
            "unplaced": steering.unplaced(),
        })
    });
    let pins = kernel.accounting.get().and_then(Accounting::pins);
    let measured = kernel.accounting.get().map(Accounting::share);
    json!({"tiers": tiers, "steering": steering, "pinned_at": pins, "measured_share": measured})
}

fn state(reason: Option<&str>) -> &'static str {
    if reason.is_none() { "on" } else { "off" }
}

/// Appends the metrics of all of it.
pub fn write_metrics(text: &mut String, kernel: &Kernel) {
    const TIER: &str = "sluice_ebpf_tier";
    const PICKED: &str = "sluice_steering_picked_total";
    const SHARE: &str = "sluice_kernel_measured_share";
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "# HELP {TIER} Which parts of the kernel's side are at work.\n# TYPE {TIER} gauge"
    );
    for (tier, reason) in kernel.tiers() {
        for shown in ["on", "off"] {
            let value = u8::from(state(reason) == shown);
            let _ = writeln!(text, "{TIER}{{tier=\"{tier}\",state=\"{shown}\"}} {value}");
        }
    }
    if let Tier::On(steering) = &kernel.steering {
        let _ = writeln!(
            text,
            "# HELP {PICKED} Connections that were sent to each core.\n# TYPE {PICKED} counter"
        );
        for (core, picked) in steering.picked().iter().enumerate() {
            let _ = writeln!(text, "{PICKED}{{core=\"{core}\"}} {picked}");
        }
    }
    let Tier::On(accounting) = &kernel.accounting else {
        return;
    };
    let share = accounting.share();
    let _ = writeln!(
        text,
        "# HELP {SHARE} Share of the time in which exchanges are measured: less than 1 on a busy machine.\n# TYPE {SHARE} gauge\n{SHARE} {share}"
    );
    for (index, (_, name, help, is_time)) in HISTOGRAMS.iter().enumerate() {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        for slot in accounting.slots() {
            let Ok(histogram) = accounting.read(index, slot.index) else {
                continue;
            };
            if histogram.buckets.iter().all(|count| *count == 0) {
                // Some have no meaning for a role: we connect to no client.
                continue;
            }
            let labels = format!("role=\"{}\",name=\"{}\"", slot.role, health::label(&slot.name));
            write_histogram(text, name, &labels, &histogram, *is_time);
        }
    }
}

/// One histogram in the text format: cumulative, one bound for each power of two that is needed.
fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram, is_time: bool) {
    let scale = if is_time { 1e-6 } else { 1.0 };
    let count: u64 = histogram.buckets.iter().sum();
    let mut seen = 0;
    for (octave, buckets) in histogram.buckets.chunks_exact(PER_OCTAVE).enumerate() {
        let before = seen;
        seen += buckets.iter().sum::<u64>();
        let next = (octave + 1) * PER_OCTAVE;
        // Bounds are inclusive, and values whole.
        let bound = (lower_bound(next as u32) - 1) as f64 * scale;
        if next < BUCKETS && seen > 0 && before < count {
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {seen}");
        }
    }
    let sum = histogram.sum as f64 * scale;
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}

/// `GET /admin/latency`: what the kernel has measured beside what the gateway has.
pub async fn latency(State(status): State<Arc<Status>>) -> Response {
    let kernel = lock(&status.kernel);
    let slots = kernel.accounting.get().map(|accounting| {
        let slots = accounting.slots().iter().map(|slot| {
            let mut shown = serde_json::Map::new();
            for (index, (map, ..)) in HISTOGRAMS.iter().enumerate() {
                if let Ok(histogram) = accounting.read(index, slot.index) {
                    shown.insert(map.to_ascii_lowercase(), summary(&histogram.buckets, histogram.sum));
                }
            }
            json!({"role": slot.role, "name": slot.name, "histograms": shown})
        });
        slots.collect::<Value>()
    });
    let requests: u64 = status.meters.iter().map(|meter| meter.requests.get()).sum();
    let body = json!({
        "accounting": kernel.accounting.reason().unwrap_or("on"),
        "measured_share": kernel.accounting.get().map(Accounting::share),
        "slots": slots,
        "requests": requests,
        "cpu_us": cpu_us(),
        "providers": status.change(|state| state.spent.report()),
    });
    json(StatusCode::OK, body.to_string())
}

/// Which mode.
#[derive(Deserialize)]
pub struct Wanted {
    /// p2c, cpu, rr or hash.
    mode: String,
}

/// `POST /admin/steering?mode=MODE`: connections are steered in this way from now on.
pub async fn set_mode(State(status): State<Arc<Status>>, Query(wanted): Query<Wanted>) -> Response {
    let Some(mode) = mode_named(&wanted.mode) else {
        return json(StatusCode::BAD_REQUEST, r#"{"status":"mode is p2c, cpu, rr or hash"}"#);
    };
    match lock(&status.kernel).steering.get_mut() {
        Some(steering) => {
            steering.set_mode(mode);
            tracing::info!(
                mode = wanted.mode,
                "an operator has changed how connections are steered"
            );
            json(StatusCode::OK, r#"{"status":"changed"}"#)
        }
        None => json(StatusCode::CONFLICT, r#"{"status":"steering is off"}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let mut histogram = Histogram {
            buckets: [0; BUCKETS],
            sum: 1_500,
        };
        histogram.buckets[sluice_ebpf_common::accounting::bucket(1000) as usize] = 1;
        histogram.buckets[sluice_ebpf_common::accounting::bucket(500) as usize] = 1;
        let mut text = String::new();
        write_histogram(&mut text, "x", "a=\"b\"", &histogram, true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "x_bucket{a=\"b\",le=\"0.000511\"} 1",
                "x_bucket{a=\"b\",le=\"0.001023\"} 2",
                "x_bucket{a=\"b\",le=\"+Inf\"} 2",
                "x_sum{a=\"b\"} 0.0015",
                "x_count{a=\"b\"} 2",
            ]
        );
    }
}
