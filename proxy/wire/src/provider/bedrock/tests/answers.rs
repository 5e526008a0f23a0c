//! Whole answers, both ways.

use super::*;
use crate::chat::{Choice, Citation, Location, Part};

fn parse(body: &Value) -> Value {
    let body = body.to_string();
    let response = parse_response(body.as_bytes()).unwrap();
    written(&response)
}

fn written(response: &ChatResponse<'_>) -> Value {
    let mut out = Out::default();
    out.begin(&[]);
    write_response(response, &REPLY, &mut out);
    serde_json::from_slice(&out.collect(&[])).unwrap()
}

#[test]
fn an_answer_survives_the_way_through_the_chat_model() {
    let body = json!({
        "output": {"message": {"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "hmm", "signature": "sig"}}},
            {"reasoningContent": {"redactedContent": "RXRrRUNrZ0k="}},
            {"text": "Grüße \"you\"\n"},
            {"citationsContent": {"content": [{"text": "cited"}], "citations": [{"title": "t", "source": "https://x", "sourceContent": [{"text": "w"}],
                "location": {"documentChar": {"documentIndex": 0, "start": 1, "end": 5}}}]}},
            {"toolUse": {"toolUseId": "tooluse_1", "name": "f", "input": {"a": [1, 2.50]}}},
        ]}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 22, "outputTokens": 13, "totalTokens": 2527, "cacheReadInputTokens": 400, "cacheWriteInputTokens": 2092,
            "cacheDetails": [{"ttl": "5m", "inputTokens": 92}, {"ttl": "1h", "inputTokens": 2000}]},
        "metrics": {"latencyMs": 1234},
        "additionalModelResponseFields": {"stop_sequence": "END"},
        "serviceTier": {"type": "flex"},
    });
    assert_eq!(parse(&body), body);
}

#[test]
fn usage_is_split_without_counting_anything_twice() {
    let usage = |usage: Value| {
        let body = json!({"output": {}, "usage": usage}).to_string();
        parse_response(body.as_bytes()).unwrap().usage.unwrap()
    };
    let base = Usage {
        input: 22,
        output: 13,
        ..Usage::default()
    };
    assert_eq!(
        usage(json!({"inputTokens": 22, "outputTokens": 13, "totalTokens": 35, "serverToolUsage": {}})),
        base
    );
    let both = json!({"cacheReadInputTokenCount": 7, "cacheReadInputTokens": 7, "cacheWriteInputTokenCount": 2492, "cacheWriteInputTokens": 2492,
        "inputTokens": 22, "outputTokens": 13, "totalTokens": 2534});
    assert_eq!(
        usage(both),
        Usage {
            cache_read: 7,
            cache_write: 2492,
            ..base
        }
    );
    assert_eq!(
        usage(json!({"cacheReadInputTokenCount": 7, "inputTokens": 22, "outputTokens": 13})),
        Usage { cache_read: 7, ..base }
    );
    let hour = json!({"inputTokens": 22, "outputTokens": 13, "cacheWriteInputTokens": 10, "cacheDetails": [{"ttl": "1h", "inputTokens": 4}]});
    assert_eq!(
        usage(hour),
        Usage {
            cache_write: 6,
            cache_write_1h: 4,
            ..base
        }
    );
    assert_eq!(
        usage(json!({"inputTokens": 1, "cacheDetails": [{"ttl": "1h", "inputTokens": 4}]})).cache_write_1h,
        0,
        "never more than the total"
    );
    assert_eq!(usage(json!({})).total(), 0);
}

#[test]
fn stop_reasons_have_one_meaning_each_way() {
    for (word, finish) in [
        ("end_turn", Finish::Stop),
        ("tool_use", Finish::ToolCalls),
        ("max_tokens", Finish::Length),
        ("stop_sequence", Finish::StopSequence),
        ("content_filtered", Finish::ContentFilter),
        ("malformed_tool_use", Finish::Malformed),
        ("model_context_window_exceeded", Finish::ContextFull),
    ] {
        let body = json!({"output": {}, "stopReason": word}).to_string();
        let response = parse_response(body.as_bytes()).unwrap();
        assert_eq!(response.choices[0].finish, Some(finish), "{word}");
        assert_eq!(written(&response)["stopReason"], word);
    }
    for (word, finish) in [
        ("guardrail_intervened", Finish::ContentFilter),
        ("malformed_model_output", Finish::Malformed),
        ("something_new", Finish::Stop),
    ] {
        let body = json!({"output": {}, "stopReason": word}).to_string();
        assert_eq!(
            parse_response(body.as_bytes()).unwrap().choices[0].finish,
            Some(finish),
            "{word}"
        );
    }
}

#[test]
fn what_is_no_answer_is_a_protocol_error() {
    for body in [
        "",
        "{}",
        "[]",
        "{\"output\":1}",
        "{\"output\":{}",
        "{\"output\":{\"message\":{\"content\":\"text\"}}}",
        "{\"message\":\"error\"}",
        "{\"output\":{}}x",
    ] {
        assert_eq!(
            parse_response(body.as_bytes()).unwrap_err().code,
            Code::UpstreamProtocolError,
            "{body}"
        );
    }
    let odd = json!({"output": {"message": null}, "stopReason": "end_turn", "trace": {"x": [1]}, "additionalModelResponseFields": null, "usage": null});
    assert_eq!(parse(&odd)["output"]["message"]["content"], json!([]));
}

#[test]
fn an_answer_of_another_dialect_has_all_members_that_the_sdk_demands() {
    let parts = vec![
        Part::from(Content::text(Text::plain(""))),
        Content::Refusal(Text::plain("no")).into(),
        Content::Text {
            text: Text::plain("cited"),
            citations: vec![
                Citation {
                    url: Some(Text::plain("https://x")),
                    ..Citation::default()
                },
                Citation {
                    location: Location::Answer { start: 0, end: 1 },
                    ..Citation::default()
                },
                Citation {
                    location: Location::Search {
                        result: 1,
                        start: 0,
                        end: 2,
                    },
                    title: Some(Text::plain("t")),
                    ..Citation::default()
                },
            ],
        }
        .into(),
    ];
    let choice = Choice {
        index: 0,
        parts,
        finish: None,
        stop_sequence: None,
        logprobs: None,
    };
    let response = ChatResponse {
        choices: vec![choice],
        service_tier: Some(Text::plain("scale")),
        ..ChatResponse::default()
    };
    assert_eq!(
        written(&response),
        json!({
            "output": {"message": {"role": "assistant", "content": [
                {"text": "no"},
                {"citationsContent": {"content": [{"text": "cited"}], "citations": [
                    {"location": {"web": {"url": "https://x"}}},
                    {"title": "t", "location": {"searchResultLocation": {"searchResultIndex": 1, "start": 0, "end": 2}}}]}},
            ]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0, "cacheReadInputTokens": 0, "cacheWriteInputTokens": 0},
            "metrics": {"latencyMs": 0},
        })
    );
    assert_eq!(
        written(&ChatResponse::default())["output"]["message"]["content"],
        json!([])
    );
}
