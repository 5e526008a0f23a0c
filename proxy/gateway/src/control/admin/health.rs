//! What is remembered of targets and keys: shown as metrics, and cleared by an operator.
//!
//! Invariants: read from the cores' shared state, without asking them; rows are bounded, whatever names clients invent; a
//! label holds a name of the configuration or of a target, never a secret. Deliberately absent: counters (`meter.rs`).

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use sluice_policy::health::{KeyStanding, Standing, TargetReport};
use sluice_policy::meter::CoreMeter;
use sluice_policy::snapshot::{Key, Provider};

use super::{Status, json};
use crate::clock;
use crate::plane::Plane;

/// Most targets that metrics show: those that are not well first.
const TARGETS_SHOWN: usize = 256;

/// Appends the metrics of targets and keys.
pub fn write_metrics(text: &mut String, plane: &Plane, now_ms: u64) {
    let mut targets = plane.health.report();
    targets.sort_by_key(|target| (target.standing == Standing::Closed, target.name.clone()));
    targets.truncate(TARGETS_SHOWN);
    let state = |target: &TargetReport| match target.standing {
        Standing::Closed => 0.0,
        Standing::HalfOpen => 1.0,
        Standing::Open(_) => 2.0,
    };
    let seconds = |us: u32| f64::from(us) / 1e6;
    type Value<'a> = &'a dyn Fn(&TargetReport) -> f64;
    let of_targets: [(&str, &str, Value<'_>); 4] = [
        (
            "sluice_target_state",
            "0: requests pass, 1: a probe is under way, 2: left alone.",
            &state,
        ),
        ("sluice_target_in_flight", "Attempts under way.", &|target| {
            f64::from(target.in_flight)
        }),
        (
            "sluice_target_first_token_seconds",
            "Recent mean time to the first token of streamed answers.",
            &|target| seconds(target.first_token_us),
        ),
        (
            "sluice_target_first_byte_seconds",
            "Recent mean time to other answers.",
            &|target| seconds(target.first_byte_us),
        ),
    ];
    for (name, help, value) in of_targets {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for target in &targets {
            let _ = writeln!(text, "{name}{{target=\"{}\"}} {}", label(&target.name), value(target));
        }
    }
    let keys = || {
        let keys_of = |provider| {
            let provider: &Provider = provider;
            provider.keys.iter().map(move |key| (provider, key))
        };
        plane.snapshot.providers().iter().flat_map(keys_of)
    };
    let state = |key: &Key| match plane.keys[key.id.index()].overview(now_ms) {
        KeyStanding::Ready | KeyStanding::Tried => 0.0,
        KeyStanding::Resting { .. } => 1.0,
        KeyStanding::ProbeDue | KeyStanding::Refused { .. } => 2.0,
    };
    let share = |key: &Key| f64::from(plane.keys[key.id.index()].share_milli(now_ms)) / 1000.0;
    type OfKey<'a> = &'a dyn Fn(&Key) -> f64;
    let of_keys: [(&str, &str, OfKey<'_>); 2] = [
        (
            "sluice_key_state",
            "0: usable, 1: resting after a 429 (for one model at least), 2: refused by the provider.",
            &state,
        ),
        (
            "sluice_key_share",
            "Part of its weight that a key is chosen by; below 1 as a limit comes near.",
            &share,
        ),
    ];
    for (name, help, value) in of_keys {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (provider, key) in keys() {
            let labels = format!("provider=\"{}\",key=\"{}\"", label(&provider.name), label(&key.name));
            let _ = writeln!(text, "{name}{{{labels}}} {}", value(key));
        }
    }
}

/// Appends what the cores counted by error code, summed over them.
pub fn write_codes(text: &mut String, meters: &[Arc<CoreMeter>]) {
    type Family<'a> = &'a dyn Fn(&CoreMeter) -> Vec<(&'static str, u64)>;
    let families: [(&str, &str, Family<'_>); 2] = [
        (
            "sluice_upstream_failures_by_code_total",
            "Attempts that gave no answer for the client, by error code.",
            &|meter| {
                meter
                    .failures
                    .counted()
                    .map(|(code, count)| (code.as_str(), count))
                    .collect()
            },
        ),
        (
            "sluice_fallbacks_by_reason_total",
            "Requests that another target than the first answered, by why the first did not.",
            &|meter| {
                let counted = meter.fallbacks_by_reason.counted();
                counted.map(|(reason, count)| (reason.as_str(), count)).collect()
            },
        ),
    ];
    for (name, help, family) in families {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        let mut sums = std::collections::BTreeMap::new();
        for (code, count) in meters.iter().flat_map(|meter| family(meter)) {
            *sums.entry(code).or_insert(0) += count;
        }
        for (code, count) in sums {
            let _ = writeln!(text, "{name}{{code=\"{code}\"}} {count}");
        }
    }
}

/// `POST /admin/keys/{provider}/{key}/clear`: the key is used again at once.
pub async fn clear_key(State(status): State<Arc<Status>>, Path((provider, key)): Path<(String, String)>) -> Response {
    let plane = status.plane();
    let found = plane
        .snapshot
        .provider_by_name(&provider)
        .and_then(|provider| provider.keys.iter().find(|own| *own.name == *key));
    match found {
        Some(found) => {
            plane.keys[found.id.index()].clear();
            tracing::info!(provider, key, "an operator has cleared the key");
            json(StatusCode::OK, r#"{"status":"cleared"}"#)
        }
        None => json(StatusCode::NOT_FOUND, r#"{"status":"no such key"}"#),
    }
}

/// `POST /admin/forget`: every key is used again, and requests pass to every target.
pub async fn forget(State(status): State<Arc<Status>>) -> Response {
    let plane = status.plane();
    plane.keys.iter().for_each(|key| key.clear());
    plane.health.reset_all(clock::shared_ms());
    tracing::info!("an operator has cleared all keys and targets");
    json(StatusCode::OK, r#"{"status":"forgotten"}"#)
}

/// Which target.
#[derive(Deserialize)]
pub struct Named {
    /// `PROVIDER/MODEL`.
    target: String,
}

/// `POST /admin/targets/reset?target=PROVIDER/MODEL`: requests pass again at once.
pub async fn reset_target(State(status): State<Arc<Status>>, Query(named): Query<Named>) -> Response {
    if status.plane().health.reset(&named.target, clock::shared_ms()) {
        tracing::info!(target_name = named.target, "an operator has closed the breaker");
        json(StatusCode::OK, r#"{"status":"reset"}"#)
    } else {
        json(StatusCode::NOT_FOUND, r#"{"status":"no such target in memory"}"#)
    }
}

/// A label's value: quotes, backslashes and line breaks escaped, as the text format demands.
pub fn label(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_line_or_its_quotes() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c d");
    }
}
