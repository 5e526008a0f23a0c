//! A bare HTTP responder on io_uring: the floor for answering without an upstream.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::yard::responder::run(&sluice_bench::yard::ResponderFlags::parse())
}
