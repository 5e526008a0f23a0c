//! What a client sees when a provider, or a client, does wrong. After each fault a plain request is answered.

use std::io::Write;
use std::time::{Duration, Instant};

use sluice_tests::origin::{ClosedPort, Origin, answer_once, read_request};
use sluice_tests::{Client, Gateway, Request, Response, Setup, Sim, Value, json, wait};

/// A gateway with one provider, whose patience is short.
fn hasty(sim: &Sim) -> Setup {
    Setup::with(&sim.base_url())
        .set("/timeouts/first_byte", "300ms")
        .set("/timeouts/first_token", "300ms")
        .set("/timeouts/stream_idle", "300ms")
}

/// Two providers; every model of the first falls back to `spare` of the second.
fn with_backup(one: &str, two: &str, keys: &[&str]) -> Setup {
    Setup::new()
        .provider("openai", one, keys)
        .provider("backup", two, &["sk-backup"])
        .route(&["openai/*"], &["backup/spare"])
        .set("/timeouts/first_byte", "300ms")
        .set("/timeouts/first_token", "300ms")
        .set("/timeouts/stream_idle", "300ms")
        .set("/timeouts/connect", "2s")
}

fn both(model: &str) -> [Request; 2] {
    [Request::chat(model), Request::stream(model)]
}

/// Checks that the answer is the backup's.
fn expect_backup(answer: &Response, reason: &str) {
    assert_eq!(answer.status, 200, "{reason}: {answer:?}");
    assert_eq!(answer.field("x-sluice-provider"), Some("backup"), "{reason}");
    assert_eq!(answer.field("x-sluice-fallback-reason"), Some(reason));
    assert!(answer.text().contains("\"spare\""), "{reason}: {answer:?}");
    if answer
        .field("content-type")
        .is_some_and(|kind| kind.starts_with("text/event-stream"))
    {
        assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
    }
}

/// Checks that a stream which had begun ends as one that was cut: one error event, nothing that looks like an end.
fn expect_interrupted(client: &mut Client, answer: &Response) {
    assert_eq!(answer.status, 200);
    assert!(!answer.is_complete(), "no final chunk may come: {answer:?}");
    let events = answer.events();
    let errors: Vec<&String> = events
        .iter()
        .filter(|event| event.contains("upstream_stream_interrupted"))
        .collect();
    assert_eq!(errors.len(), 1, "{events:?}");
    assert_eq!(events.last(), errors.first().copied(), "the error is the last event");
    let error: Value = serde_json::from_str(errors[0]).expect("the error event is JSON");
    assert_eq!(error["error"]["code"], "upstream_stream_interrupted");
    assert!(!answer.text().contains("[DONE]"), "{events:?}");
    assert!(
        answer.text().ends_with("\n\n"),
        "nothing of a torn event is left behind it"
    );
    client.expect_closed();
}

/// Faults before a byte of the answer can be passed on: script, code and status with nothing left to try.
const EARLY: &[(&str, &str, u16)] = &[
    ("reset=before_head", "upstream_reset", 502),
    ("close=before_head", "upstream_reset", 502),
    ("reset=mid_head", "upstream_reset", 502),
    ("close=mid_head", "upstream_reset", 502),
    ("stall=before_head", "upstream_timeout", 504),
    ("stall=mid_head", "upstream_timeout", 504),
    ("latency_ms=30000", "upstream_timeout", 504),
    ("malformed=status_line", "upstream_protocol_error", 502),
    ("malformed=header", "upstream_protocol_error", 502),
    ("malformed=nul", "upstream_protocol_error", 502),
    ("malformed=two_lengths", "upstream_protocol_error", 502),
    ("malformed=length_and_chunked", "upstream_protocol_error", 502),
    ("giant_header=40000", "upstream_protocol_error", 502),
    ("many_headers=200", "upstream_protocol_error", 502),
    ("interim=17", "upstream_protocol_error", 502),
    (
        "status=301,location=http://127.0.0.1:1/v1/chat/completions",
        "upstream_protocol_error",
        502,
    ),
    ("status=307,location=/v1/elsewhere", "upstream_protocol_error", 502),
];

/// Faults of a unary answer's body.
const UNARY: &[(&str, &str, u16)] = &[
    ("truncate=10", "upstream_protocol_error", 502),
    ("reset=mid_body", "upstream_reset", 502),
    ("close=mid_body", "upstream_protocol_error", 502),
    ("stall=mid_body", "upstream_timeout", 504),
    ("chunked,malformed=chunk_size", "upstream_protocol_error", 502),
    ("malformed=json", "upstream_protocol_error", 502),
];

/// Faults of a stream before its first token.
const SILENT: &[(&str, &str, u16)] = &[
    ("first_token_ms=30000", "upstream_timeout", 504),
    ("stall=mid_stream:0", "upstream_timeout", 504),
    ("close=mid_stream:0", "upstream_protocol_error", 502),
    ("reset=mid_stream:0", "upstream_reset", 502),
];

#[test]
fn a_fault_before_the_answer_is_an_error_with_its_own_code() {
    for (setup, cores) in [(false, 1), (false, 2), (true, 1)] {
        let sim = Sim::start();
        let gateway = if setup { hasty(&sim).epoll() } else { hasty(&sim) }
            .cores(cores)
            .start();
        let cases = EARLY.iter().map(|case| (case, true, true));
        let cases = cases.chain(UNARY.iter().map(|case| (case, true, false)));
        let cases = cases.chain(SILENT.iter().map(|case| (case, false, true)));
        // All at once: most of them only wait.
        std::thread::scope(|scope| {
            for (&(script, code, status), unary, streamed) in cases {
                let gateway = &gateway;
                scope.spawn(move || {
                    let [chat, stream] = both(&format!("openai/a+{script}"));
                    for (request, wanted) in [(chat, unary), (stream, streamed)] {
                        if wanted {
                            let mut client = gateway.client();
                            let answer = client.ask(&request);
                            assert_eq!(
                                (answer.status, &*answer.error_code()),
                                (status, code),
                                "{script}: {answer:?}"
                            );
                            assert!(!answer.text().contains("127.0.0.1"), "no upstream address: {answer:?}");
                            // The client's connection is as good as before.
                            assert_eq!(client.ask(&Request::chat("openai/b")).status, 200, "{script}");
                        }
                    }
                });
            }
        });
        gateway.expect_healthy();
    }
}

#[test]
fn a_fault_before_the_first_token_is_covered_by_the_fallback() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = with_backup(&one.base_url(), &two.base_url(), &["sk-one"]).start();
    let cases = EARLY.iter().map(|case| (case, true, true));
    let cases = cases.chain(UNARY.iter().map(|case| (case, true, false)));
    let cases = cases.chain(SILENT.iter().map(|case| (case, false, true)));
    std::thread::scope(|scope| {
        for (&(script, code, _), unary, streamed) in cases {
            let gateway = &gateway;
            scope.spawn(move || {
                let [chat, stream] = both(&format!("openai/a+{script}"));
                for (request, wanted) in [(chat, unary), (stream, streamed)] {
                    if wanted {
                        let answer = gateway.ask(&request);
                        expect_backup(&answer, code);
                        assert_eq!(answer.field("x-sluice-attempts"), Some("2"), "{script}");
                    }
                }
            });
        }
    });
    gateway.expect_healthy();
}

#[test]
fn a_provider_that_refuses_connections_is_replaced_or_named() {
    let (closed, two) = (ClosedPort::new(), Sim::start());
    let gateway = with_backup(&closed.base_url(), &two.base_url(), &["sk-one"]).start();
    for request in both("openai/a") {
        expect_backup(&gateway.ask(&request), "upstream_connect_failed");
    }
    let gateway = Setup::with(&closed.base_url())
        .provider("backup", &two.base_url(), &["sk-backup"])
        .start();
    for request in both("openai/a") {
        let mut client = gateway.client();
        let answer = client.ask(&request);
        assert_eq!((answer.status, &*answer.error_code()), (502, "upstream_connect_failed"));
        assert_eq!(client.ask(&Request::chat("backup/b")).status, 200);
    }
}

#[test]
fn a_stream_that_breaks_after_it_has_begun_ends_with_one_error_event_and_without_an_end() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let (one, two) = (Sim::start(), Sim::start());
        let gateway = setup
            .provider("openai", &one.base_url(), &["sk-one"])
            .provider("backup", &two.base_url(), &["sk-backup"])
            .route(&["openai/*"], &["backup/spare"])
            .set("/timeouts/stream_idle", "300ms")
            .start();
        for script in [
            "close=mid_stream:3",
            "reset=mid_stream:3",
            "stall=mid_stream:3",
            // Slowly, so that the good events are not in one piece with the bad one.
            "malformed=chunk_size,malformed_at=4,tps=50",
            "write_bytes=11,close=mid_stream:3",
        ] {
            let mut client = gateway.client();
            client.send(Request::stream(&format!("openai/s+{script}")).bytes());
            let mut answer = client.begin();
            while client.more(&mut answer) {}
            expect_interrupted(&mut client, &answer);
            assert!(
                answer.events().len() > 2,
                "{script}: what came before is delivered: {answer:?}"
            );
            assert_eq!(
                answer.field("x-sluice-provider"),
                Some("openai"),
                "nothing is retried any more"
            );
        }
        assert_eq!(two.attempts().len(), 0);
        gateway.expect_metric("sluice_streams_interrupted_total", 5);
        gateway.expect_healthy();
    }
}

#[test]
fn a_complete_stream_without_done_gets_its_done() {
    let sim = Sim::start();
    let gateway = hasty(&sim).start();
    let mut client = gateway.client();
    for script in ["no_done", "no_done,truncate=1", "truncate=1", "no_done,write_bytes=13"] {
        let answer = client.ask(&Request::stream(&format!("openai/s+{script}")));
        let events = answer.events();
        assert_eq!(
            events.last().map(|last| &**last),
            Some("[DONE]"),
            "{script}: {events:?}"
        );
        assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1, "{script}");
        assert!(!answer.text().contains("interrupted"), "{script}");
    }
    assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
}

#[test]
fn a_malformed_event_within_a_good_stream_is_forwarded_as_it_came() {
    let sim = Sim::start();
    let gateway = hasty(&sim).start();
    let request = Request::stream("s+malformed=event,malformed_at=3").field("Authorization", "Bearer sk-direct");
    let direct = Client::connect(sim_address(&sim)).ask(&request);
    assert_eq!(direct.status, 200, "{direct:?}");
    let answer = gateway.ask(&Request::stream("openai/s+malformed=event,malformed_at=3"));
    let (direct, answer) = (direct.events(), answer.events());
    assert_eq!(answer.len(), direct.len());
    assert_eq!(answer.last().map(|last| &**last), Some("[DONE]"));
    let broken = |events: &[String]| -> Vec<String> {
        let not_json = |event: &&String| *event != "[DONE]" && serde_json::from_str::<Value>(event).is_err();
        events.iter().filter(not_json).cloned().collect()
    };
    assert_eq!(broken(&answer).len(), 1, "{answer:?}");
    gateway.expect_healthy();
}

fn sim_address(sim: &Sim) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([127, 0, 0, 1], sim.port()))
}

#[test]
fn bytes_behind_an_answer_cost_the_connection_and_nothing_else() {
    let sim = Sim::start();
    let gateway = hasty(&sim).start();
    let mut client = gateway.client();
    for request in both("openai/a+trailing=40") {
        for _ in 0..3 {
            let answer = client.ask(&request);
            assert_eq!(answer.status, 200);
        }
        let answer = client.ask(&Request::chat("openai/b"));
        assert_eq!(answer.json()["model"], "b", "the stray bytes are nobody's answer");
    }
    assert!(gateway.metric("sluice_upstream_connects_total") >= 6);
    gateway.expect_metric("sluice_upstream_attempts_failed_total", 0);
}

#[test]
fn a_rate_limited_key_is_replaced_by_another_then_by_the_fallback() {
    let (one, two) = (Sim::start(), Sim::start());
    let keys = ["sk-a+status=429,retry_after=7", "sk-b"];
    let gateway = with_backup(&one.base_url(), &two.base_url(), &keys).start();
    for request in both("openai/a") {
        for _ in 0..10 {
            let answer = gateway.ask(&request);
            assert_eq!(answer.status, 200);
            assert_eq!(answer.field("x-sluice-key"), Some("OPENAI_KEY_1"));
            assert_eq!(answer.field("x-sluice-provider"), Some("openai"));
        }
    }
    assert!(
        gateway.metric("sluice_upstream_attempts_failed_total") > 0,
        "both keys were drawn"
    );
    let keys = ["sk-a+status=429,retry_after=7", "sk-b+status=429"];
    let gateway = with_backup(&one.base_url(), &two.base_url(), &keys).start();
    for request in [Request::chat("openai/a"), Request::stream("openai/b")] {
        let answer = gateway.ask(&request);
        expect_backup(&answer, "upstream_rate_limited");
        assert_eq!(answer.field("x-sluice-attempts"), Some("3"));
    }
    let answer = gateway.ask(&Request::chat("openai/a"));
    assert_eq!(answer.field("x-sluice-attempts"), Some("1"), "both keys rest");
}

#[test]
fn with_every_key_rate_limited_the_client_gets_the_smallest_retry_after() {
    let (one, two) = (Sim::start(), Sim::start());
    let keys = [
        "sk-a+status=429,retry_after=30",
        "sk-b+status=429,retry_after=7",
        "sk-c+status=429",
    ];
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &keys)
        .provider("backup", &two.base_url(), &["sk-d+status=429,retry_after=20"])
        .route(&["openai/*"], &["backup/spare"])
        .start();
    let mut codes = Vec::new();
    for request in both("openai/a").into_iter().cycle().take(12) {
        let mut client = gateway.client();
        let answer = client.ask(&request);
        assert_eq!(answer.status, 429, "{answer:?}");
        assert_eq!(answer.field("retry-after"), Some("7"), "{answer:?}");
        codes.push(answer.error_code());
        assert_eq!(client.ask(&Request::get("/health")).status, 200);
    }
    // The provider's words for the first, the gateway's for those that were not sent.
    assert_eq!(codes[..2], ["rate_limit_exceeded", "upstream_rate_limited"]);
    assert_eq!(one.attempts().len(), 3);
    assert_eq!(two.attempts().len(), 1);
}

#[test]
fn a_failing_provider_is_replaced_or_its_own_status_is_passed_on() {
    let (one, two) = (Sim::start(), Sim::start());
    let alone = hasty(&one).start();
    let backed = with_backup(&one.base_url(), &two.base_url(), &["sk-one"]).start();
    for (status, seen) in [(500, 500), (502, 502), (503, 503), (504, 504), (529, 503)] {
        // A model for each: when to come back is remembered.
        let model = |name: &str| format!("openai/{name}+status={status},retry_after=9,message=busy");
        for request in [Request::chat(&model("a")), Request::stream(&model("b"))] {
            expect_backup(&backed.ask(&request), "upstream_error");
            let answer = alone.ask(&request);
            assert_eq!(answer.status, seen, "{answer:?}");
            assert_eq!(answer.field("retry-after"), Some("9"));
            assert_eq!(answer.json()["error"]["message"], "busy", "{answer:?}");
        }
    }
    alone.expect_healthy();
}

#[test]
fn the_providers_verdict_on_a_request_is_passed_on_untouched() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = with_backup(&one.base_url(), &two.base_url(), &["sk-one", "sk-two"]).start();
    for status in [400, 404, 413, 422] {
        for stream in [false, true] {
            let body = json!({"model": format!("a+status={status},message=no"), "stream": stream}).to_string();
            let request =
                Request::post("/v1/chat/completions", body.clone()).field("Authorization", "Bearer sk-direct");
            let direct = Client::connect(sim_address(&one)).ask(&request);
            assert_eq!(direct.status, status);
            let through = gateway.ask(&Request::post("/v1/chat/completions", body));
            assert_eq!(through.status, status);
            assert_eq!(through.json()["error"], direct.json()["error"]);
            assert_eq!(through.field("content-type"), direct.field("content-type"));
            assert_eq!(through.field("x-sluice-attempts"), Some("1"));
        }
    }
    assert_eq!(two.attempts().len(), 0);
    gateway.expect_healthy();
}

#[test]
fn a_provider_that_refuses_our_key_is_never_the_clients_401() {
    let (one, two) = (Sim::start(), Sim::start());
    for status in [401, 402, 403] {
        let bad = format!("sk-a+status={status}");
        // Another key of the same provider.
        let gateway = with_backup(&one.base_url(), &two.base_url(), &[&bad, "sk-good"]).start();
        for request in both("openai/a").into_iter().cycle().take(6) {
            let answer = gateway.ask(&request);
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.field("x-sluice-key"), Some("OPENAI_KEY_1"));
        }
        // No other key: the fallback.
        let gateway = with_backup(&one.base_url(), &two.base_url(), &[&bad]).start();
        for request in both("openai/a") {
            expect_backup(&gateway.ask(&request), "upstream_auth");
        }
        // Nothing left.
        let gateway = Setup::new().provider("openai", &one.base_url(), &[&bad]).start();
        for request in both("openai/a") {
            let answer = gateway.ask(&request);
            assert_eq!((answer.status, &*answer.error_code()), (502, "upstream_auth"));
            assert!(!answer.text().contains("sk-a"), "{answer:?}");
        }
    }
}

/// Waits until the last attempt has been cancelled; how long after `left` the provider noticed.
fn cancelled_after(sim: &Sim, left_us: u64) -> Duration {
    let attempt = sim.last_outcome("cancelled");
    let noticed = attempt["end_us"].as_u64().expect("an attempt that ended says when");
    Duration::from_micros(noticed.saturating_sub(left_us))
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    for setup in [Setup::new(), Setup::new().epoll(), Setup::new().cores(2)] {
        let sim = Sim::start();
        let gateway = setup.provider("openai", &sim.base_url(), &["sk-one"]).start();
        for reset in [false, true] {
            let leave = |client: Client| {
                let left = sluice_bench::sim::monotonic_us();
                if reset {
                    client.reset()
                } else {
                    drop(client)
                }
                left
            };
            // While the provider has not answered yet.
            for request in both("openai/a+latency_ms=30000") {
                let before = sim.attempts().len();
                let mut client = gateway.client();
                client.send(request.bytes());
                wait::until("the provider has the request", || {
                    (sim.attempts().len() > before).then_some(())
                });
                let took = cancelled_after(&sim, leave(client));
                assert!(took < Duration::from_millis(100), "{took:?}");
            }
            // In the middle of a stream.
            let mut client = gateway.client();
            client.send(Request::stream("openai/s+tps=20,tokens=2000").bytes());
            let mut answer = client.begin();
            client.until(&mut answer, "data: ");
            let took = cancelled_after(&sim, leave(client));
            assert!(took < Duration::from_millis(100), "{took:?}");
        }
        gateway.expect_metric("sluice_clients_gone_total", 6);
        gateway.expect_healthy();
        gateway.expect_metric("sluice_connections", 0);
    }
}

#[test]
fn a_client_that_does_not_read_holds_the_provider_back_and_is_reset() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let gateway = setup
            .provider("openai", &sim.base_url(), &["sk-one"])
            .set("/server/timeouts/write", "500ms")
            .start();
        let before = gateway.rss_bytes();
        let mut client = gateway.client();
        // More than all socket buffers hold.
        client.send(Request::stream("openai/s+tokens=4000,chunk_bytes=16384").bytes());
        gateway.expect_metric("sluice_clients_gone_total", 1);
        let attempt = wait::until("the provider is told", || {
            sim.attempts().pop().filter(|attempt| attempt["outcome"] != "in_flight")
        });
        assert_eq!(attempt["outcome"], "cancelled", "{attempt}");
        let grown = gateway.rss_bytes().saturating_sub(before);
        assert!(
            grown < 16 << 20,
            "the gateway holds {grown} bytes of a stream that nobody reads"
        );
        let mut answer = client.begin();
        while client.more(&mut answer) {}
        assert!(!answer.is_complete());
        assert!(!answer.text().contains("[DONE]"));
        gateway.expect_healthy();
    }
}

#[test]
fn a_slow_reader_gets_everything_in_its_own_time() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    let mut client = gateway.client();
    client.send(Request::stream("openai/s+tokens=600,chunk_bytes=16384").bytes());
    let mut answer = client.begin();
    let begun = Instant::now();
    while client.more(&mut answer) {
        if begun.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(answer.is_complete());
    assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
    assert_eq!(sim.last_outcome("complete")["outcome"], "complete");
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn a_pooled_connection_that_the_provider_has_closed_is_replaced_without_counting_an_attempt() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        // Reads the second request of a connection, and closes it without a word: as when its idle timer fires just then.
        let origin = Origin::start(|_, mut socket| {
            if read_request(&mut socket) && socket.write_all(ANSWER).is_ok() {
                read_request(&mut socket);
            }
        });
        let gateway = setup.provider("openai", &origin.base_url(), &["sk-one"]).start();
        let mut client = gateway.client();
        for number in 0..4 {
            let answer = client.ask(&Request::chat("openai/a"));
            assert_eq!(
                (answer.status, answer.field("x-sluice-attempts")),
                (200, Some("1")),
                "{number}"
            );
        }
        assert_eq!(origin.accepted(), 4);
        gateway.expect_metric("sluice_upstream_stale_connections_total", 3);
        gateway.expect_metric("sluice_upstream_attempts_total", 4);
        gateway.expect_metric("sluice_upstream_attempts_failed_total", 0);
    }
}

#[test]
fn a_request_is_not_repeated_once_a_byte_of_an_answer_has_come() {
    // The first answer is whole; the second breaks off after a few bytes.
    let origin = Origin::start(|_, mut socket| {
        if read_request(&mut socket) && socket.write_all(ANSWER).is_ok() && read_request(&mut socket) {
            let _ = socket.write_all(b"HTTP/1.1 20");
        }
    });
    let gateway = Setup::with(&origin.base_url()).start();
    let mut client = gateway.client();
    assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
    let answer = client.ask(&Request::chat("openai/a"));
    assert_eq!((answer.status, &*answer.error_code()), (502, "upstream_reset"));
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_early_refusal_of_a_large_body_reaches_the_client() {
    let refusal = b"HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{\"too\":\"large\"}";
    let origin = Origin::start(move |_, mut socket| {
        use std::io::Read;
        let mut head = [0; 1024];
        let _ = socket.read(&mut head);
        let _ = socket.write_all(&refusal[..refusal.len() - 1]);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let gateway = Setup::with(&origin.base_url()).start();
    let body = format!(r#"{{"model":"openai/a","x":"{}"}}"#, "y".repeat(4 << 20));
    let answer = gateway.ask(&Request::post("/v1/chat/completions", body));
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[test]
fn an_answer_that_no_http_server_gives_is_a_protocol_error() {
    let table: &[&[u8]] = &[
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n X: folded\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    ];
    let answers: Vec<Vec<u8>> = table.iter().map(|answer| answer.to_vec()).collect();
    let origin = Origin::start(move |number, socket| answer_once(socket, &answers[number % answers.len()]));
    let gateway: Gateway = Setup::with(&origin.base_url())
        .set("/upstream/idle_connections", 0)
        .start();
    let mut client = gateway.client();
    for message in table {
        let answer = client.ask(&Request::chat("openai/a"));
        let shown = String::from_utf8_lossy(message);
        assert_eq!(
            (answer.status, &*answer.error_code()),
            (502, "upstream_protocol_error"),
            "{shown}"
        );
    }
}
