//! Which core gets a connection.

use std::net::TcpStream;

use sluice_tests::privileges::{Stopped, kill_a_listener, may_load_programs, stay_on};
use sluice_tests::{Gateway, Request, Setup, Sim, Value, wait};

/// Connections of a test of a mode.
const MANY: u64 = 4_000;
/// Connections that are open at once.
const AT_ONCE: usize = 1_000;

fn start(sim: &Sim, steering: &str, cores: usize) -> Gateway {
    Setup::with(&sim.base_url())
        .set("/ebpf/steering", steering)
        .cores(cores)
        .start()
}

fn steering(gateway: &Gateway) -> Value {
    gateway.admin("/admin").json()["kernel"]["steering"].clone()
}

/// Connections accepted by each core.
fn accepted(gateway: &Gateway) -> Vec<u64> {
    let page = gateway.admin("/metrics").text();
    let of_core = |line: &str| {
        let value = line
            .strip_prefix("sluice_connections_opened_total{")?
            .rsplit(' ')
            .next()?;
        value.parse().ok()
    };
    page.lines().filter_map(of_core).collect()
}

/// Opens `count` connections one after the other, and says which core accepted how many.
fn spread(gateway: &Gateway, count: u64, keep: &mut Vec<TcpStream>) -> Vec<u64> {
    let before = accepted(gateway);
    for _ in 0..count {
        keep.push(TcpStream::connect(gateway.address).expect("the gateway listens"));
    }
    let since = |now: &[u64]| {
        now.iter()
            .zip(&before)
            .map(|(now, before)| now - before)
            .collect::<Vec<_>>()
    };
    wait::until("all connections are accepted", || {
        let now = since(&accepted(gateway));
        (now.iter().sum::<u64>() == count).then_some(now)
    })
}

fn switch(gateway: &Gateway, mode: &str) {
    let target = format!("/admin/steering?mode={mode}");
    let request = Request::post(&target, "").field("Connection", "close");
    let answer = sluice_tests::Client::connect(gateway.admin).ask(&request);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(steering(gateway)["mode"], mode);
}

/// Busiest by least busy.
fn ratio(counts: &[u64]) -> f64 {
    let (least, most) = (counts.iter().min(), counts.iter().max());
    most.map_or(0, |most| *most) as f64 / least.map_or(1, |least| (*least).max(1)) as f64
}

#[test]
fn each_mode_spreads_connections_in_its_own_way_and_can_be_changed_while_it_runs() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let gateway = start(&sim, "rr", 4);
    let in_turn = spread(&gateway, MANY, &mut Vec::new());
    assert!(
        in_turn.iter().all(|count| (995..=1005).contains(count)),
        "rr: {in_turn:?}"
    );
    switch(&gateway, "hash");
    let hashed = spread(&gateway, MANY, &mut Vec::new());
    assert!(
        hashed.iter().all(|count| (800..=1200).contains(count)),
        "hash: {hashed:?}"
    );
    switch(&gateway, "p2c");
    let chosen = spread(&gateway, MANY, &mut Vec::new());
    assert!(
        chosen.iter().all(|count| (900..=1100).contains(count)),
        "p2c: {chosen:?}"
    );
    assert_eq!(steering(&gateway)["unplaced"], 0);
    println!("rr {in_turn:?}, hash {hashed:?}, p2c {chosen:?}");
    gateway.expect_healthy();
}

#[test]
fn by_processor_a_connection_stays_where_it_arrives() {
    if !may_load_programs() {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if !(2..=16).contains(&processors) {
        println!("left out: {processors} processors");
        return;
    }
    let sim = Sim::start();
    let gateway = start(&sim, "cpu", processors);
    for processor in 0..2 {
        let counts = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                assert!(stay_on(processor));
                spread(&gateway, MANY / 2, &mut Vec::new())
            });
            work.join().expect("the thread connects")
        });
        assert!(counts[processor] >= MANY / 2 * 99 / 100, "from {processor}: {counts:?}");
    }
}

#[test]
fn a_thousand_long_lived_connections_are_spread_evenly_where_hashing_alone_does_worse() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let mut ratios = Vec::new();
    for mode in ["p2c", "off"] {
        let gateway = start(&sim, mode, 4);
        let mut open = Vec::new();
        let counts = spread(&gateway, AT_ONCE as u64, &mut open);
        ratios.push(ratio(&counts));
        println!("{mode}: {counts:?}, busiest by least busy {:.3}", ratio(&counts));
        if mode == "p2c" {
            assert!(ratio(&counts) <= 1.15, "{counts:?}");
        }
        gateway.expect_healthy();
    }
    assert!(
        ratios[0] < ratios[1],
        "p2c {:.3}, hash alone {:.3}",
        ratios[0],
        ratios[1]
    );
}

#[test]
fn a_load_that_goes_away_on_one_core_is_made_good_there() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let gateway = start(&sim, "rr", 2);
    let mut open = Vec::new();
    let _ = spread(&gateway, 400, &mut open);
    // Every second connection ends: those of one core.
    let mut index = 0;
    open.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    wait::until("they have ended", || {
        (gateway.metric("sluice_connections") == 200).then_some(())
    });
    switch(&gateway, "p2c");
    let counts = spread(&gateway, 200, &mut open);
    assert!(counts.iter().any(|&count| count >= 190), "{counts:?}");
}

#[test]
fn a_listener_that_dies_costs_no_connection() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let gateway = start(&sim, "rr", 4);
    gateway.expect_healthy();
    assert!(kill_a_listener(gateway.process(), gateway.address.port()));
    for _ in 0..200 {
        gateway.expect_healthy();
    }
    assert!(steering(&gateway)["unplaced"].as_u64().expect("a count") > 0);
}

#[test]
fn a_core_that_is_stuck_gets_nothing_new() {
    if !may_load_programs() {
        return;
    }
    let sim = Sim::start();
    let gateway = start(&sim, "p2c", 2);
    gateway.expect_healthy();
    let stopped = Stopped::thread(gateway.process(), "core-1");
    wait::until("the core is off the list", || {
        (steering(&gateway)["cores"] == sluice_tests::json!([0])).then_some(())
    });
    for _ in 0..100 {
        gateway.expect_healthy();
    }
    drop(stopped);
    wait::until("the core is on the list again", || {
        (steering(&gateway)["cores"] == sluice_tests::json!([0, 1])).then_some(())
    });
    let counts = spread(&gateway, 100, &mut Vec::new());
    assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
}
