//! [`Bell`]: rung once, heard by every thread that waits for it beside something else (eventfd(2), poll(2)).
//!
//! Invariants: once rung it stays rung; nobody who waits looks from time to time. Deliberately absent: a bell that can be silenced.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Rung once.
pub struct Bell(OwnedFd);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The bell, whatever else there was.
    Bell,
    /// The other thing that was waited for.
    Other,
    /// Neither, in all the time.
    Nothing,
}

impl Bell {
    /// A bell that has not been rung.
    ///
    /// # Errors
    /// When the process may have no more descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let made = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now, and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(made) }))
    }

    /// Rings it.
    pub fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes, which live through the call. It cannot fail before it has been rung 2^64 times.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits until it is rung, `other` can be read, or the time is over; without a time, for ever.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, patience: Option<Duration>) -> io::Result<Heard> {
        let until = patience.map(|patience| Instant::now() + patience);
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // The kernel passes over descriptors below zero.
        let other = other.map_or(-1, |other| other.as_raw_fd());
        let mut entries = [entry(self.0.as_fd().as_raw_fd()), entry(other)];
        loop {
            let left_ms = until.map_or(-1, |until| {
                let left = until.saturating_duration_since(Instant::now());
                // Rounded up: no turn is taken for less than a millisecond.
                i32::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX)
            });
            // SAFETY: two entries, which live through the call.
            let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, left_ms) };
            match ready {
                0 => return Ok(Heard::Nothing),
                1.. if entries[0].revents != 0 => return Ok(Heard::Bell),
                1.. => return Ok(Heard::Other),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// A descriptor of a child that has not been waited for: it can be read once the child has ended (pidfd_open(2), Linux 5.3).
///
/// # Errors
/// On older kernels, and where the process may have no more descriptors.
pub fn end_of(child: &std::process::Child) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; a child that has not been waited for keeps its id.
    let made = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let made = i32::try_from(made).unwrap_or(-1);
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_bell_wakes_everyone_who_waits_and_stays_rung() {
        let bell = Arc::new(Bell::new().unwrap());
        let now = |bell: &Bell| bell.wait(None, Some(Duration::ZERO)).unwrap();
        assert_eq!(now(&bell), Heard::Nothing);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let bell = bell.clone();
                std::thread::spawn(move || bell.wait(None, None).unwrap())
            })
            .collect();
        bell.ring();
        for one in waiting {
            assert_eq!(one.join().unwrap(), Heard::Bell);
        }
        assert_eq!(now(&bell), Heard::Bell);
    }

    #[test]
    fn the_other_thing_is_heard_and_silence_ends() {
        let bell = Bell::new().unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(bell.wait(Some(there.as_fd()), soon).unwrap(), Heard::Nothing);
        here.write_all(b"x").unwrap();
        assert_eq!(bell.wait(Some(there.as_fd()), None).unwrap(), Heard::Other);
        bell.ring();
        assert_eq!(bell.wait(Some(there.as_fd()), None).unwrap(), Heard::Bell);
    }

    #[test]
    fn the_end_of_a_child_is_heard() {
        let bell = Bell::new().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let end = end_of(&child).unwrap();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(bell.wait(Some(end.as_fd()), soon).unwrap(), Heard::Nothing);
        child.kill().unwrap();
        assert_eq!(bell.wait(Some(end.as_fd()), None).unwrap(), Heard::Other);
        child.wait().unwrap();
    }
}
