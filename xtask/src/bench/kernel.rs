//! `cargo xtask bench kernel`: what steering and accounting cost, in CPU per request, and what each program costs when it runs.
//!
//! Invariants: nothing without programs is measured while another gateway's programs are there, because they run for the sockets of
//! all; with and without programs in turns, in an order that changes with every round; a ratio is taken within a round, and then the
//! median. What is shipped is measured over whole turns of window and pause (`turns.rs`). Deliberately absent: a limit that fails the
//! run; the record says what the limit is.

mod turns;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command as Process;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::measure::{self, Sample};
use super::scenario::{self, Scenario};
use super::subject::{Name, Stage};
use super::{build, machine, process, progress};
use turns::Turn;

/// What steering and accounting may cost together.
const LIMIT_PERCENT: f64 = 2.0;
/// Where the kernel is told to count the time of programs.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// The flags of `bench kernel`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Interleaved rounds with programs that are always there.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds of each of their measurements.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Turns of window and pause as shipped; each takes half a minute.
    #[arg(long, default_value_t = 12)]
    turns: usize,
    /// Seconds of each slice of a turn.
    #[arg(long, default_value_t = 0.5)]
    slice: f64,
    /// The load.
    #[arg(long, default_value = "c64")]
    scenario: String,
    /// A folder with the programs, instead of building them.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where the record goes (default: bench/results/DATE-MACHINE).
    #[arg(long)]
    out: Option<PathBuf>,
    /// Core of the process under test.
    #[arg(long, default_value_t = 0)]
    proxy_cpu: usize,
    /// Core of generator and simulator.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Cargo profile of the programs.
    #[arg(long, default_value = "dist")]
    profile: String,
}

/// One program, as the kernel counts it.
struct Run {
    name: String,
    ns: u64,
    count: u64,
}

/// All that was measured.
struct Measured {
    /// Without and with programs that are always there.
    always: Vec<[Sample; 2]>,
    /// As shipped.
    turns: Vec<Turn>,
    runs: Vec<Run>,
    requests: u64,
}

/// Measures, prints and saves.
///
/// # Errors
/// When something cannot be built or started, or the process may not load programs.
pub fn run(args: &Args) -> Result<()> {
    let scenario = scenario::all()
        .into_iter()
        .find(|scenario| scenario.name == args.scenario)
        .with_context(|| format!("no such scenario; there are: {}", scenario::names()))?;
    let machine = machine::Machine::read()?;
    process::raise_open_files();
    let programs = match &args.programs {
        Some(folder) => ["sluice", "sluice-load"]
            .map(|name| (name.to_owned(), folder.join(name)))
            .into(),
        None => build::programs(&args.profile)?,
    };
    let mut stage = Stage::open(programs, args.proxy_cpu, args.load_cpu)?;
    let measured = measure_all(args, &mut stage, &scenario)?;
    let table = record(args, &machine, &scenario, &measured);
    println!("{table}");
    let out = match &args.out {
        Some(out) => out.clone(),
        None => build::workspace_root()?
            .join("bench/results")
            .join(machine.directory_name()),
    };
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let file = out.join("ebpf.md");
    std::fs::write(&file, table).with_context(|| format!("write {}", file.display()))?;
    println!("saved as {}", file.display());
    Ok(())
}

fn measure_all(args: &Args, stage: &mut Stage, scenario: &Scenario) -> Result<Measured> {
    let (runs, requests) = programs_cost(args, stage, scenario)?;
    let always = rounds(stage, scenario, Name::GatewayTraced, args.rounds, args.seconds)?;
    let turns = turns::run(stage, scenario, args.turns, args.slice)?;
    Ok(Measured {
        always,
        turns,
        runs,
        requests,
    })
}

/// Samples without and with programs.
fn rounds(stage: &mut Stage, scenario: &Scenario, with: Name, rounds: usize, seconds: f64) -> Result<Vec<[Sample; 2]>> {
    let mut pairs = Vec::new();
    for round in 0..rounds {
        progress(&format!("{with}: round {}/{rounds}", round + 1));
        let mut one = |name: Name| -> Result<Sample> {
            let subject = stage.start(name, scenario.upstream)?.context("the gateway is there")?;
            measure::run(stage, scenario, &subject, round, seconds)
        };
        pairs.push(if round % 2 == 0 {
            let first = one(Name::GatewayBare)?;
            [first, one(with)?]
        } else {
            let second = one(with)?;
            [one(Name::GatewayBare)?, second]
        });
    }
    progress("");
    Ok(pairs)
}

/// What each program costs each time it runs, and how often it runs.
fn programs_cost(args: &Args, stage: &mut Stage, scenario: &Scenario) -> Result<(Vec<Run>, u64)> {
    let before = std::fs::read_to_string(STATS).unwrap_or_default();
    if std::fs::write(STATS, "1").is_err() {
        return Ok((Vec::new(), 0));
    }
    let measured = (|| {
        let subject = stage
            .start(Name::GatewayTraced, scenario.upstream)?
            .context("the gateway is there")?;
        let sample = measure::run(stage, scenario, &subject, 0, args.seconds)?;
        // Programs are counted from the start, the warm-up included.
        let seconds = args.seconds * scenario.longer;
        let requests = sample.load["requests"].as_f64().unwrap_or(0.0) * (seconds + scenario.warmup) / seconds;
        Ok((loaded(), requests as u64))
    })();
    let _ = std::fs::write(STATS, before);
    measured
}

/// The gateway's programs, as bpftool shows them; none without bpftool.
fn loaded() -> Vec<Run> {
    let Ok(output) = Process::new("bpftool").args(["-j", "prog", "show"]).output() else {
        return Vec::new();
    };
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let ours = ["steer_migrate", "steer", "connection", "sent", "received", "ready"];
    let runs = all.as_array().into_iter().flatten().filter_map(|program| {
        let name = program["name"].as_str()?;
        Some(Run {
            name: ours.contains(&name).then(|| name.to_owned())?,
            ns: program["run_time_ns"].as_u64()?,
            count: program["run_cnt"].as_u64()?,
        })
    });
    runs.collect()
}

/// What a gateway's kernel has measured.
fn ask(admin: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /admin/latency HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    Ok(serde_json::from_str(body)?)
}

fn record(args: &Args, machine: &machine::Machine, scenario: &Scenario, measured: &Measured) -> String {
    let failures: u64 = measured.always.iter().flatten().map(Sample::failures).sum();
    let failures = failures + measured.turns.iter().map(|turn| turn.failures).sum::<u64>();
    let [low, middle, high] = added_percent(&measured.always);
    let cpu = |index: usize| quartiles(measured.always.iter().map(|pair| pair[index].cpu_us).collect())[1];
    let runs: String = measured
        .runs
        .iter()
        .map(|run| run_row(run, measured.requests))
        .collect();
    format!(
        "# What steering and accounting cost\n\n{}, kernel {}, rustc {}; revision {}; profile {}; {failures} failures.\n\n\
         {}; CPU in microseconds per request, all threads of the gateway, beside the same gateway with `ebpf.steering: off` and \
         `ebpf.accounting: off`.\n\n{}\
         ## Programs that are always there (`accounting: always`)\n\n\
         {} rounds of {} s in turns, one gateway at a time: off {:.2} us, on {:.2} us; median of ratios {middle:+.1} %, quartiles \
         {low:+.1} to {high:+.1} %.\n\n\
         | program | ns per run | runs per request |\n|---|---:|---:|\n{runs}\n\
         Runs are those of the whole machine, the load's own sockets included; counting adds some 60 ns to each \
         (`kernel.bpf_stats_enabled`).\n\n`cargo xtask bench kernel --rounds {} --turns {}`\n",
        machine.arch,
        machine.kernel,
        machine.rustc,
        machine.revision,
        args.profile,
        scenario.what,
        turns_table(args, &measured.turns),
        args.rounds,
        args.seconds,
        cpu(0),
        cpu(1),
        args.rounds,
        args.turns,
    )
}

/// The part of the record that is about what is shipped.
fn turns_table(args: &Args, turns: &[Turn]) -> String {
    let rows: String = turns
        .iter()
        .enumerate()
        .map(|(number, turn)| {
            format!(
                "| {} | {} | {:.2} | {:.1} % | {:+.1} % | {:+.1} % | {:+.2} % |\n",
                number + 1,
                turn.slices,
                turn.off_us,
                turn.share * 100.0,
                turn.paused,
                turn.open,
                turn.percent()
            )
        })
        .collect();
    let (mean, error) = turns::mean_and_error(&turns.iter().map(Turn::percent).collect::<Vec<_>>());
    let verdict = match (mean - error <= LIMIT_PERCENT, mean + error <= LIMIT_PERCENT) {
        (_, true) => "held",
        (true, false) => "neither proven nor refuted",
        (false, false) => "missed",
    };
    format!(
        "## As shipped (`auto`)\n\nOver whole turns of window and pause: two fresh gateways each, the load going from one to the other \
         every {} s (ABBA), each slice with programs against the slices without them just before and after it.\n\n\
         | turn | slices | off, us | measured | in pauses | in windows | the whole turn |\n|---:|---:|---:|---:|---:|---:|---:|\n{rows}\n\
         **{mean:+.2} %**, 95 % confidence {:+.2} to {:+.2} % (Student's t over the turns). Limit {LIMIT_PERCENT} %: {verdict}.\n\n",
        args.slice,
        mean - error,
        mean + error,
    )
}

fn run_row(run: &Run, requests: u64) -> String {
    let per = |total: u64, count: u64| total as f64 / count.max(1) as f64;
    format!(
        "| `{}` | {:.0} | {:.2} |\n",
        run.name,
        per(run.ns, run.count),
        per(run.count, requests)
    )
}

/// What the second of each pair cost more than the first, in hundredths: quartiles.
fn added_percent(pairs: &[[Sample; 2]]) -> [f64; 3] {
    quartiles(
        pairs
            .iter()
            .map(|[without, with]| (with.cpu_us / without.cpu_us - 1.0) * 100.0)
            .collect(),
    )
}

/// Lower quartile, median, upper quartile; zeros of nothing.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (values.len().saturating_sub(1) as f64 * share).round() as usize;
        values.get(index).copied().unwrap_or_default()
    };
    [at(0.25), at(0.5), at(0.75)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_shown_by_what_a_run_costs_and_how_many_a_request_has() {
        let run = Run {
            name: "sent".into(),
            ns: 6_000,
            count: 60,
        };
        assert_eq!(run_row(&run, 20), "| `sent` | 100 | 3.00 |\n");
    }

    #[test]
    fn quartiles_of_nothing_are_nothing() {
        assert_eq!(quartiles(Vec::new()), [0.0; 3]);
        assert_eq!(quartiles(vec![3.0, 1.0, 2.0])[1], 2.0);
    }
}
