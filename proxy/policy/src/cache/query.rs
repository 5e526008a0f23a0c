//! One request on its way through the cache: its canonical form, its keys, and what its text means.
//!
//! Invariants: what an earlier request left behind is never looked at; meaning is worked out once, and only if it is asked for.
//! Deliberately absent: the entries.

use std::sync::Arc;

use bytes::Bytes;
use sluice_wire::chat::ChatRequest;
use sluice_wire::limits::CACHE_TAGS_MAX;

use super::Brain;
use super::embed::{Scratch, Vector};
use super::entry::{Answer, Entry, Frames, Labels, Meaning};
use super::evidence::Namespace;
use super::guard::{Reading, Template};
use super::image::FrameMap;
use super::key::{Bypass, Canonical, Eligible, Key, Scope};

/// The working memory of one lookup. Keep one a core.
#[derive(Debug, Default)]
pub struct Query {
    pub(super) canonical: Canonical,
    pub(super) reading: Reading,
    /// That of the entry that is compared with.
    pub(super) other: Reading,
    pub(super) exact: Option<Key>,
    pub(super) namespace: Namespace,
    scratch: Scratch,
    /// Outer `None`: not worked out yet. Inner `None`: there is none.
    meaning: Option<Option<(Key, Vector)>>,
    frames: Option<Frames>,
    labels: Labels,
    /// Vectors come from elsewhere: from which embedding, and the one of this text, if it came.
    given: Option<([u8; 32], Option<Vector>)>,
}

impl Query {
    /// Takes up a request.
    ///
    /// # Errors
    /// When it is not to be cached; lookups then miss.
    pub fn prepare(
        &mut self,
        request: &ChatRequest<'_>,
        scope: &Scope<'_>,
        eligible: &Eligible,
        brain: &Brain,
    ) -> Result<(), Bypass> {
        (self.exact, self.meaning, self.frames, self.given) = (None, None, None, None);
        self.canonical.read(request, scope, eligible, &brain.secret)?;
        self.exact = Some(self.canonical.exact(&brain.secret));
        self.namespace = brain.namespace(scope.tenant, scope.route);
        self.labels.tenant = scope.tenant.into();
        self.labels.context.clear();
        let context = scope.context.iter().take(CACHE_TAGS_MAX);
        let given = context.filter_map(|(name, value)| Some(format!("{name}={}", (*value)?).into()));
        self.labels.context.extend(given);
        Ok(())
    }

    /// Adds the frames of the request's images, one each, in order, once a worker has decoded them.
    pub fn set_frames(&mut self, brain: &Brain, maps: Vec<FrameMap>) {
        let fits = maps.len() * 32 == self.canonical.images().len() && self.exact.is_some();
        let key = self.canonical.frames(&brain.secret).filter(|_| fits);
        self.frames = key.map(|key| Frames { key, maps: maps.into() });
    }

    /// Has the text found by this vector of another embedding, among texts of that embedding alone; without one, it is not matched by
    /// meaning. To be called before anything asks for its meaning.
    pub fn give_vector(&mut self, embedding: [u8; 32], vector: Option<Vector>) {
        self.given = Some((embedding, vector));
    }

    /// The text to be embedded, if this request may be matched by its meaning.
    pub fn text(&self) -> Option<&str> {
        (self.exact.is_some() && self.canonical.is_semantic()).then(|| self.canonical.text())
    }

    /// The key of this very request. `None` if it is not to be cached.
    pub fn key(&self) -> Option<Key> {
        self.exact
    }

    /// What is to be kept of the request until its answer is there. `None` if it is not to be cached.
    pub fn ticket(&mut self, brain: &Brain) -> Option<Ticket> {
        let exact = self.exact?;
        let meaning = self.meaning(brain).map(|(bucket, vector)| Meaning {
            bucket,
            vector,
            template: Template::of(&self.reading),
        });
        Some(Ticket {
            exact,
            request: self.canonical.store().into(),
            namespace: self.namespace,
            meaning,
            frames: self.frames.clone(),
            labels: self.labels.clone(),
        })
    }

    /// The same for a request that is only ever matched exactly: its meaning is not worked out.
    pub fn exact_ticket(&self) -> Option<Ticket> {
        Some(Ticket {
            exact: self.exact?,
            request: self.canonical.store().into(),
            namespace: self.namespace,
            meaning: None,
            frames: None,
            labels: self.labels.clone(),
        })
    }

    /// The text's bucket and vector. `None` if it is not to be matched by meaning.
    pub(super) fn meaning(&mut self, brain: &Brain) -> Option<(Key, Vector)> {
        if self.meaning.is_none() {
            self.meaning = Some(self.work_out(brain));
        }
        self.meaning.flatten()
    }

    pub(super) fn frames(&self) -> Option<&Frames> {
        self.frames.as_ref()
    }

    fn work_out(&mut self, brain: &Brain) -> Option<(Key, Vector)> {
        if self.exact.is_none() || !self.canonical.is_semantic() {
            return None;
        }
        let text = self.canonical.text();
        brain.guard.read(text, &mut self.reading);
        if !self.reading.is_understood() {
            return None;
        }
        let (embedding, vector) = match &self.given {
            None => (&[][..], brain.model.embed(text, &mut self.scratch)),
            Some((embedding, vector)) => (&embedding[..], (*vector)?),
        };
        let signature = self.reading.signature();
        let bucket = self.canonical.bucket(&brain.secret, signature, embedding)?;
        Some((bucket, vector))
    }
}

/// What is kept of a request that missed.
#[derive(Clone, Debug)]
pub struct Ticket {
    exact: Key,
    request: Bytes,
    namespace: Namespace,
    meaning: Option<Meaning>,
    frames: Option<Frames>,
    labels: Labels,
}

impl Ticket {
    /// The key of the request.
    pub fn key(&self) -> Key {
        self.exact
    }

    /// The entry of a complete, successful answer, fresh for `ttl_ms`; `tags` beyond [`CACHE_TAGS_MAX`] are left out.
    pub fn entry(self, answer: Answer, model: &str, tags: &[&str], ttl_ms: u64, now_ms: u64) -> Arc<Entry> {
        let mut labels = self.labels;
        labels.model = model.into();
        labels.tags = tags.iter().take(CACHE_TAGS_MAX).map(|tag| (*tag).into()).collect();
        Arc::new(Entry {
            exact: self.exact,
            request: self.request,
            namespace: self.namespace,
            meaning: self.meaning,
            frames: self.frames,
            answer,
            labels,
            stored_ms: now_ms,
            ttl_ms,
        })
    }
}
