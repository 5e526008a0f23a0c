//! One measured run: connect, warm up, measure, drain, sum up.
//!
//! A closed loop counts answers that complete inside the window; an open loop counts answers whose request was due
//! inside it, so that a slow answer is never lost behind the window's end. The lines `measure` and `measured` on
//! standard output tell the driver when to read the CPU clocks of the process under test.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use serde_json::json;

use super::exchange::{Connection, Failure, Slot, nanos};
use super::pace::{Metronome, Pace};
use super::stats::Stats;
use super::{Flags, body, say};
use crate::rt;

/// How often requests are checked for having run too long.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// How long a connection waits before it tries again after a failure: a dead target must not spin the generator.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// What all connections of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The requests, head and body, of equal length.
    requests: Vec<Bytes>,
    /// Whether answers are streams.
    pub stream: bool,
    /// Nanoseconds between two chunks of the script; 0 when there is none.
    pub chunk_interval_ns: u64,
    /// Bytes that each unary answer must have.
    pub expect_bytes: Cell<Option<u64>>,
    /// Chunks that each stream must have.
    pub expect_chunks: Cell<Option<u64>>,
    /// What has been counted.
    pub stats: RefCell<Stats>,
    pace: Pace,
    window: Cell<Option<(Instant, Instant)>>,
    connected: Cell<usize>,
    begun: Cell<bool>,
    finished: Cell<usize>,
}

impl Shared {
    fn new(flags: &Flags) -> Self {
        let stats = Stats {
            rate: flags.rate,
            connections: flags.connections,
            ..Stats::default()
        };
        Self {
            requests: body::render_all(flags).into_iter().map(Bytes::from).collect(),
            stream: flags.stream,
            chunk_interval_ns: flags.chunk_interval_us * 1_000,
            expect_bytes: Cell::new(flags.expect_bytes),
            expect_chunks: Cell::new(flags.expect_chunks),
            stats: RefCell::new(stats),
            pace: Pace::new(flags.rate, flags.requests),
            window: Cell::new(None),
            connected: Cell::new(0),
            begun: Cell::new(false),
            finished: Cell::new(0),
        }
    }

    /// Whether something that was due at `due` and happened at `now` belongs to the measurement.
    #[must_use]
    pub fn in_window(&self, due: Instant, now: Instant) -> bool {
        let moment = if self.pace.is_open() { due } else { now };
        self.window.get().is_some_and(|(from, to)| (from..to).contains(&moment))
    }

    /// One of the requests, at random if there are several.
    #[must_use]
    pub fn request(&self) -> Bytes {
        match &*self.requests {
            [one] => one.clone(),
            several => several[fastrand::usize(..several.len())].clone(),
        }
    }

    /// When a request due at `due` is sent: now. A closed loop has just read the clock.
    #[must_use]
    pub fn began(&self, due: Instant) -> Instant {
        if self.pace.is_open() { Instant::now() } else { due }
    }

    /// Counts a right answer of `bytes` bytes.
    pub fn answered(&self, due: Instant, now: Instant, bytes: u64) {
        if self.in_window(due, now) {
            let mut stats = self.stats.borrow_mut();
            stats.requests += 1;
            stats.bytes_in += bytes;
            stats.bytes_out += self.requests[0].len() as u64;
            stats.latency.record(nanos(now - due));
        }
    }

    fn failed(&self, failure: Failure) {
        *self.stats.borrow_mut().failures.entry(failure.name()).or_default() += 1;
    }
}

/// Performs one run on the current runtime; `announce` prints the window's beginning and end.
///
/// # Errors
/// When the target does not resolve or the metronome does not start.
pub async fn measure(flags: &Flags, announce: bool) -> Result<Stats> {
    let target = flags.address()?;
    let shared = Rc::new(Shared::new(flags));
    let slots: Vec<Rc<Slot>> = (0..flags.connections).map(|_| Rc::default()).collect();
    for (index, slot) in slots.iter().enumerate() {
        let stagger = Duration::from_millis(flags.stagger_ms).mul_f64(index as f64 / flags.connections as f64);
        monoio::spawn(work(Rc::clone(&shared), target, Rc::clone(slot), stagger));
    }
    monoio::spawn(watch(Rc::clone(&shared), slots, flags.timeout()));
    coordinate(flags, &shared, announce).await?;
    Ok(shared.stats.take())
}

/// Ends requests that run too long, until no connection is left that could send one.
async fn watch(shared: Rc<Shared>, slots: Vec<Rc<Slot>>, timeout: Duration) {
    while shared.finished.get() < slots.len() {
        monoio::time::sleep(WATCH_EVERY).await;
        let now = Instant::now();
        slots.iter().for_each(|slot| slot.expire(now, timeout));
    }
}

async fn coordinate(flags: &Flags, shared: &Rc<Shared>, announce: bool) -> Result<()> {
    while shared.connected.get() < flags.connections {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
    let metronome = match flags.rate {
        Some(rate) => {
            let (metronome, ticks) = Metronome::start(rate)?;
            let follower = Rc::clone(shared);
            monoio::spawn(async move { follower.pace.follow(ticks).await });
            Some(metronome)
        }
        None => None,
    };
    let begin = Instant::now();
    shared.pace.begin(begin);
    let from = begin + Duration::from_secs_f64(flags.warmup);
    let to = from + Duration::from_secs_f64(flags.duration);
    shared.pace.end_at(to);
    shared.window.set(Some((from, to)));
    shared.begun.set(true);

    sleep_until(from).await;
    let cpu = rt::own_cpu_ns();
    if announce {
        say(&json!({ "event": "measure" }))?;
    }
    while Instant::now() < to && shared.finished.get() < flags.connections {
        let wait = (to - Instant::now()).min(Duration::from_millis(20));
        monoio::time::sleep(wait).await;
    }
    let measured = Instant::now().min(to);
    if announce {
        say(&json!({ "event": "measured", "requests": shared.stats.borrow().requests }))?;
    }
    shared.stats.borrow_mut().own_cpu_ns = rt::own_cpu_ns() - cpu;
    drain(shared, flags, to).await;
    drop(metronome);
    let mut stats = shared.stats.borrow_mut();
    stats.seconds = (measured - from).as_secs_f64();
    let unsent = shared.pace.never_sent();
    let unfinished = (flags.connections - shared.finished.get()) as u64;
    for (kind, count) in [("unsent", unsent), ("unfinished", unfinished)] {
        if count > 0 {
            stats.failures.insert(kind.to_owned(), count);
        }
    }
    Ok(())
}

/// Lets what is under way end, within the timeout and a second for the watchdog to strike.
async fn drain(shared: &Shared, flags: &Flags, to: Instant) {
    let last = to + flags.timeout() + Duration::from_secs(1);
    while shared.finished.get() < flags.connections && Instant::now() < last {
        monoio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn sleep_until(at: Instant) {
    monoio::time::sleep(at.saturating_duration_since(Instant::now())).await;
}

async fn work(shared: Rc<Shared>, target: std::net::SocketAddr, slot: Rc<Slot>, stagger: Duration) {
    let mut connection = connect(&shared, target, &slot);
    shared.connected.set(shared.connected.get() + 1);
    while !shared.begun.get() {
        monoio::time::sleep(Duration::from_millis(2)).await;
    }
    if !stagger.is_zero() {
        monoio::time::sleep(stagger).await;
    }
    while let Some(due) = shared.pace.next().await {
        if connection.is_none() {
            connection = connect(&shared, target, &slot);
        }
        let Some(open) = &mut connection else {
            monoio::time::sleep(PAUSE_AFTER_FAILURE).await;
            continue;
        };
        match open.exchange(&shared, due).await {
            Ok(true) => {}
            Ok(false) => connection = None,
            Err(failure) => {
                shared.failed(failure);
                connection = None;
                monoio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    shared.finished.set(shared.finished.get() + 1);
}

fn connect(shared: &Shared, target: std::net::SocketAddr, slot: &Rc<Slot>) -> Option<Connection> {
    match Connection::open(target, Rc::clone(slot)) {
        Ok(connection) => {
            shared.stats.borrow_mut().connects += 1;
            Some(connection)
        }
        Err(failure) => {
            shared.failed(failure);
            None
        }
    }
}
