//! The rings between the control thread and the cores: orders one way, records the other.
//!
//! Invariants: bounded; neither side ever waits for the other; a core drains its ring on its tick, so no request needs a
//! wake-up from another thread. Deliberately absent: anything from core to core.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rtrb::{Consumer, Producer, RingBuffer};
use sluice_wire::limits::RING_ENTRIES;

use crate::ebpf::steering::Load;
use crate::plane::Plane;
use crate::record::Record;

/// What the control thread tells a core.
pub enum Order {
    /// From now on, serve by this.
    Serve(Arc<Plane>),
    /// Accept connections at these addresses too.
    Listen(Vec<Place>),
    /// Accept no more connections, and leave those that wait to whoever else has the same sockets.
    Cease,
    /// Another process has the addresses: finish what is under way, and tell each client with its next answer to connect anew.
    Retire,
    /// Stop accepting; finish what is under way.
    Drain,
    /// Close what is left and end.
    Stop,
}

/// Where a core accepts connections.
pub struct Place {
    /// Its own socket of that address.
    pub listener: TcpListener,
    /// Where it says how many connections it has, if they are steered.
    pub load: Option<Load>,
}

/// Signs of a core's life, for the control thread.
#[derive(Debug, Default)]
pub struct Pulse {
    /// The last tick, in milliseconds of the shared clock; 0 before the first.
    pub beat_ms: AtomicU64,
    /// Addresses that it accepts connections at.
    pub accepting: AtomicU32,
}

/// A core's ends of its rings.
pub struct CoreEnd {
    /// Orders from the control thread.
    pub orders: Consumer<Order>,
    /// Records to the control thread; when full, records are dropped and counted.
    pub records: Producer<Record>,
}

/// The control thread's ends of one core's rings.
pub struct ControlEnd {
    /// Orders to the core.
    pub orders: Producer<Order>,
    /// Records from the core.
    pub records: Consumer<Record>,
}

/// The two rings of one core.
pub fn rings() -> (CoreEnd, ControlEnd) {
    const ORDERS: usize = 64;
    let (to_core, orders) = RingBuffer::new(ORDERS);
    let (records, from_core) = RingBuffer::new(RING_ENTRIES);
    (
        CoreEnd { orders, records },
        ControlEnd {
            orders: to_core,
            records: from_core,
        },
    )
}
