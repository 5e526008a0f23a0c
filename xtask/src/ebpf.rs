//! `cargo xtask ebpf`: builds the kernel's side, and runs what takes too long for every CI run.
//!
//! Invariants: the objects in `ebpf/objects` are what the sources and the versions in `built-with.txt` give, byte for byte,
//! wherever the tree lies; other versions of the tools are a reason to build anew, not to fail. A plain `cargo build` needs none
//! of this. Deliberately absent: loading (the gateway does).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{cargo, target_directory, workspace_root};

/// What `ebpf` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Build the objects in ebpf/objects.
    Build(BuildArgs),
    /// Upgrade a gateway under load many times in a row: no request may fail, no stream be cut.
    Upgrades(UpgradeArgs),
}

/// The flags of `ebpf build`.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Change nothing; fail if the objects are not what the sources give.
    #[arg(long)]
    check: bool,
}

/// The flags of `ebpf upgrades`.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    /// Upgrades in a row.
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Streams that are open meanwhile.
    #[arg(long, default_value_t = 1000)]
    streams: usize,
}

/// The objects, by the program's name.
const OBJECTS: [&str; 2] = ["steering", "accounting"];
/// Packages of Debian and Ubuntu: a compiler whose standard library for BPF is packaged too, and the LLVM that it was built with.
const PACKAGES: [&str; 8] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "llvm-22",
    "bpftool",
];
/// The linker, which no distribution packages.
const LINKER: (&str, &str) = ("bpf-linker", "0.13.0");
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const STRIP: &str = "llvm-strip-22";
const LLVM: &str = "/usr/lib/llvm-22";
const TARGET: &str = "bpfel-unknown-none";
/// Where they are built: the compiler makes a package's path a part of its symbols, and so of the order of functions.
const BUILT_AT: &str = "/tmp/sluice-ebpf-build";
/// What the objects were built with.
const BUILT_WITH: &str = "ebpf/objects/built-with.txt";

/// Does it.
///
/// # Errors
/// When something is missing and cannot be installed, or does not hold.
pub fn run(action: &Action) -> Result<()> {
    match action {
        Action::Build(args) => build(args),
        Action::Upgrades(args) => upgrades(args),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    let root = workspace_root()?;
    if let Err(why) = tools() {
        ensure!(args.check, "{why:#}");
        println!("left out: the kernel's programs are not built anew: {why:#}");
        return Ok(());
    }
    let target = target_directory()?.join("ebpf");
    let linker = linker(&target)?;
    let built_with = format!("{}\n{} {}\n{}\n", version(RUSTC)?, LINKER.0, LINKER.1, version(STRIP)?);
    compile(&root, &target, &linker)?;
    let known = std::fs::read_to_string(root.join(BUILT_WITH)).unwrap_or_default();
    let mut stale = Vec::new();
    for name in OBJECTS {
        let object = target.join(TARGET).join("release").join(name);
        let stripped = target.join(format!("{name}.o"));
        std::fs::copy(&object, &stripped).with_context(|| format!("copy {}", object.display()))?;
        ensure!(succeeds(Command::new(STRIP).arg("-g").arg(&stripped)), "{STRIP} failed");
        let path = root.join(format!("ebpf/objects/{name}.o"));
        let fresh = std::fs::read(&stripped)?;
        if std::fs::read(&path).ok().as_ref() == Some(&fresh) {
            println!("{name}.o is current");
        } else if args.check {
            stale.push(name);
        } else {
            std::fs::write(&path, fresh)?;
            println!("{name}.o written");
        }
    }
    if !args.check {
        std::fs::write(root.join(BUILT_WITH), built_with)?;
    } else if known != built_with {
        println!(
            "left out: the objects were built with other versions: {}",
            known.trim().replace('\n', ", ")
        );
    } else if !stale.is_empty() {
        bail!(
            "{} do not follow from the sources: run cargo xtask ebpf build",
            stale.join(", ")
        );
    }
    Ok(())
}

/// Makes sure that compiler and LLVM are there.
fn tools() -> Result<()> {
    let there = || {
        let library = Command::new(RUSTC)
            .args(["--print", "target-libdir", "--target", TARGET])
            .output();
        let library = library
            .ok()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        library.is_some_and(|path| Path::new(&path).is_dir()) && succeeds(Command::new(STRIP).arg("--version"))
    };
    if there() {
        return Ok(());
    }
    let install = |words: &[&str]| succeeds(Command::new("apt-get").args(words));
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(PACKAGES);
    let installed = install(&words) || install(&["update"]) && install(&words);
    ensure!(
        installed && there(),
        "these packages are missing and could not be installed: {}",
        PACKAGES.join(" ")
    );
    Ok(())
}

/// The linker, built once into the target folder.
fn linker(target: &Path) -> Result<PathBuf> {
    let root = target.join("tools");
    let linker = root.join("bin").join(LINKER.0);
    let right = |linker: &Path| version(linker).is_ok_and(|said| said.ends_with(LINKER.1));
    if !right(&linker) {
        eprintln!("installing {} {} …", LINKER.0, LINKER.1);
        let mut install = cargo()?;
        install
            .args(["install", LINKER.0, "--version", LINKER.1, "--locked", "--quiet"])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(&root)
            .env("LLVM_PREFIX", LLVM);
        ensure!(
            install.status().context("run cargo install")?.success(),
            "{} cannot be installed",
            LINKER.0
        );
    }
    Ok(linker)
}

/// Copies a folder, but for what a build left there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (path, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name())
        };
        if path.is_dir() && name != "target" {
            copy(&path, &to.join(name))?;
        } else if path.is_file() {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

fn compile(root: &Path, target: &Path, linker: &Path) -> Result<()> {
    let at = Path::new(BUILT_AT);
    if at.exists() {
        std::fs::remove_dir_all(at).with_context(|| format!("remove {BUILT_AT}"))?;
    }
    for part in ["programs", "common"] {
        copy(&root.join("ebpf").join(part), &at.join("ebpf").join(part))
            .with_context(|| format!("copy to {BUILT_AT}"))?;
    }
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let renamed = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flag
    };
    // The packages take their edition and licence from it.
    std::fs::copy(root.join("Cargo.toml"), at.join("Cargo.toml"))?;
    let flags = [
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "--cfg=bpf_target_arch=\"x86_64\"".into(),
        "-Ctarget-cpu=v3".into(),
        renamed(at, "/sluice"),
        renamed(&home, "/cargo"),
    ];
    let mut command = Command::new(CARGO);
    command
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET])
        .current_dir(at.join("ebpf/programs"))
        .env("RUSTC", RUSTC)
        // The BPF target is not a stable one; these compilers have it nevertheless.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\x1f")));
    for name in ["CARGO", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_INCREMENTAL", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    ensure!(
        command.status().context("run cargo build")?.success(),
        "the programs cannot be built"
    );
    Ok(())
}

/// The first line that a tool says of itself.
fn version(tool: impl AsRef<std::ffi::OsStr>) -> Result<String> {
    let output = Command::new(&tool).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains(char::is_numeric))
        .context("it says no version")?;
    Ok(line.trim().to_owned())
}

fn upgrades(args: &UpgradeArgs) -> Result<()> {
    let mut command = cargo()?;
    command
        .args([
            "test",
            "-p",
            "sluice-tests",
            "--test",
            "kernel",
            "--",
            "--nocapture",
            "--exact",
        ])
        .arg("handover::upgrades_under_load_cost_no_request_while_connections_are_steered_and_measured")
        .env("SLUICE_UPGRADES", args.count.to_string())
        .env("SLUICE_STREAMS", args.streams.to_string());
    ensure!(
        command.status().context("run cargo test")?.success(),
        "a request failed or a stream was cut"
    );
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
