//! The store: virtual keys, budgets and the ledger of requests, in one SQLite file or in PostgreSQL, on a thread of its own.
//!
//! Invariants: whoever asks is answered after what he asked for is durable, and never before; everything that is asked while
//! a transaction is under way goes into the next one, which is one `fsync` for all of it; a transaction that fails is
//! carried out again, on a new descriptor or connection, after its outcome is known, so that nothing happens twice. No core
//! ever waits for this thread. The ledger has transactions of its own, after whatever else is asked: leases and changes wait
//! for one of them at most, and no budget is locked while requests are written down. A SQLite file belongs to one process, which a lock sees to, and to the one that takes over from it;
//! PostgreSQL to any number.
//! Deliberately absent: what is done within a transaction (`rows.rs`, `ledger.rs`), which is the same for both.

mod counts;
mod ledger;
mod postgres;
mod requests;
mod rows;
mod schema;
pub mod sql;
mod sqlite;
mod tx;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use sluice_policy::budget::{Done, Holder, Plan};
use sluice_policy::money::NanoUsd;
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::counts::{Counts, Other, Told, Word};
pub use self::ledger::{Entry, GroupBy, SpendQuery, SpendRow};
use self::postgres::Server;
pub use self::requests::{REQUESTS_MAX, RequestQuery, RequestRow};
pub use self::rows::{AuditRow, BudgetRow, Change, LimitRow, NewKey, ScopeKind, ScopeRow, Scopes};
pub use self::sql::{Error, Result};
use self::sqlite::File;
pub use self::tx::Tx;

/// Requests that wait while a transaction is under way; whoever asks beyond them waits as well.
const QUEUE: usize = 256;
/// How long a store that has failed is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// Attempts at a transaction that others are quicker than, before it counts as a failure.
const CONFLICTS_MAX: u32 = 100;

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// What was asked contradicts what is stored; nothing was changed.
    Refused(String),
    /// Others have taken this process for dead, and what it had leased for spent. It goes on under another name.
    Fenced,
    /// The store is closed.
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Fenced => Error::Fenced.fmt(f),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What is known of the store from outside its thread.
#[derive(Debug)]
pub struct Health {
    failing: AtomicBool,
    failures: AtomicU64,
    transactions: AtomicU64,
    holder: AtomicU64,
    /// Number of the latest change to customers, teams, keys, budgets or limits; negative as long as none is known.
    changes: AtomicI64,
    changed: Notify,
}

/// What a start has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What processes that are gone had leased and not reported, over all budgets; it counts as spent.
    pub reclaimed: NanoUsd,
    /// Budgets.
    pub budgets: usize,
}

/// What became of a transaction that failed.
#[derive(Debug, PartialEq, Eq)]
enum Recovery {
    /// It has happened all the same, and is durable.
    Applied,
    /// It has not happened.
    NotApplied,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            failing: AtomicBool::default(),
            failures: AtomicU64::default(),
            transactions: AtomicU64::default(),
            holder: AtomicU64::default(),
            changes: AtomicI64::new(-1),
            changed: Notify::default(),
        }
    }
}

impl Health {
    /// Whether the store cannot be written now.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Transactions that failed, and all that succeeded.
    pub fn counts(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.failures), of(&self.transactions))
    }

    fn works(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the store can be written again");
        }
    }

    fn fails(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the store cannot be written; budgets go on with what they have leased");
        }
    }

    /// Somebody has made the change of that number.
    fn has_changed(&self, number: i64) {
        let known = self.changes.fetch_max(number, Ordering::AcqRel);
        if known >= 0 && number > known {
            self.changed.notify_one();
        }
    }

    /// This process has, and knows.
    fn have_changed(&self, number: i64) {
        let known = self.changes.fetch_max(number, Ordering::AcqRel);
        if number > known + 1 {
            self.changed.notify_one();
        }
    }
}

/// A store of either kind, on its thread.
enum Database {
    File(Box<File>),
    Server(Box<Server>),
}

impl Database {
    fn holder(&self) -> Holder {
        match self {
            Self::File(file) => file.holder(),
            Self::Server(server) => server.holder(),
        }
    }

    /// Waits for jobs; `false` when there will be none.
    fn receive<T>(&mut self, queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>) -> bool {
        match self {
            Self::File(_) => queue.blocking_recv_many(batch, QUEUE) > 0,
            Self::Server(server) => server.receive(queue, batch, QUEUE),
        }
    }

    fn transact<T>(&mut self, act: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        match self {
            Self::File(file) => file.transact(act),
            Self::Server(server) => server.transact(act),
        }
    }

    fn recover(&mut self) -> Result<Recovery> {
        match self {
            Self::File(file) => file.recover(),
            Self::Server(server) => server.recover(),
        }
    }

    fn close(self) {
        match self {
            Self::File(file) => file.close(),
            Self::Server(server) => server.close(unix_s()),
        }
    }
}

/// One thing to do within a transaction.
trait Job: Send {
    /// Does it, possibly again after a transaction that came to nothing.
    fn apply(&mut self, tx: &mut Tx<'_>) -> Result<()>;
    /// Whether everything else comes first.
    fn is_patient(&self) -> bool;
    /// Tells whoever asked.
    fn tell(self: Box<Self>, outcome: Outcome);
}

type Outcome = std::result::Result<(), StoreError>;

struct Ask<T, F> {
    act: F,
    answer: Option<T>,
    is_patient: bool,
    reply: oneshot::Sender<std::result::Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&mut Tx<'_>) -> Result<T> + Send> Job for Ask<T, F> {
    fn apply(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        self.answer = Some((self.act)(tx)?);
        Ok(())
    }

    fn is_patient(&self) -> bool {
        self.is_patient
    }

    fn tell(self: Box<Self>, outcome: Outcome) {
        let Self { answer, reply, .. } = *self;
        // Whoever asked may have gone.
        let _ = reply.send(outcome.and_then(|()| answer.ok_or(StoreError::Closed)));
    }
}

/// The way to the store's thread.
pub struct Store {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    health: Arc<Health>,
    stop: Arc<AtomicBool>,
    is_shared: bool,
}

impl Store {
    /// Opens a store: a URL that begins with `postgres://` or `postgresql://` is PostgreSQL, anything else the path of a
    /// SQLite file, of which the process that has it may be one that this one takes over from, and so `joins`. Blocks.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Store::connect`].
    pub fn at(location: &str, unix_s: u64, joins: bool) -> anyhow::Result<(Self, Recovered)> {
        if ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| location.starts_with(scheme))
        {
            Self::connect(location, unix_s)
        } else {
            Self::open(Path::new(location), unix_s, joins)
        }
    }

    /// Opens the file, or makes it; counts what processes that are gone had leased as spent. Blocks.
    ///
    /// # Errors
    /// It cannot be opened, is in use by a process that this one does not join, or is of a later version.
    pub fn open(path: &Path, unix_s: u64, joins: bool) -> anyhow::Result<(Self, Recovered)> {
        let path = path.to_owned();
        Self::start(false, move |_| {
            let (file, recovered) = File::open(&path, unix_s, joins)?;
            Ok((Database::File(Box::new(file)), recovered))
        })
    }

    /// Connects to PostgreSQL, as one of the processes that share it. Blocks for some seconds at most.
    ///
    /// # Errors
    /// The server cannot be reached or refuses, or the store is of a later version.
    pub fn connect(url: &str, unix_s: u64) -> anyhow::Result<(Self, Recovered)> {
        Self::connect_with(url, unix_s, postgres::PATIENCE)
    }

    fn connect_with(url: &str, unix_s: u64, patience: Duration) -> anyhow::Result<(Self, Recovered)> {
        let url = url.to_owned();
        Self::start(true, move |health| {
            let (server, recovered) = Server::connect(&url, unix_s, patience, health)?;
            Ok((Database::Server(Box::new(server)), recovered))
        })
    }

    /// Opens the store on its own thread: a connection belongs to the runtime that it was made in.
    fn start(
        is_shared: bool,
        open: impl FnOnce(Arc<Health>) -> anyhow::Result<(Database, Recovered)> + Send + 'static,
    ) -> anyhow::Result<(Self, Recovered)> {
        let health = Arc::new(Health::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (opened, wait) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("store".into()).spawn({
            let (health, stop) = (health.clone(), stop.clone());
            move || match open(health.clone()) {
                Ok((database, recovered)) => {
                    health.holder.store(database.holder(), Ordering::Release);
                    // Whoever opens waits for this.
                    let _ = opened.send(Ok(recovered));
                    run(database, queue, &health, &stop);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        let recovered = wait.recv().context("the store's thread has ended")??;
        let store = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            health,
            stop,
            is_shared,
        };
        Ok((store, recovered))
    }

    /// This process, as leases name it now.
    pub fn holder(&self) -> Holder {
        self.health.holder.load(Ordering::Acquire)
    }

    /// Whether several processes may have it at the same time.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// How it is.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Waits until another process has changed customers, teams, keys, budgets or limits.
    pub async fn changed(&self) {
        self.health.changed.notified().await;
    }

    /// Does `act` within a transaction and answers when that is durable. `act` may be called again if a transaction came to
    /// nothing.
    ///
    /// # Errors
    /// What is asked contradicts what is stored, or the store is closed.
    pub async fn ask<T, F>(&self, act: F) -> std::result::Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.ask_with(act, false).await
    }

    async fn ask_with<T, F>(&self, act: F, is_patient: bool) -> std::result::Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Ask {
            act,
            answer: None,
            is_patient,
            reply,
        };
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(Box::new(job)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Carries out what `holder`'s feeders have planned, by the budgets' rows.
    ///
    /// # Errors
    /// The store is closed, or the holder was taken for dead.
    pub async fn feed(
        &self,
        holder: Holder,
        plans: Arc<[(i64, Plan)]>,
        unix_s: u64,
    ) -> std::result::Result<Vec<Done>, StoreError> {
        self.ask(move |tx| tx.feed(holder, &plans, unix_s)).await
    }

    /// Adds requests to the ledger and to its hourly sums.
    ///
    /// # Errors
    /// The store is closed.
    pub async fn record(&self, entries: Arc<[Entry]>) -> std::result::Result<(), StoreError> {
        self.ask_with(move |tx| tx.record(&entries), true).await
    }

    /// Ends the thread after what it was asked so far; what it cannot write then is lost to it. Blocks.
    pub fn close(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(mut database: Database, mut queue: mpsc::Receiver<Box<dyn Job>>, health: &Health, stop: &AtomicBool) {
    let mut batch = Vec::new();
    while database.receive(&mut queue, &mut batch) {
        let mut patient: Vec<_> = batch.extract_if(.., |job| job.is_patient()).collect();
        for jobs in [&mut batch, &mut patient] {
            if jobs.is_empty() {
                continue;
            }
            let outcomes = carry_out(&mut database, jobs, health, stop);
            health.holder.store(database.holder(), Ordering::Release);
            for (job, outcome) in jobs.drain(..).zip(outcomes) {
                job.tell(outcome);
            }
        }
    }
    database.close();
}

/// Carries out a batch in one transaction, and again until it is done or the process ends.
fn carry_out(database: &mut Database, batch: &mut [Box<dyn Job>], health: &Health, stop: &AtomicBool) -> Vec<Outcome> {
    let mut conflicts = 0;
    loop {
        let mut outcomes = Vec::new();
        let transaction = database.transact(|tx| {
            outcomes.clear();
            for job in batch.iter_mut() {
                outcomes.push(tx.within(|tx| job.apply(tx))?);
            }
            Ok(())
        });
        match transaction {
            Ok(()) => {
                health.transactions.fetch_add(1, Ordering::Relaxed);
                health.works();
                return outcomes;
            }
            Err(Error::Conflict(_)) if conflicts < CONFLICTS_MAX => {
                conflicts += 1;
                std::thread::sleep(Duration::from_millis(fastrand::u64(0..=conflicts.into())));
                continue;
            }
            Err(error) => health.fails(&error),
        }
        loop {
            match database.recover() {
                Ok(Recovery::Applied) => {
                    health.works();
                    return outcomes;
                }
                Ok(Recovery::NotApplied) if !stop.load(Ordering::Acquire) => break,
                Err(error) if !stop.load(Ordering::Acquire) => {
                    tracing::debug!(%error, "the store cannot be opened");
                    std::thread::sleep(PAUSE);
                }
                _ => return batch.iter().map(|_| Err(StoreError::Closed)).collect(),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(super) mod tests;
