//! `sluice-accounts-cost`: what virtual keys and budgets cost a running gateway; see [`sluice_bench::accounts`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::accounts::run(&sluice_bench::accounts::Args::parse())
}
