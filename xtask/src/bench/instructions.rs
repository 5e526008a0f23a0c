//! `cargo xtask bench instructions`: how many instructions each direction of each translation takes, counted by callgrind.
//!
//! Invariants: a count is the difference between two runs of different length, so start-up is not in it; unlike a time it is
//! the same on a loaded machine. Deliberately absent: a limit. The budgets are times, and `translate_cost` measures those.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::build;
use super::machine::Machine;

/// The flags of `bench instructions`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the table goes, as `instructions.md` (default: bench/results/DATE-MACHINE).
    #[arg(long)]
    out: Option<PathBuf>,
}

const DIALECTS: [&str; 3] = ["openai", "anthropic", "bedrock"];
/// What is translated, how often in the shorter of two runs, and how many units one translation has.
const PARTS: [(&str, u64, u64); 4] = [
    ("request", 50, 1),
    ("answer", 50, 1),
    ("events", 2, 200),
    ("image", 1, 1),
];

/// Counts, prints and saves.
///
/// # Errors
/// When valgrind is not installed, or something cannot be built or run.
pub fn run(args: &Args) -> Result<()> {
    let root = build::workspace_root()?;
    let program = example(&root)?;
    let machine = Machine::read()?;
    let mut table = format!(
        "# Instructions per translation\n\n{}, rustc {}; revision {}; `cargo xtask bench instructions`, release profile.\n\n\
         Requests are translated from the first dialect to the second, answers and events back. A request has 2 KB, an \
         answer 1 KB, an image 1 MB.\n\n\
         | pair | request | answer | one event | 1 MB image |\n|---|---:|---:|---:|---:|\n",
        machine.arch, machine.rustc, machine.revision
    );
    for from in DIALECTS {
        for to in DIALECTS {
            let case = format!("{from}-{to}");
            table += &format!("| {from} to {to} |");
            for (part, count, units) in PARTS {
                let (short, long) = (
                    counted(&program, &case, part, count)?,
                    counted(&program, &case, part, 3 * count)?,
                );
                table += &format!(" {} |", long.saturating_sub(short) / (2 * count * units));
            }
            table.push('\n');
            eprintln!("{case}");
        }
    }
    println!("{table}");
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| root.join("bench/results").join(machine.directory_name()));
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let file = out.join("instructions.md");
    std::fs::write(&file, table).with_context(|| format!("write {}", file.display()))?;
    println!("saved as {}", file.display());
    Ok(())
}

/// Builds the example and finds it.
fn example(root: &Path) -> Result<PathBuf> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["build", "--release", "-p", "sluice-wire", "--example", "translate_cost"])
        .args(["--message-format", "json"])
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back();
    executable.context("cargo names no executable")
}

/// The instructions of one run.
fn counted(program: &Path, case: &str, part: &str, count: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case, part, &count.to_string()])
        .output()
        .context("run valgrind, which counts the instructions: is it installed?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let Some(collected) = said.lines().find_map(|line| line.split_once("Collected :")) else {
        bail!("valgrind names no count:\n{said}");
    };
    collected.1.trim().parse().context("valgrind's count is a number")
}
