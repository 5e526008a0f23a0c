//! What one translation costs: `translate_cost [CASE [PART COUNT]]`; without arguments, every case in nanoseconds.
//!
//! With a part (`request`, `answer`, `events`: a stream of 200, or `image`) and a count it does nothing but translate that
//! part that often, so that instructions can be counted: `cargo xtask bench instructions` does. Deliberately absent: networks
//! and threads.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use sluice_wire::chat::{Notes, Out};
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, Ingress, Quirks, Reply, Target, Transcoder};

const REPLY: Reply<'static> = Reply {
    model: "model",
    id: "answer-1",
    created: 1,
    include_usage: true,
};

/// Bodies of one conversation in one dialect.
struct Bodies {
    request: Vec<u8>,
    image: Vec<u8>,
    response: Vec<u8>,
    stream: Vec<u8>,
}

/// Events of the stream.
const EVENTS: f64 = 200.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let case = arguments.first();
    let counted = match &arguments[..] {
        [_, part, count] => Some((part.as_str(), count.parse().expect("a count is a number"))),
        _ => None,
    };
    let all: Vec<Bodies> = Dialect::ALL.iter().map(|dialect| bodies(*dialect)).collect();
    for (from, bodies) in Dialect::ALL.into_iter().zip(&all) {
        for (to, answers) in Dialect::ALL.into_iter().zip(&all) {
            let name = format!("{}-{}", from.as_str(), to.as_str());
            if case.is_some_and(|case| *case != name) {
                continue;
            }
            let (mut out, mut notes) = (Out::default(), Notes::default());
            let run = |part: &str, call: &mut dyn FnMut()| match counted {
                None => time(call),
                Some((wanted, count)) => {
                    (0..if part == wanted { count } else { 0 }).for_each(|_| call());
                    0.0
                }
            };
            let asked = run("request", &mut || {
                request(from, to, &bodies.request, &mut out, &mut notes)
            });
            let answered = run("answer", &mut || response(to, from, &answers.response, &mut out));
            let image = run("image", &mut || {
                request_image(from, to, &bodies.image, &mut out, &mut notes);
            });
            let event = run("events", &mut || stream(to, from, &answers.stream, &mut out)) / EVENTS;
            if counted.is_some() {
                continue;
            }
            println!(
                "{name:22} request {:5} B {asked:7.0} ns   answer {:4} B {answered:6.0} ns   both {:5.2} us   event {event:5.0} ns   image {:.2} MB {:.3} ms",
                bodies.request.len(),
                answers.response.len(),
                (asked + answered) / 1e3,
                bodies.image.len() as f64 / 1e6,
                image / 1e6,
            );
        }
    }
}

/// Nanoseconds of one call, the best of several rounds.
fn time(call: &mut dyn FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        let mut calls = 0;
        while begin.elapsed().as_micros() < 3000 {
            call();
            calls += 1;
        }
        best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(calls));
    }
    best
}

fn request(from: Dialect, to: Dialect, body: &[u8], out: &mut Out, notes: &mut Notes) {
    let request = provider::parse_request(from, body, &Ingress::default()).expect("the body is sound");
    let target = Target {
        model: "claude-sonnet-4-5",
        max_tokens_default: 4096,
        quirks: Quirks::default(),
    };
    out.begin(body);
    notes.clear();
    provider::write_request(to, &request, &target, out, notes).expect("the target can express it");
    black_box(&out);
}

fn request_image(from: Dialect, to: Dialect, body: &[u8], out: &mut Out, notes: &mut Notes) {
    request(from, to, body, out, notes);
    assert!(out.buf.len() < 10_000, "the image must not be copied");
}

fn response(from: Dialect, to: Dialect, body: &[u8], out: &mut Out) {
    let response = provider::parse_response(from, body).expect("the body is sound");
    out.begin(body);
    provider::write_response(to, &response, &REPLY, out);
    black_box(&out);
}

fn stream(from: Dialect, to: Dialect, bytes: &[u8], out: &mut Out) {
    let mut transcoder = Transcoder::new(from, to, &REPLY);
    for piece in bytes.chunks(1400) {
        out.begin(&[]);
        transcoder.push(piece, out).expect("the stream is sound");
        black_box(&out);
    }
    transcoder.finish(out);
}

/// The same conversation in every dialect: written by translation from OpenAI's.
fn bodies(dialect: Dialect) -> Bodies {
    let mut turns = String::new();
    for turn in 0..4 {
        write!(
            turns,
            r#"{{"role":"user","content":"Question {turn}: what is the weather like in the town of \"Aachen\", and should I take an umbrella with me today?"}},{{"role":"assistant","content":"It depends on the hour.\nIn the morning it is dry, in the afternoon there may be showers."}},"#
        )
        .expect("a string takes all");
    }
    let asked = format!(
        r#"{{"model":"gpt-4o","messages":[{{"role":"system","content":"You are a helpful assistant that answers in short sentences."}},{turns}{{"role":"user","content":[{{"type":"text","text":"And tomorrow?"}}]}}],"temperature":0.7,"max_tokens":500,"tools":[{{"type":"function","function":{{"name":"get_weather","description":"The weather at a place","parameters":{{"type":"object","properties":{{"city":{{"type":"string","description":"The town"}},"day":{{"type":"string","enum":["today","tomorrow"]}}}},"required":["city"],"additionalProperties":false}}}}}}],"tool_choice":"auto"}}"#
    );
    let image = format!(
        r#"{{"model":"gpt-4o","max_tokens":100,"messages":[{{"role":"user","content":[{{"type":"text","text":"What is this?"}},{{"type":"image_url","image_url":{{"url":"data:image/jpeg;base64,{}"}}}}]}}]}}"#,
        "AbCd".repeat(250_000)
    );
    let answer = r#"{"id":"chatcmpl-123","object":"chat.completion","created":1755137921,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"Tomorrow will be mostly dry in Aachen, with some clouds around noon and a light wind from the west. You will not need an umbrella in the morning, but take one with you if you stay out until the evening.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":412,"completion_tokens":48,"total_tokens":460,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_1"}"#;
    let mut stream = String::new();
    let chunk = |delta: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-123\",\"object\":\"chat.completion.chunk\",\"created\":1755137921,\"model\":\"gpt-4o-2024-08-06\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}],\"usage\":null,\"obfuscation\":\"WuQNX\"}}\n\n"
        )
    };
    stream.push_str(&chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null"));
    (0..198).for_each(|_| stream.push_str(&chunk("{\"content\":\" umbrella\"}", "null")));
    stream.push_str(&chunk("{}", "\"stop\""));
    stream.push_str("data: [DONE]\n\n");

    let (mut out, mut notes, from) = (Out::default(), Notes::default(), Dialect::OpenAi);
    let mut written = |body: &str, kind: u8| {
        let body = body.as_bytes();
        if dialect == from {
            return body.to_vec();
        }
        out.begin(&[]);
        match kind {
            0 => request(from, dialect, body, &mut out, &mut notes),
            1 => response(from, dialect, body, &mut out),
            _ => {
                let mut transcoder = Transcoder::new(from, dialect, &REPLY);
                transcoder.push(body, &mut out).expect("the stream is sound");
                transcoder.finish(&mut out);
            }
        }
        out.collect(body)
    };
    Bodies {
        request: written(&asked, 0),
        image: written(&image, 0),
        response: written(answer, 1),
        stream: written(&stream, 2),
    }
}
