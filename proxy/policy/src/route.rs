//! The plan of one request: which targets, in which order, and with which key each.
//!
//! Invariants: a [`Plan`] is a small `Copy` value without heap, valid for the snapshot and the request's own fallbacks that it
//! was made from; choices depend on nothing but the arguments, the random number included. Deliberately absent: whether a
//! target lets the request in (its breaker is asked when its turn comes).

mod group;
mod key;

use std::sync::Arc;

use sluice_wire::error::{ApiError, Code};
use sluice_wire::limits;

pub use self::key::{KeysOut, next_key};
use crate::health::{Health, KeyStanding, KeyState};
use crate::snapshot::{Provider, ProviderId, Resolved, RouteId, Snapshot, Target, Timeouts};

/// The target that the client named.
const NAMED: u8 = 0x00;
/// The route's canary.
const CANARY: u8 = 0x10;
/// One of the route's targets; the lower half says which, here and below.
const MEMBER: u8 = 0x20;
/// One of the route's fallbacks.
const FALLBACK: u8 = 0x30;
/// One of the fallbacks that the request brought.
const OWN: u8 = 0x40;
const KIND: u8 = 0xf0;

/// Targets of one request, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    provider: ProviderId,
    route: Option<RouteId>,
    /// A kind and a number each.
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
    /// Whether this is another target than the request's first choice.
    pub is_fallback: bool,
    /// Limits of the attempt.
    pub timeouts: Timeouts,
}

/// What a choice depends on besides the configuration.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// What is known of targets.
    pub health: &'a Health,
    /// What is known of keys, in the order of [`crate::snapshot::KeyId`].
    pub keys: &'a [Arc<KeyState>],
    /// Milliseconds of the clock that all cores share.
    pub now_ms: u64,
    /// A fresh random number.
    pub random: u64,
    /// A hash of the session's name, if the route keeps sessions together and the request names one.
    pub session: Option<u64>,
    /// Whether the answer will be streamed.
    pub streamed: bool,
}

/// A hash of what names a session, for [`Situation::session`].
pub fn session_hash(name: &[u8]) -> u64 {
    crate::health::hash::hash(0, name, &[])
}

/// The targets of a request that are usable at all, in order: now and then the canary, then the one that it names or those
/// of its route, then the fallbacks: its `own` if it brought any, else the route's.
///
/// # Errors
/// `no_provider_available`: none of them has a key that may be used for its model.
pub fn plan(
    snapshot: &Snapshot,
    resolved: &Resolved<'_>,
    own: &[Target],
    situation: &Situation<'_>,
) -> Result<Plan, ApiError> {
    let mut plan = Plan {
        provider: resolved.provider,
        route: resolved.route,
        order: [0; limits::TARGETS_MAX],
        len: 0,
    };
    let rules = snapshot.route(resolved);
    if let Some((target, share)) = rules.and_then(|route| route.canary.as_ref())
        && draw(situation) < *share
        && is_healthy(snapshot.provider(target.provider), &target.model, situation)
    {
        plan.push(snapshot, resolved, own, CANARY);
    }
    match rules.filter(|route| !route.members.is_empty()) {
        None => plan.push(snapshot, resolved, own, NAMED),
        Some(route) => {
            let (order, len) = group::order(snapshot, route, situation);
            for member in &order[..len] {
                plan.push(snapshot, resolved, own, MEMBER | member);
            }
        }
    }
    let (kind, count) = match own.len() {
        0 => (FALLBACK, snapshot.fallbacks(resolved).len()),
        count => (OWN, count),
    };
    for index in 0..count.min(limits::FALLBACKS_MAX) {
        plan.push(snapshot, resolved, own, kind | index as u8);
    }
    if plan.len > 0 {
        Ok(plan)
    } else {
        Err(none_usable(snapshot, resolved))
    }
}

/// The target that gets a copy of this request, if the route has one and the lot falls on it.
pub fn shadow<'a>(snapshot: &'a Snapshot, resolved: &Resolved<'_>, random: u64) -> Option<PlannedTarget<'a>> {
    let (target, share) = snapshot.route(resolved)?.shadow.as_ref()?;
    let provider = snapshot.provider(target.provider);
    (random as u32 as u64 <= u64::from(*share) && *share > 0 && usable(provider, &target.model)).then(|| {
        PlannedTarget {
            provider,
            model: &target.model,
            is_fallback: false,
            timeouts: snapshot.timeouts(resolved.route, target.provider),
        }
    })
}

impl Plan {
    /// Appends a target if it is usable and not there yet.
    fn push(&mut self, snapshot: &Snapshot, resolved: &Resolved<'_>, own: &[Target], choice: u8) {
        let Some((provider, model)) = self.named(snapshot, resolved, own, choice) else {
            return;
        };
        let is_there = (0..self.len())
            .filter_map(|index| self.named(snapshot, resolved, own, self.order[index]))
            .any(|there| there == (provider, model));
        if is_there || !usable(snapshot.provider(provider), model) {
            return;
        }
        // The kinds' bounds add up to TARGETS_MAX: there is always a place.
        if let Some(slot) = self.order.get_mut(usize::from(self.len)) {
            *slot = choice;
            self.len += 1;
        }
    }

    fn named<'a>(
        &self,
        snapshot: &'a Snapshot,
        resolved: &Resolved<'a>,
        own: &'a [Target],
        choice: u8,
    ) -> Option<(ProviderId, &'a str)> {
        let index = usize::from(choice & !KIND);
        let target = match choice & KIND {
            NAMED => return Some((self.provider, resolved.model)),
            CANARY => &snapshot.route(resolved)?.canary.as_ref()?.0,
            MEMBER => &snapshot.route(resolved)?.members.get(index)?.target,
            OWN => own.get(index)?,
            _ => snapshot.fallbacks(resolved).get(index)?,
        };
        Some((target.provider, &*target.model))
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

    /// The target to be tried as number `index`, from 0; `None` beyond the last. `snapshot`, `resolved` and `own` are those
    /// that the plan was made from.
    pub fn target<'a>(
        &self,
        snapshot: &'a Snapshot,
        resolved: &Resolved<'a>,
        own: &'a [Target],
        index: usize,
    ) -> Option<PlannedTarget<'a>> {
        let choice = *self.order[..self.len()].get(index)?;
        let (provider, model) = self.named(snapshot, resolved, own, choice)?;
        Some(PlannedTarget {
            provider: snapshot.provider(provider),
            model,
            is_fallback: index > 0 || matches!(choice & KIND, FALLBACK | OWN),
            timeouts: snapshot.timeouts(self.route, provider),
        })
    }
}

/// A number that falls below a share of 2^32 as often as the share says; the same for all requests of a session.
fn draw(situation: &Situation<'_>) -> u32 {
    match situation.session {
        Some(session) => (session >> 32) as u32,
        None => (situation.random >> 32) as u32,
    }
}

/// Whether requests to the target would be let in now, with a key that does not rest.
pub fn is_healthy(provider: &Provider, model: &str, situation: &Situation<'_>) -> bool {
    let tag = situation.health.tag(&provider.name, model);
    let slot = situation.health.find(tag, &provider.name, model, situation.now_ms);
    let excluded = provider.excluded_keys(model);
    let ready = |(index, key): (usize, &crate::snapshot::Key)| {
        excluded >> index & 1 == 0
            && situation.keys[key.id.index()].standing(tag, situation.now_ms) == KeyStanding::Ready
    };
    slot.is_none_or(|slot| situation.health.target(slot).is_passable(situation.now_ms))
        && provider.keys.iter().enumerate().any(ready)
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
