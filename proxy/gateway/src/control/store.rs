//! The store: virtual keys, budgets and the ledger of requests, in one SQLite file, on a thread of its own.
//!
//! Invariants: whoever asks is answered after what he asked for is durable, and never before; everything that is asked while
//! a transaction is under way goes into the next one, which is one `fsync` for all of it; a transaction that fails is
//! carried out again, on a new descriptor, after its outcome is known, so that nothing happens twice. No core ever waits for
//! this thread. Deliberately absent: several machines on one store; a second process is kept out by a lock.

mod database;
mod ledger;
mod rows;
mod schema;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_policy::budget::{Done, Holder, Plan};
use tokio::sync::{mpsc, oneshot};

use self::database::{Database, Recovery};
pub use self::database::{Recovered, Tx};
pub use self::ledger::{Entry, GroupBy, SpendQuery, SpendRow};
pub use self::rows::{AuditRow, BudgetRow, Change, LimitRow, NewKey, ScopeKind, ScopeRow, Scopes};

/// Requests that wait while a transaction is under way; whoever asks beyond them waits as well.
const QUEUE: usize = 256;
/// How long a store that has failed is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// What was asked contradicts what is stored; nothing was changed.
    Refused(String),
    /// The store is closed.
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What is known of the store from outside its thread.
#[derive(Debug, Default)]
pub struct Health {
    failing: AtomicBool,
    failures: AtomicU64,
    transactions: AtomicU64,
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
}

/// One thing to do within a transaction.
trait Job: Send {
    /// Does it, possibly again after a transaction that came to nothing.
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// Tells whoever asked.
    fn tell(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Ask<T, F> {
    act: F,
    answer: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send> Job for Ask<T, F> {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.answer = Some((self.act)(tx)?);
        Ok(())
    }

    fn tell(self: Box<Self>, outcome: Result<(), StoreError>) {
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
    holder: Holder,
}

impl Store {
    /// Opens the file, or makes it; counts what earlier processes had leased as spent. Blocks.
    ///
    /// # Errors
    /// It cannot be opened, is in use by another process, or is of a later version.
    pub fn open(path: &Path, unix_s: u64) -> anyhow::Result<(Self, Recovered)> {
        let (database, recovered) = Database::open(path, unix_s)?;
        let holder = database.holder();
        let health = Arc::new(Health::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("store".into()).spawn({
            let (health, stop) = (health.clone(), stop.clone());
            move || run(database, queue, &health, &stop)
        })?;
        let store = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            health,
            stop,
            holder,
        };
        Ok((store, recovered))
    }

    /// This run of the process, as leases name it.
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// How it is.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Does `act` within a transaction and answers when that is durable. `act` may be called again if a transaction came to
    /// nothing.
    ///
    /// # Errors
    /// What is asked contradicts what is stored, or the store is closed.
    pub async fn ask<T, F>(&self, act: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Ask {
            act,
            answer: None,
            reply,
        };
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(Box::new(job)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Carries out what feeders have planned, by the budgets' rows.
    ///
    /// # Errors
    /// The store is closed.
    pub async fn feed(&self, plans: Arc<[(i64, Plan)]>, unix_s: u64) -> Result<Vec<Done>, StoreError> {
        self.ask(move |tx| {
            plans
                .iter()
                .map(|(budget, plan)| tx.feed(*budget, plan, unix_s))
                .collect()
        })
        .await
    }

    /// Adds requests to the ledger and to its hourly sums.
    ///
    /// # Errors
    /// The store is closed.
    pub async fn record(&self, entries: Arc<[Entry]>) -> Result<(), StoreError> {
        self.ask(move |tx| tx.record(&entries)).await
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
    while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let outcomes = carry_out(&mut database, &mut batch, health, stop);
        for (job, outcome) in batch.drain(..).zip(outcomes) {
            job.tell(outcome);
        }
    }
    database.close();
}

/// Carries out a batch in one transaction, and again until it is done or the process ends.
fn carry_out(
    database: &mut Database,
    batch: &mut [Box<dyn Job>],
    health: &Health,
    stop: &AtomicBool,
) -> Vec<Result<(), StoreError>> {
    loop {
        let mut outcomes = Vec::new();
        let transaction = database.transact(|tx| {
            outcomes.clear();
            for job in batch.iter_mut() {
                outcomes.push(tx.within(|tx| job.apply(tx))?);
            }
            Ok(())
        });
        let Err(error) = transaction else {
            health.transactions.fetch_add(1, Ordering::Relaxed);
            health.failing.store(false, Ordering::Relaxed);
            return outcomes;
        };
        health.failures.fetch_add(1, Ordering::Relaxed);
        if !health.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the store cannot be written; budgets go on with what they have leased");
        }
        loop {
            match database.recover() {
                Ok(Recovery::Applied) => {
                    health.failing.store(false, Ordering::Relaxed);
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

#[cfg(test)]
mod tests;
