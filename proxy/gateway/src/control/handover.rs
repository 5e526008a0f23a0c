//! A new process takes over from this one: the listening sockets themselves go to it, so there is no moment at which nobody
//! listens, and who waits in a queue is accepted by whichever process comes next.
//!
//! ```text
//!   new ── takeover ──────────► old     over a unix socket, both of one user
//!   new ◄─ sockets ──────────── old     goes on accepting
//!   (new: configuration, programs, threads, readiness)
//!   new ── ready ─────────────► old     stops accepting; what is in the queues stays there
//!   new ◄─ state ────────────── old     breakers and keys
//!   (new: accepts)
//!   new ── serving ───────────► old
//!   new ◄─ retired ──────────── old     ends when its last request has ended
//! ```
//!
//! Invariants: until the old process has heard `serving`, whatever becomes of the new one, it accepts again, and says `resumed`: who
//! hears that ends. Who hears nothing more, because the old process has died, has the port to itself and goes on. Each step has a
//! time limit; the exchange runs on threads of its own, so neither cores nor the control thread wait for the peer, and those threads
//! wait for events. Deliberately absent: BPF. A program that steers is attached to the sockets that move; each process brings its own.

mod bell;
mod fds;
mod state;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use self::bell::{Bell, Heard};
pub use self::state::State;

/// Version of what is said over the socket.
const VERSION: u32 = 1;
/// How long a new process may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long any other step may take.
const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// How long a new process may take from the state until it serves: nobody accepts meanwhile, and it has little left to do.
const SERVE_PATIENCE: Duration = Duration::from_secs(3);
/// How long nobody is received after the process could not have another descriptor.
const EXHAUSTED: Duration = Duration::from_secs(1);
/// What the old process says when it is one no longer.
const RETIRED: &str = "retired";
/// What it says when it goes on after all.
const RESUMED: &str = "resumed";
/// Longest line that is read: the state of some thousand targets and keys.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What goes to the next process before anything else.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    version: u32,
    cores: usize,
    addresses: usize,
}

/// The sockets that a process listens on.
pub struct Sockets {
    /// For clients: `[core][address]`.
    pub clients: Vec<Vec<TcpListener>>,
    /// For administrators.
    pub admin: TcpListener,
    /// For the next process, if it is waited for.
    pub successor: Option<UnixListener>,
}

/// What the threads of this module ask the control thread.
pub enum Ask {
    /// Copies of the sockets.
    Sockets(oneshot::Sender<Result<Sockets>>),
    /// To stop accepting, and to say what is known.
    Cease(oneshot::Sender<Result<State>>),
    /// To accept again.
    Resume,
    /// To end when the last request has.
    Retire,
}

/// Where the next process is waited for.
pub struct Successor {
    asks: mpsc::Receiver<Ask>,
    /// Rung when the next process has everything, or none is waited for any more.
    retired: Option<Arc<Bell>>,
    /// Those who wait to be told what became of an upgrade.
    upgrades: Arc<watch::Sender<usize>>,
}

/// The process that is taken over from, as long as it waits for this one.
pub struct Taken(UnixStream);

/// What there is to be had from the former process.
pub enum Found {
    /// Its sockets, and itself.
    Sockets(Sockets, Taken),
    /// Nothing: it has died meanwhile, and its sockets with it.
    Nobody,
}

/// Whose the port is in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This process's.
    Ours,
    /// Still the former process's: it did not hear in time that this one serves.
    Theirs,
}

/// The socket that configuration means; `None` if it is off.
pub fn address(setting: &str, config: &Path) -> Result<Option<UnixAddress>> {
    match setting {
        "off" => Ok(None),
        "auto" => {
            let path = std::fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
            // SAFETY: a plain system call.
            let user = unsafe { libc::geteuid() };
            let name = format!("sluice-{user}-{:016x}", fnv(path.as_os_str().as_encoded_bytes()));
            Ok(Some(UnixAddress::from_abstract_name(name)?))
        }
        path => Ok(Some(UnixAddress::from_pathname(path)?)),
    }
}

/// FNV-1a, 64 bits: the same in every version of the program.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Makes the socket on which the next process is waited for.
///
/// # Errors
/// When another process has it.
pub fn listen(address: &UnixAddress) -> Result<UnixListener> {
    if let Some(path) = address.as_pathname()
        && UnixStream::connect(path).is_err()
    {
        // Left behind by a process that is gone.
        let _ = std::fs::remove_file(path);
    }
    Ok(UnixListener::bind_addr(address)?)
}

impl Successor {
    /// Waits for the next process on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn wait(listener: UnixListener) -> io::Result<Self> {
        let (to_control, asks) = mpsc::channel(4);
        let retired = Arc::new(Bell::new()?);
        let upgrades = Arc::new(watch::Sender::new(0));
        let desk = Desk {
            to_control,
            retired: retired.clone(),
            busy: Arc::default(),
            upgrades: upgrades.clone(),
            program: std::env::current_exe().ok(),
        };
        listener.set_nonblocking(true)?;
        std::thread::Builder::new()
            .name("handover".into())
            .spawn(move || desk.receive(&listener))?;
        Ok(Self {
            asks,
            retired: Some(retired),
            upgrades,
        })
    }

    /// Nobody.
    pub fn none() -> Self {
        let (_, asks) = mpsc::channel(1);
        Self {
            asks,
            retired: None,
            upgrades: Arc::new(watch::Sender::new(0)),
        }
    }

    /// The next thing that is asked; waits for ever if nobody is waited for.
    pub async fn asked(&mut self) -> Ask {
        match self.asks.recv().await {
            Some(ask) => ask,
            None => std::future::pending().await,
        }
    }

    /// The next process has everything.
    pub fn retired(&self) {
        if let Some(retired) = &self.retired {
            retired.ring();
        }
    }

    /// Waits until who asked for the upgrade has been told.
    pub async fn settled(&self) {
        let mut upgrades = self.upgrades.subscribe();
        let told = upgrades.wait_for(|waiting| *waiting == 0);
        // Who is not told in time finds the connection closed.
        let _ = tokio::time::timeout(STEP_PATIENCE, told).await;
    }
}

/// Receives those who come.
#[derive(Clone)]
struct Desk {
    to_control: mpsc::Sender<Ask>,
    retired: Arc<Bell>,
    /// Whether somebody is taking over.
    busy: Arc<AtomicBool>,
    /// As in [`Successor`].
    upgrades: Arc<watch::Sender<usize>>,
    program: Option<PathBuf>,
}

impl Desk {
    fn receive(self, listener: &UnixListener) {
        let mut patience = None;
        let mut whom = Some(listener.as_fd());
        loop {
            match self.retired.wait(whom, patience) {
                Ok(Heard::Other | Heard::Nothing) => {}
                Ok(Heard::Bell) | Err(_) => return,
            }
            // The process that takes over listens to the same socket, and may have been quicker.
            (whom, patience) = match listener.accept() {
                Ok((stream, _)) => {
                    let desk = self.clone();
                    let thread = std::thread::Builder::new().name("handover".into());
                    let _ = thread.spawn(move || desk.serve(stream));
                    (Some(listener.as_fd()), None)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (Some(listener.as_fd()), None),
                // Who waits in the queue would be heard again and again.
                Err(_) => (None, Some(EXHAUSTED)),
            };
        }
    }

    fn serve(&self, stream: UnixStream) {
        if !fds::is_trusted(&stream) {
            tracing::warn!("a process of another user has asked to take over; it is not listened to");
            return;
        }
        match line(&stream, STEP_PATIENCE).as_deref() {
            Ok("takeover") => {
                if self.busy.swap(true, Ordering::AcqRel) {
                    let _ = say(&stream, "busy");
                    return;
                }
                if let Err(error) = self.hand_over(&stream) {
                    tracing::warn!("a new process did not take over: {error:#}; this one goes on");
                    let _ = self.to_control.blocking_send(Ask::Resume);
                    let _ = say(&stream, RESUMED);
                }
                self.busy.store(false, Ordering::Release);
            }
            Ok("upgrade") => {
                self.upgrades.send_modify(|waiting| *waiting += 1);
                let said = match self.upgrade() {
                    Ok(process) => format!("ok {process}"),
                    Err(error) => format!("failed {error:#}"),
                };
                let _ = say(&stream, &said);
                self.upgrades.send_modify(|waiting| *waiting -= 1);
            }
            _ => {}
        }
    }

    fn hand_over(&self, stream: &UnixStream) -> Result<()> {
        let sockets = self.ask(Ask::Sockets)??;
        let mut all: Vec<i32> = sockets.clients.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        all.push(sockets.admin.as_raw_fd());
        all.extend(sockets.successor.as_ref().map(AsRawFd::as_raw_fd));
        let offer = Offer {
            version: VERSION,
            cores: sockets.clients.len(),
            addresses: sockets.clients.first().map_or(0, Vec::len),
        };
        say(stream, &serde_json::to_string(&offer)?)?;
        fds::send(stream, &all)?;
        drop(sockets);
        let said = line(stream, READY_PATIENCE).context("it ended before it was ready")?;
        ensure!(said == "ready", "it said: {said}");
        let state = self.ask(Ask::Cease)??;
        say(stream, &serde_json::to_string(&state)?)?;
        let said = line(stream, SERVE_PATIENCE).context("it ended before it served, or took too long")?;
        ensure!(said == "serving", "it said: {said}");
        self.to_control
            .blocking_send(Ask::Retire)
            .context("this process ends")?;
        // It serves, whether it hears this or not.
        let _ = say(stream, RETIRED);
        Ok(())
    }

    fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.to_control
            .blocking_send(ask(sender))
            .context("this process ends")?;
        receiver.blocking_recv().context("this process ends")
    }

    /// Starts the program anew, from wherever it was started, with the same arguments, and waits until it has taken over.
    fn upgrade(&self) -> Result<u32> {
        let program = self.program.as_deref().context("the program's path is not known")?;
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--takeover");
        let mut child = Command::new(program)
            .args(arguments)
            .arg("--takeover")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let heard = bell::end_of(&child).and_then(|end| {
            self.retired
                .wait(Some(end.as_fd()), Some(READY_PATIENCE + STEP_PATIENCE))
        });
        match heard {
            Ok(Heard::Bell) => return Ok(child.id()),
            Ok(Heard::Other) => {
                let status = child.wait()?;
                bail!("the new process ended with {status}; its log says why")
            }
            Ok(Heard::Nothing) | Err(_) => {}
        }
        child.kill()?;
        child.wait()?;
        heard.context("the new process cannot be watched (Linux 5.3)")?;
        bail!("the new process did not become ready in time")
    }
}

/// Asks the running process for its sockets.
///
/// # Errors
/// When none is running, or it does not give them.
pub fn take(address: &UnixAddress) -> Result<Found> {
    let stream = UnixStream::connect_addr(address).context("there is no running gateway to take over from")?;
    let asked = say(&stream, "takeover").and_then(|()| line(&stream, STEP_PATIENCE));
    let said = match asked {
        Err(error) if is_gone(&error) => return Ok(Found::Nobody),
        asked => asked.context("the running gateway does not answer")?,
    };
    ensure!(said != "busy", "another process is taking over already");
    ensure!(
        said != RESUMED,
        "the running gateway does not give its sockets; its log says why"
    );
    let offer: Offer = serde_json::from_str(&said).context("the running gateway is not understood")?;
    ensure!(
        offer.version == VERSION,
        "the running gateway speaks version {}",
        offer.version
    );
    let count = offer.cores * offer.addresses;
    let mut all = match fds::receive(&stream, count + 2) {
        Err(error) if is_gone(&error) => return Ok(Found::Nobody),
        received => received?.into_iter(),
    };
    let mut next = || all.next().context("a socket is missing");
    let mut clients = Vec::new();
    for _ in 0..offer.cores {
        let own: Result<Vec<TcpListener>> = (0..offer.addresses).map(|_| Ok(next()?.into())).collect();
        clients.push(own?);
    }
    let sockets = Sockets {
        clients,
        admin: next()?.into(),
        successor: Some(next()?.into()),
    };
    Ok(Found::Sockets(sockets, Taken(stream)))
}

impl Taken {
    /// Says that this process can serve; the running one stops accepting, and says what it knows: nothing, if it has died.
    ///
    /// # Errors
    /// When it goes on instead.
    pub fn ready(&self) -> Result<State> {
        let asked = say(&self.0, "ready").and_then(|()| line(&self.0, STEP_PATIENCE));
        let said = match asked {
            Err(error) if is_gone(&error) => {
                tracing::warn!("the former process is gone; what it knew of targets and keys is lost");
                return Ok(State::default());
            }
            asked => asked.context("the running gateway does not answer")?,
        };
        ensure!(said != RESUMED, "the running gateway goes on; its log says why");
        serde_json::from_str(&said).context("the state is not understood")
    }

    /// Says that this process serves, and hears whose the port is.
    ///
    /// # Errors
    /// When the former process does not say, though it lives: the port is then this process's too.
    pub fn serving(&self) -> Result<Port> {
        // If it has closed its end, what it said before that is still there.
        let _ = say(&self.0, "serving");
        match line(&self.0, STEP_PATIENCE) {
            Ok(said) if said == RESUMED => Ok(Port::Theirs),
            Ok(_) => Ok(Port::Ours),
            Err(error) if is_gone(&error) => Ok(Port::Ours),
            Err(error) => Err(error).context("the former process says nothing"),
        }
    }
}

/// Whether the other process has died, or has closed its end, which it does without a word only then.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Has the running gateway replace itself; gives the new process's id.
///
/// # Errors
/// Why it did not; the running gateway goes on.
pub fn upgrade(address: &UnixAddress) -> Result<String> {
    let stream = UnixStream::connect_addr(address).context("there is no running gateway to upgrade")?;
    say(&stream, "upgrade")?;
    let said = line(&stream, READY_PATIENCE + 2 * STEP_PATIENCE)?;
    match said.split_once(' ') {
        Some(("ok", process)) => Ok(process.to_owned()),
        Some(("failed", why)) => bail!("{why}; the running gateway goes on"),
        _ => bail!("the running gateway said: {said}"),
    }
}

fn say(mut stream: &UnixStream, text: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(STEP_PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.write_all(b"\n")
}

/// The next line, without its end; byte by byte, because what follows a line may carry descriptors, which a larger read would
/// throw away. An interrupted or late peer is an error, and so is one that is gone ([`is_gone`]).
fn line(mut stream: &UnixStream, patience: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < LINE_BYTES_MAX {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        bytes.push(byte[0]);
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// Those of the former process's sockets that are still wanted: for every core and address, one that is bound to it; a port of
/// 0 is content with any. `make` makes those that are missing.
///
/// # Errors
/// Those of `make`.
pub fn adopt(
    taken: Vec<Vec<TcpListener>>,
    addresses: &[SocketAddr],
    cores: usize,
    mut make: impl FnMut(SocketAddr) -> Result<TcpListener>,
) -> Result<Vec<Vec<TcpListener>>> {
    let mut spare: Vec<Option<TcpListener>> = taken.into_iter().flatten().map(Some).collect();
    let mut bound: Vec<Option<SocketAddr>> = vec![None; addresses.len()];
    let mut all = Vec::new();
    for _ in 0..cores {
        let mut own = Vec::new();
        for (index, wanted) in addresses.iter().enumerate() {
            let wanted = bound[index].unwrap_or(*wanted);
            let fits = |place: &&mut Option<TcpListener>| {
                let local = place.as_ref().and_then(|socket| socket.local_addr().ok());
                local.is_some_and(|local| {
                    local.ip() == wanted.ip()
                        && if wanted.port() == 0 {
                            !bound.contains(&Some(local))
                        } else {
                            local.port() == wanted.port()
                        }
                })
            };
            let socket = match spare.iter_mut().find(fits).and_then(Option::take) {
                Some(socket) => socket,
                None => make(wanted)?,
            };
            bound[index] = Some(socket.local_addr()?);
            own.push(socket);
        }
        all.push(own);
    }
    Ok(all)
}
