//! The machine, the moment and the revision that a record belongs to.

use std::process::Command;

use anyhow::Result;
use serde::Serialize;

/// What a figure means nothing without.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Cores visible to this process.
    pub cores: usize,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Instruction set.
    pub arch: String,
    /// Time in UTC, ISO 8601.
    pub date: String,
    /// Revision of the working tree, with `-dirty` when it differs.
    pub revision: String,
    /// The command line.
    pub command: String,
    /// Compiler.
    pub rustc: String,
    /// TCP congestion control of the kernel.
    pub congestion_control: String,
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

impl Machine {
    /// Reads what there is to know; what cannot be read stays empty.
    ///
    /// # Errors
    /// When the number of cores is unknown.
    pub fn read() -> Result<Self> {
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let args: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_kib: memory
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse().ok())
                .unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease"),
            arch: std::env::consts::ARCH.to_owned(),
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            revision: said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            command: format!("cargo xtask {}", args.join(" ")),
            rustc: said("rustc", &["--version"]),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        })
    }

    /// A directory name for a record of this machine and day.
    #[must_use]
    pub fn directory_name(&self) -> String {
        let day = self.date.split('T').next().unwrap_or_default();
        let kernel: String = self
            .kernel
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        format!("{day}-{}-linux-{}", self.arch, kernel.trim_end_matches('.'))
    }
}
