//! Outages of a provider, each while another target is healthy: no client notices, the sick provider is not hammered, and it
//! is used again soon after it is well. What the simulators recorded is the proof.

use std::time::Duration;

use sluice_tests::netns;
use sluice_tests::traffic::{Report, Traffic};
use sluice_tests::{Gateway, Setup, Sim, Value, json, wait};

/// Clients that ask at the same time.
const CLIENTS: usize = 4;
/// How much later than the rule says an answer may come on a machine that does other things as well.
const SLACK: Duration = Duration::from_millis(400);

/// A provider that answers in five milliseconds, and is otherwise as `rules` say.
fn paced(sim: &Sim, rules: &[Value]) {
    let mut all = rules.to_vec();
    all.push(json!({"do": "latency_ms=5"}));
    sim.rules(&Value::from(all));
}

/// `openai` with these keys, whose every model falls back to `backup/spare`, on two cores.
fn backed(one: &Sim, two: &Sim, keys: &[&str]) -> Setup {
    paced(one, &[]);
    paced(two, &[]);
    Setup::new()
        .provider("openai", &one.base_url(), keys)
        .provider("backup", &two.base_url(), &["sk-backup"])
        .route(&["openai/*"], &["backup/spare"])
        .set("/timeouts/connect", "500ms")
        .set("/timeouts/first_byte", "1s")
        .set("/timeouts/first_token", "1s")
        .cores(2)
}

/// What clients see of the fallback itself, when nothing is wrong.
fn of_the_fallback(gateway: &Gateway) -> Report {
    let traffic = Traffic::start(gateway, CLIENTS, "backup/spare");
    traffic.pass(200);
    let report = traffic.stop();
    report.expect_no_failure("healthy");
    report
}

/// What clients see of `openai` for that long, during which none may fail.
fn during(gateway: &Gateway, what: &str, time: Duration) -> Report {
    let traffic = Traffic::start(gateway, CLIENTS, "openai/main");
    traffic.go_on(time);
    let report = traffic.stop();
    report.expect_no_failure(what);
    report
}

/// The share of slow answers during an outage, against the fallback's own: at most half as much again.
fn expect_as_fast(what: &str, outage: &Report, own: &Report) {
    let (seen, usual) = (outage.quantile(0.99), own.quantile(0.99));
    println!(
        "{what}: {} requests, p99 {seen:?}; the fallback's own {usual:?}",
        outage.0.len()
    );
    assert!(
        seen <= usual * 3 / 2 + SLACK,
        "{what}: p99 {seen:?}, the fallback's own {usual:?}"
    );
}

fn us(attempt: &Value, name: &str) -> u64 {
    attempt[name].as_u64().expect("a time")
}

/// Attempts in groups: those of one group began within half a second of each other.
fn bursts(attempts: &[Value]) -> Vec<Vec<Value>> {
    let mut bursts: Vec<Vec<Value>> = Vec::new();
    for attempt in attempts {
        match bursts.last_mut() {
            Some(burst) if us(attempt, "time_us") < us(&burst[burst.len() - 1], "time_us") + 500_000 => {
                burst.push(attempt.clone());
            }
            _ => bursts.push(vec![attempt.clone()]),
        }
    }
    bursts
}

/// Waits until the provider has answered once more.
fn expect_recovery(gateway: &Gateway, sim: &Sim) {
    let before = sim.attempts().len();
    let traffic = Traffic::start(gateway, CLIENTS, "openai/main");
    wait::until("the provider is used again", || {
        let attempts = sim.attempts();
        let again = attempts[before..]
            .iter()
            .filter(|attempt| attempt["outcome"] == "complete" && attempt["status"] == 200);
        (again.count() > 20).then_some(())
    });
    traffic.stop().expect_no_failure("recovery");
}

/// 22 minutes of 429 with a `Retry-After` of two minutes, at 120 times the speed.
#[test]
fn a_storm_of_429s_costs_no_request_and_hammers_nobody() {
    const STORM: Duration = Duration::from_secs(11);
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two, &["sk-a", "sk-b"]).start();
    let own = of_the_fallback(&gateway);
    paced(&one, &[json!({"do": "status=429,retry_after=1"})]);
    let storm = during(&gateway, "storm", STORM);
    let refused: Vec<Value> = one
        .attempts()
        .into_iter()
        .filter(|attempt| attempt["status"] == 429)
        .collect();
    println!("storm: {} attempts at the limited provider", refused.len());
    expect_as_fast("storm", &storm, &own);
    for key in ["sk-a", "sk-b"] {
        let attempts: Vec<Value> = refused
            .iter()
            .filter(|attempt| attempt["key"] == key)
            .cloned()
            .collect();
        let bursts = bursts(&attempts);
        assert!(
            !bursts.is_empty() && bursts.len() <= 12,
            "{key}: asked {} times in 11 s",
            bursts.len()
        );
        for burst in &bursts {
            assert!(
                burst.len() <= CLIENTS,
                "{key}: no request asks the same key twice: {burst:?}"
            );
        }
        for pair in bursts.windows(2) {
            let gap_us = us(&pair[1][0], "time_us") - us(&pair[0][0], "end_us");
            assert!(gap_us >= 950_000, "{key}: asked again after {gap_us} of 1000000 us");
        }
    }
    paced(&one, &[]);
    expect_recovery(&gateway, &one);
}

#[test]
fn a_revoked_key_rests_until_a_probe_finds_it_good_again() {
    std::thread::scope(|scope| {
        scope.spawn(|| revoke(&["sk-good", "sk-bad"], "openai"));
        scope.spawn(|| revoke(&["sk-bad"], "backup"));
    });
}

/// Revokes `sk-bad` of `keys` while clients ask, all of whom `healthy` answers meanwhile.
fn revoke(keys: &[&str], healthy: &str) {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two, keys).set("/key_rest/probe_interval", "1s").start();
    let own = of_the_fallback(&gateway);
    paced(&one, &[json!({"match": {"key": "sk-bad"}, "do": "status=401"})]);
    let report = during(&gateway, "revoked", Duration::from_secs(4));
    expect_as_fast("revoked key", &report, &own);
    assert_eq!(
        report.answered_by(healthy),
        report.0.len(),
        "the others answer everything"
    );
    let refused: Vec<Value> = one
        .attempts()
        .into_iter()
        .filter(|attempt| attempt["status"] == 401)
        .collect();
    let bursts = bursts(&refused);
    assert!(
        bursts[0].len() <= CLIENTS,
        "{} requests tried a key that had been refused",
        bursts[0].len()
    );
    // After one second, and two more: four seconds hold no third probe.
    assert!((2..=3).contains(&bursts.len()), "{} bursts", bursts.len());
    for probe in &bursts[1..] {
        assert_eq!(probe.len(), 1, "one request probes: {probe:?}");
    }
    assert_eq!(gateway.metric("sluice_keys_refused_total"), 1, "one alarm");
    paced(&one, &[]);
    let before = one.attempts().len();
    let traffic = Traffic::start(&gateway, CLIENTS, "openai/main");
    wait::until("the key is used again", || {
        let attempts = one.attempts();
        let good = attempts[before..]
            .iter()
            .filter(|attempt| attempt["key"] == "sk-bad" && attempt["status"] == 200);
        (good.count() > 5).then_some(())
    });
    traffic.stop().expect_no_failure("recovery");
}

/// What sick phases may cost: retries within the budget (a fifth of the requests, one a second and the first ten), and what
/// it takes to notice.
fn expect_within_budget(what: &str, gateway: &Gateway, sim: &Sim, report: &Report, time: Duration) {
    let attempts = sim.attempts().len();
    let retries = gateway.metric("sluice_upstream_retries_total") as usize;
    let budget = report.0.len() / 5 + time.as_secs() as usize + 1 + 10;
    println!(
        "{what}: {} requests, {attempts} attempts at the sick provider, {retries} of them retries",
        report.0.len()
    );
    // A connection that breaks before the answer may have been closed for being idle: the request is sent once more, on the
    // same budget.
    let repeated = gateway.metric("sluice_upstream_stale_connections_total") as usize;
    assert!(
        retries + repeated <= budget,
        "{what}: {retries} retries and {repeated} repetitions, {budget} allowed"
    );
    assert!(
        attempts <= report.0.len() + retries + repeated,
        "{what}: {attempts} attempts for {} requests",
        report.0.len()
    );
}

#[test]
fn a_provider_that_flaps_every_second_is_noticed_by_nobody() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two, &["sk-one"]).start();
    let own = of_the_fallback(&gateway);
    paced(&one, &[json!({"do": "status=503", "flap_ms": 1000})]);
    let time = Duration::from_secs(6);
    let report = during(&gateway, "flapping", time);
    expect_as_fast("flapping", &report, &own);
    expect_within_budget("flapping", &gateway, &one, &report, time);
    // Three sick seconds: five failures open the breaker, with others under way; then single probes.
    let failed = one.attempts().iter().filter(|attempt| attempt["status"] == 503).count();
    assert!(failed <= 3 * (5 + 2 * CLIENTS + 5), "{failed} attempts failed");
    paced(&one, &[]);
    expect_recovery(&gateway, &one);
}

#[test]
fn three_in_ten_failures_at_random_are_noticed_by_nobody() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two, &["sk-one"]).start();
    let own = of_the_fallback(&gateway);
    let faults = ["status=500", "reset=before_head", "reset=mid_body:20", "status=529"];
    // Each of the four applies to what the ones before have left: together 30 %.
    let rules: Vec<Value> = faults
        .iter()
        .map(|fault| json!({"do": fault, "probability": 0.085}))
        .collect();
    paced(&one, &rules);
    let time = Duration::from_secs(4);
    let report = during(&gateway, "random failures", time);
    expect_as_fast("random failures", &report, &own);
    expect_within_budget("random failures", &gateway, &one, &report, time);
    assert!(
        report.answered_by("openai") > report.0.len() / 20,
        "most of it still works, and is used"
    );
}

#[test]
fn a_provider_whose_packets_vanish_is_noticed_by_nobody() {
    netns::alone(|filter| {
        let (one, two) = (Sim::start(), Sim::start());
        let gateway = backed(&one, &two, &["sk-one"]).start();
        let own = of_the_fallback(&gateway);
        during(&gateway, "healthy", Duration::from_millis(300));
        let (known, asked) = (one.attempts().len(), gateway.metric("sluice_upstream_attempts_total"));
        let others = two.attempts().len();
        filter.black_hole(one.port());
        let report = during(&gateway, "black hole", Duration::from_secs(5));
        assert!(filter.lost() > 0, "packets were lost");
        assert_eq!(one.attempts().len(), known, "nothing reached it");
        assert_eq!(report.answered_by("backup"), report.0.len());
        // Those that the gateway made, but for the other provider's.
        let spent =
            (gateway.metric("sluice_upstream_attempts_total") - asked) as usize - (two.attempts().len() - others);
        let (seen, usual) = (report.quantile(0.95), own.quantile(0.99));
        println!(
            "black hole: {} requests, p95 {seen:?}, p99 {:?}, {spent} attempts in vain",
            report.0.len(),
            report.quantile(0.99)
        );
        // It is noticed by as many requests as are under way, in two rounds at most; then by single probes.
        assert!(spent <= 2 * CLIENTS + 6, "{spent} attempts at a silent provider");
        assert!(
            seen <= usual * 3 / 2 + SLACK,
            "p95 {seen:?}, the fallback's own p99 {usual:?}"
        );
        filter.heal();
        expect_recovery(&gateway, &one);
    });
}

#[test]
fn three_in_ten_packets_lost_on_the_way_to_a_provider_are_noticed_by_nobody() {
    netns::alone(|filter| {
        let (one, two) = (Sim::start(), Sim::start());
        let gateway = backed(&one, &two, &["sk-one"]).start();
        during(&gateway, "healthy", Duration::from_millis(300));
        filter.lose_some(one.port(), 30);
        let report = during(&gateway, "lost packets", Duration::from_secs(5));
        assert!(filter.lost() > 0, "packets were lost");
        println!(
            "lost packets: {} requests, p99 {:?}",
            report.0.len(),
            report.quantile(0.99)
        );
        filter.heal();
        expect_recovery(&gateway, &one);
    });
}
