//! `cargo xtask fuzz`: runs the fuzz targets of `tests/fuzz`, one after the other.
//!
//! Invariants: the first crash ends it, and says which input; without a nightly toolchain, which the fuzzer's
//! instrumentation needs, it says so and is left out. What was learnt stays in `tests/fuzz/corpus`, which is not tracked.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace_root;

/// The flags of `fuzz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds that each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Where the search begins: with one number it takes the same way each time, so that what it finds depends on the code and
    /// not on the day. 0: elsewhere each time.
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Only these targets.
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
}

/// Runs the targets.
///
/// # Errors
/// When one cannot be built, or crashes.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace_root()?;
    let all = targets(&root)?;
    for name in &args.target {
        ensure!(
            all.contains(name),
            "no fuzz target {name}; there are: {}",
            all.join(", ")
        );
    }
    if !succeeds(nightly(&root).args(["cargo", "--version"])) {
        println!("left out: fuzzing needs a nightly toolchain (rustup toolchain install nightly)");
        return Ok(());
    }
    if !succeeds(nightly(&root).args(["cargo", "fuzz", "--version"])) {
        eprintln!("installing cargo-fuzz …");
        let mut install = nightly(&root);
        install.args(["cargo", "install", "cargo-fuzz", "--locked", "--quiet"]);
        ensure!(
            install.status().context("run cargo install")?.success(),
            "cargo-fuzz cannot be installed"
        );
    }
    let chosen = if args.target.is_empty() { &all } else { &args.target };
    for name in chosen {
        run_target(&root, name, args)?;
    }
    println!("fuzzed {} for {} s each: no crash", chosen.join(", "), args.seconds);
    Ok(())
}

/// The names of the targets, in order.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/fuzz/targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if let (Some(name), Some("rs")) = (path.file_stem(), path.extension().and_then(|end| end.to_str())) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn run_target(root: &Path, name: &str, args: &Args) -> Result<()> {
    let corpus = format!("tests/fuzz/corpus/{name}");
    std::fs::create_dir_all(root.join(&corpus)).with_context(|| format!("create {corpus}"))?;
    let mut command = nightly(root);
    // The code under test has no `unsafe`: a sanitizer would only make it slower.
    command.args([
        "cargo",
        "fuzz",
        "run",
        "--fuzz-dir",
        "tests/fuzz",
        "--sanitizer",
        "none",
    ]);
    command.args([name, &corpus, &format!("tests/fuzz/seeds/{name}"), "--"]);
    command.args([
        &format!("-max_total_time={}", args.seconds),
        &format!("-seed={}", args.seed),
        "-verbosity=0",
        "-print_final_stats=0",
    ]);
    let status = command.status().context("run cargo fuzz")?;
    ensure!(status.success(), "the fuzz target {name} failed");
    Ok(())
}

/// The nightly toolchain, in the root, without what the toolchain that runs this has set.
fn nightly(root: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).current_dir(root).stdin(Stdio::null());
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_program_and_first_inputs() {
        let root = workspace_root().unwrap();
        let manifest = std::fs::read_to_string(root.join("tests/fuzz/Cargo.toml")).unwrap();
        let names = targets(&root).unwrap();
        assert!(names.len() > 5);
        for name in names {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
            let seeds = root.join("tests/fuzz/seeds").join(&name);
            assert!(seeds.read_dir().is_ok_and(|mut seeds| seeds.next().is_some()), "{name}");
        }
    }
}
