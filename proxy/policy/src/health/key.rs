//! What is remembered of one key: whether it rests, whether the provider refuses it, and how much of its limit is left.
//!
//! Invariants: a key that was told when to come back is not used before (within the configured bound); a refused key is used
//! by single probes only until one succeeds or an operator clears it; an old request's late success clears nothing; a refusal
//! of one model does not cost the other models a key that works. Deliberately absent: which key is chosen (`route/key.rs`).

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
/// Models that one key may be denied at a time without resting for all.
const DENIALS: usize = 4;
/// A key that had an answer this recently works: being denied a model is about the model. In milliseconds.
const PROVEN_MS: u64 = 60_000;

/// What a request uses a key with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what became of the request must be reported"]
pub struct KeyPermit {
    generation: u32,
    is_probe: bool,
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
    /// It may not do this (403): the model's tag says what.
    Denied(u64),
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
    /// 429s or failed probes in a row.
    strikes: AtomicU32,
    /// Share in thousandths in the lower 16 bits, until when it holds above.
    share: AtomicU64,
    proven_at_ms: AtomicU64,
    /// Pairs of a model's tag and until when the key is denied it.
    denials: [(AtomicU64, AtomicU64); DENIALS],
}

impl KeyState {
    /// What the key is good for, for the model with that tag. A healthy key costs two loads.
    pub fn standing(&self, model_tag: u64, now_ms: u64) -> KeyStanding {
        let state = self.word.load();
        match state.phase {
            Phase::Free => self.denial(model_tag, now_ms),
            Phase::Shut if now_ms >= state.until_ms => self.denial(model_tag, now_ms),
            Phase::Shut => KeyStanding::Resting {
                until_ms: state.until_ms,
                said: state.said,
            },
            Phase::Refused | Phase::Probing if now_ms >= state.until_ms => KeyStanding::ProbeDue,
            Phase::Refused | Phase::Probing => KeyStanding::Refused {
                until_ms: state.until_ms,
            },
        }
    }

    /// Takes the key for a request; `None` if another request was faster to take the probe, or it has begun to rest.
    pub fn take(&self, now_ms: u64) -> Option<KeyPermit> {
        let state = self.word.load();
        let is_probe = matches!(state.phase, Phase::Refused | Phase::Probing);
        if state.phase != Phase::Free && now_ms < state.until_ms {
            return None;
        }
        let claimed = State {
            phase: Phase::Probing,
            until_ms: now_ms + CLAIM_MS,
            ..state
        };
        (!is_probe || self.word.replace(state, claimed)).then_some(KeyPermit {
            generation: state.generation,
            is_probe,
        })
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
                self.rest(permit, now_ms + rest_ms, true);
            }
            KeyVerdict::Limited(None) => {
                // Of several requests that were under way, the first one's strike counts.
                if self.word.load().generation == permit.generation {
                    let strikes = self.strikes.fetch_add(1, Ordering::Relaxed).min(DOUBLINGS_MAX);
                    let rest_ms = doubled(settings.rest_ms, strikes, settings.rest_max_ms);
                    // Between half of it and all of it.
                    let jittered = rest_ms / 2 + ((u128::from(rest_ms / 2 + 1) * u128::from(random)) >> 64) as u64;
                    self.rest(permit, now_ms + jittered.max(1), false);
                }
            }
            KeyVerdict::Refused => return self.refuse(permit, now_ms, settings),
            KeyVerdict::Denied(model_tag) => {
                let proven_at_ms = self.proven_at_ms.load(Ordering::Relaxed);
                if permit.is_probe || proven_at_ms == 0 || now_ms.saturating_sub(proven_at_ms) > PROVEN_MS {
                    return self.refuse(permit, now_ms, settings);
                }
                self.deny(model_tag, now_ms, now_ms + u64::from(settings.probe_ms));
                return true;
            }
        }
        false
    }

    /// A request ended without a word about the key: its probe, if it had one, is free again.
    pub fn abandon(&self, permit: KeyPermit, now_ms: u64) {
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
        self.denials.iter().for_each(|(_, until)| until.store(0, Ordering::Relaxed));
    }

    fn accept(&self, permit: KeyPermit, now_ms: u64) {
        // Within a second of the last one, the steady path writes nothing.
        if now_ms.saturating_sub(self.proven_at_ms.load(Ordering::Relaxed)) > 1000 {
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
    }

    fn rest(&self, permit: KeyPermit, until_ms: u64, said: bool) {
        self.word.update(|now| {
            let begins = match now.phase {
                Phase::Free => true,
                Phase::Shut => until_ms > now.until_ms || said && !now.said,
                // A probe that meets a limit has been accepted; what an older request met says nothing of that.
                Phase::Probing => now.generation == permit.generation,
                Phase::Refused => false,
            };
            begins.then_some(State {
                phase: Phase::Shut,
                said,
                generation: now.next_generation(),
                until_ms,
            })
        });
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

    fn deny(&self, model_tag: u64, now_ms: u64, until_ms: u64) {
        let ours = |(tag, _): &&(AtomicU64, AtomicU64)| tag.load(Ordering::Relaxed) == model_tag;
        let past = |(_, until): &&(AtomicU64, AtomicU64)| until.load(Ordering::Relaxed) <= now_ms;
        let slot = self.denials.iter().find(ours).or_else(|| self.denials.iter().find(past));
        // With all slots taken the oldest memory is as good as any other.
        let (tag, until) = slot.unwrap_or(&self.denials[(model_tag % DENIALS as u64) as usize]);
        tag.store(model_tag, Ordering::Relaxed);
        until.store(until_ms, Ordering::Relaxed);
    }

    fn denial(&self, model_tag: u64, now_ms: u64) -> KeyStanding {
        for (tag, until) in &self.denials {
            let until_ms = until.load(Ordering::Relaxed);
            if until_ms > now_ms && tag.load(Ordering::Relaxed) == model_tag {
                return KeyStanding::Refused { until_ms };
            }
        }
        KeyStanding::Ready
    }
}

fn doubled(base_ms: u32, doublings: u32, max_ms: u32) -> u64 {
    (u64::from(base_ms) << doublings.min(DOUBLINGS_MAX)).min(u64::from(max_ms))
}

#[cfg(test)]
mod tests;
