//! The yardsticks: the least that a proxy can do, on each runtime that could have carried the gateway.
//!
//! Each is a program of its own with the same three flags. They do no validation, have no deadlines and keep no log:
//! what the gateway costs beyond them is what its features cost.

pub mod glommio_proxy;
pub mod http;
pub mod l4;
pub mod monoio_proxy;
pub mod responder;
pub mod rewrite;
pub mod tokio_proxy;

use std::net::SocketAddr;

/// The flags of every yardstick.
#[derive(Debug, Clone, clap::Parser)]
pub struct Flags {
    /// Address to listen on; port 0 lets the kernel choose, and the choice is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Address that requests are passed on to.
    #[arg(long)]
    pub upstream: SocketAddr,
    /// Core to pin to.
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// The flags of the responder, which has no upstream.
#[derive(Debug, Clone, clap::Parser)]
pub struct ResponderFlags {
    /// Address to listen on; port 0 lets the kernel choose, and the choice is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Bytes of the answer's body.
    #[arg(long, default_value_t = 1024)]
    pub body_bytes: usize,
    /// Core to pin to.
    #[arg(long)]
    pub cpu: Option<usize>,
}
