//! How fast the cache decides, in CPU time of one thread.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::cache::speed::run(&sluice_bench::cache::speed::Args::parse())
}
