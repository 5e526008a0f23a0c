//! One measurement: the generator's run, and the process under test's clocks read at the edges of its window.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::process::{self, CpuTime, Kept};
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

#[derive(Default)]
struct Edge {
    cpu: CpuTime,
    ksoftirqd_ns: u64,
    core_busy: u64,
    core_all: u64,
}

fn edge(stage: &Stage, subject: &Running) -> Edge {
    let (core_busy, core_all) = process::core_ticks(stage.proxy_cpu());
    Edge {
        core_busy,
        core_all,
        cpu: subject.pid().map(process::cpu_time).unwrap_or_default(),
        ksoftirqd_ns: process::ksoftirqd_ns(stage.proxy_cpu()),
    }
}

/// Puts a scenario's load on a subject once.
///
/// # Errors
/// When the generator fails; failures of the subject are counted in the sample.
pub fn run(stage: &Stage, scenario: &Scenario, subject: &Running, round: usize, seconds: f64) -> Result<Sample> {
    ensure!(stage.scripted || !scenario.is_stream(), "needs the simulator");
    let mut command = stage.generator()?;
    command
        .args(["--target", &format!("http://{}", subject.address)])
        .args(scenario.flags);
    command.args(["--model", &model(stage, scenario, subject.name)]);
    command.args([
        "--duration",
        &(seconds * scenario.longer).to_string(),
        "--warmup",
        &scenario.warmup.to_string(),
    ]);
    command.stdout(Stdio::piped());
    let mut generator = Kept::spawn(command, stage.load_cpu())?;
    let stdout = generator.child().stdout.take().context("standard output is piped")?;
    let (mut begin, mut end, mut rss_load, mut summary) = (Edge::default(), Edge::default(), 0, None);
    for line in BufReader::new(stdout).lines() {
        let mut event: Value = serde_json::from_str(&line?).context("the generator speaks JSON")?;
        match event["event"].as_str() {
            Some("measure") => begin = edge(stage, subject),
            Some("measured") => {
                end = edge(stage, subject);
                rss_load = subject.rss_bytes();
            }
            _ => summary = Some(event["summary"].take()),
        }
    }
    let load = summary.context("the generator ended without a summary")?;
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
        rss_idle: subject.rss_idle,
        rss_load,
        rss_after: 0,
        load,
    })
}

/// The share of the core that was busy with neither the subject nor its left-over network work.
fn core_others(begin: &Edge, end: &Edge) -> f64 {
    let ticks = |from: u64, to: u64| to.saturating_sub(from) as f64;
    let own_ns = end.cpu.since(begin.cpu).total_ns + end.ksoftirqd_ns.saturating_sub(begin.ksoftirqd_ns);
    let (busy, all) = (
        ticks(begin.core_busy, end.core_busy),
        ticks(begin.core_all, end.core_all),
    );
    if all > 0.0 {
        ((busy - own_ns as f64 / 1e7) / all).max(0.0)
    } else {
        0.0
    }
}

/// The gateway takes `provider/model` and has to splice the model; everything else passes on what the provider knows.
fn model(stage: &Stage, scenario: &Scenario, name: Name) -> String {
    let script = if stage.scripted {
        format!("+{}", scenario.script)
    } else {
        String::new()
    };
    let prefix = if matches!(name, Name::Gateway | Name::GatewayTls) {
        "openai/"
    } else {
        ""
    };
    format!("{prefix}gpt-4o-mini{script}")
}
