//! The cache, as configuration spells it: what the process keeps, and what each route may answer from it.
//!
//! Invariants: off unless asked for; as in `config.rs`, every default is stated. Deliberately absent: what decides
//! (`cache/lookup.rs`), and a way to loosen what the code holds fixed (tenant, tools, the floor of similarity).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_wire::limits;

use super::provider::SecretPlace;
use super::values::{AgeMs, DurationMs, Size};

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
    /// A service that says what texts mean, instead of the embedding that comes with the gateway. A text that it gives no vector
    /// for in time is matched exactly, and not by meaning. Default: none, and no text leaves the gateway for it.
    pub embedding: Option<CacheEmbedding>,
    /// The cache of requests whose route has none of its own.
    pub default: CacheRules,
}

/// A service that speaks OpenAI's embeddings API.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheEmbedding {
    /// Where it is, up to and without `/embeddings`, such as https://api.openai.com/v1.
    #[schemars(length(min = 1, max = 2048))]
    pub base_url: String,
    /// The model. It must be able to give 128 dimensions, as text-embedding-3-small is.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Its key. Default: none is sent.
    #[serde(default)]
    pub key: Option<SecretPlace>,
    /// How long a request waits for its vector at most.
    #[serde(default = "embedding_timeout")]
    pub timeout: DurationMs,
}

fn embedding_timeout() -> DurationMs {
    DurationMs(200)
}

impl Default for CacheStore {
    fn default() -> Self {
        Self {
            entries: limits::CACHE_ENTRIES_DEFAULT,
            memory: Size(limits::CACHE_BYTES_DEFAULT),
            snapshot: None,
            snapshot_interval: DurationMs(60_000),
            embedding: None,
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
    pub ttl: AgeMs,
    /// How long an answer is still served after that while one request fetches a new one. Default: not at all.
    pub stale_while_revalidate: Option<AgeMs>,
    /// Oldest answer that is served at all, whatever the times above say. Default: any.
    pub max_age: Option<AgeMs>,
    /// Highest temperature of requests that are cached (0 to 2); a request without one counts as 1. Default: any.
    #[schemars(range(min = 0, max = 2))]
    pub temperature_max: Option<f64>,
    /// Who shares answers: key (each virtual key its own), team or customer (all keys of the team or customer; a key without one
    /// its own).
    pub share: CacheShare,
    /// What must be equal beside the request itself, such as the product variant.
    pub context: CacheContext,
    /// Whether a camera frame may be answered like an earlier one of the same scene, although their bytes differ. Default: not.
    pub frames: Option<CacheFrames>,
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
    /// What a hit is charged of what its answer cost when it was stored (0 to 1): 0 is nothing, 1 the full price. It is charged to the
    /// budgets of the request's key, and refused where they cannot afford it.
    #[schemars(range(min = 0, max = 1))]
    pub hit_price: f64,
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
            ttl: AgeMs(3_600_000),
            stale_while_revalidate: None,
            max_age: None,
            temperature_max: None,
            share: CacheShare::Key,
            context: CacheContext::default(),
            frames: None,
            store_truncated: false,
            flight_wait: DurationMs(30_000),
            replay_events_per_second: 0,
            agreements: 20,
            tolerance: 0.01,
            audit: 0.02,
            hit_price: 0.0,
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

/// Camera frames (PNG or JPEG) that show the same scene: equally large, and no block of 8 by 8 pixels of one brighter or darker on
/// average than of the other by the threshold. The camera must be a context key, and required. A defect that is smaller than
/// that is missed.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheFrames {
    /// Least difference of a block's mean that tells two scenes apart, in grey levels (1 to 255).
    #[schemars(range(min = 1, max = 255))]
    pub threshold: u8,
    /// How long a request waits at most for its frames to be decoded.
    pub timeout: DurationMs,
    /// The part of the frame that matters. Default: all of it.
    pub region: Option<CacheRegion>,
}

impl Default for CacheFrames {
    fn default() -> Self {
        Self {
            threshold: 8,
            timeout: DurationMs(100),
            region: None,
        }
    }
}

/// A part of a frame.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheRegion {
    /// Width of the frames, in pixels (1 to 65,535); others are never of the same scene.
    #[schemars(range(min = 1, max = 65_535))]
    pub width: u16,
    /// Height of the frames, in pixels (1 to 65,535).
    #[schemars(range(min = 1, max = 65_535))]
    pub height: u16,
    /// The parts that matter, each as [left, top, width, height] in pixels.
    #[schemars(length(min = 1, max = 64))]
    pub rectangles: Vec<[u16; 4]>,
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
