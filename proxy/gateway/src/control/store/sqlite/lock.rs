//! [`Lock`]: which processes use a SQLite store, as the kernel knows it, so that one that has been killed is known to be gone.
//!
//! Invariants: a process has the byte of its holder's number locked in a file beside the store, from before it may lease anything
//! until it has closed the store; the kernel unlocks it however the process ends. Byte 0 is had by whoever opens the store, so that
//! two do not do it at once. Programs of former versions lock the file as a whole and for themselves; they and this one keep each
//! other out. Deliberately absent: waiting.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::path::Path;

use sluice_policy::budget::Holder;

/// The byte of whoever opens the store.
const OPENING: i64 = 0;
/// As many bytes as there may be holders.
const TO_THE_END: i64 = 0;

/// The file of the locks, and those that this process has.
pub struct Lock(File);

impl Lock {
    /// The right to open the store, for as long as [`Lock::opened`] is not called.
    ///
    /// # Errors
    /// Another process opens it too, or is of a former version; or the file cannot be made.
    pub fn opening(path: &Path) -> Result<Self> {
        let file = File::create(path)?;
        // Former versions lock it exclusively, and do not start while this is held.
        file.try_lock_shared()?;
        let lock = Self(file);
        lock.set(libc::F_WRLCK, OPENING)?;
        Ok(lock)
    }

    /// Whether another process uses the store.
    pub fn is_used(&self) -> Result<bool> {
        self.is_locked(OPENING + 1, TO_THE_END)
    }

    /// From now on this process is alive under that number.
    pub fn take(&self, holder: Holder) -> Result<()> {
        self.set(libc::F_WRLCK, place(holder)?)
    }

    /// Others may open the store.
    pub fn opened(&self) -> Result<()> {
        self.set(libc::F_UNLCK, OPENING)
    }

    /// Whether another process is alive under that number; true if that cannot be told.
    pub fn is_live(&self, holder: Holder) -> bool {
        place(holder).and_then(|at| self.is_locked(at, 1)).unwrap_or(true)
    }

    fn set(&self, kind: i32, at: i64) -> Result<()> {
        let range = range(kind, at, 1);
        // SAFETY: a plain system call on an open file, with a structure that lives through it.
        let done = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    fn is_locked(&self, at: i64, count: i64) -> Result<bool> {
        let mut range = range(libc::F_WRLCK, at, count);
        // SAFETY: as above; the call writes into the structure.
        let done = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_OFD_GETLK, &raw mut range) };
        if done != 0 {
            return Err(Error::last_os_error());
        }
        Ok(i32::from(range.l_type) != libc::F_UNLCK)
    }
}

/// The byte of a holder.
fn place(holder: Holder) -> Result<i64> {
    i64::try_from(holder).map_err(|_| ErrorKind::InvalidInput.into())
}

fn range(kind: i32, at: i64, count: i64) -> libc::flock {
    // SAFETY: plain integers, for which zeros are a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = at;
    range.l_len = count;
    range
}
