//! The gateway's clocks: monotonic microseconds for durations, a millisecond of the current tick for deadlines, and the
//! wall clock for log lines.
//!
//! Invariants: durations and deadlines never look at the wall clock, so a step of it changes neither.
//! Deliberately absent: a clock in `wire` or `policy`; they are told the time.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// One core's view of time. Its zero is the moment it was made.
pub struct Clock {
    zero_us: u64,
    zero_unix_us: Cell<u64>,
    tick_ms: Cell<u64>,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            zero_us: monotonic_us(),
            zero_unix_us: Cell::new(unix_us()),
            tick_ms: Cell::new(0),
        }
    }

    /// Microseconds since the clock's zero.
    pub fn now_us(&self) -> u64 {
        monotonic_us() - self.zero_us
    }

    /// Milliseconds since the clock's zero, as of the last tick: cheap, and late by at most a tick.
    pub fn tick_ms(&self) -> u64 {
        self.tick_ms.get()
    }

    /// Milliseconds of the clock that all cores share, as of the last tick: for what is remembered across cores.
    pub fn shared_ms(&self) -> u64 {
        self.zero_us / 1000 + self.tick_ms.get()
    }

    /// Moves [`Clock::tick_ms`] on, and follows the wall clock; returns the former.
    pub fn tick(&self) -> u64 {
        let now_us = self.now_us();
        self.zero_unix_us.set(unix_us().saturating_sub(now_us));
        self.tick_ms.set(now_us / 1000);
        now_us / 1000
    }

    /// The wall clock, in microseconds since the epoch, at a moment of this clock.
    pub fn unix_us(&self, at_us: u64) -> u64 {
        self.zero_unix_us.get() + at_us
    }
}

/// `CLOCK_MONOTONIC` in microseconds, without the 128-bit arithmetic of `Instant`: a request reads it six times.
fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Processor time of the whole process, in microseconds.
pub fn cpu_us() -> u64 {
    // SAFETY: a structure of plain integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is of the form that the call writes.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// The clock of [`Clock::shared_ms`], now.
pub fn shared_ms() -> u64 {
    monotonic_us() / 1000
}

/// The wall clock, in milliseconds since the epoch.
pub fn unix_ms() -> u64 {
    unix_us() / 1000
}

fn unix_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}
