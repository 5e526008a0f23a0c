//! The provider simulator: speaks the providers' wire formats, follows scripts, keeps its own bill.
//!
//! It shares no code with the proxy on purpose: it is the auditor of what the proxy sends and charges, and a shared bug would be
//! invisible. SIM.md documents every control. In process: [`spawn`] starts one on its own threads and [`SimHandle`] stops it.
//!
//! Absent on purpose: meaning (answers are fixed words), HTTP/2, content codings.

pub mod admin;
pub mod answer;
pub mod behaviour;
pub mod bill;
pub mod connection;
pub mod deliver;
pub mod dialect;
pub mod digest;
pub mod echo;
pub mod endpoints;
pub mod files;
pub mod http;
pub mod route;
pub mod scan;
pub mod script;
pub mod server;
pub mod sigv4;
pub mod text;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::sim::server::Shared;
use crate::sim::tls::TlsFiles;

/// How to run a simulator.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Address to listen on; port 0 lets the kernel pick.
    pub listen: SocketAddr,
    /// Threads, at least 1.
    pub threads: usize,
    /// Core of the first thread; the next ones follow.
    pub cpu: Option<usize>,
    /// Serve TLS with this identity.
    pub tls: Option<TlsFiles>,
    /// Access keys and secrets whose signatures are verified; with none, signatures are only checked for their form.
    pub aws_secrets: Vec<(String, String)>,
    /// Seed of scripted probabilities.
    pub seed: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen,
            threads: 1,
            cpu: None,
            tls: None,
            aws_secrets: Vec::new(),
            seed: 1,
        }
    }
}

/// A running simulator; dropping it stops it.
#[derive(Debug)]
pub struct SimHandle {
    /// The address it listens on.
    pub addr: SocketAddr,
    /// Its state: scripts and books, without a request over HTTP.
    pub shared: Arc<Shared>,
    stops: Vec<UnixStream>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// Starts a simulator on its own threads; it listens when this returns.
///
/// # Errors
/// When the address cannot be bound or the TLS identity not read.
pub fn spawn(options: &SimOptions) -> io::Result<SimHandle> {
    let tls = options
        .tls
        .as_ref()
        .map(tls::config)
        .transpose()
        .map_err(io::Error::other)?;
    let listeners = server::bind(options.listen, options.threads.max(1))?;
    let addr = listeners[0].local_addr()?;
    let shared = Arc::new(Shared::new(options));
    let mut handle = SimHandle {
        addr,
        shared,
        stops: Vec::new(),
        threads: Vec::new(),
    };
    for (index, listener) in listeners.into_iter().enumerate() {
        let (stop, stopped) = UnixStream::pair()?;
        let (shared, tls, cpu) = (
            Arc::clone(&handle.shared),
            tls.clone(),
            options.cpu.map(|cpu| cpu + index),
        );
        let thread = std::thread::Builder::new()
            .name(format!("sim-{index}"))
            .spawn(move || {
                if let Some(id) = cpu {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                server::run(listener, stopped, shared, tls)
            })?;
        handle.stops.push(stop);
        handle.threads.push(thread);
    }
    Ok(handle)
}

impl SimHandle {
    /// `http://` or `https://` is the caller's business: this is the bare `host:port`.
    #[must_use]
    pub fn authority(&self) -> String {
        self.addr.to_string()
    }

    /// Stops listening, cuts all connections, waits for the threads.
    pub fn stop(mut self) {
        self.halt();
    }

    /// Waits until the threads end by themselves, which they do only when they fail.
    ///
    /// # Errors
    /// The first thread's failure.
    pub fn join(mut self) -> io::Result<()> {
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| io::Error::other("a simulator thread panicked"))??;
        }
        Ok(())
    }

    fn halt(&mut self) {
        self.stops.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        self.halt();
    }
}

/// `CLOCK_MONOTONIC` in microseconds: the clock of the attempts log, comparable between processes of one machine.
#[must_use]
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec for the whole call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0;
    assert!(!failed, "CLOCK_MONOTONIC exists on every Linux");
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
