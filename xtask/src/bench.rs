//! `cargo xtask bench load`: the gateway beside its yardsticks, interleaved on one machine, with a table and a record.
//!
//! Invariants: every subject gets the same load from the same pinned generator in every round, one after another, so
//! that drift of the machine hits all of them; ratios are taken within a round and then their median. The process under
//! test has one core with all its threads, generator and simulator share another. Children are killed by their own id.

mod build;
mod configs;
mod difference;
mod generator;
mod instructions;
mod judge;
mod kernel;
mod machine;
mod measure;
mod plot;
mod process;
mod report;
mod scenario;
mod subject;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use measure::Sample;
use scenario::Scenario;
use subject::{Name, Running, Stage};

/// What can be measured.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// CPU per request, latency and memory under load, beside L4, nginx, HAProxy and minimal proxies.
    Load(Args),
    /// What this gateway costs beside another one, in CPU per request.
    Difference(difference::Args),
    /// What steering and accounting cost, and each of the kernel's programs.
    Kernel(kernel::Args),
    /// Instructions of each translation.
    Instructions(instructions::Args),
}

/// The flags of `bench load`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Short runs and two rounds: a look, not a record.
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds (default 5, with --quick 2).
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Only these subjects.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Name>,
    /// Where the record goes (default: bench/results/DATE-MACHINE; nowhere with --quick).
    #[arg(long)]
    out: Option<PathBuf>,
    /// Core of the process under test.
    #[arg(long, default_value_t = 0)]
    proxy_cpu: usize,
    /// Core of generator and simulator.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Seconds of each measurement (default 1.5, with --quick 0.5).
    #[arg(long)]
    seconds: Option<f64>,
    /// Cargo profile of the programs; guided: dist, and the gateway as `cargo xtask dist` builds it.
    #[arg(long, default_value = build::GUIDED)]
    profile: String,
}

impl Args {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 }).max(1)
    }

    /// Rounds of one scenario: as many as asked for, else fewer for what supports a secondary figure.
    fn rounds_of(&self, scenario: &Scenario) -> usize {
        match (self.rounds, self.quick, scenario.is_secondary) {
            (None, true, true) => 1,
            (None, false, true) => 3,
            _ => self.rounds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 0.5 } else { 1.5 })
    }
}

/// One scenario with all that was measured in it.
#[derive(Debug)]
pub struct Outcome {
    /// What was run.
    pub scenario: Scenario,
    /// In the order in which it was measured.
    pub samples: Vec<Sample>,
}

/// Runs a subcommand.
///
/// # Errors
/// When something cannot be built or started; a missed budget is reported, not an error.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Load(args) => load(&args),
        Command::Difference(args) => difference::run(&args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Instructions(args) => instructions::run(&args),
    }
}

fn load(args: &Args) -> Result<()> {
    ensure!(
        args.proxy_cpu != args.load_cpu,
        "the process under test needs a core of its own"
    );
    let scenarios: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|scenario| args.scenario.is_empty() || args.scenario.iter().any(|name| name == scenario.name))
        .collect();
    ensure!(
        !scenarios.is_empty(),
        "no such scenario; there are: {}",
        scenario::names()
    );
    let machine = machine::Machine::read()?;
    process::raise_open_files();
    let programs = build::programs(&args.profile)?;
    let mut stage = Stage::open(programs, args.proxy_cpu, args.load_cpu)?;
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        match measure_scenario(args, &mut stage, scenario) {
            Ok(outcome) if outcome.samples.is_empty() => {}
            Ok(outcome) => {
                report::print_scenario(&outcome);
                outcomes.push(outcome);
            }
            Err(error) => eprintln!("scenario left out: {error:#}"),
        }
    }
    let verdicts = judge::all(&outcomes);
    report::print_verdicts(&verdicts);
    let out = match (&args.out, args.quick) {
        (Some(out), _) => Some(out.clone()),
        (None, true) => None,
        (None, false) => Some(
            build::workspace_root()?
                .join("bench/results")
                .join(machine.directory_name()),
        ),
    };
    if let Some(out) = out {
        save(&out, &machine, args, &outcomes, &verdicts)?;
    }
    Ok(())
}

fn save(
    out: &Path,
    machine: &machine::Machine,
    args: &Args,
    outcomes: &[Outcome],
    verdicts: &[judge::Verdict],
) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let write = |name: &str, text: String| {
        std::fs::write(out.join(name), text).with_context(|| format!("write {name} in {}", out.display()))
    };
    write("results.json", report::json(machine, args, outcomes, verdicts)?)?;
    write("summary.md", report::markdown(machine, args, outcomes, verdicts))?;
    for outcome in outcomes {
        for (name, svg) in plot::of(outcome) {
            write(&name, svg)?;
        }
    }
    println!("\nsaved in {}", out.display());
    Ok(())
}

/// Replaces the line that says what is going on; a log file gets none.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

fn measure_scenario(args: &Args, stage: &mut Stage, scenario: Scenario) -> Result<Outcome> {
    let wanted = scenario
        .subjects
        .iter()
        .copied()
        .filter(|name| args.only.is_empty() || args.only.contains(name));
    let mut running: Vec<Running> = Vec::new();
    for name in wanted {
        match stage.start(name, scenario.upstream) {
            Ok(Some(subject)) => running.push(subject),
            Ok(None) => eprintln!("{}: {name} is not available", scenario.name),
            Err(error) => eprintln!("{}: {name} does not start: {error:#}", scenario.name),
        }
    }
    let mut samples: Vec<Sample> = Vec::new();
    let rounds = args.rounds_of(&scenario);
    for round in 0..rounds {
        for subject in &mut running {
            progress(&format!(
                "{} round {}/{rounds}: {}",
                scenario.name,
                round + 1,
                subject.name
            ));
            match measure::run(stage, &scenario, subject, round, args.seconds()) {
                Ok(sample) => samples.push(sample),
                Err(error) => eprintln!("\n{}: {}: {error:#}", scenario.name, subject.name),
            }
        }
    }
    progress("");
    // Memory that a subject gives back only after a while is given back by then, or never.
    std::thread::sleep(Duration::from_secs(1));
    for subject in &running {
        if let Some(last) = samples.iter_mut().rev().find(|sample| sample.subject == subject.name) {
            last.rss_after = subject.rss_bytes();
        }
    }
    Ok(Outcome { scenario, samples })
}
