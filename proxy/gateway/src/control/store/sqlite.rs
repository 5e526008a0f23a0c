//! [`File`]: the store as one SQLite file, its transactions, and what happens when one fails.
//!
//! Invariants: `synchronous = FULL`, so that a transaction that has succeeded survives power loss; vaults in memory are what the
//! file holds; after a failure nothing is written through the same descriptor again, because a kernel that has failed to
//! write a page may call the next `fsync` a success without having it: the file is opened anew, all of the log is copied into
//! it and synced, and the number of the last transaction says whether the one that failed has happened.
//! A second process is kept out, unless it takes over from the one that has the file: then both use it until the former one ends, each
//! with leases of its own; what a process had leased counts as spent once it is gone.
//! Deliberately absent: waiting and retrying (`store.rs`).

mod lock;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rusqlite::{Connection, TransactionBehavior};
use sluice_policy::budget::{Holder, Vault};
use sluice_policy::money::NanoUsd;

use self::lock::Lock;
use super::schema;
use super::sql::{Error, Result, Sql, values};
use super::tx::{self, Tx};
use super::{Recovered, Recovery};

/// How long a transaction waits for one of another process, such as a backup.
const BUSY: Duration = Duration::from_secs(2);
/// How often it is looked whether another process that has leased something is still alive.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The file and what is known of it.
pub struct File {
    path: PathBuf,
    connection: Option<Connection>,
    vaults: HashMap<i64, Vault>,
    holder: Holder,
    /// Number of this process's last transaction that is known to have happened.
    commits: i64,
    /// Of the file, as SQLite counts changes by others.
    data_version: i64,
    /// Whether something was found reclaimed.
    reclaimed: bool,
    /// When it was last looked whether other holders are alive; `None` if there are none.
    looked: Option<Instant>,
    lock: Lock,
}

/// What is known of vaults when they have been read.
struct Loaded {
    vaults: HashMap<i64, Vault>,
    /// What processes that are gone had leased.
    reclaimed: NanoUsd,
    /// Whether others that are alive have leased something.
    shared: bool,
}

impl File {
    /// Opens the file, or makes it, as a new holder of leases; beside a process that has it only if that is what this one `joins`.
    ///
    /// # Errors
    /// It cannot be opened or locked, is in use, or is of a later version; or it is to be joined and of an earlier one.
    pub fn open(path: &Path, unix_s: u64, joins: bool) -> anyhow::Result<(Self, Recovered)> {
        let used = || format!("{} is in use by another process", path.display());
        let lock = Lock::opening(&path.with_added_extension("lock")).with_context(used)?;
        let is_used = lock.is_used()?;
        ensure!(joins || !is_used, used());
        let mut connection = connect(path).with_context(|| format!("cannot open {}", path.display()))?;
        let current = schema::is_current(&connection)?;
        ensure!(
            current || !is_used,
            "{} has to be brought to another version: stop the running gateway first",
            path.display()
        );
        schema::migrate(&mut connection).with_context(|| format!("cannot use {}", path.display()))?;
        let last = "SELECT value FROM meta WHERE name = 'holder'";
        let last: i64 = connection.query_row(last, [], |row| row.get(0))?;
        let holder = Holder::try_from(last).unwrap_or(0) + 1;
        lock.take(holder).with_context(used)?;
        let loaded = load_vaults(&connection, holder, &lock, unix_s)?;
        let recovered = Recovered {
            reclaimed: loaded.reclaimed,
            budgets: loaded.vaults.len(),
        };
        let mut database = Self {
            path: path.to_owned(),
            data_version: data_version(&connection)?,
            connection: Some(connection),
            vaults: HashMap::new(),
            holder,
            commits: 0,
            reclaimed: false,
            looked: None,
            lock,
        };
        database.has(loaded);
        let entered = database.transact(|tx| {
            tx.sql
                .execute("UPDATE meta SET value = ?1 WHERE name = 'holder'", values![holder])?;
            if !is_used {
                tx.sql.execute("DELETE FROM meta WHERE name LIKE 'commits of %'", &[])?;
            }
            let counter = counter(holder);
            tx.sql
                .execute("INSERT INTO meta VALUES (?1, 0)", values![counter.as_str()])
        });
        entered.with_context(|| format!("cannot write {}", path.display()))?;
        database.lock.opened()?;
        Ok((database, recovered))
    }

    fn has(&mut self, loaded: Loaded) {
        self.vaults = loaded.vaults;
        self.reclaimed |= loaded.reclaimed > NanoUsd::ZERO;
        self.looked = loaded.shared.then(Instant::now);
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
        let look = self.looked.is_some_and(|looked| looked.elapsed() > LOOK_PERIOD);
        if look || version != self.data_version {
            // Another process has written, an administrator's tool for instance, or may have ended.
            let loaded = load_vaults(&transaction, self.holder, &self.lock, super::unix_s())?;
            self.vaults = loaded.vaults;
            self.reclaimed |= loaded.reclaimed > NanoUsd::ZERO;
            self.looked = loaded.shared.then(Instant::now);
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
            "UPDATE meta SET value = ?1 WHERE name = ?2",
            values![self.commits + 1, counter(self.holder).as_str()],
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
        let count = "SELECT value FROM meta WHERE name = ?1";
        let commits: i64 = connection.query_row(count, [counter(self.holder)], |row| row.get(0))?;
        let loaded = load_vaults(&connection, self.holder, &self.lock, super::unix_s())?;
        self.has(loaded);
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

    /// Closes the file in order, after having written down what was found reclaimed and has not changed since.
    pub fn close(mut self) {
        let budgets: Vec<i64> = self.vaults.keys().copied().collect();
        let written = match self.reclaimed {
            false => Ok(()),
            true => self.transact(|tx| {
                budgets
                    .iter()
                    .try_for_each(|id| save_vault(tx.sql, *id, &tx.vaults[id]))
            }),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "what was leased and lost is written down at another end");
        }
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

/// The name under which a process counts its transactions.
fn counter(holder: Holder) -> String {
    format!("commits of {holder}")
}

/// All vaults, where what holders that are gone have leased counts as spent. That is written down only when a vault changes; until
/// then, whoever reads the file finds the same anew.
fn load_vaults(connection: &Connection, own: Holder, lock: &Lock, unix_s: u64) -> Result<Loaded> {
    let columns = tx::VAULT_COLUMNS;
    let rows = Sql::Sqlite(connection).query(&format!("SELECT {columns} FROM budgets"), &[])?;
    let mut loaded = Loaded {
        vaults: HashMap::with_capacity(rows.len()),
        reclaimed: NanoUsd::ZERO,
        shared: false,
    };
    let mut live: HashMap<Holder, bool> = HashMap::new();
    for row in &rows {
        let (budget, mut vault) = tx::read_vault(row)?;
        for lease in vault.leases.iter().filter(|lease| lease.holder != own) {
            let is_live = *live.entry(lease.holder).or_insert_with(|| lock.is_live(lease.holder));
            loaded.shared |= is_live;
        }
        let is_alive = |holder: Holder| holder == own || live.get(&holder).is_some_and(|live| *live);
        if vault.leases.iter().any(|lease| !is_alive(lease.holder)) {
            let reclaimed = vault.reclaim(&is_alive, unix_s);
            loaded.reclaimed = loaded.reclaimed.saturating_add(reclaimed);
        }
        loaded.vaults.insert(budget, vault);
    }
    Ok(loaded)
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
