//! The raw ring of the closed loop: multishot accepts and receives into buffers that the kernel picks, plain sends.
//!
//! Invariants: a received chunk is read before its buffer goes back (the borrow checker sees to it); what is sent is
//! `'static`, so that no memory can go while the kernel still reads it; the ring is torn down before its buffers.
//! Absent: linked operations, fixed files, zero-copy sends (at these sizes they cost more than they save).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Submission-queue entries; a full queue is submitted early.
const ENTRIES: u32 = 4096;

/// Buffers that receives pick from: as many as completions come in one batch with a thousand connections.
const BUFFERS: u16 = 1024;

/// Bytes of one buffer: an answer in one piece, a 1 MB body in 64.
const BUFFER_BYTES: usize = 16 * 1024;

/// The one group of buffers.
const GROUP: u16 = 0;

/// Buffers are aligned to a page, as the kernel demands of the ring that lists them.
const PAGE: usize = 4096;

/// One completion.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// As given with the operation.
    pub token: u64,
    /// Bytes, a descriptor, or a negative error number.
    pub result: i32,
    /// A multishot operation goes on.
    pub more: bool,
    buffer: Option<u16>,
}

/// A ring with its receive buffers.
pub struct Ring {
    // Dropped by hand, before the buffers that it writes into.
    uring: ManuallyDrop<IoUring>,
    list: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: u16,
    tick: Box<Timespec>,
}

impl Ring {
    /// A ring for this thread alone.
    ///
    /// # Errors
    /// When the kernel is older than Linux 6.1 or refuses io_uring.
    pub fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
        let uring = builder.build(ENTRIES)?;
        let mut ring = Self {
            uring: ManuallyDrop::new(uring),
            list: allocate(list_layout()).cast(),
            memory: allocate(memory_layout()),
            tail: 0,
            tick: Box::new(Timespec::new()),
        };
        for buffer in 0..BUFFERS {
            ring.give_back(buffer);
        }
        // SAFETY: the list has room for BUFFERS entries, is page-aligned, and is freed only after the ring is dropped.
        unsafe {
            ring.uring
                .submitter()
                .register_buf_ring(ring.list.as_ptr() as u64, BUFFERS, GROUP)?;
        }
        Ok(ring)
    }

    /// Accepts connections of a listening socket until that fails.
    ///
    /// # Errors
    /// As `io_uring_enter(2)`, when a full queue has to be submitted.
    pub fn accept(&mut self, listener: RawFd, token: u64) -> io::Result<()> {
        self.push(&opcode::AcceptMulti::new(Fd(listener)).build(), token)
    }

    /// Receives from a socket until it ends, fails, or finds no buffer.
    ///
    /// # Errors
    /// As [`Ring::accept`].
    pub fn receive(&mut self, socket: RawFd, token: u64) -> io::Result<()> {
        self.push(&opcode::RecvMulti::new(Fd(socket), GROUP).build(), token)
    }

    /// Sends all of `bytes`; completes once, when they have been taken or an error ended it.
    ///
    /// # Errors
    /// As [`Ring::accept`].
    pub fn send(&mut self, socket: RawFd, bytes: &'static [u8], token: u64) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let send = opcode::Send::new(Fd(socket), bytes.as_ptr(), length).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.push(&send.build(), token)
    }

    /// Completes when a descriptor has something to read.
    ///
    /// # Errors
    /// As [`Ring::accept`].
    pub fn readable(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        self.push(&opcode::PollAdd::new(Fd(fd), events).build(), token)
    }

    /// Completes after `time`; one at a time.
    ///
    /// # Errors
    /// As [`Ring::accept`].
    pub fn tick(&mut self, time: Duration, token: u64) -> io::Result<()> {
        *self.tick = Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
        let timeout = opcode::Timeout::new(&raw const *self.tick).build();
        self.push(&timeout, token)
    }

    fn push(&mut self, operation: &squeue::Entry, token: u64) -> io::Result<()> {
        let operation = operation.clone().user_data(token);
        loop {
            // SAFETY: sent bytes are 'static, received ones land in buffers that outlive the ring, and the timespec is
            // boxed in this struct and read by the kernel at submission, before the next tick can change it.
            if unsafe { self.uring.submission().push(&operation) }.is_ok() {
                return Ok(());
            }
            self.uring.submit()?;
        }
    }

    /// Submits what was asked for and waits until at least one operation completes.
    ///
    /// # Errors
    /// As `io_uring_enter(2)`.
    pub fn wait(&mut self) -> io::Result<()> {
        match self.uring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            // Interrupted, or the completion queue has to be worked off first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next completion of this batch.
    pub fn completed(&mut self) -> Option<Done> {
        let entry = self.uring.completion().next()?;
        Some(Done {
            token: entry.user_data(),
            result: entry.result(),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        })
    }

    /// The bytes that a receive brought; empty for any other completion.
    #[must_use]
    pub fn chunk(&self, done: &Done) -> &[u8] {
        let (Some(buffer), Ok(length)) = (done.buffer, usize::try_from(done.result)) else {
            return &[];
        };
        let (start, length) = (usize::from(buffer % BUFFERS) * BUFFER_BYTES, length.min(BUFFER_BYTES));
        // SAFETY: the range lies inside the memory, which was zeroed when allocated; the kernel does not write to a buffer
        // that it has handed out until it is given back, which needs `&mut self` and thus the end of this borrow.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), length) }
    }

    /// Gives the buffer of a completion back to the kernel, if it has one.
    pub fn release(&mut self, done: &Done) {
        if let Some(buffer) = done.buffer {
            self.give_back(buffer);
        }
    }

    fn give_back(&mut self, buffer: u16) {
        let slot = usize::from(self.tail % BUFFERS);
        // SAFETY: `slot` is below BUFFERS, the length of the list; the kernel reads entries only up to the tail, so this one
        // is ours to write. The tail is an aligned u16 in the first entry that only this thread stores to.
        unsafe {
            let entry = &mut *self.list.as_ptr().add(slot);
            entry.set_addr(self.memory.as_ptr().add(usize::from(buffer % BUFFERS) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.list.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: neither the ring nor the memory is used after this; the ring goes first, and with it the kernel's
        // registration of the memory.
        unsafe {
            ManuallyDrop::drop(&mut self.uring);
            dealloc(self.list.cast().as_ptr(), list_layout());
            dealloc(self.memory.as_ptr(), memory_layout());
        }
    }
}

fn list_layout() -> Layout {
    let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes, PAGE).expect("constants below the largest layout")
}

fn memory_layout() -> Layout {
    Layout::from_size_align(usize::from(BUFFERS) * BUFFER_BYTES, PAGE).expect("constants below the largest layout")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: both layouts have a size above zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn more_chunks_than_buffers_arrive_in_order() {
        let (here, mut there) = UnixStream::pair().expect("a pair");
        let mut ring = Ring::new().expect("Linux 6.1 or later");
        ring.receive(here.as_raw_fd(), 7).expect("room in the queue");
        for round in 0..=u32::from(BUFFERS) * 2 {
            there.write_all(&round.to_le_bytes()).expect("room in the socket");
            ring.wait().expect("a completion");
            let done = ring.completed().expect("a completion");
            assert_eq!(
                (done.token, done.more, ring.chunk(&done)),
                (7, true, &round.to_le_bytes()[..])
            );
            ring.release(&done);
        }
        drop(there);
        ring.wait().expect("a completion");
        let done = ring.completed().expect("the end");
        assert_eq!((done.result, done.more), (0, false));
    }

    #[test]
    fn a_send_larger_than_the_socket_completes_once_and_whole() {
        let (here, mut there) = UnixStream::pair().expect("a pair");
        let mut ring = Ring::new().expect("Linux 6.1 or later");
        let bytes: &'static [u8] = vec![5_u8; 3 << 20].leak();
        ring.send(here.as_raw_fd(), bytes, 1).expect("room in the queue");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            there.read_to_end(&mut all).expect("readable");
            all
        });
        ring.wait().expect("a completion");
        assert_eq!(ring.completed().map(|done| done.result), Some(3 << 20));
        drop(here);
        assert_eq!(reader.join().expect("no panic"), bytes);
    }
}
