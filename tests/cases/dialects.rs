//! Clients and providers of three dialects: what crosses between them, and what is left of a fault on the way.

use sluice_bench::sim::digest::{base64, sha256_hex};
use sluice_tests::sim::{echoed_body, echoed_fields};
use sluice_tests::{Client, Gateway, Request, Response, Setup, Sim, Value, frames, json};

const DIALECTS: [&str; 3] = ["openai", "anthropic", "bedrock"];

/// One model of each provider.
fn model(provider: &str, script: &str) -> String {
    let name = match provider {
        "openai" => "gpt-4o",
        "anthropic" => "claude-sonnet-4-6",
        _ => "anthropic.claude-3-5-haiku",
    };
    let plus = if script.is_empty() { "" } else { "+" };
    format!("{provider}/{name}{plus}{script}")
}

/// A provider of each dialect, all at `sim`.
fn three(sim: &Sim) -> Setup {
    let base = sim.base_url();
    let root = base.trim_end_matches("/v1");
    Setup::new()
        .vendor("openai", "openai", &base, &["sk-openai"])
        .vendor("anthropic", "anthropic", root, &["sk-anthropic"])
        .vendor("bedrock", "bedrock", root, &["sk-bedrock"])
        .set("/providers/bedrock/region", "eu-central-1")
}

/// The same with little patience, for faults that are waited for.
fn hasty(sim: &Sim) -> Setup {
    three(sim)
        .set("/timeouts/first_byte", "300ms")
        .set("/timeouts/first_token", "300ms")
        .set("/timeouts/stream_idle", "300ms")
}

/// The user's chain: OpenAI, then Anthropic, then Bedrock.
fn chain(sim: &Sim, from: &[&str], to: &[&str]) -> Gateway {
    // What is remembered from one request to the next has tests of its own.
    hasty(sim)
        .route(from, to)
        .set("/breaker/enabled", false)
        .set("/retries/per_request", 0)
        .start()
}

fn percent(text: &str) -> String {
    let hex = text.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    hex.collect()
}

/// What a client of a dialect sends.
fn request(dialect: &str, model: &str, stream: bool) -> Request {
    with_content(
        dialect,
        model,
        stream,
        &json!([text_part(dialect, "Hello")]),
        &json!({}),
    )
}

fn text_part(dialect: &str, text: &str) -> Value {
    match dialect {
        "bedrock" => json!({"text": text}),
        _ => json!({"type": "text", "text": text}),
    }
}

fn image_part(dialect: &str, data: &str) -> Value {
    match dialect {
        "openai" => json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}}),
        "anthropic" => {
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
        }
        _ => json!({"image": {"format": "png", "source": {"bytes": data}}}),
    }
}

/// A request with these parts in the user's message, and these fields besides.
fn with_content(dialect: &str, model: &str, stream: bool, content: &Value, more: &Value) -> Request {
    let mut body = json!({"messages": [{"role": "user", "content": content}]});
    if dialect != "bedrock" {
        body["model"] = model.into();
        body["stream"] = stream.into();
    }
    if dialect == "anthropic" {
        body["max_tokens"] = 100.into();
    }
    for (key, value) in more.as_object().expect("more fields are an object") {
        body[key] = value.clone();
    }
    let target = match dialect {
        "openai" => "/v1/chat/completions".into(),
        "anthropic" => "/v1/messages".into(),
        _ => format!(
            "/model/{}/converse{}",
            percent(model),
            if stream { "-stream" } else { "" }
        ),
    };
    let request = Request::post(&target, body.to_string());
    match dialect {
        "anthropic" => request
            .field("anthropic-version", "2023-06-01")
            .field("x-api-key", "sk-client"),
        _ => request.field("Authorization", "Bearer sk-client"),
    }
}

/// The text of an answer, which must be whole and in the client's dialect.
fn text_of(dialect: &str, stream: bool, answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.is_complete(), "{answer:?}");
    if !stream {
        let body = answer.json();
        let text = match dialect {
            "openai" => &body["choices"][0]["message"]["content"],
            "anthropic" => &body["content"][0]["text"],
            _ => &body["output"]["message"]["content"][0]["text"],
        };
        return text.as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    }
    let (text, ended, errors) = streamed(dialect, answer);
    assert!(ended && errors == 0, "{answer:?}");
    text
}

/// What a stream holds: text, whether it presents itself as complete, and how many errors it reports.
fn streamed(dialect: &str, answer: &Response) -> (String, bool, usize) {
    let (mut text, mut ended, mut errors) = (String::new(), false, 0);
    if dialect == "bedrock" {
        assert_eq!(answer.field("content-type"), Some("application/vnd.amazon.eventstream"));
        for frame in frames::parse(&answer.body) {
            text += frame.payload["delta"]["text"].as_str().unwrap_or_default();
            ended |= matches!(&*frame.name, "messageStop" | "metadata");
            errors += usize::from(frame.kind == "exception");
        }
        return (text, ended, errors);
    }
    for event in answer.events() {
        if event == "[DONE]" {
            ended = true;
            continue;
        }
        let event: Value = serde_json::from_str(&event).expect("an event is JSON");
        let delta = match dialect {
            "openai" => &event["choices"][0]["delta"]["content"],
            _ => &event["delta"]["text"],
        };
        text += delta.as_str().unwrap_or_default();
        ended |= event["type"] == "message_stop" || event["delta"]["stop_reason"].is_string();
        ended |= event["choices"][0]["finish_reason"].is_string();
        errors += usize::from(event["error"].is_object());
    }
    (text, ended, errors)
}

/// The message of an error, whose shape must be that of the client's dialect.
fn message_of(dialect: &str, answer: &Response) -> String {
    assert_eq!(answer.field("content-type"), Some("application/json"), "{answer:?}");
    let body = answer.json();
    let message = match dialect {
        "openai" => &body["error"]["message"],
        "anthropic" => {
            assert_eq!(body["type"], "error");
            assert!(body["error"]["type"].is_string(), "{body}");
            assert!(answer.field("request-id").is_some(), "{answer:?}");
            &body["error"]["message"]
        }
        _ => {
            let kind = answer.field("x-amzn-errortype").expect("the exception's name");
            assert!(kind.ends_with("Exception"), "{kind}");
            assert!(answer.field("x-amzn-requestid").is_some(), "{answer:?}");
            &body["message"]
        }
    };
    message.as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}

/// Every pair of a client's dialect and a provider's, unary and streamed.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    DIALECTS.into_iter().flat_map(|client| {
        DIALECTS
            .into_iter()
            .flat_map(move |provider| [false, true].map(|stream| (client, provider, stream)))
    })
}

#[test]
fn every_client_is_answered_by_every_provider() {
    let sim = Sim::start();
    let gateway = three(&sim).start();
    for (client, provider, stream) in pairs() {
        let answer = gateway.ask(&request(client, &model(provider, "say=Gr%c3%bc%c3%9fe"), stream));
        let name = format!("{client} to {provider}, stream {stream}");
        assert_eq!(text_of(client, stream, &answer), "Grüße", "{name}");
        assert_eq!(answer.field("x-sluice-provider"), Some(provider), "{name}");
    }
}

/// Faults before a byte of the answer can be passed on: of unary answers, of streams.
const EARLY: [(&str, bool, bool); 11] = [
    ("status=429,retry_after=3", true, true),
    ("status=500", true, true),
    ("status=503", true, true),
    ("reset=before_head", true, true),
    ("stall=before_head", true, true),
    ("malformed=json", true, false),
    ("truncate=10", true, false),
    ("first_token_ms=30000", false, true),
    ("reset=mid_stream:0", false, true),
    ("error_event=0", false, true),
    ("close=mid_stream:0", false, true),
];

#[test]
fn a_fault_before_the_first_byte_is_covered_by_a_provider_of_another_dialect() {
    let sim = Sim::start();
    for (at, failing) in DIALECTS.into_iter().enumerate() {
        let spare = DIALECTS[(at + 1) % 3];
        let gateway = chain(&sim, &[&format!("{failing}/*")], &[&model(spare, "say=spare")]);
        std::thread::scope(|scope| {
            for (script, unary, streams) in EARLY {
                let gateway = &gateway;
                scope.spawn(move || {
                    for client in DIALECTS {
                        for stream in [false, true] {
                            if !(if stream { streams } else { unary }) {
                                continue;
                            }
                            // A model for each request: a limit that one has met is remembered.
                            let limited = script.starts_with("status=429") || script == "error_event=0";
                            let own = format!("{script},say={client}{stream}");
                            let script = if limited { &own } else { script };
                            let answer = gateway.ask(&request(client, &model(failing, script), stream));
                            let name = format!("{client} to {failing}, then {spare}: {script}");
                            assert_eq!(text_of(client, stream, &answer), "spare", "{name}");
                            assert_eq!(answer.field("x-sluice-provider"), Some(spare), "{name}");
                            assert_eq!(answer.field("x-sluice-attempts"), Some("2"), "{name}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn an_error_inside_a_stream_before_its_first_token_is_told_in_the_providers_words() {
    let sim = Sim::start();
    let gateway = three(&sim).start();
    for (client, provider, _) in pairs().filter(|&(.., stream)| stream) {
        let script = format!("error_event=0,message=odd%20words,say={client}");
        let asked = request(client, &model(provider, &script), true);
        let answer = gateway.ask(&asked);
        let status = match provider {
            "openai" => 500,
            "anthropic" => 503,
            _ => 429,
        };
        assert_eq!(answer.status, status, "{client} to {provider}: {answer:?}");
        assert_eq!(message_of(client, &answer), "odd words", "{client} to {provider}");
    }
}

#[test]
fn bytes_that_are_no_event_stream_are_covered_by_the_fallback() {
    let sim = Sim::start();
    let gateway = chain(&sim, &["bedrock/*"], &[&model("anthropic", "say=spare")]);
    for client in DIALECTS {
        let answer = gateway.ask(&request(
            client,
            &model("bedrock", "malformed=crc,malformed_at=0"),
            true,
        ));
        assert_eq!(text_of(client, true, &answer), "spare", "{client}");
    }
}

#[test]
fn a_stream_that_breaks_ends_with_one_error_event_of_the_clients_dialect() {
    let sim = Sim::start();
    let gateway = hasty(&sim).start();
    let faults = [
        "close=mid_stream:8",
        "reset=mid_stream:8",
        "stall=mid_stream:8",
        "write_bytes=11,close=mid_stream:8",
    ];
    std::thread::scope(|scope| {
        for (client, provider, _) in pairs().filter(|&(.., stream)| stream) {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut scripts: Vec<String> = faults.iter().map(|&fault| format!("{fault},tps=50")).collect();
                scripts.push("error_event=8,tps=50".into());
                if provider == "bedrock" {
                    scripts.push("malformed=crc,malformed_at=8,tps=50".into());
                }
                for script in scripts {
                    let mut connection = gateway.client();
                    connection.send(request(client, &model(provider, &script), true).bytes());
                    let answer = connection.response_or_cut();
                    let name = format!("{client} to {provider}: {script}");
                    let (text, ended, errors) = streamed(client, &answer);
                    assert!(!text.is_empty(), "{name}: what came before is delivered: {answer:?}");
                    assert!(!ended, "{name}: {answer:?}");
                    assert_eq!(errors, 1, "{name}: {answer:?}");
                    // An error that the provider itself reported is whole; what it cut short must look cut.
                    if !script.starts_with("error_event") {
                        assert!(!answer.is_complete(), "{name}: {answer:?}");
                    }
                }
            });
        }
    });
}

#[test]
fn bodies_of_the_providers_own_dialect_are_forwarded_byte_for_byte() {
    let sim = Sim::start();
    let gateway = three(&sim).start();
    let template = "{ \"max_tokens\":1e2,\t\"model\" : \"@\", \"x_new\":{\"b\":1.0,\"a\":null},\r\n\"messages\":[ ],\"u\":\"\\u00e9\\/\"}\n";
    let asked = Request::post("/v1/messages?beta=true", template.replace('@', &model("anthropic", "")))
        .field("anthropic-version", "2099-01-01")
        .field("anthropic-beta", "something-new")
        .field("x-api-key", "sk-client")
        .field("X-Sim-Echo", "1");
    let seen = gateway.ask(&asked).json();
    assert_eq!(
        String::from_utf8_lossy(&echoed_body(&seen)),
        template.replace('@', "claude-sonnet-4-6")
    );
    assert_eq!(seen["target"], "/v1/messages?beta=true");
    assert_eq!(echoed_fields(&seen, "anthropic-version"), ["2099-01-01"]);
    assert_eq!(echoed_fields(&seen, "anthropic-beta"), ["something-new"]);
    assert_eq!(echoed_fields(&seen, "x-api-key"), ["sk-anthropic"]);

    let body = "{ \"messages\":[ ],\t\"x_new\":{\"b\":1.0,\"a\":null},\r\n\"u\":\"\\u00e9\\/\"}\n";
    for (client_path, stream) in [("converse", false), ("converse-stream", true)] {
        let path = format!("/bedrock/model/{}/{client_path}", percent(&model("bedrock", "")));
        let asked = Request::post(&path, body)
            .field("Authorization", "Bearer sk-client")
            .field("X-Sim-Echo", "1");
        let seen = gateway.ask(&asked).json();
        assert_eq!(String::from_utf8_lossy(&echoed_body(&seen)), body, "stream {stream}");
        assert_eq!(
            seen["target"],
            format!("/model/anthropic.claude-3-5-haiku/{client_path}")
        );
        assert_eq!(echoed_fields(&seen, "authorization"), ["Bearer sk-bedrock"]);
    }
}

#[test]
fn answers_of_the_clients_own_dialect_are_forwarded_byte_for_byte() {
    // What a simulator makes up depends on its seed and on how many requests it has had: two of them answer alike.
    let (direct, behind) = (Sim::start(), Sim::start());
    let gateway = three(&behind).start();
    let direct = std::net::SocketAddr::from(([127, 0, 0, 1], direct.port()));
    for dialect in ["anthropic", "bedrock"] {
        for stream in [false, true] {
            let own = model(dialect, "tool=1,unicode=1");
            let bare = own.split_once('/').expect("a model of a provider").1;
            let expected = Client::connect(direct).ask(&request(dialect, bare, stream));
            let answer = gateway.ask(&request(dialect, &own, stream));
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.text(), expected.text(), "{dialect}, stream {stream}");
            assert_eq!(answer.body, expected.body, "{dialect}, stream {stream}");
        }
    }
}

#[test]
fn a_megabyte_of_image_crosses_every_dialect_unchanged() {
    let sim = Sim::start();
    let gateway = three(&sim).start();
    let bytes: Vec<u8> = (0..786_432_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let data = base64(&bytes);
    for (client, provider, stream) in pairs() {
        let content = json!([text_part(client, "What is this?"), image_part(client, &data)]);
        let asked = with_content(client, &model(provider, ""), stream, &content, &json!({}));
        let answer = gateway.ask(&asked);
        assert!(!text_of(client, stream, &answer).is_empty());
        let last = sim.last_outcome("complete");
        let tokens = last["input_tokens"].as_u64().expect("input tokens");
        assert!(tokens >= data.len() as u64 / 4, "{client} to {provider}: {last}");
    }
    // What arrives is the image itself.
    for (client, provider) in [("openai", "openai"), ("anthropic", "anthropic"), ("bedrock", "bedrock")] {
        let content = json!([image_part(client, &data)]);
        let asked = with_content(client, &model(provider, ""), false, &content, &json!({}));
        let expected = String::from_utf8_lossy(asked.body()).replace(&format!("{provider}/"), "");
        let seen = gateway.ask(&asked.field("X-Sim-Echo", "1")).json();
        assert_eq!(seen["body_sha256"], sha256_hex(expected.as_bytes()), "{client}: {seen}");
    }
}

#[test]
fn what_no_target_can_express_is_refused_by_name_and_what_only_tunes_is_dropped_with_a_warning() {
    let sim = Sim::start();
    let gateway = chain(&sim, &["anthropic/*"], &[&model("bedrock", "")]);
    for stream in [false, true] {
        let content = json!("Hello");
        let ask = |more: Value| {
            gateway.ask(&with_content(
                "openai",
                &model("anthropic", ""),
                stream,
                &content,
                &more,
            ))
        };
        let refused = ask(json!({"n": 2}));
        assert_eq!((refused.status, &*refused.error_code()), (400, "unsupported_parameter"));
        assert_eq!(refused.json()["error"]["param"], "n");
        assert!(message_of("openai", &refused).contains("`n`"));
        let answered = ask(json!({"seed": 7, "presence_penalty": 0.5}));
        assert_eq!(answered.status, 200);
        let warning = answered.field("x-sluice-warning").expect("a warning");
        assert!(
            warning.contains("seed;dropped") && warning.contains("presence_penalty;dropped"),
            "{warning}"
        );
        assert_eq!(ask(json!({})).field("x-sluice-warning"), None);
    }
    assert_eq!(
        sim.attempts().len(),
        4,
        "a request that cannot be expressed is not sent"
    );
}

#[test]
fn what_one_target_cannot_express_goes_to_the_next_that_can() {
    let sim = Sim::start();
    let gateway = chain(&sim, &["anthropic/*"], &[&model("openai", "")]);
    let more = json!({"n": 2});
    let answer = gateway.ask(&with_content(
        "openai",
        &model("anthropic", ""),
        false,
        &json!("Hello"),
        &more,
    ));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.field("x-sluice-provider"), Some("openai"));
    assert_eq!(answer.json()["choices"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_error_keeps_its_status_its_words_and_when_to_come_back() {
    let sim = Sim::start();
    let gateway = three(&sim).start();
    for (client, provider, stream) in pairs() {
        for (status, seen) in [(400, 400), (404, 404), (429, 429), (500, 500), (503, 503), (529, 503)] {
            // A model for each request: when to come back is remembered.
            let script = format!("status={status},retry_after=11,message=odd%20words,say={client}{stream}");
            let answer = gateway.ask(&request(client, &model(provider, &script), stream));
            let name = format!("{client} to {provider}: {script}: {answer:?}");
            assert_eq!(answer.status, seen, "{name}");
            assert!(message_of(client, &answer).contains("odd words"), "{name}");
            if status == 429 || status >= 500 {
                assert_eq!(answer.field("retry-after"), Some("11"), "{name}");
            }
        }
    }
    for (client, provider, stream) in pairs() {
        let answer = gateway.ask(&request(client, &model(provider, "status=401"), stream));
        assert_eq!(answer.status, 502, "the gateway's own key is not the client's business");
        assert!(!message_of(client, &answer).is_empty());
    }
}

#[test]
fn the_users_chain_answers_each_client_with_tools_and_an_image() {
    let sim = Sim::start();
    let gateway = chain(
        &sim,
        &["openai/gpt-4o-mini*"],
        &[
            &model("anthropic", "status=500"),
            &model("bedrock", "tool=1,tool_args={\"city\":\"Bern\"}"),
        ],
    );
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let data = base64(&[7; 3000]);
    for client in DIALECTS {
        let tools = match client {
            "openai" => {
                json!({"tools": [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]})
            }
            "anthropic" => json!({"tools": [{"name": "get_weather", "input_schema": schema}]}),
            _ => {
                json!({"toolConfig": {"tools": [{"toolSpec": {"name": "get_weather", "inputSchema": {"json": schema}}}]}})
            }
        };
        for stream in [false, true] {
            let content = json!([text_part(client, "And here?"), image_part(client, &data)]);
            let limited = format!("openai/gpt-4o-mini+status=429,say={client}{stream}");
            let asked = with_content(client, &limited, stream, &content, &tools);
            let answer = gateway.ask(&asked);
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.field("x-sluice-provider"), Some("bedrock"), "{client}");
            assert_eq!(answer.field("x-sluice-attempts"), Some("3"), "{client}");
            assert_eq!(answer.field("x-sluice-fallback-reason"), Some("upstream_rate_limited"));
            let text = answer.text();
            assert!(text.contains("get_weather"), "{client}: {text}");
            if stream {
                let (_, ended, errors) = streamed(client, &answer);
                assert!(ended && errors == 0, "{client}: {text}");
            } else {
                assert!(text.contains("Bern"), "{client}: {text}");
            }
        }
    }
}

/// A provider that signs, with the key `AKIDEXAMPLE` and this secret.
fn signing(sim: &Sim, secret: &str) -> Gateway {
    let base = sim.base_url();
    let mut setup = Setup::new()
        .vendor("bedrock", "bedrock", base.trim_end_matches("/v1"), &[])
        .set("/providers/bedrock/region", "eu-central-1")
        .set(
            "/providers/bedrock/keys/0/aws",
            json!({"access_key_id": {"env": "AWS_ID"}, "secret_access_key": {"env": "AWS_SECRET"}}),
        );
    setup.env.push(("AWS_ID".into(), "AKIDEXAMPLE".into()));
    setup.env.push(("AWS_SECRET".into(), secret.into()));
    setup.start()
}

#[test]
fn a_request_to_bedrock_is_signed_so_that_its_verifier_accepts_it() {
    let sim = Sim::start_aws("AKIDEXAMPLE", "the/secret+1");
    let gateway = signing(&sim, "the/secret+1");
    for (client, stream) in DIALECTS
        .into_iter()
        .flat_map(|client| [(client, false), (client, true)])
    {
        // The colon must be signed as it is sent.
        let model = "bedrock/eu.anthropic.claude-3-5-sonnet-20241022-v2:0+say=ok";
        let answer = gateway.ask(&request(client, model, stream));
        assert_eq!(text_of(client, stream, &answer), "ok", "{client}, stream {stream}");
        let attempt = sim.attempts().pop().expect("an attempt");
        assert_eq!(attempt["status"], 200, "{attempt}");
    }
}

#[test]
fn a_converse_request_brings_fallbacks_in_its_body_and_what_is_signed_is_what_is_sent() {
    let sim = Sim::start_aws("AKIDEXAMPLE", "the/secret+1");
    let gateway = signing(&sim, "the/secret+1");
    let message = r#""messages":[{"role":"user","content":[{"text":"Hello."}]}]"#;
    let path = "/model/bedrock%2Fmain%2Bstatus%3D500/converse";
    for body in [
        format!(r#"{{"fallbacks":["bedrock/spare+say=ok"],{message}}}"#),
        format!(r#"{{{message},"fallbacks":["bedrock/spare+say=ok"]}}"#),
    ] {
        let answer = gateway.ask(&Request::post(path, body));
        assert_eq!(text_of("bedrock", false, &answer), "ok", "{answer:?}");
        assert_eq!(answer.field("x-sluice-attempts"), Some("2"));
    }
    let wrong = gateway.ask(&Request::post(path, format!(r#"{{{message},"fallbacks":[1]}}"#)));
    assert_eq!(wrong.status, 400, "{wrong:?}");
}

#[test]
fn a_wrong_aws_secret_is_the_gateways_fault_and_never_the_clients() {
    let sim = Sim::start_aws("AKIDEXAMPLE", "the/secret+1");
    let gateway = signing(&sim, "another");
    for client in DIALECTS {
        let answer = gateway.ask(&request(client, &model("bedrock", ""), false));
        assert_eq!(answer.status, 502, "{answer:?}");
        message_of(client, &answer);
    }
}
