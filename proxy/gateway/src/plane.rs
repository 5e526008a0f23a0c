//! [`Plane`]: everything a request reads that may change at run time: the compiled configuration, resolved addresses and
//! TLS settings, as one immutable value.
//!
//! Invariants: a request sees exactly one plane; planes are made by the control thread and replaced whole.
//! Deliberately absent: anything mutable.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use sluice_policy::config::values::Network;
use sluice_policy::snapshot::Snapshot;

/// One generation of all that the data plane reads.
pub struct Plane {
    /// The compiled configuration.
    pub snapshot: Arc<Snapshot>,
    /// Where each origin of the snapshot is, in the snapshot's order.
    pub origins: Vec<OriginRuntime>,
    /// Idle connections kept per origin and core.
    pub idle_connections: u32,
    /// How long they are kept, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Load balancers whose connections begin with a PROXY header.
    pub proxy_trusted: Vec<Network>,
    /// What `/ready` says while the gateway is not draining, as JSON.
    pub ready_body: Bytes,
    /// TLS of the listener, if it is on.
    pub server_tls: Option<Arc<ServerConfig>>,
}

impl Plane {
    /// Whether a connection from `peer` begins with a PROXY header.
    pub fn trusts_proxy_header(&self, peer: IpAddr) -> bool {
        self.proxy_trusted.iter().any(|network| network.contains(peer))
    }
}

/// What is known of one origin at run time.
#[derive(Clone)]
pub struct OriginRuntime {
    /// Addresses in the order in which to try them; empty if the name did not resolve.
    pub addresses: Arc<[SocketAddr]>,
    /// TLS towards it, if its scheme is https.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}
