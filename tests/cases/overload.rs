//! More requests than a provider is to have at a time: who waits, who goes elsewhere, who is told to come back.

use sluice_tests::{Gateway, Request, Setup, Sim, Value, json, wait};

fn tight(sim: &Sim, concurrency: Value) -> Setup {
    Setup::with(&sim.base_url()).set("/providers/openai/concurrency", concurrency)
}

fn most_at_once(sim: &Sim) -> u64 {
    sim.bill()["total"]["in_flight_max"].as_u64().expect("a number")
}

/// Begins `count` requests that the provider holds, and waits until it has them.
fn hold(gateway: &Gateway, sim: &Sim, count: usize) -> Vec<sluice_tests::Client> {
    let before = sim.attempts().len();
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let mut client = gateway.client();
            client.send(Request::chat("openai/held+stall=before_head").bytes());
            client
        })
        .collect();
    wait::until("the provider has all of them", || {
        (sim.attempts().len() == before + count).then_some(())
    });
    clients
}

#[test]
fn beyond_the_limit_and_the_wait_a_client_is_told_when_to_come_back() {
    let sim = Sim::start();
    let limits = json!({"limit": 2, "queue": 1, "queue_timeout": "300ms"});
    let gateway = tight(&sim, limits).start();
    let held = hold(&gateway, &sim, 2);
    for request in [Request::chat("openai/a"), Request::stream("openai/a")] {
        // This one waits, in vain; those beside it find the queue full.
        let mut waiting = gateway.client();
        waiting.send(request.bytes());
        gateway.expect_metric("sluice_requests_waiting", 1);
        let answer = gateway.ask(&request);
        assert_eq!(
            (answer.status, &*answer.error_code()),
            (503, "overloaded"),
            "{answer:?}"
        );
        assert_eq!(answer.field("retry-after"), Some("1"));
        let answer = waiting.response();
        assert_eq!(
            (answer.status, &*answer.error_code()),
            (503, "overloaded"),
            "{answer:?}"
        );
        assert_eq!(answer.field("retry-after"), Some("1"));
    }
    assert_eq!(sim.attempts().len(), 2, "nobody else reached the provider");
    drop(held);
    gateway.expect_healthy();
    assert_eq!(most_at_once(&sim), 2);
    gateway.expect_metric("sluice_overloads_total", 4);
    gateway.expect_metric("sluice_requests_queued_total", 2);
}

#[test]
fn a_target_without_a_place_is_replaced_by_the_next() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = tight(&one, json!({"limit": 1, "queue": 0}))
        .provider("backup", &two.base_url(), &["sk-two"])
        .route(&["openai/*"], &["backup/spare"])
        .start();
    let held = hold(&gateway, &one, 1);
    for request in [Request::chat("openai/a"), Request::stream("openai/a")] {
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.field("x-sluice-provider"), Some("backup"));
        assert_eq!(answer.field("x-sluice-fallback-reason"), Some("overloaded"));
        assert_eq!(
            answer.field("x-sluice-attempts"),
            Some("1"),
            "only one provider was asked"
        );
    }
    drop(held);
    gateway.expect_healthy();
    assert_eq!(two.attempts().len(), 2);
}

#[test]
fn who_waits_gets_the_places_that_come_back() {
    for cores in [1, 2] {
        let sim = Sim::start();
        let limits = json!({"limit": 2, "queue": 100, "queue_timeout": "20s"});
        let gateway = tight(&sim, limits).cores(cores).start();
        std::thread::scope(|scope| {
            for number in 0..24 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let model = "openai/a+latency_ms=20";
                    let request = if number % 2 == 0 {
                        Request::chat(model)
                    } else {
                        Request::stream(model)
                    };
                    let answer = gateway.ask(&request);
                    assert_eq!(answer.status, 200, "{answer:?}");
                });
            }
        });
        let limit = 2 * cores as u64;
        assert!(
            most_at_once(&sim) <= limit,
            "{} at once on {cores} cores",
            most_at_once(&sim)
        );
        gateway.expect_metric("sluice_overloads_total", 0);
        assert_eq!(sim.attempts().len(), 24);
        gateway.expect_metric("sluice_requests_waiting", 0);
    }
}

#[test]
fn a_client_that_leaves_the_queue_never_reaches_the_provider() {
    let sim = Sim::start();
    let limits = json!({"limit": 1, "queue": 10, "queue_timeout": "20s"});
    let gateway = tight(&sim, limits).start();
    let held = hold(&gateway, &sim, 1);
    let mut waiting = Vec::new();
    for model in ["openai/gone", "openai/stays", "openai/gone"] {
        let mut client = gateway.client();
        client.send(Request::chat(model).bytes());
        waiting.push(client);
        gateway.expect_metric("sluice_requests_waiting", waiting.len() as u64);
    }
    drop(waiting.remove(2));
    drop(waiting.remove(0));
    gateway.expect_metric("sluice_requests_waiting", 1);
    drop(held);
    assert_eq!(waiting[0].response().status, 200);
    let models: Vec<Value> = sim.attempts().iter().map(|attempt| attempt["model"].clone()).collect();
    assert_eq!(models[1..], [json!("stays")]);
    gateway.expect_healthy();
}

#[test]
fn a_request_waits_no_longer_than_its_own_time() {
    let sim = Sim::start();
    let gateway = tight(&sim, json!({"limit": 1, "queue": 10, "queue_timeout": "20s"})).start();
    let _held = hold(&gateway, &sim, 1);
    let begun = std::time::Instant::now();
    let answer = gateway.ask(&Request::chat("openai/a").field("x-sluice-timeout-ms", "200"));
    assert_eq!(
        (answer.status, &*answer.error_code()),
        (503, "overloaded"),
        "{answer:?}"
    );
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn an_adaptive_limit_shrinks_while_a_provider_has_no_capacity() {
    let sim = Sim::start();
    let limits = json!({"limit": 64, "adaptive": true, "queue": 0});
    let gateway = tight(&sim, limits)
        .set("/breaker/enabled", false)
        .set("/retries/per_request", 0)
        .start();
    let mut client = gateway.client();
    // The provider answers 503 to everything for a while: the limit shrinks step by step, from the 32 that it begins with.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_millis(1500) {
        assert_eq!(client.ask(&Request::chat("openai/a+status=503")).status, 503);
    }
    let mut clients = Vec::new();
    while gateway.metric("sluice_overloads_total") == 0 {
        let mut client = gateway.client();
        client.send(Request::chat("openai/held+stall=before_head").bytes());
        clients.push(client);
        assert!(clients.len() < 30, "the limit has not shrunk");
    }
}

#[test]
fn a_copy_for_a_shadow_target_takes_nobodys_place() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = tight(&one, json!({"limit": 1, "queue": 10}))
        .provider("backup", &two.base_url(), &["sk-two"])
        .route(&["backup/*"], &[])
        .set("/routes/0/shadow", json!({"model": "openai/copy", "share": 1}))
        .start();
    let held = hold(&gateway, &one, 1);
    for request in [Request::chat("backup/a"), Request::stream("backup/a")] {
        assert_eq!(gateway.ask(&request).status, 200);
    }
    assert_eq!(one.attempts().len(), 1, "there is no place for a copy");
    gateway.expect_metric("sluice_shadow_requests_total", 0);
    drop(held);
    gateway.expect_healthy();
    wait::until("a copy is sent", || {
        assert_eq!(gateway.ask(&Request::chat("backup/a")).status, 200);
        (gateway.metric("sluice_shadow_requests_total") > 0).then_some(())
    });
    assert_eq!(most_at_once(&one), 1);
}
