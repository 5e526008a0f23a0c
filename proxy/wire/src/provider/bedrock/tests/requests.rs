//! Requests, both ways.

use super::*;
use crate::chat::{Arguments, CacheMark, Document, Message, Number, Part, Raw, Role, Tool};
use crate::dialect::Dialect;
use crate::limits::BEDROCK_DOCUMENT_NAME_BYTES_MAX;

fn parse(body: &Value) -> String {
    let body = body.to_string();
    let ingress = Ingress {
        path_model: Some(CLAUDE),
        path_stream: false,
    };
    format!("{:?}", parse_request(body.as_bytes(), &ingress).unwrap())
}

/// Translates to a model, and returns the body and the warning header.
pub(super) fn write_to(request: &ChatRequest<'_>, model: &str) -> Result<(Value, String), ApiError> {
    let (mut out, mut notes) = (Out::default(), Notes::default());
    out.begin(&[]);
    write_request(request, &target(model), &mut out, &mut notes)?;
    let body = out.collect(&[]);
    let body =
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
    Ok((body, notes.header_value()))
}

pub(super) fn write(request: &ChatRequest<'_>) -> (Value, String) {
    write_to(request, CLAUDE).unwrap()
}

pub(super) fn number(text: &str) -> Number<'_> {
    let mut reader = Reader::new(text.as_bytes()).unwrap();
    reader.number_or_null().unwrap().unwrap()
}

pub(super) fn raw(text: &str) -> Raw<'_> {
    Raw::parse(text).unwrap()
}

pub(super) fn text(text: &str) -> Content<'_> {
    Content::text(Text::plain(text))
}

pub(super) fn says<'a>(role: Role, contents: Vec<Content<'a>>) -> Message<'a> {
    Message {
        role,
        name: None,
        parts: contents.into_iter().map(Part::from).collect(),
    }
}

pub(super) fn asks(contents: Vec<Content<'_>>) -> ChatRequest<'_> {
    ChatRequest {
        messages: vec![says(Role::User, contents)],
        ..ChatRequest::default()
    }
}

fn base64<'a>(media_type: &'a str, data: &'a str) -> Source<'a> {
    Source::Base64 {
        media_type: Text::plain(media_type),
        data: Text::plain(data),
    }
}

/// Everything that Converse can say and the chat model understands.
fn full() -> Value {
    json!({
        "messages": [
            {"role": "user", "content": [
                {"text": "Look \"here\"\n"},
                {"image": {"format": "png", "source": {"bytes": "iVBORw0="}}},
                {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://b/k", "bucketOwner": "123456789012"}}}},
                {"document": {"format": "pdf", "source": {"bytes": "JVBERi0="}, "name": "Report 1 (final)", "context": "ours", "citations": {"enabled": true}}},
                {"document": {"format": "txt", "source": {"text": "plain"}, "name": "Notes"}},
                {"document": {"format": "txt", "source": {"content": [{"text": "a"}, {"text": "b"}]}, "name": "Chunks"}},
                {"video": {"format": "mp4", "source": {"bytes": "AAAA"}}},
                {"audio": {"format": "mp3", "source": {"bytes": "AAAA"}}},
                {"cachePoint": {"type": "default", "ttl": "1h"}},
            ]},
            {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "hmm", "signature": "c2ln"}}},
                {"reasoningContent": {"redactedContent": "RXRrRUNrZ0k="}},
                {"citationsContent": {"content": [{"text": "cited"}], "citations": [
                    {"title": "Report", "sourceContent": [{"text": "words"}], "location": {"documentPage": {"documentIndex": 0, "start": 1, "end": 2}}}]}},
                {"toolUse": {"toolUseId": "tooluse_1", "name": "get_weather", "input": {"city": "Paris"}}},
                {"toolUse": {"toolUseId": "tooluse_2", "name": "get_time", "input": {}}},
            ]},
            {"role": "user", "content": [
                {"toolResult": {"toolUseId": "tooluse_1", "content": [
                    {"json": {"degrees": 21}}, {"text": "sunny"}, {"image": {"format": "webp", "source": {"bytes": "UklGRg=="}}}], "status": "success"}},
                {"toolResult": {"toolUseId": "tooluse_2", "content": [{"text": "boom"}], "status": "error"}},
                {"cachePoint": {"type": "default"}},
                {"text": "Go on"},
            ]},
        ],
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}, {"text": "Be kind."}],
        "inferenceConfig": {"maxTokens": 4096, "stopSequences": ["END", "\n\nHuman:"]},
        "toolConfig": {
            "tools": [
                {"toolSpec": {"name": "get_weather", "description": "Weather", "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}}, "strict": true}},
                {"toolSpec": {"name": "get_time", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
                {"cachePoint": {"type": "default"}},
            ],
            "toolChoice": {"auto": {}},
        },
        "outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {
            "schema": "{\"type\":\"object\"}", "name": "answer", "description": "An answer"}}}},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2048}, "anthropic_beta": ["x"]},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "requestMetadata": {"team": "a", "job": "b c"},
        "serviceTier": {"type": "flex"},
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1", "trace": "enabled"},
        "performanceConfig": {"latency": "optimized"},
        "promptVariables": {"x": {"text": "y"}},
    })
}

#[test]
fn all_that_converse_can_say_survives_the_way_through_the_chat_model() {
    let body = full().to_string();
    let ingress = Ingress {
        path_model: Some(CLAUDE),
        path_stream: true,
    };
    let request = parse_request(body.as_bytes(), &ingress).unwrap();
    assert!(request.model.is(CLAUDE) && request.stream && request.include_usage);
    let (again, notes) = write(&request);
    assert_eq!(again, full());
    assert_eq!(notes, "");
}

#[test]
fn a_large_image_is_referenced_not_copied() {
    let image = "A".repeat(1 << 20);
    let body =
        json!({"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": image}}}]}]})
            .to_string();
    let request = parse_request(body.as_bytes(), &Ingress::default()).unwrap();
    let (mut out, mut notes) = (Out::default(), Notes::default());
    out.begin(body.as_bytes());
    write_request(&request, &target(CLAUDE), &mut out, &mut notes).unwrap();
    assert!(out.buf.len() < 1024);
    assert_eq!(
        serde_json::from_slice::<Value>(&out.collect(body.as_bytes())).unwrap(),
        serde_json::from_str::<Value>(&body).unwrap()
    );
}

#[test]
fn members_that_are_unknown_are_kept_whole_or_named() {
    let body = json!({
        "messages": [{"role": "user", "content": [{"newBlock": {"x": 1}}], "newField": 1}],
        "newTop": {"a": [1]},
        "toolConfig": {"tools": [{"systemTool": {"name": "nova_code_interpreter"}}], "toolChoice": {"newChoice": {}}},
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 20, "other": 1}, "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}},
    })
    .to_string();
    let request = parse_request(body.as_bytes(), &Ingress::default()).unwrap();
    assert!(
        matches!(&request.messages[0].parts[0].content, Content::Other(Dialect::Bedrock, raw) if raw.as_json() == r#"{"newBlock":{"x":1}}"#)
    );
    assert!(
        matches!(&request.tools[0], Tool::Other(Dialect::Bedrock, raw) if raw.as_json().contains("nova_code_interpreter"))
    );
    assert!(matches!(
        &request.tool_choice,
        Some(ToolChoice::Other(Dialect::Bedrock, _))
    ));
    let extras: Vec<&str> = request.extras.iter().map(|extra| &*extra.key).collect();
    assert_eq!(extras, ["newTop", "additionalModelRequestFields.inferenceConfig.other"]);
    assert_eq!(request.ignored, ["newField"]);
    assert_eq!(request.top_k.map(|k| k.as_json()), Some("20"));
    assert!(request.reasoning.effort.as_ref().is_some_and(|effort| effort.is("low")));
}

#[test]
fn guarded_content_is_said_like_any_other() {
    let shown = parse(&json!({"messages": [{"role": "user", "content": [
        {"guardContent": {"text": {"text": "guarded words", "qualifiers": ["query"]}}}]}]}));
    assert!(
        shown.contains("guarded words") && shown.contains("ignored: [\"qualifiers\"]"),
        "{shown}"
    );
}

#[test]
fn a_tool_that_the_server_runs_is_no_call_for_the_client() {
    let body = json!({"messages": [{"role": "assistant", "content": [
        {"toolUse": {"toolUseId": "a", "name": "nova_code_interpreter", "input": {}, "type": "server_tool_use"}},
        {"toolResult": {"toolUseId": "a", "content": [], "type": "nova_code_interpreter_result"}},
        {"toolUse": {"toolUseId": "b", "name": "mine", "input": {}, "type": "tool_use"}}]}]})
    .to_string();
    let request = parse_request(body.as_bytes(), &Ingress::default()).unwrap();
    let parts = &request.messages[0].parts;
    assert!(matches!(&parts[0].content, Content::Other(Dialect::Bedrock, _)));
    assert!(matches!(&parts[1].content, Content::Other(Dialect::Bedrock, _)));
    assert!(matches!(&parts[2].content, Content::ToolCall { name, .. } if name.is("mine")));
}

#[test]
fn a_wrong_type_is_a_400_that_names_the_field() {
    for (body, param) in [
        (json!({"messages": 1}), "messages"),
        (json!({"messages": [{"role": "robot", "content": []}]}), "messages"),
        (json!({"messages": [{"content": []}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": [{}]}]}), "messages"),
        (
            json!({"messages": [{"role": "user", "content": [{"image": {"format": "png"}}]}]}),
            "messages",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"text": "x"}}}]}]}),
            "messages",
        ),
        (json!({"messages": [{"role": "user", "content": "text"}]}), "messages"),
        (json!({"inferenceConfig": {"maxTokens": "1"}}), "inferenceConfig"),
        (json!({"toolConfig": {"tools": [{"toolSpec": {}}]}}), "toolConfig"),
        (
            json!({"outputConfig": {"textFormat": {"structure": {"jsonSchema": {"schema": "{"}}}}}),
            "outputConfig",
        ),
    ] {
        let error = parse_request(body.to_string().as_bytes(), &Ingress::default()).unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(param)), "{body}");
    }
    for body in ["", "[]", "{", "{}x", "{\"messages\":[}"] {
        assert_eq!(
            parse_request(body.as_bytes(), &Ingress::default())
                .unwrap_err()
                .status(),
            400,
            "{body}"
        );
    }
}

#[test]
fn instructions_move_to_system_and_neighbours_of_one_role_merge() {
    let unsigned = Content::Thinking {
        text: Text::plain("hmm"),
        signature: None,
    };
    let request = ChatRequest {
        messages: vec![
            says(Role::System, vec![text("first")]),
            says(Role::User, vec![text("a")]),
            says(Role::User, vec![text(" \n"), text("b")]),
            says(Role::Developer, vec![text("late")]),
            says(Role::Assistant, vec![text(""), unsigned]),
            says(Role::User, vec![text("c")]),
            says(Role::Assistant, vec![Content::Refusal(Text::plain("no"))]),
        ],
        ..ChatRequest::default()
    };
    let (body, notes) = write(&request);
    assert_eq!(
        body,
        json!({
            "messages": [
                {"role": "user", "content": [{"text": "a"}, {"text": "b"}, {"text": "c"}]},
                {"role": "assistant", "content": [{"text": "no"}]},
            ],
            "system": [{"text": "first"}, {"text": "late"}],
        })
    );
    assert_eq!(
        notes,
        "messages.system;adapted, thinking;dropped, messages.refusal;adapted"
    );
}

fn call<'a>(id: &Text<'a>, name: &'a str, arguments: &'a str) -> Content<'a> {
    Content::ToolCall {
        id: id.clone(),
        name: Text::plain(name),
        arguments: Arguments::Encoded(Text::plain(arguments)),
        custom: false,
    }
}

fn result<'a>(id: &Text<'a>, parts: Vec<Part<'a>>, is_error: Option<bool>) -> Content<'a> {
    Content::ToolResult {
        id: id.clone(),
        parts,
        is_error,
    }
}

#[test]
fn calls_and_results_take_the_forms_that_converse_accepts() {
    let long = Text::plain("call|with bars and more than sixty-four characters, as some vendors make them");
    let (b, c) = (Text::plain("b"), Text::plain("c"));
    let marked = Part {
        content: text("x"),
        cache: Some(CacheMark::Default),
    };
    let calls = vec![
        call(&long, "f", "{\"a\": 1}"),
        call(&b, "f", ""),
        call(&c, "g", "broken {"),
    ];
    let results = vec![
        text("and now?"),
        result(&long, vec![text("one").into(), text(" ").into()], None),
        result(&b, vec![], Some(true)),
        result(&c, vec![marked], Some(false)),
    ];
    let request = ChatRequest {
        messages: vec![says(Role::Assistant, calls), says(Role::User, results)],
        ..ChatRequest::default()
    };
    let (body, notes) = write(&request);
    let id = body["messages"][0]["content"][0]["toolUse"]["toolUseId"]
        .as_str()
        .unwrap();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    assert!(id.len() <= 64 && id.bytes().all(word), "{id}");
    let input = |at: usize| body["messages"][0]["content"][at]["toolUse"]["input"].clone();
    let inputs = [json!({"a": 1}), json!({}), json!({"raw_arguments": "broken {"})];
    assert_eq!([input(0), input(1), input(2)], inputs);
    assert_eq!(
        body["messages"][1]["content"],
        json!([
            {"toolResult": {"toolUseId": id, "content": [{"text": "one"}]}},
            {"toolResult": {"toolUseId": "b", "content": [], "status": "error"}},
            {"toolResult": {"toolUseId": "c", "content": [{"text": "x"}], "status": "success"}},
            {"cachePoint": {"type": "default"}},
            {"text": "and now?"},
        ]),
        "results come first"
    );
    assert_eq!(notes, "");
}

#[test]
fn tools_that_were_called_are_declared_where_the_request_has_none() {
    let id = Text::plain("a");
    let calls = vec![call(&id, "f", "{}"), call(&id, "g", "{}"), call(&id, "f", "{}")];
    let request = ChatRequest {
        messages: vec![says(Role::Assistant, calls)],
        ..ChatRequest::default()
    };
    let spec =
        |name: &str| json!({"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object", "properties": {}}}}});
    assert_eq!(
        write(&request).0["toolConfig"],
        json!({"tools": [spec("f"), spec("g")]})
    );
    let custom = Content::ToolCall {
        id,
        name: Text::plain("f"),
        arguments: Arguments::Encoded(Text::plain("x")),
        custom: true,
    };
    assert_eq!(
        write_to(&asks(vec![custom]), CLAUDE).unwrap_err().param.as_deref(),
        Some("tools.custom")
    );
}

#[test]
fn tool_choices_take_their_words_and_none_leaves_the_tools_out() {
    let tool = || Tool::Function {
        name: Text::plain("f"),
        description: Some(Text::plain(" ")),
        parameters: None,
        strict: None,
        cache: None,
    };
    let with = |choice| ChatRequest {
        tools: vec![tool()],
        tool_choice: Some(choice),
        ..asks(vec![text("hi")])
    };
    let spec = json!({"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}});
    for (choice, word) in [
        (ToolChoice::Auto, json!({"auto": {}})),
        (ToolChoice::Any, json!({"any": {}})),
        (ToolChoice::Named(Text::plain("f")), json!({"tool": {"name": "f"}})),
    ] {
        assert_eq!(
            write(&with(choice)).0["toolConfig"],
            json!({"tools": [spec], "toolChoice": word})
        );
    }
    let (body, notes) = write(&with(ToolChoice::None));
    assert_eq!(
        (body.get("toolConfig"), notes.as_str()),
        (None, "tool_choice.none;adapted")
    );
    let foreign = ChatRequest {
        tools: vec![Tool::Other(Dialect::OpenAi, raw("{}"))],
        ..asks(vec![text("hi")])
    };
    assert_eq!(write_to(&foreign, CLAUDE).unwrap_err().param.as_deref(), Some("tools"));
}

#[test]
fn media_that_converse_has_no_form_for_are_refused_by_name() {
    for (content, param) in [
        (
            Content::Image {
                source: Source::Url(Text::plain("https://x/y.png")),
                detail: None,
            },
            "image_url",
        ),
        (
            Content::Image {
                source: base64("image/tiff", "AAAA"),
                detail: None,
            },
            "image.media_type",
        ),
        (
            Content::Image {
                source: base64("", "AAAA"),
                detail: None,
            },
            "image.media_type",
        ),
        (
            Content::Image {
                source: Source::File(Dialect::OpenAi, Text::plain("f")),
                detail: None,
            },
            "file_id",
        ),
        (Content::Video(Source::Url(Text::plain("https://x/y.mp4"))), "image_url"),
        (
            Content::Document(Box::new(Document {
                source: base64("application/zip", "AAAA"),
                name: None,
                context: None,
                citations: None,
            })),
            "document.media_type",
        ),
        (
            Content::Document(Box::new(Document {
                source: Source::Url(Text::plain("https://x")),
                name: None,
                context: None,
                citations: None,
            })),
            "document.url",
        ),
    ] {
        let error = write_to(&asks(vec![content]), CLAUDE).unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(param)));
    }
    let detailed = Content::Image {
        source: base64("IMAGE/PNG", "AAAA"),
        detail: Some(Text::plain("high")),
    };
    let (body, notes) = write(&asks(vec![detailed]));
    assert_eq!(body["messages"][0]["content"][0]["image"]["format"], "png");
    assert_eq!(notes, "image_url.detail;dropped");
}

#[test]
fn documents_get_names_that_converse_takes_and_a_text_beside_them() {
    let document = |name: Option<&'static str>| {
        Content::Document(Box::new(Document {
            source: base64("application/pdf", "AAAA"),
            name: name.map(Text::plain),
            context: None,
            citations: None,
        }))
    };
    let long: &'static str = "x".repeat(500).leak();
    let names = [
        Some("../Grüße_v1.0  (a)[b].pdf"),
        None,
        None,
        Some("   "),
        Some(long),
        Some(long),
        Some("tab\there"),
    ];
    let (body, _) = write(&asks(names.into_iter().map(document).collect()));
    let content = body["messages"][0]["content"].as_array().unwrap();
    let written: Vec<&str> = content
        .iter()
        .filter_map(|block| block["document"]["name"].as_str())
        .collect();
    assert_eq!(written[0], "---Gr--e-v1-0 (a)[b]-pdf");
    assert_eq!(&written[1..4], ["Document", "Document 2", "Document 3"]);
    assert!(written[4].len() <= BEDROCK_DOCUMENT_NAME_BYTES_MAX && written[5] == format!("{} 2", written[4]));
    assert!(written[5].len() <= BEDROCK_DOCUMENT_NAME_BYTES_MAX);
    assert_eq!(written[6], "tab here");
    assert_eq!(content.last().unwrap(), &json!({"text": "See the document."}));
    let (body, _) = write(&asks(vec![document(None), text("what is it?")]));
    assert_eq!(
        body["messages"][0]["content"].as_array().unwrap().len(),
        2,
        "a text of the client's own is enough"
    );
}
