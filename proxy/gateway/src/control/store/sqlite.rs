//! [`File`]: the store as one SQLite file, its transactions, and what happens when one fails.
//!
//! Invariants: `synchronous = FULL`, so that a transaction that has succeeded survives power loss; vaults in memory are what the
//! file holds; after a failure nothing is written through the same descriptor again, because a kernel that has failed to
//! write a page may call the next `fsync` a success without having it: the file is opened anew, all of the log is copied into
//! it and synced, and the number of the last transaction says whether the one that failed has happened.
//! Deliberately absent: waiting and retrying (`store.rs`), and a second process, which a lock keeps out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, TransactionBehavior};
use sluice_policy::budget::{Holder, Vault};
use sluice_policy::money::NanoUsd;

use super::schema;
use super::sql::{Error, Result, Sql, values};
use super::tx::{self, Tx};
use super::{Recovered, Recovery};

/// How long a transaction waits for one of another process, such as a backup.
const BUSY: Duration = Duration::from_secs(2);

/// The file and what is known of it.
pub struct File {
    path: PathBuf,
    connection: Option<Connection>,
    vaults: HashMap<i64, Vault>,
    holder: Holder,
    /// Number of the last transaction that is known to have happened.
    commits: i64,
    /// Of the file, as SQLite counts changes by others.
    data_version: i64,
    _lock: fs::File,
}

impl File {
    /// Opens the file, or makes it, as a new holder of leases.
    ///
    /// # Errors
    /// It cannot be opened or locked, or is of a later version.
    pub fn open(path: &Path, unix_s: u64) -> anyhow::Result<(Self, Recovered)> {
        let lock_path = path.with_added_extension("lock");
        let lock = fs::File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
        lock.try_lock()
            .with_context(|| format!("{} is in use by another process", path.display()))?;
        let mut connection = connect(path).with_context(|| format!("cannot open {}", path.display()))?;
        schema::migrate(&mut connection).with_context(|| format!("cannot use {}", path.display()))?;
        let meta = |name: &str| {
            connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get::<_, i64>(0)
            })
        };
        let (last_holder, commits) = (meta("holder")?, meta("commits")?);
        let holder = Holder::try_from(last_holder).unwrap_or(0) + 1;
        let (vaults, reclaimed) = load_vaults(&connection, holder, unix_s)?;
        let recovered = Recovered {
            reclaimed,
            budgets: vaults.len(),
        };
        let mut database = Self {
            path: path.to_owned(),
            data_version: data_version(&connection)?,
            connection: Some(connection),
            vaults,
            holder,
            commits,
            _lock: lock,
        };
        let renamed = database.transact(|tx| {
            let sql = "UPDATE meta SET value = ?1 WHERE name = 'holder'";
            tx.sql.execute(sql, values![holder])
        });
        renamed.with_context(|| format!("cannot write {}", path.display()))?;
        Ok((database, recovered))
    }

    /// This process, as leases name it.
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// Does `act` in one transaction, which is durable when this returns.
    ///
    /// # Errors
    /// It may or may not have happened: [`File::recover`] says which.
    pub fn transact<T>(&mut self, act: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let closed = || Error::Fault("the file is not open".to_owned());
        let connection = self.connection.as_mut().ok_or_else(closed)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = data_version(&transaction)?;
        if version != self.data_version {
            // Another process has written: an administrator's tool.
            (self.vaults, _) = load_vaults(&transaction, self.holder, super::unix_s())?;
            self.data_version = version;
        }
        let sql = Sql::Sqlite(&transaction);
        let mut tx = Tx::new(sql, &mut self.vaults, self.holder, 1);
        let answer = act(&mut tx)?;
        let changed = std::mem::take(&mut tx.changed);
        for (budget, vault) in &changed {
            if let Some(vault) = vault
                && !tx::is_same(tx.vaults.get(budget), vault)
            {
                save_vault(sql, *budget, vault)?;
            }
        }
        sql.execute(
            "UPDATE meta SET value = ?1 WHERE name = 'commits'",
            values![self.commits + 1],
        )?;
        transaction.commit()?;
        self.commits += 1;
        for (budget, vault) in changed {
            match vault {
                Some(vault) => self.vaults.insert(budget, vault),
                None => self.vaults.remove(&budget),
            };
        }
        Ok(answer)
    }

    /// Opens the file anew after a transaction has failed.
    ///
    /// # Errors
    /// It cannot be opened, read or synced.
    pub fn recover(&mut self) -> Result<Recovery> {
        // Closed before it is opened again: the descriptor that failed must not be used.
        self.connection = None;
        let connection = connect(&self.path)?;
        // Writes all of the log into the file, through new pages, and syncs both.
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(Error::Fault("another process uses the file".to_owned()));
        }
        let commits: i64 =
            connection.query_row("SELECT value FROM meta WHERE name = 'commits'", [], |row| row.get(0))?;
        (self.vaults, _) = load_vaults(&connection, self.holder, super::unix_s())?;
        self.data_version = data_version(&connection)?;
        self.connection = Some(connection);
        if commits > self.commits {
            self.commits = commits;
            Ok(Recovery::Applied)
        } else {
            Ok(Recovery::NotApplied)
        }
    }

    /// From now on, and until the file is opened anew, it cannot grow.
    #[cfg(test)]
    pub fn fill_disk(&self) {
        let connection = self.connection.as_ref().unwrap();
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    }

    /// As if the last transaction had failed without a word of what became of it.
    #[cfg(test)]
    pub fn forget_last_commit(&mut self) {
        self.commits -= 1;
    }

    /// Closes the file in order.
    pub fn close(mut self) {
        if let Some(connection) = self.connection.take()
            && let Err((_, error)) = connection.close()
        {
            tracing::warn!(%error, "the store was not closed in order; it recovers at the next start");
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

/// All vaults, where what others than `holder` have leased counts as spent: they are gone. That is written down only when a
/// vault changes; until then, whoever reads the file finds the same anew.
fn load_vaults(connection: &Connection, holder: Holder, unix_s: u64) -> Result<(HashMap<i64, Vault>, NanoUsd)> {
    let columns = tx::VAULT_COLUMNS;
    let rows = Sql::Sqlite(connection).query(&format!("SELECT {columns} FROM budgets"), &[])?;
    let mut vaults = HashMap::with_capacity(rows.len());
    let mut reclaimed = NanoUsd::ZERO;
    for row in &rows {
        let (budget, mut vault) = tx::read_vault(row)?;
        if vault.leases.iter().any(|lease| lease.holder != holder) {
            reclaimed = reclaimed.saturating_add(vault.reclaim(&|other| other == holder, unix_s));
        }
        vaults.insert(budget, vault);
    }
    Ok((vaults, reclaimed))
}

fn save_vault(sql: Sql<'_>, budget: i64, vault: &Vault) -> Result<()> {
    sql.execute(
        "UPDATE budgets SET limit_nanos = ?2, extra = ?3, period = ?4, spent = ?5, slices = ?6, seen_s = ?7, leases = ?8
         WHERE id = ?1",
        values![
            budget,
            vault.limit.0,
            vault.extra.0,
            vault.period,
            vault.spent.0,
            tx::write_slices(vault),
            vault.seen_s,
            tx::write_leases(vault),
        ],
    )?;
    Ok(())
}
