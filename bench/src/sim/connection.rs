//! One client connection: receive, answer, keep alive; and knowing at once when the client has left.
//!
//! A read is never dropped while it is in flight: while an answer is delayed, streamed or stalled, one boxed read stays armed
//! beside it and is finished by whoever needs bytes next. It ends early only by shutting the socket down. On the fast path (a
//! healthy unary answer) there is no second operation and no allocation: read into the buffer's free end, append the answer to a
//! buffer that is reused, write.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use crate::sim::bill::Memo;
use crate::sim::deliver::{self, After};
use crate::sim::http::{self, Body, Chunked, Framing, Request};
use crate::sim::route::{self, Exchange};
use crate::sim::server::Worker;
use crate::sim::tls::Tls;

/// Room made for each read when nothing says how much will come.
const READ_BYTES: usize = 16 << 10;
/// Pipelined bytes taken in while an answer is under way; beyond it TCP pushes back.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// A receive buffer larger than this is freed after the request that needed it.
const BUFFER_KEPT_BYTES: usize = 4 << 20;
/// Room made for a read that is armed only to see the client leave.
const AHEAD_BYTES: usize = 2 << 10;
/// Answers are collected up to this size while further pipelined requests are complete in the buffer.
const FLUSH_BYTES: usize = 64 << 10;
/// Wait for the client's FIN after ours.
const LINGER: Duration = Duration::from_secs(1);

type ReadHalf = OwnedReadHalf<TcpStream>;
type PendingRead = Pin<Box<dyn Future<Output = (ReadHalf, io::Result<usize>, Vec<u8>)>>>;

/// The receiving side.
pub struct Receiver {
    half: Option<ReadHalf>,
    pending: Option<PendingRead>,
    /// Plain bytes received and not consumed.
    pub buffer: Vec<u8>,
    /// What a pending read fills on a plain connection, so that `buffer` stays here.
    ahead: Vec<u8>,
    /// The client's FIN or an error has been seen.
    pub gone: bool,
    tls: Option<Rc<RefCell<Tls>>>,
}

/// The sending side.
pub struct Sender {
    half: OwnedWriteHalf<TcpStream>,
    tls: Option<Rc<RefCell<Tls>>>,
    /// When the last write ended, in monotonic microseconds.
    pub last_write_us: u64,
}

/// A connection and everything that is reused from one request to the next.
pub struct Connection {
    /// The receiving side.
    pub receiver: Receiver,
    /// The sending side.
    pub sender: Sender,
    /// Bytes to send.
    pub out: Vec<u8>,
    /// The body being rendered.
    pub body: Vec<u8>,
    /// The thread's state.
    pub worker: Rc<Worker>,
    start: usize,
    framing: Option<Framing>,
    chunked: Option<Chunked>,
    continued: bool,
    memo: Memo,
    number: u32,
    fd: RawFd,
}

/// What the bytes in the buffer allow to do next.
enum Next {
    /// Receive more.
    Receive,
    /// One answer was appended to `out`.
    Answered,
    /// An answer needs time, or faults.
    Deliver(Box<Exchange>),
    /// `out` holds the last words.
    Close,
}

/// Serves one accepted connection to its end.
pub async fn serve(stream: TcpStream, worker: Rc<Worker>, number: u32) {
    let fd = stream.as_raw_fd();
    worker.opened(number, fd);
    let tls = worker
        .tls
        .as_ref()
        .and_then(|config| Tls::new(config).ok())
        .map(|tls| Rc::new(RefCell::new(tls)));
    let (read, write) = stream.into_split();
    let mut connection = Connection {
        receiver: Receiver {
            half: Some(read),
            pending: None,
            buffer: Vec::new(),
            ahead: Vec::new(),
            gone: false,
            tls: tls.clone(),
        },
        sender: Sender {
            half: write,
            tls,
            last_write_us: 0,
        },
        out: Vec::with_capacity(2048),
        body: Vec::with_capacity(2048),
        worker,
        start: 0,
        framing: None,
        chunked: None,
        continued: false,
        memo: Memo::default(),
        number,
        fd,
    };
    let after = connection.run().await;
    connection.worker.closed(number);
    connection.end(after).await;
}

impl Connection {
    async fn run(&mut self) -> After {
        loop {
            match self.advance() {
                Next::Answered if self.out.len() < FLUSH_BYTES => {}
                Next::Answered => {
                    if !self.flush().await {
                        return After::Gone;
                    }
                }
                Next::Receive => {
                    if !self.out.is_empty() && !self.flush().await || !self.receive().await {
                        return After::Gone;
                    }
                }
                Next::Deliver(exchange) => {
                    if !self.out.is_empty() && !self.flush().await {
                        deliver::abandon(self, &exchange);
                        return After::Gone;
                    }
                    match deliver::deliver(self, *exchange).await {
                        After::Next => {}
                        after => return after,
                    }
                }
                Next::Close => {
                    return if self.flush().await { After::Close } else { After::Gone };
                }
            }
        }
    }

    /// Consumes at most one request from the buffer.
    fn advance(&mut self) -> Next {
        let Self {
            receiver,
            out,
            body,
            worker,
            start,
            framing,
            chunked,
            continued,
            memo,
            number,
            ..
        } = self;
        let input = &receiver.buffer[*start..];
        if input.is_empty() {
            receiver.buffer.clear();
            *start = 0;
            return Next::Receive;
        }
        // The head is not parsed again while a long body arrives.
        let known = *framing;
        if let Some(known) = known
            && !complete(&known, input, chunked)
        {
            return more(receiver, start, known.bytes());
        }
        let mut slots: http::HeaderSlots<'_> = [const { std::mem::MaybeUninit::uninit() }; http::HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let head_bytes = match parsed.parse_with_uninit_headers(input, &mut slots) {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) if input.len() <= http::HEAD_BYTES_MAX => {
                return more(receiver, start, 0);
            }
            _ => return refuse(out, worker, "bad_head"),
        };
        let framed = match known.map_or_else(|| http::framing(&parsed, head_bytes), Ok) {
            Ok(framed) => framed,
            Err(name) => return refuse(out, worker, name),
        };
        let end = match frame(&framed, input, chunked) {
            Ok(Some(end)) => end,
            Ok(None) => {
                *framing = Some(framed);
                if framed.expects_continue && input.len() == head_bytes && !std::mem::replace(continued, true) {
                    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                return more(receiver, start, framed.bytes());
            }
            Err(name) => return refuse(out, worker, name),
        };
        let request = Request {
            method: parsed.method.unwrap_or(""),
            target: parsed.path.unwrap_or(""),
            headers: &*parsed.headers,
            body: chunked
                .as_ref()
                .map_or_else(|| &input[head_bytes..end], |chunked| &chunked.body),
            head_bytes,
            chunked: chunked.is_some(),
        };
        body.clear();
        let exchange = route::answer(&request, framed.keep_alive, worker, memo, *number, body);
        consume(receiver, start, end);
        (*framing, *chunked, *continued) = (None, None, false);
        if exchange.is_plain() {
            deliver::plain(&exchange, worker, out, body);
            if !exchange.keep_alive {
                return Next::Close;
            }
            return Next::Answered;
        }
        Next::Deliver(Box::new(exchange))
    }

    async fn receive(&mut self) -> bool {
        while !self.receiver.gone {
            let before = self.receiver.buffer.len();
            self.receiver.receive().await;
            if let Some(resumed) = self.receiver.tls.as_ref().and_then(|tls| tls.borrow_mut().finished()) {
                let mut bill = self.worker.shared.bill.lock();
                bill.tls_resumed += u64::from(resumed);
                bill.tls_full += u64::from(!resumed);
            }
            if self.sender.owes() && !self.sender.send_owed().await {
                return false;
            }
            if self.receiver.buffer.len() > before {
                return true;
            }
        }
        false
    }

    /// Sends `out` and empties it; false when the client is gone.
    pub async fn flush(&mut self) -> bool {
        let out = std::mem::take(&mut self.out);
        let (sent, out) = self.sender.send(out).await;
        self.out = out;
        self.out.clear();
        if self.out.capacity() > 1 << 20 {
            self.out = Vec::with_capacity(2048);
        }
        sent
    }

    /// Sends `out` as `flush` does, but gives up as soon as the client is seen to leave.
    pub async fn flush_watching(&mut self) -> bool {
        let out = std::mem::take(&mut self.out);
        let (receiver, sender) = (&mut self.receiver, &mut self.sender);
        match receiver.race(sender.send(out)).await {
            Some((sent, out)) => {
                self.out = out;
                self.out.clear();
                sent
            }
            None => false,
        }
    }

    /// Waits, unless the client leaves first; then false. Granularity is a millisecond.
    pub async fn pause(&mut self, wait: Duration) -> bool {
        if wait.is_zero() {
            return !self.receiver.gone;
        }
        self.receiver.race(monoio::time::sleep(wait)).await.is_some()
    }

    /// Waits until the client leaves.
    pub async fn until_gone(&mut self) {
        self.receiver.race(std::future::pending::<()>()).await;
    }

    async fn end(mut self, after: After) {
        // A clean close says so; a cut one must not look like an end (RFC 8446, section 6.1).
        if after == After::Close && self.sender.tls.is_some() {
            self.sender.close_notify().await;
        }
        match after {
            After::Close => {
                self.shutdown(Shutdown::Write);
                self.receiver.buffer.clear();
                let (receiver, linger) = (&mut self.receiver, monoio::time::sleep(LINGER));
                receiver.race(linger).await;
                self.shutdown(Shutdown::Both);
            }
            After::Reset => self.shutdown(Shutdown::Read),
            After::Gone | After::Next => self.shutdown(Shutdown::Both),
        }
        // The shutdown has completed the read, if one is in flight, so this does not wait for the client.
        self.receiver.settle().await;
        let Some(read) = self.receiver.half.take() else { return };
        let Ok(stream) = read.reunite(self.sender.half) else {
            return;
        };
        if after == After::Reset {
            // SAFETY: `into_raw_fd` gives up the only owner of the descriptor, and this takes it over.
            let socket = socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) });
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    fn shutdown(&self, how: Shutdown) {
        shutdown(self.fd, how);
    }
}

/// Drops `end` bytes from the front of what is held.
fn consume(receiver: &mut Receiver, start: &mut usize, end: usize) {
    *start += end;
    if *start == receiver.buffer.len() {
        receiver.buffer.clear();
        *start = 0;
        // A buffer that held a long body is not kept.
        if receiver.buffer.capacity() > BUFFER_KEPT_BYTES {
            receiver.buffer = Vec::new();
        }
    }
}

/// Moves what is left to the front of the buffer and makes room for a request of `bytes` bytes.
fn more(receiver: &mut Receiver, start: &mut usize, bytes: usize) -> Next {
    if *start > 0 {
        receiver.buffer.drain(..*start);
        *start = 0;
    }
    let missing = bytes.saturating_sub(receiver.buffer.len());
    receiver.buffer.reserve_exact(missing.min(1 << 20));
    Next::Receive
}

/// Shuts down a socket by its descriptor.
pub fn shutdown(fd: RawFd, how: Shutdown) {
    // SAFETY: callers hold the connection's halves, or its entry in the table of open connections, which is removed before the
    // descriptor is closed; so `fd` is open here.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let _ = socket2::SockRef::from(&fd).shutdown(how);
}

fn complete(framing: &Framing, input: &[u8], chunked: &mut Option<Chunked>) -> bool {
    !matches!(frame(framing, input, chunked), Ok(None))
}

/// The end of the request that starts `input`, once it is all there.
fn frame(framing: &Framing, input: &[u8], chunked: &mut Option<Chunked>) -> Result<Option<usize>, &'static str> {
    match framing.body {
        Body::Length(length) => Ok((input.len() >= framing.head_bytes + length).then_some(framing.head_bytes + length)),
        Body::Chunked => chunked
            .get_or_insert_with(|| Chunked {
                at: framing.head_bytes,
                body: Vec::new(),
            })
            .push(input),
    }
}

fn refuse(out: &mut Vec<u8>, worker: &Worker, name: &'static str) -> Next {
    worker.shared.bill.lock().violation(name);
    let body = format!(
        "{{\"error\":{{\"message\":\"malformed request: {name}\",\"type\":\"invalid_request_error\",\"code\":\"{name}\"}}}}"
    );
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
    out.extend_from_slice(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes());
    Next::Close
}

impl Receiver {
    /// Finishes the pending read, or makes one.
    async fn receive(&mut self) {
        if self.pending.is_some() {
            self.settle().await;
        } else if let Some(mut half) = self.half.take() {
            // Straight into the free end of the buffer, unless there is ciphertext to come.
            let mut buffer = match &self.tls {
                Some(tls) => std::mem::take(&mut tls.borrow_mut().raw),
                None => std::mem::take(&mut self.buffer),
            };
            if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
                buffer.reserve(READ_BYTES);
            }
            let from = buffer.len();
            let (result, slice) = half.read(buffer.slice_mut(from..)).await;
            self.half = Some(half);
            match self.tls {
                Some(_) => self.absorb(result, slice.into_inner()),
                None => {
                    self.buffer = slice.into_inner();
                    self.gone |= result.unwrap_or(0) == 0;
                }
            }
        }
    }

    /// Awaits the pending read, if there is one.
    async fn settle(&mut self) {
        if let Some(pending) = self.pending.take() {
            let (half, result, buffer) = pending.await;
            self.half = Some(half);
            self.absorb(result, buffer);
        }
    }

    /// Runs `work` with a read armed beside it: `None` when the client leaves first.
    pub async fn race<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = std::pin::pin!(work);
        loop {
            if self.gone {
                return None;
            }
            self.arm();
            let pending = &mut self.pending;
            let step = std::future::poll_fn(|context| {
                if let Poll::Ready(output) = work.as_mut().poll(context) {
                    return Poll::Ready(Ok(output));
                }
                match pending {
                    Some(read) => read.as_mut().poll(context).map(Err),
                    None => Poll::Pending,
                }
            });
            match step.await {
                Ok(output) => return Some(output),
                Err((half, result, buffer)) => {
                    self.pending = None;
                    self.half = Some(half);
                    self.absorb(result, buffer);
                }
            }
        }
    }

    fn arm(&mut self) {
        if self.pending.is_some() || self.buffer.len() > AHEAD_BYTES_MAX {
            return;
        }
        if let Some(mut half) = self.half.take() {
            let mut buffer = match &self.tls {
                Some(tls) => std::mem::take(&mut tls.borrow_mut().raw),
                None => std::mem::take(&mut self.ahead),
            };
            buffer.reserve(AHEAD_BYTES);
            self.pending = Some(Box::pin(async move {
                let (result, buffer) = half.read(buffer).await;
                (half, result, buffer)
            }));
        }
    }

    fn absorb(&mut self, result: io::Result<usize>, buffer: Vec<u8>) {
        let count = result.unwrap_or(0);
        self.gone |= count == 0;
        match &self.tls {
            Some(tls) => self.gone |= !tls.borrow_mut().decrypt(buffer, count, &mut self.buffer),
            None => {
                self.buffer.extend_from_slice(&buffer[..count]);
                self.ahead = buffer;
                self.ahead.clear();
            }
        }
    }
}

impl Sender {
    /// Sends all of `bytes`; gives the buffer back.
    pub async fn send(&mut self, bytes: Vec<u8>) -> (bool, Vec<u8>) {
        if let Some(tls) = self.tls.clone() {
            if tls.borrow_mut().encrypt(&bytes).is_err() {
                return (false, bytes);
            }
            return (self.send_owed().await, bytes);
        }
        let (result, bytes) = self.half.write_all(bytes).await;
        self.last_write_us = crate::sim::monotonic_us();
        (result.is_ok(), bytes)
    }

    /// TLS records wait to be sent.
    fn owes(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().owes())
    }

    async fn send_owed(&mut self) -> bool {
        let Some(tls) = self.tls.clone() else { return true };
        let records = tls.borrow_mut().take_records();
        if records.is_empty() {
            return true;
        }
        let (result, records) = self.half.write_all(records).await;
        self.last_write_us = crate::sim::monotonic_us();
        tls.borrow_mut().give_back(records);
        result.is_ok()
    }

    async fn close_notify(&mut self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().close();
        }
        self.send_owed().await;
    }
}
