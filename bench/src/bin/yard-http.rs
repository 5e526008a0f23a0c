//! A bare HTTP responder on io_uring: the floor of answering without an upstream.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::yard::http::run(&sluice_bench::yard::http::Flags::parse())
}
