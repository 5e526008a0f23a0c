//! Usage is found in every framing, however the bytes are cut, and nothing else is taken for it.

use super::*;
use crate::eventstream::begin_event;
use crate::limits::USAGE_BYTES_MAX;

/// Reads `body` cut at every byte, and byte by byte; all must agree.
fn read(dialect: Dialect, framing: Framing, body: &[u8]) -> Option<Usage> {
    let mut one = UsageScan::new(dialect, framing);
    one.push(body);
    for cut in 0..=body.len() {
        let mut scan = UsageScan::new(dialect, framing);
        scan.push(&body[..cut]);
        scan.push(&body[cut..]);
        assert_eq!(scan.usage(), one.usage(), "cut at {cut}");
    }
    let mut scan = UsageScan::new(dialect, framing);
    body.iter().for_each(|byte| scan.push(std::slice::from_ref(byte)));
    assert_eq!(scan.usage(), one.usage(), "byte by byte");
    assert_eq!(scan.tier(), one.tier(), "byte by byte");
    let mut all = UsageScan::new(dialect, framing);
    all.push_all(body);
    assert_eq!(all.usage(), one.usage(), "in one go");
    assert_eq!(all.tier(), one.tier(), "in one go");
    assert_eq!(all.has_body(), one.has_body());
    one.usage()
}

fn sums(usage: Option<Usage>) -> Option<(u64, u64, u64)> {
    usage.map(|usage| (usage.input, usage.cache_read, usage.output))
}

#[test]
fn whole_answers_say_it_at_the_top() {
    let openai = br#"{"id":"x","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],
        "usage" : {"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":60}} , "z":[1]}"#;
    assert_eq!(sums(read(Dialect::OpenAi, Framing::Whole, openai)), Some((40, 60, 20)));
    let anthropic = br#"{"type":"message","usage":{"input_tokens":7,"cache_read_input_tokens":3,"output_tokens":5}}"#;
    assert_eq!(
        sums(read(Dialect::Anthropic, Framing::Whole, anthropic)),
        Some((7, 3, 5))
    );
    let bedrock = br#"{"output":{},"usage":{"inputTokens":7,"outputTokens":5,"cacheReadInputTokens":2}}"#;
    assert_eq!(sums(read(Dialect::Bedrock, Framing::Whole, bedrock)), Some((7, 2, 5)));
}

#[test]
fn the_responses_interface_has_names_of_its_own() {
    let body = br#"{"object":"response","usage":{"input_tokens":50,"input_tokens_details":{"cached_tokens":10},
        "output_tokens":30,"output_tokens_details":{"reasoning_tokens":12},"total_tokens":80}}"#;
    let usage = read(Dialect::OpenAi, Framing::Whole, body).unwrap();
    assert_eq!(
        (usage.input, usage.cache_read, usage.output, usage.reasoning),
        (40, 10, 30, Some(12))
    );
}

#[test]
fn streams_say_it_in_an_event_of_theirs() {
    let openai = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n: ping\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    assert_eq!(sums(read(Dialect::OpenAi, Framing::Events, openai)), Some((9, 0, 2)));
    let responses = b"event: response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[],\
        \"usage\":{\"input_tokens\":4,\"output_tokens\":6}}}\r\n\r\n";
    assert_eq!(sums(read(Dialect::OpenAi, Framing::Events, responses)), Some((4, 0, 6)));
}

#[test]
fn what_a_stream_reports_in_parts_is_put_together() {
    let body = b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":11,\
        \"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\
        \"delta\":{},\"usage\":{\"output_tokens\":40}}\n\n";
    assert_eq!(sums(read(Dialect::Anthropic, Framing::Events, body)), Some((11, 5, 40)));
    let cut = memchr::memmem::find(body, b"event: message_delta").unwrap();
    let mut scan = UsageScan::new(Dialect::Anthropic, Framing::Events);
    scan.push(&body[..cut]);
    assert_eq!(
        sums(scan.usage()),
        Some((11, 5, 1)),
        "what is known when a stream is cut"
    );
    assert!(scan.has_body());
}

#[test]
fn an_event_of_several_lines_is_one_document() {
    let body =
        b"data: {\"choices\":[],\ndata:\"usage\":\ndata: {\"prompt_tokens\":3,\ndata: \"completion_tokens\":1}}\n\n";
    assert_eq!(sums(read(Dialect::OpenAi, Framing::Events, body)), Some((3, 0, 1)));
}

#[test]
fn frames_are_read_as_documents() {
    let mut body = Vec::new();
    for (kind, payload) in [
        ("messageStart", &br#"{"role":"assistant"}"#[..]),
        (
            "metadata",
            br#"{"metrics":{},"usage":{"inputTokens":8,"outputTokens":4}}"#,
        ),
    ] {
        let open = begin_event(kind, &mut body);
        body.extend_from_slice(payload);
        open.finish(&mut body).unwrap();
    }
    assert_eq!(sums(read(Dialect::Bedrock, Framing::Frames, &body)), Some((8, 0, 4)));
    body[20] ^= 1;
    assert_eq!(read(Dialect::Bedrock, Framing::Frames, &body), None);
}

#[test]
fn what_a_model_or_a_client_wrote_is_not_taken_for_usage() {
    for body in [
        r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1,"output_tokens":1}}}]}"#,
        r#"{"content":{"usage":{"input_tokens":1}}}"#,
        r#"{"message":{"content":{"usage":{"input_tokens":1}}}}"#,
        r#"{"a\"usage":{"input_tokens":1},"usag\u0065":{"input_tokens":1}}"#,
        r#"{"x":"usage","y":{"input_tokens":1}}"#,
        r#"["usage",{"usage":{"input_tokens":1}}]"#,
        r#"{"message":["usage",{"usage":{"input_tokens":1}}]}"#,
        r#"{"usage":"none","other":{"input_tokens":1}}"#,
        r#"{"usage":[{"input_tokens":1}]}"#,
        r#"{"usage":{"input_tokens":"#,
        "",
    ] {
        assert_eq!(
            read(Dialect::Anthropic, Framing::Whole, body.as_bytes()),
            None,
            "{body}"
        );
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_left_alone() {
    let mut scan = UsageScan::new(Dialect::OpenAi, Framing::Whole);
    scan.push(b"{\"usage\":{\"x\":\"");
    for _ in 0..100 {
        scan.push(&[b'x'; 1_000]);
    }
    assert!(scan.path.object.len() <= USAGE_BYTES_MAX + 1_000);
    scan.push(b"\",\"prompt_tokens\":1}}");
    assert_eq!(scan.usage(), None);
    let mut scan = UsageScan::new(Dialect::OpenAi, Framing::Whole);
    scan.push(&[b'['; 100_000]);
    scan.push(b"{\"usage\":{\"prompt_tokens\":1}}");
    assert_eq!(scan.usage(), None);
}

fn tier(dialect: Dialect, framing: Framing, body: &str) -> Option<String> {
    read(dialect, framing, body.as_bytes());
    let mut scan = UsageScan::new(dialect, framing);
    scan.push(body.as_bytes());
    scan.tier().map(|tier| tier.as_str().to_owned())
}

#[test]
fn the_tier_is_what_the_answer_says_it_is() {
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":1}"#;
    let whole = |body: &str| tier(Dialect::OpenAi, Framing::Whole, body);
    for (body, is) in [
        (
            format!(r#"{{"id":"x",{usage},"service_tier":"flex","z":[{{"a":"}}"}}]}}"#),
            Some("flex"),
        ),
        (
            format!(r#"{{"service_tier" : "priority","choices":[],{usage}}}"#),
            Some("priority"),
        ),
        (
            format!(r#"{{"response":{{"service_tier":"flex",{usage}}}}}"#),
            Some("flex"),
        ),
        (format!(r#"{{{usage},"service_tier":null}}"#), None),
        (
            format!(r#"{{{usage},"service_tier":"longer than any name of a tier"}}"#),
            None,
        ),
        (
            format!(r#"{{{usage},"x":"service_tier","y":{{"service_tier":"flex"}}}}"#),
            None,
        ),
        (format!(r#"{{"metadata":{{"service_tier":"flex"}},{usage}}}"#), None),
        (format!(r#"{{{usage}}}"#), None),
    ] {
        assert_eq!(whole(&body).as_deref(), is, "{body}");
    }
    let stream = format!("data: {{\"choices\":[],\"service_tier\":\"default\",{usage}}}\n\ndata: [DONE]\n\n");
    assert_eq!(
        tier(Dialect::OpenAi, Framing::Events, &stream).as_deref(),
        Some("default")
    );
    let anthropic = r#"{"content":[],"usage":{"input_tokens":7,"output_tokens":5,"service_tier":"batch"}}"#;
    assert_eq!(
        tier(Dialect::Anthropic, Framing::Whole, anthropic).as_deref(),
        Some("batch")
    );
}

#[test]
fn usage_behind_which_the_document_goes_on_is_read_by_its_place() {
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":1}"#;
    let read = |body: &str| sums(read(Dialect::OpenAi, Framing::Whole, body.as_bytes()));
    for (body, is) in [
        (format!(r#"{{{usage},"choices":[{{"text":"a \"}} b"}},{{}}]}}"#), true),
        (format!(r#"{{{usage}}} "#), true),
        (format!(r#"{{"tools":[{{{usage}}}]}}"#), false),
        (format!(r#"{{"tools":[{{{usage}}}],"usage":null}}"#), false),
        (
            format!(r#"{{"tools":[{{"usage":{{"prompt_tokens":8}}}}],{usage}}}"#),
            true,
        ),
        (format!(r#"[{{{usage}}}]"#), false),
        (r#"{"x":"\"usage\":{\"prompt_tokens\":3}"}"#.to_owned(), false),
        (r#"{"x":"usage","usage":7}"#.to_owned(), false),
    ] {
        assert_eq!(read(&body), is.then_some((3, 0, 1)), "{body}");
    }
}
