//! What a new process has from the one before it: money and its limits, rate windows, open breakers, the cache.

use std::sync::atomic::Ordering;

use sluice_tests::audit::{Audit, Crowd};
use sluice_tests::temp::TempDir;
use sluice_tests::{Request, Response, Setup, Sim, json, wait};

use super::handover::{Line, is_gone};

/// One dollar, in nano-dollars.
const USD: u64 = 1_000_000_000;
/// Clients at a time.
const CLIENTS: usize = 32;
/// Upgrades in a row.
const UPGRADES: usize = 4;

/// Waits for so many requests more.
fn traffic(crowd: &Crowd, more: u64) {
    let before = crowd.admitted();
    wait::until("traffic goes on", || (crowd.admitted() >= before + more).then_some(()));
}

/// The bill, after the last process has ended in order and another one has read what it left.
fn settled(mut audit: Audit, mut line: Line) {
    line.end(libc::SIGTERM);
    audit.revive(0);
    let started = audit.replicas[0].stderr();
    let last = started.rfind("reclaimed: NanoUsd(").expect("it says what it found");
    assert!(
        started[last..].starts_with("reclaimed: NanoUsd(0)"),
        "something stayed reserved: {started}"
    );
    let recorded = audit.check("after the end");
    let billed = audit.billed();
    assert!(billed <= recorded.spent, "billed {billed}: {recorded:?}");
}

#[test]
fn upgrades_with_a_store_in_a_file_lose_no_request_and_no_money() {
    // More than can be spent: nobody is refused.
    let audit = Audit::start(2, 1, None, 1_000 * USD);
    let mut line = Line::default();
    let crowd = audit.crowd(CLIENTS, 0, 7);
    traffic(&crowd, 50);
    for round in 0..UPGRADES {
        line.upgraded(&audit.replicas[0]);
        traffic(&crowd, 50);
        audit.check(&format!("after upgrade {round}"));
    }
    let counts = crowd.stop();
    let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!((of(&counts.exhausted), of(&counts.unavailable)), (0, 0), "{counts:?}");
    settled(audit, line);
}

#[test]
fn a_budget_is_spent_to_its_end_and_not_beyond_through_upgrades() {
    let audit = Audit::start(2, 1, None, USD / 10);
    audit.with_faults();
    let mut line = Line::default();
    let crowd = audit.crowd(CLIENTS, 0, 8);
    let exhausted = || crowd.counts().exhausted.load(Ordering::Relaxed);
    for round in 0..20 {
        line.upgraded(&audit.replicas[0]);
        audit.check(&format!("after upgrade {round}"));
        if exhausted() > 200 {
            break;
        }
        wait::until("money is spent", || {
            (exhausted() > 200 || crowd.admitted() > 100 * (round + 1)).then_some(())
        });
    }
    let _ = crowd.stop();
    // Many were refused because others had reserved what they did not spend. Alone, one client gets nearly all of it.
    let alone = audit.crowd(1, 0, 9);
    wait::until("the budget is used up", || {
        let recorded = audit.check("one client alone");
        (recorded.spent > recorded.limit / 10 * 9).then_some(())
    });
    let _ = alone.stop();
    settled(audit, line);
}

/// A stream that takes some seconds, under way.
fn open_stream(audit: &Audit) -> sluice_tests::Client {
    let body = json!({
        "model": "openai/gpt-slow+tps=20,tokens=60",
        "stream": true,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": "slowly"}],
    });
    let request = Request::post("/v1/chat/completions", body.to_string());
    let mut client = audit.replicas[0].client();
    client.send(
        request
            .field("Authorization", &format!("Bearer {}", audit.keys[0]))
            .bytes(),
    );
    assert_eq!(client.begin().status, 200);
    client
}

#[test]
fn what_a_process_held_that_is_killed_after_it_has_handed_over_counts_as_spent() {
    let mut audit = Audit::start(2, 1, None, 1_000 * USD);
    let mut line = Line::default();
    let streams: Vec<_> = (0..4).map(|_| open_stream(&audit)).collect();
    line.upgraded(&audit.replicas[0]);
    // The old process is in the middle of the streams, with leases of its own.
    audit.check("two processes have leases");
    let old = audit.replicas[0].process();
    // SAFETY: a plain system call; the process is the test's own gateway.
    unsafe { libc::kill(old, libc::SIGKILL) };
    wait::until("it is dead", || is_gone(old).then_some(()));
    drop(streams);
    let crowd = audit.crowd(CLIENTS, 0, 9);
    traffic(&crowd, 100);
    audit.check("one of two is dead");
    // And the other one too, under load.
    line.end(libc::SIGKILL);
    audit.kill_and_revive(0);
    traffic(&crowd, 100);
    audit.check("both are dead");
    let _ = crowd.stop();
    audit.check("when traffic has stopped");
    audit.settle(false);
}

#[test]
fn a_new_process_that_dies_under_load_leaves_the_limit_intact() {
    let mut audit = Audit::start(2, 1, None, 1_000 * USD);
    let crowd = audit.crowd(CLIENTS, 0, 10);
    for round in 0..3 {
        let mut line = Line::default();
        line.upgraded(&audit.replicas[0]);
        assert_ne!(line.last(), audit.replicas[0].process());
        line.end(libc::SIGKILL);
        audit.kill_and_revive(0);
        traffic(&crowd, 50);
        audit.check(&format!("after death {round}"));
    }
    let _ = crowd.stop();
    audit.settle(false);
}

#[test]
fn a_key_that_has_used_up_its_requests_is_refused_by_the_next_process_too() {
    let audit = Audit::start(2, 1, None, 1_000 * USD);
    let made = audit.admin("POST", "/keys", &json!({"name": "limited"}));
    let limit = json!({"unit": "requests", "window": "day", "most": 3});
    assert_eq!(audit.admin("POST", "/keys/limited/limits", &limit).status, 201);
    let key = made.json()["key"].as_str().expect("a key").to_owned();
    let gateway = &audit.replicas[0];
    let ask = || {
        let request = Request::chat("openai/gpt-x").field("Authorization", &format!("Bearer {key}"));
        gateway.ask(&request.field("Connection", "close")).status
    };
    wait::until("the key is in force and used up", || (ask() == 429).then_some(()));
    let mut line = Line::default();
    for _ in 0..2 {
        line.upgraded(gateway);
        for _ in 0..4 {
            assert_eq!(ask(), 429);
        }
    }
}

#[test]
fn an_open_breaker_stays_open() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url())
        .set("/breaker/probe_interval", "1m")
        .set("/breaker/probe_interval_max", "1m")
        .cores(2)
        .start();
    let ask = || gateway.ask(&Request::chat("openai/sick+status=500").field("Connection", "close"));
    wait::until("the breaker opens", || {
        let _: Response = ask();
        (gateway.metric("sluice_breakers_opened_total") == 1).then_some(())
    });
    let mut line = Line::default();
    for _ in 0..2 {
        let attempts = sim.attempts().len();
        line.upgraded(&gateway);
        for _ in 0..8 {
            assert!(ask().status >= 500);
        }
        assert_eq!(sim.attempts().len(), attempts, "nobody is asked");
    }
}

#[test]
fn a_warm_cache_stays_warm() {
    let (sim, folder) = (Sim::start(), TempDir::new());
    let gateway = Setup::with(&sim.base_url())
        .set("/cache", json!({"default": {"mode": "exact"}}))
        .set("/cache/snapshot", folder.path().join("cache.bin").display().to_string())
        .cores(2)
        .start();
    let use_of = |model: &str| {
        let answer = gateway.ask(&Request::chat(model).field("Connection", "close"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.field("x-sluice-cache").unwrap_or("none").to_owned()
    };
    let models: Vec<String> = (0..10).map(|at| format!("openai/m{at}")).collect();
    for model in &models {
        assert_eq!(use_of(model), "miss");
        wait::until("every core has it", || {
            (0..4).all(|_| use_of(model) == "hit").then_some(())
        });
    }
    let asked = sim.attempts().len();
    let mut line = Line::default();
    for _ in 0..2 {
        line.upgraded(&gateway);
        wait::until("both cores have what was in the file", || {
            (gateway.metric("sluice_cache_entries") >= 2 * models.len() as u64).then_some(())
        });
        for model in &models {
            assert_eq!(use_of(model), "hit");
        }
        assert_eq!(sim.attempts().len(), asked);
    }
}
