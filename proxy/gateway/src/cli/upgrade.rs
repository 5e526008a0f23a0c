//! `sluice upgrade`: the running gateway starts the program that is now at its path, with its own arguments, and hands over.
//!
//! Invariants: returns once the new process serves, or once it is clear that the old one goes on. Deliberately absent: anything
//! but asking (`control/handover.rs`).

use std::path::PathBuf;

use crate::control::{self, handover};
use anyhow::{Context, Result, anyhow};

/// The flags of `upgrade`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The running gateway's configuration file.
    #[arg(long, short, value_name = "FILE", default_value = "config/sluice.yaml")]
    config: PathBuf,
}

/// Asks for it.
///
/// # Errors
/// Why the running gateway goes on instead.
pub fn run(args: &Args) -> Result<()> {
    let config = control::load(&args.config).map_err(|mistakes| anyhow!("the running gateway goes on: {mistakes}"))?;
    let address = handover::address(&config.handover.socket, &args.config)?;
    let process = handover::upgrade(&address.context("handover.socket is off")?)?;
    println!("process {process} serves now");
    Ok(())
}
