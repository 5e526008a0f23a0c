//! Which of several targets a request goes to, and what follows when one fails.
//!
//! Invariants: every key has a default, stated in its documentation; the defaults protect a file that says nothing of all
//! this. Deliberately absent: providers and their keys (`provider.rs`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{DurationMs, Size};
use super::{CacheRules, TimeoutOverrides};
use crate::health::{BreakerSettings, KeySettings, RetrySettings};
use crate::snapshot::{Hedging, Hold};

/// What happens to requests for certain models.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The models it is for, as clients name them; a trailing `*` stands for any ending, `*` alone for every model.
    #[schemars(length(min = 1, max = 4096), inner(length(min = 1, max = 256)))]
    pub models: Vec<String>,
    /// Where these requests go instead of to the model asked for: one of up to 8 targets, chosen anew for each request. The
    /// others follow if it fails, before any fallback. Default: the model asked for.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub targets: Vec<WeightedTarget>,
    /// How one of `targets` is chosen: weighted, least_busy or fastest.
    #[serde(default)]
    pub balance: Balance,
    /// Header field of the request that names its session, such as x-session-id. Requests of one session keep to one target
    /// and one key while these are healthy, so that the provider's prompt cache stays warm. Default: none.
    #[serde(default)]
    #[schemars(extend("x-sluice-kind" = "name"))]
    pub sticky: Option<String>,
    /// A target that a small share of these requests is tried on first. Default: none.
    #[serde(default)]
    pub canary: Option<Sample>,
    /// A target that gets a copy of a share of these requests, whose answers are thrown away (they are paid for all the
    /// same). It never delays or fails a request, and is left out under load. Default: none.
    #[serde(default)]
    pub shadow: Option<Sample>,
    /// Where a request goes next if the model asked for fails before the first byte of its answer: `PROVIDER/MODEL`, tried in
    /// this order (up to 7). A request may bring its own instead, in the header field x-sluice-fallbacks (separated by commas)
    /// or in the body as an array `fallbacks`. Default: nowhere.
    #[serde(default)]
    #[schemars(length(max = 7), inner(length(min = 1, max = 256)))]
    pub fallbacks: Vec<String>,
    /// Verdicts on the request itself after which a fallback is tried all the same: context_length, content_policy.
    #[serde(default = "fallback_on")]
    #[schemars(length(max = 2))]
    pub fallback_on: Vec<Verdict>,
    /// Whether a second target is asked beside the first one if that is late. Default: it is not.
    #[serde(default)]
    pub hedge: Option<Hedge>,
    /// What happens to a streamed answer that is cut after it has begun: none (the client is told), continue (for chat answers:
    /// the next fallbacks that take the beginning of an answer are asked to go on from the text that the client has, see
    /// `prefill` of a provider, as long as the answer is nothing but text; the answers of such a route are written anew rather
    /// than forwarded as they came) or restart (the beginning of each answer is held back, see `restart`; while nothing has
    /// been sent, the next target starts anew; after that, the client is told). Each provider charges for its part.
    #[serde(default)]
    pub resume: Resume,
    /// What `resume: restart` holds back.
    #[serde(default)]
    pub restart: Restart,
    /// Whether and how these requests are answered from the cache. Default: as `cache.default` says.
    #[serde(default)]
    pub cache: Option<CacheRules>,
    /// Timeouts of these requests, as far as they differ from the provider's and the global ones.
    #[serde(default)]
    pub timeouts: TimeoutOverrides,
}

fn fallback_on() -> Vec<Verdict> {
    vec![Verdict::ContextLength]
}

/// What happens to a stream that is cut after it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Resume {
    /// The client is told.
    #[default]
    None,
    /// Another target goes on.
    Continue,
    /// Another target starts anew while nothing has been sent, for which the beginning is held back.
    Restart,
}

/// A second target, the next in the plan, is asked beside the first one if that is late; the first to begin its answer wins,
/// and the other's connection is closed. Its provider may charge for what it did: the log's line says which it was.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hedge {
    /// After how long. Default: the time that 95 of 100 answers of the first target needed to begin, once 20 are known.
    pub delay: Option<DurationMs>,
    /// Requests that may ask a second target, as a share of those to the first (0 to 1), besides one a second: a provider that
    /// becomes slow as a whole does not double the load of the others. Where a part of the answers is late for long, as when
    /// packets are lost on the way, it must be larger than that part.
    #[schemars(range(min = 0, max = 1))]
    pub budget: f64,
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            delay: None,
            budget: 0.2,
        }
    }
}

impl From<&Hedge> for Hedging {
    fn from(config: &Hedge) -> Self {
        Self {
            delay_ms: config.delay.map(|delay| delay.0),
            budget_milli: milli(config.budget),
        }
    }
}

/// With `resume: restart`: how much of an answer is held back. What comes first ends it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// Bytes of its events (up to 256KiB).
    pub bytes: Size,
    /// Time since its first token. An answer that stalls is still held back then, and starts anew elsewhere.
    pub time: DurationMs,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            bytes: Size(16 * 1024),
            time: DurationMs(2_000),
        }
    }
}

impl From<&Restart> for Hold {
    fn from(config: &Restart) -> Self {
        Self {
            bytes: config.bytes.0 as usize,
            time_ms: config.time.0,
        }
    }
}

/// One of several targets.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedTarget {
    /// `PROVIDER/MODEL`.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Share of the requests, relative to the others of the same priority (0 to 1000). 0: only when no other is left.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: f64,
    /// Targets of the lowest number are chosen from while one of them is healthy (0 to 255).
    #[serde(default)]
    pub priority: u8,
}

fn one() -> f64 {
    1.0
}

/// How one of several targets is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Balance {
    /// At random, by weight.
    #[default]
    Weighted,
    /// Of two drawn by weight, the one with fewer requests under way.
    LeastBusy,
    /// Of two drawn by weight, the one that will answer sooner: its recent time to the first token times the requests under
    /// way.
    Fastest,
}

/// A target for a share of the requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// `PROVIDER/MODEL`.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Share of the requests (0 to 1).
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
}

/// A provider's verdict on a request that another model may not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Verdict {
    /// The conversation does not fit the model.
    ContextLength,
    /// The provider's policy forbids the content.
    ContentPolicy,
}

/// When a target that fails is left alone for a while, and how it is tried again: each model at a provider has a breaker.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// false: a target is left alone only if its provider says so (503 or 529 with Retry-After).
    pub enabled: bool,
    /// Failures without a success between them that open it (1 to 10,000).
    #[schemars(range(min = 1, max = 10_000))]
    pub consecutive_failures: u32,
    /// Share of failures within `window` that opens it (0.01 to 1).
    #[schemars(range(min = 0.01, max = 1))]
    pub error_rate: f64,
    /// Fewest requests within `window` for a share to count (1 to 1,000,000).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_min: u32,
    /// How far back requests count.
    pub window: DurationMs,
    /// An answer that begins later is slow. Default: none is.
    pub slow_call: Option<DurationMs>,
    /// Share of slow answers within `window` that opens it (0.01 to 1).
    #[schemars(range(min = 0.01, max = 1))]
    pub slow_rate: f64,
    /// From opening until a single request may try again. Doubled after each one that fails.
    pub probe_interval: DurationMs,
    /// Longest such interval. At least `probe_interval`.
    pub probe_interval_max: DurationMs,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            error_rate: 0.5,
            requests_min: 20,
            window: DurationMs(10_000),
            slow_call: None,
            slow_rate: 0.8,
            probe_interval: DurationMs(1_000),
            probe_interval_max: DurationMs(30_000),
        }
    }
}

impl From<&Breaker> for BreakerSettings {
    fn from(config: &Breaker) -> Self {
        Self {
            enabled: config.enabled,
            consecutive_failures: config.consecutive_failures,
            error_rate_milli: milli(config.error_rate),
            requests_min: config.requests_min,
            window_ms: config.window.0,
            slow_ms: config.slow_call.map_or(0, |slow| slow.0),
            slow_rate_milli: milli(config.slow_rate),
            probe_ms: config.probe_interval.0,
            probe_max_ms: config.probe_interval_max.0,
        }
    }
}

/// How a request is tried again at a target that failed (500, 502, 503, 504, 529, or no connection). While another target of
/// its plan is well, that one is asked at once, and the first comes back only if the others fail too: a pause would help nobody.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Most retries of one request, over all its targets (0 to 8).
    #[schemars(range(min = 0, max = 8))]
    pub per_request: u8,
    /// Retries at a target, as a share of the requests to it (0 to 1).
    #[schemars(range(min = 0, max = 1))]
    pub budget: f64,
    /// Retries a second at a target beyond that share (0 to 1000).
    #[schemars(range(min = 0, max = 1000))]
    pub budget_per_second: u16,
    /// Longest pause before the first retry: it is drawn between nothing and this, and doubles for each further one.
    pub first_delay: DurationMs,
    /// Longest pause before any. At least `first_delay`.
    pub delay_max: DurationMs,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            per_request: 2,
            budget: 0.2,
            budget_per_second: 1,
            first_delay: DurationMs(50),
            delay_max: DurationMs(1_000),
        }
    }
}

impl From<&Retries> for RetrySettings {
    fn from(config: &Retries) -> Self {
        Self {
            per_request: config.per_request,
            budget_milli: milli(config.budget),
            per_second: config.budget_per_second,
            first_delay_ms: config.first_delay.0,
            delay_max_ms: config.delay_max.0,
        }
    }
}

/// How long a key is left alone after its provider refused it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRest {
    /// Rest after a 429 without Retry-After. Doubled after each further one.
    pub rest: DurationMs,
    /// Longest rest after a 429, and of a target after a 503 or 529, whatever Retry-After says. At least `rest`.
    pub rest_max: DurationMs,
    /// From a 401, 402 or 403 until a single request tries the key again. Doubled after each one that is refused. An operator
    /// can clear the key at once (POST /admin/keys/PROVIDER/KEY/clear).
    pub probe_interval: DurationMs,
    /// Longest such interval. At least `probe_interval`.
    pub probe_interval_max: DurationMs,
}

impl Default for KeyRest {
    fn default() -> Self {
        Self {
            rest: DurationMs(1_000),
            rest_max: DurationMs(600_000),
            probe_interval: DurationMs(60_000),
            probe_interval_max: DurationMs(3_600_000),
        }
    }
}

impl From<&KeyRest> for KeySettings {
    fn from(config: &KeyRest) -> Self {
        Self {
            rest_ms: config.rest.0,
            rest_max_ms: config.rest_max.0,
            probe_ms: config.probe_interval.0,
            probe_max_ms: config.probe_interval_max.0,
        }
    }
}

/// A share in thousandths; the schema allows 0 to 1, the cast saturates beyond and makes 0 of what is not a number.
fn milli(share: f64) -> u16 {
    (share * 1000.0).round() as u16
}
