//! What a core counts apart, by target, by virtual key, and by pair of targets.
//!
//! Invariants: labels come from the configuration, the table of prices and the administration, never from a client's free text.
//! Deliberately absent: when something is counted (`gateway`'s `exchange/count.rs`).

use super::histogram::{DURATION_US, FIRST_TOKEN_US, Histogram, PER_TOKEN_US, TOKENS};
use super::{ByCode, Counter};

/// A model at a provider, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetLabel {
    /// The provider's name.
    pub provider: Box<str>,
    /// The model as the provider knows it; `other` for one that neither configuration nor prices name.
    pub model: Box<str>,
    /// OpenTelemetry's `gen_ai.operation.name`.
    pub operation: &'static str,
}

/// Attempts at a target.
#[derive(Debug)]
pub struct TargetSeries {
    /// Requests sent to it.
    pub attempts: Counter,
    /// Those whose answer reached the client whole.
    pub succeeded: Counter,
    /// Those that it failed, by why.
    pub failed: ByCode,
    /// Those that somebody else ended: the client left, or another target was faster.
    pub abandoned: Counter,
    /// Input tokens, cached ones included.
    pub input: Counter,
    /// Input tokens that came from a prompt cache.
    pub cached: Counter,
    /// Output tokens.
    pub output: Counter,
    /// What was charged, in nano-dollars.
    pub cost: Counter,
    /// How long whole answers took, in microseconds.
    pub duration: Histogram,
    /// How long attempts took that failed, in microseconds.
    pub failure_duration: Histogram,
    /// Until the first token of streams, in microseconds.
    pub first_token: Histogram,
    /// From each output token to the next, on average over an answer, in microseconds.
    pub per_token: Histogram,
    /// Input tokens of single answers.
    pub input_tokens: Histogram,
    /// Output tokens of single answers.
    pub output_tokens: Histogram,
}

impl Default for TargetSeries {
    fn default() -> Self {
        Self {
            attempts: Counter::default(),
            succeeded: Counter::default(),
            failed: ByCode::default(),
            abandoned: Counter::default(),
            input: Counter::default(),
            cached: Counter::default(),
            output: Counter::default(),
            cost: Counter::default(),
            duration: Histogram::new(DURATION_US),
            failure_duration: Histogram::new(DURATION_US),
            first_token: Histogram::new(FIRST_TOKEN_US),
            per_token: Histogram::new(PER_TOKEN_US),
            input_tokens: Histogram::new(TOKENS),
            output_tokens: Histogram::new(TOKENS),
        }
    }
}

/// Requests of one virtual key.
#[derive(Debug, Default)]
pub struct CallerSeries {
    /// Requests that came with it.
    pub requests: Counter,
    /// Those that did not get a whole successful answer.
    pub failed: Counter,
    /// Input tokens, cached ones included.
    pub input: Counter,
    /// Output tokens.
    pub output: Counter,
    /// What was charged, in nano-dollars.
    pub cost: Counter,
}

/// A fallback: from the first target of a request to the one that answered, and why the first did not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FallbackLabel {
    /// The first target.
    pub from: Box<str>,
    /// The one that answered.
    pub to: Box<str>,
    /// [`super::Reason::as_str`].
    pub reason: &'static str,
}
