//! A data-plane thread: runtime, listeners, the tick, and drain.
//!
//! Invariants: one runtime per thread, pinned if asked; orders and deadlines are looked at on the tick, a bounded number at
//! a time, so that no request needs a wake-up from another thread. monoio is named here, in `net.rs` and in `net/ready.rs`
//! only.
//! Deliberately absent: anything about requests.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use rtrb::Consumer;
use sluice_policy::budget::Purse;
use sluice_policy::meter::CoreMeter;

use crate::connection;
use crate::core::Core;
use crate::deadline::{self, IDLE_GRACE_MS, TICK_MS};
use crate::ebpf::steering::Load;
use crate::mesh::{CoreEnd, Funds, Order, Place, Pulse};
use crate::net::{self, Listener, Net, Stop};
use crate::plane::Plane;

/// Entries of a core's submission ring.
const RING_ENTRIES: u32 = 2048;
/// Ticks that requests have to end in once they are cut.
const CUT_TICKS: u32 = 50;
/// How often idle connections and gauges are looked at, in ticks.
const SWEEP_TICKS: u64 = 100;
/// Pause after a failed accept or at the connection limit, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 20;

/// What a worker is made of.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// The processor to stay on; `None` leaves it to the kernel.
    pub cpu: Option<core_affinity::CoreId>,
    /// What it shows of its life.
    pub pulse: Arc<Pulse>,
    /// What to serve by at first.
    pub plane: Arc<Plane>,
    /// Its ends of the rings.
    pub end: CoreEnd,
    /// What it counts.
    pub meter: Arc<CoreMeter>,
    /// How many there are of its kind.
    pub cores: u32,
    /// Accounts to begin with.
    pub funds: Vec<Funds>,
    /// For choices that need no secrecy.
    pub seed: u64,
    /// Use epoll even where io_uring works.
    pub force_epoll: bool,
}

/// Starts the thread; it ends after [`Order::Drain`] and the last connection, or after [`Order::Stop`].
///
/// # Errors
/// When no thread can be made.
pub fn spawn(worker: Worker) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("core-{}", worker.index))
        .spawn(move || run(worker))
}

fn run(worker: Worker) {
    if let Some(cpu) = worker.cpu
        && !core_affinity::set_for_current(cpu)
    {
        tracing::warn!(
            core = worker.index,
            cpu = cpu.id,
            "cannot pin the thread to its processor"
        );
    }
    if !worker.force_epoll {
        let mut ring = io_uring::IoUring::builder();
        ring.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(ring)
            .enable_timer()
            .build();
        match runtime {
            Ok(mut runtime) => return runtime.block_on(serve(worker)),
            Err(error) => {
                tracing::warn!(core = worker.index, %error, "io_uring is not available here; using epoll, at a higher cost");
            }
        }
    }
    match monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
        .enable_timer()
        .build()
    {
        Ok(mut runtime) => runtime.block_on(serve(worker)),
        Err(error) => tracing::error!(core = worker.index, %error, "this core cannot run"),
    }
}

async fn serve(worker: Worker) {
    let Worker {
        index,
        pulse,
        plane,
        end,
        meter,
        cores,
        funds,
        seed,
        ..
    } = worker;
    let CoreEnd {
        mut orders,
        reports,
        cache,
    } = end;
    let net = match Net::new() {
        Ok(net) => net,
        Err(error) => return tracing::error!(core = index, %error, "this core cannot run"),
    };
    monoio::spawn(net.readiness.clone().usher());
    monoio::spawn(net.readiness.clone().watch());
    let purse = Purse::new(cores);
    funds.iter().for_each(|funds| fund(&purse, funds));
    let core = Rc::new(Core::new(index, net, plane, (reports, cache), purse, meter, seed));
    let mut doors = Doors::new(pulse.clone());
    obey(&core, &mut orders, &mut doors, core.clock.tick());
    pulse.beat_ms.store(core.clock.shared_ms(), Ordering::Relaxed);
    let mut ticks: u64 = 0;
    loop {
        let before_us = core.clock.now_us();
        net::sleep_ms(TICK_MS).await;
        let late_us = (core.clock.now_us() - before_us).saturating_sub(TICK_MS * 1000);
        core.meter.times.lag.observe(late_us);
        ticks += 1;
        let now_ms = core.clock.tick();
        pulse.beat_ms.store(core.clock.shared_ms(), Ordering::Relaxed);
        core.meter.deadlines_passed.add(core.net.deadlines.sweep(now_ms) as u64);
        core.meter.waiting.set(core.gates.sweep(now_ms) as u64);
        core.cache
            .tick(core.clock.unix_us(core.clock.now_us()) / 1000, &core.meter);
        core.purse.tick();
        if !obey(&core, &mut orders, &mut doors, now_ms) {
            break;
        }
        if ticks.is_multiple_of(SWEEP_TICKS) {
            let oldest_ms = now_ms.saturating_sub(u64::from(core.plane().snapshot.upstream().idle_timeout.0));
            core.meter.upstream_idle.set(core.pools.sweep(oldest_ms) as u64);
            core.meter.buffer_bytes.set(core.net.buffers.leased_bytes() as u64);
        }
        if core.is_draining() && core.connections() == 0 {
            break;
        }
    }
    cut(&core).await;
    core.pools.clear();
    // What is left reports what it cost when it is dropped, with the runtime.
    core.purse.close();
}

/// Ends what is still under way, as a deadline that passes does: so it is charged, counted and recorded like any other request.
async fn cut(core: &Core) {
    for _ in 0..CUT_TICKS {
        if core.connections() == 0 {
            return;
        }
        core.net.deadlines.sweep(u64::MAX - 1);
        net::sleep_ms(TICK_MS).await;
        core.clock.tick();
    }
}

fn fund(purse: &Purse, funds: &Funds) {
    for (budget, account) in funds.iter() {
        purse.fund(*budget, account.clone());
    }
}

/// Where a core lets connections in.
struct Doors {
    open: Vec<(Rc<Door>, Stop)>,
    pulse: Arc<Pulse>,
}

struct Door {
    listener: Listener,
    load: Option<Rc<Load>>,
}

impl Doors {
    fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            open: Vec::new(),
            pulse,
        }
    }

    /// Begins to accept at a place.
    fn listen(&mut self, core: &Rc<Core>, place: Place) {
        match Listener::new(place.listener) {
            Ok(listener) => {
                let door = Rc::new(Door {
                    listener,
                    load: place.load.map(Rc::new),
                });
                let stop = Stop::default();
                monoio::spawn(accept_loop(
                    core.clone(),
                    door.clone(),
                    stop.clone(),
                    self.pulse.clone(),
                ));
                self.open.push((door, stop));
            }
            Err(error) => tracing::error!(core = core.index, %error, "cannot listen"),
        }
    }

    /// Ends all accepting, and leaves who waits to whoever else has the sockets.
    fn cease(&mut self) {
        self.open.drain(..).for_each(|(_, stop)| stop.stop());
    }

    /// Takes what is already in the kernel's queues, then ends all accepting: nobody who connected is reset.
    fn shut(&mut self, core: &Rc<Core>) {
        for (door, stop) in self.open.drain(..) {
            stop_listening(core, &door);
            stop.stop();
        }
    }
}

/// Works off what the control thread has said; false if it said to stop.
fn obey(core: &Rc<Core>, orders: &mut Consumer<Order>, doors: &mut Doors, now_ms: u64) -> bool {
    const AT_MOST: usize = 8;
    for _ in 0..AT_MOST {
        match orders.pop() {
            Ok(Order::Serve(plane)) => core.set_plane(plane),
            Ok(Order::Fund(funds)) => fund(&core.purse, &funds),
            Ok(Order::Listen(places)) => places.into_iter().for_each(|place| doors.listen(core, place)),
            Ok(Order::Cease) => doors.cease(),
            Ok(Order::Retire) => core.retire(),
            Ok(Order::Drain) if core.is_draining() && !core.is_retired() => {}
            Ok(Order::Drain) => {
                core.start_draining();
                doors.shut(core);
                core.net.deadlines.hasten_idle(now_ms + IDLE_GRACE_MS);
            }
            Ok(Order::Stop) => return false,
            Err(_) => break,
        }
    }
    true
}

async fn accept_loop(core: Rc<Core>, door: Rc<Door>, stop: Stop, pulse: Arc<Pulse>) {
    pulse.accepting.fetch_add(1, Ordering::AcqRel);
    while !stop.is_stopped() {
        if core.connections() >= core.plane().snapshot.downstream().connections_max {
            net::sleep_ms(ACCEPT_PAUSE_MS).await;
            continue;
        }
        match door.listener.accept(&stop).await {
            // Counted here: the task begins only after the next accept has been decided on.
            Ok((socket, peer)) => door.admit(&core, socket, peer),
            Err(_) if stop.is_stopped() => break,
            Err(error) => {
                core.meter.accept_errors.add(1);
                tracing::debug!(%error, "accept failed");
                net::sleep_ms(ACCEPT_PAUSE_MS).await;
            }
        }
    }
    // The sockets are closed before the control thread learns that nobody accepts any more.
    drop(door);
    pulse.accepting.fetch_sub(1, Ordering::AcqRel);
}

impl Door {
    fn admit(&self, core: &Rc<Core>, socket: socket2::Socket, peer: SocketAddr) {
        let seat = self.load.as_ref().map(Load::seat);
        monoio::spawn(connection::serve(core.open_connection(seat), socket, peer));
    }
}

/// Takes what is already in the kernel's queue, then ends the accept in flight: nobody who connected is reset.
fn stop_listening(core: &Rc<Core>, door: &Door) {
    let fd = door.listener.fd();
    // SAFETY: the descriptor stays open for as long as the listener, which the door owns.
    let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let listener = socket2::SockRef::from(&listener);
    let _ = listener.set_nonblocking(true);
    while let Ok((socket, peer)) = listener.accept() {
        if let Some(peer) = peer.as_socket() {
            door.admit(core, socket, peer);
        }
    }
    deadline::shutdown(listener.as_raw_fd());
}
