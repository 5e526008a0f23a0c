//! The rings between the control thread and the cores: orders one way, records the other.
//!
//! Invariants: bounded; neither side ever waits for the other; a core drains its ring on its tick, so no request needs a
//! wake-up from another thread. What one core caches reaches the others through the control thread. Deliberately absent: anything
//! from core to core.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rtrb::{Consumer, Producer, RingBuffer};
use sluice_policy::budget::{Account, BudgetId};
use sluice_policy::cache::entry::Entry;
use sluice_policy::cache::snapshot::Snapshot;
use sluice_policy::cache::{Purge, Settled, What};
use sluice_wire::limits::CACHE_RING_ENTRIES;

use crate::ebpf::steering::Load;
use crate::plane::Plane;
use crate::record::{Extra, Names, Paid, Record, Reports};

/// Accounts of budgets that a core shall use.
pub type Funds = Arc<[(BudgetId, Arc<Account>)]>;

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
    /// Use these accounts as well.
    Fund(Funds),
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
    pub reports: Reports,
    /// What it caches.
    pub cache: CacheEnd,
}

/// What a core tells of its cache. What does not fit the ring is told to nobody: the others ask the provider themselves.
pub enum Note {
    /// It keeps this answer. The number is of the last change that it knew.
    Stored(Arc<Entry>, u64),
    /// An answer was compared with the provider's.
    Settled(Settled),
}

/// What a core is told about the cache.
#[derive(Clone)]
pub enum News {
    /// Another core, or a snapshot, has this answer.
    Stored(Arc<Entry>),
    /// Another core has compared an answer with the provider's.
    Settled(Settled),
    /// What a snapshot knows besides answers.
    Restored(Arc<Snapshot>),
    /// Something is to be forgotten; changes are numbered.
    Changed(Arc<Change>, u64),
}

/// What is to be forgotten.
#[derive(Clone, Debug)]
pub enum Change {
    /// Answers, of one tenant or of all.
    Purge(Option<Box<str>>, Purged),
    /// All of a tenant, or what has one of its context values, answers under way included.
    Bump(Box<str>, Option<Box<str>>),
    /// That pairs of templates are quarantined, and what checks have found: evidence is gathered anew.
    Release,
}

/// Which answers.
#[derive(Clone, Debug)]
pub enum Purged {
    /// All.
    All,
    /// Of this request.
    Key([u8; 32]),
    /// With this tag.
    Tag(Box<str>),
    /// Of this model.
    Model(Box<str>),
    /// With this context value, `name=value`.
    Context(Box<str>),
}

impl Change {
    /// Applies it; how many answers it removes.
    pub fn apply(&self, cache: &mut sluice_policy::cache::Cache) -> usize {
        match self {
            Self::Purge(tenant, which) => {
                let what = match which {
                    Purged::All => What::All,
                    Purged::Key(key) => What::Key(sluice_policy::cache::key::Key(*key)),
                    Purged::Tag(tag) => What::Tag(tag),
                    Purged::Model(model) => What::Model(model),
                    Purged::Context(value) => What::Context(value),
                };
                let tenant = tenant.as_deref();
                cache.purge(&Purge { tenant, what })
            }
            Self::Bump(tenant, label) => cache.bump(tenant, label.as_deref()),
            Self::Release => {
                cache.forget_evidence();
                0
            }
        }
    }
}

/// A core's ends of the rings of its cache.
pub struct CacheEnd {
    /// To the control thread.
    pub notes: Producer<Note>,
    /// From it.
    pub news: Consumer<News>,
}

/// The control thread's ends of the same.
pub struct CacheControlEnd {
    /// From the core.
    pub notes: Consumer<Note>,
    /// To it.
    pub news: Producer<News>,
}

/// The control thread's ends of one core's rings.
pub struct ControlEnd {
    /// Orders to the core.
    pub orders: Producer<Order>,
    /// What it reports.
    pub reports: ReportsEnd,
}

/// Of those, the ones that tell of requests.
pub struct ReportsEnd {
    /// Records from the core.
    pub records: Consumer<Record>,
    /// What they are about, where that has changed: of those that say so, in the same order.
    pub names: Consumer<Names>,
    /// What they have cost, likewise.
    pub paid: Consumer<Paid>,
    /// What goes with few of them, likewise.
    pub extras: Consumer<Box<Extra>>,
}

/// The rings of one core's cache.
pub fn cache_rings() -> (CacheEnd, CacheControlEnd) {
    let (to_control, notes) = RingBuffer::new(CACHE_RING_ENTRIES);
    let (to_core, news) = RingBuffer::new(CACHE_RING_ENTRIES);
    let core = CacheEnd {
        notes: to_control,
        news,
    };
    (core, CacheControlEnd { notes, news: to_core })
}

/// The rings of one core.
pub fn rings(cache: CacheEnd) -> (CoreEnd, ControlEnd) {
    const ORDERS: usize = 64;
    let (to_core, orders) = RingBuffer::new(ORDERS);
    let (reports, reports_end) = Reports::rings();
    let core = CoreEnd { orders, reports, cache };
    let control = ControlEnd {
        orders: to_core,
        reports: reports_end,
    };
    (core, control)
}
