//! `cargo xtask sdk`: the vendors' own client libraries against a gateway with the simulator behind it.
//!
//! Invariants: the libraries are those of `tests/sdk/requirements.txt`, in an environment of their own below the target
//! directory, installed again only when that file changes. Without Python it says so and is left out, but not in CI. The tests start gateway and simulator themselves, on ports that
//! the kernel chooses; here they are only built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, workspace_root};
use crate::stack;

/// The flags of `sdk`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cargo profile of gateway and simulator.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Flags for pytest, after `--`.
    #[arg(last = true)]
    pytest: Vec<String>,
}

/// Runs the tests.
///
/// # Errors
/// When something cannot be built or installed, or a test fails.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace_root()?;
    if !has_python() {
        ensure!(std::env::var_os("CI").is_none(), "the SDKs' tests need python3");
        println!("left out: the SDKs' tests need python3");
        return Ok(());
    }
    let python = environment(&root)?;
    let stack = stack::build(&args.profile)?;
    let status = Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/sdk"])
        .args(&args.pytest)
        .current_dir(&root)
        .env("SLUICE_PROGRAM", &stack.gateway)
        .env("SLUICE_SIM_PROGRAM", &stack.simulator)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .status()
        .context("run pytest")?;
    ensure!(status.success(), "the SDKs' tests failed");
    Ok(())
}

fn has_python() -> bool {
    let version = Command::new("python3").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Python with the pinned libraries.
fn environment(root: &Path) -> Result<PathBuf> {
    let requirements = root.join("tests/sdk/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).context("read tests/sdk/requirements.txt")?;
    let folder = cargo::target_directory()?.join("sdk-python");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    eprintln!("installing the SDKs into {} …", folder.display());
    let quietly = |command: &mut Command, what: &str| -> Result<()> {
        let status = command.stdin(Stdio::null()).status().with_context(|| what.to_owned())?;
        ensure!(status.success(), "{what} failed");
        Ok(())
    };
    quietly(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
        "python3 -m venv (Python 3.10 or later with its venv module)",
    )?;
    quietly(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
        "pip install",
    )?;
    std::fs::write(&stamp, wanted).context("note what is installed")?;
    Ok(python)
}
