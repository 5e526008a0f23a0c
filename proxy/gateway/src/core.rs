//! [`Core`]: all that one data-plane thread owns.
//!
//! Invariants: every `RefCell` is a private field, borrowed only inside a synchronous method, so no borrow crosses an await;
//! nothing here is shared with another thread except the counters (one writer) and the rings of `mesh.rs`.
//! Deliberately absent: sockets (they belong to the tasks) and decisions (they belong to `sluice-policy`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use sluice_policy::budget::Purse;
use sluice_policy::meter::{COUNTED, CoreMeter};
use sluice_wire::http::KnownLines;
use sluice_wire::http::head::{HeadError, RequestHead, ResponseHead};
use sluice_wire::sigv4::Signer;

use crate::admission::Gates;
use crate::buffer::Chunk;
use crate::cache::CoreCache;
use crate::clock::Clock;
use crate::ebpf::steering::Seat;
use crate::estimates::Estimates;
use crate::mesh::CacheEnd;
use crate::net::{self, Net};
use crate::parts::Parts;
use crate::plane::Plane;
use crate::record::{Extra, Names, Paid, Record, Reports};
use crate::scratch::Scratch;
use crate::series::Series;
use crate::transcript::{Full, Tape};
use crate::upstream::pool::Pools;

/// Working memory kept for reuse; more requests at once than this allocate theirs. Two kilobytes each.
const SCRATCH_FREE_MAX: usize = 4096;
/// Messages kept for reuse: as many as are under construction or being sent at once.
const PARTS_FREE_MAX: usize = 64;

/// All that one data-plane thread owns.
pub struct Core {
    /// Which core this is, from 0.
    pub index: usize,
    /// Buffers, time limits and readiness of its sockets.
    pub net: Net,
    /// Time.
    pub clock: Clock,
    /// Idle connections to providers.
    pub pools: Pools,
    /// Places at providers whose concurrency is limited.
    pub gates: Gates,
    /// Answers that are given again.
    pub cache: CoreCache,
    /// What this core counts; read by the control thread.
    pub meter: Arc<CoreMeter>,
    /// Where its labelled numbers are.
    pub series: Series,
    /// What it may spend of each budget.
    pub purse: Rc<Purse>,
    /// How long answers are, where budgets go by that.
    pub estimates: Estimates,
    /// Copies of requests under way to shadow targets.
    pub shadows: Cell<u32>,
    #[expect(
        clippy::redundant_allocation,
        reason = "taking a plane per request must not touch a shared count"
    )]
    // An `Rc` of its own around the shared plane: taking it per request touches no memory of another core.
    plane: RefCell<Rc<Arc<Plane>>>,
    #[expect(clippy::vec_box, reason = "a lease moves a pointer, not a kilobyte")]
    scratch: RefCell<Vec<Box<Scratch>>>,
    parts: RefCell<Vec<Parts>>,
    reports: RefCell<Reports>,
    signer: RefCell<Signer>,
    known_requests: RefCell<KnownLines>,
    known_answers: RefCell<KnownLines>,
    bodies_queued: Arc<AtomicUsize>,
    draining: Cell<bool>,
    retired: Cell<bool>,
    connections: Cell<u32>,
    body_bytes: Cell<u64>,
    random: Cell<u64>,
}

impl Core {
    /// A core without any connection.
    pub fn new(
        index: usize,
        net: Net,
        plane: Arc<Plane>,
        (reports, cache): (Reports, CacheEnd),
        purse: Rc<Purse>,
        meter: Arc<CoreMeter>,
        seed: u64,
    ) -> Self {
        let gates = Gates::default();
        gates.follow(&plane.snapshot);
        let cache = CoreCache::new(cache);
        cache.follow(plane.cache.as_deref());
        Self {
            index,
            net,
            gates,
            clock: Clock::start(),
            pools: Pools::new(&plane),
            cache,
            meter,
            series: Series::default(),
            purse,
            estimates: Estimates::default(),
            shadows: Cell::new(0),
            plane: RefCell::new(Rc::new(plane)),
            scratch: RefCell::new(Vec::new()),
            parts: RefCell::new(Vec::new()),
            reports: RefCell::new(reports),
            signer: RefCell::new(Signer::new()),
            known_requests: RefCell::default(),
            known_answers: RefCell::default(),
            bodies_queued: Arc::default(),
            draining: Cell::new(false),
            retired: Cell::new(false),
            connections: Cell::new(0),
            body_bytes: Cell::new(0),
            random: Cell::new(seed),
        }
    }

    #[expect(clippy::redundant_allocation, reason = "see the field")]
    /// What a request that begins now is served by.
    pub fn plane(&self) -> Rc<Arc<Plane>> {
        self.plane.borrow().clone()
    }

    /// Serves requests that begin from now on by `plane`.
    pub fn set_plane(&self, plane: Arc<Plane>) {
        self.pools.follow(&plane);
        self.gates.follow(&plane.snapshot);
        self.cache.follow(plane.cache.as_deref());
        self.estimates.follow(&plane);
        *self.plane.borrow_mut() = Rc::new(plane);
    }

    /// True once the gateway has been asked to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// From now on, connections close after the request under way.
    pub fn start_draining(&self) {
        self.retired.set(false);
        self.draining.set(true);
    }

    /// True once another process has the addresses: an idle client is not cut off, because it may be about to ask.
    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// From now on, clients are told with their next answer to connect anew.
    pub fn retire(&self) {
        self.retired.set(true);
        self.draining.set(true);
    }

    /// Working memory for one request.
    pub fn lease_scratch(&self) -> Box<Scratch> {
        let mut free = self.scratch.borrow_mut();
        let mut scratch = free.pop().unwrap_or_default();
        if let Some(next) = free.last() {
            // After a burst it has lain there for a while.
            net::fetch_ahead(&**next);
        }
        drop(free);
        self.lend_parts(&mut scratch.work.parts);
        scratch
    }

    /// Gives a request that is about to write a message the memory for it: that which was used last, so that it is still
    /// in the processor's cache.
    pub fn lend_parts(&self, place: &mut Parts) {
        if !place.has_memory()
            && let Some(parts) = self.parts.borrow_mut().pop()
        {
            *place = parts;
        }
    }

    /// Takes that memory back from a request that is about to wait. The message must have been sent.
    ///
    /// What is not kept is freed: a request that kept memory of its own would go on using that, and after a burst most
    /// would, each writing to memory that no cache holds any more.
    pub fn take_back_parts(&self, place: &mut Parts) {
        let mut parts = std::mem::take(place);
        let mut free = self.parts.borrow_mut();
        if free.len() < PARTS_FREE_MAX {
            parts.clear();
            free.push(parts);
        }
    }

    /// Gives working memory back.
    pub fn return_scratch(&self, mut scratch: Box<Scratch>) {
        scratch.clear();
        self.take_back_parts(&mut scratch.work.parts);
        let mut free = self.scratch.borrow_mut();
        if free.len() < SCRATCH_FREE_MAX {
            free.push(scratch);
        }
    }

    /// Sends a record to the control thread, with what goes with it; all of it is dropped, and counted, if there is no room.
    pub fn record(&self, record: Record, names: &Names, paid: Option<Paid>, extra: Option<Box<Extra>>) {
        if COUNTED && !self.reports.borrow_mut().send(record, names, paid, extra) {
            self.meter.records_dropped.add(1);
        }
    }

    /// Has the bodies of a request logged that it has a copy of; they are dropped, and counted, if too many wait for that.
    #[cold]
    pub fn log_bodies(&self, tape: Tape, asked: &[Chunk], extra: &mut Option<Box<Extra>>) {
        match tape.bodies(asked, &self.bodies_queued) {
            Some(Ok(bodies)) => extra.get_or_insert_default().bodies = Some(bodies),
            Some(Err(Full)) => self.meter.bodies_dropped.add(1),
            None => {}
        }
    }

    /// Lends out the signer, which remembers the keys it derived.
    pub fn with_signer<T>(&self, act: impl FnOnce(&mut Signer) -> T) -> T {
        act(&mut self.signer.borrow_mut())
    }

    /// [`RequestHead::parse`], quick where a head is like those that this core's clients sent before.
    ///
    /// # Errors
    /// The same.
    pub fn parse_request(&self, head: &mut RequestHead, bytes: &[u8]) -> Result<bool, HeadError> {
        head.parse_like(bytes, &mut self.known_requests.borrow_mut())
    }

    /// The same for a provider's answer: [`ResponseHead::parse`].
    ///
    /// # Errors
    /// The same.
    pub fn parse_answer(&self, head: &mut ResponseHead, bytes: &[u8], to_head: bool) -> Result<bool, HeadError> {
        head.parse_like(bytes, to_head, &mut self.known_answers.borrow_mut())
    }

    /// Seconds since the epoch, now.
    pub fn unix_s(&self) -> u64 {
        self.clock.unix_us(self.clock.now_us()) / 1_000_000
    }

    /// The next of this core's pseudo-random numbers (SplitMix64): for choices that need no secrecy.
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Client connections now open.
    pub fn connections(&self) -> u32 {
        self.connections.get()
    }

    /// Counts a client connection for as long as the returned value lives.
    pub fn open_connection(self: &Rc<Self>, seat: Option<Seat>) -> OpenConnection {
        self.connections.set(self.connections.get() + 1);
        self.meter.connections_opened.add(1);
        self.meter.connections.set(u64::from(self.connections.get()));
        OpenConnection {
            core: self.clone(),
            _seat: seat,
        }
    }

    /// Sets memory aside for a request's body; `None` if the core's cap is reached.
    pub fn reserve_body(self: &Rc<Self>, bytes: u64, cap: u64) -> Option<BodyMemory> {
        let mut memory = BodyMemory {
            core: self.clone(),
            bytes: 0,
        };
        memory.grow(bytes, cap).then_some(memory)
    }
}

/// One open client connection.
#[must_use = "the connection counts only while this lives"]
pub struct OpenConnection {
    core: Rc<Core>,
    _seat: Option<Seat>,
}

impl OpenConnection {
    /// The core that serves it.
    pub fn core(&self) -> Rc<Core> {
        self.core.clone()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.core.connections.set(self.core.connections.get() - 1);
        self.core.meter.connections.set(u64::from(self.core.connections.get()));
    }
}

/// Memory set aside for one request's body.
#[must_use = "the memory is set aside only while this lives"]
pub struct BodyMemory {
    core: Rc<Core>,
    bytes: u64,
}

impl BodyMemory {
    /// Sets more aside; false, and nothing changes, if that would exceed the core's cap.
    pub fn grow(&mut self, bytes: u64, cap: u64) -> bool {
        let total = self.core.body_bytes.get().saturating_add(bytes);
        if total > cap {
            return false;
        }
        self.core.body_bytes.set(total);
        self.bytes += bytes;
        true
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        self.core.body_bytes.set(self.core.body_bytes.get() - self.bytes);
    }
}
