//! [`Server`]: the store in PostgreSQL, shared by several processes ("replicas").
//!
//! Each replica has a row in `replicas`. Every transaction begins with `UPDATE replicas … WHERE NOT gone RETURNING`, which says
//! that it is alive, numbers the transaction, and fails if others have taken it for dead; and ends with `UPDATE budgets …
//! WHERE version = … RETURNING`, which fails if anyone else has changed a budget that it read. So a lease is granted only by a
//! replica that is not fenced off, from a state that is still true.
//!
//! Invariants: a replica is taken for dead only after its row has not changed for [`Server::patience`] on the clock of one that
//! could reach the database all that time, so that an outage kills nobody; what it had leased then counts as spent, in the
//! transaction that fences it off; whether a transaction that failed has happened is asked on a new connection, under the row
//! lock that the failed one would hold. Deliberately absent: failover between servers, which is PostgreSQL's to do; it must
//! not lose what was committed.

mod link;
mod tls;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sluice_policy::budget::{Holder, Vault};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

use self::link::Connector;
pub use self::link::{Link, Which};
use super::sql::{Error, Result, Sql, Value, values};
use super::tx::{self, Tx};
use super::{Health, Recovered, Recovery, schema};

/// How often a replica says that it is alive, and looks whether others have changed something.
const BEAT: Duration = Duration::from_secs(1);
/// How long a replica may be silent.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A longer time without an answer from the database says nothing about others.
const GAP: Duration = Duration::from_secs(3);

/// A store in PostgreSQL.
pub struct Server {
    runtime: Rc<Runtime>,
    connector: Connector,
    link: Option<Link>,
    holder: Holder,
    /// Number of the last transaction that is known to have happened.
    commits: i64,
    /// Whether a beat may or may not have happened, so that `commits` is not known.
    unsettled: bool,
    health: Arc<Health>,
    patience: Duration,
    next_beat: Instant,
    heard: Instant,
    /// Of each other replica: its last beat, and when that was first seen.
    others: HashMap<Holder, (i64, Instant)>,
}

impl Server {
    /// Connects, as a new replica; counts what replicas that are gone had leased as spent. Blocks for some seconds at most.
    ///
    /// # Errors
    /// The URL is none, the server cannot be reached or refuses, or the store is of a later version.
    pub fn connect(
        url: &str,
        unix_s: u64,
        patience: Duration,
        health: Arc<Health>,
    ) -> anyhow::Result<(Self, Recovered)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let runtime = Rc::new(runtime);
        let connector = Connector::new(url, runtime.clone(), health.clone())?;
        let link = connector.connect().context("cannot use the PostgreSQL store")?;
        let sql = Sql::Postgres(&link);
        schema::migrate_postgres(sql).context("cannot use the PostgreSQL store")?;
        sql.batch("DELETE FROM replicas WHERE gone = 1 AND since < now() - interval '7 days'")?;
        let now = Instant::now();
        let mut server = Self {
            runtime,
            connector,
            link: Some(link),
            holder: 0,
            commits: 0,
            unsettled: false,
            health,
            patience,
            next_beat: now + BEAT,
            heard: now,
            others: HashMap::new(),
        };
        server.register()?;
        let recovered = server.transact(|tx| {
            let budgets = tx.sql.one("SELECT count(*) FROM budgets", &[])?.get::<u64>(0)?;
            Ok(Recovered {
                reclaimed: reclaim(tx, unix_s)?,
                budgets: usize::try_from(budgets).unwrap_or(usize::MAX),
            })
        })?;
        Ok((server, recovered))
    }

    /// This process, as leases name it.
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// Waits for jobs; `false` when there will be none. Meanwhile, says that it is alive, and counts what the dead have leased.
    pub fn receive<T>(&mut self, queue: &mut Receiver<T>, batch: &mut Vec<T>, most: usize) -> bool {
        loop {
            let now = Instant::now();
            if now >= self.next_beat {
                self.beat();
                self.next_beat = Instant::now() + BEAT;
            }
            let wait = self.next_beat.saturating_duration_since(Instant::now());
            let received = tokio::time::timeout(wait, queue.recv_many(batch, most));
            // Meanwhile the connection hears what others have changed.
            if let Ok(count) = self.runtime.block_on(async { received.await }) {
                return count > 0;
            }
        }
    }

    /// Does `act` in one transaction, which is durable when this returns.
    ///
    /// # Errors
    /// After a conflict nothing has happened, and it can be tried again; after any other, [`Server::recover`] says.
    pub fn transact<T>(&mut self, act: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let done = self.attempt(act);
        let link = self.link.as_ref();
        match &done {
            Ok(_) => {
                self.commits += 1;
                self.heard = Instant::now();
            }
            Err(Error::Conflict(_) | Error::Fenced) => {
                let rolled_back = link.map_or(Ok(()), |link| link.batch("ROLLBACK"));
                rolled_back?;
                if matches!(done, Err(Error::Fenced)) {
                    self.register()?;
                    return Err(Error::Conflict("this replica was taken for dead".to_owned()));
                }
            }
            Err(_) => {}
        }
        done
    }

    fn attempt<T>(&mut self, act: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let unconnected = || Error::Fault("there is no connection to the database".to_owned());
        let link = self.link.as_ref().ok_or_else(unconnected)?;
        let sql = Sql::Postgres(link);
        link.begin()?;
        let alive = sql.query(
            "UPDATE replicas SET beat = beat + 1, commits = ?2 WHERE id = ?1 AND gone = 0 RETURNING
             (SELECT value FROM meta WHERE name = 'changes'), (SELECT count(*) FROM replicas WHERE gone = 0)",
            values![self.holder, self.commits + 1],
        )?;
        let alive = alive.first().ok_or(Error::Fenced)?;
        self.health.has_changed(alive.get(0)?);
        let mut vaults = HashMap::new();
        let mut tx = Tx::new(sql, &mut vaults, self.holder, alive.get(1)?);
        let answer = act(&mut tx)?;
        let (changed, is_change) = (std::mem::take(&mut tx.changed), tx.is_change);
        save(link, &vaults, &changed)?;
        if !is_change {
            link.batch("COMMIT")?;
            return Ok(answer);
        }
        let raise = "UPDATE meta SET value = value + 1 WHERE name = 'changes' RETURNING value";
        let number: i64 = sql.one(raise, &[])?.get(0)?;
        sql.query("SELECT 1 FROM pg_notify('sluice', ?1)", values![number.to_string()])?;
        link.batch("COMMIT")?;
        self.health.have_changed(number);
        Ok(answer)
    }

    /// Connects anew after a transaction has failed.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub fn recover(&mut self) -> Result<Recovery> {
        self.link = None;
        let link = self.connector.connect()?;
        // The transaction that failed may still be under way: it holds this row until it ends.
        let found = Sql::Postgres(&link).query(
            "UPDATE replicas SET beat = beat + 1 WHERE id = ?1 RETURNING commits",
            values![self.holder],
        )?;
        self.link = Some(link);
        let commits = found.first().map_or(Ok(0), |row| row.get(0))?;
        if std::mem::take(&mut self.unsettled) {
            // What failed was a beat; nobody asks what became of it.
            self.commits = commits;
        } else if commits > self.commits {
            self.commits = commits;
            return Ok(Recovery::Applied);
        }
        Ok(Recovery::NotApplied)
    }

    /// As if the last transaction had failed without a word of what became of it.
    #[cfg(test)]
    pub fn forget_last_commit(&mut self) {
        self.commits -= 1;
    }

    /// Counts its leases as spent, if any are left, and says that it is gone.
    pub fn close(mut self, unix_s: u64) {
        let holder = self.holder;
        let closed = self.transact(|tx| {
            let gone = "UPDATE replicas SET gone = 1 WHERE id = ?1";
            tx.sql.execute(gone, values![holder])?;
            reclaim(tx, unix_s)
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the store was not closed in order; others will notice");
        }
    }

    fn register(&mut self) -> Result<()> {
        let link = self.link.as_ref().ok_or(Error::Missing)?;
        let row = Sql::Postgres(link).one("INSERT INTO replicas DEFAULT VALUES RETURNING id", &[])?;
        (self.holder, self.commits) = (row.get(0)?, 0);
        Ok(())
    }

    fn beat(&mut self) {
        if self.link.is_none() && self.recover().is_err() {
            return;
        }
        let now = Instant::now();
        if now - self.heard > GAP {
            self.others.clear();
        }
        let (own, patience) = (self.holder, self.patience);
        let mut others = std::mem::take(&mut self.others);
        let beat = self.transact(|tx| {
            let fenced = fence_silent(tx, own, &mut others, patience, now)?;
            if fenced == 0 {
                return Ok(());
            }
            let lost = reclaim(tx, super::unix_s())?;
            tracing::warn!(replicas = fenced, %lost, "replicas are gone; what they had leased counts as spent");
            Ok(())
        });
        self.others = others;
        match beat {
            Ok(()) => self.health.works(),
            Err(Error::Conflict(_)) => {}
            Err(error) => {
                self.health.fails(&error);
                // The next beat, or the next job, connects anew.
                self.link = None;
                self.unsettled = true;
            }
        }
    }
}

/// Fences those off that have been silent for too long; how many.
fn fence_silent(
    tx: &Tx<'_>,
    own: Holder,
    others: &mut HashMap<Holder, (i64, Instant)>,
    patience: Duration,
    now: Instant,
) -> Result<u64> {
    let rows = tx.sql.query("SELECT id, beat FROM replicas WHERE gone = 0", &[])?;
    let mut seen = HashMap::new();
    let mut fenced = 0;
    for row in rows {
        let (id, beat) = (row.get::<u64>(0)?, row.get::<i64>(1)?);
        let since = match others.get(&id) {
            Some((last, since)) if *last == beat => *since,
            _ => now,
        };
        if id != own && now - since > patience {
            let fence = "UPDATE replicas SET gone = 1 WHERE id = ?1 AND beat = ?2 AND gone = 0";
            fenced += tx.sql.execute(fence, values![id, beat])?;
        } else {
            seen.insert(id, (beat, since));
        }
    }
    *others = seen;
    Ok(fenced)
}

/// Counts what replicas that are gone had leased as spent.
fn reclaim(tx: &mut Tx<'_>, unix_s: u64) -> Result<sluice_policy::money::NanoUsd> {
    let Sql::Postgres(link) = tx.sql else {
        return Ok(Default::default());
    };
    let rows = tx.sql.query("SELECT id FROM replicas WHERE gone = 0", &[])?;
    let live: HashSet<Holder> = rows.iter().map(|row| row.get(0)).collect::<Result<_>>()?;
    let is_live = |holder: Holder| live.contains(&holder);
    let leased = link.vaults(Which::Leased, false)?;
    let has_dead = |vault: &Vault| vault.leases.iter().any(|lease| !is_live(lease.holder));
    let mut budgets: Vec<i64> = leased.iter().filter(|(_, vault)| has_dead(vault)).map(|(id, _)| *id).collect();
    budgets.sort_unstable();
    tx.read(&budgets)?;
    let mut total = sluice_policy::money::NanoUsd::ZERO;
    for budget in budgets {
        match tx.vault(budget) {
            Ok(vault) => total = total.saturating_add(vault.reclaim(&is_live, unix_s)),
            Err(Error::Missing) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Writes what has changed, if all of it is still what was read.
fn save(link: &Link, read: &HashMap<i64, Vault>, changed: &HashMap<i64, Option<Vault>>) -> Result<()> {
    let mut vaults: Vec<(i64, &Vault)> = changed
        .iter()
        .filter_map(|(budget, vault)| Some((*budget, vault.as_ref()?)))
        .filter(|(budget, vault)| !tx::is_same(read.get(budget), vault))
        .collect();
    // Everybody writes in the same order, so that nobody waits for one who waits for him.
    vaults.sort_unstable_by_key(|(budget, _)| *budget);
    let all = |of: &dyn Fn(&Vault) -> Value<'static>| vaults.iter().map(|(_, vault)| of(vault)).collect::<Vec<_>>();
    let columns = [
        vaults.iter().map(|(budget, _)| Value::from(*budget)).collect(),
        vaults.iter().map(|(budget, _)| Value::from(link.version(*budget))).collect(),
        all(&|vault| vault.limit.0.into()),
        all(&|vault| vault.extra.0.into()),
        all(&|vault| vault.period.into()),
        all(&|vault| vault.spent.0.into()),
        all(&|vault| tx::write_slices(vault).into()),
        all(&|vault| vault.seen_s.into()),
        all(&|vault| tx::write_leases(vault).into()),
    ];
    if vaults.is_empty() || link.save(columns)? == vaults.len() {
        return Ok(());
    }
    Err(Error::Conflict("another replica has changed a budget".to_owned()))
}
