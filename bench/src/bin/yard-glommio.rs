//! A minimal HTTP reverse proxy on glommio: what the runtime itself costs.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::yard::glommio_proxy::run(&sluice_bench::yard::Flags::parse())
}
