//! Entries of the ledger on their way to the store.
//!
//! Invariants: they are written beside all else that the store is asked, some at a time, so that neither leases nor changes wait
//! until a backlog is gone; an entry is kept until the store has it, up to a bound, beyond which entries are dropped and counted;
//! one task writes at a time. Deliberately absent: what an entry is (`store/ledger.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::PERIOD;
use crate::control::store::{Entry, Store, StoreError};

/// Entries that wait for the store at most: some seconds' worth.
const ENTRIES_MAX: usize = 100_000;
/// Entries that one transaction writes at most.
const ENTRIES_AT_ONCE: usize = 2_000;

/// Entries of the ledger that the store does not have yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: Mutex<Vec<Entry>>,
    dropped: AtomicU64,
    /// Held by whoever writes: what is written is removed only afterwards.
    writing: tokio::sync::Mutex<()>,
}

impl Pending {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        act(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds some, as far as there is room.
    pub(super) fn add(&self, mut entries: Vec<Entry>) {
        let lost = self.with(|waiting| {
            let room = ENTRIES_MAX.saturating_sub(waiting.len());
            let lost = entries.len().saturating_sub(room);
            entries.truncate(room);
            waiting.append(&mut entries);
            lost
        });
        self.lose(lost);
    }

    /// Has the store write the oldest of them; whether there may be more.
    pub(super) async fn write(&self, store: &Store) -> Result<bool, StoreError> {
        let _turn = self.writing.lock().await;
        let entries: Arc<[Entry]> = self.with(|waiting| waiting[..waiting.len().min(ENTRIES_AT_ONCE)].into());
        let count = entries.len();
        if count == 0 {
            return Ok(false);
        }
        match store.record(entries).await {
            Ok(()) => {}
            Err(StoreError::Refused(why)) => {
                tracing::error!(why, "the store refuses entries of the ledger");
                self.lose(count);
            }
            Err(error) => return Err(error),
        }
        // Only now: what the store does not have is not forgotten here. Others add at the end meanwhile.
        self.with(|waiting| drop(waiting.drain(..count)));
        Ok(count == ENTRIES_AT_ONCE)
    }

    /// Writes what comes, until the store is closed.
    pub(super) async fn write_all(self: Arc<Self>, store: Arc<Store>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            loop {
                match self.write(&store).await {
                    Ok(true) => {}
                    Err(StoreError::Closed) => return,
                    Ok(false) | Err(_) => break,
                }
            }
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.with(|waiting| waiting.len())
    }

    /// How many were lost, because the store did not follow.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lose(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}
