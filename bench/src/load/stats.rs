//! What a run counted: histograms in nanoseconds, failures by kind, and the JSON made of them.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest time a histogram tells apart, in nanoseconds: two minutes, above any timeout of a run.
const TIME_MAX_NS: u64 = 120_000_000_000;

/// Quantiles that the percentile lines are drawn from.
const LINE: [f64; 14] = [
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0,
];

/// Times in nanoseconds.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, TIME_MAX_NS, 3).expect("the bounds are constants in range"))
    }
}

impl Times {
    /// Records one time; longer than two minutes counts as two minutes.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// The time at quantile `q` (0 to 1), in microseconds.
    #[must_use]
    pub fn micros(&self, q: f64) -> f64 {
        self.0.value_at_quantile(q) as f64 / 1e3
    }

    /// Percentiles in microseconds, or null when nothing was recorded.
    #[must_use]
    pub fn to_json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let line: Vec<_> = LINE.iter().map(|&q| json!([q, self.micros(q)])).collect();
        json!({
            "mean": self.0.mean() / 1e3,
            "p50": self.micros(0.5),
            "p90": self.micros(0.9),
            "p99": self.micros(0.99),
            "p999": self.micros(0.999),
            "max": self.0.max() as f64 / 1e3,
            "line": line,
        })
    }
}

/// Everything one run counts. Counts are of the measured window, failures of the whole run.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Answers that were complete and right.
    pub requests: u64,
    /// Connections opened, before and during the run.
    pub connects: u64,
    /// Bytes of answers, heads included.
    pub bytes_in: u64,
    /// Bytes of requests, heads included.
    pub bytes_out: u64,
    /// Events of streams, `[DONE]` not counted.
    pub chunks: u64,
    /// Events that came in one read with an earlier one.
    pub chunks_coalesced: u64,
    /// From when a request was due to the last byte of its answer.
    pub latency: Times,
    /// From when a request was due to the first event of its answer.
    pub first_token: Times,
    /// Between one event and the next of a stream.
    pub chunk_gap: Times,
    /// How much later than the script an event came, the stream's most punctual event being on time.
    pub chunk_late: Times,
    /// Failures by kind.
    pub failures: BTreeMap<String, u64>,
    /// Seconds measured.
    pub seconds: f64,
    /// Arrivals per second asked for; `None` in a closed loop.
    pub rate: Option<f64>,
    /// Connections of the run.
    pub connections: usize,
    /// CPU nanoseconds the generator used in the window, and the simulator with it when they share a process.
    pub own_cpu_ns: u64,
}

impl Stats {
    /// Failures of all kinds.
    #[must_use]
    pub fn failures_total(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Complete answers per second.
    #[must_use]
    pub fn rps(&self) -> f64 {
        if self.seconds > 0.0 {
            self.requests as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// The summary; times in microseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "connections": self.connections,
            "rate": self.rate,
            "seconds": self.seconds,
            "requests": self.requests,
            "rps": self.rps(),
            "failures": self.failures_total(),
            "failures_by_kind": self.failures,
            "connects": self.connects,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "chunks": self.chunks,
            "chunks_coalesced": self.chunks_coalesced,
            "latency_us": self.latency.to_json(),
            "first_token_us": self.first_token.to_json(),
            "chunk_gap_us": self.chunk_gap.to_json(),
            "chunk_late_us": self.chunk_late.to_json(),
            "load_cpu_us_per_request": self.own_cpu_ns as f64 / 1e3 / self.requests.max(1) as f64,
        })
    }
}
