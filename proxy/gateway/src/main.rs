//! `sluice`: the command line.
//!
//! Invariants: a mistake in the configuration ends with exit code 1 and says file, line, key and what is expected.
//! Deliberately absent: everything else; see `control.rs` for what runs and `worker.rs` for the data plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::cli;
use sluice::control::{self, Overrides};
use sluice_policy::config::Config;
use tracing_subscriber::EnvFilter;

/// An AI gateway: one binary and one YAML file between applications and LLM providers.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve {
        /// The configuration file; config/reference.yaml documents every key.
        #[arg(long, short, value_name = "FILE", default_value = "config/sluice.yaml")]
        config: PathBuf,
        /// Address for clients, instead of the file's; port 0 lets the kernel choose.
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
        /// Address for health, metrics and administration, instead of the file's.
        #[arg(long, value_name = "ADDR")]
        admin: Option<SocketAddr>,
        /// Data-plane threads, instead of the file's.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
        cores: Option<u16>,
        /// Use epoll even where io_uring works.
        #[arg(long)]
        epoll: bool,
        /// Take over from the running gateway that has the same configuration file, without losing a connection.
        #[arg(long)]
        takeover: bool,
    },
    /// Have the running gateway replace itself by the program that is now at its path, without losing a connection.
    Upgrade(cli::upgrade::Args),
    /// Show where time goes: what the kernel has measured beside what the gateway has.
    Latency(cli::latency::Args),
    /// Say on one screen whether it is well.
    Status(cli::status::Args),
    /// The cache of a running gateway: stats, explain, purge, bump, release.
    Cache(cli::cache::Cache),
    /// Say whether a configuration file is good.
    Check {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", default_value = "config/sluice.yaml")]
        config: PathBuf,
    },
    #[command(flatten)]
    Administration(cli::Command),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve {
            config: path,
            listen,
            admin,
            cores,
            epoll,
            takeover,
        } => {
            let config = match control::load(&path) {
                Ok(config) => config,
                Err(mistakes) => return complain(&mistakes),
            };
            start_log(&config);
            match control::run(
                config,
                path,
                &Overrides {
                    listen,
                    admin,
                    cores,
                    epoll,
                    takeover,
                },
            ) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => complain(&format!("sluice cannot run: {error:#}")),
            }
        }
        Command::Upgrade(args) => done(cli::upgrade::run(&args)),
        Command::Latency(args) => done(cli::latency::run(&args)),
        Command::Status(args) => done(cli::status::run(&args)),
        Command::Cache(cache) => match cache.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&format!("{error:#}")),
        },
        Command::Administration(command) => cli::run(command),
        Command::Check { config: path } => match control::load(&path) {
            Ok(config) => {
                println!("{} is good: {}", path.display(), summary(&config));
                ExitCode::SUCCESS
            }
            Err(mistakes) => complain(&mistakes),
        },
    }
}

fn done(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{error:#}")),
    }
}

fn complain(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

fn summary(config: &Config) -> String {
    let names: Vec<&str> = config.providers.keys().map(String::as_str).collect();
    let routes = config.routes.len();
    format!(
        "providers {}; {routes} route{}",
        names.join(", "),
        if routes == 1 { "" } else { "s" }
    )
}

/// Messages about the gateway itself go to standard error; `RUST_LOG` overrides the level.
fn start_log(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(config.log.level.as_str()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if control::is_json(config.log.format) {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_target(false).init();
    }
}
