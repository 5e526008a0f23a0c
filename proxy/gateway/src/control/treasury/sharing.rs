//! Rate limits of several processes that share a store: each says what it has counted, and hears what the others have.
//!
//! Invariants: what others have counted is known [`PERIOD`] after they have said it, which they do once in every [`PERIOD`], so
//! that a limit is exceeded by what all but one admit in twice that time, and no more; while the store cannot be reached, what
//! is known stops counting when its time is over; nobody who asks for leases waits for this. Deliberately absent: a promise to
//! the last request, which would need leases as budgets have them, and false refusals with them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sluice_policy::budget::Holder;
use sluice_policy::rate::Unit;
use tokio::sync::oneshot;

use super::{Limiters, lock};
use crate::control::store::{Counts, Other, Store, StoreError, Told, Word};

/// How often.
const PERIOD: Duration = Duration::from_millis(500);

type News = Result<HashMap<Holder, Other>, StoreError>;
type Asked = Pin<Box<dyn Future<Output = News> + Send>>;

/// One process among several.
pub(super) struct Sharing {
    store: Arc<Store>,
    limiters: Limiters,
    clock: fn() -> u64,
    holder: Holder,
    retired: Vec<Holder>,
    version: i64,
    /// What the others know of this one.
    told: HashMap<i64, Counts>,
    others: HashMap<Holder, Other>,
}

impl Sharing {
    /// Hears what is known of these limits.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn start(store: Arc<Store>, limiters: Limiters, clock: fn() -> u64) -> Result<Self, StoreError> {
        let mut sharing = Self {
            holder: store.holder(),
            store,
            limiters,
            clock,
            retired: Vec::new(),
            version: 0,
            told: HashMap::new(),
            others: HashMap::new(),
        };
        let news = sharing.say().await;
        sharing.hear(news)?;
        Ok(sharing)
    }

    /// Goes on until told to end, and then says how things stand for the last time.
    pub(super) async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asked: Option<Asked> = None;
        loop {
            let news = async {
                match &mut asked {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = news => {
                    asked = None;
                    if self.hear(news) == Err(StoreError::Closed) {
                        return;
                    }
                }
                _ = tick.tick() => {
                    // What others have counted passes, also while the store is silent.
                    self.apply();
                    if asked.is_none() && self.has_to_ask() {
                        asked = Some(self.say());
                    }
                }
                _ = &mut end => break,
            }
        }
        if let Some(asked) = asked {
            let _ = self.hear(asked.await);
        }
        if self.has_to_ask() {
            let _ = self.say().await;
        }
    }

    fn has_to_ask(&self) -> bool {
        !self.told.is_empty() || !lock(&self.limiters).is_empty()
    }

    /// Says what has changed, and asks what is new.
    fn say(&mut self) -> Asked {
        let now_s = (self.clock)();
        let mut told = Vec::new();
        {
            let limiters = lock(&self.limiters);
            self.told.retain(|row, _| limiters.contains_key(row));
            for (&limit, limiter) in limiters.iter() {
                let counted = limiter.shared(now_s);
                if self.told.get(&limit).map_or(&[][..], Vec::as_slice) != counted {
                    self.told.insert(limit, counted.clone());
                    let until_s = limiter.counts_until_s(now_s);
                    told.push(Told {
                        limit,
                        counted,
                        until_s,
                    });
                }
            }
        }
        self.version += 1;
        let word = Arc::new(Word {
            holder: self.holder,
            retired: self.retired.clone(),
            version: self.version,
            told,
            heard: self
                .others
                .iter()
                .map(|(holder, other)| (*holder, other.version))
                .collect(),
        });
        let store = self.store.clone();
        Box::pin(async move { store.ask(move |tx| tx.share_counts(&word)).await })
    }

    fn hear(&mut self, news: News) -> Result<(), StoreError> {
        match news {
            Ok(news) => {
                self.retired.clear();
                self.others.retain(|holder, _| news.contains_key(holder));
                for (holder, new) in news {
                    let other = self.others.entry(holder).or_default();
                    (other.is_alive, other.version) = (new.is_alive, new.version);
                    other.counts.extend(new.counts);
                }
                self.apply();
                Ok(())
            }
            Err(StoreError::Fenced) => {
                // What was said under the old name would count twice beside what will be under the new one.
                self.retired.push(self.holder);
                self.holder = self.store.holder();
                self.told.clear();
                Ok(())
            }
            Err(error) => {
                if error != StoreError::Closed {
                    tracing::warn!(%error, "rate limits do not know what other replicas have counted");
                }
                // All of it is said again.
                self.told.clear();
                Err(error)
            }
        }
    }

    /// Has what the others have counted count here.
    fn apply(&self) {
        let now_s = (self.clock)();
        for (row, limiter) in lock(&self.limiters).iter() {
            let is_counted = |other: &&Other| other.is_alive || limiter.unit() != Unit::Concurrent;
            let others = self.others.values().filter(is_counted);
            let counts = others.filter_map(|other| other.counts.get(row)).flatten();
            limiter.counts_elsewhere(counts.copied(), now_s);
        }
    }
}
