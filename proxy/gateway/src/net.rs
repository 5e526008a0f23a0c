//! The IO interface of the data plane: [`Listener`], [`Stream`] with `recv() -> Chunk` and `send(parts)`, [`connect`].
//!
//! Invariants: monoio is named here, in `net/ready.rs` and in `worker.rs` only, so that another runtime can take its place;
//! a read or write is tried at once and waited for only if the socket says so; a buffer is leased only for a read that has
//! something to read, so a waiting connection holds none; dropping a wait loses nothing; a stream that always has more gives
//! way to others after [`TURNS_MAX`] reads; all of it stays on one thread.
//! Deliberately absent: name resolution (the control thread's work) and any buffering of what is sent.

mod ready;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::io::{CancelHandle, Canceller};
use monoio::net::TcpListener;
use socket2::Socket;

use self::ready::Ready;
pub use self::ready::{Readiness, fetch_ahead};
use crate::buffer::{Buffers, Chunk, Size};
use crate::deadline::{Deadline, Deadlines};
use crate::parts::Parts;
use crate::tls::Tls;

/// Reads of one stream in a row before the core's other tasks get their turn.
const TURNS_MAX: u8 = 16;

/// Largest message that waits for those of other tasks, in bytes.
const TOGETHER_BYTES_MAX: usize = 8 * 1024;

/// Most pieces of a message that one system call sends.
const SEND_SLICES_MAX: usize = 32;

/// How much of a message was sent at once.
pub enum Sent {
    /// All of it.
    All,
    /// What comes before this byte.
    Until(usize),
}

/// What arrived: bytes, or `None` at the end of the stream.
pub type Received = io::Result<Option<Chunk>>;

/// What every stream of a core needs of it.
#[derive(Clone)]
pub struct Net {
    /// Receive buffers.
    pub buffers: Buffers,
    /// Time limits of all sockets.
    pub deadlines: Deadlines,
    /// Which sockets are ready.
    pub readiness: Readiness,
}

/// One TCP connection, plain or TLS, in either role.
pub struct Stream {
    // First, so that both are given back before the descriptor is closed.
    deadline: Deadline,
    ready: Ready,
    socket: Socket,
    tls: Option<Box<Tls>>,
    buffers: Buffers,
    put_back: Chunk,
    next_size: Size,
    turns: u8,
}

/// A listening socket of one core.
pub struct Listener {
    inner: TcpListener,
}

/// Ends accepting without touching the listening socket, which another process may share.
#[derive(Clone)]
pub struct Stop {
    /// What cancels the accept in flight; `None` once stopped.
    canceller: Rc<RefCell<Option<Canceller>>>,
    handle: CancelHandle,
}

impl Default for Stop {
    fn default() -> Self {
        let canceller = Canceller::new();
        Self {
            handle: canceller.handle(),
            canceller: Rc::new(RefCell::new(Some(canceller))),
        }
    }
}

impl Stop {
    /// Ends the accept in flight and all after it. A connection that it has already taken is still served.
    pub fn stop(&self) {
        if let Some(canceller) = self.canceller.borrow_mut().take() {
            canceller.cancel();
        }
    }

    /// Whether that has been asked for.
    pub fn is_stopped(&self) -> bool {
        self.canceller.borrow().is_none()
    }
}

/// True if this thread's runtime is the epoll fallback.
pub fn is_epoll() -> bool {
    monoio::utils::is_legacy()
}

impl Net {
    /// An empty set of everything, to be made on the core's own thread.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            buffers: Buffers::new(),
            deadlines: Deadlines::default(),
            readiness: Readiness::new()?,
        })
    }
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
    /// Those of accept(2); `InvalidInput` once the listener has been shut down, `ECANCELED` once it has been stopped.
    pub async fn accept(&self, stop: &Stop) -> io::Result<(Socket, SocketAddr)> {
        let (stream, peer) = self.inner.cancelable_accept(stop.handle.clone()).await?;
        // SAFETY: `into_raw_fd` gives the descriptor away, so this is its only owner.
        let owned = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
        Ok((owned.into(), peer))
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl Stream {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// When the kernel cannot watch it.
    pub fn new(socket: Socket, net: &Net) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let ready = net.readiness.register(socket.as_fd())?;
        Ok(Self::with(socket, ready, net))
    }

    fn with(socket: Socket, ready: Ready, net: &Net) -> Self {
        let _ = socket.set_tcp_nodelay(true);
        Self {
            deadline: net.deadlines.register(socket.as_raw_fd()),
            ready,
            socket,
            tls: None,
            buffers: net.buffers.clone(),
            put_back: Chunk::empty(),
            next_size: Size::Small,
            turns: 0,
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

    /// The next read gets a buffer of this size.
    pub fn expect(&mut self, size: Size) {
        self.next_size = size;
    }

    /// Puts bytes back that were received with what was wanted (plain streams before TLS starts only).
    pub fn put_back(&mut self, chunk: Chunk) {
        debug_assert!(self.put_back.is_empty());
        self.put_back = chunk;
    }

    /// The task that used the stream is no longer woken for it; for a connection that is set aside.
    pub fn forget_task(&self) {
        self.ready.forget();
    }

    /// Whoever waits for the stream will use this then: it is fetched from memory once the stream is ready.
    pub fn will_use<T>(&self, what: &T) {
        self.ready.will_use(what);
    }

    /// What has arrived already, without waiting: `None` if nothing has.
    pub fn arrived(&mut self) -> Option<Received> {
        if !self.ready.is_readable() && self.tls.is_none() {
            return None;
        }
        self.turns = 0;
        match self.poll_recv(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(received) => Some(received),
            Poll::Pending => None,
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// Those of recv(2) and of TLS. Dropping the future loses nothing.
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

    fn poll_raw(&mut self, context: &Context<'_>) -> Poll<Received> {
        if !self.put_back.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.put_back))));
        }
        loop {
            if self.ready.poll_read(context).is_pending() {
                self.turns = 0;
                return Poll::Pending;
            }
            if self.turns == TURNS_MAX {
                self.turns = 0;
                self.ready.wake_behind(context.waker());
                return Poll::Pending;
            }
            self.turns += 1;
            let mut block = self.buffers.lease(self.next_size);
            match block.fill(|free| receive(self.socket.as_fd(), free)) {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(_) if block.is_full() => {
                    // More is probably waiting: the next read takes a large buffer.
                    self.next_size = Size::Large;
                    return Poll::Ready(Ok(Some(block.into_chunk())));
                }
                Ok(_) => {
                    self.next_size = Size::Small;
                    self.ready.exhausted();
                    return Poll::Ready(Ok(Some(block.into_chunk())));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready.nothing(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends a whole message and clears it.
    ///
    /// # Errors
    /// Those of send(2); `WriteZero` if the peer takes nothing any more.
    pub async fn send(&mut self, parts: &mut Parts) -> io::Result<()> {
        self.turn(parts).await;
        match self.send_now(parts)? {
            Sent::All => Ok(()),
            Sent::Until(from) => self.send_from(parts, from).await,
        }
    }

    /// Waits, if the task runs in a group, until the others of it have come as far as sending too: what is sent then leaves
    /// together, which is cheaper. A large message does not wait: the caches would lose it.
    pub async fn turn(&self, message: &Parts) {
        if message.len() <= TOGETHER_BYTES_MAX {
            self.ready.turn().await;
        }
    }

    /// Sends what there is room for at once: mostly all of it, and then nothing has to be kept for a wait. A message that is
    /// sent whole is cleared. TLS streams send nothing yet.
    ///
    /// # Errors
    /// Those of send(2); `WriteZero` if the peer takes nothing any more.
    pub fn send_now(&mut self, parts: &mut Parts) -> io::Result<Sent> {
        parts.seal();
        if parts.is_empty() {
            parts.clear();
            return Ok(Sent::All);
        }
        if self.tls.is_some() {
            return Ok(Sent::Until(0));
        }
        let sent = match self.send_some(parts, 0) {
            Ok(sent) => more_than_nothing(sent)?,
            Err(error) => self.no_room(error).map(|()| 0)?,
        };
        if sent < parts.len() {
            return Ok(Sent::Until(sent));
        }
        parts.clear();
        Ok(Sent::All)
    }

    /// Sends the rest of a sealed message, from byte `from` on, and clears it.
    ///
    /// # Errors
    /// As [`Stream::send`].
    pub async fn send_from(&mut self, parts: &mut Parts, mut from: usize) -> io::Result<()> {
        if self.tls.is_some() {
            return self.send_encrypted(parts).await;
        }
        let total = parts.len();
        while from < total {
            match self.send_some(parts, from) {
                Ok(sent) => from += more_than_nothing(sent)?,
                Err(error) => self.wait_for_room(error).await?,
            }
        }
        parts.clear();
        Ok(())
    }

    /// Sends as much of a message as there is room for, from byte `from` on.
    fn send_some(&self, parts: &Parts, from: usize) -> io::Result<usize> {
        if let Some(whole) = parts.whole() {
            return send(self.socket.as_fd(), &whole[from..]);
        }
        let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
        let slices = parts.slices(from, &mut slices);
        self.socket.send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
    }

    async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            match send(self.socket.as_fd(), &bytes[from..]) {
                Ok(sent) => from += more_than_nothing(sent)?,
                Err(error) => self.wait_for_room(error).await?,
            }
        }
        Ok(())
    }

    /// After a send that failed with `error`: waits if that was for want of room, else gives the error back.
    async fn wait_for_room(&self, error: io::Error) -> io::Result<()> {
        self.no_room(error)?;
        poll_fn(|context| self.ready.poll_write(context)).await;
        Ok(())
    }

    /// After a send that failed with `error`: notes it if that was for want of room, else gives the error back.
    fn no_room(&self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.ready.full(),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
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
                let bytes = parts.piece(index).bytes(parts.text_ref());
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
        let result = self.send_bytes(&records).await;
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
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset when it is dropped: for a peer that does not read.
    pub fn reset_on_drop(&self) {
        let _ = self.socket.set_linger(Some(Duration::ZERO));
    }
}

/// No address, where a system call could take one.
const NOBODY: *mut libc::sockaddr = std::ptr::null_mut();

/// recv(2), without the two atomic operations by which the C library makes it a point where a thread may be cancelled: no thread
/// is, and it is done twice for each request.
fn receive(socket: BorrowedFd<'_>, free: &mut [u8]) -> io::Result<usize> {
    let (fd, at, bytes) = (socket.as_raw_fd(), free.as_mut_ptr(), free.len());
    // SAFETY: the kernel writes no more than `bytes` bytes from `at` on, which are borrowed for that; no address is asked for.
    let received = unsafe { libc::syscall(libc::SYS_recvfrom, fd, at, bytes, 0, NOBODY, NOBODY) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// send(2), likewise; without a signal if the peer has gone.
fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (fd, at, count) = (socket.as_raw_fd(), bytes.as_ptr(), bytes.len());
    // SAFETY: the kernel reads `count` bytes from `at` on; no address is given.
    let sent = unsafe { libc::syscall(libc::SYS_sendto, fd, at, count, libc::MSG_NOSIGNAL, NOBODY, 0_usize) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn more_than_nothing(sent: usize) -> io::Result<usize> {
    if sent == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(sent)
}

/// How long a provider may leave bytes unacknowledged before its connection counts as broken, in milliseconds.
const UNACKED_MS_MAX: u64 = 10_000;

/// Connects to an address; `made` sees the socket before it connects, and the deadline that `started` is given bounds it, if
/// the caller sets it there.
///
/// # Errors
/// Those of connect(2).
pub async fn connect(
    address: SocketAddr,
    net: &Net,
    made: impl FnOnce(BorrowedFd<'_>),
    started: impl FnOnce(&Deadline),
) -> io::Result<Stream> {
    let socket = Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    // A peer that acknowledges nothing is not slow but gone: what waits for it ends long before its answer is due.
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_millis(UNACKED_MS_MAX)));
    made(socket.as_fd());
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let ready = net.readiness.register(socket.as_fd())?;
    ready.full();
    let stream = Stream::with(socket, ready, net);
    started(&stream.deadline);
    poll_fn(|context| stream.ready.poll_write(context)).await;
    if stream.deadline.expired() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match stream.socket.take_error()? {
        None => {
            stream.deadline.clear();
            Ok(stream)
        }
        Some(error) => Err(error),
    }
}

/// Runs a task on this core that nobody waits for.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    monoio::spawn(task);
}

/// Waits; precise to about a millisecond. Not for time limits, which are deadlines.
pub async fn sleep_ms(milliseconds: u64) {
    monoio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// The same, for a wait that is rare: a timer is large, and so would be every task that may make one.
pub fn pause_ms(milliseconds: u64) -> Pin<Box<impl Future<Output = ()>>> {
    Box::pin(sleep_ms(milliseconds))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_stream_that_always_has_more_gives_way_to_others() {
        const BYTES: usize = 8 * 1024 * 1024;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut peer = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (own, _) = listener.accept().expect("accepted");
        let writer = std::thread::spawn(move || peer.write_all(&vec![0; BYTES]).expect("all of it is read"));
        let runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .enable_timer()
            .build();
        let before = runtime.expect("a runtime").block_on(async {
            let net = Net::new().expect("an epoll descriptor");
            spawn(net.readiness.clone().usher());
            spawn(net.readiness.clone().watch());
            let (reads, before) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
            let (count, seen) = (Rc::clone(&reads), Rc::clone(&before));
            let reader = monoio::spawn(async move {
                let mut stream = Stream::new(own.into(), &net).expect("watched");
                let mut left = BYTES;
                while left > 0 {
                    left -= stream.recv().await.expect("read").expect("no end yet").len();
                    count.set(count.get() + 1);
                    if count.get() == 1 {
                        // It is behind the reader from its first read on.
                        let (count, seen) = (Rc::clone(&count), Rc::clone(&seen));
                        spawn(async move { seen.set(Some(count.get())) });
                    }
                }
            });
            reader.await;
            assert!(reads.get() > usize::from(TURNS_MAX), "too few reads to tell");
            before.get()
        });
        writer.join().expect("the peer");
        let before = before.expect("the other task ran");
        assert!(before <= usize::from(TURNS_MAX), "it waited for {before} reads");
    }
}
