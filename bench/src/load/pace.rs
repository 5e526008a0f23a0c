//! When the next request is due: at once (closed loop), or on a fixed arrival schedule (open loop).
//!
//! Arrival `i` is due at `start + i / rate`, whoever is free to send it; a connection takes the next arrival and waits
//! for it, or finds it overdue. The runtime's own timer is too coarse (1 ms), so a metronome thread sleeps until
//! arrivals are due and wakes the loop through a socket pair. Arrivals are released in the order in which they are due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::Result;
use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;

/// Shortest time between two ticks of the metronome: a tick costs the generator's core some 4 µs.
const TICK_MIN: Duration = Duration::from_micros(100);

/// The schedule that all connections of a run share.
#[derive(Debug)]
pub struct Pace {
    rate: Option<f64>,
    left: Cell<u64>,
    taken: Cell<u64>,
    start: Cell<Instant>,
    end: Cell<Option<Instant>>,
    waiting: RefCell<VecDeque<(Instant, Waker)>>,
}

impl Pace {
    /// A schedule of at most `requests` requests; `rate` in arrivals per second makes it an open loop.
    #[must_use]
    pub fn new(rate: Option<f64>, requests: u64) -> Self {
        Self {
            rate,
            left: Cell::new(requests),
            taken: Cell::new(0),
            start: Cell::new(Instant::now()),
            end: Cell::new(None),
            waiting: RefCell::default(),
        }
    }

    /// True for an open loop.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rate.is_some()
    }

    /// Sets when arrival 0 is due.
    pub fn begin(&self, start: Instant) {
        self.start.set(start);
    }

    /// No request is due at or after `end`.
    pub fn end_at(&self, end: Instant) {
        self.end.set(Some(end));
    }

    /// Waits for the next request and says when it was due; `None` when there are no more.
    pub async fn next(&self) -> Option<Instant> {
        self.left.set(self.left.get().checked_sub(1)?);
        let now = Instant::now();
        let Some(rate) = self.rate else {
            return self.end.get().is_none_or(|end| now < end).then_some(now);
        };
        self.release(now);
        let index = self.taken.replace(self.taken.get() + 1);
        let due = self.start.get() + Duration::from_secs_f64(index as f64 / rate);
        if self.end.get().is_some_and(|end| due >= end) {
            return None;
        }
        let mut queued = false;
        poll_fn(|cx| {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            if !queued {
                self.waiting.borrow_mut().push_back((due, cx.waker().clone()));
                queued = true;
            }
            Poll::Pending
        })
        .await;
        Some(due)
    }

    /// Arrivals due before `end` that no connection has taken.
    #[must_use]
    pub fn never_sent(&self) -> u64 {
        let (Some(rate), Some(end)) = (self.rate, self.end.get()) else {
            return 0;
        };
        let due = (end.saturating_duration_since(self.start.get()).as_secs_f64() * rate).floor() as u64;
        due.saturating_sub(self.taken.get())
    }

    fn release(&self, now: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, waker)) = waiting.pop_front() {
                waker.wake();
            }
        }
    }

    /// Releases arrivals as the metronome ticks, for as long as it lives.
    ///
    /// # Errors
    /// When the socket pair ends.
    pub async fn follow(&self, ticks: StdUnixStream) -> Result<()> {
        let mut ticks = UnixStream::from_std(ticks)?;
        let mut buffer = Vec::with_capacity(256);
        loop {
            let (read, back) = ticks.read(buffer).await;
            if read? == 0 {
                return Ok(());
            }
            buffer = back;
            self.release(Instant::now());
        }
    }
}

/// The ticking thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Metronome {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Metronome {
    /// Starts ticking for `rate` arrivals per second, and returns the end to listen on.
    ///
    /// # Errors
    /// When the socket pair or the thread cannot be had.
    pub fn start(rate: f64) -> Result<(Self, StdUnixStream)> {
        let (listen, mut tick) = StdUnixStream::pair()?;
        // Full: enough ticks are waiting to be heard.
        tick.set_nonblocking(true)?;
        let period = Duration::from_secs_f64(1.0 / rate).max(TICK_MIN);
        // The thread inherits it: sleeps end some 50 µs nearer to their time. Where it is refused, latencies are longer.
        let _ = std::fs::write("/proc/self/timerslack_ns", "1000");
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("metronome".to_owned())
            .spawn(move || {
                let mut due = Instant::now();
                while !seen.load(Ordering::Relaxed) {
                    due += period;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if let Err(error) = tick.write(&[0])
                        && error.kind() != std::io::ErrorKind::WouldBlock
                    {
                        return;
                    }
                }
            })?;
        Ok((
            Self {
                stop,
                thread: Some(thread),
            },
            listen,
        ))
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and the run is over either way.
            let _ = thread.join();
        }
    }
}
