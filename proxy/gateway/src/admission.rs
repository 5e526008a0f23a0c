//! The places of this core's requests at each provider: taken before an attempt, given back with its answer.
//!
//! Invariants: everything stays on one thread, so that waking who waits is a push to this thread's run queue and no system
//! call; a request whose client leaves while it waits is out of the queue at once; a place outlives a change of the
//! configuration and counts for the provider of the same name. Deliberately absent: who gets a place
//! (`sluice_policy::admission`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use sluice_policy::admission::{Entry, Gate, Ticket};
use sluice_policy::meter::CoreMeter;
use sluice_policy::snapshot::{Provider, Snapshot};

/// The gates of one core: one for each provider whose concurrency is limited.
#[derive(Default)]
pub struct Gates {
    generation: Cell<u64>,
    now_ms: Rc<Cell<u64>>,
    /// Indexed by the provider's id in the snapshot of that generation.
    gates: RefCell<Vec<Option<Rc<Door>>>>,
}

/// A gate and those who wait before it.
struct Door {
    name: Box<str>,
    gate: RefCell<Gate>,
    sleepers: RefCell<HashMap<Ticket, Sleeper>>,
    /// The core's clock, as of the last tick.
    now_ms: Rc<Cell<u64>>,
}

enum Sleeper {
    Waits(Option<Waker>),
    Admitted,
    TooLate,
}

/// A place at a provider; given back when dropped.
#[must_use = "a place is held only while this lives"]
pub struct Place(Rc<Door>);

/// There is no place at the provider at present.
pub struct NoPlace;

/// There is no place at the provider, and there was none in time.
pub struct Overloaded {
    /// When it is worth coming back, in seconds.
    pub retry_after_s: u32,
}

impl Gates {
    /// Follows a new snapshot; a gate goes on under its provider's name.
    pub fn follow(&self, snapshot: &Snapshot) {
        let mut gates = self.gates.borrow_mut();
        let mut old = std::mem::take(&mut *gates);
        for provider in snapshot.providers() {
            let gate = provider.concurrency.map(|limits| {
                let known = old
                    .iter_mut()
                    .find_map(|slot| slot.take_if(|door| door.name == provider.name));
                if let Some(door) = known {
                    door.gate.borrow_mut().set_limits(limits);
                    door
                } else {
                    Rc::new(Door {
                        name: provider.name.clone(),
                        gate: RefCell::new(Gate::new(limits)),
                        sleepers: RefCell::default(),
                        now_ms: self.now_ms.clone(),
                    })
                }
            });
            gates.push(gate);
        }
        self.generation.set(snapshot.generation());
    }

    /// Tells those whose time to wait is over, and hands out places that a higher limit has made; `now_ms` is of the core's
    /// clock. Returns how many still wait.
    pub fn sweep(&self, now_ms: u64) -> usize {
        self.now_ms.set(now_ms);
        let mut waiting = 0;
        for door in self.gates.borrow().iter().flatten() {
            door.expire(now_ms);
            door.admit();
            waiting += door.gate.borrow().waiting();
        }
        waiting
    }

    /// Requests that have a place at a provider, and how many may have one, as of now.
    #[cfg(test)]
    fn state(&self, index: usize) -> (u32, u32) {
        let gates = self.gates.borrow();
        let gate = gates[index].as_ref().expect("a limited provider").gate.borrow();
        (gate.in_flight(), gate.limit())
    }

    fn door(&self, snapshot: &Snapshot, provider: &Provider) -> Option<Rc<Door>> {
        provider.concurrency?;
        let gates = self.gates.borrow();
        if self.generation.get() == snapshot.generation() {
            return gates.get(provider.id.index())?.clone();
        }
        // A request that began before the configuration changed.
        gates.iter().flatten().find(|door| door.name == provider.name).cloned()
    }

    /// A place at `provider` for something that can be left out. `None`: the provider's concurrency is not limited.
    ///
    /// # Errors
    /// [`NoPlace`]: none is free, or somebody waits for one.
    pub fn enter_at_once(&self, snapshot: &Snapshot, provider: &Provider) -> Result<Option<Place>, NoPlace> {
        let Some(door) = self.door(snapshot, provider) else {
            return Ok(None);
        };
        let entry = door.gate.borrow_mut().enter(self.now_ms.get(), 0);
        match entry {
            Entry::Admitted => Ok(Some(Place(door))),
            // By a time that is over nobody waits.
            Entry::Waiting(_) | Entry::Refused => Err(NoPlace),
        }
    }

    /// Waits for a place at `provider` until `until_ms` of the core's clock. `None`: the provider's concurrency is not
    /// limited.
    ///
    /// # Errors
    /// [`Overloaded`]: the queue is full, or no place came in time. Dropping the future leaves the queue.
    pub async fn enter(
        &self,
        snapshot: &Snapshot,
        provider: &Provider,
        until_ms: u64,
        meter: &CoreMeter,
    ) -> Result<Option<Place>, Overloaded> {
        let Some(door) = self.door(snapshot, provider) else {
            return Ok(None);
        };
        let entry = door.gate.borrow_mut().enter(self.now_ms.get(), until_ms);
        let admitted = match entry {
            Entry::Admitted => true,
            Entry::Refused => false,
            Entry::Waiting(ticket) => {
                meter.queued.add(1);
                Queued::wait(&door, ticket).await
            }
        };
        if admitted {
            return Ok(Some(Place(door)));
        }
        meter.overloads.add(1);
        let queue_ms = door.gate.borrow().queue_ms();
        Err(Overloaded {
            retry_after_s: queue_ms.div_ceil(1000).max(1),
        })
    }
}

impl Door {
    /// Gives free places to those who wait.
    fn admit(&self) {
        loop {
            let Some(ticket) = self.gate.borrow_mut().next(self.now_ms.get()) else {
                return;
            };
            self.tell(ticket, Sleeper::Admitted);
        }
    }

    fn expire(&self, now_ms: u64) {
        loop {
            let Some(ticket) = self.gate.borrow_mut().expire(now_ms) else {
                return;
            };
            self.tell(ticket, Sleeper::TooLate);
        }
    }

    fn tell(&self, ticket: Ticket, news: Sleeper) {
        let before = self.sleepers.borrow_mut().insert(ticket, news);
        if let Some(Sleeper::Waits(Some(waker))) = before {
            waker.wake();
        }
    }
}

/// A request in the queue.
struct Queued<'a> {
    door: &'a Rc<Door>,
    ticket: Ticket,
    /// Whether it has heard what became of it.
    heard: bool,
}

impl<'a> Queued<'a> {
    /// Waits in the queue; true if it has a place then.
    async fn wait(door: &'a Rc<Door>, ticket: Ticket) -> bool {
        door.sleepers.borrow_mut().insert(ticket, Sleeper::Waits(None));
        let mut queued = Queued {
            door,
            ticket,
            heard: false,
        };
        poll_fn(|context| {
            let mut sleepers = queued.door.sleepers.borrow_mut();
            let admitted = match sleepers.get_mut(&queued.ticket) {
                Some(Sleeper::Waits(waker)) => {
                    *waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Some(Sleeper::Admitted) => true,
                Some(Sleeper::TooLate) | None => false,
            };
            sleepers.remove(&queued.ticket);
            queued.heard = true;
            Poll::Ready(admitted)
        })
        .await
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.heard {
            return;
        }
        // The client has left.
        let told = self.door.sleepers.borrow_mut().remove(&self.ticket);
        if let Some(Sleeper::Admitted) = told {
            self.door.gate.borrow_mut().leave();
            self.door.admit();
        } else {
            self.door.gate.borrow_mut().abandon(self.ticket);
        }
    }
}

impl Place {
    /// The first byte of an answer came after `latency_us`, or (`None`) the provider refused for want of capacity or kept
    /// silent.
    pub fn observe(&self, latency_us: Option<u64>) {
        self.0.gate.borrow_mut().observe(self.0.now_ms.get(), latency_us);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.gate.borrow_mut().leave();
        self.0.admit();
    }
}

#[cfg(test)]
mod tests;
