//! Generator and simulator on one thread and one ring: says where the simulator listens, then performs runs as told.
//!
//! The protocol is lines. Out first: `{"event":"listening","plain":"HOST:PORT","tls":"HOST:PORT" or null}`. In: a run's
//! flags as a JSON array of strings, `["--target","http://…","--connections","64"]`. Out per run: the events of a single
//! run, ending in `summary`, or one `{"event":"error","message":…}`. The end of standard input ends the program.
//!
//! Invariant: nothing of a run is left on the thread when its summary has been said, except requests that never ended.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;
use serde_json::json;
use socket2::SockRef;

use super::answer::Answer;
use super::closed::Engine;
use super::{body, perform, say};
use crate::sim::server::{self, Shared};
use crate::sim::{self, SimOptions, tls};

/// The flags of a stage.
#[derive(Debug, Clone, clap::Args)]
pub struct Mode {
    /// Run the provider simulator on this thread too, and take runs from standard input, one JSON array a line.
    #[arg(long)]
    pub with_simulator: bool,
    /// The same for closed loops alone, on a raw ring and several times cheaper: instead of the simulator a responder that
    /// replays one of its answers.
    #[arg(long, conflicts_with = "with_simulator")]
    pub with_responder: bool,
    /// The simulator's certificate chain (PEM); with --tls-key, a second listener speaks TLS.
    #[arg(long, requires = "tls_key", requires = "with_simulator")]
    tls_cert: Option<PathBuf>,
    /// The simulator's private key (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// Serves until standard input ends.
///
/// # Errors
/// When the simulator cannot listen, or standard input or output breaks; a run that fails is an event.
pub async fn run(flags: &Mode) -> Result<()> {
    let shared = Arc::new(Shared::new(&SimOptions::default()));
    let plain = listen(&shared, None)?;
    let secured = match flags.tls_cert.clone().zip(flags.tls_key.clone()) {
        Some((cert, key)) => {
            let files = tls::TlsFiles {
                cert,
                key,
                client_ca: None,
            };
            Some(listen(&shared, Some(&files))?)
        }
        None => None,
    };
    say(&json!({ "event": "listening", "plain": plain, "tls": secured }))?;
    let mut orders = Orders::start()?;
    while let Some(line) = orders.next().await? {
        if let Err(error) = obey(&line).await {
            say(&json!({ "event": "error", "message": format!("{error:#}") }))?;
        }
    }
    Ok(())
}

/// The raw closed loop: the same protocol, without TLS.
///
/// # Errors
/// When the simulator does not answer, or the ring, standard input or output breaks.
pub fn respond() -> Result<()> {
    let mut engine = Engine::new(rendered_answer()?)?;
    say(&json!({ "event": "listening", "plain": engine.address()?, "tls": null }))?;
    engine.serve(&mut Orders::start()?)
}

/// The simulator's healthy unary answer, head and body, as it stands on the wire.
fn rendered_answer() -> Result<Vec<u8>> {
    let simulator = sim::spawn(&SimOptions::default())?;
    let flags = order("[]")?;
    let mut socket = TcpStream::connect(simulator.addr)?;
    socket.write_all(&body::render(&flags))?;
    let mut answer = Answer::default();
    let (mut bytes, mut buffer) = (Vec::new(), vec![0_u8; 16 * 1024]);
    loop {
        let count = socket.read(&mut buffer)?;
        ensure!(count > 0, "the simulator does not answer");
        bytes.extend_from_slice(&buffer[..count]);
        let whole = answer.push(&buffer[..count]);
        if whole
            .map_err(|why| anyhow!("the simulator answers with {}", why.name()))?
            .is_some()
        {
            break;
        }
    }
    simulator.stop();
    Ok(bytes)
}

/// The flags of a run as they stand on a line.
///
/// # Errors
/// When it is no JSON array of strings, or the flags are not those of a run.
pub fn order(line: &str) -> Result<super::Flags> {
    let arguments: Vec<String> = serde_json::from_str(line).context("an order is a JSON array of strings")?;
    let program = std::iter::once("run".to_owned());
    Ok(super::Flags::try_parse_from(program.chain(arguments))?)
}

async fn obey(line: &str) -> Result<()> {
    perform(&order(line)?).await
}

fn listen(shared: &Arc<Shared>, files: Option<&tls::TlsFiles>) -> Result<SocketAddr> {
    let config = files.map(tls::config).transpose().map_err(anyhow::Error::msg)?;
    let listener = server::bind(SimOptions::default().listen, 1)?.remove(0);
    cheap_congestion_control(SockRef::from(&listener));
    let address = listener.local_addr()?;
    server::attach(listener, Arc::clone(shared), config)?;
    Ok(address)
}

/// Takes the load's own sends off a pacing congestion control: on loopback it limits nothing and costs on each segment.
/// Accepted sockets inherit it. The subjects keep what the machine has.
pub fn cheap_congestion_control(socket: SockRef<'_>) {
    // Every Linux has it; without it the load is a little dearer.
    let _ = socket.set_tcp_congestion(b"reno");
}

/// Standard input, line by line, read by a thread of its own: a ring cannot wait for every kind of file.
pub struct Orders {
    lines: mpsc::Receiver<String>,
    /// A byte for each line, and its end after the last.
    wake: StdUnixStream,
}

impl Orders {
    /// Starts reading.
    ///
    /// # Errors
    /// When the thread cannot be had.
    pub fn start() -> Result<Self> {
        let (wake, mut waker) = StdUnixStream::pair()?;
        let (sender, lines) = mpsc::channel();
        std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() || waker.write_all(&[0]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { lines, wake })
    }

    /// Readable when there is a line, or no more to come.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// The next line, waited for; `None` at the end of standard input.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn next_blocking(&mut self) -> Result<Option<String>> {
        let read = self.wake.read(&mut [0])?;
        Ok(if read == 0 { None } else { Some(self.lines.recv()?) })
    }

    /// The next line without blocking the thread; `None` at the end of standard input.
    async fn next(&mut self) -> Result<Option<String>> {
        let mut wake = UnixStream::from_std(self.wake.try_clone()?)?;
        let (read, _) = wake.read(vec![0_u8; 1]).await;
        Ok(if read? == 0 { None } else { Some(self.lines.recv()?) })
    }
}
