//! A minimal HTTP reverse proxy on tokio: what the runtime itself costs.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::yard::tokio_proxy::run(&sluice_bench::yard::Flags::parse())
}
