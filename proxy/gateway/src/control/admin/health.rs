//! What is remembered of targets and keys: shown as metrics, and cleared by an operator.
//!
//! Invariants: read from the cores' shared state, without asking them; rows are bounded, whatever names clients invent; a
//! label holds a name of the configuration or of a target, never a secret. Deliberately absent: counters (`meter.rs`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use sluice_policy::health::{KeyStanding, Standing, TargetReport};
use sluice_policy::meter::CoreMeter;
use sluice_policy::meter::catalog::{self as of, Family};
use sluice_policy::snapshot::{Key, Provider};

use super::metrics::text::Page;
use super::{Status, json};
use crate::clock;
use crate::plane::Plane;

/// Most targets that metrics show: those that are not well first.
const TARGETS_SHOWN: usize = 256;

/// Appends the metrics of targets and keys.
pub fn write_metrics(page: &mut Page, plane: &Plane, now_ms: u64) {
    let reported = plane.health.report();
    let left_alone = reported
        .iter()
        .filter(|target| target.standing != Standing::Closed)
        .count();
    page.single(&of::TARGETS_KNOWN, reported.len());
    page.single(&of::TARGETS_LEFT_ALONE, left_alone);
    let mut targets: Vec<TargetReport> = named(plane, reported).into_values().collect();
    targets.sort_by_key(|target| (target.standing == Standing::Closed, target.name.clone()));
    targets.truncate(TARGETS_SHOWN);
    let state = |target: &TargetReport| match target.standing {
        Standing::Closed => 0.0,
        Standing::HalfOpen => 1.0,
        Standing::Open(_) => 2.0,
    };
    let seconds = |us: u32| f64::from(us) / 1e6;
    type Value<'a> = &'a dyn Fn(&TargetReport) -> f64;
    let of_targets: [(&Family, Value<'_>); 4] = [
        (&of::TARGET_STATE, &state),
        (&of::TARGET_IN_FLIGHT, &|target| f64::from(target.in_flight)),
        (&of::TARGET_FIRST_TOKEN, &|target| seconds(target.first_token_us)),
        (&of::TARGET_FIRST_BYTE, &|target| seconds(target.first_byte_us)),
    ];
    for (family, value) in of_targets {
        page.family(family);
        for target in &targets {
            page.sample(family, &[&target.name], value(target));
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
    let of_keys: [(&Family, OfKey<'_>); 2] = [(&of::KEY_STATE, &state), (&of::KEY_SHARE, &share)];
    for (family, value) in of_keys {
        page.family(family);
        for (provider, key) in keys() {
            page.sample(family, &[&provider.name, &key.name], value(key));
        }
    }
}

/// Targets by names that are nobody's free text: those whose models only clients name are one for each provider, which stands as
/// its worst does.
fn named(plane: &Plane, reported: Vec<TargetReport>) -> BTreeMap<String, TargetReport> {
    let mut all: BTreeMap<String, TargetReport> = BTreeMap::new();
    for mut target in reported {
        let label = target.name.split_once('/').and_then(|(name, model)| {
            let provider = plane.snapshot.provider_by_name(name)?;
            Some(format!("{name}/{}", plane.model_label(provider, model)))
        });
        let Some(label) = label else { continue };
        target.name.clone_from(&label);
        match all.entry(label) {
            Entry::Vacant(place) => drop(place.insert(target)),
            Entry::Occupied(mut place) => {
                let one = place.get_mut();
                one.in_flight += target.in_flight;
                one.first_token_us = one.first_token_us.max(target.first_token_us);
                one.first_byte_us = one.first_byte_us.max(target.first_byte_us);
                if one.standing == Standing::Closed || matches!(target.standing, Standing::Open(_)) {
                    one.standing = target.standing;
                }
            }
        }
    }
    all
}

/// Appends what the cores counted by error code, summed over them.
pub fn write_codes(page: &mut Page, meters: &[Arc<CoreMeter>]) {
    type Counted = fn(&CoreMeter) -> Vec<(&'static str, u64)>;
    let families: [(&Family, Counted); 2] = [
        (&of::FAILURES_BY_CODE, |meter| {
            let counted = meter.failures.counted();
            counted.map(|(code, count)| (code.as_str(), count)).collect()
        }),
        (&of::FALLBACKS_BY_REASON, |meter| {
            let counted = meter.fallbacks_by_reason.counted();
            counted.map(|(reason, count)| (reason.as_str(), count)).collect()
        }),
    ];
    for (family, counted) in families {
        page.family(family);
        let mut sums = BTreeMap::new();
        for (code, count) in meters.iter().flat_map(|meter| counted(meter)) {
            *sums.entry(code).or_insert(0) += count;
        }
        for (code, count) in sums {
            page.sample(family, &[code], count);
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
