//! Deadlines of all connections of one core: one slot per socket, looked over on the core's tick.
//!
//! Invariants: setting a deadline is a store, whatever the number of connections; a deadline that passes shuts the socket
//! down, which ends the read or write in flight without dropping it (a dropped io_uring read loses the bytes that come
//! later); a slot always refers to an open descriptor, because its guard is dropped before the socket is.
//! Deliberately absent: a timer wheel. A linear look over 1,000 slots takes about a microsecond, and a tick is
//! [`TICK_MS`] milliseconds.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;

/// How often a core looks over its deadlines, in milliseconds: also the precision of every timeout.
pub const TICK_MS: u64 = 10;

/// How long an idle client connection may still send a request once draining has begun, in milliseconds.
pub const IDLE_GRACE_MS: u64 = 1_000;

const NEVER: u64 = u64::MAX;

/// The slots of one core.
#[derive(Clone, Default)]
pub struct Deadlines(Rc<Slots>);

#[derive(Default)]
struct Slots {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
}

struct Slot {
    fd: Cell<RawFd>,
    at_ms: Cell<u64>,
    expired: Cell<bool>,
    idle: Cell<bool>,
    receiving: Cell<bool>,
}

/// The deadline of one socket; gone when dropped.
pub struct Deadline {
    home: Deadlines,
    index: u32,
}

impl Deadlines {
    /// Registers a socket, without a deadline as yet.
    pub fn register(&self, fd: RawFd) -> Deadline {
        let mut slots = self.0.slots.borrow_mut();
        let index = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot {
                fd: Cell::new(-1),
                at_ms: Cell::new(NEVER),
                expired: Cell::new(false),
                idle: Cell::new(false),
                receiving: Cell::new(false),
            });
            (slots.len() - 1) as u32
        });
        let slot = &slots[index as usize];
        slot.fd.set(fd);
        slot.at_ms.set(NEVER);
        slot.expired.set(false);
        slot.idle.set(false);
        slot.receiving.set(false);
        Deadline {
            home: self.clone(),
            index,
        }
    }

    /// Brings the deadline of every idle connection forward to `at_ms`.
    pub fn hasten_idle(&self, at_ms: u64) {
        for slot in self.0.slots.borrow().iter().filter(|slot| slot.idle.get()) {
            slot.at_ms.set(slot.at_ms.get().min(at_ms));
        }
    }

    /// Shuts down every socket whose deadline is at or before `now_ms` (one that only receives: in that direction); returns
    /// how many.
    pub fn sweep(&self, now_ms: u64) -> usize {
        let mut expired = 0;
        for slot in self.0.slots.borrow().iter() {
            if slot.at_ms.get() <= now_ms {
                slot.at_ms.set(NEVER);
                if slot.idle.get() && holds_bytes(slot.fd.get()) {
                    // Not idle: a request has come that its task has not seen yet.
                    continue;
                }
                slot.expired.set(true);
                if slot.receiving.get() {
                    shutdown_read(slot.fd.get());
                } else {
                    shutdown(slot.fd.get());
                }
                expired += 1;
            }
        }
        expired
    }
}

impl Deadline {
    /// The socket is shut down at `at_ms` (milliseconds of the core's clock) unless this is changed before.
    pub fn set(&self, at_ms: u64) {
        self.with(|slot| {
            slot.at_ms.set(at_ms);
            slot.idle.set(false);
            slot.receiving.set(false);
        });
    }

    /// The same while a request is being received: only that direction is shut down, so that the client can still be told.
    pub fn set_receiving(&self, at_ms: u64) {
        self.with(|slot| {
            slot.at_ms.set(at_ms);
            slot.idle.set(false);
            slot.receiving.set(true);
        });
    }

    /// The same for a connection that waits for its next request: [`Deadlines::hasten_idle`] may bring it forward.
    pub fn set_idle(&self, at_ms: u64) {
        self.with(|slot| {
            slot.at_ms.set(at_ms);
            slot.idle.set(true);
            slot.receiving.set(false);
        });
    }

    /// No deadline for now.
    pub fn clear(&self) {
        self.with(|slot| slot.at_ms.set(NEVER));
    }

    /// True if a deadline has passed and the socket was shut down for it.
    pub fn expired(&self) -> bool {
        self.with(|slot| slot.expired.get())
    }

    fn with<T>(&self, act: impl FnOnce(&Slot) -> T) -> T {
        act(&self.home.0.slots.borrow()[self.index as usize])
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.with(|slot| {
            slot.at_ms.set(NEVER);
            slot.idle.set(false);
            slot.fd.set(-1);
        });
        self.home.0.free.borrow_mut().push(self.index);
    }
}

/// Ends both directions of a socket; what is in flight on it completes.
pub fn shutdown(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: a plain system call on a number; on a descriptor that is not a socket it fails and changes nothing.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
}

/// Ends the read direction of a socket: a read in flight completes, and what was sent is still delivered.
pub fn shutdown_read(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: as in `shutdown`.
        unsafe { libc::shutdown(fd, libc::SHUT_RD) };
    }
}

/// Whether a socket has bytes that nobody has read.
fn holds_bytes(fd: RawFd) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: there is room for the one byte that the kernel is told of; on anything but a socket the call fails.
    unsafe { libc::recv(fd, std::ptr::from_mut(&mut byte).cast(), 1, flags) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_deadline_that_passes_ends_the_read_in_flight_and_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let deadlines = Deadlines::default();
        let deadline = deadlines.register(client.as_raw_fd());
        deadline.set(100);
        assert_eq!(deadlines.sweep(99), 0);
        assert!(!deadline.expired());
        assert_eq!(deadlines.sweep(100), 1);
        assert!(deadline.expired());
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(deadlines.sweep(1000), 0, "a deadline passes once");
    }

    #[test]
    fn a_deadline_of_a_request_leaves_the_way_open_for_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let deadlines = Deadlines::default();
        let deadline = deadlines.register(server.as_raw_fd());
        deadline.set_receiving(100);
        assert_eq!(deadlines.sweep(100), 1);
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        server.write_all(b"late").unwrap();
        deadline.set(200);
        assert_eq!(deadlines.sweep(200), 1);
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "late");
    }

    #[test]
    fn a_connection_whose_request_has_come_is_not_idle() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let deadlines = Deadlines::default();
        let deadline = deadlines.register(server.as_raw_fd());
        client.write_all(b"GET").unwrap();
        server.peek(&mut [0]).unwrap();
        deadline.set_idle(100);
        assert_eq!(deadlines.sweep(100), 0);
        let mut request = [0; 3];
        server.read_exact(&mut request).unwrap();
        deadline.set_idle(200);
        assert_eq!(deadlines.sweep(200), 1);
        assert_eq!(server.read(&mut request).unwrap(), 0);
    }

    #[test]
    fn slots_are_used_again_without_the_past() {
        let deadlines = Deadlines::default();
        let first = deadlines.register(-1);
        first.set(1);
        deadlines.sweep(2);
        drop(first);
        let second = deadlines.register(-1);
        assert_eq!(second.index, 0);
        assert!(!second.expired());
        assert_eq!(deadlines.sweep(u64::MAX - 1), 0);
    }
}
