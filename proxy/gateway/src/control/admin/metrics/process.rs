//! What the kernel says of this process: processor time of it and its threads, memory, descriptors.
//!
//! Invariants: read when somebody asks, from `/proc`; what cannot be read is left out. Deliberately absent: a crate for it.

use std::time::SystemTime;

use sluice_policy::meter::catalog as of;

use super::text::{Page, number};
use crate::ebpf::cpu_us;

/// Appends it.
pub fn write(page: &mut Page, started: SystemTime) {
    page.single(&of::PROCESS_CPU, number(cpu_us() as f64 / 1e6));
    if let Some(pages) = statm_pages() {
        // SAFETY: a plain question to the system.
        let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        page.single(&of::PROCESS_MEMORY, pages * page_bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.single(&of::PROCESS_FDS, open.count());
    }
    let mut most = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is of the form that the call writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut most) } == 0 {
        page.single(&of::PROCESS_FDS_MAX, most.rlim_cur);
    }
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    page.single(&of::PROCESS_STARTED, number(since.as_secs_f64()));
    page.family(&of::CORE_CPU);
    for (thread, ns) in threads() {
        page.sample(&of::CORE_CPU, &[&thread], number(ns as f64 / 1e9));
    }
}

/// Processor time of the cores' threads by name, and of the others together as `control`, in nanoseconds.
pub fn threads() -> Vec<(String, u64)> {
    let mut cores = Vec::new();
    let mut control = 0;
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        let (Some(name), Some(stat)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let ns: u64 = stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        match name.trim() {
            name if name.starts_with("core-") => cores.push((name.to_owned(), ns)),
            _ => control += ns,
        }
    }
    cores.sort();
    cores.push(("control".to_owned(), control));
    cores
}

fn statm_pages() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}
