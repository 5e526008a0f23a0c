//! Idle keep-alive connections of one core, per origin, last in first out.
//!
//! Invariants: an idle connection is watched, so that a close by the provider is known before the
//! connection is used; no more than the configured number per origin; pools follow their origin when the configuration
//! changes and are dropped with it. Deliberately absent: sharing between cores.

use std::cell::RefCell;
use std::sync::Arc;

use sluice_policy::snapshot::{OriginId, Snapshot};

use crate::net::Stream;
use crate::plane::Plane;

/// The pools of one core, in the order of the snapshot's origins.
pub struct Pools(RefCell<State>);

struct State {
    snapshot: Arc<Snapshot>,
    idle: Vec<Vec<Idle>>,
}

/// A connection, and since when it has been idle, in milliseconds of the core's clock.
type Idle = (Box<Stream>, u64);

impl Pools {
    /// Empty pools for every origin of `plane`.
    pub fn new(plane: &Plane) -> Self {
        let idle = plane.snapshot.origins().iter().map(|_| Vec::new()).collect();
        Self(RefCell::new(State {
            snapshot: plane.snapshot.clone(),
            idle,
        }))
    }

    /// Takes over to a new plane: connections of origins that are in both stay.
    pub fn follow(&self, plane: &Plane) {
        let State { snapshot, idle } = &mut *self.0.borrow_mut();
        if snapshot.generation() == plane.snapshot.generation() {
            return;
        }
        let followed = (0..plane.snapshot.origins().len()).map(|index| {
            let former = plane.snapshot.same_origin(OriginId(index as u16), snapshot);
            former.map_or_else(Vec::new, |former| std::mem::take(&mut idle[former.index()]))
        });
        *idle = followed.collect();
        *snapshot = plane.snapshot.clone();
    }

    /// The connection used last, if one is idle and the provider has not closed it.
    pub fn checkout(&self, origin: OriginId, generation: u64) -> Option<Box<Stream>> {
        let mut state = self.0.borrow_mut();
        if state.snapshot.generation() != generation {
            return None;
        }
        let idle = &mut state.idle[origin.index()];
        while let Some((mut stream, _)) = idle.pop() {
            // Anything that has arrived on an idle connection (its end, an error, stray bytes) makes it unusable.
            if stream.arrived().is_none() {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection for reuse, unless the pool is full or of another generation.
    pub fn checkin(&self, origin: OriginId, generation: u64, stream: Box<Stream>, now_ms: u64, idle_max: u32) {
        let mut state = self.0.borrow_mut();
        if state.snapshot.generation() != generation {
            return;
        }
        let idle = &mut state.idle[origin.index()];
        if idle.len() < idle_max as usize {
            stream.forget_task();
            idle.push((stream, now_ms));
        }
    }

    /// Closes connections that have been idle since before `oldest_ms` or that the provider has closed; returns how many stay.
    pub fn sweep(&self, oldest_ms: u64) -> usize {
        let mut state = self.0.borrow_mut();
        let mut kept = 0;
        for idle in &mut state.idle {
            idle.retain_mut(|(stream, since_ms)| *since_ms >= oldest_ms && stream.arrived().is_none());
            kept += idle.len();
        }
        kept
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        self.0.borrow_mut().idle.iter_mut().for_each(Vec::clear);
    }
}
