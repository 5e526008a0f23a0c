//! The cache as the control thread sees it: what one core stores reaches the others, purges reach all, and a file keeps it warm.
//!
//! ```text
//!  core ── Note ──► ledger ── News ──► the other cores        admin: purge, bump ─► all cores ─► file ─► confirmed
//!                     │ now and then                                  start: file ─► ledger ─► all cores
//!                     └──► file
//! ```
//! Invariants: the ledger holds what the cores were told, without what finds it by meaning; a change is numbered, and nothing that was
//! stored before it is passed on after it; a file is replaced whole, and read only if it is whole and of this installation.
//! Deliberately absent: any answer to a request; if this thread stalls, each core goes on with what it has.

mod file;
mod frames;
mod helper;
mod remote;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_policy::cache::evidence::{Audit, Namespace, TemplatePair};
use sluice_policy::cache::key::Secret;
use sluice_policy::cache::snapshot::Snapshot as Stored;
use sluice_policy::cache::{Brain, Cache, Limits, Size};
use sluice_policy::config::{CacheEmbedding, CacheStore};
use sluice_policy::meter::CoreMeter;
use sluice_policy::snapshot::Snapshot;
use sluice_wire::limits::{CACHE_ENTRIES_MAX, CACHE_RING_ENTRIES};

use self::remote::Remote;
use super::build::secret_at;
use crate::cache::prepare::Helper;
use crate::clock;
use crate::mesh::{CacheControlEnd, Change, News, Note};
use crate::plane::CachePlane;

/// How long a purge waits for all cores before it says that one has not answered.
const CONFIRM: Duration = Duration::from_secs(2);
/// Pairs of templates that are listed.
const SHOWN: usize = 100;
/// How often it looks.
const CONFIRM_PERIOD: Duration = Duration::from_millis(5);

/// The control thread's side of the cache.
pub struct Desk {
    inner: Mutex<Inner>,
    meters: Vec<Arc<CoreMeter>>,
    /// Held by whoever writes the file, so that the newest is written last.
    writer: tokio::sync::Mutex<()>,
}

struct Inner {
    cores: Vec<(CacheControlEnd, VecDeque<News>)>,
    kept: Option<Kept>,
    change: u64,
    facts: Facts,
}

struct Kept {
    brain: Arc<Brain>,
    helper: Helper,
    embedding: Option<CacheEmbedding>,
    cache: Cache,
    file: Option<PathBuf>,
    period: Duration,
    written: Instant,
    /// Something has changed since the file was written.
    dirty: bool,
    /// The file is being read: it must not be written.
    loading: bool,
    tolerance: f64,
}

/// What is known of the file.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Times that it was written.
    pub written: u64,
    /// Times that it could not be.
    pub failed: u64,
    /// Files that were refused.
    pub refused: u64,
    /// Why the last one was.
    pub refusal: Option<String>,
    /// Answers that were read from it.
    pub restored: u64,
}

/// What an operator sees.
pub struct View {
    /// What the ledger holds.
    pub size: Size,
    /// Checks, by tenant and route.
    pub audits: Vec<(Namespace, Audit)>,
    /// The lowest share of wrong answers that a route tolerates.
    pub tolerance: f64,
    /// Pairs of templates that are not served.
    pub quarantined: usize,
    /// The first [`SHOWN`] of them.
    pub quarantine: Vec<(Namespace, TemplatePair)>,
    /// Pairs that are known.
    pub pairs: usize,
    /// Number of the last change.
    pub change: u64,
    /// The file.
    pub facts: Facts,
    /// What explains.
    pub brain: Arc<Brain>,
    /// What embeds texts, if not the brain.
    pub helper: Helper,
}

/// What a change has done.
pub struct Changed {
    /// Answers that the ledger forgot.
    pub removed: usize,
    /// Whether all cores have applied it, and the file says so.
    pub confirmed: bool,
}

impl Desk {
    /// For so many cores.
    pub fn new(cores: Vec<CacheControlEnd>, meters: Vec<Arc<CoreMeter>>) -> Arc<Self> {
        let inner = Inner {
            cores: cores.into_iter().map(|end| (end, VecDeque::new())).collect(),
            kept: None,
            change: 0,
            facts: Facts::default(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            meters,
            writer: tokio::sync::Mutex::default(),
        })
    }

    /// What a new plane needs of the cache; the first time that a route caches, the file is read behind it.
    pub fn plane(self: &Arc<Self>, config: &CacheStore, snapshot: &Snapshot) -> Option<Arc<CachePlane>> {
        let limits = snapshot.cache_limits();
        let (stale_ms, tolerance) = snapshot.cache_extremes();
        self.with(|inner| {
            let Some(limits) = limits else {
                inner.kept = None;
                return None;
            };
            let kept = match &mut inner.kept {
                Some(kept) => kept,
                none => {
                    let (kept, read) = Kept::new(config, limits);
                    if let Some(path) = read {
                        self.clone().read(path, kept.brain.clone());
                    }
                    none.insert(kept)
                }
            };
            if kept.embedding != config.embedding {
                kept.helper = helper(config);
                kept.embedding.clone_from(&config.embedding);
            }
            kept.tolerance = tolerance;
            kept.period = Duration::from_millis(config.snapshot_interval.0.into());
            kept.cache.set_limits(limits);
            Some(Arc::new(CachePlane {
                brain: kept.brain.clone(),
                helper: kept.helper.clone(),
                limits,
                stale_ms,
                change: inner.change,
            }))
        })
    }

    /// Takes what the cores tell, and passes it on. To be called on a tick.
    pub fn fetch(self: &Arc<Self>) {
        let due = self.with(|inner| {
            inner.fetch();
            inner.flush();
            let kept = inner.kept.as_mut()?;
            let due = kept.dirty && !kept.loading && kept.file.is_some() && kept.written.elapsed() >= kept.period;
            due.then(|| kept.written = Instant::now())
        });
        if due.is_some() {
            let desk = self.clone();
            tokio::spawn(async move { desk.write().await });
        }
    }

    /// Applies a change everywhere, and waits until that is certain.
    pub async fn change(&self, change: Change) -> Option<Changed> {
        let (removed, number) = self.with(|inner| {
            let kept = inner.kept.as_mut()?;
            inner.change += 1;
            let removed = change.apply(&mut kept.cache);
            kept.dirty = true;
            let news = News::Changed(Arc::new(change), inner.change);
            inner.tell(None, &news);
            inner.flush();
            Some((removed, inner.change))
        })?;
        let until = Instant::now() + CONFIRM;
        let applied = || self.meters.iter().all(|meter| meter.cache_change.get() >= number);
        while !applied() && Instant::now() < until {
            tokio::time::sleep(CONFIRM_PERIOD).await;
            self.with(Inner::flush);
        }
        let written = self.write().await;
        Some(Changed {
            removed,
            confirmed: applied() && written,
        })
    }

    /// Writes the file, if there is one; whether it says all that the ledger knows.
    pub async fn write(&self) -> bool {
        let _writer = self.writer.lock().await;
        let work = self.with(|inner| {
            let kept = inner.kept.as_mut()?;
            let path = kept.file.clone()?;
            kept.dirty = false;
            Some((path, kept.cache.snapshot(), kept.brain.clone(), kept.loading))
        });
        let Some((path, snapshot, brain, loading)) = work else {
            return true;
        };
        if loading {
            return false;
        }
        let written = tokio::task::spawn_blocking(move || file::write(&path, &snapshot.encode(&brain))).await;
        let failure = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.with(|inner| match &failure {
            None => inner.facts.written += 1,
            Some(error) => {
                inner.facts.failed += 1;
                if let Some(kept) = &mut inner.kept {
                    kept.dirty = true;
                }
                tracing::error!(error, "the cache cannot be written to its file");
            }
        });
        failure.is_none()
    }

    /// The file is another process's: it is never written again.
    pub fn give_up_file(&self) {
        self.with(|inner| {
            if let Some(kept) = &mut inner.kept {
                kept.file = None;
            }
        });
    }

    /// What there is to see; `None` if no route caches.
    pub fn view(&self) -> Option<View> {
        self.with(|inner| {
            let kept = inner.kept.as_mut()?;
            Some(View {
                size: kept.cache.size(),
                audits: kept.cache.audits().all().collect(),
                tolerance: kept.tolerance,
                quarantined: kept.cache.evidence().quarantined().count(),
                quarantine: kept.cache.evidence().quarantined().take(SHOWN).collect(),
                pairs: kept.cache.evidence().pairs().count(),
                change: inner.change,
                facts: inner.facts.clone(),
                brain: kept.brain.clone(),
                helper: kept.helper.clone(),
            })
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file on a thread of its own, and tells everyone.
    fn read(self: Arc<Self>, path: PathBuf, brain: Arc<Brain>) {
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(move || file::read(&path, &brain)).await;
            let read = read.unwrap_or_else(|error| Err(error.to_string()));
            self.with(|inner| inner.restored(read));
        });
    }
}

/// What prepares lookups. In place of an embedding service that cannot be used stands the gateway's own embedding.
fn helper(config: &CacheStore) -> Helper {
    let remote = config.embedding.as_ref().map(|embedding| {
        let key = embedding.key.as_ref().map(secret_at).transpose()?;
        Remote::new(embedding, key)
    });
    match remote.transpose() {
        Ok(remote) => helper::start(remote),
        Err(error) => {
            tracing::error!(%error, "the embedding service cannot be used; the gateway's own embedding is");
            helper::start(None)
        }
    }
}

impl Kept {
    /// An empty ledger, and the file to read.
    fn new(config: &CacheStore, limits: Limits) -> (Self, Option<PathBuf>) {
        let path = config.snapshot.as_ref().map(PathBuf::from);
        let secret = path.as_deref().map(file::secret).transpose();
        let (secret, path) = match secret {
            Ok(secret) => (secret, path),
            Err(error) => {
                tracing::error!(%error, "the secret of the cache's file cannot be kept; the cache goes without a file");
                (None, None)
            }
        };
        let kept = Self {
            brain: Arc::new(Brain::new(Secret::new(secret.unwrap_or_else(file::random)))),
            helper: helper(config),
            embedding: config.embedding.clone(),
            cache: Cache::ledger(limits),
            loading: path.is_some(),
            file: path.clone(),
            period: Duration::from_millis(config.snapshot_interval.0.into()),
            written: Instant::now(),
            dirty: false,
            tolerance: 1.0,
        };
        (kept, path)
    }
}

impl Inner {
    fn fetch(&mut self) {
        for at in 0..self.cores.len() {
            for _ in 0..CACHE_RING_ENTRIES {
                let Ok(note) = self.cores[at].0.notes.pop() else { break };
                let Some(kept) = &mut self.kept else { continue };
                let news = match note {
                    // Stored by a core that did not know of a purge yet: nobody else shall have it.
                    Note::Stored(_, change) if change != self.change => continue,
                    Note::Stored(entry, _) => {
                        kept.cache.insert(entry.clone(), clock::unix_ms());
                        News::Stored(entry)
                    }
                    Note::Settled(settled) => {
                        kept.cache.take_note(&settled);
                        News::Settled(settled)
                    }
                };
                kept.dirty = true;
                self.tell(Some(at), &news);
            }
        }
    }

    /// Tells every core but one.
    fn tell(&mut self, but: Option<usize>, news: &News) {
        for (at, (_, waiting)) in self.cores.iter_mut().enumerate() {
            let full = waiting.len() >= CACHE_ENTRIES_MAX && matches!(news, News::Stored(_));
            if but != Some(at) && !full {
                waiting.push_back(news.clone());
            }
        }
    }

    /// Puts what waits into the rings, as far as there is room.
    fn flush(&mut self) {
        for (end, waiting) in &mut self.cores {
            while !end.news.is_full() {
                let Some(news) = waiting.pop_front() else { break };
                // There is room, and nobody else puts anything in.
                let _ = end.news.push(news);
            }
        }
    }

    fn restored(&mut self, read: Result<Option<Stored>, String>) {
        let Some(kept) = &mut self.kept else { return };
        kept.loading = false;
        let stored = match read {
            Ok(Some(stored)) => Arc::new(stored),
            Ok(None) => return,
            Err(reason) => {
                tracing::warn!(reason, "the cache's file is refused; it will be written anew");
                self.facts.refused += 1;
                self.facts.refusal = Some(reason);
                // So that the next one is written even if nothing is stored meanwhile.
                kept.dirty = true;
                return;
            }
        };
        kept.cache.restore(&stored);
        let now_ms = clock::unix_ms();
        let mut fresh = Vec::new();
        for entry in &stored.entries {
            if kept.cache.insert(entry.clone(), now_ms) {
                fresh.push(entry.clone());
            }
        }
        self.facts.restored = fresh.len() as u64;
        tracing::info!(answers = fresh.len(), "the cache is warm");
        let rest = Stored {
            entries: Vec::new(),
            ..Stored::clone(&stored)
        };
        self.tell(None, &News::Restored(Arc::new(rest)));
        fresh
            .into_iter()
            .for_each(|entry| self.tell(None, &News::Stored(entry)));
        self.flush();
    }
}
