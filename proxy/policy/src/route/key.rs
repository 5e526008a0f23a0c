//! Which key of a provider a request uses.
//!
//! Invariants: a key that rests, is refused, or was tried already is not chosen; among the others the weight decides, lowered
//! as a limit comes near, and one of weight 0 is chosen only if no other is left. Deliberately absent: when a key rests
//! (`health/key.rs`).

use super::Situation;
use super::group::lot;
use crate::health::hash::{hash, mix};
use crate::health::{KeyPermit, KeyStanding};
use crate::snapshot::{Key, Provider};

/// Why no key is left, of those that had not been tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeysOut {
    /// The earliest end of a rest that a provider prescribed, in milliseconds of the shared clock.
    pub said_ms: Option<u64>,
    /// The earliest end of any rest.
    pub rest_ms: Option<u64>,
    /// Whether one of them is refused.
    pub refused: bool,
}

/// The next key to try, as an index into [`Provider::keys`], and the permit to be reported with; start with
/// [`Provider::excluded_keys`] for `excluded` and set the bit of each key that has been tried. `model_tag` is the target's.
/// A request that is `in_need`, because it has no other target, does not wait for another one to find out that a rest is over.
///
/// # Errors
/// Why there is none.
pub fn next_key(
    provider: &Provider,
    model_tag: u64,
    excluded: u64,
    situation: &Situation<'_>,
    in_need: bool,
) -> Result<(usize, KeyPermit), KeysOut> {
    let mut out = KeysOut::default();
    let (mut ready, mut tried) = (0_u64, 0_u64);
    for (index, key) in provider.keys.iter().enumerate() {
        if excluded >> index & 1 == 1 {
            continue;
        }
        let state = &situation.keys[key.id.index()];
        match state.standing(model_tag, situation.now_ms) {
            KeyStanding::Ready => ready |= 1 << index,
            KeyStanding::Tried => tried |= 1 << index,
            KeyStanding::ProbeDue => {
                if let Some(permit) = state.take(model_tag, situation.now_ms, in_need) {
                    return Ok((index, permit));
                }
                out.refused = true;
            }
            KeyStanding::Resting { until_ms, said } => {
                let earlier = |known: Option<u64>| Some(known.map_or(until_ms, |known| known.min(until_ms)));
                out.rest_ms = earlier(out.rest_ms);
                if said {
                    out.said_ms = earlier(out.said_ms);
                }
            }
            KeyStanding::Refused { .. } => out.refused = true,
        }
    }
    // Those that are being tried come second, and only for who has nothing else.
    for mut candidates in [ready, if in_need { tried } else { 0 }] {
        while candidates != 0 {
            let index = choose(provider, candidates, situation);
            let state = &situation.keys[provider.keys[index].id.index()];
            if let Some(permit) = state.take(model_tag, situation.now_ms, in_need) {
                return Ok((index, permit));
            }
            candidates &= !(1 << index);
        }
    }
    if (ready | tried) != 0 {
        // In a moment it is known whether one is usable again.
        out.rest_ms = Some(
            out.rest_ms
                .map_or(situation.now_ms, |known| known.min(situation.now_ms)),
        );
    }
    Err(out)
}

/// One of the keys whose bit is set in `ready`, of which there is at least one.
fn choose(provider: &Provider, ready: u64, situation: &Situation<'_>) -> usize {
    if ready.is_power_of_two() {
        return ready.trailing_zeros() as usize;
    }
    let candidates = || {
        let is_ready = move |(index, _): &(usize, &Key)| ready >> index & 1 == 1;
        provider.keys.iter().enumerate().filter(is_ready)
    };
    if let Some(session) = situation.session {
        let lot = |key: &Key| lot(hash(session, provider.name.as_bytes(), key.name.as_bytes()), key.weight);
        let first = candidates().min_by(|(_, a), (_, b)| lot(a).total_cmp(&lot(b)));
        return first.map_or(0, |(index, _)| index);
    }
    let weight = |key: &Key| {
        let share = situation.keys[key.id.index()].share_milli(situation.now_ms);
        u64::from(key.weight) * u64::from(share)
    };
    let random = u128::from(mix(situation.random));
    let scaled = |bound: u64| u64::try_from((random * u128::from(bound)) >> 64).expect("less than the bound");
    let total: u64 = candidates().map(|(_, key)| weight(key)).sum();
    if total > 0 {
        let mut point = scaled(total);
        for (index, key) in candidates() {
            match point.checked_sub(weight(key)) {
                Some(rest) => point = rest,
                None => return index,
            }
        }
    }
    // All weights are 0, or shares sank between the sum and the draw.
    let nth = usize::try_from(scaled(u64::from(ready.count_ones()))).expect("at most 64 keys");
    candidates().nth(nth).map_or(0, |(index, _)| index)
}
