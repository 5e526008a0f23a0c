//! What is measured: the load of each scenario and who takes part.
//!
//! The simulator's script stands behind the model name: `gpt-4o-mini+tps=50`. Its healthy answer needs none and is
//! 0.7 KB long.

use super::generator::Upstream;
use super::subject::Name;

/// What CPU time is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// A request and its answer.
    Request,
    /// A chunk of a stream.
    Chunk,
}

/// One kind of load.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Name on the command line and in the record.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// Script behind the model name, with its `+`; empty for the simulator's healthy answer.
    pub script: &'static str,
    /// The generator's flags besides target, model and times.
    pub flags: &'static [&'static str],
    /// What stands behind the subjects.
    pub upstream: Upstream,
    /// It supports a secondary figure, which needs fewer rounds.
    pub is_secondary: bool,
    /// Who takes part, in the order of a round.
    pub subjects: &'static [Name],
    /// What CPU time is divided by.
    pub per: Per,
    /// Seconds before the measurement.
    pub warmup: f64,
    /// Times the usual length of a measurement.
    pub longer: f64,
}

/// Time between two chunks of a stream in microseconds, and the script that makes it so.
const CHUNK_INTERVAL_US: &str = "20000";
const STREAM_SCRIPT: &str = "+tps=50,tokens=50";

const PLAIN: &[Name] = &[
    Name::Direct,
    Name::L4,
    Name::Gateway,
    Name::Nginx,
    Name::Haproxy,
    Name::Monoio,
];
const EVERYONE: &[Name] = &[
    Name::Direct,
    Name::L4,
    Name::Gateway,
    Name::Nginx,
    Name::Haproxy,
    Name::Monoio,
    Name::Glommio,
    Name::Tokio,
];

const UNARY: Scenario = Scenario {
    name: "",
    what: "",
    script: "",
    flags: &[],
    upstream: Upstream::Responder,
    is_secondary: false,
    subjects: PLAIN,
    per: Per::Request,
    warmup: 0.3,
    longer: 1.0,
};

impl Scenario {
    /// Whether the generator searches for rates instead of measuring once.
    #[must_use]
    pub fn is_search(&self) -> bool {
        self.flags.contains(&"--search")
    }

    /// Whether answers are streams, which a stand-in without scripts cannot give.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.flags.contains(&"--stream")
    }
}

/// Every scenario, the main one first.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [closed_loops(), others()].concat()
}

/// Closed loops over a plain upstream, in front of the cheapest responder.
fn closed_loops() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "c64",
            what: "64 connections, 1.7 KB request, 0.7 KB answer, closed loop",
            flags: &["--connections", "64", "--body", "1.7k"],
            subjects: EVERYONE,
            ..UNARY
        },
        Scenario {
            name: "c1",
            what: "1 connection, 1.7 KB request, 0.7 KB answer: added latency",
            flags: &["--connections", "1", "--body", "1.7k"],
            ..UNARY
        },
        Scenario {
            name: "c1000",
            what: "1,000 connections, 1.7 KB request, 0.7 KB answer, closed loop",
            flags: &["--connections", "1000", "--body", "1.7k"],
            warmup: 0.7,
            ..UNARY
        },
        Scenario {
            name: "small",
            what: "64 connections, 1 KB request, 0.7 KB answer, closed loop",
            flags: &["--connections", "64", "--body", "1k"],
            is_secondary: true,
            ..UNARY
        },
        Scenario {
            name: "body100k",
            what: "64 connections, 100 KB image request, 0.7 KB answer, closed loop",
            flags: &["--connections", "64", "--body", "100k"],
            is_secondary: true,
            ..UNARY
        },
        Scenario {
            name: "body1m",
            what: "16 connections, 1 MB image request, 0.7 KB answer, closed loop",
            flags: &["--connections", "16", "--body", "1m"],
            is_secondary: true,
            ..UNARY
        },
    ]
}

/// What needs the simulator: streams, open loops, TLS.
fn others() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "sse500",
            what: "500 streams, a chunk every 20 ms each, 50 chunks a stream",
            script: STREAM_SCRIPT,
            flags: &[
                "--connections",
                "500",
                "--body",
                "1.7k",
                "--stream",
                "--chunk-interval-us",
                CHUNK_INTERVAL_US,
                "--stagger-ms",
                "1000",
            ],
            per: Per::Chunk,
            upstream: Upstream::Simulator,
            warmup: 1.3,
            ..UNARY
        },
        Scenario {
            name: "rates",
            what: "64 connections, open loop: highest rate with p99 within 1, 5 and 10 ms and no failure",
            flags: &["--connections", "64", "--body", "1.7k", "--search", "1000,5000,10000"],
            subjects: &[Name::L4, Name::Gateway, Name::Nginx, Name::Haproxy],
            upstream: Upstream::Simulator,
            is_secondary: true,
            warmup: 0.2,
            longer: 0.3,
            ..UNARY
        },
        Scenario {
            name: "tls",
            what: "64 connections, 1.7 KB request, 0.7 KB answer, TLS to the upstream",
            flags: &["--connections", "64", "--body", "1.7k"],
            subjects: &[Name::Gateway, Name::GatewayTls],
            upstream: Upstream::Simulator,
            ..UNARY
        },
    ]
}

/// The names of all scenarios.
#[must_use]
pub fn names() -> String {
    all()
        .iter()
        .map(|scenario| scenario.name)
        .collect::<Vec<_>>()
        .join(", ")
}
