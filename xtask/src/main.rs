//! Everything a maintainer runs that is not `cargo build` or `cargo test`.
//!
//! One file per subcommand; what they have in common is only the workspace they stand in.

mod bench;

use anyhow::Result;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Maintenance commands of the workspace")]
enum Command {
    /// Measurements.
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Bench(command) => bench::run(command),
    }
}
