//! Subcommands that talk to a running gateway: one file each.
//!
//! Invariants: what they say goes to standard output, why they failed to standard error. Deliberately absent: `serve` and
//! `check` (`main.rs`).

pub mod latency;
pub mod upgrade;
