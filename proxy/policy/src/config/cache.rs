//! The cache, as configuration spells it: what the process keeps, and what each route may answer from it.
//!
//! Invariants: off unless asked for; as in `config.rs`, every default is stated. Deliberately absent: what decides
//! (`cache/lookup.rs`), and a way to loosen what the code holds fixed (tenant, tools, the floor of similarity).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_wire::limits;

use super::values::{DurationMs, Size};

/// What all routes' caches share, and how requests are cached that no route says otherwise for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheStore {
    /// Answers that each core keeps at most (1 to 1,048,576).
    #[schemars(range(min = 1, max = 1_048_576))]
    pub entries: u32,
    /// Memory for answers and what finds them, for each core: an answer that several cores keep is in memory once, and counts
    /// for each of them.
    pub memory: Size,
    /// File that the cache is written to now and then, and read from at the next start; beside it, with the ending `.key`, the
    /// secret that goes with it. Default: none, a restart begins with nothing.
    #[schemars(length(min = 1, max = 4096))]
    pub snapshot: Option<String>,
    /// How often the file is written, if anything has changed. A purge or a bump is written before it is confirmed.
    pub snapshot_interval: DurationMs,
    /// The cache of requests whose route has none of its own.
    pub default: CacheRules,
}

impl Default for CacheStore {
    fn default() -> Self {
        Self {
            entries: limits::CACHE_ENTRIES_DEFAULT,
            memory: Size(limits::CACHE_BYTES_DEFAULT),
            snapshot: None,
            snapshot_interval: DurationMs(60_000),
            default: CacheRules::default(),
        }
    }
}

/// Which chat requests may be answered from the cache, and how. Requests with tools, several answers (`n`), remote images or
/// parts that the gateway does not know never are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheRules {
    /// off, exact (the very same request), semantic (also one that means the same), or shadow (as semantic, but matches by
    /// meaning are only compared with the provider's answer, and never served).
    pub mode: CacheMode,
    /// Least similarity of two texts, as the cosine of their vectors (0.7 to 1). It only chooses among texts that agree in every
    /// code, number, unit, name and negation. A request may raise it (x-sluice-cache-threshold).
    #[schemars(range(min = 0.7, max = 1))]
    pub threshold: f64,
    /// Whether texts that differ in one or two words are taken for different as well (recommended).
    pub strict: bool,
    /// How long an answer is fresh. A request may shorten it (x-sluice-cache-ttl, in seconds).
    pub ttl: DurationMs,
    /// How long an answer is still served after that while one request fetches a new one. Default: not at all.
    pub stale_while_revalidate: Option<DurationMs>,
    /// Oldest answer that is served at all, whatever the times above say. Default: any.
    pub max_age: Option<DurationMs>,
    /// Highest temperature of requests that are cached (0 to 2); a request without one counts as 1. Default: any.
    #[schemars(range(min = 0, max = 2))]
    pub temperature_max: Option<f64>,
    /// Who shares answers: key (each virtual key its own), team or customer (all keys of the team or customer; a key without one
    /// its own).
    pub share: CacheShare,
    /// What must be equal beside the request itself, such as the product variant.
    pub context: CacheContext,
    /// Whether answers are kept that ended for want of tokens.
    pub store_truncated: bool,
    /// How long a request waits at most for an identical one that is with the provider already, before it asks for itself.
    pub flight_wait: DurationMs,
    /// Events a second that a stored stream is replayed at (0 to 10,000). 0: at once.
    #[schemars(range(min = 0, max = 10_000))]
    pub replay_events_per_second: u16,
    /// Times that a way of saying something must have led to the same answer before it is served from another's (0 to 10,000).
    #[schemars(range(min = 0, max = 10_000))]
    pub agreements: u32,
    /// Highest share of wrong answers (0 to 1): once checks found one, and leave a higher share possible (95 % confidence),
    /// matches by meaning are no longer served.
    #[schemars(range(min = 0, max = 1))]
    pub tolerance: f64,
    /// Share of matches by meaning that the provider answers all the same, to be compared (0 to 1).
    #[schemars(range(min = 0, max = 1))]
    pub audit: f64,
    /// Tags of every answer stored, to purge by.
    #[schemars(length(max = 8), inner(length(min = 1, max = 64)))]
    pub tags: Vec<String>,
}

impl Default for CacheRules {
    fn default() -> Self {
        Self {
            mode: CacheMode::Off,
            threshold: 0.85,
            strict: true,
            ttl: DurationMs(3_600_000),
            stale_while_revalidate: None,
            max_age: None,
            temperature_max: None,
            share: CacheShare::Key,
            context: CacheContext::default(),
            store_truncated: false,
            flight_wait: DurationMs(30_000),
            replay_events_per_second: 0,
            agreements: 20,
            tolerance: 0.01,
            audit: 0.02,
            tags: Vec::new(),
        }
    }
}

/// What a route answers from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum CacheMode {
    /// Nothing.
    #[default]
    Off,
    /// The very same request.
    Exact,
    /// Also what means the same.
    Semantic,
    /// What means the same is compared, and never served.
    Shadow,
}

/// Who shares answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum CacheShare {
    /// Each virtual key has its own.
    #[default]
    Key,
    /// All keys of a team.
    Team,
    /// All keys of a customer.
    Customer,
}

/// Context keys: values that two requests must have in common.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheContext {
    /// Header fields, such as x-variant.
    #[schemars(length(max = 8), inner(length(min = 1, max = 64)))]
    pub headers: Vec<String>,
    /// Places in the body, as JSON pointers (RFC 6901), such as /metadata/variant.
    #[schemars(length(max = 8), inner(length(min = 1, max = 256)))]
    pub body: Vec<String>,
    /// Members of the request's metadata, such as variant.
    #[schemars(length(max = 8), inner(length(min = 1, max = 64)))]
    pub metadata: Vec<String>,
    /// Whether a request that lacks one of them has nothing to do with the cache. false: it shares answers with those that
    /// lack the same ones.
    pub required: bool,
}
