//! [`Database`]: the file, its transactions, and what happens when one fails.
//!
//! Invariants: `synchronous = FULL`, so that a transaction that has succeeded survives power loss; vaults in memory are what the
//! file holds; after a failure nothing is written through the same descriptor again, because a kernel that has failed to
//! write a page may call the next `fsync` a success without having it: the file is opened anew, all of the log is copied into
//! it and synced, and the number of the last transaction says whether the one that failed has happened.
//! Deliberately absent: waiting and retrying (`store.rs`).

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use sluice_policy::budget::{Done, Holder, Lease, Plan, Vault};
use sluice_policy::money::NanoUsd;

use super::{StoreError, schema};

/// How long a transaction waits for one of another process, such as a backup.
const BUSY: Duration = Duration::from_secs(2);

/// The file and what is known of it.
pub struct Database {
    path: PathBuf,
    connection: Option<Connection>,
    vaults: HashMap<i64, Vault>,
    holder: Holder,
    /// Number of the last transaction that is known to have happened.
    commits: i64,
    /// Of the file, as SQLite counts changes by others.
    data_version: i64,
    _lock: File,
}

/// What became of a transaction that failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It has happened all the same, and is durable.
    Applied,
    /// It has not happened.
    NotApplied,
}

/// What a start has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What earlier processes had leased and not reported, over all budgets; it counts as spent.
    pub reclaimed: NanoUsd,
    /// Budgets.
    pub budgets: usize,
}

/// One transaction.
pub struct Tx<'a> {
    /// The transaction itself.
    pub sql: &'a Connection,
    vaults: &'a mut HashMap<i64, Vault>,
    /// What the transaction has changed; `None`: the budget is gone.
    changed: HashMap<i64, Option<Vault>>,
    /// What `changed` held before the job under way, for what it has touched.
    undo: Vec<(i64, Option<Option<Vault>>)>,
    holder: Holder,
}

impl Database {
    /// Opens the file, or makes it, as a new holder of leases.
    ///
    /// # Errors
    /// It cannot be opened or locked, or is of a later version.
    pub fn open(path: &Path, unix_s: u64) -> anyhow::Result<(Self, Recovered)> {
        let lock_path = path.with_added_extension("lock");
        let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
        lock.try_lock()
            .with_context(|| format!("{} is in use by another process", path.display()))?;
        let mut connection = connect(path).with_context(|| format!("cannot open {}", path.display()))?;
        schema::migrate(&mut connection).with_context(|| format!("cannot use {}", path.display()))?;
        let vaults = load_vaults(&connection)?;
        let meta = |name: &str| {
            connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get::<_, i64>(0)
            })
        };
        let (last_holder, commits) = (meta("holder")?, meta("commits")?);
        let mut database = Self {
            path: path.to_owned(),
            data_version: data_version(&connection)?,
            connection: Some(connection),
            vaults,
            holder: Holder::try_from(last_holder).unwrap_or(0) + 1,
            commits,
            _lock: lock,
        };
        let holder = database.holder;
        let recovered = database
            .transact(|tx| {
                tx.sql
                    .execute("UPDATE meta SET value = ?1 WHERE name = 'holder'", [holder])?;
                let budgets: Vec<i64> = tx.vaults.keys().copied().collect();
                let mut recovered = Recovered {
                    budgets: budgets.len(),
                    ..Recovered::default()
                };
                for budget in budgets {
                    if tx.vaults.get(&budget).is_some_and(|vault| !vault.leases.is_empty()) {
                        let lost = tx.vault(budget)?.reclaim(&|_| false, unix_s);
                        recovered.reclaimed = recovered.reclaimed.saturating_add(lost);
                    }
                }
                Ok(recovered)
            })
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok((database, recovered))
    }

    /// This process, as leases name it.
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// Does `act` in one transaction, which is durable when this returns.
    ///
    /// # Errors
    /// It may or may not have happened: [`Database::recover`] says which.
    pub fn transact<T>(&mut self, act: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let connection = self.connection.as_mut().ok_or(rusqlite::Error::InvalidQuery)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = data_version(&transaction)?;
        if version != self.data_version {
            // Another process has written: an administrator's tool.
            self.vaults = load_vaults(&transaction)?;
            self.data_version = version;
        }
        let mut tx = Tx {
            sql: &transaction,
            vaults: &mut self.vaults,
            changed: HashMap::new(),
            undo: Vec::new(),
            holder: self.holder,
        };
        let answer = act(&mut tx)?;
        let changed = std::mem::take(&mut tx.changed);
        for (budget, vault) in &changed {
            if let Some(vault) = vault {
                save_vault(&transaction, *budget, tx.vaults.get(budget), vault)?;
            }
        }
        transaction.execute("UPDATE meta SET value = ?1 WHERE name = 'commits'", [self.commits + 1])?;
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
    pub fn recover(&mut self) -> rusqlite::Result<Recovery> {
        // Closed before it is opened again: the descriptor that failed must not be used.
        self.connection = None;
        let connection = connect(&self.path)?;
        // Writes all of the log into the file, through new pages, and syncs both.
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let commits: i64 =
            connection.query_row("SELECT value FROM meta WHERE name = 'commits'", [], |row| row.get(0))?;
        self.vaults = load_vaults(&connection)?;
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

impl Tx<'_> {
    /// Carries out a feeder's plan; of a budget that is gone, nothing.
    ///
    /// # Errors
    /// The file's.
    pub fn feed(&mut self, budget: i64, plan: &Plan, unix_s: u64) -> rusqlite::Result<Done> {
        let holder = self.holder;
        match self.vault(budget) {
            Ok(vault) => Ok(plan.apply(vault, holder, 1, unix_s)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(Done::default()),
            Err(error) => Err(error),
        }
    }

    /// A budget's vault, to be changed.
    ///
    /// # Errors
    /// There is no such budget.
    pub fn vault(&mut self, budget: i64) -> rusqlite::Result<&mut Vault> {
        self.undo.push((budget, self.changed.get(&budget).cloned()));
        let current = self.vaults.get(&budget);
        let entry = self.changed.entry(budget).or_insert_with(|| current.cloned());
        entry.as_mut().ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// A budget's vault as it stands.
    pub fn vault_now(&self, budget: i64) -> Option<&Vault> {
        match self.changed.get(&budget) {
            Some(changed) => changed.as_ref(),
            None => self.vaults.get(&budget),
        }
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

    /// Does `act`; what contradicts the file's rules is undone alone.
    ///
    /// # Errors
    /// Those of the file itself, which undo the whole transaction.
    pub fn within(
        &mut self,
        act: impl FnOnce(&mut Self) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Result<(), StoreError>> {
        self.undo.clear();
        self.sql.execute_batch("SAVEPOINT job")?;
        match act(self) {
            Ok(()) => {
                self.sql.execute_batch("RELEASE job")?;
                Ok(Ok(()))
            }
            Err(error) if is_files_fault(&error) => Err(error),
            Err(error) => {
                self.sql.execute_batch("ROLLBACK TO job; RELEASE job")?;
                for (budget, before) in self.undo.drain(..).rev() {
                    match before {
                        Some(before) => self.changed.insert(budget, before),
                        None => self.changed.remove(&budget),
                    };
                }
                Ok(Err(StoreError::Refused(describe(&error))))
            }
        }
    }
}

/// Whether an error is about the file rather than about what was asked.
fn is_files_fault(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return false;
    };
    matches!(
        failure.code,
        ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory
    )
}

fn describe(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::QueryReturnedNoRows => "there is no such thing".to_owned(),
        rusqlite::Error::SqliteFailure(_, Some(message)) if message.contains("scopes.name") => {
            "the name is taken".to_owned()
        }
        rusqlite::Error::ToSqlConversionFailure(error) => error.to_string(),
        error => error.to_string(),
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

fn load_vaults(connection: &Connection) -> rusqlite::Result<HashMap<i64, Vault>> {
    let mut vaults = HashMap::new();
    let sql = "SELECT id, limit_nanos, window, extra, period, spent, slices, seen_s FROM budgets";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let window: String = row.get(2)?;
        let slices: String = row.get(6)?;
        let vault = Vault {
            limit: NanoUsd(row.get(1)?),
            window: window.parse().map_err(|_| rusqlite::Error::InvalidQuery)?,
            extra: NanoUsd(row.get(3)?),
            period: row.get(4)?,
            spent: NanoUsd(row.get(5)?),
            slices: read_slices(&slices),
            leases: Vec::new(),
            seen_s: row.get(7)?,
        };
        vaults.insert(row.get(0)?, vault);
    }
    let mut statement = connection.prepare("SELECT budget, holder, period, amount FROM leases")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let lease = Lease {
            holder: row.get(1)?,
            period: row.get(2)?,
            amount: NanoUsd(row.get(3)?),
        };
        if let Some(vault) = vaults.get_mut(&row.get(0)?) {
            vault.leases.push(lease);
        }
    }
    Ok(vaults)
}

/// Writes what has changed. That time has passed is no change by itself.
fn save_vault(sql: &Connection, budget: i64, before: Option<&Vault>, vault: &Vault) -> rusqlite::Result<()> {
    let same = before.is_some_and(|before| {
        let as_before = Vault {
            seen_s: before.seen_s,
            ..vault.clone()
        };
        as_before == *before
    });
    if same {
        return Ok(());
    }
    let mut update = sql.prepare_cached(
        "UPDATE budgets SET limit_nanos = ?2, extra = ?3, period = ?4, spent = ?5, slices = ?6, seen_s = ?7 WHERE id = ?1",
    )?;
    update.execute(rusqlite::params![
        budget,
        vault.limit.0,
        vault.extra.0,
        vault.period,
        vault.spent.0,
        write_slices(vault),
        vault.seen_s
    ])?;
    let old = before.map_or(&[][..], |before| &before.leases);
    let key = |lease: &Lease| (lease.holder, lease.period);
    for lease in old
        .iter()
        .filter(|lease| !vault.leases.iter().any(|kept| key(kept) == key(lease)))
    {
        let mut delete = sql.prepare_cached("DELETE FROM leases WHERE budget = ?1 AND holder = ?2 AND period = ?3")?;
        delete.execute(rusqlite::params![budget, lease.holder, lease.period])?;
    }
    for lease in vault.leases.iter().filter(|lease| !old.contains(lease)) {
        let mut upsert = sql.prepare_cached(
            "INSERT INTO leases VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET amount = excluded.amount",
        )?;
        upsert.execute(rusqlite::params![budget, lease.holder, lease.period, lease.amount.0])?;
    }
    Ok(())
}

fn write_slices(vault: &Vault) -> String {
    let slices = vault
        .slices
        .iter()
        .map(|(slice, amount)| format!("{slice}:{}", amount.0));
    slices.collect::<Vec<_>>().join(" ")
}

fn read_slices(text: &str) -> std::collections::VecDeque<(u64, NanoUsd)> {
    let pair = |pair: &str| {
        let (slice, amount) = pair.split_once(':')?;
        Some((slice.parse().ok()?, NanoUsd(amount.parse().ok()?)))
    };
    text.split(' ').filter_map(pair).collect()
}
