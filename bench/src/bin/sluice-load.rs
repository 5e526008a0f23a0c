//! The load generator: one pinned io_uring thread, closed or open loop, every answer checked, a JSON summary.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::load::run(&sluice_bench::load::Program::parse())
}
