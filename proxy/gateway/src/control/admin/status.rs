//! `GET /admin/status`: what `sluice status` shows: counts, times, and everything that is not well.
//!
//! Invariants: counts and buckets are since the start, so that whoever asks twice knows what happened between; lists are bounded.
//! Deliberately absent: judging, and how it looks in a terminal (`cli/status.rs`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use sluice_policy::health::{KeyStanding, Standing, TargetReport};
use sluice_policy::meter::histogram::Sums;
use sluice_policy::meter::{CoreMeter, Counter};
use sluice_wire::limits::METRICS_TOP;

use super::metrics::{in_flight, process, sums_of};
use super::{Status, cache, json as answer, kernel, lock};
use crate::clock;
use crate::plane::Plane;

/// `GET /admin/status`.
pub async fn status(State(status): State<Arc<Status>>) -> Response {
    let meters = &status.meters;
    let sum = |which: fn(&CoreMeter) -> &Counter| -> u64 { meters.iter().map(|meter| which(meter).get()).sum() };
    let now_ms = clock::shared_ms();
    let plane = status.plane();
    let targets = plane.health.report();
    let known = targets.len();
    let (breakers, keys) = trouble(&plane, targets, now_ms);
    let mut budgets = status.budgets();
    let count = budgets.len();
    budgets.sort_by(|a, b| b.share().total_cmp(&a.share()).then(a.row.cmp(&b.row)));
    let budgets: Vec<Value> = budgets
        .iter()
        .take(METRICS_TOP)
        .map(|budget| {
            json!({
                "owner": *budget.owner,
                "window": *budget.window,
                "limit_nano_usd": budget.limit,
                "spent_nano_usd": budget.spent,
            })
        })
        .collect();
    let threads = process::threads().into_iter();
    let threads: Vec<Value> = threads
        .map(|(name, ns)| json!({"thread": name, "cpu_ns": ns}))
        .collect();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": status.started.elapsed().as_secs(),
        "now_ms": now_ms,
        "cores": meters.len(),
        "threads": threads,
        "counts": counts(meters),
        "in_flight": in_flight(meters),
        "connections": sum(|meter| &meter.connections),
        "pooled": sum(|meter| &meter.upstream_idle),
        "times": {
            "added": shown(&sums_of(meters, |times| &times.added)),
            "upstream": shown(&sums_of(meters, |times| &times.upstream)),
            "total": shown(&sums_of(meters, |times| &times.total)),
            "lag": shown(&sums_of(meters, |times| &times.lag)),
        },
        "targets": known,
        "breakers": breakers,
        "keys": keys,
        "budgets": budgets,
        "budgets_known": count,
        "cache": cache::summary(&status),
        "kernel": kernel::overview(&lock(&status.kernel))["tiers"],
        "configuration": status.change(|state| json!({
            "generation": state.generation,
            "hash": state.config_hash,
            "refused": state.refused,
            "last_refusal": state.refusal,
            "draining": state.draining,
        })),
        "store": status.change(|state| state.store.map(|troubles| json!({
            "failing": troubles.failing,
            "waiting": troubles.waiting,
            "lost": troubles.lost,
        }))),
    });
    answer(StatusCode::OK, body.to_string())
}

/// What the cores have counted since the start.
fn counts(meters: &[Arc<CoreMeter>]) -> Value {
    let sum = |which: fn(&CoreMeter) -> &Counter| -> u64 { meters.iter().map(|meter| which(meter).get()).sum() };
    json!({
        "requests": sum(|meter| &meter.requests),
        "from_cache": sum(|meter| &meter.from_cache),
        "forwarded": sum(|meter| &meter.forwarded),
        "refused": sum(|meter| &meter.refused),
        "responses_2xx": sum(|meter| &meter.responses_2xx),
        "responses_4xx": sum(|meter| &meter.responses_4xx),
        "responses_5xx": sum(|meter| &meter.responses_5xx),
        "interrupted": sum(|meter| &meter.streams_interrupted),
        "clients_gone": sum(|meter| &meter.clients_gone),
        "attempts": sum(|meter| &meter.attempts),
        "attempts_failed": sum(|meter| &meter.attempts_failed),
        "fallbacks": sum(|meter| &meter.fallbacks),
        "retries": sum(|meter| &meter.retries),
        "rate_limited": sum(|meter| &meter.callers_limited),
        "budget_refusals": sum(|meter| &meter.budget_refusals),
        "log_dropped": sum(|meter| &meter.records_dropped),
        "spent_nano_usd": sum(|meter| &meter.spent_nano_usd),
    })
}

/// Targets that are left alone, and keys that cannot be used.
fn trouble(plane: &Plane, targets: Vec<TargetReport>, now_ms: u64) -> (Vec<Value>, Vec<Value>) {
    let left_alone = targets.into_iter().filter(|target| target.standing != Standing::Closed);
    let breakers: Vec<Value> = left_alone
        .take(METRICS_TOP)
        .map(|target| json!({"target": target.name, "probing": target.standing == Standing::HalfOpen}))
        .collect();
    let keys = plane.snapshot.providers().iter().flat_map(|provider| {
        let of_key = |key: &sluice_policy::snapshot::Key| {
            let (state, until_ms) = match plane.keys[key.id.index()].overview(now_ms) {
                KeyStanding::Ready | KeyStanding::Tried => return None,
                KeyStanding::Resting { until_ms, .. } => ("resting", until_ms),
                KeyStanding::ProbeDue => ("refused", now_ms),
                KeyStanding::Refused { until_ms } => ("refused", until_ms),
            };
            let left_s = until_ms.saturating_sub(now_ms).div_ceil(1000);
            Some(json!({"provider": *provider.name, "key": *key.name, "state": state, "left_s": left_s}))
        };
        provider.keys.iter().filter_map(of_key).collect::<Vec<_>>()
    });
    let keys: Vec<Value> = keys.take(METRICS_TOP).collect();
    (breakers, keys)
}

/// A distribution: its bounds and how many values are within each, in microseconds.
fn shown(sums: &Sums) -> Value {
    json!({"bounds_us": sums.bounds, "counts": sums.counts})
}
