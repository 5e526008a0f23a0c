//! How long a request may take: per phase, per route and per request, and what happens when the time is over.

use std::time::{Duration, Instant};

use sluice_tests::origin::Origin;
use sluice_tests::{Gateway, Request, Setup, Sim, json};

/// Far longer than any limit here, far shorter than the tests' patience: a limit that is not heeded is noticed.
const TOO_LONG: Duration = Duration::from_secs(10);

fn both(model: &str) -> [Request; 2] {
    [Request::chat(model), Request::stream(model)]
}

fn expect_late(gateway: &Gateway, request: &Request) -> Duration {
    let begun = Instant::now();
    let answer = gateway.ask(request);
    let took = begun.elapsed();
    assert_eq!(
        (answer.status, &*answer.error_code()),
        (504, "upstream_timeout"),
        "{answer:?}"
    );
    assert!(took < TOO_LONG, "{took:?}");
    took
}

#[test]
fn a_client_bounds_its_request_retries_included() {
    let (one, two) = (Sim::start(), Sim::start());
    for cores in [1, 2] {
        let gateway = Setup::new()
            .provider("openai", &one.base_url(), &["sk-one"])
            .provider("backup", &two.base_url(), &["sk-two"])
            .route(&["openai/*"], &["backup/a+latency_ms=30000"])
            .set("/timeouts/first_byte", "250ms")
            .cores(cores)
            .start();
        // The first target takes 250 ms of the 400, the second one what is left.
        for request in both("openai/a+latency_ms=30000") {
            let took = expect_late(&gateway, &request.field("x-sluice-timeout-ms", "400"));
            assert!(took >= Duration::from_millis(300), "{took:?}");
        }
        // With no time left for it, the second is not asked.
        let before = two.attempts().len();
        for request in both("openai/a+latency_ms=30000") {
            expect_late(&gateway, &request.field("X-Sluice-Timeout-Ms", "100"));
        }
        assert_eq!(two.attempts().len(), before);
        gateway.expect_healthy();
    }
    for sim in [&one, &two] {
        assert!(
            sim.attempts()
                .iter()
                .all(|attempt| attempt["model"] == "healthy" || attempt["outcome"] != "complete")
        );
    }
}

#[test]
fn a_timeout_that_is_no_number_is_refused_by_name() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    let mut client = gateway.client();
    for value in ["0", "soon", "-1", "1.5", "86400001", "99999999999999999999999"] {
        for request in both("openai/a") {
            let answer = client.ask(&request.field("x-sluice-timeout-ms", value));
            assert_eq!(
                (answer.status, &*answer.error_code()),
                (400, "invalid_parameter"),
                "{value}"
            );
            assert_eq!(answer.json()["error"]["param"], "x-sluice-timeout-ms");
        }
    }
    assert_eq!(sim.attempts().len(), 0);
    assert_eq!(
        client
            .ask(&Request::chat("openai/a").field("x-sluice-timeout-ms", "86400000"))
            .status,
        200
    );
}

#[test]
fn an_sdk_gets_its_504_before_it_gives_up_unless_that_is_switched_off() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    for field in ["x-stainless-read-timeout", "X-Stainless-Timeout"] {
        for request in both("openai/a+latency_ms=30000") {
            let took = expect_late(&gateway, &request.field(field, "1"));
            assert!(took >= Duration::from_millis(800), "{took:?}");
        }
    }
    // A stream that has begun goes on: the SDK waits for each piece, not for the whole.
    let slow = Request::stream("openai/s+tokens=30,tps=20").field("x-stainless-read-timeout", "0.5");
    let answer = gateway.ask(&slow);
    assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
    // What is no number of seconds says nothing.
    let vague = Request::chat("openai/a+latency_ms=200").field("x-stainless-read-timeout", "None");
    assert_eq!(gateway.ask(&vague).status, 200);
    let gateway = Setup::with(&sim.base_url()).set("/server/sdk_timeouts", false).start();
    for request in both("openai/a+latency_ms=300") {
        let answer = gateway.ask(&request.field("x-stainless-read-timeout", "0.1"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn a_total_limit_ends_a_stream_that_has_begun_as_interrupted() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    let mut client = gateway.client();
    let request = Request::stream("openai/s+tokens=2000,tps=20").field("x-sluice-timeout-ms", "400");
    client.send(request.bytes());
    let mut answer = client.begin();
    while client.more(&mut answer) {}
    assert!(!answer.is_complete());
    assert!(answer.text().contains("upstream_stream_interrupted"), "{answer:?}");
    assert!(!answer.text().contains("[DONE]"));
    let attempt = sim.last_outcome("cancelled");
    assert!(attempt["events"].as_u64().is_some_and(|events| events > 0), "{attempt}");
    gateway.expect_healthy();
}

#[test]
fn a_late_first_token_is_another_targets_chance_translated_or_not() {
    let (one, two) = (Sim::start(), Sim::start());
    let anthropic = one.base_url().replace("/v1", "");
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .vendor("anthropic", "anthropic", &anthropic, &["sk-ant"])
        .provider("backup", &two.base_url(), &["sk-two"])
        .route(&["openai/*", "anthropic/*"], &["backup/spare"])
        .set("/routes/0/timeouts", json!({"first_token": "300ms"}))
        .start();
    let claude_to_gpt = |script: &str| {
        let body = format!(
            r#"{{"model":"openai/a+{script}","max_tokens":9,"stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}"#
        );
        Request::post("/v1/messages", body).field("anthropic-version", "2023-06-01")
    };
    for script in ["first_token_ms=30000", "latency_ms=30000"] {
        for request in [
            Request::stream(&format!("openai/a+{script}")),
            Request::stream(&format!("anthropic/a+{script}")),
            claude_to_gpt(script),
        ] {
            let begun = Instant::now();
            let answer = gateway.ask(&request);
            assert_eq!(answer.status, 200, "{script}: {answer:?}");
            assert_eq!(answer.field("x-sluice-provider"), Some("backup"), "{script}");
            assert_eq!(
                answer.field("x-sluice-fallback-reason"),
                Some("upstream_timeout"),
                "{script}"
            );
            assert!(answer.is_complete() && begun.elapsed() < TOO_LONG, "{script}");
        }
    }
    // An answer that is not streamed has no first token; its own limit is that of the first byte.
    for model in ["openai/a+latency_ms=600", "anthropic/a+latency_ms=600"] {
        let answer = gateway.ask(&Request::chat(model));
        assert_ne!(answer.field("x-sluice-provider"), Some("backup"), "{answer:?}");
    }
    assert!(one.attempts().iter().any(|attempt| attempt["outcome"] == "cancelled"));
}

#[test]
fn time_that_runs_out_while_connecting_is_a_timeout_too() {
    // Listens, and never completes a TLS handshake.
    let origin = Origin::start(|_, mut socket| {
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let gateway = Setup::with(&origin.base_url().replace("http://", "https://")).start();
    for request in both("openai/a") {
        expect_late(&gateway, &request.field("x-sluice-timeout-ms", "200"));
    }
}
