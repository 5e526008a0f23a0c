//! What a route says, and which states of keys outlive a change of the configuration.
//!
//! Invariants: a state goes to a key only if that is the same credential under the same name at the same provider. Deliberately
//! absent: choices (`route.rs`).

use std::sync::Arc;

use super::{Caching, Key, Provider, Resolved, RouteId, SignedBy, Snapshot, Target, Timeouts};
use crate::config::{Balance, Resume, Verdict};
use crate::health::KeyState;

/// What happens to requests for certain models.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The first of the models that it is for, as the configuration has it.
    pub name: Box<str>,
    /// Where its requests go instead of to the model asked for; empty: there.
    pub members: Box<[Member]>,
    pub balance: Balance,
    /// With its share of 2^32, as below.
    pub canary: Option<(Target, u32)>,
    pub shadow: Option<(Target, u32)>,
    pub fallbacks: Box<[Target]>,
    /// Header field that names a session, in lower case.
    pub sticky: Option<Box<str>>,
    pub fallback_on: Box<[Verdict]>,
    /// What happens to a stream that is cut.
    pub resume: Resume,
    /// What is held back with [`Resume::Restart`].
    pub hold: Hold,
    /// Whether a second target is asked if the first is late.
    pub hedge: Option<Hedging>,
    /// How its requests are cached, if they are.
    pub caching: Option<Arc<Caching>>,
    pub(super) overrides: Overrides,
}

/// A second target beside a late first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedging {
    /// After how many milliseconds; `None`: when most answers would have begun.
    pub delay_ms: Option<u32>,
    /// Requests that may ask one, in thousandths of all.
    pub budget_milli: u16,
}

/// How much of a stream is held back before any of it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Bytes of its events, at most `limits::RESTART_BYTES_MAX`.
    pub bytes: usize,
    /// Milliseconds since its first token.
    pub time_ms: u32,
}

/// One of a route's own targets.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub target: Target,
    /// In millionths of a configured weight of 1.
    pub weight: u32,
    pub priority: u8,
}

/// A route's own timeouts, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overrides {
    pub connect_ms: Option<u32>,
    pub first_byte_ms: Option<u32>,
    pub first_token_ms: Option<u32>,
    pub stream_idle_ms: Option<u32>,
    pub total_ms: Option<u32>,
}

impl Overrides {
    pub fn apply(&self, base: Timeouts) -> Timeouts {
        Timeouts {
            connect_ms: self.connect_ms.unwrap_or(base.connect_ms),
            first_byte_ms: self.first_byte_ms.unwrap_or(base.first_byte_ms),
            first_token_ms: self.first_token_ms.unwrap_or(base.first_token_ms),
            stream_idle_ms: self.stream_idle_ms.unwrap_or(base.stream_idle_ms),
            total_ms: self.total_ms.unwrap_or(base.total_ms),
        }
    }
}

impl Snapshot {
    /// Whether the configuration names that model of a provider: the provider lists it, or a route is for it or leads to it.
    pub fn knows(&self, provider: &Provider, model: &str) -> bool {
        let is_it = |target: &Target| target.provider == provider.id && *target.model == *model;
        let leads = |route: &Route| {
            route.fallbacks.iter().any(is_it)
                || route.members.iter().any(|member| is_it(&member.target))
                || [&route.canary, &route.shadow]
                    .into_iter()
                    .flatten()
                    .any(|(target, _)| is_it(target))
        };
        provider.models.iter().any(|own| **own == *model)
            || provider.exact.contains_key(model)
            || self.routes.iter().any(leads)
    }

    /// Where a request goes next if its own target fails, in order.
    pub fn fallbacks(&self, resolved: &Resolved<'_>) -> &[Target] {
        self.route(resolved).map_or(&[], |route| &route.fallbacks)
    }

    /// What a route is called in logs and the ledger: the first of the models that it is for; empty for none.
    pub fn route_name(&self, route: Option<RouteId>) -> &str {
        route.map_or("", |route| &self.routes[route.index()].name)
    }

    pub(crate) fn route(&self, resolved: &Resolved<'_>) -> Option<&Route> {
        resolved.route.map(|route| &self.routes[route.index()])
    }

    /// Whether requests by that route may be copied to a shadow target.
    pub fn has_shadow(&self, resolved: &Resolved<'_>) -> bool {
        self.route(resolved).is_some_and(|route| route.shadow.is_some())
    }

    /// The header field, in lower case, that names the session of requests by that route.
    pub fn session_field(&self, resolved: &Resolved<'_>) -> Option<&str> {
        self.route(resolved)?.sticky.as_deref()
    }

    /// Whether another target goes on with a stream that is cut after it has begun.
    pub fn resumes(&self, route: Option<RouteId>) -> bool {
        route.is_some_and(|route| self.routes[route.index()].resume == Resume::Continue)
    }

    /// What is held back of a stream so that another target may start anew, if anything is.
    pub fn holds_back(&self, route: Option<RouteId>) -> Option<Hold> {
        let route = &self.routes[route?.index()];
        (route.resume == Resume::Restart).then_some(route.hold)
    }

    /// Whether a second target is asked beside a late one, and when.
    pub fn hedge(&self, route: Option<RouteId>) -> Option<Hedging> {
        self.routes[route?.index()].hedge
    }

    /// Whether a fallback may be tried after a provider has given that verdict on a request.
    pub fn falls_back_on(&self, route: Option<RouteId>, verdict: Verdict) -> bool {
        match route {
            Some(route) => self.routes[route.index()].fallback_on.contains(&verdict),
            None => verdict == Verdict::ContextLength,
        }
    }

    /// Whether any target may be a fallback of this route's requests on account of a verdict.
    pub fn heeds_verdicts(&self, route: Option<RouteId>) -> bool {
        route.is_none_or(|route| !self.routes[route.index()].fallback_on.is_empty())
    }

    /// A state for each key, in the order of [`KeyId`]: that of `older` for a key that is the same credential under the same
    /// name, a fresh one for any other.
    pub fn key_states(&self, older: Option<(&Snapshot, &[Arc<KeyState>])>) -> Vec<Arc<KeyState>> {
        let known = |provider: &Provider, key: &Key| {
            let (snapshot, states) = older?;
            let same = |other: &&Key| is_same_credential(other, key);
            let found = snapshot.provider_by_name(&provider.name)?.keys.iter().find(same)?;
            states.get(found.id.index()).cloned()
        };
        let keys = |provider| {
            let provider: &Provider = provider;
            provider.keys.iter().map(move |key| (provider, key))
        };
        self.providers
            .iter()
            .flat_map(keys)
            .map(|(provider, key)| known(provider, key).unwrap_or_default())
            .collect()
    }
}

fn is_same_credential(this: &Key, other: &Key) -> bool {
    let access_key = |key: &'_ Key| match key.signing.as_ref().map(|signing| &signing.by) {
        Some(SignedBy::AccessKey {
            access_key_id,
            secret_access_key,
            ..
        }) => Some((access_key_id.clone(), secret_access_key.clone())),
        Some(SignedBy::Instance) | None => None,
    };
    this.name == other.name
        && this.secret == other.secret
        && this.host == other.host
        && access_key(this) == access_key(other)
}
