//! What virtual keys, budgets and limits cost a running gateway: CPU time per request without keys, with keys alone, and with
//! budgets and limits too, whose difference is admission and settlement; and how long a start with many of them takes.
//!
//! Invariants: all gateways run throughout, the serving thread on one core, and are loaded in turns with the same requests, so that what else the
//! machine does meets all alike; load and provider are on another core; CPU time is what the kernel counts for a thread, over the
//! requests that the gateway itself has counted. Deliberately absent: latency, which the load generator measures.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

/// Measures what accounts cost.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    #[command(flatten)]
    programs: Programs,
    /// Virtual keys, each with a budget and a limit, in a team and a customer with a budget and a limit each.
    #[arg(long, default_value_t = 10_000)]
    keys: u32,
    /// Requests in the ledger before the start.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Connections at a time.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Turns of each gateway.
    #[arg(long, default_value_t = 15)]
    turns: usize,
    /// Length of a turn, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Starts that are timed.
    #[arg(long, default_value_t = 5)]
    starts: usize,
}

/// The programs that a measurement with virtual keys starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Programs {
    /// The gateway's binary.
    #[arg(long)]
    pub(crate) gateway: PathBuf,
    /// The binary of the gateway's example `stock`, which fills a store.
    #[arg(long)]
    pub(crate) stock: PathBuf,
    /// The load generator's binary.
    #[arg(long)]
    pub(crate) load: PathBuf,
    /// A program, with its arguments, in front of the load: one that keeps the machine quiet, say.
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
}

/// The names that the kernel has for a gateway's threads; what has none of them is part of the rest.
const CORE_THREAD: &str = "core-";

/// A running gateway; it ends with this.
pub(crate) struct Gateway {
    child: Child,
    /// Where it serves.
    pub address: SocketAddr,
    /// Where its admin interface is.
    pub admin: SocketAddr,
}

/// CPU time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Of the threads that serve requests.
    cores: u64,
    /// Of all others: the control thread, the store's.
    rest: u64,
}

/// Runs the program.
///
/// # Errors
/// When something cannot be started, or a request fails.
pub fn run(args: &Args) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("sluice-accounts-cost-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(args, &folder);
    let _ = fs::remove_dir_all(&folder);
    measured
}

fn measure(args: &Args, folder: &Path) -> Result<()> {
    let (store, bare_store) = (folder.join("sluice.db"), folder.join("bare.db"));
    let (keys, rows) = (args.keys.to_string(), args.rows.to_string());
    for (store, words) in [(&store, &[&*keys, &*rows][..]), (&bare_store, &[&*keys, "0", "bare"])] {
        let filled = Command::new(&args.programs.stock).arg(store).args(words).status()?;
        ensure!(filled.success(), "the store cannot be filled");
    }
    let flags = [
        ("--model", "openai/gpt-4o-mini".to_owned()),
        ("--connections", args.connections.to_string()),
        ("--duration", args.seconds.to_string()),
        ("--warmup", "0.1".to_owned()),
        ("--virtual-keys", args.keys.to_string()),
    ];
    let mut load = Load::start(&args.programs.load, &args.programs.prefix, "--with-responder", &flags)?;
    let config = |accounts: Value| {
        json!({
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "cores": 1},
            "providers": {"openai": {"base_url": format!("http://{}/v1", load.provider), "keys": [{"env": "KEY"}]}},
            "accounts": accounts,
            "upstream": {"idle_connections": 2048},
            "log": {"requests": {"output": "/dev/null"}, "format": "json"},
        })
    };
    let accounts = |store: &Path| json!({"store": store.display().to_string(), "admin_credential": {"env": "KEY"}});
    let names = ["without.yaml", "bare.yaml", "with.yaml"];
    let [without, bare, with] = names.map(|name| folder.join(name));
    fs::write(&without, config(Value::Null).to_string())?;
    fs::write(&bare, config(accounts(&bare_store)).to_string())?;
    fs::write(&with, config(accounts(&store)).to_string())?;
    let mut started = Vec::new();
    for _ in 0..args.starts {
        started.push(time_to_ready(&args.programs.gateway, &with)?);
    }
    started.sort();
    if let (Some(median), Some(worst)) = (started.get(started.len() / 2), started.last()) {
        println!(
            "Ready after kill -9, {keys} keys, {rows} requests in the ledger: median {median:?}, worst {worst:?}\n"
        );
    }
    let gateways = [
        Gateway::start(&args.programs.gateway, &without)?,
        Gateway::start(&args.programs.gateway, &bare)?,
        Gateway::start(&args.programs.gateway, &with)?,
    ];
    let mut turns: [Turns; 3] = Default::default();
    for turn in 0..=args.turns {
        for (gateway, turns) in gateways.iter().zip(&mut turns) {
            let (cpu, requests) = (gateway.cpu()?, gateway.requests()?);
            load.run(gateway.address)?;
            let (spent, answered) = (gateway.cpu()?, gateway.requests()? - requests);
            let each = |after: u64, before: u64| (after - before) as f64 / answered as f64 / 1_000.0;
            // The first turn warms up.
            if turn > 0 {
                turns.push((each(spent.cores, cpu.cores), each(spent.rest, cpu.rest)));
            }
        }
    }
    report(&turns);
    Ok(())
}

/// CPU time of serving threads and of all others, in microseconds a request, by turn.
type Turns = Vec<(f64, f64)>;

fn report([without, bare, with]: &[Turns; 3]) {
    let of = |turns: &Turns, what: fn(&(f64, f64)) -> f64| median(turns.iter().map(what).collect());
    println!("| CPU µs a request | serving threads | all other threads |\n|---|---|---|");
    for (name, turns) in [
        ("without accounts", without),
        ("with keys alone", bare),
        ("with keys, budgets and limits", with),
    ] {
        println!(
            "| {name} | {:.2} | {:.2} |",
            of(turns, |turn| turn.0),
            of(turns, |turn| turn.1)
        );
    }
    println!("\n| on the serving threads, pairs of turns | p50 | from | to | pairs |\n|---|---|---|---|---|");
    for (name, more, less) in [
        ("all of it", with, without),
        ("keys, usage, prices and ledger", bare, without),
        ("admission and settlement", with, bare),
    ] {
        let mut pairs: Vec<f64> = more.iter().zip(less).map(|(more, less)| more.0 - less.0).collect();
        pairs.sort_by(f64::total_cmp);
        let (least, most) = (pairs[0], pairs[pairs.len() - 1]);
        let count = pairs.len();
        println!("| {name} | {:.2} | {least:.2} | {most:.2} | {count} |", median(pairs));
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// From the start of a gateway to its answer that it is ready; then it is killed.
fn time_to_ready(program: &Path, config: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let gateway = Gateway::start(program, config)?;
    loop {
        if ask(gateway.address, "/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the gateway is not ready");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Gateway {
    /// Starts one on the first core.
    pub fn start(program: &Path, config: &Path) -> Result<Self> {
        let mut child = Command::new("taskset")
            .args(["--cpu-list", "0"])
            .arg(program)
            .args(["serve", "--config"])
            .arg(config)
            .env("KEY", "sk-bench-an-administrators-credential")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = child.stdout.take().context("a child's output")?;
        let line = BufReader::new(output)
            .lines()
            .next()
            .context("the gateway says where it listens")??;
        let said: Value = serde_json::from_str(&line)?;
        let address = |url: &Value| -> Result<SocketAddr> {
            let url = url.as_str().and_then(|url| url.split_once("://"));
            Ok(url.context("a URL")?.1.parse()?)
        };
        let gateway = Self {
            address: address(&said["listen"][0])?,
            admin: address(&said["admin"])?,
            child,
        };
        // What does not serve is where it belongs: on another core than what does.
        for (thread, name) in gateway.threads()? {
            if !name.starts_with(CORE_THREAD) {
                let moved = Command::new("taskset")
                    .args(["--cpu-list", "--pid", "1", &thread])
                    .stdout(Stdio::null())
                    .status()?;
                ensure!(moved.success(), "a thread cannot be moved");
            }
        }
        Ok(gateway)
    }

    /// Requests that it has counted.
    fn requests(&self) -> Result<u64> {
        let page = ask(self.admin, "/metrics")?;
        let values = page.lines().filter(|line| line.starts_with("sluice_requests_total"));
        let count = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
        values.map(count).sum::<Option<u64>>().context("a number of requests")
    }

    /// Numbers and names.
    fn threads(&self) -> Result<Vec<(String, String)>> {
        let mut threads = Vec::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?;
            let name = fs::read_to_string(thread.path().join("comm"))?;
            threads.push((thread.file_name().to_string_lossy().into_owned(), name));
        }
        Ok(threads)
    }

    fn cpu(&self) -> Result<Cpu> {
        let mut cpu = Cpu::default();
        for (thread, name) in self.threads()? {
            let stat = fs::read_to_string(format!("/proc/{}/task/{thread}/schedstat", self.child.id()))?;
            let nanos: u64 = stat.split(' ').next().unwrap_or_default().parse()?;
            if name.starts_with(CORE_THREAD) {
                cpu.cores += nanos;
            } else {
                cpu.rest += nanos;
            }
        }
        ensure!(cpu.cores > 0, "no thread of the gateway is called {CORE_THREAD}…");
        Ok(cpu)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The load generator, with what stands in for the provider.
pub(crate) struct Load {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Where that listens.
    pub provider: String,
    flags: Vec<String>,
}

impl Load {
    /// Starts it on the second core, behind `prefix`, with `--with-responder` or `--with-simulator`; each turn is to have these
    /// flags.
    pub fn start(program: &Path, prefix: &str, provider: &str, flags: &[(&str, String)]) -> Result<Self> {
        let mut words = prefix.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        words.push(program.display().to_string());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args([provider, "--cpu", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", words[0]))?;
        let output = BufReader::new(child.stdout.take().context("a child's output")?);
        let mut load = Self {
            child,
            output,
            provider: String::new(),
            flags: flags
                .iter()
                .flat_map(|(name, value)| [(*name).to_owned(), value.clone()])
                .collect(),
        };
        let listening = load.event("listening")?;
        load.provider = listening["plain"]
            .as_str()
            .context("the provider's address")?
            .to_owned();
        Ok(load)
    }

    /// Loads a gateway for one turn; what the generator says of it.
    pub fn run(&mut self, target: SocketAddr) -> Result<Value> {
        let mut flags = vec!["--target".to_owned(), format!("http://{target}")];
        flags.extend_from_slice(&self.flags);
        let input = self.child.stdin.as_mut().context("a child's input")?;
        writeln!(input, "{}", Value::from(flags))?;
        let summary = self.event("summary")?["summary"].take();
        ensure!(summary["failures"].as_u64() == Some(0), "{summary}");
        Ok(summary)
    }

    fn event(&mut self, name: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the load generator has ended");
            let event: Value = serde_json::from_str(&line)?;
            ensure!(event["event"] != "error", "{event}");
            if event["event"] == name {
                return Ok(event);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer as it stands on the wire.
pub(crate) fn ask(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
