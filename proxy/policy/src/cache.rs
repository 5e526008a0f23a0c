//! The cache: exact, then by meaning, and never the answer for another part.
//!
//! One core's [`Cache`] answers from memory of its own; what all cores share, and never changes, is the [`Brain`].
//! ```text
//!  request ─ Query::prepare ─► Bypass
//!                │
//!          Cache::lookup: exact ─ bucket ─ rank ─ pair guard ─ evidence ─► Hit | Shadow | Miss
//!                │                                                            │
//!          (provider answers) ─ Query::ticket ─ Ticket::entry ─ Cache::insert │ Cache::settle: agreed or not
//!                                                  └─► other cores: Cache::insert
//! ```
//! Invariants: what must be equal is in a key before anything is searched; similarity ranks and never decides; every doubt is a
//! miss. No IO and no clock: time and random numbers are passed in, in milliseconds since the epoch. Memory is bounded by
//! [`Limits`] and by `limits.rs`. Deliberately absent: waiting, comparing answers, and files.

mod agree;
pub mod embed;
pub mod entry;
pub mod evidence;
pub mod explain;
pub mod flight;
pub mod guard;
pub mod image;
pub mod index;
pub mod key;
mod lookup;
mod query;
pub mod snapshot;
mod store;

#[cfg(test)]
mod tests;

pub use agree::Settled;
pub use lookup::{By, Controls, FrameRules, Hit, Mode, Outcome, Rules, SIMILARITY_DEFAULT, SIMILARITY_FLOOR};
pub use query::{Query, Ticket};
pub use store::{Limits, Purge, Size, What};

use std::collections::HashMap;
use std::sync::Arc;

use sluice_wire::limits::CACHE_EPOCHS_MAX;

use embed::{Model, Scratch};
use entry::Entry;
use evidence::{Audits, Evidence, Namespace};
use guard::{Guard, Level, Reading, Refusal};
use key::Secret;
use store::Store;

/// Raised when the rules change what the same text leads to, so that no older snapshot is read.
const RULES_VERSION: u32 = 1;

/// What all cores share: the embedding, the guard, and the key of all hashes.
#[derive(Debug)]
pub struct Brain {
    model: Model,
    guard: Guard,
    secret: Secret,
}

/// Why two texts would, or would not, share an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Explanation {
    /// Cosine of their vectors.
    pub similarity: f32,
    /// What the guard says of them.
    pub verdict: Result<(), Refusal>,
}

impl Brain {
    /// With the embedding and the guard that the product carries.
    pub fn new(secret: Secret) -> Self {
        Self {
            model: Model::builtin(),
            guard: Guard::builtin(),
            secret,
        }
    }

    /// What evidence of a tenant's route counts for.
    pub fn namespace(&self, tenant: &str, route: &str) -> Namespace {
        let mut hasher = self.secret.hasher("namespace");
        hasher.update(&(tenant.len() as u64).to_le_bytes());
        hasher.update(tenant.as_bytes());
        hasher.update(route.as_bytes());
        let mut namespace = [0; 8];
        hasher.finalize_xof().fill(&mut namespace);
        Namespace::from_le_bytes(namespace)
    }

    /// Says for two texts why they would, or would not, share an answer, everything else being equal.
    pub fn explain(&self, one: &str, other: &str, level: Level) -> Explanation {
        self.explain_at(self.similarity(one, other), one, other, level)
    }

    /// How similar two texts are by the own embedding.
    pub fn similarity(&self, one: &str, other: &str) -> f32 {
        let mut scratch = Scratch::default();
        let one = self.model.embed(one, &mut scratch);
        one.cosine(&self.model.embed(other, &mut scratch))
    }

    /// The same as [`Brain::explain`], where another embedding says how similar they are.
    pub fn explain_at(&self, similarity: f32, one: &str, other: &str, level: Level) -> Explanation {
        let (mut reading, mut their_reading) = (Reading::default(), Reading::default());
        self.guard.read(one, &mut reading);
        self.guard.read(other, &mut their_reading);
        Explanation {
            similarity,
            verdict: self.guard.compare(&reading, &their_reading, level),
        }
    }
}

/// The cache of one core.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    evidence: Evidence,
    audits: Audits,
    epochs: HashMap<Box<str>, u64>,
}

impl Cache {
    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        Self {
            store: Store::new(limits),
            evidence: Evidence::default(),
            audits: Audits::default(),
            epochs: HashMap::new(),
        }
    }

    /// Stores an entry, of this core or another; it takes the place of one for the same request, unless that is newer. What no longer
    /// fits is evicted, which may be this one. `false`: it is too large, or has expired.
    pub fn insert(&mut self, entry: Arc<Entry>, now_ms: u64) -> bool {
        self.store.insert(entry, now_ms)
    }

    /// The same without what finds entries by their meaning: for whoever keeps them and answers nobody.
    pub fn ledger(limits: Limits) -> Self {
        Self {
            store: Store::ledger(limits),
            ..Self::new(limits)
        }
    }

    /// Takes note of whether a provider's answer agreed with the one that a match would have served, or has. If it did not, the match's
    /// way of saying it is quarantined, and the entry removed.
    pub fn settle(&mut self, hit: &Hit, agrees: bool) {
        self.take_note(&Settled::of(hit, agrees));
    }

    /// The same, as another core has found.
    pub fn take_note(&mut self, settled: &Settled) {
        if let Some(pair) = settled.pair {
            self.evidence.record(settled.namespace, pair, settled.agrees);
        }
        self.audits.record(settled.namespace, settled.agrees);
        if !settled.agrees {
            self.store.remove(settled.exact);
        }
    }

    /// Removes entries; how many.
    pub fn purge(&mut self, purge: &Purge<'_>) -> usize {
        self.store.purge(purge)
    }

    /// Removes what has expired, looking at no more than `entries`; how many were removed. To be called on a tick.
    pub fn sweep(&mut self, now_ms: u64, entries: usize) -> usize {
        self.store.sweep(now_ms, entries)
    }

    /// Changes the limits; what no longer fits is evicted.
    pub fn set_limits(&mut self, limits: Limits) {
        self.store.set_limits(limits);
    }

    /// The epoch of a tenant and its context values (each as `name=value`): part of every key, so that raising it hides what was
    /// stored before, answers still under way included.
    pub fn epoch<'a>(&self, tenant: &str, context: impl IntoIterator<Item = &'a str>) -> u64 {
        let of = |label| self.epochs.get(&*epoch_key(tenant, label)).copied().unwrap_or(0);
        context
            .into_iter()
            .map(|label| of(Some(label)))
            .fold(of(None), u64::wrapping_add)
    }

    /// Raises the epoch of a tenant, or of one of its context values, and removes what it hides; how many entries.
    pub fn bump(&mut self, tenant: &str, label: Option<&str>) -> usize {
        let full = self.epochs.len() >= CACHE_EPOCHS_MAX;
        let known = self.epochs.contains_key(&*epoch_key(tenant, label));
        // Without room, more is hidden than was asked for, never less.
        let label = label.filter(|_| known || !full);
        if full && !known {
            self.epochs
                .retain(|key, _| !key.starts_with(&*epoch_key(tenant, Some(""))));
        }
        // A tenant's step outweighs all steps of its labels, so that forgetting those never brings an old epoch back.
        let step = if label.is_some() { 1 } else { 1 << 32 };
        *self.epochs.entry(epoch_key(tenant, label)).or_default() += step;
        let what = label.map_or(What::All, What::Context);
        self.store.purge(&Purge {
            tenant: Some(tenant),
            what,
        })
    }

    /// Forgets what is known of pairs of templates, and what checks have found.
    pub fn forget_evidence(&mut self) {
        (self.evidence, self.audits) = (Evidence::default(), Audits::default());
    }

    /// What it holds.
    pub fn size(&self) -> Size {
        self.store.size()
    }

    /// What is known of pairs of templates.
    pub fn evidence(&mut self) -> &mut Evidence {
        &mut self.evidence
    }

    /// The checks of all namespaces.
    pub fn audits(&mut self) -> &mut Audits {
        &mut self.audits
    }
}

fn epoch_key(tenant: &str, label: Option<&str>) -> Box<str> {
    match label {
        // A tenant's name holds no zero byte, or it shares epochs with another, which hides too much and never too little.
        Some(label) => format!("{tenant}\0{label}").into(),
        None => tenant.into(),
    }
}
