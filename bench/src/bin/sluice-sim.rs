//! `sluice-sim`: the provider simulator as a program. SIM.md documents what it serves and every control.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use sluice_bench::sim::{self, SimOptions, tls::TlsFiles};

/// Simulates OpenAI, Anthropic and Amazon Bedrock, follows scripts, and keeps its own bill.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address to listen on; port 0 lets the kernel pick.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads, each with its own runtime and listener.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Pin the first thread to this core, the next ones to those after it.
    #[arg(long)]
    cpu: Option<usize>,
    /// Certificate chain (PEM); with --tls-key, serve TLS.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Demand client certificates signed by these authorities (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Verify AWS signatures by this `ACCESS:SECRET` pair; may be repeated.
    #[arg(long, value_name = "ACCESS:SECRET")]
    aws_secret: Vec<String>,
    /// Seed of scripted probabilities.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tls = args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles {
        cert,
        key,
        client_ca: args.tls_client_ca,
    });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut aws_secrets = Vec::new();
    for pair in &args.aws_secret {
        let (access, secret) = pair.split_once(':').context("--aws-secret is ACCESS:SECRET")?;
        aws_secrets.push((access.to_owned(), secret.to_owned()));
    }
    let options = SimOptions {
        listen: args.listen,
        threads: args.threads.max(1),
        cpu: args.cpu,
        tls,
        aws_secrets,
        seed: args.seed,
    };
    let handle = sim::spawn(&options).with_context(|| format!("cannot start on {}", args.listen))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {scheme}://{}", handle.addr)?;
    stdout.flush()?;
    handle.join()?;
    Ok(())
}
