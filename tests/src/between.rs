//! Who stands between a gateway and the one that takes over from it: passes their exchange on message by message, and may stop after
//! any of them.
//!
//! Invariants: descriptors are passed on as they come and kept by nobody; nothing passes that a test has not asked for. Deliberately
//! absent: what the messages mean.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::wait::PATIENCE;

/// Descriptors of a message at most.
const MOST: usize = 64;

/// Both ends of an exchange.
pub struct Between {
    /// Towards the process that takes over.
    new: UnixStream,
    /// Towards the one that it takes over from.
    old: UnixStream,
    passed: usize,
}

/// What passes, in order: from whom, and whether it is descriptors instead of a line.
const MESSAGES: [(Side, bool); 7] = [
    (Side::New, false),
    (Side::Old, false),
    (Side::Old, true),
    (Side::New, false),
    (Side::Old, false),
    (Side::New, false),
    (Side::Old, false),
];

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The process that takes over.
    New,
    /// The one that it takes over from.
    Old,
}

impl Between {
    /// Messages of a whole exchange.
    pub const ALL: usize = MESSAGES.len();

    /// Waits on `here` for the new process, and goes on to the old one at `there`.
    ///
    /// # Panics
    /// When either cannot be reached.
    #[must_use]
    pub fn meet(here: &UnixListener, there: &Path) -> Self {
        let (new, _) = here.accept().expect("the new process comes");
        let old = UnixStream::connect(there).expect("the old process is there");
        for stream in [&new, &old] {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
        }
        Self { new, old, passed: 0 }
    }

    fn of(&self, side: Side) -> &UnixStream {
        match side {
            Side::New => &self.new,
            Side::Old => &self.old,
        }
    }

    /// Passes `count` messages on.
    ///
    /// # Panics
    /// When one does not come.
    pub fn pass(&mut self, count: usize) {
        for _ in 0..count {
            let (from, is_descriptors) = MESSAGES[self.passed];
            if is_descriptors {
                pass_descriptors(self.of(from), self.of(other(from))).expect("descriptors pass");
            } else {
                let line = self.held(from);
                self.say(other(from), &line);
            }
            self.passed += 1;
        }
    }

    /// The next line from that side, which the other one does not get.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn held(&self, from: Side) -> String {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while bytes.last() != Some(&b'\n') {
            // Byte by byte: what follows may carry descriptors.
            self.of(from).read_exact(&mut byte).expect("a line comes");
            bytes.push(byte[0]);
        }
        String::from_utf8(bytes).expect("a line is text")
    }

    /// Says a line to that side.
    ///
    /// # Panics
    /// When it is gone.
    pub fn say(&self, to: Side, line: &str) {
        self.of(to).write_all(line.as_bytes()).expect("it listens");
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::New => Side::Old,
        Side::Old => Side::New,
    }
}

#[repr(C, align(8))]
struct Room([u8; 64 + MOST * size_of::<RawFd>()]);

/// One message of one byte with its descriptors.
fn pass_descriptors(from: &UnixStream, to: &UnixStream) -> io::Result<()> {
    let (mut byte, mut room) = ([0u8], Room([0; _]));
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: a structure of integers and pointers, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut room).cast();
    message.msg_controllen = size_of::<Room>();
    // SAFETY: every part of the message lives through the call.
    if unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) } != 1 {
        return Err(io::Error::last_os_error());
    }
    let mut received = Vec::new();
    // SAFETY: the kernel has filled the room with one whole header; its descriptors belong to us, and are closed at the end.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null(), "a message without descriptors");
        let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
        let data = libc::CMSG_DATA(header).cast::<RawFd>();
        for index in 0..bytes / size_of::<RawFd>() {
            received.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
        }
    }
    // SAFETY: the message is as the kernel left it: the same byte, the same room, and descriptors that are open.
    let sent = unsafe { libc::sendmsg(to.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    drop(received);
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
