//! What the cache costs a running gateway: CPU time per request of an exact hit and of a miss, beside forwarding and beside the bare
//! responder.
//!
//! Invariants: all subjects run throughout and are loaded in turns, so that what else the machine does meets all alike; CPU time is
//! the process's own, as the kernel counts it; each answer is checked to be what its row says. Deliberately absent: latency, which
//! the load generator measures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

use crate::sim::{SimOptions, spawn};

mod adding;

/// Measures what the cache costs.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// The gateway's binary.
    #[arg(long)]
    gateway: PathBuf,
    /// The bare responder's binary (`yard-responder`).
    #[arg(long)]
    responder: PathBuf,
    /// The load generator's binary (`sluice-load`): it loads what needs no fresh text, so that the process under test is never
    /// waiting for its clients.
    #[arg(long)]
    loader: PathBuf,
    /// Core of the processes under test; the load and the provider are on the next one.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Connections at a time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Turns of each subject.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Length of a turn, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measure what adding does to the latency of requests that are answered from the cache, instead of CPU time.
    #[arg(long)]
    adding: bool,
}

/// Words of a text whose every variant is another text: about 60 tokens with the rest.
const TEXT: &str = "Explain to a new colleague on the assembly line what has to be looked at before a housing leaves the station, \
    which tools are needed for that, in which order the steps are done, how long each of them takes as a rule, whom to call if \
    something looks unusual, and where the result is written down at the end of the shift, for station";

/// Numbers of texts that nobody has asked yet.
static FRESH: AtomicU64 = AtomicU64::new(1_000_000);

/// Who asks a subject.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The load generator, always the same.
    Same,
    /// This program, something else each time.
    Fresh,
}

struct Subject {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    /// The text of the next request.
    text: fn(u64) -> String,
    /// Who asks.
    kind: Kind,
    /// What `x-sluice-cache` must say.
    expected: Option<&'static str>,
    nanos: Vec<f64>,
}

/// Runs the program.
///
/// # Errors
/// When a subject cannot be started, or answers otherwise than it must.
pub fn run(args: &Args) -> Result<()> {
    stay_on(args.cpu + 1);
    let sim = spawn(&SimOptions::default())?;
    let folder = std::env::temp_dir().join(format!("sluice-cache-cost-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let gateway = |name: &'static str, mode: &str, text: fn(u64) -> String, expected| -> Result<Subject> {
        let config = json!({
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "cores": 1},
            "providers": {"openai": {"base_url": format!("http://{}/v1", sim.addr), "keys": [{"env": "KEY"}]}},
            "cache": {"default": {"mode": mode, "agreements": 0, "audit": 0}},
            "log": {"requests": {"sample": 0}, "format": "json"},
        });
        let path = folder.join(format!("{}.yaml", name.replace(' ', "-")));
        std::fs::write(&path, config.to_string())?;
        let serve = ["serve", "--config", &path.display().to_string()];
        let (child, address) = pinned(args.cpu, || start(&args.gateway, &serve))?;
        Ok(Subject {
            name,
            child,
            address,
            text,
            kind: if expected == Some("miss") {
                Kind::Fresh
            } else {
                Kind::Same
            },
            expected,
            nanos: Vec::new(),
        })
    };
    if args.adding {
        let mut subject = gateway("adding", "semantic", |_| String::new(), None)?;
        let measured = adding::run(subject.address, args);
        let _ = subject.child.kill();
        let _ = subject.child.wait();
        let _ = std::fs::remove_dir_all(&folder);
        return measured;
    }
    let same: fn(u64) -> String = |_| format!("{TEXT} 7");
    let fresh: fn(u64) -> String = |_| format!("{TEXT} {}", FRESH.fetch_add(1, Ordering::Relaxed));
    let mut subjects = vec![
        gateway("forwarding", "off", same, None)?,
        gateway("exact hit", "exact", same, Some("hit"))?,
        gateway("exact cache, miss", "exact", fresh, Some("miss"))?,
        gateway("semantic cache, miss", "semantic", fresh, Some("miss"))?,
    ];
    let bytes = warm(&subjects[1])?;
    let size = bytes.to_string();
    let (child, address) = pinned(args.cpu, || start(&args.responder, &["--body-bytes", &size]))?;
    subjects.push(Subject {
        name: "bare responder",
        child,
        address,
        text: same,
        kind: Kind::Same,
        expected: None,
        nanos: Vec::new(),
    });
    for _ in 0..args.turns {
        for subject in &mut subjects {
            let before = cpu_nanos(subject.child.id())?;
            let requests = match subject.kind {
                Kind::Same => generate(subject, args)?,
                Kind::Fresh => load(subject, args.connections, Duration::from_secs_f64(args.seconds))?,
            };
            let spent = cpu_nanos(subject.child.id())? - before;
            subject.nanos.push(spent as f64 / requests as f64);
        }
    }
    report(&mut subjects, bytes);
    for subject in &mut subjects {
        let _ = subject.child.kill();
        let _ = subject.child.wait();
    }
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

fn report(subjects: &mut [Subject], bytes: usize) {
    println!(
        "| {:<22} | CPU µs a request | of the responder | of forwarding |",
        "subject"
    );
    println!("|{}|---|---|---|", "-".repeat(24));
    let medians: Vec<f64> = subjects.iter_mut().map(|subject| median(&mut subject.nanos)).collect();
    let (forwarding, responder) = (medians[0], medians[medians.len() - 1]);
    for (subject, nanos) in subjects.iter().zip(&medians) {
        println!(
            "| {:<22} | {:>16.2} | {:>16.2} | {:>13.2} |",
            subject.name,
            nanos / 1000.0,
            nanos / responder,
            nanos / forwarding
        );
    }
    println!(
        "\nAnswers of {bytes} bytes; median of {} turns each.",
        subjects[0].nanos.len()
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn stay_on(cpu: usize) {
    // On a machine with fewer cores everything shares them, and the figures say less.
    let _ = core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
}

/// Has processes started on one core, which they inherit from this thread.
fn pinned<T>(cpu: usize, start: impl FnOnce() -> T) -> T {
    stay_on(cpu);
    let started = start();
    stay_on(cpu + 1);
    started
}

/// One run of the load generator; how many requests were answered.
fn generate(subject: &Subject, args: &Args) -> Result<u64> {
    let summary = run_loader(subject, args, &["--duration", &args.seconds.to_string()])?;
    let requests = summary["requests"].as_u64().context("a number of requests")?;
    ensure!(summary["failures"] == 0 && requests > 0, "{}: {summary}", subject.name);
    Ok(requests)
}

/// Asks once; the length of the answer's body.
fn warm(subject: &Subject) -> Result<usize> {
    let mut connection = Connection::open(subject.address)?;
    connection.ask(&(subject.text)(0), "")?;
    Ok(connection.body_bytes)
}

fn run_loader(subject: &Subject, args: &Args, more: &[&str]) -> Result<Value> {
    let output = Command::new(&args.loader)
        .args([
            "--target",
            &format!("http://{}", subject.address),
            "--model",
            "openai/m",
            "--warmup",
            "0",
        ])
        .args([
            "--connections",
            &args.connections.to_string(),
            "--cpu",
            &(args.cpu + 1).to_string(),
        ])
        .args(more)
        .stderr(Stdio::null())
        .output()
        .context("run the load generator")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().context("the load generator says something")?;
    let mut event: Value = serde_json::from_str(last)?;
    Ok(event["summary"].take())
}

/// Starts a program and reads its address from the first line that names one.
fn start(program: &Path, args: &[&str]) -> Result<(Child, SocketAddr)> {
    let mut child = Command::new(program)
        .args(args)
        .env("KEY", "sk-bench")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let output = child.stdout.take().context("a child's output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        let text = serde_json::from_str::<Value>(&line)
            .ok()
            .and_then(|line| Some(line["listen"][0].as_str()?.to_owned()))
            .unwrap_or(line);
        let address = text.split_once("://").or_else(|| text.split_once("listening on "));
        if let Some((_, address)) = address {
            return Ok((child, address.trim().parse()?));
        }
    }
    anyhow::bail!("{} did not say where it listens", program.display())
}

/// Loads a subject for a time; how many requests were answered.
fn load(subject: &Subject, connections: usize, time: Duration) -> Result<u64> {
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| -> Result<u64> {
                    let mut connection = Connection::open(subject.address)?;
                    let mut requests = 0;
                    while Instant::now() < until {
                        let seen = connection.ask(&(subject.text)(requests), "")?;
                        ensure!(
                            subject
                                .expected
                                .is_none_or(|expected| seen.as_deref() == Some(expected)),
                            "{}: the cache says {seen:?}",
                            subject.name
                        );
                        requests += 1;
                    }
                    Ok(requests)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"))
            .sum()
    })
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    body_bytes: usize,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            body_bytes: 0,
        })
    }

    /// One request, with further header fields (each with its line's end); what `x-sluice-cache` says.
    fn ask(&mut self, text: &str, fields: &str) -> Result<Option<String>> {
        let system = "You are the assistant of a production line. Answer briefly.";
        let body = json!({"model": "openai/m", "temperature": 0, "messages": [
            {"role": "system", "content": system}, {"role": "user", "content": text}]})
        .to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        let mut piece = [0; 16 * 1024];
        loop {
            let count = self.stream.read(&mut piece)?;
            ensure!(count > 0, "the connection ended");
            self.buffer.extend_from_slice(&piece[..count]);
            let Some(head) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.buffer[..head])?;
            ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
            let field = |name: &str| {
                let mut lines = text.lines().filter_map(|line| line.split_once(": "));
                lines
                    .find(|(own, _)| own.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_owned())
            };
            let length: usize = field("content-length").context("a length")?.parse()?;
            let seen = field("x-sluice-cache");
            if self.buffer.len() >= head + 4 + length {
                self.body_bytes = length;
                return Ok(seen);
            }
        }
    }
}

/// CPU time of all threads of a process, in nanoseconds.
fn cpu_nanos(process: u32) -> Result<u64> {
    let mut total = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        total += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(total)
}
