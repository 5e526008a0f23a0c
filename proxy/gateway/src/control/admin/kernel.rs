//! What the kernel does and has measured: in `/admin`, as metrics, and beside what the gateway itself has measured.
//!
//! Invariants: reading touches neither a core nor a program; rows are bounded by the maps. Deliberately absent: how it is shown
//! in a terminal (`cli/latency.rs`).

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_ebpf_common::accounting::{BUCKETS, Histogram, lower_bound};
use sluice_policy::meter::catalog::{self as of, Family};

use super::metrics::text::{Page, number};
use super::spent::summary;
use super::{Status, json, lock};
use crate::clock;
use crate::ebpf::accounting::{Accounting, HISTOGRAMS};
use crate::ebpf::{Kernel, NOT_WANTED, Tier, mode_name, mode_named};

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
pub fn write_metrics(page: &mut Page, kernel: &Kernel) {
    page.family(&of::EBPF_TIER);
    for (tier, reason) in kernel.tiers() {
        for shown in ["on", "off"] {
            let value = u8::from(state(reason) == shown);
            page.sample(&of::EBPF_TIER, &[tier, shown], value);
        }
    }
    let lost = kernel
        .tiers()
        .into_iter()
        .filter(|(_, reason)| reason.is_some_and(|why| why != NOT_WANTED));
    page.single(&of::EBPF_LOST, lost.count());
    if let Tier::On(steering) = &kernel.steering {
        page.family(&of::STEERING_PICKED);
        for (core, picked) in steering.picked().iter().enumerate() {
            page.sample(&of::STEERING_PICKED, &[&core.to_string()], picked);
        }
    }
    let Tier::On(accounting) = &kernel.accounting else {
        return;
    };
    page.single(&of::KERNEL_SHARE, number(accounting.share()));
    for (index, (_, family, is_time)) in HISTOGRAMS.iter().enumerate() {
        page.family(family);
        for slot in accounting.slots() {
            let Ok(histogram) = accounting.read(index, slot.index) else {
                continue;
            };
            if histogram.buckets.iter().all(|count| *count == 0) {
                // Some have no meaning for a role: we connect to no client.
                continue;
            }
            write_histogram(page, family, &[slot.role, &slot.name], &histogram, *is_time);
        }
    }
}

/// One histogram in the text format: cumulative, one bound for each power of two that is needed.
fn write_histogram(page: &mut Page, family: &Family, labels: &[&str], histogram: &Histogram, is_time: bool) {
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
            page.bucket(family, labels, &number(bound), seen);
        }
    }
    page.bucket(family, labels, "+Inf", count);
    page.end(family, labels, histogram.sum as f64 * scale, count);
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
        "measuring": kernel.accounting.get().map(Accounting::is_measuring),
        "slots": slots,
        "requests": requests,
        "cpu_us": clock::cpu_us(),
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
    use crate::control::admin::metrics::text::Format;

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let mut histogram = Histogram {
            buckets: [0; BUCKETS],
            sum: 1_500,
        };
        histogram.buckets[sluice_ebpf_common::accounting::bucket(1000) as usize] = 1;
        histogram.buckets[sluice_ebpf_common::accounting::bucket(500) as usize] = 1;
        let mut page = Page::new(Format::Prometheus);
        write_histogram(&mut page, &of::KERNEL_CONNECT, &["upstream", "b"], &histogram, true);
        let text = page.finish();
        let lines: Vec<&str> = text.lines().collect();
        let name = "sluice_kernel_connect_seconds";
        let labels = "role=\"upstream\",name=\"b\"";
        assert_eq!(
            lines,
            [
                format!("{name}_bucket{{{labels},le=\"0.000511\"}} 1"),
                format!("{name}_bucket{{{labels},le=\"0.001023\"}} 2"),
                format!("{name}_bucket{{{labels},le=\"+Inf\"}} 2"),
                format!("{name}_sum{{{labels}}} 0.0015"),
                format!("{name}_count{{{labels}}} 2"),
            ]
        );
    }
}
