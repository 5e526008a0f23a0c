//! What the subcommands ask of Cargo: where the workspace is, and programs built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Programs by name.
pub type Programs = BTreeMap<String, PathBuf>;

/// The root of the workspace.
///
/// # Errors
/// When this program was not built inside one.
pub fn workspace_root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .context("xtask stands in a workspace")
}

/// Cargo, to be given its arguments, in the root of the workspace.
///
/// # Errors
/// As [`workspace_root`].
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()?);
    Ok(command)
}

/// Where Cargo puts what it builds.
///
/// # Errors
/// When Cargo does not say.
pub fn target_directory() -> Result<PathBuf> {
    let output = cargo()?
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let directory = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(directory))
}

/// Builds with `profile` what `selection` (`--bin NAME`, `-p NAME`) names, and says where the programs are.
///
/// # Errors
/// When the build fails; the compiler has said why.
pub fn build(profile: &str, selection: &[&str]) -> Result<Programs> {
    let output = cargo()?
        .args([
            "build",
            "--profile",
            profile,
            "--message-format=json-render-diagnostics",
        ])
        .args(selection)
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "the build failed");
    let mut programs = Programs::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else {
            continue;
        };
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str()) {
            programs.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(programs)
}
