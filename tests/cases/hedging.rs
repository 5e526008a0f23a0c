//! A second target beside a late first one: who wins, who is cancelled, and what is known of it afterwards.

use std::time::{Duration, Instant};

use sluice_tests::{Gateway, Request, Response, Setup, Sim, json, wait};

/// `openai/*` with `backup/spare` beside it after 150 ms.
fn hedged(one: &Sim, two: &Sim, hedge: sluice_tests::Value) -> Setup {
    Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .provider("backup", &two.base_url(), &["sk-two"])
        .route(&["openai/*"], &["backup/spare"])
        .set("/routes/0/hedge", hedge)
}

fn fixed(one: &Sim, two: &Sim) -> Setup {
    hedged(one, two, json!({"delay": "150ms"}))
}

fn both(model: &str) -> [Request; 2] {
    [Request::chat(model), Request::stream(model)]
}

fn expect_from(answer: &Response, provider: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.is_complete());
    assert_eq!(answer.field("x-sluice-provider"), Some(provider), "{answer:?}");
    let streamed = answer
        .field("content-type")
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    if streamed {
        assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
        assert!(!answer.text().contains("\"error\""));
    }
}

#[test]
fn the_second_target_wins_and_the_first_is_cancelled_at_once() {
    for setup in [Setup::cores as fn(Setup, usize) -> Setup, |setup, _| setup.epoll()] {
        for (cores, script) in [(1, "latency_ms=30000"), (2, "first_token_ms=30000")] {
            let (one, two) = (Sim::start(), Sim::start());
            let gateway = setup(fixed(&one, &two), cores).start();
            let requests = both(&format!("openai/main+{script}"));
            let streamed_only = script.starts_with("first_token");
            for request in requests.into_iter().skip(usize::from(streamed_only)) {
                let mut client = gateway.client();
                let begun = Instant::now();
                let answer = client.ask(&request);
                expect_from(&answer, "backup");
                assert_eq!(answer.field("x-sluice-attempts"), Some("2"));
                assert_eq!(answer.field("x-sluice-fallback-reason"), Some("late"));
                assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
                let lost = one.last_outcome("cancelled");
                let late_us = lost["end_us"]
                    .as_u64()
                    .zip(lost["time_us"].as_u64())
                    .map(|(end, begun)| end - begun);
                assert!(late_us.is_some_and(|us| us < 5_000_000), "{lost}");
                assert_eq!(client.ask(&Request::chat("backup/other")).status, 200);
            }
            let line = gateway.request_lines(1).remove(0);
            let given_up = &line["tries"][0];
            assert_eq!(
                (&given_up["provider"], &given_up["key"], &given_up["result"]),
                (&json!("openai"), &json!("OPENAI_KEY_0"), &json!("given_up"))
            );
            assert_eq!(
                gateway.metric("sluice_hedges_total"),
                gateway.metric("sluice_hedges_won_total")
            );
        }
    }
}

#[test]
fn a_first_target_in_time_is_alone() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = fixed(&one, &two).start();
    for request in both("openai/main+tokens=10,tps=40") {
        let answer = gateway.ask(&request);
        expect_from(&answer, "openai");
        assert_eq!(answer.field("x-sluice-attempts"), Some("1"));
    }
    assert_eq!(two.attempts().len(), 0);
    gateway.expect_metric("sluice_hedges_total", 0);
}

#[test]
fn a_late_first_target_still_wins_against_a_later_second_one() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = fixed(&one, &two).start();
    two.rules(&json!([{"do": "latency_ms=30000"}]));
    for request in both("openai/main+latency_ms=600") {
        expect_from(&gateway.ask(&request), "openai");
        two.last_outcome("cancelled");
    }
    gateway.expect_metric("sluice_hedges_total", 2);
    gateway.expect_metric("sluice_hedges_won_total", 0);
    let lines = gateway.request_lines(2);
    assert!(
        lines.iter().all(|line| line["tries"][0]["provider"] == "backup"),
        "{lines:?}"
    );
}

#[test]
fn the_failure_of_one_leaves_the_other() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = fixed(&one, &two).start();
    // The first fails while the second is under way.
    two.rules(&json!([{"do": "latency_ms=600"}]));
    for fault in ["latency_ms=400,status=500", "latency_ms=400,reset=before_head"] {
        for request in both(&format!("openai/main+{fault}")) {
            expect_from(&gateway.ask(&request), "backup");
        }
    }
    // The second fails while the first is under way.
    two.rules(&json!([{"do": "status=500"}]));
    for request in both("openai/main+latency_ms=600") {
        expect_from(&gateway.ask(&request), "openai");
    }
    // Both fail.
    two.rules(&json!([{"do": "status=500,message=second"}]));
    let answer = gateway.ask(&Request::chat("openai/main+latency_ms=600,status=500,message=first"));
    assert_eq!(answer.status, 500, "{answer:?}");
}

#[test]
fn a_client_that_leaves_takes_both_with_it() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = fixed(&one, &two).start();
    two.rules(&json!([{"do": "latency_ms=30000"}]));
    for request in both("openai/main+latency_ms=30000") {
        let (mine, others) = (one.attempts().len(), two.attempts().len());
        let mut client = gateway.client();
        client.send(request.bytes());
        wait::until("both are asked", || {
            (one.attempts().len() > mine && two.attempts().len() > others).then_some(())
        });
        drop(client);
        one.last_outcome("cancelled");
        two.last_outcome("cancelled");
    }
}

fn ask_often(gateway: &Gateway, times: usize, model: &str) {
    let mut client = gateway.client();
    for _ in 0..times {
        assert_eq!(client.ask(&Request::stream(model)).status, 200);
    }
}

#[test]
fn without_a_number_the_delay_is_learnt_from_the_target() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = hedged(&one, &two, json!({})).start();
    one.rules(&json!([{"do": "latency_ms=10"}]));
    ask_often(&gateway, 15, "openai/main");
    one.rules(&json!([{"do": "latency_ms=300"}]));
    ask_often(&gateway, 1, "openai/main");
    assert_eq!(gateway.metric("sluice_hedges_total"), 0, "too little is known of it");
    one.rules(&json!([{"do": "latency_ms=10"}]));
    ask_often(&gateway, 60, "openai/main");
    let before = gateway.metric("sluice_hedges_total");
    one.rules(&json!([{"do": "latency_ms=5000"}]));
    let begun = Instant::now();
    expect_from(&gateway.ask(&Request::stream("openai/main")), "backup");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    gateway.expect_metric("sluice_hedges_total", before + 1);
}

#[test]
fn a_provider_that_is_always_late_does_not_double_the_load_of_the_other() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = hedged(&one, &two, json!({"delay": "20ms", "budget": 0.1})).start();
    one.rules(&json!([{"do": "latency_ms=100"}]));
    two.rules(&json!([{"do": "latency_ms=5"}]));
    ask_often(&gateway, 40, "openai/main");
    let hedges = gateway.metric("sluice_hedges_total");
    let denied = gateway.metric("sluice_hedges_denied_total");
    assert!(
        hedges <= 10 + 4 + 10 && hedges + denied == 40,
        "{hedges} second attempts: ten to begin with, a tenth of the requests, and one a second"
    );
    assert_eq!(two.attempts().len() as u64, hedges);
}

#[test]
fn the_second_target_may_speak_another_dialect() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .vendor(
            "anthropic",
            "anthropic",
            &two.base_url().replace("/v1", ""),
            &["sk-two"],
        )
        .route(&["openai/*"], &["anthropic/claude"])
        .set("/routes/0/hedge", json!({"delay": "150ms"}))
        .start();
    for request in both("openai/main+latency_ms=30000") {
        expect_from(&gateway.ask(&request), "anthropic");
        one.last_outcome("cancelled");
    }
}

#[test]
fn whoever_waits_for_a_hedged_request_is_answered_by_the_target_that_wins() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = fixed(&one, &two)
        .set("/routes/0/cache", json!({"mode": "exact"}))
        .start();
    for request in both("openai/main+latency_ms=30000") {
        let asked = two.attempts().len();
        let mut clients: Vec<_> = (0..3).map(|_| gateway.client()).collect();
        for client in &mut clients {
            client.send(request.bytes());
        }
        let answers: Vec<Response> = clients.iter_mut().map(|client| client.response()).collect();
        let asked_it = |answer: &&Response| answer.field("x-sluice-provider").is_some();
        let (first, others): (Vec<_>, Vec<_>) = answers.iter().partition(asked_it);
        assert_eq!((first.len(), others.len()), (1, 2), "{answers:?}");
        expect_from(first[0], "backup");
        for other in others {
            assert_eq!((other.status, &other.body), (200, &first[0].body), "{other:?}");
        }
        assert_eq!(two.attempts().len(), asked + 1, "one asks, and the others read along");
    }
    gateway.expect_metric("sluice_cache_hits_in_flight_total", 4);
}
