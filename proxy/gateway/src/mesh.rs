//! The rings between the control thread and the cores: orders one way, records the other.
//!
//! Invariants: bounded; neither side ever waits for the other; a core drains its ring on its tick, so no request needs a
//! wake-up from another thread. Deliberately absent: anything from core to core.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use sluice_policy::budget::{Account, BudgetId};
use sluice_wire::limits::RING_ENTRIES;

use crate::plane::Plane;
use crate::record::{Paid, Record};

/// Accounts of budgets that a core shall use.
pub type Funds = Arc<[(BudgetId, Arc<Account>)]>;

/// What the control thread tells a core.
pub enum Order {
    /// From now on, serve by this.
    Serve(Arc<Plane>),
    /// Use these accounts as well.
    Fund(Funds),
    /// Stop accepting; finish what is under way.
    Drain,
    /// Close what is left and end.
    Stop,
}

/// A core's ends of its rings.
pub struct CoreEnd {
    /// Orders from the control thread.
    pub orders: Consumer<Order>,
    /// Records to the control thread; when full, records are dropped and counted.
    pub records: Producer<Record>,
    /// What goes with those of them that somebody is charged for.
    pub paid: Producer<Paid>,
}

/// The control thread's ends of one core's rings.
pub struct ControlEnd {
    /// Orders to the core.
    pub orders: Producer<Order>,
    /// Records from the core.
    pub records: Consumer<Record>,
    /// What goes with those of them that say so, in the same order.
    pub paid: Consumer<Paid>,
}

/// The rings of one core.
pub fn rings() -> (CoreEnd, ControlEnd) {
    const ORDERS: usize = 64;
    let (to_core, orders) = RingBuffer::new(ORDERS);
    let (records, from_core) = RingBuffer::new(RING_ENTRIES);
    let (paid, paid_from_core) = RingBuffer::new(RING_ENTRIES);
    (
        CoreEnd { orders, records, paid },
        ControlEnd {
            orders: to_core,
            records: from_core,
            paid: paid_from_core,
        },
    )
}
