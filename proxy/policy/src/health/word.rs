//! One 64-bit word that says whether something may be used, until when not, and in which generation: what a breaker and a key
//! share.
//!
//! Invariants: a state is read and replaced whole, by compare-and-swap, so cores agree without locks; the generation changes
//! whenever use is forbidden anew or allowed again, so that what was begun before can be told apart. Deliberately absent:
//! when a state changes (`breaker.rs`, `key.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

const UNTIL_BITS: u32 = 42;
const GENERATION_BITS: u32 = 19;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;

/// Whether something may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// By everyone.
    Free = 0,
    /// By nobody until a time; then as the owner of the word says.
    Shut = 1,
    /// By the one request that claimed the probe, until a time.
    Probing = 2,
    /// By nobody until a time, then by one probe: a credential that was refused.
    Refused = 3,
}

/// A state, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub phase: Phase,
    /// Whether the provider itself said until when.
    pub said: bool,
    /// Modulo 2^19: an attempt would have to outlive half a million changes to be mistaken.
    pub generation: u32,
    /// Milliseconds of the shared clock, below 2^42 (139 years).
    pub until_ms: u64,
}

impl State {
    fn pack(self) -> u64 {
        (self.phase as u64) << 62
            | u64::from(self.said) << (UNTIL_BITS + GENERATION_BITS)
            | (u64::from(self.generation) & GENERATION_MASK) << UNTIL_BITS
            | self.until_ms.min(UNTIL_MASK)
    }

    fn unpack(word: u64) -> Self {
        let phase = match word >> 62 {
            0 => Phase::Free,
            1 => Phase::Shut,
            2 => Phase::Probing,
            _ => Phase::Refused,
        };
        Self {
            phase,
            said: word >> (UNTIL_BITS + GENERATION_BITS) & 1 == 1,
            generation: (word >> UNTIL_BITS & GENERATION_MASK) as u32,
            until_ms: word & UNTIL_MASK,
        }
    }

    /// The generation after this one.
    pub fn next_generation(self) -> u32 {
        ((u64::from(self.generation) + 1) & GENERATION_MASK) as u32
    }

    /// Free for everyone from now on.
    pub fn freed(self) -> Self {
        Self {
            phase: Phase::Free,
            said: false,
            generation: self.next_generation(),
            until_ms: 0,
        }
    }
}

/// A state that cores share. Every access is relaxed: the word says all there is to know, and orders nothing else.
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub fn load(&self) -> State {
        State::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Replaces `from`; false if another core was faster.
    pub fn replace(&self, from: State, to: State) -> bool {
        self.0
            .compare_exchange(from.pack(), to.pack(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Replaces whatever is there by what `change` makes of it; `None` leaves it. Returns what was replaced.
    pub fn update(&self, change: impl Fn(State) -> Option<State>) -> Option<State> {
        let changed = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            change(State::unpack(word)).map(State::pack)
        });
        changed.ok().map(State::unpack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_packing_at_its_bounds() {
        for phase in [Phase::Free, Phase::Shut, Phase::Probing, Phase::Refused] {
            for said in [false, true] {
                for generation in [0, 1, GENERATION_MASK as u32] {
                    for until_ms in [0, 1, UNTIL_MASK] {
                        let state = State {
                            phase,
                            said,
                            generation,
                            until_ms,
                        };
                        assert_eq!(State::unpack(state.pack()), state);
                    }
                }
            }
        }
        let last = State {
            generation: GENERATION_MASK as u32,
            ..State::unpack(0)
        };
        assert_eq!(last.freed().generation, 0, "generations wrap");
    }
}
