//! What the next process is told: which targets are left alone and which keys rest, and until when; what counts against rate limits.
//!
//! Invariants: everything is said by name and in times of the machine's monotonic clock, so it means the same whatever the
//! version and configuration of the next process; what it does not know is left out. Deliberately absent: counters, which begin
//! anew with each process.

use serde::{Deserialize, Serialize};
use sluice_policy::health::{KeyStanding, KeyVerdict, Standing};

use crate::control::treasury::Rate;
use crate::plane::Plane;

/// What one process knows, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    targets: Vec<Target>,
    keys: Vec<Key>,
    /// Of virtual keys, teams and customers.
    pub rates: Vec<Rate>,
}

/// A target whose breaker is open.
#[derive(Debug, Serialize, Deserialize)]
struct Target {
    provider: String,
    model: String,
    until_ms: u64,
}

/// A key that rests, or is refused.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    provider: String,
    key: String,
    /// The model for which it rests.
    model: String,
    refused: bool,
    until_ms: u64,
}

impl State {
    /// What is known now.
    pub fn of(plane: &Plane, now_ms: u64) -> Self {
        let mut state = Self::default();
        for target in plane.health.report() {
            let Some((provider, model)) = target.name.split_once('/') else {
                continue;
            };
            if let Standing::Open(until_ms) = target.standing
                && until_ms > now_ms
            {
                state.targets.push(Target {
                    provider: provider.to_owned(),
                    model: model.to_owned(),
                    until_ms,
                });
            }
            let tag = plane.health.tag(provider, model);
            let Some(known) = plane.snapshot.provider_by_name(provider) else {
                continue;
            };
            for key in &known.keys {
                let (refused, until_ms) = match plane.keys[key.id.index()].standing(tag, now_ms) {
                    KeyStanding::Ready => continue,
                    KeyStanding::ProbeDue => (true, now_ms),
                    KeyStanding::Tried => (false, now_ms),
                    KeyStanding::Resting { until_ms, .. } => (false, until_ms),
                    KeyStanding::Refused { until_ms } => (true, until_ms),
                };
                state.keys.push(Key {
                    provider: provider.to_owned(),
                    key: key.name.to_string(),
                    model: model.to_owned(),
                    refused,
                    until_ms,
                });
            }
        }
        state
    }

    /// Has this process know it too.
    pub fn apply(&self, plane: &Plane, now_ms: u64) {
        for target in &self.targets {
            let tag = plane.health.tag(&target.provider, &target.model);
            if let Some(slot) = plane.health.find(tag, &target.provider, &target.model, now_ms) {
                let _ = plane.health.target(slot).hold(target.until_ms);
            }
        }
        let settings = plane.snapshot.settings().keys;
        for known in &self.keys {
            let Some(provider) = plane.snapshot.provider_by_name(&known.provider) else {
                continue;
            };
            let Some(key) = provider.keys.iter().find(|key| *key.name == *known.key) else {
                continue;
            };
            let tag = plane.health.tag(&known.provider, &known.model);
            // The name takes its slot, so that the next handover knows the model too.
            let _ = plane.health.find(tag, &known.provider, &known.model, now_ms);
            let state = &plane.keys[key.id.index()];
            let Some(permit) = state.take(tag, now_ms, true) else {
                continue;
            };
            let verdict = if known.refused {
                KeyVerdict::Refused
            } else {
                KeyVerdict::Limited(Some(known.until_ms.saturating_sub(now_ms)))
            };
            state.report(permit, verdict, now_ms, 0, &settings);
        }
    }
}
