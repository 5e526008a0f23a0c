//! What the kernel does for the gateway: steering, accounting, and a port that changes hands without anyone noticing.
//!
//! Without root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) the tests of programs are left out, and say so; those of handovers
//! run anyway.

#[path = "kernel/accounting.rs"]
mod accounting;
#[path = "kernel/capabilities.rs"]
mod capabilities;
#[path = "kernel/exchange.rs"]
mod exchange;
#[path = "kernel/handover.rs"]
mod handover;
#[path = "kernel/inheritance.rs"]
mod inheritance;
#[path = "kernel/steering.rs"]
mod steering;
