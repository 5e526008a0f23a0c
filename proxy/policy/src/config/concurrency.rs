//! How many requests are at a provider at a time, as configuration spells it.
//!
//! Invariants: as in `config.rs`. Deliberately absent: what follows from it (`admission.rs`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_wire::limits;

use super::values::DurationMs;

/// How many requests one core has at a provider at a time. Beyond, a request waits for a place; if there is none in time, the
/// next target is asked, else the client gets 503 with `Retry-After`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Concurrency {
    /// Most requests at a time, on each core (1 to 65,535).
    #[schemars(range(min = 1, max = 65_535))]
    pub limit: u32,
    /// Whether `limit` is only a ceiling, below which each core looks for the right number: it lowers the number when the first
    /// bytes of answers come later than at best, or the provider refuses for want of capacity, and raises it while they do not.
    /// It finds more where answers are streamed, because the first byte of one that is not waits for its last token.
    pub adaptive: bool,
    /// Most requests that wait for a place, on each core (0 to 65,535). 0: none waits.
    #[schemars(range(min = 0, max = 65_535))]
    pub queue: u32,
    /// Longest wait for a place. While the queue has not been empty for half of it, the newest request comes first: the oldest
    /// are those that their clients give up next.
    pub queue_timeout: DurationMs,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            limit: limits::CONCURRENCY_DEFAULT,
            adaptive: false,
            queue: limits::QUEUE_DEFAULT,
            queue_timeout: DurationMs(1_000),
        }
    }
}
