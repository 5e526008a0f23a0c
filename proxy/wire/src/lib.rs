//! What bytes mean: parsing and writing of everything that crosses the network.
//!
//! Invariants: no IO, no clock, no unsafe code; "incomplete" is not an error; every bound is in [`limits`]. Deliberately
//! absent: any decision about what to do with the bytes (that is `sluice-policy`), and any socket (`sluice`).
#![forbid(unsafe_code)]

pub mod base64;
pub mod calendar;
pub mod chat;
pub mod dialect;
pub mod error;
pub mod eventstream;
pub mod http;
pub mod json;
pub mod limits;
pub mod multipart;
pub mod provider;
pub mod proxy_protocol;
pub mod reference;
pub mod sigv4;
pub mod sse;
pub mod surface;
pub mod tally;
#[cfg(test)]
mod testing;
pub mod watch;
