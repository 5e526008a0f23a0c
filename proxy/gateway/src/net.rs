//! The IO interface of the data plane: [`Listener`], [`Stream`] with `recv() -> Chunk` and `send(parts)`, [`connect`].
//!
//! Invariants: monoio is named here and in `worker.rs` only, so that another driver can take its place; every stream has
//! one long-lived read, which is never dropped while in flight (io_uring would lose the bytes that come later): time limits
//! shut the socket down instead (`deadline.rs`); all of it stays on one thread.
//! Deliberately absent: name resolution (the control thread's work) and any buffering of what is sent.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRent, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpListener, TcpStream};

/// A connected socket, before it is a [`Stream`].
pub use monoio::net::TcpStream as Socket;

use crate::buffer::{Buffers, Chunk, Size};
use crate::deadline::{self, Deadline, Deadlines};
use crate::parts::{Parts, Piece};
use crate::tls::Tls;

/// What arrived: bytes, or `None` at the end of the stream.
pub type Received = io::Result<Option<Chunk>>;

/// One TCP connection, plain or TLS, in either role.
pub struct Stream {
    // First, so that the slot is given back before the descriptor is closed.
    deadline: Deadline,
    reader: Pin<Box<dyn Future<Output = ()>>>,
    mailbox: Rc<Mailbox>,
    writer: OwnedWriteHalf<TcpStream>,
    fd: RawFd,
    tls: Option<Box<Tls>>,
    buffers: Buffers,
}

/// Where a stream and its read loop meet.
struct Mailbox {
    wanted: Cell<Option<Size>>,
    arrived: Cell<Option<Received>>,
    in_flight: Cell<bool>,
    next_size: Cell<Size>,
}

/// A listening socket of one core.
pub struct Listener {
    inner: TcpListener,
}

/// True if this thread's runtime is the epoll fallback.
pub fn is_epoll() -> bool {
    monoio::utils::is_legacy()
}

impl Listener {
    /// Takes over a bound, listening socket.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn new(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(is_epoll())?;
        Ok(Self {
            inner: TcpListener::from_std(socket)?,
        })
    }

    /// The next connection.
    ///
    /// # Errors
    /// Those of accept(2); `InvalidInput` once the listener has been shut down.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.inner.accept().await
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl Stream {
    /// Wraps a connected socket.
    pub fn new(socket: TcpStream, buffers: &Buffers, deadlines: &Deadlines) -> Self {
        let _ = socket.set_nodelay(true);
        let fd = socket.as_raw_fd();
        let mailbox = Rc::new(Mailbox {
            wanted: Cell::new(None),
            arrived: Cell::new(None),
            in_flight: Cell::new(false),
            next_size: Cell::new(Size::Small),
        });
        let (read, writer) = socket.into_split();
        let reader = Box::pin(read_loop(read, mailbox.clone(), buffers.clone()));
        Self {
            deadline: deadlines.register(fd),
            reader,
            mailbox,
            writer,
            fd,
            tls: None,
            buffers: buffers.clone(),
        }
    }

    /// From here on the stream speaks TLS; the handshake is [`Stream::handshake`].
    pub fn start_tls(&mut self, tls: Tls) {
        self.tls = Some(Box::new(tls));
    }

    /// The time limit of whatever the stream does next.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// The next read gets a buffer of this size, unless one is in flight already.
    pub fn expect(&self, size: Size) {
        self.mailbox.next_size.set(size);
    }

    /// Puts bytes back that were received with what was wanted (plain streams before TLS starts only).
    pub fn put_back(&self, chunk: Chunk) {
        debug_assert!(!self.mailbox.in_flight.get());
        if !chunk.is_empty() {
            self.mailbox.arrived.set(Some(Ok(Some(chunk))));
        }
    }

    /// Starts the next read without waiting for it.
    pub fn arm(&mut self) {
        if !self.mailbox.in_flight.get() {
            self.drive_reader(&mut Context::from_waker(std::task::Waker::noop()));
        }
    }

    /// What has arrived already, without waiting: `None` if nothing has.
    pub fn arrived(&mut self) -> Option<Received> {
        match self.poll_recv(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(received) => Some(received),
            Poll::Pending => None,
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// Those of recv(2) and of TLS. Dropping the future loses nothing: the read goes on.
    pub async fn recv(&mut self) -> Received {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The next bytes, as a poll.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Received> {
        if self.tls.is_none() {
            return self.poll_raw(context);
        }
        loop {
            let tls = self.tls.as_mut().expect("checked above");
            if let Some(received) = tls.plaintext(&self.buffers) {
                return Poll::Ready(received);
            }
            match self.poll_raw(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(chunk))) => self.tls.as_mut().expect("checked above").ciphertext(chunk),
                Poll::Ready(Ok(None)) => self.tls.as_mut().expect("checked above").end_of_stream(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_raw(&mut self, context: &mut Context<'_>) -> Poll<Received> {
        if let Some(received) = self.mailbox.arrived.take() {
            return Poll::Ready(received);
        }
        self.drive_reader(context);
        match self.mailbox.arrived.take() {
            Some(received) => Poll::Ready(received),
            None => Poll::Pending,
        }
    }

    fn drive_reader(&mut self, context: &mut Context<'_>) {
        if !self.mailbox.in_flight.get() {
            self.mailbox.in_flight.set(true);
            self.mailbox.wanted.set(Some(self.mailbox.next_size.get()));
        }
        let _ = self.reader.as_mut().poll(context);
    }

    /// Sends a whole message and clears it.
    ///
    /// # Errors
    /// Those of send(2); `WriteZero` if the peer takes nothing any more.
    pub async fn send(&mut self, parts: &mut Parts) -> io::Result<()> {
        if self.tls.is_some() {
            return self.send_encrypted(parts).await;
        }
        let pieces = parts.seal();
        for index in 0..pieces {
            match parts.piece(index) {
                Piece::Text(range) => {
                    let range = range.clone();
                    let text = parts.take_text();
                    let (result, text) = self.send_all(text, range.start, range.end).await;
                    parts.restore_text(text);
                    result?;
                }
                Piece::Chunk(chunk) => {
                    let chunk = chunk.clone();
                    let end = chunk.len();
                    self.send_all(chunk, 0, end).await.0?;
                }
            }
        }
        parts.clear();
        Ok(())
    }

    async fn send_encrypted(&mut self, parts: &mut Parts) -> io::Result<()> {
        /// Plaintext that is encrypted before it is sent, in bytes: bounds the second copy of a large body.
        const STEP_BYTES: usize = 64 * 1024;
        let pieces = parts.seal();
        for index in 0..pieces {
            let mut from = 0;
            loop {
                let tls = self.tls.as_mut().expect("the caller checked");
                let bytes: &[u8] = match parts.piece(index) {
                    Piece::Text(range) => &parts.text_ref()[range.clone()],
                    Piece::Chunk(chunk) => chunk,
                };
                let to = bytes.len().min(from + STEP_BYTES);
                tls.encrypt(&bytes[from..to])?;
                let end = to == bytes.len();
                from = to;
                // Pieces of one message share a record where they fit.
                if !end || index + 1 == pieces || self.tls.as_ref().is_some_and(|tls| tls.outgoing() >= STEP_BYTES) {
                    self.flush_tls().await?;
                }
                if end {
                    break;
                }
            }
        }
        parts.clear();
        Ok(())
    }

    async fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut() else { return Ok(()) };
        let records = tls.take_outgoing()?;
        let end = records.len();
        let (result, records) = self.send_all(records, 0, end).await;
        if let Some(tls) = self.tls.as_mut() {
            tls.restore_outgoing(records);
        }
        result
    }

    /// Completes the TLS handshake; does nothing on a plain stream.
    ///
    /// # Errors
    /// Those of the socket and of TLS, certificate verification included.
    pub async fn handshake(&mut self) -> io::Result<()> {
        loop {
            let Some(tls) = self.tls.as_mut() else { return Ok(()) };
            let progress = tls.process();
            if tls.outgoing() > 0 {
                // An alert that explains the failure goes out as well.
                let sent = self.flush_tls().await;
                progress?;
                sent?;
                continue;
            }
            progress?;
            if !tls.is_handshaking() {
                return Ok(());
            }
            match poll_fn(|context| self.poll_raw(context)).await? {
                Some(chunk) => self.tls.as_mut().expect("checked above").ciphertext(chunk),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Says goodbye in the write direction (TLS close_notify, FIN); what was sent is still delivered.
    pub async fn finish(&mut self) {
        if let Some(tls) = self.tls.as_mut() {
            tls.close_notify();
            let _ = self.flush_tls().await;
        }
        let _ = self.writer.shutdown().await;
    }

    /// Ends the connection with a reset when it is dropped: for a peer that does not read.
    pub fn reset_on_drop(&self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: a plain system call with a pointer to a local of the size given; the descriptor is ours.
        unsafe {
            libc::setsockopt(
                self.fd,
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                std::ptr::from_ref(&linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
    }

    async fn send_all<B: IoBuf>(&mut self, mut buffer: B, mut from: usize, end: usize) -> (io::Result<()>, B) {
        while from < end {
            let (result, slice) = self.writer.write(buffer.slice(from..end)).await;
            buffer = slice.into_inner();
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(sent) => from += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Completes a read in flight, so that the driver can let go of the descriptor. A reset (linger 0) must not be
        // turned into an orderly end by a FIN.
        deadline::shutdown_read(self.fd);
    }
}

/// Owns the read half for the whole life of a stream and reads once per request for bytes: the future that does it is made
/// once, so that a read costs no allocation and can be polled from anywhere in the connection's task.
async fn read_loop(mut half: OwnedReadHalf<TcpStream>, mailbox: Rc<Mailbox>, buffers: Buffers) {
    loop {
        let size = poll_fn(|_| match mailbox.wanted.take() {
            Some(size) => Poll::Ready(size),
            None => Poll::Pending,
        })
        .await;
        let (result, block) = half.read(buffers.lease(size)).await;
        // A full buffer means that more is waiting: the next read takes a large one.
        mailbox
            .next_size
            .set(if block.is_full() { Size::Large } else { Size::Small });
        mailbox.in_flight.set(false);
        mailbox.arrived.set(Some(match result {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(block.into_chunk())),
            Err(error) => Err(error),
        }));
    }
}

/// Connects to an address; the deadline of the returned stream bounds it if the caller sets one in `started`.
///
/// # Errors
/// Those of connect(2).
pub async fn connect(
    address: SocketAddr,
    buffers: &Buffers,
    deadlines: &Deadlines,
    started: impl FnOnce(&Deadline),
) -> io::Result<Stream> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    let deadline = deadlines.register(stream.as_raw_fd());
    started(&deadline);
    let ready = stream.writable(false).await;
    let expired = deadline.expired();
    drop(deadline);
    if expired {
        return Err(io::ErrorKind::TimedOut.into());
    }
    ready?;
    finish_connect(&stream)?;
    Ok(Stream::new(stream, buffers, deadlines))
}

/// Takes the result of a connect that has ended; under io_uring the socket then becomes a blocking one, because there an
/// operation on a non-blocking socket may fail with `EAGAIN` instead of waiting.
fn finish_connect(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `stream` is borrowed.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let socket = socket2::SockRef::from(&fd);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    if !is_epoll() {
        socket.set_nonblocking(false)?;
    }
    Ok(())
}

/// Waits; precise to about a millisecond. Not for the request path: time limits there are deadlines.
pub async fn sleep_ms(milliseconds: u64) {
    monoio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
}
