//! The load process as a driver sees it: one line in for each run, its events out, the upstream in the same process.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

struct Load {
    child: Child,
    orders: Option<ChildStdin>,
    events: Lines<BufReader<ChildStdout>>,
    upstream: String,
}

impl Load {
    fn start(mode: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-load"))
            .arg(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let orders = child.stdin.take();
        let events = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut load = Self {
            child,
            orders,
            events,
            upstream: String::new(),
        };
        let hello = load.event();
        load.upstream = format!("http://{}", hello["plain"].as_str().expect("an address"));
        load
    }

    fn event(&mut self) -> Value {
        let line = self.events.next().expect("an event").expect("readable");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Runs with these flags; the names of the events, and the last event.
    fn run(&mut self, target: &str, flags: &[&str]) -> (Vec<String>, Value) {
        let all: Vec<&str> = ["--target", target, "--warmup", "0.05", "--duration", "0.3"]
            .iter()
            .chain(flags)
            .copied()
            .collect();
        writeln!(self.orders.as_ref().expect("open"), "{}", json!(all)).expect("it listens");
        let mut names = Vec::new();
        loop {
            let event = self.event();
            let name = event["event"].as_str().expect("a name").to_owned();
            names.push(name.clone());
            if name == "summary" || name == "error" {
                return (names, event);
            }
        }
    }
}

impl Drop for Load {
    /// The end of its standard input ends it.
    fn drop(&mut self) {
        self.orders = None;
        let status = self.child.wait().expect("it ends");
        assert!(std::thread::panicking() || status.success(), "{status}");
    }
}

fn right(event: &Value) {
    let summary = &event["summary"];
    assert_eq!(summary["failures"], 0, "{summary}");
    assert!(summary["requests"].as_u64() > Some(0), "{summary}");
}

#[test]
fn a_responder_performs_one_run_after_another_and_then_ends() {
    let mut load = Load::start("--with-responder");
    let upstream = load.upstream.clone();
    for flags in [
        &["--connections", "8"][..],
        &["--connections", "3", "--body", "1m"],
        &[],
    ] {
        let (names, last) = load.run(&upstream, flags);
        assert_eq!(names, ["measure", "measured", "summary"]);
        right(&last);
    }
}

#[test]
fn a_simulator_also_streams() {
    let mut load = Load::start("--with-simulator");
    let upstream = load.upstream.clone();
    right(&load.run(&upstream, &["--connections", "8"]).1);
    let stream = ["--stream", "--model", "gpt-4o-mini+tps=500,tokens=10"];
    let (_, last) = load.run(&upstream, &[&["--connections", "4"][..], &stream].concat());
    right(&last);
    assert!(last["summary"]["chunks"].as_u64() > last["summary"]["requests"].as_u64());
}

#[test]
fn a_dead_target_is_counted_and_a_wrong_order_is_refused() {
    // Bound and never accepting: connected, then silent.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = format!("http://{}", silent.local_addr().expect("bound"));
    for mode in ["--with-responder", "--with-simulator"] {
        let mut load = Load::start(mode);
        let (_, last) = load.run(&target, &["--connections", "2", "--timeout", "0.2"]);
        assert!(
            last["summary"]["failures_by_kind"]["timeout"].as_u64() >= Some(2),
            "{last}"
        );
        assert_eq!(last["summary"]["requests"], 0);
        let (names, _) = load.run(&target, &["--no-such-flag"]);
        assert_eq!(names, ["error"]);
        let upstream = load.upstream.clone();
        right(&load.run(&upstream, &[]).1);
    }
}
