//! What the data plane counts: one set of counters per core, each written by that core alone and read by anyone.
//!
//! Invariants: a counter has one writer, so an increment is a relaxed load and a relaxed store, never a locked instruction;
//! each name is defined once, in the table below, and every reader (metrics, status) walks that table.
//! Deliberately absent: labels from a client's text, and any sum over cores (the reader's work).

pub mod board;
pub mod catalog;
pub mod histogram;
pub mod series;

use std::sync::atomic::{AtomicU64, Ordering};

use sluice_wire::error::Code;
use sluice_wire::limits::{SERIES_CALLERS_MAX, SERIES_FALLBACKS_MAX, SERIES_TARGETS_MAX};

use self::board::Board;
use self::histogram::{Histogram, TIMES_US};
use self::series::{CallerSeries, FallbackLabel, TargetLabel, TargetSeries};

/// Whether anything is counted and recorded at all. A build with the feature `uncounted` does without, so that what counting
/// costs can be measured (`cargo xtask bench difference uncounted`); numbers that are set, not counted, go on.
pub const COUNTED: bool = !cfg!(feature = "uncounted");

/// One number, written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only the owning core may call this.
    pub fn add(&self, count: u64) {
        if !COUNTED {
            return;
        }
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Replaces it (gauges). Only the owning core may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Values by size.
    Histogram,
}

impl Kind {
    /// As the text formats say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Where the time of a core's requests went, in microseconds.
#[derive(Debug)]
pub struct Times {
    /// From the first byte of a request to the last of its answer.
    pub total: Histogram,
    /// Until the first byte of the answer, without what client and provider took: what the gateway has added.
    pub added: Histogram,
    /// From sending to a provider until its first byte.
    pub upstream: Histogram,
    /// Until the first event of a stream.
    pub first_token: Histogram,
    /// From one event of a stream to the next, on average over the stream.
    pub between_tokens: Histogram,
    /// Waiting for a place at a provider whose concurrency is limited.
    pub queue: Histogram,
    /// How late the core's own tick came.
    pub lag: Histogram,
}

impl Default for Times {
    fn default() -> Self {
        let new = || Histogram::new(TIMES_US);
        Self {
            total: new(),
            added: new(),
            upstream: new(),
            first_token: new(),
            between_tokens: new(),
            queue: new(),
            lag: new(),
        }
    }
}

/// What a core counts by label.
#[derive(Debug)]
pub struct Boards {
    /// By target.
    pub targets: Board<TargetLabel, TargetSeries>,
    /// By pair of targets, and why.
    pub fallbacks: Board<FallbackLabel, Counter>,
    /// By virtual key.
    pub callers: Board<Box<str>, CallerSeries>,
}

impl Default for Boards {
    fn default() -> Self {
        let other = || Box::<str>::from("other");
        let target = TargetLabel {
            provider: other(),
            model: other(),
            operation: "other",
        };
        let fallback = FallbackLabel {
            from: other(),
            to: other(),
            reason: "other",
        };
        Self {
            targets: Board::new(SERIES_TARGETS_MAX, target),
            fallbacks: Board::new(SERIES_FALLBACKS_MAX, fallback),
            callers: Board::new(SERIES_CALLERS_MAX, other()),
        }
    }
}

/// Why another target than the first answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first one failed, or was passed over, with that code.
    Failed(Code),
    /// The first one was late, and another that was asked beside it began its answer sooner.
    Late,
}

impl Reason {
    /// Reasons that there are.
    pub const COUNT: usize = Code::ALL.len() + 1;

    /// Its name in answers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed(code) => code.as_str(),
            Self::Late => "late",
        }
    }

    /// Its number, from 0 to [`Reason::COUNT`] - 1.
    pub fn index(self) -> usize {
        match self {
            Self::Failed(code) => code as usize,
            Self::Late => Code::ALL.len(),
        }
    }
}

/// One number for each reason.
#[derive(Debug)]
pub struct ByReason([Counter; Reason::COUNT]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByReason {
    /// Adds one. Only the owning core may call this.
    pub fn add(&self, reason: Reason) {
        self.0[reason.index()].add(1);
    }

    /// The reasons that were counted at all.
    pub fn counted(&self) -> impl Iterator<Item = (Reason, u64)> {
        let all = Code::ALL.iter().map(|code| Reason::Failed(*code)).chain([Reason::Late]);
        all.zip(&self.0)
            .map(|(reason, counter)| (reason, counter.get()))
            .filter(|(_, count)| *count > 0)
    }
}

/// One number for each error code.
#[derive(Debug)]
pub struct ByCode([Counter; Code::ALL.len()]);

impl Default for ByCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByCode {
    /// Adds one. Only the owning core may call this.
    pub fn add(&self, code: Code) {
        self.0[code as usize].add(1);
    }

    /// The codes that were counted at all.
    pub fn counted(&self) -> impl Iterator<Item = (Code, u64)> {
        let all = Code::ALL.iter().zip(&self.0);
        all.map(|(code, counter)| (*code, counter.get()))
            .filter(|(_, count)| *count > 0)
    }
}

macro_rules! meter {
    ($( $kind:ident $field:ident = $name:literal, $help:literal; )*) => {
        /// The counters of one core, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct CoreMeter {
            $( #[doc = $help] pub $field: Counter, )*
            /// Attempts that gave no answer for the client, by why.
            pub failures: ByCode,
            /// Requests that another target than the first answered, by why the first did not.
            pub fallbacks_by_reason: ByReason,
            /// Where the time went.
            pub times: Times,
            /// What is counted by label.
            pub boards: Boards,
        }

        impl CoreMeter {
            /// Every metric: name, what it says, kind.
            pub const TABLE: &'static [(&'static str, &'static str, Kind)] = &[$( ($name, $help, Kind::$kind), )*];

            /// The values, in the order of [`CoreMeter::TABLE`].
            pub fn values(&self) -> [u64; Self::TABLE.len()] {
                [$( self.$field.get(), )*]
            }
        }
    };
}

meter! {
    Counter requests = "sluice_requests_total", "Requests that were read completely or refused.";
    Counter from_cache = "sluice_requests_from_cache_total", "Requests answered by the cache without asking a provider for them.";
    Counter forwarded = "sluice_requests_forwarded_total", "Requests for which a provider was asked.";
    Counter refused = "sluice_requests_refused_total", "Requests that ended without either: refused, answered by the gateway itself, or given up by the client before.";
    Counter responses_2xx = "sluice_responses_2xx_total", "Answers with a 2xx status.";
    Counter responses_4xx = "sluice_responses_4xx_total", "Answers with a 4xx status.";
    Counter responses_5xx = "sluice_responses_5xx_total", "Answers with a 5xx status.";
    Counter clients_gone = "sluice_clients_gone_total", "Requests whose client closed the connection before the answer was complete.";
    Counter streams_interrupted = "sluice_streams_interrupted_total", "Streams that a provider cut after the first byte.";
    Counter streams_resumed = "sluice_streams_resumed_total", "Streams that were cut and that another target brought to their end.";
    Counter attempts = "sluice_upstream_attempts_total", "Requests sent to providers.";
    Counter attempts_succeeded = "sluice_upstream_attempts_succeeded_total", "Attempts whose answer reached the client whole.";
    Counter attempts_failed = "sluice_upstream_attempts_failed_total", "Attempts that did not give an answer for the client, or not all of it.";
    Counter attempts_abandoned = "sluice_upstream_attempts_abandoned_total", "Attempts that somebody else ended: the client left, or another target was faster.";
    Counter fallbacks = "sluice_fallbacks_total", "Requests answered by another target than the first.";
    Counter retries = "sluice_upstream_retries_total", "Attempts at a target that the same request had asked before.";
    Counter hedges = "sluice_hedges_total", "Second targets asked beside a late first one.";
    Counter hedges_won = "sluice_hedges_won_total", "Of those, answers that the second target began first.";
    Counter hedges_denied = "sluice_hedges_denied_total", "Second targets that were not asked because the hedges of the first one's budget were spent.";
    Counter restarts = "sluice_streams_restarted_total", "Streams that failed while their beginning was held back, of which the client has seen nothing.";
    Counter retries_denied = "sluice_upstream_retries_denied_total", "Retries that were not made because the target's budget was spent.";
    Counter passed_over = "sluice_targets_passed_over_total", "Targets that a request did not try, because they or their keys rest.";
    Counter breakers_opened = "sluice_breakers_opened_total", "Times that a target was found to fail and left alone.";
    Counter breakers_closed = "sluice_breakers_closed_total", "Times that such a target answered again.";
    Counter keys_limited = "sluice_keys_rate_limited_total", "Answers with 429: the key rests.";
    Counter keys_refused = "sluice_keys_refused_total", "Keys that a provider refused (401, 402, 403) and that rest until a probe or an operator clears them. Set an alarm on it.";
    Counter shadows = "sluice_shadow_requests_total", "Copies of requests sent to shadow targets.";
    Counter shadows_failed = "sluice_shadow_requests_failed_total", "Copies of requests that got no complete answer.";
    Counter cache_hits = "sluice_cache_hits_total", "Requests answered by the stored answer to the very same request.";
    Counter cache_hits_flight = "sluice_cache_hits_in_flight_total", "Requests answered by the answer to an identical one that was with the provider already.";
    Counter cache_hits_semantic = "sluice_cache_hits_semantic_total", "Requests answered by the stored answer to one that means the same.";
    Counter cache_hits_frames = "sluice_cache_hits_frames_total", "Requests answered by the stored answer to one whose images show the same scene.";
    Counter cache_misses = "sluice_cache_misses_total", "Requests that the cache had no answer for, compared ones included.";
    Counter cache_bypasses = "sluice_cache_bypasses_total", "Requests of routes that cache which are none of the cache's business.";
    Counter cache_waited = "sluice_cache_waited_total", "Requests that waited for an identical one.";
    Counter cache_prepared = "sluice_cache_prepared_total", "Requests that waited for a text to be embedded elsewhere, or for camera frames to be decoded.";
    Counter cache_stored = "sluice_cache_stored_total", "Answers stored.";
    Counter cache_not_stored = "sluice_cache_not_stored_total", "Answers not stored: cut short, filtered, of a fallback, too large, or older than a purge.";
    Counter cache_compared = "sluice_cache_compared_total", "Matches by meaning that were compared with the provider's answer.";
    Counter cache_disagreed = "sluice_cache_disagreed_total", "Of those, matches whose answer was another. Set an alarm on it.";
    Counter cache_saved_input_tokens = "sluice_cache_saved_input_tokens_total", "Input tokens that hits did not pay for again.";
    Counter cache_saved_output_tokens = "sluice_cache_saved_output_tokens_total", "Output tokens that hits did not pay for again.";
    Counter cache_saved_nano_usd = "sluice_cache_saved_nano_usd_total", "Nano-dollars that hits did not pay again, as far as prices are known.";
    Counter cache_evicted = "sluice_cache_evicted_total", "Stored answers that made room for others.";
    Gauge cache_entries = "sluice_cache_entries", "Stored answers.";
    Gauge cache_bytes = "sluice_cache_bytes", "Bytes of stored answers and of what finds them; answers that several cores keep count for each.";
    Gauge cache_index_bytes = "sluice_cache_index_bytes", "Bytes of vectors and graphs.";
    Gauge cache_flights = "sluice_cache_flights", "Requests with a provider that identical ones may wait for.";
    Gauge cache_change = "sluice_cache_change", "Number of the last purge, bump or release that the core has applied.";
    Counter stale_connections = "sluice_upstream_stale_connections_total", "Pooled connections that the provider had closed, replaced without counting an attempt.";
    Counter queued = "sluice_requests_queued_total", "Requests that waited for a place at a provider whose concurrency is limited.";
    Counter overloads = "sluice_overloads_total", "Times that there was no place for a request at a provider whose concurrency is limited.";
    Gauge waiting = "sluice_requests_waiting", "Requests that wait for a place at a provider now.";
    Counter upstream_connects = "sluice_upstream_connects_total", "Connections made to providers.";
    Counter upstream_reuses = "sluice_upstream_reuses_total", "Requests sent over a pooled connection.";
    Gauge upstream_idle = "sluice_upstream_idle_connections", "Idle connections in the pools.";
    Counter connections_opened = "sluice_connections_opened_total", "Client connections accepted.";
    Gauge connections = "sluice_connections", "Client connections now open.";
    Counter accept_errors = "sluice_accept_errors_total", "Failed accepts, for instance for want of descriptors.";
    Counter deadlines_passed = "sluice_deadlines_passed_total", "Sockets shut down because a time limit passed.";
    Counter bytes_in = "sluice_request_body_bytes_total", "Bytes of request bodies.";
    Counter bytes_out = "sluice_response_body_bytes_total", "Bytes of response bodies.";
    Counter records_dropped = "sluice_log_records_dropped_total", "Request records dropped because the control thread fell behind.";
    Counter bodies_dropped = "sluice_log_bodies_dropped_total", "Requests whose bodies were to be logged and were not, because too many waited for the log.";
    Counter cache_notes_dropped = "sluice_cache_notes_dropped_total", "Stored answers and findings that other cores were not told of, because the control thread fell behind.";
    Counter callers_unknown = "sluice_callers_unknown_total", "Requests without a virtual key that holds, where one is needed.";
    Counter callers_forbidden = "sluice_callers_forbidden_total", "Targets that a virtual key may not use.";
    Counter callers_limited = "sluice_callers_rate_limited_total", "Requests beyond a rate limit of their virtual key.";
    Counter budget_refusals = "sluice_budget_refusals_total", "Attempts that a budget did not afford.";
    Counter store_refusals = "sluice_budget_store_refusals_total", "Attempts that could not be charged because the store had not granted a lease.";
    Counter unpriced = "sluice_unpriced_total", "Attempts whose cost is not known: nothing was charged, or what had been reserved.";
    Counter uncertain = "sluice_uncertain_charges_total", "Attempts charged in full because it is not known what the provider made of them.";
    Counter cache_charged_nano_usd = "sluice_cache_charged_nano_usd_total", "Of what was charged for requests, nano-dollars for hits.";
    Counter spent_nano_usd = "sluice_spent_nano_usd_total", "Billionths of a dollar charged for requests.";
    Gauge buffer_bytes = "sluice_buffer_bytes", "Bytes of receive buffers leased out.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_the_order_of_the_table() {
        let meter = CoreMeter::default();
        meter.requests.add(3);
        meter.buffer_bytes.set(7);
        let values = meter.values();
        assert_eq!(values[0], 3);
        assert_eq!(values[values.len() - 1], 7);
        assert_eq!(CoreMeter::TABLE[0].0, "sluice_requests_total");
    }

    #[test]
    fn names_follow_the_conventions_for_counters_and_gauges() {
        for (name, help, kind) in CoreMeter::TABLE {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
