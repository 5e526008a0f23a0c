//! The decision: which stored answer, if any, serves a request.
//!
//! Invariants: layers in order, the certain before the probable; a client may only narrow what its route allows; a match by meaning is
//! served only if the pair guard, the evidence and the audit all agree. Deliberately absent: a way to serve a match that any
//! of them refuses.

use std::sync::Arc;

use super::entry::Entry;
use super::evidence::{TemplatePair, Verdict, is_audited};
use super::guard::{Level, Refusal, Template};
use super::image::{FRAME_THRESHOLD_DEFAULT, Region};
use super::index::EntryId;
use super::key::{Canonical, Key};
use super::{Brain, Cache, Query};

/// Lowest cosine that may be configured.
pub const SIMILARITY_FLOOR: f32 = 0.70;
/// Lowest cosine, where the route does not say.
pub const SIMILARITY_DEFAULT: f32 = 0.85;

/// What is done with matches by meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are not looked for.
    #[default]
    Off,
    /// They are found and compared, and never served.
    Shadow,
    /// They are served.
    On,
}

/// How a route caches.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// What is done with matches by meaning.
    pub mode: Mode,
    /// Lowest cosine; never taken below [`SIMILARITY_FLOOR`].
    pub similarity: f32,
    /// How strict the pair guard is.
    pub level: Level,
    /// How long an answer is served after it ceased to be fresh, while a new one is fetched; in milliseconds.
    pub stale_ms: u64,
    /// Agreements that a pair of templates needs before it is served.
    pub agreements: u32,
    /// Highest share of wrong answers, 0 to 1.
    pub tolerance: f64,
    /// Matches by meaning that are checked against the provider, per million.
    pub audit_per_million: u32,
    /// Near-duplicate frames, if they are matched.
    pub frames: Option<FrameRules>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            similarity: SIMILARITY_DEFAULT,
            level: Level::G2,
            stale_ms: 0,
            agreements: 20,
            tolerance: 0.01,
            audit_per_million: 20_000,
            frames: None,
        }
    }
}

/// How camera frames are matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameRules {
    /// Smallest difference of a block's mean that tells two scenes apart, in grey levels.
    pub threshold: u8,
    /// The part that matters; `None`: all.
    pub region: Option<Arc<Region>>,
}

impl Default for FrameRules {
    fn default() -> Self {
        Self {
            threshold: FRAME_THRESHOLD_DEFAULT,
            region: None,
        }
    }
}

/// What a client asks of the cache; it can only narrow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Controls {
    /// Serve nothing from the cache (`no-cache`).
    pub no_lookup: bool,
    /// Serve only what is the answer to this very request.
    pub exact_only: bool,
    /// Lowest cosine, if higher than the route's.
    pub similarity: Option<f32>,
    /// Oldest answer, in milliseconds.
    pub max_age_ms: Option<u64>,
}

/// How an entry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// It answers this very request.
    Exact,
    /// Its text means the same.
    Meaning,
    /// Its images show the same scene.
    Frames,
}

/// An entry that was found.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The entry.
    pub entry: Arc<Entry>,
    /// How.
    pub by: By,
    /// Cosine of the texts; 1 unless found by meaning.
    pub similarity: f32,
    /// Since it was stored, in milliseconds.
    pub age_ms: u64,
    /// Whether it is no longer fresh, so that a new answer is to be fetched behind it.
    pub is_stale: bool,
    /// The templates of both texts, if found by meaning.
    pub pair: Option<TemplatePair>,
    /// Whether the provider is to be asked all the same, and [`Cache::settle`] told.
    pub is_audited: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is answered.
    Hit(Hit),
    /// The provider is asked; its answer is compared with this one, and [`Cache::settle`] told.
    Shadow(Hit),
    /// The provider is asked. The guard's reason, if an entry was near.
    Miss(Option<Refusal>),
}

impl Cache {
    /// Looks for an answer. `random` is any number; it decides on audits.
    pub fn lookup(
        &mut self,
        query: &mut Query,
        brain: &Brain,
        rules: &Rules,
        controls: &Controls,
        now_ms: u64,
        random: u32,
    ) -> Outcome {
        let time = Time {
            now_ms,
            stale_ms: rules.stale_ms,
            max_age_ms: controls.max_age_ms.unwrap_or(u64::MAX),
        };
        if controls.no_lookup || query.exact.is_none() {
            return Outcome::Miss(None);
        }
        if let Some(hit) = self.exact(query, time) {
            return Outcome::Hit(hit);
        }
        if rules.mode == Mode::Off || controls.exact_only {
            return Outcome::Miss(None);
        }
        let refusal = match self.by_meaning(query, brain, rules, controls, time) {
            Ok((hit, verdict)) => return self.weighed(hit, verdict, rules, random),
            Err(refusal) => refusal,
        };
        match rules
            .frames
            .as_ref()
            .and_then(|frames| self.by_frames(query, frames, time))
        {
            Some(hit) => self.weighed(hit, Verdict::Serve, rules, random),
            None => Outcome::Miss(refusal),
        }
    }

    /// Where the entry of a key is, for [`Cache::again`].
    pub fn place(&self, key: Key) -> Option<EntryId> {
        self.store.exact(key)
    }

    /// The entry that answered a request before, for whoever knows that the request is the same: `None` if it is no longer there,
    /// or no longer fresh.
    pub fn again(&mut self, (id, key): (EntryId, Key), max_age_ms: Option<u64>, now_ms: u64) -> Option<Hit> {
        let time = Time {
            now_ms,
            stale_ms: 0,
            max_age_ms: max_age_ms.unwrap_or(u64::MAX),
        };
        let entry = self.store.get(id).filter(|entry| entry.exact == key)?;
        let hit = time.hit(entry, By::Exact, 1.0)?;
        self.store.used(id);
        Some(hit)
    }

    fn exact(&mut self, query: &Query, time: Time) -> Option<Hit> {
        let id = self.store.exact(query.exact?)?;
        let entry = self.store.get(id)?;
        if !query.canonical.is(&entry.request) {
            return None;
        }
        let hit = time.hit(entry, By::Exact, 1.0)?;
        self.store.used(id);
        Some(hit)
    }

    fn by_meaning(
        &mut self,
        query: &mut Query,
        brain: &Brain,
        rules: &Rules,
        controls: &Controls,
        time: Time,
    ) -> Result<(Found, Verdict), Option<Refusal>> {
        let (bucket, vector) = query.meaning(brain).ok_or(None)?;
        // A number that is none raises nothing.
        let floor = rules
            .similarity
            .max(SIMILARITY_FLOOR)
            .max(controls.similarity.unwrap_or(0.0));
        let mut refusal = None;
        for near in self.store.nearest(bucket, &vector, floor) {
            let Some(entry) = self.store.get(near.id) else { continue };
            let Some(mut hit) = time.hit(entry, By::Meaning, near.similarity) else {
                continue;
            };
            let Some((theirs, text)) = entry.meaning.as_ref().zip(Canonical::text_of(&entry.request)) else {
                continue;
            };
            brain.guard.read(text, &mut query.other);
            if let Err(reason) = brain.guard.compare(&query.reading, &query.other, rules.level) {
                refusal = refusal.or(Some(reason));
                continue;
            }
            let pair = TemplatePair::new(Template::of(&query.reading), theirs.template);
            hit.pair = Some(pair);
            match self.evidence.verdict(query.namespace, pair, rules.agreements) {
                Verdict::Refuse => continue,
                verdict => return Ok((Found { id: near.id, hit }, verdict)),
            }
        }
        Err(refusal)
    }

    fn by_frames(&self, query: &Query, rules: &FrameRules, time: Time) -> Option<Found> {
        let frames = query.frames()?;
        self.store.originals(frames.key).iter().find_map(|&id| {
            let entry = self.store.get(id)?;
            let theirs = &entry.frames.as_ref()?.maps;
            let same = |(one, other): (&_, &_)| {
                super::image::FrameMap::is_same_scene(one, other, rules.threshold, rules.region.as_deref())
            };
            let all = theirs.len() == frames.maps.len() && frames.maps.iter().zip(theirs.iter()).all(same);
            let hit = all.then(|| time.hit(entry, By::Frames, 1.0))??;
            Some(Found { id, hit })
        })
    }

    /// Serves a match, or only compares it.
    fn weighed(&mut self, found: Found, verdict: Verdict, rules: &Rules, random: u32) -> Outcome {
        let Found { id, mut hit } = found;
        let trusted = self.audits.of(hit.entry.namespace).is_on(rules.tolerance);
        if rules.mode == Mode::Shadow || verdict != Verdict::Serve || !trusted {
            return Outcome::Shadow(hit);
        }
        self.store.used(id);
        hit.is_audited = is_audited(random, rules.audit_per_million);
        Outcome::Hit(hit)
    }
}

#[derive(Debug)]
struct Found {
    id: EntryId,
    hit: Hit,
}

/// What an entry's age is held against.
#[derive(Clone, Copy, Debug)]
struct Time {
    now_ms: u64,
    stale_ms: u64,
    max_age_ms: u64,
}

impl Time {
    fn hit(self, entry: &Arc<Entry>, by: By, similarity: f32) -> Option<Hit> {
        // A clock that went back makes an entry young, not old.
        let age_ms = self.now_ms.saturating_sub(entry.stored_ms);
        let served_ms = entry.ttl_ms.saturating_add(self.stale_ms).min(self.max_age_ms);
        (age_ms <= served_ms).then(|| Hit {
            entry: entry.clone(),
            by,
            similarity,
            age_ms,
            is_stale: age_ms > entry.ttl_ms,
            pair: None,
            is_audited: false,
        })
    }
}
