//! How a route caches, compiled: what `config/cache.rs` says, in the words of `cache.rs`.
//!
//! Invariants: a route that does not cache has none of this, so that asking costs one comparison. Deliberately absent: the
//! decision itself.

use std::sync::Arc;

use super::{Resolved, Snapshot};
use crate::cache::guard::Level;
use crate::cache::image::{Rectangle, Region};
use crate::cache::key::Eligible;
use crate::cache::{FrameRules, Limits, Mode, Rules};
use crate::config::{CacheFrames, CacheMode, CacheRegion, CacheRules, CacheShare, CacheStore};

/// How the requests of a route are cached.
#[derive(Clone, Debug, PartialEq)]
pub struct Caching {
    /// What stands for the route in keys: what it is for and where it leads. Empty: the provider's name does.
    pub scope: Box<str>,
    /// Whose answers are shared.
    pub share: CacheShare,
    /// What is done with matches.
    pub rules: Rules,
    /// Which requests are cached.
    pub eligible: Eligible,
    /// Oldest answer that is served.
    pub max_age_ms: Option<u64>,
    /// How long an answer is fresh.
    pub ttl_ms: u64,
    /// Header fields that must be equal, in lower case.
    pub headers: Box<[Box<str>]>,
    /// Places in the body that must be equal, as JSON pointers.
    pub body: Box<[Box<str>]>,
    /// Members of the metadata that must be equal.
    pub metadata: Box<[Box<str>]>,
    /// Whether a request that lacks one of these is not cached.
    pub required: bool,
    /// Whether answers are kept that ended for want of tokens.
    pub store_truncated: bool,
    /// How long a request waits for an identical one.
    pub flight_wait_ms: u64,
    /// How long a request waits for its frames, if they are matched.
    pub frames_wait_ms: u64,
    /// Events a second of a replayed stream; 0: at once.
    pub events_per_second: u16,
    /// What a hit is charged of what its answer cost, in millionths.
    pub hit_price_per_million: u32,
    /// Tags of what is stored.
    pub tags: Box<[Box<str>]>,
}

impl Caching {
    /// Whether texts are matched by their meaning.
    pub fn by_meaning(&self) -> bool {
        self.rules.mode != Mode::Off
    }

    /// `None` if nothing is cached.
    pub(super) fn compile(config: &CacheRules, scope: String) -> Option<Arc<Self>> {
        let mode = match config.mode {
            CacheMode::Off => return None,
            CacheMode::Exact => Mode::Off,
            CacheMode::Semantic => Mode::On,
            CacheMode::Shadow => Mode::Shadow,
        };
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase().into()).collect();
        let same = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        Some(Arc::new(Self {
            scope: scope.into(),
            share: config.share,
            rules: Rules {
                mode,
                similarity: config.threshold as f32,
                level: if config.strict { Level::G2 } else { Level::G1 },
                stale_ms: config.stale_while_revalidate.map_or(0, |stale| stale.0),
                agreements: config.agreements,
                tolerance: config.tolerance,
                // The schema allows 0 to 1; the cast saturates.
                audit_per_million: (config.audit * 1e6).round() as u32,
                frames: config.frames.as_ref().map(frames),
            },
            eligible: Eligible {
                temperature_max: config.temperature_max,
            },
            max_age_ms: config.max_age.map(|age| age.0),
            ttl_ms: config.ttl.0,
            headers: lower(&config.context.headers),
            body: same(&config.context.body),
            metadata: same(&config.context.metadata),
            required: config.context.required,
            store_truncated: config.store_truncated,
            flight_wait_ms: u64::from(config.flight_wait.0),
            frames_wait_ms: config.frames.as_ref().map_or(0, |frames| frames.timeout.0.into()),
            events_per_second: config.replay_events_per_second,
            hit_price_per_million: (config.hit_price * 1e6).round() as u32,
            tags: same(&config.tags),
        }))
    }
}

fn frames(config: &CacheFrames) -> FrameRules {
    // A region that touches nothing is refused with the configuration; without one, all of the frame counts, which is stricter.
    FrameRules {
        threshold: config.threshold,
        region: config.region.as_ref().and_then(compiled_region).map(Arc::new),
    }
}

/// A region by blocks. `None` if no rectangle touches the frame, or the frame is too large.
pub(crate) fn compiled_region(region: &CacheRegion) -> Option<Region> {
    let rectangles: Vec<Rectangle> = region
        .rectangles
        .iter()
        .map(|&[left, top, width, height]| Rectangle {
            left: left.into(),
            top: top.into(),
            width: width.into(),
            height: height.into(),
        })
        .collect();
    Region::new(region.width.into(), region.height.into(), &rectangles)
}

/// What each core's cache may hold.
pub(super) fn limits(config: &CacheStore) -> Limits {
    Limits {
        entries: config.entries as usize,
        bytes: usize::try_from(config.memory.0).unwrap_or(usize::MAX),
    }
}

impl Snapshot {
    /// How requests that resolve like this are cached; `None`: not at all.
    pub fn caching(&self, resolved: &Resolved<'_>) -> Option<&Arc<Caching>> {
        match resolved.route {
            Some(route) => self.routes[route.index()].caching.as_ref(),
            None => self.caching.as_ref(),
        }
    }

    /// The provider and model of every target that a stored answer to such a request may have come from: no fallback's is kept.
    pub fn cached_targets<'a>(&'a self, resolved: &'a Resolved<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let route = resolved.route.map(|route| &self.routes[route.index()]);
        let members = route.into_iter().flat_map(|route| {
            let canary = route.canary.iter().map(|(target, _)| target);
            route.members.iter().map(|member| &member.target).chain(canary)
        });
        let named = |target: &'a super::Target| (&*self.providers[target.provider.index()].name, &*target.model);
        let own = (&*self.providers[resolved.provider.index()].name, resolved.model);
        let has_members = route.is_some_and(|route| !route.members.is_empty());
        members.map(named).chain((!has_members).then_some(own))
    }

    /// How long after its time an answer may still be served, at most, in milliseconds; and the lowest share of wrong answers
    /// that a route tolerates.
    pub fn cache_extremes(&self) -> (u64, f64) {
        let routes = self.routes.iter().filter_map(|route| route.caching.as_ref());
        routes
            .chain(&self.caching)
            .fold((0, 1.0), |(stale_ms, tolerance), caching| {
                (
                    stale_ms.max(caching.rules.stale_ms),
                    f64::min(tolerance, caching.rules.tolerance),
                )
            })
    }

    /// What each core's cache may hold, if any route caches.
    pub fn cache_limits(&self) -> Option<Limits> {
        let any = self.caching.is_some() || self.routes.iter().any(|route| route.caching.is_some());
        any.then_some(self.cache_limits)
    }
}
