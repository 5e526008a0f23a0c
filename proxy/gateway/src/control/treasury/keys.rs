//! From the store's rows to a keyring.
//!
//! Invariants: a limit keeps its [`Limiter`], and so what is used of it, from one keyring to the next; what a row says wrongly
//! is left out with a warning, never guessed. Deliberately absent: reading the rows.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_policy::budget::BudgetId;
use sluice_policy::glob::Glob;
use sluice_policy::keyring::{Charge, Filter, KeyEntry, Keyring, Parts, Scope, Subject};
use sluice_policy::rate::{Limiter, Unit};

use crate::control::store::{LimitRow, ScopeKind, ScopeRow, Scopes};

/// The keyring of what is stored. `limiters`, by row, is brought up to date.
pub fn keyring(scopes: &Scopes, ids: &HashMap<i64, BudgetId>, limiters: &mut HashMap<i64, Arc<Limiter>>) -> Keyring {
    let mut budgets: HashMap<i64, Vec<Charge>> = HashMap::new();
    for row in &scopes.budgets {
        if let Some(id) = ids.get(&row.id) {
            budgets.entry(row.scope).or_default().push(Charge {
                budget: *id,
                limit: row.limit,
                window: row.window,
                filter: filter(row.provider.as_deref(), row.model.as_deref()),
            });
        }
    }
    let mut limits = subjects(&scopes.limits, limiters);
    let mut parts = Parts::default();
    let mut places: HashMap<i64, u32> = HashMap::new();
    let of_kind = |kind: ScopeKind| scopes.scopes.iter().filter(move |row| row.kind == kind);
    let mut scope = |row: &ScopeRow| Scope {
        row: row.id,
        name: row.name.as_str().into(),
        models: globs(&row.models),
        providers: globs(&row.providers),
        budgets: budgets.remove(&row.id).unwrap_or_default().into(),
        limits: limits.remove(&row.id).unwrap_or_default().into(),
        disabled: row.disabled,
        logs_bodies: row.bodies,
    };
    for row in of_kind(ScopeKind::Customer) {
        places.insert(row.id, parts.customers.len() as u32);
        parts.customers.push(scope(row));
    }
    for row in of_kind(ScopeKind::Team) {
        let customer = row.parent.and_then(|parent| places.get(&parent).copied());
        parts.teams.push((scope(row), customer));
    }
    // Teams and customers are counted apart, and a key names either.
    let customers = places;
    let teams: HashMap<i64, u32> = (0..)
        .zip(of_kind(ScopeKind::Team))
        .map(|(at, row)| (row.id, at))
        .collect();
    for row in of_kind(ScopeKind::Key) {
        let Some(digest) = row.digest else {
            tracing::warn!(key = row.name, "the key has no secret; it is left out");
            continue;
        };
        let place = |of: &HashMap<i64, u32>| row.parent.and_then(|parent| of.get(&parent).copied());
        parts.keys.push(KeyEntry {
            scope: scope(row),
            digest,
            previous: row.previous,
            expires_s: row.expires_s,
            team: place(&teams),
            customer: place(&customers),
        });
    }
    Keyring::new(parts)
}

fn subjects(rows: &[LimitRow], limiters: &mut HashMap<i64, Arc<Limiter>>) -> HashMap<i64, Vec<Subject>> {
    let mut kept = HashMap::new();
    let mut subjects: HashMap<i64, Vec<Subject>> = HashMap::new();
    for row in rows {
        let Some((unit, _)) = Unit::ALL.iter().find(|(_, name)| *name == row.unit) else {
            tracing::warn!(unit = row.unit, "the limit counts something unknown; it is left out");
            continue;
        };
        let made = || Arc::new(Limiter::new(*unit, row.window, row.most));
        let limiter = limiters.remove(&row.id).unwrap_or_else(made);
        limiter.set_most(row.most);
        kept.insert(row.id, limiter.clone());
        subjects.entry(row.scope).or_default().push(Subject {
            limiter,
            filter: filter(row.provider.as_deref(), row.model.as_deref()),
        });
    }
    *limiters = kept;
    subjects
}

fn filter(provider: Option<&str>, model: Option<&str>) -> Filter {
    Filter {
        provider: provider.map(Glob::new),
        model: model.map(Glob::new),
    }
}

fn globs(names: &[String]) -> Box<[Glob]> {
    names.iter().map(|name| Glob::new(name)).collect()
}
