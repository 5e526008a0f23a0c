//! Finds the gateway's binary beside the test, and has it built if it is missing or older than its sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The gateway's binary; `SLUICE_BINARY` names another one (a release build, say).
///
/// # Panics
/// When it cannot be built.
pub fn sluice() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("SLUICE_BINARY") {
            return path.into();
        }
        let test = std::env::current_exe().expect("a process knows its binary");
        // target/PROFILE/deps/test
        let folder = test
            .parent()
            .and_then(Path::parent)
            .expect("tests lie in target/PROFILE/deps");
        let path = folder.join("sluice");
        // When the build was last asked: it leaves a binary alone that the changed sources are no part of.
        let asked = folder.join(".sluice-tests-built");
        if is_stale(&path, &asked) {
            build(folder);
            std::fs::write(&asked, "").expect("the target folder can be written");
        }
        path
    })
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn is_stale(binary: &Path, asked: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let Some(built) = modified(binary) else { return true };
    let built = built.max(modified(asked).unwrap_or(built));
    ["proxy", "ebpf"]
        .iter()
        .any(|part| newest(&workspace().join(part)).is_some_and(|changed| changed > built))
}

/// When the newest Rust source under `folder` was changed.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return newest(&path);
            }
            let source = path.extension().is_some_and(|end| end == "rs" || end == "toml");
            source.then(|| entry.metadata().ok()?.modified().ok()).flatten()
        })
        .max()
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        // For the whole workspace, so that dependencies have the features that the tests' own build gave them.
        .args(["build", "--quiet", "--workspace", "--bin", "sluice", "--profile", profile])
        .arg("--target-dir")
        .arg(folder.parent().expect("a profile's folder lies in the target folder"))
        .current_dir(workspace())
        .status()
        .expect("cargo can be started");
    assert!(built.success(), "the gateway cannot be built");
}
