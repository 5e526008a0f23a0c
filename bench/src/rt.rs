//! The runtime that every io_uring instrument runs on, and the two things all of them print.
//!
//! `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN`: completions are worked off when the thread asks for them, not by
//! interrupting it, which is worth about 14 % of a proxy's CPU. Absent: any fallback to epoll; a yardstick that quietly
//! ran on another mechanism would be a wrong yardstick.

use std::future::Future;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

/// Submission-queue entries of a ring: above twice the largest number of connections measured (1,000).
const RING_ENTRIES: u32 = 4096;

/// Pins the calling thread to one core; `None` leaves it where it is.
///
/// # Errors
/// When the kernel refuses, for instance because the core is not in this process's cpuset.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    if let Some(id) = cpu {
        ensure!(
            core_affinity::set_for_current(core_affinity::CoreId { id }),
            "cannot pin to core {id}"
        );
    }
    Ok(())
}

/// Runs `main` to its end on a fresh io_uring runtime with a timer, on this thread.
///
/// # Errors
/// When the ring cannot be set up with the flags above (Linux 6.1 and later have all of them), or `main`'s own.
pub fn run<F: Future<Output = Result<()>>>(main: F) -> Result<()> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(RING_ENTRIES)
        .enable_timer()
        .build()
        .context("io_uring with DEFER_TASKRUN is not available")?;
    runtime.block_on(main)
}

/// Says on standard output where a program listens, in the one form the driver reads.
pub fn announce(addr: SocketAddr) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // A closed pipe means that whoever started this no longer listens; serving goes on.
    let _ = writeln!(out, "listening on {addr}");
    let _ = out.flush();
}

/// CPU time of this process so far in nanoseconds, all threads, or 0 where schedstat is not compiled in.
#[must_use]
pub fn own_cpu_ns() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}
