//! The load generator: closed loop, open loop and streams from one pinned io_uring thread.
//!
//! Invariants: an open loop's latency counts from the moment the request was due, never from when a connection became
//! free (no coordinated omission); every answer is checked to its last byte and a failure is counted, never retried;
//! a run is bounded in time by `warmup + duration + timeout`. With `--with-simulator` the provider simulator runs on the
//! same thread and ring, so that one core carries both ends. Absent: TLS to the target, HTTP/2, and more than one thread.

mod answer;
mod body;
mod closed;
mod exchange;
mod pace;
mod ring;
mod run;
mod scan;
mod search;
mod stage;
mod stats;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The program: one run that the flags describe, or a stage that performs runs as it is told.
#[derive(Debug, clap::Parser)]
pub struct Program {
    #[command(flatten)]
    stage: stage::Mode,
    #[command(flatten)]
    flags: Flags,
}

/// The flags of one run.
#[derive(Debug, Clone, clap::Parser)]
pub struct Flags {
    /// Where to send: `http://host:port`; every run needs one.
    #[arg(long, default_value = "")]
    pub target: String,
    /// Request path.
    #[arg(long, default_value = "/v1/chat/completions")]
    pub path: String,
    /// `model` of the body; the simulator reads its script from it.
    #[arg(long, default_value = "gpt-4o-mini")]
    pub model: String,
    /// More request header fields, `name:value`.
    #[arg(long)]
    pub header: Vec<String>,
    /// Send one of so many virtual keys with each request, at random: number N is made of N's four bytes, low first, and
    /// zeroes, as the gateway's example `stock` makes them.
    #[arg(long, default_value_t = 0)]
    pub virtual_keys: u32,
    /// Size of the JSON body in bytes, or with `k` or `m` behind: `1k`, `1.7k`, `100k`, `1m`.
    #[arg(long, default_value = "1.7k", value_parser = body::parse_size)]
    pub body: usize,
    /// Concurrent connections, 1 to 10,000.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Open loop: arrivals per second. Without it each connection sends as soon as it has its answer (closed loop).
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds measured.
    #[arg(long, default_value_t = 3.0)]
    pub duration: f64,
    /// Seconds before the measurement.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Most requests to send, warm-up included.
    #[arg(long, default_value_t = u64::MAX)]
    pub requests: u64,
    /// Seconds after which a request counts as failed.
    #[arg(long, default_value_t = 10.0)]
    pub timeout: f64,
    /// Ask for a stream and account for every chunk.
    #[arg(long)]
    pub stream: bool,
    /// Time between two chunks in the simulator's script, in microseconds: chunks are judged late against it.
    #[arg(long, default_value_t = 0)]
    pub chunk_interval_us: u64,
    /// Spread the first requests of a run over this many milliseconds, so that streams do not march in step.
    #[arg(long, default_value_t = 0)]
    pub stagger_ms: u64,
    /// Bytes that each answer's body must have; without it, as many as the first one had.
    #[arg(long)]
    pub expect_bytes: Option<u64>,
    /// Chunks that each stream must have, `[DONE]` not counted; without it, as many as the first one had.
    #[arg(long)]
    pub expect_chunks: Option<u64>,
    /// Search for the highest rate without failures whose p99 stays within each of these limits, in microseconds.
    #[arg(long, value_delimiter = ',')]
    pub search: Vec<u64>,
    /// Core to pin to.
    #[arg(long)]
    pub cpu: Option<usize>,
}

impl Flags {
    /// The target's first address.
    ///
    /// # Errors
    /// When the target is not `http://host:port` or does not resolve.
    pub fn address(&self) -> Result<SocketAddr> {
        let authority = self
            .target
            .strip_prefix("http://")
            .context("--target must be http://host:port")?;
        let mut found = authority
            .trim_end_matches('/')
            .to_socket_addrs()
            .context("--target must be http://host:port")?;
        found.next().context("--target resolves to no address")
    }

    /// The longest a request may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }
}

/// Runs what the flags ask for and prints events and JSON summaries, one per line, on standard output.
///
/// # Errors
/// When the flags are not usable or the runtime cannot be had; a failing target is no error but a count.
pub fn run(program: &Program) -> Result<()> {
    let Program { stage, flags } = program;
    crate::rt::pin(flags.cpu)?;
    if stage.with_responder {
        stage::respond()
    } else if stage.with_simulator {
        crate::rt::run(stage::run(stage))
    } else {
        crate::rt::run(perform(flags))
    }
}

/// One run, or one search, from its flags to its summary line.
async fn perform(flags: &Flags) -> Result<()> {
    ensure!(
        (1..=10_000).contains(&flags.connections),
        "--connections must be 1 to 10000"
    );
    ensure!(flags.rate.is_none_or(|rate| rate >= 1.0), "--rate must be at least 1");
    let summary = if flags.search.is_empty() {
        run::measure(flags, true).await?.to_json()
    } else {
        search::run(flags).await?
    };
    say(&serde_json::json!({ "event": "summary", "summary": summary }))
}

/// Prints one event as one line and sees that it leaves.
fn say(event: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}")
        .and_then(|()| out.flush())
        .context("standard output")
}
