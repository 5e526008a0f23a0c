//! A new process takes the port over, and no client notices.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sluice_tests::privileges::may_load_programs;
use sluice_tests::{Client, Gateway, Request, Setup, Sim, binary, wait};

/// Upgrades in a row, and streams that are open meanwhile, unless the variables of these names say otherwise.
const UPGRADES: (&str, usize) = ("SLUICE_UPGRADES", 5);
const STREAMS: (&str, usize) = ("SLUICE_STREAMS", 100);
/// Clients that ask all the time.
const ASKING: usize = 8;

fn number((variable, default): (&str, usize)) -> usize {
    let value = std::env::var(variable).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// Processes that the gateway has started in its own place, ended with the test.
#[derive(Default)]
pub struct Line(Vec<i32>);

impl Line {
    /// Has the gateway replace itself.
    fn upgrade(&mut self, gateway: &Gateway) -> Output {
        let output = Command::new(binary::sluice())
            .args(["upgrade", "--config"])
            .arg(gateway.config_path())
            .output()
            .expect("the program can be started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = said.split(' ').skip(1);
        if let Some(process) = words.next().and_then(|word| word.parse().ok()) {
            self.0.push(process);
        }
        output
    }

    /// Has it do so, and succeed.
    pub fn upgraded(&mut self, gateway: &Gateway) {
        let before = self.0.len();
        let output = self.upgrade(gateway);
        assert!(output.status.success() && self.0.len() == before + 1, "{output:?}");
    }
}

impl Line {
    /// The process that serves now.
    pub fn last(&self) -> i32 {
        *self.0.last().expect("there was an upgrade")
    }

    /// Sends all of them a signal and waits until they are gone.
    pub fn end(&mut self, signal: i32) {
        for process in std::mem::take(&mut self.0) {
            // SAFETY: a plain system call; these are descendants of the test's own gateway.
            unsafe { libc::kill(process, signal) };
            wait::until("a process ends", || is_gone(process).then_some(()));
        }
    }
}

/// Whether a process has ended; whoever has to hear of it may not have yet.
pub fn is_gone(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    state.is_empty() || state.starts_with('Z')
}

impl Drop for Line {
    fn drop(&mut self) {
        for &process in &self.0 {
            // SAFETY: a plain system call; these are descendants of the test's own gateway.
            unsafe { libc::kill(process, libc::SIGKILL) };
        }
    }
}

/// Asks over one connection after the other for as long as they are kept open; counts what went well, fails on anything else.
fn ask_on(address: std::net::SocketAddr, stop: &AtomicBool, good: &AtomicU64) {
    let mut client = Client::connect(address);
    let requests = [Request::chat("openai/healthy"), Request::stream("openai/healthy")];
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        client.send(requests[turn % 2].bytes());
        let answer = client.response_or_cut();
        assert!(
            answer.status == 200 && answer.is_complete(),
            "request {turn}: {answer:?}"
        );
        good.fetch_add(1, Ordering::Relaxed);
        if answer
            .field("connection")
            .is_some_and(|field| field.eq_ignore_ascii_case("close"))
        {
            client = Client::connect(address);
        }
    }
}

/// Upgrades under load with streams open, over which one event comes every second.
fn under_load(setup: Setup) {
    let (upgrades, streams) = (number(UPGRADES), number(STREAMS));
    let gateway = setup.start();
    let mut line = Line::default();
    let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let asking: Vec<_> = (0..ASKING)
        .map(|_| {
            let (stop, good, address) = (stop.clone(), good.clone(), gateway.address);
            std::thread::spawn(move || ask_on(address, &stop, &good))
        })
        .collect();
    // A token in a second: the streams are longer than all upgrades, and each is begun before the first of them.
    let seconds = 20 + upgrades;
    let request = Request::stream(&format!("openai/slow+tps=1,tokens={seconds}"));
    let mut open: Vec<_> = (0..streams)
        .map(|_| {
            let mut client = gateway.client();
            client.send(request.bytes());
            let answer = client.begin();
            assert_eq!(answer.status, 200, "{answer:?}");
            (client, answer)
        })
        .collect();
    for round in 0..upgrades {
        let before = good.load(Ordering::Relaxed);
        line.upgraded(&gateway);
        wait::until(&format!("traffic goes on after upgrade {round}"), || {
            (good.load(Ordering::Relaxed) >= before + 50).then_some(())
        });
    }
    stop.store(true, Ordering::Relaxed);
    for client in asking {
        client.join().expect("no request fails");
    }
    for (client, answer) in &mut open {
        while !answer.is_complete() && client.more(answer) {}
        assert!(answer.is_complete(), "a stream was cut: {answer:?}");
        assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    }
    println!(
        "{upgrades} upgrades, {} requests, {streams} streams: none failed, none cut",
        good.load(Ordering::Relaxed)
    );
}

fn setup(sim: &Sim) -> Setup {
    Setup::with(&sim.base_url())
        .cores(2)
        // A token a second is slower than streams are allowed to be silent by default.
        .set("/server/timeouts/keep_alive", "5s")
}

#[test]
fn upgrades_under_load_cost_no_request_and_no_stream() {
    let sim = Sim::start();
    under_load(setup(&sim));
}

#[test]
fn upgrades_under_load_cost_no_request_while_connections_are_steered_and_measured() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    under_load(setup(&sim).set("/ebpf/steering", "p2c").set("/ebpf/accounting", "auto"));
}

#[test]
fn upgrades_work_over_epoll() {
    let sim = Sim::start();
    under_load(setup(&sim).epoll());
}

#[test]
fn the_old_process_ends_when_its_last_stream_has() {
    let sim = Sim::start();
    let mut gateway = setup(&sim).start();
    let mut line = Line::default();
    let mut client = gateway.client();
    client.send(Request::stream("openai/slow+tps=5,tokens=10").bytes());
    let mut answer = client.begin();
    line.upgraded(&gateway);
    gateway.expect_healthy();
    while !answer.is_complete() && client.more(&mut answer) {}
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    drop(client);
    assert!(gateway.wait().success());
    gateway.expect_healthy();
}

#[test]
fn a_new_process_that_is_not_ready_gives_the_port_back() {
    let sim = Sim::start();
    let gateway = setup(&sim).start();
    let mut line = Line::default();
    let good = std::fs::read_to_string(gateway.config_path()).expect("the file is there");
    for bad in [
        good.replace("\"providers\"", "\"proviners\""),
        good.replace("OPENAI_KEY_0", "NO_SUCH_VARIABLE"),
        good.replace(
            "\"admin\"",
            "\"tls\": {\"cert\": \"/none\", \"key\": \"/none\"}, \"admin\"",
        ),
    ] {
        gateway.rewrite(&bad);
        let output = line.upgrade(&gateway);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("the running gateway goes on"),
            "{output:?}"
        );
        gateway.expect_healthy();
    }
    gateway.rewrite(&good);
    line.upgraded(&gateway);
    gateway.expect_healthy();
}

#[test]
fn what_is_known_of_keys_moves_with_the_port() {
    let sim = Sim::start();
    let gateway = Setup::new()
        .provider("openai", &sim.base_url(), &["sk-a+status=429,retry_after=60", "sk-b"])
        .cores(2)
        .start();
    let mut line = Line::default();
    for _ in 0..8 {
        assert_eq!(gateway.ask(&Request::chat("openai/a")).status, 200);
    }
    let resting = |gateway: &Gateway| {
        let page = gateway.admin("/ready").json();
        let keys = page["providers"][0]["key_states"]
            .as_array()
            .expect("keys are a list")
            .clone();
        keys.iter().filter(|key| key["state"] == "resting").count()
    };
    assert_eq!(resting(&gateway), 1);
    for _ in 0..2 {
        line.upgraded(&gateway);
        assert_eq!(resting(&gateway), 1);
        assert_eq!(gateway.admin("/admin").json()["uptime_s"], 0, "another process answers");
    }
}
