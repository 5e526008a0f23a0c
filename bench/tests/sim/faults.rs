//! Each fault does what it says, on the wire.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Client, End, call, chat, page, raw, start};

fn body_of(bytes: &[u8]) -> &[u8] {
    let at = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a whole head");
    &bytes[at + 4..]
}

#[test]
fn statuses_come_with_retry_after_and_the_dialects_error() {
    let sim = start();
    let limited = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[("x-sim", "status=429,retry_after=3,retry_after_ms=2500")],
        br#"{"model":"m"}"#,
    );
    assert_eq!(
        (
            limited.status,
            limited.header("retry-after"),
            limited.header("retry-after-ms")
        ),
        (429, Some("3"), Some("2500"))
    );
    assert_eq!(limited.json()["error"]["code"], "rate_limit_exceeded");
    let version = ("anthropic-version", "2023-06-01");
    let overloaded = call(&sim, "POST", "/v1/messages", &[version], br#"{"model":"m+status=529"}"#);
    assert_eq!(
        (overloaded.status, &overloaded.json()["error"]["type"]),
        (529, &json!("overloaded_error"))
    );
    let moved = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[("x-sim", "status=307,location=http://127.0.0.1:1/")],
        br#"{"model":"m"}"#,
    );
    assert_eq!(
        (moved.status, moved.header("location")),
        (307, Some("http://127.0.0.1:1/"))
    );
    let own = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[("x-sim", "status=418,body_b64=AAEC,content_type=x/y")],
        br#"{"model":"m"}"#,
    );
    assert_eq!(
        (own.status, &own.body[..], own.header("content-type")),
        (418, &[0u8, 1, 2][..], Some("x/y"))
    );
}

#[test]
fn a_misspelt_script_is_an_error() {
    let sim = start();
    let response = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"m+statsu=429"}"#,
    );
    assert_eq!(
        (response.status, &response.json()["error"]["code"]),
        (400, &json!("sim_bad_script"))
    );
}

#[test]
fn times_let_the_next_request_through() {
    let sim = start();
    let mut client = Client::new(&sim);
    let statuses: Vec<u16> = (0..3)
        .map(|_| {
            client.send(&chat("m+status=503,times=2", false));
            client.receive().status
        })
        .collect();
    assert_eq!(statuses, [503, 503, 200]);
}

#[test]
fn rules_match_model_and_key_over_http() {
    let sim = start();
    let rules = br#"[{"match":{"key":"sk-revoked*"},"do":"status=401"},{"match":{"model":"gpt*"},"do":{"status":500},"times":1}]"#;
    assert_eq!(call(&sim, "POST", "/sim/rules", &[], rules).json()["rules"], 2);
    let with = |key: &str| {
        call(
            &sim,
            "POST",
            "/v1/chat/completions",
            &[("authorization", key)],
            br#"{"model":"gpt-4o"}"#,
        )
        .status
    };
    assert_eq!(
        [with("Bearer sk-revoked-1"), with("Bearer sk-ok"), with("Bearer sk-ok")],
        [401, 500, 200]
    );
    assert_eq!(with("Bearer sk-x+status=403"), 403, "a key may carry its own script");
    assert_eq!(page(&sim, "/sim/rules")["matches"], json!([1, 2]));
    assert_eq!(
        call(&sim, "POST", "/sim/rules", &[], b"[{\"do\":\"nope=1\"}]").status,
        400
    );
}

#[test]
fn resets_reset_and_closes_close() {
    let sim = start();
    for stream in [false, true] {
        let (bytes, end) = raw(&sim, "m+reset=before_head", stream);
        assert_eq!((bytes.len(), end), (0, End::Reset));
        let (bytes, end) = raw(&sim, "m+close=before_head", stream);
        assert_eq!((bytes.len(), end), (0, End::Eof));
        let (bytes, end) = raw(&sim, "m+close=mid_head:20", stream);
        assert_eq!((bytes.len(), end), (20, End::Eof));
        let (bytes, end) = raw(&sim, "m+close=mid_body:100", stream);
        assert_eq!((body_of(&bytes).len(), end), (100, End::Eof));
        let (_, end) = raw(&sim, "m+reset=mid_body", stream);
        assert_eq!(end, End::Reset);
    }
    let (bytes, end) = raw(&sim, "m+close=mid_stream:3", true);
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(
        (text.matches("data: ").count(), text.contains("\r\n0\r\n"), end),
        (3, false, End::Eof)
    );
    let (_, end) = raw(&sim, "m+reset=mid_stream:3", true);
    assert_eq!(end, End::Reset);
}

#[test]
fn stalls_keep_the_connection_open_and_silent() {
    let sim = start();
    for (model, stream) in [
        ("m+stall=before_head", false),
        ("m+stall=mid_body:10", false),
        ("m+stall=mid_stream:2", true),
    ] {
        let mut client = Client::new(&sim).patience(Duration::from_millis(100));
        client.send(&chat(model, stream));
        let (bytes, end) = client.drain();
        assert_eq!(end, End::Silence, "{model}");
        assert_eq!(bytes.is_empty(), model.contains("before_head"));
    }
}

#[test]
fn truncated_bodies_end_short_of_their_length() {
    let sim = start();
    let (bytes, end) = raw(&sim, "m+truncate=10", false);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let length: usize = text
        .split_once("content-length: ")
        .unwrap()
        .1
        .split("\r\n")
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!((body_of(&bytes).len() + 10, end), (length, End::Eof));
    let (bytes, end) = raw(&sim, "m+truncate=1", true);
    assert_eq!((bytes.ends_with(b"0\r\n\r\n"), end), (false, End::Eof));
}

#[test]
fn malformed_bytes_are_malformed_in_their_place() {
    let sim = start();
    let text = |kind: &str, stream| String::from_utf8(raw(&sim, &format!("m+malformed={kind}"), stream).0).unwrap();
    assert!(text("status_line", false).starts_with("HTP/1.1 2OO"));
    assert!(text("header", false).contains("\r\nthis line has no colon\r\n"));
    assert!(text("nul", false).contains("a\0b"));
    assert_eq!(text("two_lengths", false).matches("content-length: ").count(), 2);
    let both = text("length_and_chunked", false);
    assert!(both.contains("content-length: 5") && both.contains("transfer-encoding: chunked"));
    assert!(text("chunk_size", true).contains("\r\nzz\r\n"));
    let whole = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"m+malformed=json"}"#,
    );
    assert!(serde_json::from_slice::<serde_json::Value>(&whole.body).is_err());
    let mut client = Client::new(&sim);
    client.send(&chat("m+malformed=event,malformed_at=2,tokens=4", true));
    let data = client.receive().data();
    let bad: Vec<usize> = (0..data.len())
        .filter(|at| serde_json::from_str::<serde_json::Value>(&data[*at]).is_err())
        .collect();
    assert_eq!(bad, [2, data.len() - 1], "the garbled event and [DONE]");
}

#[test]
fn streams_end_without_done_or_with_an_error() {
    let sim = start();
    let mut client = Client::new(&sim);
    client.send(&chat("m+no_done", true));
    assert!(!client.receive().text().contains("[DONE]"));
    client.send(&chat("m+error_event=3", true));
    let data = client.receive().data();
    assert_eq!((data.len(), data[3].contains("\"error\"")), (4, true));
}

#[test]
fn heads_grow_and_interim_responses_precede() {
    let sim = start();
    let response = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"m+many_headers=300"}"#,
    );
    assert!(response.head.lines().count() > 300);
    let response = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"m+giant_header=100000"}"#,
    );
    assert!(response.head.len() > 100_000);
    let mut client = Client::new(&sim);
    client.send(&chat("m+interim=3", false));
    let statuses: Vec<u16> = (0..4).map(|_| client.receive().status).collect();
    assert_eq!(statuses, [103, 103, 103, 200]);
}

#[test]
fn trailing_bytes_follow_the_response() {
    let sim = start();
    let mut client = Client::new(&sim).patience(Duration::from_millis(100));
    client.send(&chat("m+trailing=5", false));
    client.receive();
    assert_eq!(client.drain(), (b"!!!!!".to_vec(), End::Silence));
}

#[test]
fn latency_and_pace_take_their_time() {
    let sim = start();
    let mut client = Client::new(&sim);
    let started = Instant::now();
    client.send(&chat("m+latency_ms=50", false));
    client.receive();
    assert!(started.elapsed() >= Duration::from_millis(50));
    let started = Instant::now();
    client.send(&chat("m+first_token_ms=20,tps=100,tokens=11", true));
    client.receive();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(120), "{took:?}");
}

#[test]
fn writes_are_split_and_grouped_as_told() {
    let sim = start();
    let mut client = Client::new(&sim);
    client.send(&chat("m+tokens=9,chunks_per_write=4", true));
    assert_eq!(client.receive().chunks.len(), 3, "12 events in fours");
    client.send(&chat("m+tokens=2,write_bytes=7", true));
    let response = client.receive();
    assert!(response.chunks.iter().all(|chunk| chunk.len() <= 7));
    assert_eq!(response.data().last().unwrap(), "[DONE]");
    client.send(&chat("m+tokens=2,chunk_bytes=100", true));
    assert!(client.receive().data()[1].len() > 100);
}
