//! Sluice, the gateway: sockets, threads and clocks around what `sluice-wire` and `sluice-policy` know.
//!
//! Invariants: the data plane (`worker`, `core`, `connection`, `exchange`, …) and the control thread (`control`) meet only in
//! `mesh`, `plane` and the counters. Deliberately absent: parsing and decisions.

mod admission;
mod attempt;
mod buffer;
mod cache;
pub mod cli;
mod clock;
mod connection;
pub mod control;
mod core;
mod deadline;
pub mod ebpf;
mod estimates;
mod exchange;
mod intake;
mod mesh;
mod net;
mod parts;
mod plane;
mod presence;
mod record;
mod relay;
mod reply;
mod scratch;
mod series;
pub mod signing;
mod tls;
mod transcript;
mod upstream;
mod worker;
