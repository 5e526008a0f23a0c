//! Virtual keys: from a client's credential to who it is, what it may use, and what it is charged to.
//!
//! A key is `sk-sluice-` and 256 random bits. Only its SHA-256 is kept: guessing 256 random bits is as hard as guessing the
//! digest, so salt and stretching would add cost to every request and nothing to safety. Looking a key up compares digests:
//! what the time of a comparison could tell is part of a digest, from which no key follows, and digests are compared in
//! constant time all the same.
//!
//! Invariants: immutable; a lookup is one digest and one probe of a table, without allocation; what a request of a key needs is
//! in two cache lines; a [`Caller`] is a small `Copy` value,
//! valid for the keyring that it came from; no secret is kept. Deliberately absent: where keys are stored and how they are made
//! known, and randomness, which is passed in.

mod credential;
mod line;
mod pair;
mod secret;
mod table;
mod tags;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use self::line::Line;
use self::table::{Card, Table};
pub use credential::{CREDENTIAL_FIELDS, credential, is_own_field};
pub use pair::{Pair, PairId, PairIssuer, parse_id};
pub use secret::{Digest, KEY_PREFIX, VirtualKey};
pub use tags::{TagBook, Tags};

use crate::budget::{BudgetId, Window};
use crate::glob::Glob;
use crate::money::NanoUsd;
use crate::rate::Limiter;

/// A customer, team or key of one keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScopeId(pub u32);

/// Who sends a request: a key, and the team and the customer that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key.
    pub key: ScopeId,
    /// Its team, if any.
    pub team: Option<ScopeId>,
    /// Its customer, or its team's, if any.
    pub customer: Option<ScopeId>,
}

/// What a customer, a team or a key may use, and what it is charged to.
#[derive(Debug, Default)]
pub struct Scope {
    /// Its number in the store.
    pub row: i64,
    /// What reports and metrics call it.
    pub name: Box<str>,
    /// The models it may use, as `MODEL` or `PROVIDER/MODEL`; empty: all.
    pub models: Box<[Glob]>,
    /// The providers it may use; empty: all.
    pub providers: Box<[Glob]>,
    /// Its budgets.
    pub budgets: Box<[Charge]>,
    /// Its limits.
    pub limits: Box<[Subject]>,
    /// Nobody may use it.
    pub disabled: bool,
    /// Of a key: whether the bodies of its requests are logged.
    pub logs_bodies: bool,
}

/// Which requests something applies to; without globs, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those to these providers.
    pub provider: Option<Glob>,
    /// Those for these models.
    pub model: Option<Glob>,
}

impl Filter {
    fn matches(&self, provider: &str, model: &str) -> bool {
        let fits = |glob: &Option<Glob>, name: &str| glob.as_ref().is_none_or(|glob| glob.matches(name));
        fits(&self.provider, provider) && fits(&self.model, model)
    }
}

/// A budget, and what is charged to it.
#[derive(Clone, Debug)]
pub struct Charge {
    /// The budget.
    pub budget: BudgetId,
    /// What may be spent.
    pub limit: NanoUsd,
    /// Over what time.
    pub window: Window,
    /// Which requests.
    pub filter: Filter,
}

/// A limit, and what is subject to it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The limit; shared by the cores, and by one keyring and the next.
    pub limiter: Arc<Limiter>,
    /// Which requests.
    pub filter: Filter,
}

/// One key as it is stored.
#[derive(Debug, Default)]
pub struct KeyEntry {
    /// What it may use.
    pub scope: Scope,
    /// Of its secret.
    pub digest: Digest,
    /// Of the secret that it replaces, and until when that holds, in seconds since the epoch.
    pub previous: Option<(Digest, u64)>,
    /// The second from which on it does not hold.
    pub expires_s: Option<u64>,
    /// Its team, as an index into [`Parts::teams`].
    pub team: Option<u32>,
    /// Its customer, as an index into [`Parts::customers`], if it has no team.
    pub customer: Option<u32>,
}

/// What a keyring is made of.
#[derive(Debug, Default)]
pub struct Parts {
    /// Customers.
    pub customers: Vec<Scope>,
    /// Teams, each with its customer, if any.
    pub teams: Vec<(Scope, Option<u32>)>,
    /// Keys.
    pub keys: Vec<KeyEntry>,
}

/// Why a credential is not accepted. A client is told no more than that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAccepted {
    /// There is no such key.
    Unknown,
    /// It, its team or its customer is disabled.
    Disabled,
    /// Its time is over, or that of the secret it was rotated away from.
    Expired,
}

/// Why a caller may not use a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// None of its models.
    Model,
    /// None of its providers.
    Provider,
}

/// All virtual keys.
#[derive(Debug, Default)]
pub struct Keyring {
    by_digest: Table,
    by_pair: HashMap<PairId, Digest, BuildHasherDefault<DigestHasher>>,
    /// By [`ScopeId`], like `scopes`.
    lines: Box<[Line]>,
    scopes: Box<[Scope]>,
}

/// A limit of one keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitId {
    scope: ScopeId,
    at: u32,
}

impl Keyring {
    /// A keyring of these parts. A key whose team or customer does not exist counts as having none; of two keys with one
    /// digest, the first holds.
    pub fn new(parts: Parts) -> Self {
        let Parts { customers, teams, keys } = parts;
        let team_base = customers.len();
        let key_base = team_base + teams.len();
        let id = |index: usize| ScopeId(u32::try_from(index).unwrap_or(u32::MAX));
        let mut scopes: Vec<Scope> = customers;
        let mut customer_of = Vec::new();
        for (scope, customer) in teams {
            customer_of.push(customer.filter(|customer| (*customer as usize) < team_base));
            scopes.push(scope);
        }
        let mut cards = Vec::with_capacity(keys.len());
        for (index, key) in keys.into_iter().enumerate() {
            let team = key
                .team
                .map(|team| team as usize)
                .filter(|team| *team < customer_of.len());
            let own = key.customer.filter(|customer| (*customer as usize) < team_base);
            let customer = team.map_or(own, |team| customer_of[team]);
            let caller = Caller {
                key: id(key_base + index),
                team: team.map(|team| id(team_base + team)),
                customer: customer.map(ScopeId),
            };
            let until_s = key.expires_s.unwrap_or(u64::MAX);
            let above = [caller.team, caller.customer].into_iter().flatten();
            let disabled = key.scope.disabled || above.map(|id| &scopes[id.0 as usize]).any(|scope| scope.disabled);
            cards.push(Card::new(key.digest, caller, until_s, disabled));
            if let Some((digest, overlap_s)) = key.previous {
                cards.push(Card::new(digest, caller, until_s.min(overlap_s), disabled));
            }
            scopes.push(key.scope);
        }
        let by_digest = Table::new(cards);
        let by_pair = by_digest
            .digests()
            .map(|digest| (pair::id_of(digest), *digest))
            .collect();
        let lines = scopes.iter_mut().map(Line::new).collect();
        Self {
            by_digest,
            by_pair,
            lines,
            scopes: scopes.into(),
        }
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Whose credential it is.
    ///
    /// # Errors
    /// Nobody's, or not any more.
    pub fn find(&self, credential: &[u8], unix_s: u64) -> Result<Caller, NotAccepted> {
        self.find_digest(&Digest::of(credential), unix_s)
    }

    /// Whose pair an access key id is of, and the digest from which its secret follows. That the request was signed with it
    /// is for the caller to see.
    ///
    /// # Errors
    /// Nobody's, or not any more.
    pub fn find_pair(&self, id: PairId, unix_s: u64) -> Result<(Caller, Digest), NotAccepted> {
        let digest = self.by_pair.get(&id).ok_or(NotAccepted::Unknown)?;
        Ok((self.find_digest(digest, unix_s)?, *digest))
    }

    fn find_digest(&self, digest: &Digest, unix_s: u64) -> Result<Caller, NotAccepted> {
        let card = self.by_digest.find(digest).ok_or(NotAccepted::Unknown)?;
        if unix_s >= card.until_s {
            return Err(NotAccepted::Expired);
        }
        if card.disabled {
            return Err(NotAccepted::Disabled);
        }
        Ok(card.caller())
    }

    /// What is known of a customer, a team or a key.
    pub fn scope(&self, id: ScopeId) -> &Scope {
        &self.scopes[id.0 as usize]
    }

    /// Whether a caller may use a model at a provider: each of its levels must allow both.
    ///
    /// # Errors
    /// It may not.
    pub fn allows(&self, caller: Caller, provider: &str, model: &str) -> Result<(), NotAllowed> {
        for id in levels(caller).filter(|id| self.line(*id).has_lists) {
            let scope = self.scope(id);
            if !scope.providers.is_empty() && !scope.providers.iter().any(|glob| glob.matches(provider)) {
                return Err(NotAllowed::Provider);
            }
            let fits = |glob: &Glob| glob.matches(model) || matches_joined(glob, provider, model);
            if !scope.models.is_empty() && !scope.models.iter().any(fits) {
                return Err(NotAllowed::Model);
            }
        }
        Ok(())
    }

    /// Whether a caller may use a provider for what is about no model.
    ///
    /// # Errors
    /// It may not.
    pub fn allows_provider(&self, caller: Caller, provider: &str) -> Result<(), NotAllowed> {
        let allows =
            |scope: &Scope| scope.providers.is_empty() || scope.providers.iter().any(|glob| glob.matches(provider));
        if self.scopes_of(caller).all(allows) {
            Ok(())
        } else {
            Err(NotAllowed::Provider)
        }
    }

    /// The budgets that a request of a caller to a provider's model is charged to: the key's first.
    pub fn budgets<'a>(
        &'a self,
        caller: Caller,
        provider: &'a str,
        model: &'a str,
    ) -> impl Iterator<Item = BudgetId> + 'a {
        levels(caller).flat_map(move |id| self.line(id).budgets(move || self.scope(id), (provider, model)))
    }

    /// Whose a caller's data is, as far as others must not see it: its customer's, else its team's, else the key's own.
    pub fn tenant(&self, caller: Caller) -> ScopeId {
        caller.customer.or(caller.team).unwrap_or(caller.key)
    }

    /// The rows of a caller's key, team and customer; 0 for none.
    pub fn rows(&self, caller: Caller) -> [i64; 3] {
        [Some(caller.key), caller.team, caller.customer].map(|id| id.map_or(0, |id| self.line(id).row))
    }

    /// What to call one of a caller's budgets towards that caller, such as `the budget of press-line-2, 50 USD per day`.
    pub fn describe(&self, caller: Caller, budget: BudgetId) -> String {
        let owner = self.scopes_of(caller).find_map(|scope| {
            let charge = scope.budgets.iter().find(|charge| charge.budget == budget)?;
            Some((scope, charge))
        });
        let Some((scope, charge)) = owner else {
            return "a budget".to_owned();
        };
        let per = match charge.window {
            Window::Total => "in total".to_owned(),
            window => format!("per {}", window.name()),
        };
        format!("the budget of {}, {} USD {per}", scope.name, charge.limit)
    }

    /// The limits that a request of a caller to a provider's model is subject to: the key's first.
    pub fn limits<'a>(
        &'a self,
        caller: Caller,
        provider: &'a str,
        model: &'a str,
    ) -> impl Iterator<Item = LimitId> + 'a {
        levels(caller).flat_map(move |scope| {
            let all = self.line(scope).limits(move || self.scope(scope), (provider, model));
            all.map(move |(at, _)| LimitId { scope, at })
        })
    }

    /// One of them.
    pub fn limiter(&self, id: LimitId) -> &Arc<Limiter> {
        let elsewhere = || &self.scope(id.scope).limits[id.at as usize].limiter;
        self.line(id.scope).limit(id.at).unwrap_or_else(elsewhere)
    }

    fn line(&self, id: ScopeId) -> &Line {
        &self.lines[id.0 as usize]
    }

    fn scopes_of(&self, caller: Caller) -> impl Iterator<Item = &Scope> {
        levels(caller).map(|id| self.scope(id))
    }
}

/// A caller's scopes: the key first.
fn levels(caller: Caller) -> impl Iterator<Item = ScopeId> {
    let ids = [Some(caller.key), caller.team, caller.customer];
    ids.into_iter().flatten()
}

/// Whether `PROVIDER/MODEL` matches; a glob without a slash before its first star means the model alone.
fn matches_joined(glob: &Glob, provider: &str, model: &str) -> bool {
    let Some((own, rest)) = glob.as_str().split_once('/') else {
        return false;
    };
    Glob::matches_text(own, provider) && Glob::matches_text(rest, model)
}

/// A digest is as good as random: its first bytes are its hash.
#[derive(Debug, Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
