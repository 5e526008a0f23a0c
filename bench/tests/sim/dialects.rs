//! Each dialect answers in its real shape, unary and streamed.

use serde_json::{Value, json};

use crate::client::{Client, call, request, start};

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// The frames of an event-stream, with both checksums verified by a bitwise CRC of this file's own.
fn frames(mut bytes: &[u8]) -> Vec<(String, String, Value)> {
    let word = |at: &[u8]| u32::from_be_bytes(at[..4].try_into().unwrap());
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (total, headers) = (word(bytes) as usize, word(&bytes[4..]) as usize);
        assert_eq!(crc(&bytes[..8]), word(&bytes[8..]), "prelude");
        assert_eq!(crc(&bytes[..total - 4]), word(&bytes[total - 4..]), "message");
        let mut rest = &bytes[12..12 + headers];
        let (mut kind, mut name) = (String::new(), String::new());
        while !rest.is_empty() {
            let len = usize::from(rest[0]);
            let key = std::str::from_utf8(&rest[1..=len]).unwrap();
            assert_eq!(rest[len + 1], 7, "a string header");
            let value_len = usize::from(u16::from_be_bytes([rest[len + 2], rest[len + 3]]));
            let value = String::from_utf8(rest[len + 4..len + 4 + value_len].to_vec()).unwrap();
            match key {
                ":message-type" => kind = value,
                ":event-type" | ":exception-type" => name = value,
                _ => assert_eq!(key, ":content-type"),
            }
            rest = &rest[len + 4 + value_len..];
        }
        let payload = &bytes[12 + headers..total - 4];
        frames.push((kind, name, serde_json::from_slice(payload).unwrap_or(Value::Null)));
        bytes = &bytes[total..];
    }
    frames
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    })
}

#[test]
fn openai_chat_unary() {
    let sim = start();
    let body = br#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}"#;
    let response = call(&sim, "POST", "/v1/chat/completions", &[], body);
    let answer = response.json();
    assert_eq!(
        (response.status, &answer["object"], &answer["model"]),
        (200, &json!("chat.completion"), &json!("gpt-4o-mini"))
    );
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["usage"]["prompt_tokens"], body.len().div_ceil(4));
    assert_eq!(answer["usage"]["completion_tokens"], 24);
    assert_eq!(
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .split_whitespace()
            .count(),
        24
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(response.header("x-request-id").unwrap().starts_with("req_"));
    assert!(response.header("x-ratelimit-remaining-tokens").is_some());
    assert!(
        (600..800).contains(&response.body.len()),
        "{} bytes",
        response.body.len()
    );
}

#[test]
fn openai_chat_stream_has_role_tokens_finish_usage_done() {
    let sim = start();
    let body = br#"{"model":"gpt-4o+tokens=3","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;
    let response = call(&sim, "POST", "/v1/chat/completions", &[], body);
    let data = response.data();
    assert_eq!(data.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> = data[..data.len() - 1]
        .iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(chunks.len(), 6);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[1]["choices"][0]["delta"]["content"], " when");
    assert_eq!(chunks[1]["usage"], Value::Null);
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (
            chunks[5]["choices"].as_array().unwrap().len(),
            &chunks[5]["usage"]["completion_tokens"]
        ),
        (0, &json!(3))
    );
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert_eq!(
        response.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
}

#[test]
fn openai_tool_calls_unary_and_streamed_agree() {
    let sim = start();
    let tools = r#""tools":[{"type":"function","function":{"name":"get_country","parameters":{}}}]"#;
    let unary = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        format!("{{\"model\":\"m+tools=2\",{tools}}}").as_bytes(),
    )
    .json();
    let message = &unary["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &unary["choices"][0]["finish_reason"]),
        (&Value::Null, &json!("tool_calls"))
    );
    assert_eq!(message["tool_calls"][1]["function"]["name"], "get_country");
    let body = format!("{{\"model\":\"m\",\"tool_choice\":\"required\",\"stream\":true,{tools}}}");
    let streamed = call(&sim, "POST", "/v1/chat/completions", &[], body.as_bytes());
    let mut arguments = String::new();
    let mut name = String::new();
    for data in streamed.data().iter().filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        let function = &chunk["choices"][0]["delta"]["tool_calls"][0]["function"];
        name.push_str(function["name"].as_str().unwrap_or(""));
        arguments.push_str(function["arguments"].as_str().unwrap_or(""));
    }
    assert_eq!(
        (name.as_str(), json!(arguments)),
        ("get_country", message["tool_calls"][0]["function"]["arguments"].clone())
    );
}

#[test]
fn token_limits_cut_the_answer_with_length() {
    let sim = start();
    let answer = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"m","max_completion_tokens":5}"#,
    )
    .json();
    assert_eq!(
        (
            &answer["usage"]["completion_tokens"],
            &answer["choices"][0]["finish_reason"]
        ),
        (&json!(5), &json!("length"))
    );
}

#[test]
fn scripted_sizes_and_texts_are_exact() {
    let sim = start();
    for bytes in [1000, 100_000] {
        let body = format!("{{\"model\":\"m+bytes={bytes}\"}}");
        let response = call(&sim, "POST", "/v1/chat/completions", &[], body.as_bytes());
        response.json();
        assert_eq!(response.body.len(), bytes);
    }
    let answer = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[("x-sim", "say=caf%C3%A9%2C \"ok\"")],
        br#"{"model":"m"}"#,
    )
    .json();
    assert_eq!(answer["choices"][0]["message"]["content"], "café, \"ok\"");
    let streamed = call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[("x-sim", "unicode=1,tokens=8")],
        br#"{"model":"m","stream":true}"#,
    );
    let text: String = streamed
        .data()
        .iter()
        .filter_map(|data| {
            let chunk: Value = serde_json::from_str(data).ok()?;
            chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(text, " é\"q\"\\\n 日本🦀\t\u{7f}ß");
}

#[test]
fn anthropic_unary_and_required_headers() {
    let sim = start();
    let body = br#"{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[],"thinking":{"type":"enabled","budget_tokens":1024}}"#;
    let response = call(&sim, "POST", "/v1/messages", &[VERSION, ("x-api-key", "k")], body);
    let answer = response.json();
    assert_eq!(
        (&answer["type"], &answer["stop_reason"]),
        (&json!("message"), &json!("end_turn"))
    );
    assert_eq!(
        (&answer["content"][0]["type"], &answer["content"][1]["type"]),
        (&json!("thinking"), &json!("text"))
    );
    assert_eq!(answer["usage"]["output_tokens"], 32);
    assert!(response.header("request-id").unwrap().starts_with("req_01"));
    let missing = call(&sim, "POST", "/v1/messages", &[("x-api-key", "k")], body);
    assert_eq!(
        (missing.status, &missing.json()["error"]["type"]),
        (400, &json!("invalid_request_error"))
    );
}

#[test]
fn anthropic_stream_keeps_the_real_event_order() {
    let sim = start();
    let body =
        br#"{"model":"claude+tokens=2,reasoning=1,tool=1,tool_name=f,tool_args={}","stream":true,"max_tokens":9}"#;
    let response = call(&sim, "POST", "/anthropic/v1/messages", &[VERSION], body);
    let expected = "message_start content_block_start ping content_block_delta content_block_delta content_block_stop \
                    content_block_start content_block_delta content_block_delta content_block_stop \
                    content_block_start content_block_delta content_block_stop message_delta message_stop";
    assert_eq!(response.events().join(" "), expected);
    let data: Vec<Value> = response
        .data()
        .iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert!(
        data.iter()
            .zip(response.events())
            .all(|(data, event)| data["type"] == event)
    );
    assert_eq!(data[4]["delta"]["type"], "signature_delta");
    assert_eq!(
        (&data[11]["delta"]["partial_json"], &data[11]["index"]),
        (&json!("{}"), &json!(2))
    );
    assert_eq!(
        (&data[13]["delta"]["stop_reason"], &data[13]["usage"]["output_tokens"]),
        (&json!("tool_use"), &json!(4))
    );
}

#[test]
fn bedrock_converse_and_its_stream() {
    let sim = start();
    let target = "/model/anthropic.claude-3-5-haiku%3A0/converse";
    let response = call(
        &sim,
        "POST",
        target,
        &[],
        br#"{"messages":[],"inferenceConfig":{"maxTokens":4}}"#,
    );
    let answer = response.json();
    assert_eq!(
        (&answer["stopReason"], &answer["usage"]["outputTokens"]),
        (&json!("max_tokens"), &json!(4))
    );
    assert_eq!(response.header("x-amzn-requestid").map(str::len), Some(36));
    let stream = call(
        &sim,
        "POST",
        "/model/m+tokens=2,tool=1,tool_args={}/converse-stream",
        &[],
        br#"{"messages":[]}"#,
    );
    assert_eq!(
        stream.header("content-type"),
        Some("application/vnd.amazon.eventstream")
    );
    let frames = frames(&stream.body);
    let names: Vec<&str> = frames.iter().map(|(_, name, _)| name.as_str()).collect();
    let expected = "messageStart contentBlockDelta contentBlockDelta contentBlockStop contentBlockStart contentBlockDelta \
                    contentBlockStop messageStop metadata";
    assert_eq!(names.join(" "), expected);
    assert!(
        frames
            .iter()
            .all(|(kind, _, payload)| kind == "event" && payload["p"].is_string())
    );
    assert_eq!(frames[1].2["delta"]["text"], " when");
    assert_eq!(frames[5].2["delta"]["toolUse"]["input"], "{}");
    assert_eq!(frames[8].2["usage"]["outputTokens"], 3);
}

#[test]
fn bedrock_exceptions_and_bad_checksums_are_framed() {
    let sim = start();
    let stream = call(
        &sim,
        "POST",
        "/model/m+error_event=2/converse-stream",
        &[],
        br#"{"messages":[]}"#,
    );
    let last = frames(&stream.body).pop().unwrap();
    assert_eq!((last.0.as_str(), last.1.as_str()), ("exception", "throttlingException"));
    let broken = call(
        &sim,
        "POST",
        "/model/m+malformed=crc/converse-stream",
        &[],
        br#"{"messages":[]}"#,
    );
    assert!(
        std::panic::catch_unwind(|| frames(&broken.body)).is_err(),
        "a wrong checksum is found"
    );
    let error = call(&sim, "POST", "/model/m+status=429/converse", &[], br#"{"messages":[]}"#);
    assert_eq!(
        (error.status, error.header("x-amzn-errortype")),
        (429, Some("ThrottlingException"))
    );
    assert!(error.json()["message"].is_string());
}

#[test]
fn responses_stream_numbers_its_events_and_completes() {
    let sim = start();
    let response = call(
        &sim,
        "POST",
        "/v1/responses",
        &[],
        br#"{"model":"gpt-5+tokens=2","input":"hi","stream":true}"#,
    );
    let data: Vec<Value> = response
        .data()
        .iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert!(
        data.iter()
            .enumerate()
            .all(|(index, event)| event["sequence_number"] == index)
    );
    assert_eq!(
        (&data[0]["type"], &data.last().unwrap()["type"]),
        (&json!("response.created"), &json!("response.completed"))
    );
    assert_eq!(data.last().unwrap()["response"]["usage"]["output_tokens"], 2);
    let unary = call(
        &sim,
        "POST",
        "/v1/responses",
        &[],
        br#"{"model":"gpt-5+tool=1","input":"hi"}"#,
    )
    .json();
    assert_eq!(
        (&unary["status"], &unary["output"][0]["type"]),
        (&json!("completed"), &json!("function_call"))
    );
}

#[test]
fn legacy_completions_stream_text() {
    let sim = start();
    let response = call(
        &sim,
        "POST",
        "/v1/completions",
        &[],
        br#"{"model":"m+tokens=1","prompt":"x","stream":true}"#,
    );
    let first: Value = serde_json::from_str(&response.data()[0]).unwrap();
    assert_eq!(
        (&first["object"], &first["choices"][0]["text"]),
        (&json!("text_completion"), &json!(" when"))
    );
}

#[test]
fn embeddings_float_and_base64_are_the_same_vector() {
    let sim = start();
    let float = call(
        &sim,
        "POST",
        "/v1/embeddings",
        &[],
        br#"{"model":"e","input":["a","b"],"dimensions":3}"#,
    )
    .json();
    assert_eq!(float["data"].as_array().unwrap().len(), 2);
    let base64 = call(
        &sim,
        "POST",
        "/v1/embeddings",
        &[],
        br#"{"model":"e","input":"a","dimensions":3,"encoding_format":"base64"}"#,
    )
    .json();
    let bytes = sluice_bench::sim::digest::base64_decode(base64["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let decoded: Vec<f32> = bytes
        .chunks(4)
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let listed: Vec<f32> = float["data"][0]["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(decoded, listed);
}

#[test]
fn files_upload_and_come_back_byte_for_byte() {
    let sim = start();
    let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let head = b"--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XX\r\n\
                 Content-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\nContent-Type: x/y\r\n\r\n";
    let body = [&head[..], &data, b"\r\n--XX--\r\n"].concat();
    let multipart = ("content-type", "multipart/form-data; boundary=XX");
    let made = call(&sim, "POST", "/v1/files", &[multipart], &body).json();
    assert_eq!(
        (&made["bytes"], &made["filename"], &made["purpose"]),
        (&json!(5000), &json!("a.bin"), &json!("batch"))
    );
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        call(&sim, "GET", &format!("/v1/files/{id}/content"), &[], b"").body,
        data
    );
    assert_eq!(page_len(&call(&sim, "GET", "/v1/files", &[], b"").json()), 1);
    assert_eq!(
        call(&sim, "DELETE", &format!("/v1/files/{id}"), &[], b"").json()["deleted"],
        true
    );
    assert_eq!(call(&sim, "GET", &format!("/v1/files/{id}"), &[], b"").status, 404);
    let heard = call(&sim, "POST", "/v1/audio/transcriptions", &[multipart], &body).json();
    assert_eq!(heard["sim_file"]["crc32"], made["sim_crc32"]);
}

fn page_len(list: &Value) -> usize {
    list["data"].as_array().unwrap().len()
}

#[test]
fn the_other_endpoints_answer() {
    let sim = start();
    assert!(page_len(&call(&sim, "GET", "/v1/models", &[], b"").json()) > 2);
    assert_eq!(call(&sim, "GET", "/v1/models/gpt-4o", &[], b"").json()["id"], "gpt-4o");
    let moderated = call(
        &sim,
        "POST",
        "/v1/moderations",
        &[],
        br#"{"model":"m","input":"flagme"}"#,
    )
    .json();
    assert_eq!(moderated["results"][0]["flagged"], true);
    let image = call(
        &sim,
        "POST",
        "/v1/images/generations",
        &[("x-sim", "bytes=1000")],
        br#"{"model":"i","prompt":"x"}"#,
    )
    .json();
    assert_eq!(image["data"][0]["b64_json"].as_str().unwrap().len(), 1000);
    let speech = call(&sim, "POST", "/v1/audio/speech", &[], br#"{"model":"tts","input":"x"}"#);
    assert_eq!(
        (speech.body.len(), speech.header("content-type")),
        (4096, Some("audio/mpeg"))
    );
    let batch = call(
        &sim,
        "POST",
        "/v1/batches",
        &[],
        br#"{"endpoint":"/v1/chat/completions","input_file_id":"file-1"}"#,
    )
    .json();
    let held = call(
        &sim,
        "GET",
        &format!("/v1/batches/{}", batch["id"].as_str().unwrap()),
        &[],
        b"",
    )
    .json();
    assert_eq!(held, batch);
    assert_eq!(call(&sim, "GET", "/v1/nothing", &[], b"").status, 404);
}

#[test]
fn the_echo_describes_exactly_what_arrived() {
    let sim = start();
    let body = b"{ \"model\" : \"echo\" , \"x\":1.50 }";
    let mut client = Client::new(&sim);
    client.send(&request(
        "POST",
        "/v1/chat/completions?a=b",
        &[("X-One", "1"), ("x-two", "2")],
        body,
    ));
    let echo = client.receive().json();
    assert_eq!(
        (&echo["method"], &echo["target"]),
        (&json!("POST"), &json!("/v1/chat/completions?a=b"))
    );
    let base64 = echo["body_base64"].as_str().unwrap();
    assert_eq!(sluice_bench::sim::digest::base64_decode(base64).unwrap(), body);
    assert_eq!(echo["body_crc32"], format!("{:08x}", crc(body)));
    let names: Vec<&str> = echo["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[0].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Host", "Content-Length", "Authorization", "X-One", "x-two"]);
    assert_eq!(echo["headers"][2][1], "Bearer sk-test");
}
