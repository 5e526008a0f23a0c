//! What tunes an answer: sampling, thinking, caching, and fields that only some models take.

use super::requests::{asks, number, raw, says, text, write, write_to};
use super::*;
use crate::chat::{Arguments, CacheMark, Format, Reasoning, Role, Thinking, Tool};
use crate::dialect::Dialect;

#[test]
fn sampling_and_the_rest_are_kept_adapted_or_noted() {
    let request = ChatRequest {
        temperature: Some(number("1.5")),
        top_p: Some(number("0.90")),
        top_k: Some(number("40")),
        seed: Some(number("7")),
        n: Some(1),
        presence_penalty: Some(number("1")),
        frequency_penalty: Some(number("1")),
        logit_bias: Some(raw(r#"{"1":-100}"#)),
        logprobs: Some(false),
        user: Some(Text::plain("u")),
        service_tier: Some(Text::plain("scale")),
        parallel_tool_calls: Some(false),
        format: Some(Format::JsonObject),
        metadata: Some(raw(r#"{"ok":"a b","bad\"key":"x","number":1,"bad":"é","empty":""}"#)),
        ..asks(vec![text("hi")])
    };
    let (body, notes) = write(&request);
    assert_eq!(body["inferenceConfig"], json!({"temperature": 1}));
    assert_eq!(body["additionalModelRequestFields"], json!({"top_k": 40}));
    assert_eq!(body["requestMetadata"], json!({"ok": "a b", "empty": ""}));
    for lost in [
        "seed",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "user",
        "service_tier",
        "parallel_tool_calls",
        "response_format.json_object",
        "metadata.number",
        "metadata.bad",
        "metadata.bad?key",
    ] {
        assert!(
            notes.split(", ").any(|note| note == format!("{lost};dropped")),
            "{lost}: {notes}"
        );
    }
    assert!(notes.contains("temperature;adapted") && body.get("serviceTier").is_none());
    for (request, param) in [
        (
            ChatRequest {
                n: Some(2),
                ..asks(vec![text("hi")])
            },
            "n",
        ),
        (
            ChatRequest {
                logprobs: Some(true),
                ..asks(vec![text("hi")])
            },
            "logprobs",
        ),
    ] {
        assert_eq!(write_to(&request, CLAUDE).unwrap_err().param.as_deref(), Some(param));
    }
}

#[test]
fn each_family_is_told_to_think_in_its_own_words() {
    let effort = |effort| Reasoning {
        effort: Some(Text::plain(effort)),
        ..Reasoning::default()
    };
    let budget = |tokens| Reasoning {
        mode: Some(Thinking::Enabled),
        budget_tokens: Some(tokens),
        ..Reasoning::default()
    };
    let field = "additionalModelRequestFields";
    let told = |model: &str, reasoning: Reasoning<'static>, max_tokens: Option<u64>| {
        let (body, notes) = write_to(
            &ChatRequest {
                reasoning,
                max_tokens,
                ..asks(vec![text("hi")])
            },
            model,
        )
        .unwrap();
        (body.get(field).cloned().unwrap_or_default(), notes)
    };
    let enabled = |tokens: u64| json!({"thinking": {"type": "enabled", "budget_tokens": tokens}});
    assert_eq!(told(CLAUDE, budget(2000), Some(4000)), (enabled(2000), String::new()));
    assert_eq!(
        told(CLAUDE, budget(4000), Some(4000)),
        (enabled(2000), String::new()),
        "the budget is part of the maximum, and half is left"
    );
    assert_eq!(
        told(CLAUDE, budget(4000), Some(1024)),
        (Value::Null, "reasoning;dropped".into())
    );
    assert_eq!(
        told(CLAUDE, effort("high"), None),
        (enabled(24_576), "reasoning_effort;adapted".into())
    );
    assert_eq!(told(CLAUDE, effort("none"), None), (Value::Null, String::new()));
    let off = Reasoning {
        mode: Some(Thinking::Disabled),
        budget_tokens: Some(2000),
        ..Reasoning::default()
    };
    assert_eq!(
        told(CLAUDE, off, None),
        (json!({"thinking": {"type": "disabled"}}), String::new())
    );
    let adaptive = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}});
    assert_eq!(
        told("us.anthropic.claude-sonnet-4-6", effort("high"), None),
        (adaptive, String::new())
    );
    let nova = json!({"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}});
    assert_eq!(told("us.amazon.nova-2-lite-v1:0", effort("minimal"), None).0, nova);
    assert_eq!(
        told("openai.gpt-oss-120b-1:0", effort("xhigh"), None).0,
        json!({"reasoning_effort": "high"})
    );
    assert_eq!(
        told("us.meta.llama4-maverick-17b-instruct-v1:0", effort("high"), None),
        (Value::Null, "reasoning_effort;dropped".into())
    );
}

#[test]
fn sampling_and_thinking_give_way_where_claude_refuses_them_together() {
    let thinking = Reasoning {
        mode: Some(Thinking::Enabled),
        budget_tokens: Some(2000),
        ..Reasoning::default()
    };
    let request = ChatRequest {
        reasoning: thinking.clone(),
        temperature: Some(number("0.5")),
        top_k: Some(number("5")),
        ..asks(vec![text("hi")])
    };
    let (body, notes) = write(&request);
    assert_eq!(
        (body.get("inferenceConfig"), notes.as_str()),
        (None, "sampling;dropped")
    );
    let forced = ChatRequest {
        reasoning: thinking.clone(),
        tool_choice: Some(ToolChoice::Any),
        tools: vec![Tool::Function {
            name: Text::plain("f"),
            description: None,
            parameters: None,
            strict: None,
            cache: None,
        }],
        temperature: Some(number("0.5")),
        ..asks(vec![text("hi")])
    };
    let (body, notes) = write(&forced);
    assert_eq!(
        (body.get("additionalModelRequestFields"), notes.as_str()),
        (None, "thinking;dropped")
    );
    assert_eq!(
        body["inferenceConfig"]["temperature"], 0.5,
        "without thinking, sampling is free"
    );
    let call = Content::ToolCall {
        id: Text::plain("a"),
        name: Text::plain("f"),
        arguments: Arguments::Json(raw("{}")),
        custom: false,
    };
    let result = Content::ToolResult {
        id: Text::plain("a"),
        parts: vec![],
        is_error: None,
    };
    let unthought = ChatRequest {
        reasoning: thinking,
        messages: vec![
            says(Role::User, vec![text("q")]),
            says(Role::Assistant, vec![call]),
            says(Role::User, vec![result]),
        ],
        ..ChatRequest::default()
    };
    let (body, notes) = write(&unthought);
    assert_eq!(
        (body.get("additionalModelRequestFields"), notes.as_str()),
        (None, "thinking;dropped")
    );
}

#[test]
fn reasoning_goes_back_only_signed_and_only_to_claude() {
    let said = |signature: Option<&'static str>| {
        let thinking = Content::Thinking {
            text: Text::plain("hmm"),
            signature: signature.map(Text::plain),
        };
        let messages = vec![
            says(Role::User, vec![text("q")]),
            says(Role::Assistant, vec![thinking, text("a")]),
        ];
        ChatRequest {
            messages,
            ..ChatRequest::default()
        }
    };
    let (body, notes) = write(&said(Some("sig")));
    assert_eq!(
        body["messages"][1]["content"][0],
        json!({"reasoningContent": {"reasoningText": {"text": "hmm", "signature": "sig"}}})
    );
    assert_eq!(notes, "");
    for (request, model) in [(said(None), CLAUDE), (said(Some("sig")), "us.amazon.nova-pro-v1:0")] {
        let (body, notes) = write_to(&request, model).unwrap();
        assert_eq!(body["messages"][1]["content"], json!([{"text": "a"}]));
        assert_eq!(notes, "thinking;dropped");
    }
}

#[test]
fn opaque_reasoning_is_the_text_that_anthropic_calls_data() {
    let body = json!({"messages": [{"role": "assistant", "content": [
        {"reasoningContent": {"redactedContent": "RXRrRUNrZ0k="}}, {"reasoningContent": {"redactedContent": "AAECAw=="}}]}]})
    .to_string();
    let request = parse_request(body.as_bytes(), &Ingress::default()).unwrap();
    let parts = &request.messages[0].parts;
    assert!(matches!(&parts[0].content, Content::RedactedThinking(data) if data.is("EtkECkgI")));
    assert!(
        matches!(&parts[1].content, Content::RedactedThinking(data) if data.is("bedrock:AAECAw==")),
        "no text: kept as it is"
    );
    assert_eq!(write(&request).0, serde_json::from_str::<Value>(&body).unwrap());
}

#[test]
fn cache_marks_become_cache_points_for_models_that_have_them() {
    let request = || ChatRequest {
        cache: Some(CacheMark::OneHour),
        ..asks(vec![text("hi")])
    };
    let point = |point: Value| json!([{"text": "hi"}, {"cachePoint": point}]);
    assert_eq!(
        write(&request()).0["messages"][0]["content"],
        point(json!({"type": "default", "ttl": "1h"}))
    );
    let (body, _) = write_to(&request(), "amazon.nova-micro-v1:0").unwrap();
    assert_eq!(body["messages"][0]["content"], point(json!({"type": "default"})));
    let (body, notes) = write_to(&request(), "mistral.mistral-large-3-675b-instruct").unwrap();
    assert_eq!(
        (&body["messages"][0]["content"], notes.as_str()),
        (&json!([{"text": "hi"}]), "cache_control;dropped")
    );
}

#[test]
fn the_stop_sequence_is_asked_for_where_it_can_be_told() {
    let request = ChatRequest {
        stop: vec![Text::plain("END")],
        ..asks(vec![text("hi")])
    };
    assert_eq!(
        write(&request).0["additionalModelResponseFieldPaths"],
        json!(["/stop_sequence"])
    );
    assert_eq!(
        write_to(&request, "amazon.nova-micro-v1:0")
            .unwrap()
            .0
            .get("additionalModelResponseFieldPaths"),
        None
    );
}

#[test]
fn fields_of_other_dialects_are_dropped_and_named() {
    let extra = |dialect, key: &'static str| crate::chat::Extra {
        dialect,
        key: key.into(),
        value: raw("1"),
    };
    let request = ChatRequest {
        extras: vec![
            extra(Dialect::OpenAi, "store"),
            extra(Dialect::Bedrock, "newTop"),
            extra(Dialect::Bedrock, "additionalModelRequestFields.k"),
        ],
        ..asks(vec![text("hi")])
    };
    let (body, notes) = write(&request);
    assert_eq!(
        (&body["newTop"], &body["additionalModelRequestFields"]),
        (&json!(1), &json!({"k": 1}))
    );
    assert_eq!(notes, "store;dropped");
}
