//! What the kernel measures, held against delays that are known.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_tests::privileges::{BpfFolder, may_load_programs};
use sluice_tests::temp::TempDir;
use sluice_tests::{Gateway, Request, Setup, Sim, Value, wait};

/// Requests with a known delay.
const REQUESTS: usize = 10;
/// That delay, and the time from its first to its last byte.
const DELAY_MS: u64 = 100;

fn histogram(gateway: &Gateway, role: &str, what: &str) -> Value {
    let page = gateway.admin("/admin/latency").json();
    let slots = page["slots"]
        .as_array()
        .unwrap_or_else(|| panic!("no slots: {page}"))
        .clone();
    let slot = slots
        .iter()
        .find(|slot| slot["role"] == role)
        .expect("the slot has a name");
    slot["histograms"][what].clone()
}

/// The number of a value's bucket: four for each power of two.
fn bucket(us: u64) -> i64 {
    let octave = i64::from(us.max(4).ilog2());
    (octave - 1) * 4 + ((us >> (octave - 2)) & 3) as i64
}

/// Checks that the middle value lies in the bucket of `us`, or next to it.
fn expect_about(gateway: &Gateway, role: &str, what: &str, us: u64, count: usize) {
    let seen = wait::until("all is recorded", || {
        let seen = histogram(gateway, role, what);
        (seen["count"].as_u64() >= Some(count as u64)).then_some(seen)
    });
    let median = seen["p50"].as_u64().expect("a median");
    let off = bucket(median) - bucket(us);
    assert!(
        (-1..=1).contains(&off),
        "{role} {what}: {median} us, expected {us}: {seen}"
    );
}

fn known_delays(epoll: bool) {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let mut setup = Setup::with(&sim.base_url()).set("/ebpf/accounting", "always");
    if epoll {
        setup = setup.epoll();
    }
    let gateway = setup.start();
    // A connection of its own each, on the client's side and on the provider's: what ends with a connection is recorded then.
    for _ in 0..REQUESTS {
        let model = format!("openai/a+latency_ms={DELAY_MS},keep_alive=0");
        let answer = gateway.ask(&Request::chat(&model).field("Connection", "close"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    expect_about(&gateway, "upstream", "first_byte", DELAY_MS * 1000, REQUESTS);
    expect_about(&gateway, "listener", "first_byte", DELAY_MS * 1000, REQUESTS);
    expect_about(&gateway, "upstream", "last_byte", DELAY_MS * 1000, REQUESTS);
    expect_about(&gateway, "listener", "last_byte", DELAY_MS * 1000, REQUESTS);
    for (role, what) in [
        ("upstream", "connect"),
        ("upstream", "handshake_rtt"),
        ("upstream", "srtt"),
        ("upstream", "ready_wait"),
        ("upstream", "bytes_sent"),
        ("upstream", "bytes_received"),
        ("listener", "accept_queue"),
        ("listener", "handshake_rtt"),
        ("listener", "bytes_sent"),
    ] {
        let seen = histogram(&gateway, role, what);
        assert!(seen["count"].as_u64() >= Some(REQUESTS as u64), "{role} {what}: {seen}");
    }
    let again = histogram(&gateway, "upstream", "retransmits");
    assert_eq!(again["sum"], 0, "nothing is lost on loopback: {again}");
    let page = gateway.admin("/metrics").text();
    let line = "sluice_kernel_first_byte_seconds_count{role=\"upstream\",name=\"openai\"}";
    assert!(page.contains(line), "{page}");
}

#[test]
fn known_delays_are_seen_over_io_uring() {
    known_delays(false);
}

#[test]
fn known_delays_are_seen_over_epoll() {
    known_delays(true);
}

#[test]
fn a_core_that_does_not_run_shows_as_time_unread_and_not_accepted() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).set("/ebpf/accounting", "always").start();
    let mut open = gateway.client();
    assert_eq!(open.ask(&Request::chat("openai/healthy")).status, 200);
    for _ in 0..3 {
        let stopped = sluice_tests::privileges::Stopped::thread(gateway.process(), "core-0");
        let mut fresh = gateway.client();
        fresh.send(Request::chat("openai/healthy").bytes());
        open.send(Request::chat("openai/healthy").bytes());
        // The length of the stop is what is measured.
        std::thread::sleep(std::time::Duration::from_millis(DELAY_MS));
        drop(stopped);
        assert_eq!(fresh.response().status, 200);
        assert_eq!(open.response().status, 200);
    }
    let of_long = |what: &str| {
        let seen = histogram(&gateway, "listener", what);
        let buckets = seen["buckets"].as_array().expect("buckets are a list").clone();
        let near = |pair: &&Value| (bucket(pair[0].as_u64().unwrap_or(0)) - bucket(DELAY_MS * 1000)).abs() <= 1;
        buckets
            .iter()
            .filter(near)
            .map(|pair| pair[1].as_u64().unwrap_or(0))
            .sum::<u64>()
    };
    assert_eq!(of_long("accept_queue"), 3);
    assert_eq!(of_long("ready_wait"), 3);
}

/// Sends single bytes from one socket of this process to another until told to stop.
fn flood(stop: &AtomicBool) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut sender = TcpStream::connect(address).expect("loopback");
    sender.set_nodelay(true).expect("an option");
    let (mut receiver, _) = listener.accept().expect("loopback");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = [0; 65_536];
            while receiver.read(&mut bytes).is_ok_and(|count| count > 0) {}
        });
        while !stop.load(Ordering::Relaxed) {
            sender.write_all(&[0]).expect("the receiver reads");
        }
        drop(sender);
    });
}

#[test]
fn a_busy_machine_is_measured_part_of_the_time_but_each_of_its_connections() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).set("/ebpf/accounting", "auto").start();
    let share = || gateway.admin("/admin/latency").json()["measured_share"].as_f64();
    assert_eq!(share(), Some(1.0), "nothing is known of the machine yet");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&stop));
        let part = wait::until("the programs cost too much", || share().filter(|share| *share < 1.0));
        stop.store(true, Ordering::Relaxed);
        assert!(part > 0.0, "{part}");
    });
    let connections = || {
        histogram(&gateway, "listener", "handshake_rtt")["count"]
            .as_u64()
            .unwrap_or(0)
    };
    let before = connections();
    for _ in 0..REQUESTS {
        let answer = gateway.ask(&Request::chat("openai/healthy").field("Connection", "close"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let _ = wait::until("all connections are recorded", || {
        (connections() >= before + REQUESTS as u64).then_some(())
    });
}

#[test]
fn pinned_histograms_can_be_read_by_name() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let home = TempDir::new();
    let folder = BpfFolder::mount(&home.path().join("bpf"));
    let mut gateway = Setup::with(&sim.base_url())
        .set("/ebpf/accounting", "always")
        .set(
            "/ebpf/pin_path",
            folder.path().join("sluice").to_string_lossy().into_owned(),
        )
        .start();
    gateway.expect_healthy();
    let pins = folder.path().join(format!("sluice/v1/{}", gateway.address.port()));
    for map in ["connect", "first_byte", "names"] {
        assert!(pins.join(map).exists(), "{map}");
    }
    match std::process::Command::new("bpftool")
        .args(["map", "dump", "pinned"])
        .arg(pins.join("first_byte"))
        .output()
    {
        Ok(dump) => {
            let text = String::from_utf8_lossy(&dump.stdout);
            assert!(text.contains("buckets") && text.contains("sum"), "{dump:?}");
        }
        Err(_) => println!("left out: the fields' names as bpftool shows them: it is not installed"),
    }
    gateway.signal(libc::SIGTERM);
    let _ = gateway.wait();
    assert!(!pins.exists(), "what was pinned is gone with the process");
}
