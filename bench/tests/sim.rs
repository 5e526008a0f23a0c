//! The simulator, from outside: plain sockets against a simulator in this process.
//!
//! Every dialect answers in its real shape, every fault does what it says, and the bill agrees with what was said. The client here
//! is a plain `TcpStream` with its own small readers, so that neither the proxy nor the simulator is tested with itself.

// Tests may unwrap; clippy sees that in `#[test]` functions but not in their helpers.
#![allow(clippy::unwrap_used)]

#[path = "sim/client.rs"]
mod client;

#[path = "sim/bill.rs"]
mod bill;
#[path = "sim/dialects.rs"]
mod dialects;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/transport.rs"]
mod transport;
