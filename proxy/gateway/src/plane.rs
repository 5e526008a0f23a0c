//! [`Plane`]: everything a request reads that may change at run time: the compiled configuration, resolved addresses and
//! TLS settings, as one immutable value.
//!
//! Invariants: a request sees exactly one plane; planes are made by the control thread and replaced whole.
//! Deliberately absent: anything mutable.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use sluice_policy::snapshot::Snapshot;

use crate::signing::AwsCredentials;

/// One generation of all that the data plane reads.
pub struct Plane {
    /// The compiled configuration.
    pub snapshot: Arc<Snapshot>,
    /// Where each origin of the snapshot is, in the snapshot's order.
    pub origins: Vec<OriginRuntime>,
    /// What signs the requests of each key, in the order of [`sluice_policy::snapshot::KeyId`]. A key whose `signing` is set
    /// and that has none here cannot be used now: the instance's credentials have not arrived, or have expired.
    pub aws: Vec<Option<Arc<AwsCredentials>>>,
    /// What `/ready` says while the gateway is not draining, as JSON.
    pub ready_body: Bytes,
    /// TLS of the listener, if it is on.
    pub server_tls: Option<Arc<ServerConfig>>,
}

/// What is known of one origin at run time.
#[derive(Clone)]
pub struct OriginRuntime {
    /// Addresses in the order in which to try them; empty if the name did not resolve.
    pub addresses: Arc<[SocketAddr]>,
    /// TLS towards it, if its scheme is https.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}
