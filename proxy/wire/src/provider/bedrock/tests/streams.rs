//! Streams, both ways.

use super::*;
use crate::chat::{Delta, Open};
use crate::limits::STREAM_PARTS_MAX;

fn event(name: &str, payload: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let open = eventstream::begin_event(name, &mut out);
    out.extend_from_slice(payload.to_string().as_bytes());
    open.finish(&mut out).unwrap();
    out
}

fn exception(name: &str, payload: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let open = eventstream::begin_exception(name, &mut out);
    out.extend_from_slice(payload.to_string().as_bytes());
    open.finish(&mut out).unwrap();
    out
}

fn events(list: &[(&str, Value)]) -> Vec<u8> {
    list.iter().flat_map(|(name, payload)| event(name, payload)).collect()
}

/// Reads a stream in pieces that end at `cuts`; the events as text.
fn read(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Result<StreamEnd, Code>) {
    let mut decoder = StreamDecoder::new();
    let mut seen = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&bytes.len()]) {
        if let Err(error) = decoder.push(&bytes[from..to], &mut |event| seen.push(format!("{event:?}"))) {
            return (seen, Err(error.code));
        }
        from = to;
    }
    let end = decoder.finish(&mut |event| seen.push(format!("{event:?}")));
    (seen, Ok(end))
}

/// Reads a stream and writes it again; the payloads by name.
fn through(bytes: &[u8]) -> Vec<(String, Value)> {
    let (mut decoder, mut encoder, mut out) = (StreamDecoder::new(), StreamEncoder::new(&REPLY), Out::default());
    out.begin(&[]);
    decoder
        .push(bytes, &mut |event| encoder.push(&event, &mut out))
        .unwrap();
    decoder.finish(&mut |event| encoder.push(&event, &mut out));
    messages(&out.collect(&[]))
}

fn messages(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let mut decoder = eventstream::Decoder::new();
    let mut list = Vec::new();
    while let Some(message) = decoder.next_message(&mut bytes).unwrap() {
        let name = if message.event_type.is_empty() {
            message.exception_type
        } else {
            message.event_type
        };
        list.push((name.to_owned(), serde_json::from_slice(message.payload).unwrap()));
    }
    decoder.finish().unwrap();
    list
}

/// As the service sends it, but for the padding.
fn conversation() -> Vec<(&'static str, Value)> {
    vec![
        ("messageStart", json!({"role": "assistant"})),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}),
        ),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "sig"}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 1, "delta": {"reasoningContent": {"redactedContent": "RXRrRUNrZ0k="}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 1})),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 2, "delta": {"text": "Hi \"you\"\n"}}),
        ),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 2, "delta": {"citation": {"title": "t", "location": {"documentPage": {"documentIndex": 0, "start": 1, "end": 2}}}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 2})),
        (
            "contentBlockStart",
            json!({"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}),
        ),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 3, "delta": {"toolUse": {"input": "{\"a\":"}}}),
        ),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 3, "delta": {"toolUse": {"input": "1}"}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 3})),
        (
            "contentBlockStart",
            json!({"contentBlockIndex": 4, "start": {"toolUse": {"toolUseId": "t2", "name": "g"}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 4})),
        (
            "messageStop",
            json!({"stopReason": "tool_use", "additionalModelResponseFields": {"stop_sequence": "END"}}),
        ),
        (
            "metadata",
            json!({
                "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 10, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 4},
                "metrics": {"latencyMs": 522},
            }),
        ),
    ]
}

fn owned(list: Vec<(&'static str, Value)>) -> Vec<(String, Value)> {
    list.into_iter()
        .map(|(name, payload)| (name.to_owned(), payload))
        .collect()
}

#[test]
fn a_stream_survives_the_way_through_the_chat_model() {
    assert_eq!(through(&events(&conversation())), owned(conversation()));
}

#[test]
fn padding_and_unknown_events_change_nothing() {
    let mut noisy = conversation();
    for (_, payload) in &mut noisy {
        payload["p"] = json!("abcdefghijklmnopqrstuvwxyzABCDEF");
    }
    noisy.insert(3, ("somethingNew", json!({"x": 1})));
    noisy.insert(0, ("initial-response", json!({})));
    assert_eq!(through(&events(&noisy)), owned(conversation()));
}

#[test]
fn a_stream_split_anywhere_reads_alike() {
    let bytes = events(&conversation());
    let whole = read(&bytes, &[]);
    assert_eq!(whole.1, Ok(StreamEnd::Complete));
    for cut in 0..=bytes.len() {
        assert_eq!(read(&bytes, &[cut]), whole, "cut at {cut}");
    }
    assert_eq!(read(&bytes, &(1..bytes.len()).collect::<Vec<_>>()), whole);
}

#[test]
fn a_stream_that_ends_early_is_interrupted_unless_the_message_was_over() {
    let list = conversation();
    let sizes: Vec<usize> = list.iter().map(|(name, payload)| event(name, payload).len()).collect();
    let bytes = events(&list);
    let stop = bytes.len() - sizes[sizes.len() - 1];
    for end in 0..bytes.len() {
        let expected = if end == stop {
            StreamEnd::Complete
        } else {
            StreamEnd::Interrupted
        };
        let (seen, result) = read(&bytes[..end], &[]);
        assert_eq!(result, Ok(expected), "end at {end}");
        assert_eq!(seen.last().is_some_and(|last| last == "End"), end == stop);
    }
}

#[test]
fn text_may_precede_reasoning_within_one_index_and_reasoning_may_follow_itself() {
    let block = |index: u64, delta: Value| ("contentBlockDelta", json!({"contentBlockIndex": index, "delta": delta}));
    let list = [
        ("messageStart", json!({"role": "assistant"})),
        block(0, json!({"text": "a"})),
        block(1, json!({"reasoningContent": {"text": "b"}})),
        block(1, json!({"text": "c"})),
        block(2, json!({"reasoningContent": {"redactedContent": "RXRrRUNrZ0k="}})),
        block(2, json!({"reasoningContent": {"redactedContent": "RXRrRUNrZ0k="}})),
        ("messageStop", json!({"stopReason": "end_turn"})),
    ];
    let (mut decoder, mut parts, mut open) = (StreamDecoder::new(), Vec::new(), None);
    let mut watch = |event: ChatEvent<'_>| match event {
        ChatEvent::Open { part, open: kind, .. } => {
            assert_eq!(
                (open.replace(part), part as usize),
                (None, parts.len()),
                "one part at a time, numbered in order"
            );
            parts.push(match kind {
                Open::Text => "text",
                Open::Thinking => "thinking",
                Open::RedactedThinking(_) => "redacted",
                _ => "other",
            });
        }
        ChatEvent::Delta { part, .. } => assert_eq!(open, Some(part)),
        ChatEvent::Close { part, .. } => assert_eq!(open.take(), Some(part)),
        ChatEvent::Finish { .. } => assert_eq!(open, None),
        _ => {}
    };
    decoder.push(&events(&list), &mut watch).unwrap();
    assert_eq!(decoder.finish(&mut watch), StreamEnd::Complete);
    assert_eq!(parts, ["text", "thinking", "text", "redacted", "redacted"]);
}

#[test]
fn a_servers_own_tools_stay_whole_and_are_no_calls() {
    let list = vec![
        ("messageStart", json!({"role": "assistant"})),
        (
            "contentBlockStart",
            json!({"contentBlockIndex": 0, "start": {"toolUse": {"name": "nova_code_interpreter", "toolUseId": "a", "type": "server_tool_use"}}}),
        ),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": "{}"}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        (
            "contentBlockStart",
            json!({"contentBlockIndex": 1, "start": {"toolResult": {"toolUseId": "a", "status": "success", "type": "nova_code_interpreter_result"}}}),
        ),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 1, "delta": {"toolResult": [{"json": {"stdOut": "7006652"}}]}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 1})),
        ("messageStop", json!({"stopReason": "end_turn"})),
    ];
    let mut decoder = StreamDecoder::new();
    let (mut calls, mut results) = (0, 0);
    let mut watch = |event: ChatEvent<'_>| match event {
        ChatEvent::Open {
            open: Open::ToolCall { .. },
            ..
        }
        | ChatEvent::Delta {
            delta: Delta::Arguments(_),
            ..
        } => calls += 1,
        ChatEvent::Delta {
            delta: Delta::Other(_, raw),
            ..
        } => {
            assert_eq!(raw.as_json(), r#"{"toolResult":[{"json":{"stdOut":"7006652"}}]}"#);
            results += 1;
        }
        _ => {}
    };
    decoder.push(&events(&list), &mut watch).unwrap();
    assert_eq!((calls, results), (0, 1));
    assert_eq!(decoder.malformed(), 0);
}

#[test]
fn exceptions_in_a_stream_are_errors_with_a_status_and_a_rule_for_retrying() {
    for (name, kind, status, retry) in [
        ("throttlingException", ErrorKind::RateLimit, 429, Retry::OtherTarget),
        ("modelStreamErrorException", ErrorKind::Server, 424, Retry::SameTarget),
        ("internalServerException", ErrorKind::Server, 500, Retry::SameTarget),
        ("validationException", ErrorKind::InvalidRequest, 400, Retry::Never),
        (
            "serviceUnavailableException",
            ErrorKind::Overloaded,
            503,
            Retry::SameTarget,
        ),
        ("modelTimeoutException", ErrorKind::Timeout, 408, Retry::SameTarget),
        ("unheardOfException", ErrorKind::Server, 500, Retry::SameTarget),
    ] {
        let mut bytes = event("messageStart", &json!({"role": "assistant"}));
        bytes.extend(exception(name, &json!({"message": "so it is"})));
        bytes.extend(event("metadata", &json!({})));
        let mut decoder = StreamDecoder::new();
        let mut errors = Vec::new();
        decoder
            .push(&bytes, &mut |event| match event {
                ChatEvent::Error(error) => errors.push(error),
                ChatEvent::Start { .. } => {}
                other => panic!("nothing follows an error: {other:?}"),
            })
            .unwrap();
        assert_eq!(decoder.finish(&mut |event| panic!("{event:?}")), StreamEnd::Failed);
        let [error] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!(
            (error.kind, error.status, error.retry(), error.message.as_str()),
            (kind, status, retry, "so it is"),
            "{name}"
        );
    }
    let original = exception(
        "modelStreamErrorException",
        &json!({"originalStatusCode": 529, "originalMessage": "overloaded"}),
    );
    let (seen, end) = read(&original, &[]);
    assert_eq!(end, Ok(StreamEnd::Failed));
    assert!(
        seen[0].contains("Overloaded") && seen[0].contains("529") && seen[0].contains("\"overloaded\""),
        "{seen:?}"
    );
}

#[test]
fn an_error_without_a_model_is_told_by_its_headers() {
    use eventstream::HeaderValue;
    let headers = [
        (":message-type", HeaderValue::String("error")),
        (":error-code", HeaderValue::String("InternalFailure")),
        (":error-message", HeaderValue::String("went away")),
    ];
    let mut out = Vec::new();
    eventstream::begin(&headers, &mut out)
        .unwrap()
        .finish(&mut out)
        .unwrap();
    let (seen, end) = read(&out, &[]);
    assert_eq!(end, Ok(StreamEnd::Failed));
    assert!(seen[0].contains("went away"), "{seen:?}");
}

#[test]
fn one_malformed_event_is_skipped_and_counted() {
    let mut list = conversation();
    list.insert(2, ("contentBlockDelta", json!({"contentBlockIndex": 0})));
    list.insert(
        2,
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 9, "delta": {"toolUse": {"input": "x"}}}),
        ),
    );
    list.insert(2, ("contentBlockStart", json!({"contentBlockIndex": 0})));
    let mut bytes = events(&list);
    let mut open = Vec::new();
    let message = eventstream::begin_event("contentBlockDelta", &mut open);
    open.extend_from_slice(b"{not json");
    message.finish(&mut open).unwrap();
    bytes.splice(0..0, open);
    assert_eq!(through(&bytes), owned(conversation()));
    let mut decoder = StreamDecoder::new();
    decoder.push(&bytes, &mut |_| {}).unwrap();
    assert_eq!(decoder.malformed(), 4);
}

#[test]
fn a_wrong_checksum_or_too_many_parts_is_a_protocol_error() {
    let mut bytes = events(&conversation());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert_eq!(read(&bytes, &[]).1, Err(Code::UpstreamProtocolError));
    assert_eq!(
        read(b"HTTP/1.1 500 Internal Server Error", &[]).1,
        Err(Code::UpstreamProtocolError)
    );
    let mut many = Vec::new();
    for index in 0..=STREAM_PARTS_MAX {
        many.extend(event(
            "contentBlockDelta",
            &json!({"contentBlockIndex": index, "delta": {"text": "x"}}),
        ));
    }
    assert_eq!(read(&many, &[]).1, Err(Code::UpstreamProtocolError));
}

#[test]
fn an_interrupted_stream_ends_in_an_exception_and_nothing_follows() {
    let (mut encoder, mut out) = (StreamEncoder::new(&REPLY), Out::default());
    out.begin(&[]);
    let start = ChatEvent::Start {
        id: Text::default(),
        model: Text::default(),
        created: None,
        fingerprint: None,
        service_tier: None,
    };
    encoder.push(&start, &mut out);
    encoder.push(
        &ChatEvent::Open {
            choice: 0,
            part: 0,
            open: Open::Text,
        },
        &mut out,
    );
    encoder.push(
        &ChatEvent::Delta {
            choice: 0,
            part: 0,
            delta: Delta::Text(Text::plain("x")),
        },
        &mut out,
    );
    encoder.interrupt(&ApiError::new(Code::UpstreamStreamInterrupted, "cut"), &mut out);
    encoder.interrupt(&ApiError::new(Code::UpstreamStreamInterrupted, "cut"), &mut out);
    encoder.push(&ChatEvent::End, &mut out);
    let list = messages(&out.collect(&[]));
    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["messageStart", "contentBlockDelta", "modelStreamErrorException"]
    );
    assert_eq!(list[2].1, json!({"message": "cut"}));
}

#[test]
fn errors_of_other_dialects_become_the_exceptions_that_the_sdk_knows() {
    for (kind, name) in [
        (ErrorKind::RateLimit, "throttlingException"),
        (ErrorKind::Overloaded, "serviceUnavailableException"),
        (ErrorKind::Server, "internalServerException"),
        (ErrorKind::Timeout, "modelStreamErrorException"),
        (ErrorKind::ContextLength, "validationException"),
        (ErrorKind::Authentication, "internalServerException"),
    ] {
        let error = crate::chat::UpstreamError {
            status: 500,
            kind,
            message: "m".into(),
            code: None,
            param: None,
            retry_after_s: None,
        };
        let (mut encoder, mut out) = (StreamEncoder::new(&REPLY), Out::default());
        out.begin(&[]);
        encoder.push(&ChatEvent::Error(error), &mut out);
        assert_eq!(messages(&out.collect(&[]))[0].0, name);
    }
}

#[test]
fn parts_without_a_form_and_empty_parts_leave_no_trace() {
    let (mut encoder, mut out) = (StreamEncoder::new(&REPLY), Out::default());
    out.begin(&[]);
    let raw = crate::chat::Raw::parse("{\"type\":\"web_search\"}").unwrap();
    let foreign = crate::dialect::Dialect::Anthropic;
    let list = [
        ChatEvent::Open {
            choice: 0,
            part: 0,
            open: Open::Text,
        },
        ChatEvent::Close { choice: 0, part: 0 },
        ChatEvent::Open {
            choice: 0,
            part: 1,
            open: Open::Other(foreign, raw.borrowed()),
        },
        ChatEvent::Delta {
            choice: 0,
            part: 1,
            delta: Delta::Other(foreign, raw.borrowed()),
        },
        ChatEvent::Close { choice: 0, part: 1 },
        ChatEvent::Ping,
        ChatEvent::Open {
            choice: 1,
            part: 0,
            open: Open::Text,
        },
        ChatEvent::Delta {
            choice: 1,
            part: 0,
            delta: Delta::Text(Text::plain("second answer")),
        },
    ];
    list.iter().for_each(|event| encoder.push(event, &mut out));
    assert_eq!(out.buf, b"");
    encoder.push(&ChatEvent::End, &mut out);
    let list = messages(&out.collect(&[]));
    assert_eq!(list[0], ("messageStop".into(), json!({"stopReason": "end_turn"})));
    assert_eq!(list[1].1["metrics"], json!({"latencyMs": 0}));
}
