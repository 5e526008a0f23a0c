//! A minimal HTTP reverse proxy on monoio: what the runtime itself costs.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::yard::monoio_proxy::run(&sluice_bench::yard::Flags::parse())
}
