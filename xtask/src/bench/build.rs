//! Builds the programs a measurement needs and says where they are.

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

/// Builds the gateway and every program of the bench with `profile`, and finds nginx and HAProxy if installed.
///
/// # Errors
/// When the build fails.
pub fn programs(profile: &str) -> Result<Programs> {
    eprintln!("building with profile {profile} …");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--profile",
            profile,
            "--bins",
            "-p",
            "sluice",
            "-p",
            "sluice-bench",
        ])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace_root()?)
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
    for name in ["nginx", "haproxy"] {
        let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
        if let Some(path) = places
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.is_file())
        {
            programs.insert(name.to_owned(), path);
        }
    }
    Ok(programs)
}
