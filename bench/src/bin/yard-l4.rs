//! A bare L4 byte-forwarder on io_uring: the floor of every proxy measurement.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_bench::yard::l4::run(&sluice_bench::yard::Flags::parse())
}
