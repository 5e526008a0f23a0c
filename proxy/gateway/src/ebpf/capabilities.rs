//! Which capabilities the process has, and giving up those that loading programs needed (capabilities(7)).
//!
//! Invariants: given up before any other thread exists, so that every thread is without them. Deliberately absent: the bounding
//! set, which stays, so that a process that this one starts in its place may load programs again.

use std::io;

/// Capabilities that loading programs needs, by name and number.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];
/// Stands for all three on kernels before 5.8, and still implies them.
const SYS_ADMIN: u32 = 21;
/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What a part of the programs needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `CAP_BPF`.
    Steering,
    /// `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`.
    Accounting,
}

/// Those that are missing, by name; empty if there is none.
pub fn missing(need: Need) -> Vec<&'static str> {
    let Ok(sets) = get() else { return Vec::new() };
    let has = |number: u32| sets[number as usize / 32].effective >> (number % 32) & 1 == 1;
    let count = if need == Need::Steering { 1 } else { NEEDED.len() };
    let needed = NEEDED[..count].iter();
    needed
        .filter(|(_, number)| !has(*number) && !has(SYS_ADMIN))
        .map(|(name, _)| *name)
        .collect()
}

/// Gives up what loading needed, in this thread and those that it starts.
///
/// # Errors
/// Those of capset(2).
pub fn give_up() -> io::Result<()> {
    let mut sets = get()?;
    for number in NEEDED.iter().map(|(_, number)| *number).chain([SYS_ADMIN]) {
        let set = &mut sets[number as usize / 32];
        let others = !(1 << (number % 32));
        set.effective &= others;
        set.permitted &= others;
        set.inheritable &= others;
    }
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: both structures are of the form that this version of the call reads.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn get() -> io::Result<[Sets; 2]> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: both structures are of the form that this version of the call writes.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) } == 0 {
        Ok(sets)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gave_up_misses_all_and_others_keep_theirs() {
        let before = missing(Need::Accounting);
        let after = std::thread::spawn(|| {
            give_up().unwrap();
            missing(Need::Accounting)
        });
        assert_eq!(after.join().unwrap(), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(missing(Need::Accounting), before);
    }
}
