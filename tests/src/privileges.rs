//! What a test may do to the kernel, and what it does there: processors, other processes' descriptors and threads, file systems.
//!
//! Invariants: whatever is changed belongs to the test's own processes or folders, and is undone when the value is dropped.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Capabilities that loading programs needs: BPF, NET_ADMIN, PERFMON; and SYS_ADMIN, which implies them.
pub const BPF: u32 = 39;
/// See [`BPF`].
pub const NET_ADMIN: u32 = 12;
/// See [`BPF`].
pub const PERFMON: u32 = 38;
/// See [`BPF`].
pub const SYS_ADMIN: u32 = 21;

/// Whether this process may load programs; says so if it may not.
#[must_use]
pub fn may_load_programs() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0);
    let may = [BPF, NET_ADMIN, PERFMON, SYS_ADMIN]
        .iter()
        .all(|number| set >> number & 1 == 1);
    if !may {
        println!("left out: loading programs needs root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    may
}

/// Keeps this thread on one processor; false if there is no such processor.
#[must_use]
pub fn stay_on(processor: usize) -> bool {
    // SAFETY: a set of plain bits, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index is checked by the macro's function against the set's size.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set lives through the call, which changes the calling thread only.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0 }
}

/// A thread of another process that does not run for as long as this lives.
pub struct Stopped(libc::pid_t);

impl Stopped {
    /// Stops the thread of that name.
    ///
    /// # Panics
    /// When there is none, or it cannot be stopped.
    #[must_use]
    pub fn thread(process: i32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
        let named = |entry: &std::fs::DirEntry| {
            std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let found = tasks.flatten().find(named).expect("the thread runs");
        let thread: i32 = found
            .file_name()
            .to_string_lossy()
            .parse()
            .expect("a thread has a number");
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: plain system calls upon a thread of our own child.
        unsafe {
            assert_eq!(
                libc::ptrace(libc::PTRACE_SEIZE, thread, null, null),
                0,
                "{}",
                io::Error::last_os_error()
            );
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, null, null), 0);
            assert_eq!(libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL), thread);
        }
        Self(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: a plain system call upon a thread that this one has seized.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

/// Shuts one listening socket of another process down: it dies, its sisters of the same port live. False if there is none.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn kill_a_listener(process: i32, port: u16) -> bool {
    // SAFETY: a plain system call.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    assert!(handle >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let handle = unsafe { OwnedFd::from_raw_fd(handle as i32) };
    let all = std::fs::read_dir(format!("/proc/{process}/fd")).expect("the process runs");
    for entry in all.flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // SAFETY: a plain system call.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), number, 0) };
        if copy < 0 {
            continue;
        }
        // SAFETY: as above.
        let copy = socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(copy as i32) });
        let listens = copy.is_listener().unwrap_or(false);
        let local = copy.local_addr().ok().and_then(|address| address.as_socket());
        if listens && local.is_some_and(|local| local.port() == port) {
            copy.shutdown(std::net::Shutdown::Both)
                .expect("a listener can be shut down");
            return true;
        }
    }
    false
}

/// A bpffs of the test's own.
pub struct BpfFolder(PathBuf);

impl BpfFolder {
    /// Mounts one at `path`, which is made.
    ///
    /// # Panics
    /// When it cannot be.
    #[must_use]
    pub fn mount(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("a folder can be made");
        let target = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path has no zero");
        let kind = c"bpf".as_ptr();
        // SAFETY: every text lives through the call.
        let result = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, std::ptr::null()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for BpfFolder {
    fn drop(&mut self) {
        let target = CString::new(self.0.as_os_str().as_encoded_bytes()).expect("a path has no zero");
        // SAFETY: the text lives through the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}
