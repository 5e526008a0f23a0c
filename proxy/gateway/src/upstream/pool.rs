//! Idle keep-alive connections of one core, per origin, last in first out.
//!
//! Invariants: an idle connection has its next read in flight, so that a close by the provider is known before the
//! connection is used; no more than the configured number per origin; pools follow their origin when the configuration
//! changes and are dropped with it. Deliberately absent: sharing between cores.

use std::cell::RefCell;
use std::sync::Arc;

use sluice_policy::config::ProviderTls;
use sluice_policy::snapshot::{Origin, OriginId, Snapshot};

use crate::net::Stream;
use crate::plane::Plane;

/// The pools of one core, in the order of the snapshot's origins.
pub struct Pools(RefCell<State>);

struct State {
    generation: u64,
    pools: Vec<Pool>,
}

struct Pool {
    place: Place,
    idle: Vec<(Stream, u64)>,
}

/// What makes connections interchangeable: ids of a snapshot mean nothing in the next one.
#[derive(PartialEq)]
struct Place {
    host: Box<str>,
    port: u16,
    tls: Option<ProviderTls>,
}

impl Place {
    fn new(snapshot: &Snapshot, origin: &Origin) -> Self {
        let tls = origin.tls.map(|tls| snapshot.tls_settings()[tls.index()].clone());
        Self { host: origin.host.clone(), port: origin.port, tls }
    }
}

impl Pools {
    /// Empty pools for every origin of `plane`.
    pub fn new(plane: &Arc<Plane>) -> Self {
        let snapshot = &plane.snapshot;
        let places = snapshot.origins().iter().map(|origin| Place::new(snapshot, origin));
        let pools = places.map(|place| Pool { place, idle: Vec::new() }).collect();
        Self(RefCell::new(State { generation: snapshot.generation(), pools }))
    }

    /// Takes over to a new plane: connections of origins that are in both stay.
    pub fn follow(&self, plane: &Arc<Plane>) {
        let snapshot = &plane.snapshot;
        let mut state = self.0.borrow_mut();
        if state.generation == snapshot.generation() {
            return;
        }
        let mut former = std::mem::take(&mut state.pools);
        state.generation = snapshot.generation();
        let places = snapshot.origins().iter().map(|origin| Place::new(snapshot, origin));
        let follow = |place| match former.iter().position(|pool| pool.place == place) {
            Some(at) => former.swap_remove(at),
            None => Pool { place, idle: Vec::new() },
        };
        state.pools = places.map(follow).collect();
    }

    /// The connection used last, if one is idle and the provider has not closed it.
    pub fn checkout(&self, origin: OriginId, generation: u64) -> Option<Stream> {
        let mut state = self.0.borrow_mut();
        if state.generation != generation {
            return None;
        }
        let idle = &mut state.pools[origin.index()].idle;
        while let Some((mut stream, _)) = idle.pop() {
            // Anything that has arrived on an idle connection (its end, an error, stray bytes) makes it unusable.
            if stream.arrived().is_none() {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection for reuse, unless the pool is full or of another generation.
    pub fn checkin(&self, origin: OriginId, generation: u64, mut stream: Stream, now_ms: u64, idle_max: u32) {
        let mut state = self.0.borrow_mut();
        if state.generation != generation {
            return;
        }
        let idle = &mut state.pools[origin.index()].idle;
        if idle.len() < idle_max as usize {
            stream.arm();
            idle.push((stream, now_ms));
        }
    }

    /// Closes connections that have been idle since before `oldest_ms` or that the provider has closed; returns how many stay.
    pub fn sweep(&self, oldest_ms: u64) -> usize {
        let mut state = self.0.borrow_mut();
        let mut kept = 0;
        for pool in &mut state.pools {
            pool.idle.retain_mut(|(stream, since_ms)| *since_ms >= oldest_ms && stream.arrived().is_none());
            kept += pool.idle.len();
        }
        kept
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        self.0.borrow_mut().pools.iter_mut().for_each(|pool| pool.idle.clear());
    }
}
