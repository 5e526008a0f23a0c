//! `cargo xtask audit`: the auditor's tests for as long as it takes: gateways killed hundreds of times, databases stopped for a
//! minute.
//!
//! Invariants: it runs the same tests as `cargo xtask ci`, one after the other. Deliberately absent: conditions of its own.

use anyhow::{Result, ensure};

use crate::cargo::{cargo, workspace_root};

/// The flags of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often gateways are killed.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// For how many seconds a database stops.
    #[arg(long, default_value_t = 60)]
    outage_seconds: u32,
    /// For how many seconds a budget is spent to its end, at least.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only tests whose names contain this.
    filter: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When a test fails.
pub fn run(args: &Args) -> Result<()> {
    crate::ci::install_postgresql();
    let mut command = cargo()?;
    command
        .args(["test", "--package", "sluice-tests", "--test", "audit", "--"])
        .args(["--test-threads", "1", "--nocapture"])
        .args(&args.filter)
        .env("SLUICE_AUDIT_KILLS", args.kills.to_string())
        .env("SLUICE_AUDIT_OUTAGE_S", args.outage_seconds.to_string())
        .env("SLUICE_AUDIT_SECONDS", args.seconds.to_string())
        .current_dir(workspace_root()?);
    let status = command.status()?;
    ensure!(status.success(), "the audit has found something");
    Ok(())
}
