//! Everything a maintainer runs that is not `cargo build` or `cargo test`.
//!
//! One file per subcommand; what they have in common is the workspace they stand in (`cargo.rs`) and the pair of programs
//! that some of them start (`stack.rs`).

mod audit;
mod bench;
mod cargo;
mod ci;
mod dist;
mod ebpf;
mod fuzz;
mod model;
mod prices;
mod schema;
mod sdk;
mod stack;
mod tidy;
mod trial;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Maintenance commands of the workspace")]
enum Command {
    /// Run the gateway with the provider simulator behind it, and show a request answered.
    Try(trial::Args),
    /// Build the gateway as it should be shipped: optimised as a whole, by a profile of its own work.
    Dist(dist::Args),
    /// Everything that must pass: format, clippy, tests, tidy, the SDKs, a short fuzz.
    Ci(ci::Args),
    /// Check the rules of the tree that the compiler does not.
    Tidy,
    /// Write the documents in config/ that follow from code.
    Schema,
    /// Refresh the prices in config/ from the newest published table.
    Prices(prices::Args),
    /// Build the cache's embedding anew from its teacher, and say how good it is.
    Model(model::Args),
    /// Run the vendors' own SDKs against a gateway with the simulator behind it.
    Sdk(sdk::Args),
    /// The kernel's side: build its programs, upgrade under load.
    #[command(subcommand)]
    Ebpf(ebpf::Action),
    /// Hold the provider's bill against budgets, through hundreds of deaths and long outages.
    Audit(audit::Args),
    /// Fuzz the decoders.
    Fuzz(fuzz::Args),
    /// Measurements.
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Try(args) => trial::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Tidy => tidy::run(),
        Command::Schema => schema::run(),
        Command::Prices(args) => prices::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Sdk(args) => sdk::run(&args),
        Command::Ebpf(action) => ebpf::run(&action),
        Command::Audit(args) => audit::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(command) => bench::run(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
