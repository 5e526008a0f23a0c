//! `cargo xtask ci`: everything that must pass before a change is taken.
//!
//! Invariants: each step is a command that can be run by itself, and its line says which; every step runs, whatever became
//! of those before; what a step printed is shown only if it failed, but a test runner's closing lines always are; the last
//! line is `N passed, N failed`, where a step that failed without counting tests counts as one failure.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, workspace_root};

/// The flags of `ci`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds that each fuzz target runs; 0 leaves fuzzing out.
    #[arg(long, default_value_t = 5)]
    fuzz_seconds: u32,
}

/// What a test runner says at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs all steps.
///
/// # Errors
/// When one failed, or could not be started.
pub fn run(args: &Args) -> Result<()> {
    if let Some(why) = packet_filter_missing() {
        println!("left out: tests in which packets are lost: {why}");
    }
    if !install_postgresql() {
        println!("left out: tests with PostgreSQL: it is missing and could not be installed");
    }
    if !install_prometheus() {
        println!("left out: tests with Prometheus: it is missing and could not be installed");
    }
    let mut total = Count::default();
    let mut failed = Vec::new();
    for command in steps(args)? {
        let name = shown(&command);
        let (count, ok) = step(&name, command)?;
        total.passed += count.passed;
        total.failed += count.failed;
        if !ok {
            total.failed += u64::from(count.failed == 0);
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join("; "));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    std::io::stdout().flush().context("write to standard output")?;
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("not all steps passed")
    }
}

fn steps(args: &Args) -> Result<Vec<Command>> {
    let with = |words: &str| -> Result<Command> {
        let mut command = cargo()?;
        command.args(words.split(' '));
        Ok(command)
    };
    let mut steps = vec![
        with("fmt --all --check")?,
        with("fmt --manifest-path tests/fuzz/Cargo.toml --check")?,
        with("clippy --workspace --all-targets --quiet -- -D warnings")?,
    ];
    if has_nextest() {
        steps.push(with("nextest run --workspace --no-fail-fast")?);
        steps.push(with("test --workspace --doc --no-fail-fast")?);
    } else {
        steps.push(with("test --workspace --no-fail-fast")?);
    }
    steps.push(with("xtask ebpf build --check")?);
    steps.push(with("xtask tidy")?);
    steps.push(with("xtask sdk")?);
    if args.fuzz_seconds > 0 {
        steps.push(with(&format!("xtask fuzz --seed 1 --seconds {}", args.fuzz_seconds))?);
    }
    Ok(steps)
}

/// Why packets cannot be dropped by the tests that want to, after having tried to install what is missing.
fn packet_filter_missing() -> Option<&'static str> {
    let works = || succeeds("unshare", &["--net", "nft", "add", "table", "inet", "test"]);
    if works() {
        return None;
    }
    if !succeeds("unshare", &["--net", "true"]) {
        return Some("no network namespace can be made (that needs root)");
    }
    let install = ["install", "--yes", "--no-install-recommends", "nftables", "iproute2"];
    (!installed(&install) || !works()).then_some("nft is missing and could not be installed")
}

/// Whether there is a PostgreSQL server, after having tried to install one. It is not started: tests start their own.
pub fn install_postgresql() -> bool {
    // Where tests look as well: Debian's place, and the search path.
    let is_there = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions
            .into_iter()
            .any(|version| version.path().join("bin/initdb").is_file())
            || succeeds("initdb", &["--version"])
    };
    is_there() || installed(&["install", "--yes", "--no-install-recommends", "postgresql"]) && is_there()
}

/// Whether Prometheus and promtool are there, after having tried to install them. Nothing is started: tests start their own.
fn install_prometheus() -> bool {
    let is_there = || succeeds("promtool", &["--version"]) && succeeds("prometheus", &["--version"]);
    is_there() || installed(&["install", "--yes", "--no-install-recommends", "prometheus"]) && is_there()
}

fn installed(install: &[&str]) -> bool {
    succeeds("apt-get", install) || succeeds("apt-get", &["update"]) && succeeds("apt-get", install)
}

fn succeeds(program: &str, words: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn has_nextest() -> bool {
    let Ok(mut command) = cargo() else { return false };
    command
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    format!("cargo {}", words.join(" "))
}

/// Runs one step with both of its outputs in one file, in the order in which they were written.
fn step(name: &str, mut command: Command) -> Result<(Count, bool)> {
    let path = std::env::temp_dir().join(format!("sluice-ci-{}.log", std::process::id()));
    let log = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let begun = Instant::now();
    let status = command
        .current_dir(workspace_root()?)
        .env("CARGO_TERM_COLOR", "never")
        // rustfmt looks at nothing else.
        .env("TERM", "dumb")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log)
        .status()
        .with_context(|| format!("run {name}"))?;
    let took = begun.elapsed().as_secs_f64();
    let output = String::from_utf8_lossy(&std::fs::read(&path).context("read the log")?).into_owned();
    // Left behind it costs a file of the temporary directory.
    let _ = std::fs::remove_file(&path);
    let (count, closing) = closing_lines(&output);
    let verdict = if status.success() { "ok    " } else { "FAILED" };
    println!("{verdict} {name} ({took:.1} s)");
    if status.success() {
        closing.iter().for_each(|line| println!("       {line}"));
    } else {
        println!("{output}");
    }
    Ok((count, status.success() && count.failed == 0))
}

/// What the test runners within `output` counted, and the lines in which they, or a step that was left out, say so.
fn closing_lines(output: &str) -> (Count, Vec<&str>) {
    let mut sum = Count::default();
    let mut lines = Vec::new();
    for line in output.lines().map(|line| line.trim().trim_matches('=').trim()) {
        let is_runner = line.starts_with("test result:")
            || line.starts_with("Summary [")
            || (line.contains(" in ") && (line.contains(" passed") || line.contains(" failed")));
        if is_runner {
            let count = counted(line);
            sum.passed += count.passed;
            sum.failed += count.failed;
            // `cargo test` says it once for each program, of which many hold no test.
            if count != Count::default() {
                lines.push(line);
            }
        } else if line.starts_with("left out:") || line.starts_with("fuzzed") || line.starts_with("tidy:") {
            lines.push(line);
        }
    }
    (sum, lines)
}

/// The numbers before `passed` and `failed`, `errors` and `timed out`.
fn counted(line: &str) -> Count {
    let mut count = Count::default();
    let words: Vec<&str> = line.split_whitespace().collect();
    for pair in words.windows(2) {
        let Ok(number) = pair[0].parse::<u64>() else { continue };
        match pair[1].trim_end_matches([',', ';']) {
            "passed" => count.passed += number,
            "failed" | "error" | "errors" | "timed" => count.failed += number,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_every_runner_are_understood() {
        let cases = [
            (
                "     Summary [   1.203s] 412 tests run: 411 passed (2 slow), 1 failed, 3 skipped",
                (411, 1),
            ),
            (
                "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
                (10, 2),
            ),
            ("======= 2 failed, 43 passed, 1 error in 5.21s =======", (43, 3)),
            ("45 passed in 3.20s", (45, 0)),
            (
                "Summary [ 1s] 5 tests run: 3 passed, 1 failed, 1 timed out, 0 skipped",
                (3, 2),
            ),
        ];
        for (line, (passed, failed)) in cases {
            let (count, lines) = closing_lines(line);
            assert_eq!(count, Count { passed, failed }, "{line}");
            assert_eq!(lines.len(), 1, "{line}");
        }
    }

    #[test]
    fn counts_are_added_up_and_other_lines_ignored() {
        let output = "running 3 tests\ntest a ... ok\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                      3 passed by the way\ntest result: ok. 0 passed; 0 failed; 0 ignored\ntest result: ok. 4 passed; 0 failed\n";
        let (count, lines) = closing_lines(output);
        assert_eq!(count, Count { passed: 7, failed: 0 });
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn what_was_left_out_is_shown() {
        let (_, lines) = closing_lines("x\nleft out: no nightly toolchain\n");
        assert_eq!(lines, ["left out: no nightly toolchain"]);
    }

    #[test]
    fn a_step_that_fails_is_told_from_one_that_does_not() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let (count, ok) = step("true", shell("echo '2 passed in 1s' >&2")).unwrap();
        assert_eq!((count, ok), (Count { passed: 2, failed: 0 }, true));
        let (_, ok) = step("false", shell("exit 3")).unwrap();
        assert!(!ok);
        let (count, ok) = step("says so", shell("echo '1 failed in 1s'")).unwrap();
        assert_eq!((count.failed, ok), (1, false));
    }
}
