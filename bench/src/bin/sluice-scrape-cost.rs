//! `sluice-scrape-cost`: how long a scrape takes, how large it is, and what it does to requests; see [`sluice_bench::scrape`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::scrape::run(&sluice_bench::scrape::Args::parse())
}
