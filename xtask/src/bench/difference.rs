//! `cargo xtask bench difference`: what this tree's gateway costs beside another one, an older revision for instance, in CPU per
//! request.
//!
//! Invariants: both are built with one profile and get the same load from the same generator, in turns, and who goes first
//! changes with every round; a difference is taken within a round, and then the median. Deliberately absent: a limit. What a
//! difference means depends on what lies between the two.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context, Result, ensure};

use super::measure::{self, Sample};
use super::scenario::{self, Scenario};
use super::subject::{Name, Running, Stage};
use super::{build, machine, process, progress};

/// The feature of a gateway that counts nothing, and the base of that name.
const UNCOUNTED: &str = "uncounted";

/// The flags of `bench difference`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The other gateway: a revision, which is built in a worktree of its own, a program, or the word `uncounted`: this tree, built
    /// without counting and run without a request log.
    base: String,
    /// Another program than this tree's gateway to hold against it.
    #[arg(long)]
    program: Option<PathBuf>,
    /// What lies between the two: the title of the record, and its name.
    #[arg(long, default_value = "difference")]
    title: String,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// The load.
    #[arg(long, default_value = "c64")]
    scenario: String,
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

/// Measures, prints and saves.
///
/// # Errors
/// When something cannot be built or started.
pub fn run(args: &Args) -> Result<()> {
    ensure!(
        args.proxy_cpu != args.load_cpu,
        "the process under test needs a core of its own"
    );
    let scenario = scenario::all()
        .into_iter()
        .find(|scenario| scenario.name == args.scenario)
        .with_context(|| format!("no such scenario; there are: {}", scenario::names()))?;
    let machine = machine::Machine::read()?;
    process::raise_open_files();
    // Before the programs: this tree's own binary is the one that is built last.
    let base = base(args)?;
    let mut programs = build::programs(&args.profile)?;
    programs.insert("sluice-base".into(), base);
    if let Some(program) = &args.program {
        programs.insert("sluice".into(), program.clone());
    }
    let mut stage = Stage::open(programs, args.proxy_cpu, args.load_cpu)?;
    let samples = measure(args, &mut stage, &scenario)?;
    let table = table(args, &machine, &scenario, &samples)?;
    println!("{table}");
    let out = match &args.out {
        Some(out) => out.clone(),
        None => build::workspace_root()?
            .join("bench/results")
            .join(machine.directory_name()),
    };
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let file = out.join(format!("{}.md", args.title.to_lowercase().replace(' ', "-")));
    std::fs::write(&file, table).with_context(|| format!("write {}", file.display()))?;
    println!("saved as {}", file.display());
    Ok(())
}

/// The other gateway: a program that is there, or one that is built from a revision.
fn base(args: &Args) -> Result<PathBuf> {
    if args.base == UNCOUNTED {
        let arguments = ["--bins", "-p", "sluice", "--features", UNCOUNTED];
        let programs = crate::cargo::build(&args.profile, &arguments)?;
        let built = programs.get("sluice").context("sluice was not built")?;
        let kept = built.with_file_name("sluice-uncounted");
        std::fs::copy(built, &kept).with_context(|| format!("copy {}", built.display()))?;
        return Ok(kept);
    }
    let program = Path::new(&args.base);
    if program.is_file() {
        return Ok(program.to_owned());
    }
    let root = build::workspace_root()?;
    let place = std::env::temp_dir().join(format!("sluice-base-{}", std::process::id()));
    let git = |arguments: &[&str]| -> Result<()> {
        let status = Process::new("git").current_dir(&root).args(arguments).status()?;
        ensure!(status.success(), "git {}", arguments.join(" "));
        Ok(())
    };
    let path = place.display().to_string();
    git(&["worktree", "add", "--detach", &path, &args.base])?;
    eprintln!("building {} with profile {} …", args.base, args.profile);
    let target = root.join("target/base");
    let built = Process::new("cargo")
        .current_dir(&place)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--profile", &args.profile, "-p", "sluice"])
        .status();
    git(&["worktree", "remove", "--force", &path])?;
    ensure!(built?.success(), "the revision {} cannot be built", args.base);
    Ok(target.join(&args.profile).join("sluice"))
}

fn measure(args: &Args, stage: &mut Stage, scenario: &Scenario) -> Result<Vec<[Sample; 2]>> {
    let start = |name: Name| -> Result<Running> {
        let started = stage.start(name, scenario.upstream)?;
        started.with_context(|| format!("{name} is not available"))
    };
    let base = if args.base == UNCOUNTED {
        Name::Uncounted
    } else {
        Name::Base
    };
    let subjects = [start(base)?, start(Name::Gateway)?];
    let mut pairs = Vec::new();
    for round in 0..=args.rounds {
        progress(&format!("round {round}/{}", args.rounds));
        let mut one = |index: usize| measure::run(stage, scenario, &subjects[index], round, args.seconds);
        let pair = if round % 2 == 0 {
            let first = one(0)?;
            [first, one(1)?]
        } else {
            let second = one(1)?;
            [one(0)?, second]
        };
        // The first round fills caches and pools.
        if round > 0 {
            pairs.push(pair);
        }
    }
    progress("");
    Ok(pairs)
}

fn table(args: &Args, machine: &machine::Machine, scenario: &Scenario, pairs: &[[Sample; 2]]) -> Result<String> {
    ensure!(!pairs.is_empty(), "no round was measured");
    let failures: u64 = pairs.iter().flatten().map(Sample::failures).sum();
    let cpu = |index: usize| spread(pairs.iter().map(|pair| pair[index].cpu_us).collect());
    let difference = spread(pairs.iter().map(|[base, own]| own.cpu_us - base.cpu_us).collect());
    let row = |name: &str, [low, middle, high]: [f64; 3]| format!("| {name} | {middle:.2} | {low:.2} | {high:.2} |\n");
    Ok(format!(
        "# {}\n\n{}, kernel {}, rustc {}; revision {} beside {}; {} rounds of {} s in turns, profile {}; {failures} failures.\n\n\
         {}; CPU in microseconds per request, all threads of the gateway.\n\n\
         | | median | lower quartile | upper quartile |\n|---|---:|---:|---:|\n{}{}{}\n\
         `cargo xtask bench difference {} --title \"{}\"`\n",
        args.title,
        machine.arch,
        machine.kernel,
        machine.rustc,
        machine.revision,
        args.base,
        pairs.len(),
        args.seconds,
        args.profile,
        scenario.what,
        row("base", cpu(0)),
        row("this tree", cpu(1)),
        row("difference, within a round", difference),
        args.base,
        args.title,
    ))
}

/// Lower quartile, median, upper quartile.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    [at(0.25), at(0.5), at(0.75)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_quartiles_in_order() {
        assert_eq!(spread(vec![5.0, 1.0, 3.0, 2.0, 4.0]), [2.0, 3.0, 4.0]);
        assert_eq!(spread(vec![7.0]), [7.0; 3]);
    }
}
