//! The load process: both sides of the subject on one thread, told over its standard input what to measure.
//!
//! Invariant: between two runs it holds no connection to a subject. It ends with its handle.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::process::Kept;

/// A running load process.
#[derive(Debug)]
pub struct Generator {
    /// Where it listens as the upstream, in plain text.
    pub plain: SocketAddr,
    /// Where it listens with TLS, and the certificate that a subject has to trust for that; only the simulator does.
    pub tls: Option<(SocketAddr, PathBuf)>,
    process: Kept,
    orders: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
}

/// What stands behind the subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// One rendered answer on a raw ring: the cheapest, for closed loops in plain text.
    Responder,
    /// The provider simulator, with scripts, streams and TLS.
    Simulator,
}

/// An edge of a run's measured window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It begins now.
    Begin,
    /// It has just ended.
    End,
}

impl Generator {
    /// Starts `program` on core `cpu` as `upstream` demands, and waits until it listens; a fresh certificate for it goes
    /// into `directory`.
    ///
    /// # Errors
    /// When it does not start, or says something else.
    pub fn start(program: &Path, upstream: Upstream, directory: &Path, cpu: usize) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["--cpu", &cpu.to_string()]);
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let (certificate, key) = (directory.join("ca.pem"), directory.join("key.pem"));
        std::fs::write(&certificate, issued.cert.pem())?;
        std::fs::write(&key, issued.signing_key.serialize_pem())?;
        if upstream == Upstream::Responder {
            command.arg("--with-responder");
        } else {
            command.arg("--with-simulator");
            command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Kept::spawn(command, cpu)?;
        let orders = process.child().stdin.take().context("standard input is piped")?;
        let stdout = process.child().stdout.take().context("standard output is piped")?;
        let mut events = BufReader::new(stdout).lines();
        let hello = event(&mut events)?;
        let address = |key: &str| hello[key].as_str().map(str::parse::<SocketAddr>).transpose();
        Ok(Self {
            plain: address("plain")?.context("an address")?,
            tls: address("tls")?.map(|address| (address, certificate)),
            process,
            orders,
            events,
        })
    }

    /// The process, to read its clocks.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Performs one run with the generator's `flags`, calls `edge` at both edges of its window, and returns the summary.
    ///
    /// # Errors
    /// When the flags are refused or the process has ended.
    pub fn run(&mut self, flags: &[String], mut edge: impl FnMut(Edge)) -> Result<Value> {
        writeln!(self.orders, "{}", Value::from(flags)).context("the load process has ended")?;
        loop {
            let mut said = event(&mut self.events)?;
            match said["event"].as_str() {
                Some("measure") => edge(Edge::Begin),
                Some("measured") => edge(Edge::End),
                Some("summary") => return Ok(said["summary"].take()),
                _ => bail!("the load process says: {said}"),
            }
        }
    }
}

fn event(events: &mut Lines<BufReader<ChildStdout>>) -> Result<Value> {
    let line = events.next().context("the load process ended")??;
    serde_json::from_str(&line).context("the load process speaks JSON")
}
