//! One measurement: the generator's run, and the process under test's clocks read at the edges of its window.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::generator;
use super::process::{self, CpuTime};
use super::scenario::{Per, Scenario};
use super::subject::{Name, Running, Stage};

/// What one subject did in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Who.
    #[serde(serialize_with = "as_name")]
    pub subject: Name,
    /// Which round, from 0.
    pub round: usize,
    /// CPU of the process tree per request, or per chunk, in microseconds; 0 when there is no process.
    pub cpu_us: f64,
    /// Of it, in user mode (a sampled share).
    pub cpu_user_us: f64,
    /// What the core's ksoftirqd did meanwhile, per request or chunk, in microseconds: in nobody's account.
    pub ksoftirqd_us: f64,
    /// The share of its core that others used meanwhile, 0 to 1: above a few hundredths the sample is a noisy one.
    pub core_others: f64,
    /// The share of its core that the subject used, 0 to 1: near 1 in a closed loop of many connections.
    pub core_own: f64,
    /// The share of its core that the load used: below the subject's, or the subject was not saturated.
    pub load_core_own: f64,
    /// The share of the subject's core that was busy for anybody.
    pub core_busy: f64,
    /// The share of the load's core that was busy for anybody.
    pub load_core_busy: f64,
    /// CPU of generator and simulator together per request or chunk, in microseconds.
    pub load_cpu_us: f64,
    /// Resident bytes before the first request of the scenario.
    pub rss_idle: u64,
    /// Resident bytes at the end of the measured window.
    pub rss_load: u64,
    /// Resident bytes a second after the last round; 0 in all rounds but the last.
    pub rss_after: u64,
    /// The generator's own summary.
    pub load: Value,
}

fn as_name<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

impl Sample {
    /// A number of the generator's summary by its path, such as `["latency_us", "p99"]`.
    #[must_use]
    pub fn number(&self, path: &[&str]) -> Option<f64> {
        path.iter().try_fold(&self.load, |value, key| value.get(key))?.as_f64()
    }

    /// Failures the generator counted.
    #[must_use]
    pub fn failures(&self) -> u64 {
        ["failures", "closed_loop_failures"]
            .iter()
            .filter_map(|key| self.load.get(key)?.as_u64())
            .sum()
    }
}

/// The clocks at one edge of a window.
#[derive(Default)]
struct Clocks {
    cpu: CpuTime,
    load_cpu: CpuTime,
    ksoftirqd_ns: u64,
    /// Busy and all ticks of the subject's core.
    core: (u64, u64),
    /// Busy and all ticks of the load's core.
    load_core: (u64, u64),
}

/// What is read at both edges: the processes and the cores they run on.
struct Watched {
    subject: Vec<u32>,
    load: Vec<u32>,
    ksoftirqd: Vec<u32>,
    proxy_cpu: usize,
    load_cpu: usize,
}

impl Watched {
    fn read(&self) -> Clocks {
        Clocks {
            cpu: process::cpu_time(&self.subject),
            load_cpu: process::cpu_time(&self.load),
            ksoftirqd_ns: process::cpu_time(&self.ksoftirqd).total_ns,
            core: process::core_ticks(self.proxy_cpu),
            load_core: process::core_ticks(self.load_cpu),
        }
    }
}

/// Puts a scenario's load on a subject once.
///
/// # Errors
/// When the generator fails; failures of the subject are counted in the sample.
pub fn run(stage: &mut Stage, scenario: &Scenario, subject: &Running, round: usize, seconds: f64) -> Result<Sample> {
    let mut flags = vec!["--target".to_owned(), format!("http://{}", subject.address)];
    flags.extend(scenario.flags.iter().map(|flag| (*flag).to_owned()));
    flags.extend(["--model".to_owned(), model(scenario, subject.name)]);
    flags.extend(["--duration".to_owned(), (seconds * scenario.longer).to_string()]);
    flags.extend(["--warmup".to_owned(), scenario.warmup.to_string()]);
    let watched = Watched {
        subject: subject.pid().map(process::tree).unwrap_or_default(),
        load: process::tree(stage.generator(scenario.upstream).pid()),
        ksoftirqd: process::ksoftirqd(stage.proxy_cpu()),
        proxy_cpu: stage.proxy_cpu(),
        load_cpu: stage.load_cpu(),
    };
    let (mut begin, mut end, mut rss_load) = (Clocks::default(), Clocks::default(), 0);
    let load = stage.generator(scenario.upstream).run(&flags, |edge| match edge {
        generator::Edge::Begin => begin = watched.read(),
        generator::Edge::End => {
            end = watched.read();
            rss_load = subject.rss_bytes();
        }
    })?;
    let count = match scenario.per {
        Per::Request => load["requests"].as_f64(),
        Per::Chunk => load["chunks"].as_f64(),
    };
    let micros = |ns: u64| {
        count
            .filter(|count| *count > 0.0)
            .map_or(0.0, |count| ns as f64 / 1e3 / count)
    };
    let cpu = end.cpu.since(begin.cpu);
    Ok(Sample {
        subject: subject.name,
        round,
        cpu_us: micros(cpu.total_ns),
        cpu_user_us: micros(cpu.total_ns) * cpu.user_share(),
        ksoftirqd_us: micros(end.ksoftirqd_ns.saturating_sub(begin.ksoftirqd_ns)),
        core_others: core_others(&begin, &end),
        core_own: share(cpu.total_ns, begin.core, end.core),
        load_core_own: share(
            end.load_cpu.since(begin.load_cpu).total_ns,
            begin.load_core,
            end.load_core,
        ),
        core_busy: busy(begin.core, end.core),
        load_core_busy: busy(begin.load_core, end.load_core),
        load_cpu_us: micros(end.load_cpu.since(begin.load_cpu).total_ns),
        rss_idle: subject.rss_idle,
        rss_load,
        rss_after: 0,
        load,
    })
}

/// The busy share of a core between two readings of its busy and all ticks; 0 when no time has passed.
fn busy(begin: (u64, u64), end: (u64, u64)) -> f64 {
    let all = end.1.saturating_sub(begin.1);
    if all == 0 {
        0.0
    } else {
        end.0.saturating_sub(begin.0) as f64 / all as f64
    }
}

/// The share of the core that was busy with neither the subject nor its left-over network work.
fn core_others(begin: &Clocks, end: &Clocks) -> f64 {
    let own_ns = end.cpu.since(begin.cpu).total_ns + end.ksoftirqd_ns.saturating_sub(begin.ksoftirqd_ns);
    (busy(begin.core, end.core) - share(own_ns, begin.core, end.core)).max(0.0)
}

/// What CPU time is of all the time a core had between two readings of its ticks (10 ms each); 0 when none has passed.
fn share(ns: u64, begin: (u64, u64), end: (u64, u64)) -> f64 {
    let all = end.1.saturating_sub(begin.1);
    if all == 0 { 0.0 } else { ns as f64 / 1e7 / all as f64 }
}

/// The gateway takes `provider/model` and has to splice the model; everything else passes on what the provider knows.
fn model(scenario: &Scenario, name: Name) -> String {
    let prefix = match name {
        Name::Gateway | Name::GatewayTls | Name::GatewayBare | Name::GatewayTraced | Name::Base | Name::Uncounted => {
            "openai/"
        }
        _ => "",
    };
    format!("{prefix}gpt-4o-mini{}", scenario.script)
}
