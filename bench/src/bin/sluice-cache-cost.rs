//! What the cache costs a running gateway, in CPU time per request.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::cache::cost::run(&sluice_bench::cache::cost::Args::parse())
}
