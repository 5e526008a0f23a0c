//! Limits on what a client may send, and on how long it may take.

use sluice_tests::{Request, Setup, Sim};

use crate::pair;

#[test]
fn limits_on_size_are_answered_with_their_own_status() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).set("/limits/body_bytes", "10KiB").start();
    let long = "a".repeat(9 * 1024);
    let big = format!(r#"{{"model":"openai/a","text":"{}"}}"#, "b".repeat(11 * 1024));
    let many = (0..120).fold(Request::chat("openai/a"), |request, number| {
        request.field(&format!("X-{number}"), "v")
    });
    let mut chunked = Request::new("POST", "/v1/chat/completions")
        .field("Transfer-Encoding", "chunked")
        .head();
    chunked.extend(format!("{:x}\r\n{big}\r\n0\r\n\r\n", big.len()).bytes());
    let large_fields = (0..5).fold(Request::chat("openai/a"), |request, _| request.field("X-Large", &long));
    let table = [
        (Request::get(&format!("/v1/models/{long}")).bytes(), 414, "uri_too_long"),
        (many.bytes(), 431, "headers_too_large"),
        (large_fields.bytes(), 431, "headers_too_large"),
        (
            Request::post("/v1/chat/completions", big.clone()).bytes(),
            413,
            "body_too_large",
        ),
        (chunked, 413, "body_too_large"),
        (
            Request::chat("openai/a").field("Content-Encoding", "gzip").bytes(),
            415,
            "unsupported_encoding",
        ),
    ];
    for (message, status, code) in table {
        let mut client = gateway.client();
        let _ = client.try_send(&message);
        let answer = client.response();
        assert_eq!((answer.status, &*answer.error_code()), (status, code));
        assert_eq!(answer.field("connection"), Some("close"), "{code}");
        client.expect_closed();
    }
    assert_eq!(sim.attempts().len(), 0);
    let deep = format!(
        r#"{{"model":"openai/a","deep":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let answer = gateway.ask(&Request::post("/v1/chat/completions", deep));
    assert_eq!((answer.status, &*answer.error_code()), (400, "invalid_body"));
    gateway.expect_healthy();
}

#[test]
fn a_declared_body_over_the_limit_is_refused_before_it_is_sent() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    client.send(
        Request::new("POST", "/v1/chat/completions")
            .field("Content-Length", "34359738368")
            .field("Expect", "100-continue")
            .head(),
    );
    let answer = client.response();
    assert_eq!((answer.status, &*answer.error_code()), (413, "body_too_large"));
    client.expect_closed();
}

#[test]
fn a_slow_head_and_a_slow_body_are_timed_out() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let gateway = setup
            .provider("openai", &sim.base_url(), &["sk-one"])
            .set("/server/timeouts/head", "150ms")
            .set("/server/timeouts/body_idle", "150ms")
            .start();
        let whole = Request::chat("openai/a");
        let half_head = &whole.head()[..40];
        let half_body = &whole.bytes()[..whole.head().len() + 10];
        for bytes in [half_head, half_body, &whole.head()] {
            let mut client = gateway.client();
            client.send(bytes);
            let answer = client.response();
            assert_eq!((answer.status, &*answer.error_code()), (408, "request_timeout"));
            client.expect_closed();
        }
        assert_eq!(sim.attempts().len(), 0);
        gateway.expect_healthy();
    }
}

#[test]
fn a_body_that_trickles_below_the_least_rate_is_timed_out() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url())
        .set("/server/timeouts/body_idle", "200ms")
        .set("/server/timeouts/body_rate_min", "1MiB")
        .start();
    let mut client = gateway.client();
    let request = Request::post("/v1/chat/completions", " ".repeat(1000));
    client.send(request.head());
    // Never silent for long, and yet too slow: it is ended although every pause is short.
    let mut sent = 0;
    let writer = client.stream.try_clone().expect("a socket can be shared");
    let trickle = std::thread::spawn(move || {
        use std::io::Write;
        let mut writer = writer;
        while sent < 900 && writer.write_all(b" ").is_ok() {
            sent += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        sent
    });
    let answer = client.response();
    assert_eq!((answer.status, &*answer.error_code()), (408, "request_timeout"));
    drop(client);
    assert!(
        trickle.join().expect("the writer ends") < 900,
        "ended before the body was complete"
    );
    gateway.expect_healthy();
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url())
        .set("/server/timeouts/keep_alive", "100ms")
        .start();
    let mut fresh = gateway.client();
    let mut used = gateway.client();
    assert_eq!(used.ask(&Request::chat("openai/a")).status, 200);
    fresh.expect_closed();
    used.expect_closed();
    gateway.expect_metric("sluice_connections", 0);
}
