//! What is remembered of one key: whether it rests, whether the provider refuses it, and how much of its limit is left.
//!
//! Invariants: a key that was told when to come back is not used before (within the configured bound) for the model that it was
//! told about: providers count each model by itself; a refused key is used by single probes only until one succeeds or an
//! operator clears it; an old request's late success clears nothing; a refusal of one model does not cost the other models a
//! key that works. Deliberately absent: which key is chosen (`route/key.rs`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::KeySettings;
use super::breaker::CLAIM_MS;
use super::word::{Phase, State, Word};

/// Most doublings of a rest or a probe interval.
const DOUBLINGS_MAX: u32 = 16;
/// How long what a provider said of a limit is believed, in milliseconds.
const SHARE_MS: u64 = 10_000;
/// A key keeps its full share down to this part of its limit, in thousandths.
const SHARE_FULL_AT: u32 = 200;
/// The smallest share, in thousandths: the limit is not reached yet.
const SHARE_MIN: u32 = 20;
/// Models that one key may rest for, or be denied, at a time; with one more it rests for all.
const MODELS: usize = 16;
/// A key that had an answer this recently works: being denied a model is about the model. In milliseconds.
const PROVEN_MS: u64 = 60_000;

/// What a request uses a key with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what became of the request must be reported"]
pub struct KeyPermit {
    generation: u32,
    is_probe: bool,
    /// The target's tag, and the generation of what is remembered of it, if anything is.
    model_tag: u64,
    of_model: Option<u32>,
    /// Whether it is the one that finds out if the model's rest is over.
    tries_model: bool,
}

/// What a provider said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyVerdict {
    /// It was accepted.
    Accepted,
    /// A limit is reached (429); after how many milliseconds to come back, if that was said.
    Limited(Option<u64>),
    /// It is not valid, or its account has no credit (401, 402).
    Refused,
    /// It may not do this (403).
    Denied,
}

/// What a key is good for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    /// Usable.
    Ready,
    /// Refused, but it is time for a probe.
    ProbeDue,
    /// Resting after a 429 until the time given, in milliseconds of the shared clock.
    Resting {
        /// When it ends.
        until_ms: u64,
        /// Whether the provider named that time.
        said: bool,
    },
    /// Its rest is over, and a request finds out: others may use it where there is nothing else.
    Tried,
    /// Refused; the next probe is at the time given.
    Refused {
        /// When the next probe may be.
        until_ms: u64,
    },
}

/// The state of one key, shared between cores.
#[derive(Debug, Default)]
pub struct KeyState {
    word: Word,
    /// Failed probes in a row.
    strikes: AtomicU32,
    /// Share in thousandths in the lower 16 bits, until when it holds above.
    share: AtomicU64,
    proven_at_ms: AtomicU64,
    /// Until when at least one of the models below rests or is denied: before that, they need not be looked at.
    models_until_ms: AtomicU64,
    models: [Model; MODELS],
}

/// What is remembered of a key for one model.
#[derive(Debug, Default)]
struct Model {
    tag: AtomicU64,
    word: Word,
    /// 429s in a row that did not say when to come back.
    strikes: AtomicU32,
}

impl KeyState {
    /// What the key is good for, for the model with that tag. A healthy key costs two loads.
    pub fn standing(&self, model_tag: u64, now_ms: u64) -> KeyStanding {
        match self.standing_for_all(now_ms) {
            KeyStanding::Ready => self
                .model(model_tag, now_ms)
                .map_or(KeyStanding::Ready, |model| standing(model.word.load(), now_ms)),
            other => other,
        }
    }

    /// What an operator is shown: a key that rests for any model counts as resting.
    pub fn overview(&self, now_ms: u64) -> KeyStanding {
        let rests = |state: &State| matches!(state.phase, Phase::Shut | Phase::Refused);
        let words = self.models.iter().map(|model| model.word.load()).filter(rests);
        let until_ms = words.map(|state| state.until_ms).max().unwrap_or(0);
        match self.standing_for_all(now_ms) {
            KeyStanding::Ready if until_ms > now_ms => KeyStanding::Resting { until_ms, said: false },
            other => other,
        }
    }

    fn standing_for_all(&self, now_ms: u64) -> KeyStanding {
        let state = self.word.load();
        match state.phase {
            Phase::Refused | Phase::Probing if now_ms >= state.until_ms => KeyStanding::ProbeDue,
            Phase::Probing => KeyStanding::Refused {
                until_ms: state.until_ms,
            },
            _ => standing(state, now_ms),
        }
    }

    /// Takes the key for a request for the model with that tag; `None` if another request was faster to take the probe, or it
    /// has begun to rest. After a rest one request tries it before others use it, but for those that are `in_need`.
    pub fn take(&self, model_tag: u64, now_ms: u64, in_need: bool) -> Option<KeyPermit> {
        let state = self.word.load();
        let is_probe = matches!(state.phase, Phase::Refused | Phase::Probing);
        if state.phase != Phase::Free && now_ms < state.until_ms {
            return None;
        }
        // Also what is over: its generation tells the requests before it from those after it.
        let known = self.models_until_ms.load(Ordering::Relaxed) != 0;
        let model = if known { self.found(model_tag) } else { None };
        let of_model = model.map(|model| model.word.load());
        let mut tries_model = false;
        if let Some((model, now)) = model.zip(of_model)
            && now.phase != Phase::Free
        {
            let waits = now_ms < now.until_ms;
            if waits && now.phase != Phase::Probing {
                return None;
            }
            tries_model = !waits && self.try_model(model, now, now_ms);
            if !tries_model && !in_need {
                return None;
            }
        }
        let claimed = State {
            phase: Phase::Probing,
            until_ms: now_ms + CLAIM_MS,
            ..state
        };
        (!is_probe || self.word.replace(state, claimed)).then_some(KeyPermit {
            generation: state.generation,
            is_probe,
            model_tag,
            of_model: of_model.map(|of_model| of_model.generation),
            tries_model,
        })
    }

    /// The rest of a model is over: true for the request that finds out.
    #[cold]
    fn try_model(&self, model: &Model, now: State, now_ms: u64) -> bool {
        let until_ms = now_ms + CLAIM_MS;
        let claimed = State {
            phase: Phase::Probing,
            until_ms,
            ..now
        };
        let first = model.word.replace(now, claimed);
        if first {
            self.models_until_ms.fetch_max(until_ms, Ordering::Relaxed);
        }
        first
    }

    /// Takes note of what the provider said; true if the key is refused from now on and was not before: an alarm. `random`
    /// spreads rests that nobody prescribed.
    pub fn report(
        &self,
        permit: KeyPermit,
        verdict: KeyVerdict,
        now_ms: u64,
        random: u64,
        settings: &KeySettings,
    ) -> bool {
        match verdict {
            KeyVerdict::Accepted => self.accept(permit, now_ms),
            KeyVerdict::Limited(Some(after_ms)) => {
                let rest_ms = after_ms
                    .max(u64::from(settings.rest_ms.min(1000)))
                    .min(u64::from(settings.rest_max_ms));
                self.rest(permit, now_ms, now_ms + rest_ms, true);
            }
            KeyVerdict::Limited(None) => {
                let model = self.found(permit.model_tag);
                let generation = model.map(|model| model.word.load().generation);
                // Of several requests that were under way, the first one's strike counts.
                if generation == permit.of_model {
                    let strikes = model.map_or(0, |model| model.strikes.load(Ordering::Relaxed));
                    let rest_ms = doubled(settings.rest_ms, strikes, settings.rest_max_ms);
                    // Between half of it and all of it.
                    let jittered = rest_ms / 2 + ((u128::from(rest_ms / 2 + 1) * u128::from(random)) >> 64) as u64;
                    self.rest(permit, now_ms, now_ms + jittered.max(1), false);
                }
            }
            KeyVerdict::Refused => return self.refuse(permit, now_ms, settings),
            KeyVerdict::Denied => {
                let proven_at_ms = self.proven_at_ms.load(Ordering::Relaxed);
                let until_ms = now_ms + u64::from(settings.probe_ms);
                let is_proven = proven_at_ms > 0 && now_ms.saturating_sub(proven_at_ms) <= PROVEN_MS;
                if permit.is_probe || !is_proven || !self.forbid(permit, now_ms, until_ms, Phase::Refused, false) {
                    return self.refuse(permit, now_ms, settings);
                }
                return true;
            }
        }
        false
    }

    /// A request ended without a word about the key: its probe, if it had one, is free again.
    pub fn abandon(&self, permit: KeyPermit, now_ms: u64) {
        if let (true, Some(generation), Some(model)) =
            (permit.tries_model, permit.of_model, self.found(permit.model_tag))
        {
            model.word.update(|now| {
                (now.generation == generation && now.phase == Phase::Probing).then_some(State {
                    phase: Phase::Shut,
                    until_ms: now_ms,
                    ..now
                })
            });
        }
        if permit.is_probe {
            self.word.update(|now| {
                (now.generation == permit.generation && now.phase == Phase::Probing).then_some(State {
                    phase: Phase::Refused,
                    until_ms: now_ms,
                    ..now
                })
            });
        }
    }

    /// The provider said how much of a limit is left, in thousandths: below a fifth, the key's share sinks with it.
    pub fn observe(&self, left_milli: u32, now_ms: u64) {
        let share = (left_milli.min(1000) * 1000 / SHARE_FULL_AT).clamp(SHARE_MIN, 1000);
        if share < 1000 {
            self.share
                .store((now_ms + SHARE_MS) << 16 | u64::from(share), Ordering::Relaxed);
        } else if self.share.load(Ordering::Relaxed) != 0 {
            self.share.store(0, Ordering::Relaxed);
        }
    }

    /// The part of its weight that the key has now, in thousandths.
    pub fn share_milli(&self, now_ms: u64) -> u32 {
        let word = self.share.load(Ordering::Relaxed);
        if word == 0 || word >> 16 <= now_ms {
            1000
        } else {
            (word & 0xffff) as u32
        }
    }

    /// An operator clears it: rest, refusal and denials.
    pub fn clear(&self) {
        self.word.update(|now| Some(now.freed()));
        self.strikes.store(0, Ordering::Relaxed);
        self.share.store(0, Ordering::Relaxed);
        for model in &self.models {
            model.word.update(|now| Some(now.freed()));
            model.strikes.store(0, Ordering::Relaxed);
        }
    }

    fn accept(&self, permit: KeyPermit, now_ms: u64) {
        // Within a second of the last one, the steady path writes nothing.
        let proven_at_ms = self.proven_at_ms.load(Ordering::Relaxed);
        if proven_at_ms == 0 || now_ms.saturating_sub(proven_at_ms) > 1000 {
            self.proven_at_ms.store(now_ms.max(1), Ordering::Relaxed);
        }
        let state = self.word.load();
        if state.phase != Phase::Free && state.generation == permit.generation {
            let freed = self
                .word
                .update(|now| (now.generation == permit.generation && now.phase != Phase::Free).then(|| now.freed()));
            if freed.is_some() {
                self.strikes.store(0, Ordering::Relaxed);
            }
        }
        // Only a request that came after a rest says that it is over.
        if let (Some(generation), Some(model)) = (permit.of_model, self.found(permit.model_tag)) {
            let freed = model
                .word
                .update(|now| (now.generation == generation && now.phase != Phase::Free).then(|| now.freed()));
            if freed.is_some() {
                model.strikes.store(0, Ordering::Relaxed);
            }
        }
    }

    fn rest(&self, permit: KeyPermit, now_ms: u64, until_ms: u64, said: bool) {
        if permit.is_probe {
            // A probe that meets a limit has been accepted.
            self.accept(permit, now_ms);
        }
        if self.forbid(permit, now_ms, until_ms, Phase::Shut, said) {
            return;
        }
        self.word.update(|now| {
            let begins = match now.phase {
                Phase::Free => true,
                Phase::Shut => until_ms > now.until_ms,
                Phase::Probing | Phase::Refused => false,
            };
            begins.then_some(State {
                phase: Phase::Shut,
                said,
                generation: now.next_generation(),
                until_ms,
            })
        });
    }

    /// Takes the key out for one model; false if too many models are out already.
    fn forbid(&self, permit: KeyPermit, now_ms: u64, until_ms: u64, phase: Phase, said: bool) -> bool {
        let Some(model) = self
            .found(permit.model_tag)
            .or_else(|| self.claim(permit.model_tag, now_ms))
        else {
            return false;
        };
        let begun = model.word.update(|now| {
            let over = matches!(now.phase, Phase::Free | Phase::Probing);
            let begins = over || until_ms > now.until_ms || said && !now.said;
            begins.then_some(State {
                phase,
                said,
                generation: now.next_generation(),
                until_ms,
            })
        });
        if begun.is_some() {
            let strikes = model.strikes.load(Ordering::Relaxed);
            model.strikes.store((strikes + 1).min(DOUBLINGS_MAX), Ordering::Relaxed);
            self.models_until_ms.fetch_max(until_ms, Ordering::Relaxed);
        }
        true
    }

    /// What is remembered of a model, if anything may matter now.
    fn model(&self, model_tag: u64, now_ms: u64) -> Option<&Model> {
        (self.models_until_ms.load(Ordering::Relaxed) > now_ms)
            .then(|| self.found(model_tag))
            .flatten()
    }

    fn found(&self, model_tag: u64) -> Option<&Model> {
        let ours = |model: &&Model| model.tag.load(Ordering::Relaxed) == model_tag;
        self.models.iter().find(ours)
    }

    /// The place that has been idle for longest, if any is; of two models that claim it at once, one finds none.
    fn claim(&self, model_tag: u64, now_ms: u64) -> Option<&Model> {
        let idle = |model: &&Model| {
            let state = model.word.load();
            state.phase == Phase::Free || state.until_ms <= now_ms
        };
        let model = self
            .models
            .iter()
            .filter(idle)
            .min_by_key(|model| model.word.load().until_ms)?;
        let before = model.tag.load(Ordering::Relaxed);
        let claimed = model
            .tag
            .compare_exchange(before, model_tag, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if claimed {
            model.word.update(|now| (now.phase != Phase::Free).then(|| now.freed()));
            model.strikes.store(0, Ordering::Relaxed);
        }
        claimed.then_some(model)
    }

    fn refuse(&self, permit: KeyPermit, now_ms: u64, settings: &KeySettings) -> bool {
        let strikes = self.strikes.load(Ordering::Relaxed).min(DOUBLINGS_MAX);
        let doublings = if permit.is_probe { strikes + 1 } else { 0 };
        let until_ms = now_ms + doubled(settings.probe_ms, doublings, settings.probe_max_ms);
        let before = self.word.update(|now| {
            (now.generation == permit.generation && now.phase != Phase::Refused).then_some(State {
                phase: Phase::Refused,
                said: false,
                generation: now.next_generation(),
                until_ms,
            })
        });
        if before.is_some() {
            self.strikes.store(doublings, Ordering::Relaxed);
        }
        before.is_some_and(|before| before.phase != Phase::Probing)
    }
}

fn standing(state: State, now_ms: u64) -> KeyStanding {
    let until_ms = state.until_ms;
    match state.phase {
        Phase::Free => KeyStanding::Ready,
        _ if now_ms >= until_ms => KeyStanding::Ready,
        Phase::Probing => KeyStanding::Tried,
        Phase::Shut => KeyStanding::Resting {
            until_ms,
            said: state.said,
        },
        Phase::Refused => KeyStanding::Refused { until_ms },
    }
}

fn doubled(base_ms: u32, doublings: u32, max_ms: u32) -> u64 {
    (u64::from(base_ms) << doublings.min(DOUBLINGS_MAX)).min(u64::from(max_ms))
}

#[cfg(test)]
mod tests;
