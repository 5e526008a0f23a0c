//! One request and its answer on one connection, timed and checked.
//!
//! Invariant: an exchange either counts as one right answer or as one failure of one kind, and after a failure the
//! connection is not used again. A request that exceeds its time is ended by shutting its socket down, because a read
//! in flight on io_uring must not be dropped.

use std::cell::{Cell, RefCell};
use std::net::{Shutdown, SocketAddr, TcpStream as StdTcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use socket2::SockRef;

use super::run::Shared;
use super::scan::BodyScan;
use super::stage::cheap_congestion_control;
use crate::h1;

/// Read buffer of a connection in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The request could not be written.
    Write,
    /// The connection broke while reading.
    Read,
    /// The connection ended before the answer began.
    Closed,
    /// The connection ended inside the answer.
    Truncated,
    /// The answer has no HTTP head.
    Head,
    /// Broken chunks, or bytes behind the answer.
    Framing,
    /// A status other than 200.
    Status(u16),
    /// The answer is not as long as it must be.
    Length,
    /// The answer is not a JSON object.
    Body,
    /// The stream ended without `[DONE]`.
    NoDone,
    /// The stream has not as many chunks as it must have.
    Chunks,
    /// It took longer than the timeout.
    Timeout,
}

impl Failure {
    /// The name it is counted under.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Status(code) => format!("status_{code}"),
            other => format!("{other:?}").to_ascii_lowercase(),
        }
    }
}

/// What the watchdog sees of a connection.
#[derive(Debug, Default)]
pub struct Slot {
    since: Cell<Option<Instant>>,
    expired: Cell<bool>,
    socket: RefCell<Option<StdTcpStream>>,
}

impl Slot {
    /// Ends an exchange that has been running for longer than `limit`.
    pub fn expire(&self, now: Instant, limit: Duration) {
        if self
            .since
            .get()
            .is_some_and(|since| now.saturating_duration_since(since) > limit)
            && !self.expired.get()
        {
            self.expired.set(true);
            if let Some(socket) = &*self.socket.borrow() {
                // Already disconnected is as good.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

/// A keep-alive connection to the target.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    slot: Rc<Slot>,
}

impl Connection {
    /// Connects; blocking, which on loopback is a matter of microseconds.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub fn open(target: SocketAddr, slot: Rc<Slot>) -> Result<Self, Failure> {
        let connect = || {
            let socket = StdTcpStream::connect(target)?;
            socket.set_nodelay(true)?;
            cheap_congestion_control(SockRef::from(&socket));
            let twin = socket.try_clone()?;
            TcpStream::from_std(socket).map(|stream| (stream, twin))
        };
        let (stream, twin) = connect().map_err(|_| Failure::Connect)?;
        slot.expired.set(false);
        slot.socket.replace(Some(twin));
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            slot,
        })
    }

    /// Sends the run's request, due since `due`, and checks the answer; true when the connection can be used again.
    ///
    /// # Errors
    /// The kind of failure; the connection must then be dropped.
    pub async fn exchange(&mut self, shared: &Shared, due: Instant) -> Result<bool, Failure> {
        self.slot.since.set(Some(shared.began(due)));
        let result = self.request_and_answer(shared, due).await;
        self.slot.since.set(None);
        if self.slot.expired.get() {
            Err(Failure::Timeout)
        } else {
            result
        }
    }

    async fn request_and_answer(&mut self, shared: &Shared, due: Instant) -> Result<bool, Failure> {
        self.stream
            .write_all(shared.request())
            .await
            .0
            .map_err(|_| Failure::Write)?;
        let mut chunks = Chunks {
            due,
            interval: shared.chunk_interval_ns,
            ..Chunks::new(due)
        };
        let mut answer: Option<(h1::Head, BodyScan)> = None;
        let mut received = 0_u64;
        self.buffer.clear();
        loop {
            let filled = self.buffer.len();
            let buffer = std::mem::take(&mut self.buffer);
            let (read, slice) = self.stream.read(buffer.slice_mut(filled..)).await;
            self.buffer = slice.into_inner();
            let count = read.map_err(|_| Failure::Read)?;
            received += count as u64;
            if count == 0 {
                return match answer {
                    Some((head, body)) if body.ends_with_connection() => finish(shared, due, received, &head, &body),
                    Some(_) => Err(Failure::Truncated),
                    None => Err(Failure::Closed),
                };
            }
            let skip = match &answer {
                Some(_) => 0,
                None => match h1::response_head(&self.buffer).map_err(|_| Failure::Head)? {
                    None => continue,
                    Some(head) if head.status != 200 => return Err(Failure::Status(head.status)),
                    Some(head) => {
                        answer = Some((head, BodyScan::new(&head, shared.stream)));
                        head.len
                    }
                },
            };
            let Some((head, body)) = &mut answer else { continue };
            let events_before = body.events();
            let complete = body.push(&self.buffer[skip..])?;
            self.buffer.clear();
            if shared.stream && body.events() > events_before {
                chunks.arrived(shared, body.events() - events_before);
            }
            if complete {
                return finish(shared, due, received, head, body);
            }
        }
    }
}

fn finish(shared: &Shared, due: Instant, bytes: u64, head: &h1::Head, body: &BodyScan) -> Result<bool, Failure> {
    body.verdict()?;
    let (seen, wanted, failure) = if shared.stream {
        (body.events(), &shared.expect_chunks, Failure::Chunks)
    } else {
        (body.bytes(), &shared.expect_bytes, Failure::Length)
    };
    if wanted.get().is_some_and(|wanted| wanted != seen) {
        return Err(failure);
    }
    wanted.set(Some(seen));
    shared.answered(due, Instant::now(), bytes);
    Ok(!head.close && !body.ends_with_connection())
}

/// The chunks of one stream against the clock.
struct Chunks {
    due: Instant,
    interval: u64,
    count: u64,
    last: Instant,
    /// Nanoseconds after `due` at which chunk 0 would have come if every chunk were as punctual as the best so far.
    origin: i64,
}

impl Chunks {
    fn new(due: Instant) -> Self {
        Self {
            due,
            interval: 0,
            count: 0,
            last: due,
            origin: i64::MAX,
        }
    }

    /// `new` more events came in one read.
    fn arrived(&mut self, shared: &Shared, new: u64) {
        let now = Instant::now();
        let mut stats = shared.stats.borrow_mut();
        let counted = shared.in_window(self.due, now);
        if self.count == 0 && counted {
            stats.first_token.record(nanos(now - self.due));
        } else if counted {
            stats.chunk_gap.record(nanos(now - self.last));
        }
        if counted {
            stats.chunks += new;
            stats.chunks_coalesced += new - 1;
        }
        self.last = now;
        if self.interval > 0 {
            // The first of the events that came together is the one that waited longest.
            let at = i64::try_from(nanos(now - self.due)).unwrap_or(i64::MAX);
            let steps = |index: u64| i64::try_from(index * self.interval).unwrap_or(i64::MAX);
            let late = at.saturating_sub(steps(self.count)).saturating_sub(self.origin).max(0);
            self.origin = self.origin.min(at.saturating_sub(steps(self.count + new - 1)));
            if counted && self.count > 0 {
                stats.chunk_late.record(u64::try_from(late).unwrap_or(0));
            }
        }
        self.count += new;
    }
}

/// A duration in nanoseconds; 584 years at most.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
