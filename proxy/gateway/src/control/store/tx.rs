//! [`Tx`]: one transaction of the store, of either kind, and the vaults that it touches.
//!
//! Invariants: a vault that is changed is written once, at the end, and only if it is still what was read; a job that is
//! refused leaves nothing behind, neither rows nor vaults; whoever was taken for dead settles nothing. Deliberately absent:
//! beginning and ending a transaction (`sqlite.rs`, `postgres.rs`).

use std::collections::{HashMap, VecDeque};

use sluice_policy::budget::{Done, Holder, Lease, Plan, Vault};
use sluice_policy::money::NanoUsd;

use super::StoreError;
use super::postgres::Which;
use super::sql::{Error, Result, Row, Sql};

/// One transaction.
pub struct Tx<'a> {
    /// The transaction itself.
    pub sql: Sql<'a>,
    /// Vaults as they are stored: all of them, or those that were read in this transaction.
    pub(super) vaults: &'a mut HashMap<i64, Vault>,
    /// What the transaction has changed; `None`: the budget is gone.
    pub(super) changed: HashMap<i64, Option<Vault>>,
    /// What `changed` held before the job under way, for what it has touched.
    undo: Vec<(i64, Option<Option<Vault>>)>,
    /// This process, as leases name it.
    pub(super) holder: Holder,
    /// Processes that share the store.
    pub(super) replicas: u64,
    /// Whether others have to be told.
    pub(super) is_change: bool,
}

/// Columns of a vault, as [`read_vault`] takes them.
pub(super) const VAULT_COLUMNS: &str = "id, limit_nanos, \"window\", extra, period, spent, slices, seen_s, leases";

impl<'a> Tx<'a> {
    pub(super) fn new(sql: Sql<'a>, vaults: &'a mut HashMap<i64, Vault>, holder: Holder, replicas: u64) -> Self {
        Self {
            sql,
            vaults,
            changed: HashMap::new(),
            undo: Vec::new(),
            holder,
            replicas,
            is_change: false,
        }
    }

    /// Carries out feeders' plans; of a budget that is gone, nothing. `holder` is who made them.
    ///
    /// # Errors
    /// That one was taken for dead, and what it had leased was counted as spent; or the database's.
    pub fn feed(&mut self, holder: Holder, plans: &[(i64, Plan)], unix_s: u64) -> Result<Vec<Done>> {
        if holder != self.holder {
            return Err(Error::Fenced);
        }
        let budgets: Vec<i64> = plans.iter().map(|(budget, _)| *budget).collect();
        self.read(&budgets)?;
        let replicas = self.replicas;
        let mut all = Vec::with_capacity(plans.len());
        for (budget, plan) in plans {
            all.push(match self.vault(*budget) {
                Ok(vault) => plan.apply(vault, holder, replicas, unix_s),
                Err(Error::Missing) => Done::default(),
                Err(error) => return Err(error),
            });
        }
        Ok(all)
    }

    /// A budget's vault, to be changed.
    ///
    /// # Errors
    /// There is no such budget.
    pub fn vault(&mut self, budget: i64) -> Result<&mut Vault> {
        self.read(&[budget])?;
        self.undo.push((budget, self.changed.get(&budget).cloned()));
        let current = self.vaults.get(&budget);
        let entry = self.changed.entry(budget).or_insert_with(|| current.cloned());
        entry.as_mut().ok_or(Error::Missing)
    }

    /// All vaults as they stand.
    ///
    /// # Errors
    /// The database's.
    pub fn vaults_now(&self) -> Result<HashMap<i64, Vault>> {
        let mut all = match &self.sql {
            Sql::Sqlite(_) => self.vaults.clone(),
            Sql::Postgres(link) => link.vaults(Which::All, false)?,
        };
        for (budget, vault) in &self.changed {
            match vault {
                Some(vault) => all.insert(*budget, vault.clone()),
                None => all.remove(budget),
            };
        }
        Ok(all)
    }

    /// Enters a budget whose row has been inserted.
    pub fn add_vault(&mut self, budget: i64, vault: Vault) {
        let before = self.changed.insert(budget, Some(vault));
        self.undo.push((budget, before));
    }

    /// Forgets a budget whose row has been deleted.
    pub fn drop_vault(&mut self, budget: i64) {
        let before = self.changed.insert(budget, None);
        self.undo.push((budget, before));
    }

    /// Does `act`; what contradicts the store's rules is undone alone.
    ///
    /// # Errors
    /// Those of the database itself, which undo the whole transaction.
    pub fn within(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<std::result::Result<(), StoreError>> {
        self.undo.clear();
        let was_change = self.is_change;
        self.sql.batch("SAVEPOINT job")?;
        match act(self) {
            Ok(()) => {
                self.sql.batch("RELEASE SAVEPOINT job")?;
                Ok(Ok(()))
            }
            Err(error) if !error.is_askers() => Err(error),
            Err(error) => {
                self.sql.batch("ROLLBACK TO SAVEPOINT job; RELEASE SAVEPOINT job")?;
                for (budget, before) in self.undo.drain(..).rev() {
                    match before {
                        Some(before) => self.changed.insert(budget, before),
                        None => self.changed.remove(&budget),
                    };
                }
                self.is_change = was_change;
                Ok(Err(match error {
                    Error::Fenced => StoreError::Fenced,
                    error => StoreError::Refused(error.to_string()),
                }))
            }
        }
    }

    /// Reads, and locks, those vaults that the transaction does not know.
    pub(super) fn read(&mut self, budgets: &[i64]) -> Result<()> {
        let Sql::Postgres(link) = &self.sql else {
            return Ok(());
        };
        let is_unknown = |budget: &&i64| !self.vaults.contains_key(budget) && !self.changed.contains_key(budget);
        let unknown: Vec<i64> = budgets.iter().filter(is_unknown).copied().collect();
        if !unknown.is_empty() {
            self.vaults.extend(link.vaults(Which::Rows(&unknown), true)?);
        }
        Ok(())
    }
}

/// A vault, from [`VAULT_COLUMNS`].
pub(super) fn read_vault(row: &Row) -> Result<(i64, Vault)> {
    let window: String = row.get(2)?;
    let slices: String = row.get(6)?;
    let vault = Vault {
        limit: NanoUsd(row.get(1)?),
        window: window.parse().map_err(|why: &str| Error::Fault(why.to_owned()))?,
        extra: NanoUsd(row.get(3)?),
        period: row.get(4)?,
        spent: NanoUsd(row.get(5)?),
        slices: read_slices(&slices),
        leases: read_leases(&row.get::<String>(8)?)?,
        seen_s: row.get(7)?,
    };
    Ok((row.get(0)?, vault))
}

/// Whether nothing has to be written: that time has passed is no change by itself.
pub(super) fn is_same(before: Option<&Vault>, vault: &Vault) -> bool {
    let Some(before) = before else { return false };
    (before.limit, before.extra, before.period, before.spent) == (vault.limit, vault.extra, vault.period, vault.spent)
        && before.slices == vault.slices
        && before.leases == vault.leases
}

pub(super) fn write_slices(vault: &Vault) -> String {
    write_pairs(vault.slices.iter().map(|(slice, amount)| (*slice, amount.0)))
}

fn read_slices(text: &str) -> VecDeque<(u64, NanoUsd)> {
    read_pairs(text)
        .map(|(slice, amount)| (slice, NanoUsd(amount)))
        .collect()
}

/// Pairs of numbers as they stand in a column: `NUMBER:NUMBER`, with a space between two.
pub(super) fn write_pairs(pairs: impl Iterator<Item = (u64, u64)>) -> String {
    pairs
        .map(|(one, other)| format!("{one}:{other}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The pairs in such a column; what is none is left out.
pub(super) fn read_pairs(text: &str) -> impl Iterator<Item = (u64, u64)> {
    text.split(' ').filter_map(|pair| {
        let (one, other) = pair.split_once(':')?;
        Some((one.parse().ok()?, other.parse().ok()?))
    })
}

pub(super) fn write_leases(vault: &Vault) -> String {
    let lease = |lease: &Lease| format!("{}:{}:{}", lease.holder, lease.period, lease.amount.0);
    vault.leases.iter().map(lease).collect::<Vec<_>>().join(" ")
}

fn read_leases(text: &str) -> Result<Vec<Lease>> {
    let lease = |text: &str| {
        let mut parts = text.split(':').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten();
        Some(Lease {
            holder: next()?,
            period: next()?,
            amount: NanoUsd(next()?),
        })
    };
    let parts = text.split(' ').filter(|part| !part.is_empty());
    // A lease that is not understood must not be taken for none.
    parts
        .map(|part| lease(part).ok_or_else(|| Error::Fault(format!("leases are not {text:?}"))))
        .collect()
}
