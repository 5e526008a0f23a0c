//! The command line's subcommands that talk to a running gateway: one file each.
//!
//! Invariants: they talk to the admin interface alone, and end with an error that says what to do. Deliberately absent: `serve`
//! and `check` (`main.rs`).

pub mod cache;
