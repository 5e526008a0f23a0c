//! Streams that are cut after they have begun, on a route that asks another target to go on, or to start anew.

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use sluice_tests::origin::Origin;
use sluice_tests::{Gateway, Request, Response, Setup, Sim, Value, json};

/// `openai/*`, then `claude/spare`, with streams that go on there.
fn resuming(one: &Sim, claude: &str) -> Setup {
    Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .vendor("claude", "anthropic", &claude.replace("/v1", ""), &["sk-two"])
        .route(&["openai/*"], &["claude/spare"])
        .set("/routes/0/resume", "continue")
        .set("/providers/openai/timeouts/stream_idle", "1s")
}

fn chunks(answer: &Response) -> Vec<Value> {
    let events = answer.events();
    let data = events.iter().filter(|event| *event != "[DONE]");
    data.map(|event| serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}")))
        .collect()
}

/// The text of a chat completion's chunks.
fn text(chunks: &[Value]) -> String {
    chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect()
}

fn expect_interrupted(answer: &Response) {
    assert!(!answer.is_complete() && !answer.text().contains("[DONE]"), "{answer:?}");
    let errors = answer
        .events()
        .into_iter()
        .filter(|event| event.contains("upstream_stream_interrupted"));
    assert_eq!(errors.count(), 1, "{answer:?}");
}

fn ask(gateway: &Gateway, request: &Request) -> Response {
    let mut client = gateway.client();
    client.send(request.bytes());
    client.response_or_cut()
}

fn streamed(script: &str) -> Request {
    let body = json!({
        "model": format!("openai/main+{script}"),
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Tell me of the fox."}],
    });
    Request::post("/v1/chat/completions", body.to_string())
}

/// A provider of Anthropic's dialect that goes on with ` jumps.`; what it was asked comes out of the receiver.
fn storyteller() -> (Origin, Receiver<Value>) {
    let (told, asked) = channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::start(move |_, mut socket| {
        let Some(body) = read_body(&mut socket) else { return };
        let _ = told.lock().expect("nobody panics with it").send(body);
        let event = |kind: &str, data: Value| format!("event: {kind}\ndata: {data}\n\n");
        let events = [
            event("message_start", json!({"type": "message_start", "message": {"id": "msg_second", "type": "message",
                "role": "assistant", "model": "spare", "content": [], "usage": {"input_tokens": 70, "output_tokens": 1}}})),
            event("content_block_start", json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})),
            event("content_block_delta", json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " jumps"}})),
            event("content_block_delta", json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "."}})),
            event("content_block_stop", json!({"type": "content_block_stop", "index": 0})),
            event("message_delta", json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}})),
            event("message_stop", json!({"type": "message_stop"})),
        ]
        .concat();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n";
        let _ = socket.write_all(format!("{head}Content-Length: {}\r\n\r\n{events}", events.len()).as_bytes());
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    (origin, asked)
}

/// The JSON body of one request.
fn read_body(socket: &mut std::net::TcpStream) -> Option<Value> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(value) = end.and_then(|end| serde_json::from_slice(&bytes[end + 4..]).ok()) {
            return Some(value);
        }
        match socket.read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}

#[test]
fn another_target_goes_on_from_the_text_and_the_client_sees_one_stream() {
    for fault in [
        "close=mid_stream:5",
        "reset=mid_stream:5",
        "stall=mid_stream:5",
        "error_event=5,write_bytes=100,write_ms=30",
    ] {
        let one = Sim::start();
        let (origin, asked) = storyteller();
        let gateway = resuming(&one, &origin.base_url()).start();
        let answer = ask(&gateway, &streamed(fault));
        assert!(answer.status == 200 && answer.is_complete(), "{fault}: {answer:?}");
        assert_eq!(answer.field("x-sluice-provider"), Some("openai"), "{fault}: who began");
        let chunks = chunks(&answer);
        let body = asked
            .recv_timeout(Duration::from_secs(5))
            .expect("the second provider was asked");
        let messages = body["messages"].as_array().expect("messages");
        let last = &messages[messages.len() - 1];
        assert_eq!((messages.len(), &last["role"]), (2, &json!("assistant")), "{body}");
        let begun = last["content"].as_str().or_else(|| last["content"][0]["text"].as_str());
        let begun = begun.unwrap_or_else(|| panic!("no text: {last}"));
        assert!(!begun.is_empty() && begun == begun.trim_end(), "{begun:?}");
        let whole = text(&chunks);
        assert!(
            whole.starts_with(begun) && whole.ends_with("jumps."),
            "{fault}: {whole:?} after {begun:?}"
        );
        assert_eq!(
            whole.trim_start_matches(begun).trim(),
            "jumps.",
            "{fault}: nothing twice: {whole:?}"
        );
        // One stream: one id, one beginning, one end.
        let ids: std::collections::BTreeSet<&str> = chunks.iter().filter_map(|chunk| chunk["id"].as_str()).collect();
        assert_eq!(ids.len(), 1, "{fault}: {ids:?}");
        let roles = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["delta"]["role"].is_string());
        assert_eq!(roles.count(), 1, "{fault}");
        let ends = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["finish_reason"].is_string());
        assert_eq!(ends.count(), 1, "{fault}");
        assert_eq!(answer.events().iter().filter(|event| *event == "[DONE]").count(), 1);
        let usage = chunks
            .iter()
            .find(|chunk| chunk["usage"].is_object())
            .map(|chunk| &chunk["usage"]);
        let usage = usage.unwrap_or_else(|| panic!("{fault}: no usage: {chunks:?}"));
        assert!(
            usage["prompt_tokens"].as_u64() >= Some(70) && usage["completion_tokens"].as_u64() >= Some(5),
            "{usage}"
        );
        let line = gateway.request_lines(1).remove(0);
        assert_eq!(
            (&line["resumed"], &line["outcome"]),
            (&json!(true), &json!("ok")),
            "{line}"
        );
        gateway.expect_metric("sluice_streams_resumed_total", 1);
        gateway.expect_metric("sluice_streams_interrupted_total", 0);
    }
}

#[test]
fn a_client_of_anthropics_dialect_gets_one_message() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = Setup::new()
        .vendor("claude", "anthropic", &one.base_url().replace("/v1", ""), &["sk-one"])
        .vendor("other", "anthropic", &two.base_url().replace("/v1", ""), &["sk-two"])
        .route(&["claude/*"], &["other/spare"])
        .set("/routes/0/resume", "continue")
        .start();
    let body = json!({"model": "claude/main+close=mid_stream:8", "stream": true, "max_tokens": 99,
        "messages": [{"role": "user", "content": "Tell me."}]});
    let request = Request::post("/v1/messages", body.to_string()).field("anthropic-version", "2023-06-01");
    let answer = ask(&gateway, &request);
    assert!(answer.is_complete(), "{answer:?}");
    let events: Vec<Value> = chunks(&answer);
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    for kind in [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ] {
        assert_eq!(count(kind), 1, "{kind}: {events:?}");
    }
    assert!(
        events.iter().all(|event| event["index"].as_u64().unwrap_or(0) == 0),
        "{events:?}"
    );
    assert!(
        count("content_block_delta") > 24,
        "what the first said, and all that the second did"
    );
    assert_eq!(two.attempts().len(), 1);
}

#[test]
fn what_is_not_plain_text_or_has_no_taker_stays_interrupted() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = resuming(&one, &two.base_url()).start();
    for script in [
        "tool=1,close=mid_stream:4",
        "reasoning=9,close=mid_stream:4",
        "refusal,close=mid_stream:4",
    ] {
        expect_interrupted(&ask(&gateway, &Request::stream(&format!("openai/main+{script}"))));
    }
    assert_eq!(two.attempts().len(), 0);
    let cut = Request::stream("openai/main+close=mid_stream:4");
    let unwilling = resuming(&one, &two.base_url())
        .set("/providers/claude/prefill", false)
        .start();
    expect_interrupted(&ask(&unwilling, &cut));
    let default = resuming(&one, &two.base_url()).set("/routes/0/resume", "none").start();
    expect_interrupted(&ask(&default, &cut));
    assert_eq!(two.attempts().len(), 0);
    gateway.expect_healthy();
}

#[test]
fn each_target_is_asked_once_and_the_client_is_told_when_none_goes_on() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = resuming(&one, &two.base_url())
        .set(
            "/routes/0/fallbacks",
            json!([
                "claude/first+status=500",
                "claude/second+close=mid_stream:6",
                "claude/third"
            ]),
        )
        .start();
    let answer = ask(&gateway, &Request::stream("openai/main+close=mid_stream:4"));
    assert!(answer.is_complete(), "{answer:?}");
    assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
    assert_eq!(two.attempts().len(), 3);
    two.rules(&json!([{"do": "status=529"}]));
    let gateway = resuming(&one, &two.base_url()).start();
    expect_interrupted(&ask(&gateway, &Request::stream("openai/main+close=mid_stream:4")));
    assert_eq!(two.attempts().len(), 4);
    gateway.expect_metric("sluice_streams_interrupted_total", 1);
}

/// `openai/*`, then `claude/spare`, with streams that start anew there while nothing of them has been sent.
fn restarting(one: &Sim, two: &Sim, restart: Value) -> Gateway {
    resuming(one, &two.base_url())
        .set("/routes/0/resume", "restart")
        .set("/routes/0/restart", restart)
        .start()
}

#[test]
fn a_stream_that_fails_while_it_is_held_back_starts_anew_and_the_client_sees_one_answer() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = restarting(&one, &two, json!({}));
    let faults = [
        "close=mid_stream:5",
        "reset=mid_stream:5",
        "stall=mid_stream:5",
        "error_event=5,write_bytes=100,write_ms=30",
    ];
    let anthropic = |script: &str| {
        let body = json!({"model": format!("openai/main+{script}"), "stream": true, "max_tokens": 99,
            "messages": [{"role": "user", "content": "Tell me."}]});
        Request::post("/v1/messages", body.to_string()).field("anthropic-version", "2023-06-01")
    };
    for (number, fault) in faults.iter().enumerate() {
        // In the first provider's dialect, and in another one.
        for request in [streamed(fault), anthropic(fault)] {
            let answer = ask(&gateway, &request);
            assert!(answer.status == 200 && answer.is_complete(), "{fault}: {answer:?}");
            assert_eq!(answer.field("x-sluice-provider"), Some("claude"), "{fault}");
            assert!(!answer.text().contains("\"error\""), "{fault}: {answer:?}");
            let beginnings = answer.text().matches("\"role\":\"assistant\"").count();
            assert_eq!(beginnings, 1, "{fault}: {answer:?}");
        }
        gateway.expect_metric("sluice_streams_restarted_total", 2 * (number as u64 + 1));
    }
    gateway.expect_metric("sluice_streams_interrupted_total", 0);
}

#[test]
fn what_was_held_back_arrives_whole_and_what_has_been_sent_cannot_start_anew() {
    let (one, two) = (Sim::start(), Sim::start());
    // Shorter than what is held back, and longer.
    for bytes in ["16KiB", "300B"] {
        let gateway = restarting(&one, &two, json!({"bytes": bytes}));
        let plain = Setup::with(&one.base_url()).start();
        for script in ["tokens=30", "tokens=30,no_done", "tokens=300,write_bytes=50"] {
            let request = streamed(script);
            let (held, expected) = (ask(&gateway, &request), ask(&plain, &request));
            assert!(held.is_complete(), "{bytes} {script}: {held:?}");
            assert_eq!(text(&chunks(&held)), text(&chunks(&expected)), "{bytes} {script}");
            assert_eq!(held.events().last(), expected.events().last(), "{bytes} {script}");
        }
    }
    let small = restarting(&one, &two, json!({"bytes": "300B"}));
    expect_interrupted(&ask(&small, &streamed("tokens=50,close=mid_stream:40")));
    // One that takes its time is sent after a while, and is cut after that.
    let quick = restarting(&one, &two, json!({"time": "100ms"}));
    expect_interrupted(&ask(&quick, &streamed("tokens=40,tps=50,close=mid_stream:30")));
    assert_eq!(two.attempts().len(), 0);
}
