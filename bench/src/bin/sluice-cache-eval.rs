//! How good the cache decides, on any file of labelled pairs.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::cache::eval::run(&sluice_bench::cache::eval::Args::parse())
}
