//! Prints what the steps of reading a request cost, in nanoseconds: `cargo run --release -p sluice-wire --example scan_cost`.
//!
//! The best of many short rounds is printed, which is the cost without interruptions. Deliberately absent: asserts; machines differ.

use std::hint::black_box;
use std::time::Instant;

use sluice_wire::http::Framing;
use sluice_wire::http::body::BodyDecoder;
use sluice_wire::http::head::{RequestHead, ResponseHead};
use sluice_wire::json::TopKeys;
use sluice_wire::sse::{EventScan, SseDecoder};

fn main() {
    let body = chat_body();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
         Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 1.99.0\r\n\
         Authorization: Bearer sk-sluice-0123456789abcdef\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut parsed = RequestHead::default();
    report(&format!("request head, {} bytes", head.len()), || {
        black_box(parsed.parse(black_box(head.as_bytes()))).expect("a sound head");
    });
    let answer = b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 700\r\n\
        Connection: keep-alive\r\nopenai-processing-ms: 312\r\nx-request-id: req_0123456789abcdef\r\n\r\n";
    let mut answered = ResponseHead::default();
    report(&format!("response head, {} bytes", answer.len()), || {
        black_box(answered.parse(black_box(answer), false)).expect("a sound head");
    });
    let mut keys = TopKeys::new();
    report(&format!("chat body, {} bytes", body.len()), || {
        keys.reset();
        keys.push(black_box(body.as_bytes())).expect("a sound body");
        keys.finish().expect("a whole body");
        black_box(keys.model());
    });
    let image = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}],"model":"m"}}"#,
        "iVBORw0KGgo".repeat(1_000_000 / 11)
    );
    let nanos = report(&format!("image body, {} bytes", image.len()), || {
        keys.reset();
        keys.push(black_box(image.as_bytes())).expect("a sound body");
        keys.finish().expect("a whole body");
    });
    println!("{:>45}: {:.1} GB/s", "image body", image.len() as f64 / nanos);
    let event = br#"data: {"id":"chatcmpl-0123456789abcdefghijklmnopqrs","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini-2024-07-18","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#;
    let event = [event.as_slice(), b"\n\n"].concat();
    let mut scanner = EventScan::new();
    report(&format!("event scan, {} bytes", event.len()), || {
        black_box(scanner.push(black_box(&event)));
    });
    let (start, end) = event.split_at(event.len() / 2);
    report("event scan, cut in two", || {
        black_box(scanner.push(black_box(start)));
        black_box(scanner.push(black_box(end)));
    });
    let mut decoder = SseDecoder::new();
    report(&format!("event decoder, {} bytes", event.len()), || {
        decoder
            .push(black_box(&event), |event| _ = black_box(event))
            .expect("a small event");
    });
    let chunk = [b"fb\r\n".as_slice(), &[b'x'; 251], b"\r\n"].concat();
    let (mut body, mut spans) = (BodyDecoder::new(Framing::Chunked), Vec::new());
    report(&format!("chunk, {} bytes", chunk.len()), || {
        spans.clear();
        black_box(body.push(black_box(&chunk), &mut spans)).expect("a sound chunk");
    });
}

fn chat_body() -> String {
    let text = "Summarise the following paragraph in two sentences, and keep the names as they are written. ".repeat(3);
    let messages: Vec<String> = ["system", "user", "assistant", "user"]
        .iter()
        .map(|role| format!(r#"{{"role": "{role}", "content": "{text}\nThanks."}}"#))
        .collect();
    format!(
        r#"{{"messages": [{}], "model": "openai/gpt-4o-mini", "max_tokens": 256, "temperature": 0.7, "stream": false, "user": "u-1"}}"#,
        messages.join(", ")
    )
}

/// The best time of one call, in nanoseconds.
fn report(name: &str, mut call: impl FnMut()) -> f64 {
    let mut calls = 1_u32;
    let mut best = f64::MAX;
    for _ in 0..200 {
        let begun = Instant::now();
        (0..calls).for_each(|_| call());
        let nanos = begun.elapsed().as_nanos() as f64;
        best = best.min(nanos / f64::from(calls));
        if nanos < 500_000.0 {
            calls *= 2;
        }
    }
    println!("{name:>45}: {best:.0} ns");
    best
}
