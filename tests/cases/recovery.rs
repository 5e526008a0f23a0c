//! How a target that failed is left alone, tried again and trusted again; what the simulator recorded is the proof.

use std::time::Duration;

use sluice_tests::traffic::Traffic;
use sluice_tests::{Gateway, Request, Setup, Sim, Value, json, wait};

const CLIENTS: usize = 4;

fn sick(sim: &Sim, script: &str) {
    sim.rules(&json!([{"match": {"model": "main"}, "do": script}]));
}

/// `openai/main` falls back to `backup/spare`; a breaker that probes every 600 ms, and no retries.
fn backed(one: &Sim, two: &Sim, cores: usize) -> Gateway {
    two.rules(&json!([{"do": "latency_ms=5"}]));
    Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .provider("backup", &two.base_url(), &["sk-backup"])
        .route(&["openai/main"], &["backup/spare"])
        .set("/providers/openai/timeouts/first_byte", "400ms")
        .set("/providers/openai/timeouts/first_token", "400ms")
        .set("/breaker/probe_interval", "600ms")
        .set("/breaker/probe_interval_max", "600ms")
        .set("/retries/per_request", 0)
        .cores(cores)
        .start()
}

fn main_attempts(sim: &Sim) -> Vec<Value> {
    let mut attempts = sim.attempts();
    attempts.retain(|attempt| attempt["model"] == "main");
    attempts
}

fn us(attempt: &Value, name: &str) -> u64 {
    attempt[name].as_u64().expect("a time")
}

#[test]
fn a_failing_target_is_probed_by_one_request_at_a_time_and_trusted_after_one_interval() {
    let cases = [
        (1, "status=500"),
        (3, "status=503"),
        (2, "stall=before_head"),
        (2, "reset=before_head"),
    ];
    std::thread::scope(|scope| {
        for (cores, script) in cases {
            scope.spawn(move || probe(cores, script));
        }
    });
}

fn probe(cores: usize, script: &str) {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two, cores);
    sick(&one, script);
    let traffic = Traffic::start(&gateway, CLIENTS, "openai/main");
    traffic.go_on(Duration::from_millis(3500));
    traffic.stop().expect_no_failure(script);
    let attempts = main_attempts(&one);
    // Five failures open the breaker; what was under way by then comes on top. Then single probes.
    let (before, probes) = attempts.split_at(attempts.len().min(5 + CLIENTS));
    let opened = before
        .iter()
        .rev()
        .find(|attempt| us(attempt, "time_us") < us(&before[0], "time_us") + 500_000);
    let late: Vec<&Value> = before
        .iter()
        .chain(probes)
        .filter(|attempt| opened.is_some_and(|opened| us(attempt, "time_us") > us(opened, "time_us") + 100_000))
        .collect();
    assert!(
        (2..=7).contains(&late.len()),
        "{script} on {cores} cores: {} probes in 3.5 s",
        late.len()
    );
    for probe in &late {
        assert_eq!(probe["in_flight"], 1, "{script}: one probe at a time");
    }
    for pair in late.windows(2) {
        let gap_us = us(pair[1], "time_us") - us(pair[0], "time_us");
        assert!(gap_us >= 550_000, "{script}: probed again after {gap_us} us of 600000");
    }
    assert_eq!(gateway.metric("sluice_breakers_opened_total"), 1, "{script}");
    // Well again: the next probe finds out, and everybody is back.
    one.rules(&json!([]));
    let well_us = sluice_bench::sim::monotonic_us();
    let known = attempts.len();
    let traffic = Traffic::start(&gateway, CLIENTS, "openai/main");
    let first = wait::until("the target is trusted again", || {
        let attempts = main_attempts(&one);
        (attempts.len() > known + 20).then(|| attempts[known].clone())
    });
    traffic.stop().expect_no_failure(script);
    let waited_us = us(&first, "time_us").saturating_sub(well_us);
    assert!(
        waited_us < 3_000_000,
        "{script}: probed {waited_us} us after it was well"
    );
    assert_eq!(gateway.metric("sluice_breakers_closed_total"), 1, "{script}");
}

#[test]
fn a_late_success_of_an_old_request_trusts_nobody() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .provider("backup", &two.base_url(), &["sk-backup"])
        .route(&["openai/main"], &["backup/spare"])
        .set("/breaker/probe_interval", "1m")
        .set("/breaker/probe_interval_max", "1m")
        .set("/retries/per_request", 0)
        .cores(2)
        .start();
    // Slow, and well.
    sick(&one, "latency_ms=800");
    let mut old = gateway.client();
    old.send(Request::chat("openai/main").bytes());
    wait::until("the provider has it", || {
        (!main_attempts(&one).is_empty()).then_some(())
    });
    sick(&one, "status=500");
    for _ in 0..8 {
        assert_eq!(
            gateway.ask(&Request::chat("openai/main")).field("x-sluice-provider"),
            Some("backup")
        );
    }
    let failed = main_attempts(&one).len();
    assert_eq!(failed, 1 + 5, "five failures are enough");
    let answer = old.response();
    assert_eq!(
        (answer.status, answer.field("x-sluice-provider")),
        (200, Some("openai"))
    );
    one.rules(&json!([]));
    for request in [Request::chat("openai/main"), Request::stream("openai/main")] {
        assert_eq!(gateway.ask(&request).field("x-sluice-provider"), Some("backup"));
    }
    assert_eq!(
        main_attempts(&one).len(),
        failed,
        "it is left alone until its probe is due"
    );
    gateway.expect_metric("sluice_breakers_closed_total", 0);
}

#[test]
fn a_target_without_alternative_is_asked_all_the_same_and_spared_the_retries() {
    let one = Sim::start();
    let gateway = Setup::with(&one.base_url())
        .set("/timeouts/first_byte", "300ms")
        .cores(2)
        .start();
    sick(&one, "status=500");
    let mut client = gateway.client();
    const REQUESTS: usize = 40;
    for _ in 0..REQUESTS {
        assert_eq!(
            client.ask(&Request::chat("openai/main")).status,
            500,
            "the provider's own status"
        );
    }
    let attempts = main_attempts(&one).len();
    // Peers made three attempts of each request for as long as a provider was down.
    assert!(attempts <= REQUESTS + 12, "{attempts} attempts for {REQUESTS} requests");
    one.rules(&json!([]));
    wait::until("it answers again", || {
        (client.ask(&Request::chat("openai/main")).status == 200).then_some(())
    });
}

#[test]
fn a_provider_that_says_when_to_come_back_is_left_alone_until_then() {
    for (status, seen) in [(503, 503), (529, 503), (429, 429)] {
        let one = Sim::start();
        let gateway = Setup::with(&one.base_url()).cores(2).start();
        sick(&one, &format!("status={status},retry_after=2,times=1"));
        let first = gateway.ask(&Request::chat("openai/main"));
        assert_eq!(
            (first.status, first.field("retry-after")),
            (seen, Some("2")),
            "{first:?}"
        );
        let asked = main_attempts(&one);
        let end_us = us(&asked[asked.len() - 1], "end_us");
        let mut client = gateway.client();
        let mut refusals = 0;
        wait::until("the time is over", || {
            let answer = client.ask(&Request::chat("openai/main"));
            if answer.status == 200 {
                return Some(());
            }
            refusals += 1;
            let seconds = answer.field("retry-after").and_then(|value| value.parse::<u32>().ok());
            assert!(
                seconds.is_some_and(|seconds| (1..=3).contains(&seconds)),
                "{status}: {answer:?}"
            );
            None
        });
        assert!(refusals > 0, "{status}");
        let attempts = main_attempts(&one);
        assert_eq!(attempts.len(), asked.len() + 1, "{status}: nobody asked in between");
        let gap_us = us(&attempts[asked.len()], "time_us") - end_us;
        assert!(
            gap_us >= 1_950_000,
            "{status}: asked again after {gap_us} us of two seconds"
        );
    }
}

#[test]
fn a_short_fault_is_made_good_by_a_retry_at_the_same_target() {
    let one = Sim::start();
    let gateway = Setup::with(&one.base_url()).start();
    for (status, request) in [
        (503, Request::chat("openai/main")),
        (529, Request::stream("openai/main")),
    ] {
        let known = main_attempts(&one).len();
        sick(&one, &format!("status={status},times=1"));
        let answer = gateway.ask(&request);
        assert_eq!(
            (answer.status, answer.field("x-sluice-attempts")),
            (200, Some("2")),
            "{answer:?}"
        );
        assert_eq!(main_attempts(&one).len(), known + 2);
    }
}

#[test]
fn a_target_that_failed_is_asked_again_once_the_others_have_failed_too() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .provider("backup", &two.base_url(), &["sk-backup"])
        .route(&["openai/main"], &["backup/spare"])
        .start();
    two.rules(&json!([{"do": "status=500"}]));
    for request in [Request::chat("openai/main"), Request::stream("openai/main")] {
        let others = two.attempts().len();
        let known = main_attempts(&one).len();
        sick(&one, "status=503,times=1");
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.field("x-sluice-provider"), Some("openai"));
        assert_eq!(main_attempts(&one).len(), known + 2, "first and last");
        assert_eq!(two.attempts().len(), others + 2, "and one retry in between");
    }
}

#[test]
fn nobody_waits_for_a_second_try_while_another_target_is_well() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .provider("backup", &two.base_url(), &["sk-backup"])
        .route(&["openai/main"], &["backup/spare"])
        // Were there a pause, it would be noticed.
        .set("/retries", json!({"first_delay": "30s", "delay_max": "30s"}))
        .start();
    sick(&one, "status=503");
    for request in [Request::chat("openai/main"), Request::stream("openai/main")] {
        let answer = gateway.ask(&request);
        assert_eq!(answer.field("x-sluice-provider"), Some("backup"), "{answer:?}");
        assert_eq!(answer.field("x-sluice-attempts"), Some("2"));
    }
    gateway.expect_metric("sluice_upstream_retries_total", 0);
}
