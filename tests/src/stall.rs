//! Stops one thread of a process that a test has started, as a disk that does not answer would.
//!
//! Invariants: the thread goes on when this is dropped; the other threads never stop. Deliberately absent: processes that are not
//! the test's own.

use std::fs;

/// A thread that stands still.
pub struct Stalled {
    thread: libc::pid_t,
}

impl Stalled {
    /// Stops the thread of that name; `None`, having said why, where that is not allowed. It must be dropped by the thread of the
    /// test that has made it.
    ///
    /// # Panics
    /// When the process has no such thread.
    #[must_use]
    pub fn thread(process: i32, name: &str) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process is alive");
        let is_it = |path: &std::path::Path| fs::read_to_string(path.join("comm")).is_ok_and(|own| own.trim() == name);
        let path = tasks
            .flatten()
            .map(|task| task.path())
            .find(|path| is_it(path))
            .unwrap_or_else(|| panic!("no thread is called {name}"));
        let id = path
            .file_name()
            .and_then(|id| id.to_str())
            .and_then(|id| id.parse().ok());
        let thread: libc::pid_t = id.expect("a thread's directory is its number");
        if !ask(libc::PTRACE_SEIZE, thread) {
            let error = std::io::Error::last_os_error();
            eprintln!("left out: a thread that stands still: tracing is not allowed here ({error})");
            return None;
        }
        let stalled = Self { thread };
        assert!(
            ask(libc::PTRACE_INTERRUPT, thread),
            "a thread that is traced can be stopped"
        );
        let mut status = 0;
        // SAFETY: a plain system call that writes one integer, which is ours.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, thread, "{}", std::io::Error::last_os_error());
        Some(stalled)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        ask(libc::PTRACE_DETACH, self.thread);
    }
}

/// A request to the kernel about a thread, without data.
fn ask(request: libc::c_uint, thread: libc::pid_t) -> bool {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the three requests used here reads or writes memory of this process.
    unsafe { libc::ptrace(request, thread, none, none) == 0 }
}
