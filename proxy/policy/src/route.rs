//! The plan of one request: which targets, in which order, and with which key each.
//!
//! Invariants: a [`Plan`] is a small `Copy` value without heap, valid for the snapshot it was made from; choices depend on
//! nothing but the arguments, the seed included, so that a seed replays them. Deliberately absent: health, cooldown and
//! retry budgets, which will take targets and keys out through the same masks.

use sluice_wire::error::{ApiError, Code};
use sluice_wire::limits;

use crate::snapshot::{Provider, ProviderId, Resolved, RouteId, Snapshot, Timeouts};

/// Targets of one request, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    provider: ProviderId,
    route: Option<RouteId>,
    /// 0 is the target that the client named, n the route's fallback n - 1.
    order: [u8; limits::TARGETS_MAX],
    len: u8,
}

/// One target of a plan.
#[derive(Clone, Copy, Debug)]
pub struct PlannedTarget<'a> {
    /// Whose model; it has at least one usable key.
    pub provider: &'a Provider,
    /// The model's name there.
    pub model: &'a str,
    /// Whether this is a fallback rather than what the client named.
    pub is_fallback: bool,
    /// Limits of the attempt.
    pub timeouts: Timeouts,
}

/// The targets of a request that are usable at all: the one that it names, then its route's fallbacks.
///
/// # Errors
/// `no_provider_available`: none of them has a key that may be used for its model.
pub fn plan(snapshot: &Snapshot, resolved: &Resolved<'_>) -> Result<Plan, ApiError> {
    let mut plan = Plan {
        provider: resolved.provider,
        route: resolved.route,
        order: [0; limits::TARGETS_MAX],
        len: 0,
    };
    if usable(snapshot.provider(resolved.provider), resolved.model) {
        plan.push(0);
    }
    for (index, target) in snapshot.fallbacks(resolved).iter().enumerate() {
        let is_primary = target.provider == resolved.provider && *target.model == *resolved.model;
        if !is_primary && usable(snapshot.provider(target.provider), &target.model) {
            plan.push(index + 1);
        }
    }
    if plan.len > 0 {
        Ok(plan)
    } else {
        Err(none_usable(snapshot, resolved))
    }
}

impl Plan {
    fn push(&mut self, choice: usize) {
        // A configuration has at most TARGETS_MAX - 1 fallbacks; a choice beyond has no place and is not needed.
        if let (Some(slot), Ok(choice)) = (self.order.get_mut(usize::from(self.len)), u8::try_from(choice)) {
            *slot = choice;
            self.len += 1;
        }
    }

    /// Number of targets, from 1 to `limits::TARGETS_MAX`.
    #[expect(clippy::len_without_is_empty, reason = "a plan is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The route that it follows, if any.
    pub fn route(&self) -> Option<RouteId> {
        self.route
    }

    /// The target to be tried as number `index`, from 0; `None` beyond the last. `snapshot` and `resolved` are those that
    /// the plan was made from.
    pub fn target<'a>(
        &self,
        snapshot: &'a Snapshot,
        resolved: &Resolved<'a>,
        index: usize,
    ) -> Option<PlannedTarget<'a>> {
        let choice = usize::from(*self.order[..self.len()].get(index)?);
        let (provider, model) = match choice.checked_sub(1) {
            None => (self.provider, resolved.model),
            Some(fallback) => {
                let target = snapshot.fallbacks(resolved).get(fallback)?;
                (target.provider, &*target.model)
            }
        };
        let timeouts = snapshot.timeouts(self.route, provider);
        Some(PlannedTarget {
            provider: snapshot.provider(provider),
            model,
            is_fallback: choice > 0,
            timeouts,
        })
    }
}

/// The next key of a provider to try: random by weight among those whose bit in `excluded` is clear, one of weight 0 only if
/// no other is left. The index is into [`Provider::keys`]; start with [`Provider::excluded_keys`] and set the bit of each key
/// that has been tried.
pub fn next_key(provider: &Provider, excluded: u64, seed: u64) -> Option<usize> {
    let candidates = || {
        provider
            .keys
            .iter()
            .enumerate()
            .filter(move |(index, _)| excluded >> index & 1 == 0)
    };
    let random = u128::from(mix(seed));
    let scaled = |bound: u64| u64::try_from((random * u128::from(bound)) >> 64).expect("less than the bound");
    let total: u64 = candidates().map(|(_, key)| u64::from(key.weight)).sum();
    if total > 0 {
        let mut point = scaled(total);
        for (index, key) in candidates() {
            match point.checked_sub(u64::from(key.weight)) {
                Some(rest) => point = rest,
                None => return Some(index),
            }
        }
    }
    let count = candidates().count();
    let nth = usize::try_from(scaled(count as u64)).expect("at most 64 keys");
    candidates().nth(nth).map(|(index, _)| index)
}

/// A bijection that spreads close seeds over the whole range (the finaliser of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn usable(provider: &Provider, model: &str) -> bool {
    provider.excluded_keys(model).count_ones() < u32::try_from(provider.keys.len()).unwrap_or(u32::MAX)
}

#[cold]
fn none_usable(snapshot: &Snapshot, resolved: &Resolved<'_>) -> ApiError {
    let provider = snapshot.provider(resolved.provider);
    let why = if provider.available() {
        "no key that may be used for this model"
    } else {
        "no usable key"
    };
    let fallback = if snapshot.fallbacks(resolved).is_empty() {
        "there is no fallback"
    } else {
        "neither has any fallback"
    };
    let message = format!("the provider \"{}\" has {why}, and {fallback}", provider.name);
    ApiError::new(Code::NoProviderAvailable, message).with_param("model")
}

#[cfg(test)]
mod tests;
