//! What we decide: configuration, the compiled snapshot, what is remembered of targets and keys, and the plan of a request.
//!
//! Invariants: no IO, no clock, no randomness, no environment: files, seeds and secrets are passed in; no panic on any
//! configuration or request. Deliberately absent: sockets, threads and files (`sluice`), and the meaning of bytes on the
//! wire (`sluice-wire`).
#![forbid(unsafe_code)]

pub mod admission;
pub mod budget;
pub mod cache;
pub mod charge;
pub mod config;
pub mod glob;
pub mod health;
pub mod keyring;
pub mod meter;
pub mod money;
pub mod patience;
pub mod rate;
pub mod redact;
pub mod route;
pub mod snapshot;
pub mod vendors;
