//! Connections to providers: from the pool if one is idle, else made to a resolved address, over TLS where the origin says so.
//!
//! Invariants: no name is resolved here; TLS is never skipped or left unverified; a connection is pooled only by
//! [`Upstream::release`], after a complete exchange. Deliberately absent: which provider to ask (`exchange.rs`).

pub mod connect;
pub mod pool;

use std::rc::Rc;
use std::sync::Arc;

use sluice_policy::snapshot::OriginId;
use sluice_wire::error::Code;

use crate::core::Core;
use crate::net::Stream;
use crate::plane::Plane;
use crate::tls::Tls;

/// A connection to a provider's origin, in use by one request.
pub struct Upstream {
    /// The connection; boxed, because it changes hands several times in a request.
    pub stream: Box<Stream>,
    origin: OriginId,
    generation: u64,
    /// True if it came from the pool: the provider may have closed it in the meantime.
    pub reused: bool,
}

/// An idle connection to `origin`, if there is one.
pub fn idle(core: &Core, plane: &Plane, origin: OriginId) -> Option<Upstream> {
    let generation = plane.snapshot.generation();
    let stream = core.pools.checkout(origin, generation)?;
    core.meter.upstream_reuses.add(1);
    Some(Upstream {
        stream,
        origin,
        generation,
        reused: true,
    })
}

/// A new connection to `origin`, made before `deadline_ms` of the core's clock.
///
/// # Errors
/// [`Code::UpstreamDns`], [`Code::UpstreamConnectFailed`] or [`Code::UpstreamTls`].
pub async fn open(core: &Rc<Core>, plane: &Arc<Plane>, origin: OriginId, deadline_ms: u64) -> Result<Upstream, Code> {
    // Boxed: it is rare, and its state would make every connection's task larger.
    let stream = Box::pin(establish(core, plane, origin, deadline_ms)).await?;
    Ok(Upstream {
        stream: Box::new(stream),
        origin,
        generation: plane.snapshot.generation(),
        reused: false,
    })
}

async fn establish(core: &Rc<Core>, plane: &Arc<Plane>, origin: OriginId, deadline_ms: u64) -> Result<Stream, Code> {
    let runtime = &plane.origins[origin.index()];
    if runtime.addresses.is_empty() {
        return Err(Code::UpstreamDns);
    }
    core.meter.upstream_connects.add(1);
    let mut stream = connect::race(core, runtime, deadline_ms)
        .await
        .map_err(|_| Code::UpstreamConnectFailed)?;
    if let Some((config, name)) = &runtime.tls {
        stream.start_tls(Tls::client(config, name.clone()).map_err(|_| Code::UpstreamTls)?);
        stream.deadline().set(deadline_ms);
        let shaken = stream.handshake().await;
        if stream.deadline().expired() {
            return Err(Code::UpstreamConnectFailed);
        }
        shaken.map_err(|error| {
            tracing::debug!(%error, "TLS handshake with a provider failed");
            Code::UpstreamTls
        })?;
        stream.deadline().clear();
    }
    Ok(stream)
}

impl Upstream {
    /// Puts the connection back into the pool: only after a complete exchange with nothing left over.
    pub fn release(self, core: &Core, idle_max: u32) {
        self.stream.deadline().clear();
        core.pools.checkin(
            self.origin,
            self.generation,
            self.stream,
            core.clock.tick_ms(),
            idle_max,
        );
    }
}
