//! The simulator's threads: one runtime and one listener each, all on one address, and how they stop.
//!
//! Threads share a listening address by `SO_REUSEPORT`. io_uring is asked for with `SINGLE_ISSUER | DEFER_TASKRUN |
//! COOP_TASKRUN`, then plainly, and where it is refused altogether the runtime's epoll driver serves.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use monoio::io::AsyncReadRent;
use monoio::io::Canceller;
use monoio::net::TcpListener;
use monoio::{FusionDriver, RuntimeBuilder};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sim::bill::Bill;
use crate::sim::connection;
use crate::sim::files::Files;
use crate::sim::script::{Scripts, parking::Lock};
use crate::sim::{SimOptions, http};

/// What all threads share.
#[derive(Debug)]
pub struct Shared {
    /// Rules and counters.
    pub scripts: Scripts,
    /// The books.
    pub bill: Lock<Bill>,
    /// Uploaded files and batches.
    pub files: Lock<Files>,
    /// Access keys whose signatures are verified.
    pub aws_secrets: Vec<(String, String)>,
    /// Numbers requests.
    pub requests: AtomicU64,
    connections: AtomicU32,
    /// Wall clock minus monotonic clock at the start, in microseconds.
    pub epoch_us: u64,
}

/// What one thread owns.
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The TLS identity, if the simulator speaks TLS.
    pub tls: Option<Arc<ServerConfig>>,
    open: RefCell<HashMap<u32, RawFd>>,
    date: RefCell<(u64, Vec<u8>)>,
    stopping: Cell<bool>,
}

impl Shared {
    /// The shared state of a new simulator.
    #[must_use]
    pub fn new(options: &SimOptions) -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            scripts: Scripts::new(options.seed),
            bill: Lock::default(),
            files: Lock::default(),
            aws_secrets: options.aws_secrets.clone(),
            requests: AtomicU64::new(1),
            connections: AtomicU32::new(1),
            epoch_us: (wall.as_micros() as u64).saturating_sub(crate::sim::monotonic_us()),
        }
    }
}

impl Worker {
    fn new(shared: Arc<Shared>, tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            shared,
            tls,
            open: RefCell::default(),
            date: RefCell::default(),
            stopping: Cell::new(false),
        }
    }

    /// Appends the `Date` of `seconds`, formatted once a second.
    pub fn date(&self, seconds: u64, out: &mut Vec<u8>) {
        let mut date = self.date.borrow_mut();
        if date.0 != seconds {
            date.0 = seconds;
            date.1.clear();
            http::http_date(&mut date.1, seconds);
        }
        out.extend_from_slice(&date.1);
    }

    /// Enters a connection into the table of open ones.
    pub fn opened(&self, number: u32, fd: RawFd) {
        self.open.borrow_mut().insert(number, fd);
        let mut bill = self.shared.bill.lock();
        bill.connections += 1;
        bill.connections_open += 1;
    }

    /// Removes it again.
    pub fn closed(&self, number: u32) {
        if self.open.borrow_mut().remove(&number).is_some() {
            self.shared.bill.lock().connections_open -= 1;
        }
    }
}

/// Binds one listener per thread to `address`.
///
/// # Errors
/// What the kernel says.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(threads);
    for _ in 0..threads {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if threads > 1 {
            socket.set_reuse_port(true)?;
        }
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = std::net::TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Serves `listener` on the current runtime for as long as that lives: for a program that has one already.
///
/// # Errors
/// When the runtime does not take the listener.
pub fn attach(listener: std::net::TcpListener, shared: Arc<Shared>, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    listener.set_nonblocking(monoio::utils::is_legacy())?;
    let listener = TcpListener::from_std(listener)?;
    let worker = Rc::new(Worker::new(shared, tls));
    monoio::spawn(async move {
        let canceller = Canceller::new();
        accept(listener, canceller.handle(), worker).await;
    });
    Ok(())
}

/// Runs one thread until the other end of `stop` is closed.
///
/// # Errors
/// When no runtime can be built.
pub fn run(
    listener: std::net::TcpListener,
    stop: UnixStream,
    shared: Arc<Shared>,
    tls: Option<Arc<ServerConfig>>,
) -> io::Result<()> {
    let worker = Rc::new(Worker::new(shared, tls));
    let mut builder = io_uring::IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    let fast = RuntimeBuilder::<FusionDriver>::new()
        .uring_builder(builder)
        .with_entries(4096)
        .enable_timer()
        .build();
    let plain = || RuntimeBuilder::<FusionDriver>::new().enable_timer().build();
    let epoll = || RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build();
    match fast.or_else(|_| plain()) {
        Ok(mut runtime) => runtime.block_on(main(listener, stop, worker)),
        Err(_) => epoll()?.block_on(main(listener, stop, worker)),
    }
}

async fn main(listener: std::net::TcpListener, stop: UnixStream, worker: Rc<Worker>) -> io::Result<()> {
    listener.set_nonblocking(monoio::utils::is_legacy())?;
    stop.set_nonblocking(monoio::utils::is_legacy())?;
    let listener = TcpListener::from_std(listener)?;
    let mut stop = monoio::net::UnixStream::from_std(stop)?;
    let canceller = Canceller::new();
    let accepting = monoio::spawn(accept(listener, canceller.handle(), Rc::clone(&worker)));
    let (_, _) = stop.read(vec![0u8; 1]).await;
    worker.stopping.set(true);
    canceller.cancel();
    accepting.await;
    // Connections end as if the machine had lost its network; each takes itself off the table.
    for _ in 0..100 {
        worker
            .open
            .borrow()
            .values()
            .for_each(|fd| connection::shutdown(*fd, Shutdown::Both));
        monoio::time::sleep(Duration::from_millis(5)).await;
        if worker.open.borrow().is_empty() {
            break;
        }
    }
    Ok(())
}

async fn accept(listener: TcpListener, cancel: monoio::io::CancelHandle, worker: Rc<Worker>) {
    while !worker.stopping.get() {
        match listener.cancelable_accept(cancel.clone()).await {
            Ok((stream, _)) => {
                let number = worker
                    .shared
                    .connections
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                monoio::spawn(connection::serve(stream, Rc::clone(&worker), number));
            }
            Err(_) if worker.stopping.get() => return,
            // Out of descriptors, or the peer gave up in the queue.
            Err(_) => monoio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
