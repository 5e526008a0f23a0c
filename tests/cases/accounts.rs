//! Virtual keys, budgets, rate limits and the ledger in a running gateway; the simulator's bill is the auditor.

use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_tests::accounts::{
    admin, bearer, billed, code, expect_spent_as_billed, in_force, key, leave_early, nanos, nothing_reserved, setup,
    spent,
};
use sluice_tests::sim::echoed_body;
use sluice_tests::temp::TempDir;
use sluice_tests::{Request, Response, Setup, Sim, Value, json, wait};

#[test]
fn a_key_is_needed_as_soon_as_there_is_one_and_every_field_carries_it() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).start();
    assert_eq!(gateway.ask(&Request::chat("openai/gpt-x")).status, 200, "no key exists");
    let secret = key(&gateway, "press-1", json!({}));
    in_force(&gateway, &secret);
    for (request, kind) in [
        (Request::chat("openai/gpt-x"), "openai"),
        (
            bearer(
                Request::chat("openai/gpt-x"),
                "sk-sluice-0000000000000000000000000000000000000000000",
            ),
            "openai",
        ),
        (
            Request::post(
                "/v1/messages",
                r#"{"model":"openai/gpt-x","max_tokens":5,"messages":[{"role":"user","content":"Hello"}]}"#,
            ),
            "anthropic",
        ),
        (
            Request::post(
                "/model/openai%2Fgpt-x/converse",
                r#"{"messages":[{"role":"user","content":[{"text":"Hello"}]}]}"#,
            ),
            "bedrock",
        ),
    ] {
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 401, "{answer:?}");
        let body = answer.json();
        match kind {
            "openai" => assert_eq!(body["error"]["code"], "invalid_api_key", "{body}"),
            "anthropic" => assert_eq!(body["error"]["type"], "authentication_error", "{body}"),
            _ => assert!(answer.field("x-amzn-errortype").is_some(), "{answer:?}"),
        }
    }
    assert_eq!(gateway.ask(&Request::get("/health")).status, 200);
    for (name, prefix) in [
        ("Authorization", "Bearer "),
        ("x-api-key", ""),
        ("api-key", ""),
        ("x-goog-api-key", ""),
        ("x-sluice-key", ""),
        ("x-bf-vk", ""),
    ] {
        let request = Request::chat("openai/gpt-x").field(name, &format!("{prefix}{secret}"));
        let answer = gateway.ask(&request.field("x-sim-echo", "1"));
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert!(
            !answer.text().contains(&secret),
            "{name}: the key must not reach the provider"
        );
        assert!(answer.text().contains("sk-one"), "the provider gets its own key");
    }
    assert!(!gateway.stdout().contains(&secret) && !gateway.stderr().contains(&secret));
}

#[test]
fn a_change_is_in_force_on_every_core_when_it_is_answered() {
    let sim = Sim::start();
    let gateway = setup(&sim, 4).start();
    let statuses = |key: &str| -> Vec<u16> {
        let ask = |_| gateway.ask(&bearer(Request::get("/v1/models"), key)).status;
        (0..24).map(ask).collect()
    };
    for round in 0..10 {
        let secret = key(&gateway, &format!("press-{round}"), json!({}));
        assert_eq!(statuses(&secret), [200; 24], "round {round}");
        assert_eq!(gateway.ask(&Request::get("/v1/models")).status, 401, "round {round}");
        let path = format!("/keys/press-{round}");
        let disabled = admin(&gateway, "PATCH", &path, &json!({"disabled": true}));
        assert_eq!(disabled.status, 204, "{disabled:?}");
        assert_eq!(statuses(&secret), [401; 24], "round {round}");
    }
}

#[test]
fn a_key_may_use_what_its_lists_allow_and_no_fallback_goes_around_them() {
    let (sim, other) = (Sim::start(), Sim::start());
    let setup = setup(&sim, 1).provider("backup", &other.base_url(), &["sk-backup"]);
    let gateway = setup.route(&["openai/gpt-sick*"], &["backup/gpt-b"]).start();
    let narrow = key(
        &gateway,
        "narrow",
        json!({"models": ["gpt-*"], "providers": ["openai"]}),
    );
    in_force(&gateway, &narrow);
    assert_eq!(gateway.ask(&bearer(Request::chat("openai/gpt-a"), &narrow)).status, 200);
    let answer = gateway.ask(&bearer(Request::chat("openai/claude-a"), &narrow));
    assert_eq!(
        (answer.status, code(&answer)),
        (403, "model_not_allowed".into()),
        "{answer:?}"
    );
    let answer = gateway.ask(&bearer(Request::chat("backup/gpt-a"), &narrow));
    assert_eq!(
        (answer.status, code(&answer)),
        (403, "provider_not_allowed".into()),
        "{answer:?}"
    );
    let request = bearer(Request::chat("openai/gpt-sick+status=503"), &narrow);
    assert_eq!(
        gateway.ask(&request.field("x-sluice-fallbacks", "backup/gpt-c")).status,
        503
    );
    assert!(
        other.attempts().is_empty(),
        "no fallback goes to a provider that is not allowed"
    );
    let text = Request::post(
        "/v1/messages",
        r#"{"model":"openai/claude-a","max_tokens":5,"messages":[{"role":"user","content":"Hello"}]}"#,
    );
    let answer = gateway.ask(&text.field("x-api-key", &narrow));
    assert_eq!(answer.json()["error"]["type"], "permission_error", "{answer:?}");
}

#[test]
fn limits_refuse_with_a_time_to_come_back_and_say_how_they_stand() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).start();
    let secret = key(&gateway, "limited", json!({}));
    let made = admin(
        &gateway,
        "POST",
        "/keys/limited/limits",
        &json!({"unit": "requests", "window": "day", "most": 3}),
    );
    assert_eq!(made.status, 201, "{made:?}");
    wait::until("the limit is in force", || {
        let answer = gateway.ask(&bearer(Request::chat("openai/gpt-x"), &secret));
        (answer.field("x-ratelimit-limit-requests") == Some("3")).then_some(())
    });
    let mut answers: Vec<Response> = (0..4)
        .map(|_| gateway.ask(&bearer(Request::chat("openai/gpt-x+remaining_requests=77"), &secret)))
        .collect();
    let refused = answers.pop().expect("four answers");
    assert_eq!(
        (refused.status, code(&refused)),
        (429, "rate_limit_exceeded".into()),
        "{refused:?}"
    );
    assert!(refused.field("retry-after").is_some(), "{refused:?}");
    assert_eq!(
        refused.field("x-ratelimit-remaining-requests"),
        Some("0"),
        "{refused:?}"
    );
    let left: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert!(left.len() <= 2 && !left.is_empty(), "one was spent on waiting");
    let last = left[left.len() - 1];
    assert_eq!(
        last.field("x-ratelimit-remaining-requests"),
        Some("0"),
        "not the provider's own: {last:?}"
    );
    assert_eq!(last.field("x-ratelimit-limit-requests"), Some("3"));
}

#[test]
fn what_is_charged_is_what_the_provider_bills_in_every_dialect_whole_and_streamed() {
    let sim = Sim::start();
    let gateway = setup(&sim, 2).start();
    let budget = json!({"budgets": [{"limit": "5", "window": "day"}], "name": "line-2"});
    let team = admin(&gateway, "POST", "/teams", &budget);
    assert_eq!(team.status, 201, "{team:?}");
    let secret = key(&gateway, "press-2", json!({"team": "line-2"}));
    in_force(&gateway, &secret);
    let chat = |stream: bool| {
        format!(
            r#"{{"model":"openai/gpt-x","stream":{stream},"max_tokens":50,"messages":[{{"role":"user","content":"Hello"}}]}}"#
        )
    };
    let converse = r#"{"messages":[{"role":"user","content":[{"text":"Hello"}]}],"inferenceConfig":{"maxTokens":50}}"#;
    let requests = [
        Request::post("/v1/chat/completions", chat(false)),
        Request::post("/v1/chat/completions", chat(true)),
        Request::post("/v1/messages", chat(false)),
        Request::post("/v1/messages", chat(true)),
        Request::post("/model/openai%2Fgpt-x/converse", converse),
        Request::post("/model/openai%2Fgpt-x/converse-stream", converse),
        Request::post("/v1/embeddings", r#"{"model":"openai/gpt-e","input":"Hello"}"#),
        Request::post(
            "/v1/responses",
            r#"{"model":"openai/gpt-r","input":"Hello","max_output_tokens":50}"#,
        ),
        Request::post(
            "/v1/chat/completions",
            r#"{"model":"openai/gpt-x+status=400","messages":[]}"#,
        ),
        Request::post(
            "/v1/chat/completions",
            r#"{"model":"openai/gpt-x+status=500","messages":[]}"#,
        ),
    ];
    let mut before = 0;
    for request in requests {
        let answer = gateway.ask(&bearer(request.clone(), &secret).field("x-sluice-tag-shift", "night"));
        let now = billed(&sim);
        expect_spent_as_billed(&gateway, &sim, &format!("{request:?} {answer:?}"));
        if answer.status == 200 && answer.field("content-length").is_some() {
            let cost = answer.field("x-sluice-cost").expect("a whole answer says what it cost");
            assert_eq!(nanos(cost), now - before, "{answer:?}");
        }
        if answer.status == 200 {
            let left = nanos(
                answer
                    .field("x-sluice-budget-remaining")
                    .expect("what is left of the budget"),
            );
            assert!(left <= 5_000_000_000 && left > 4_990_000_000, "{left}");
        }
        before = now;
    }
    assert!(before > 0);
    let report = admin(&gateway, "GET", "/spend?by=tag", &Value::Null).json();
    assert_eq!(report[0]["name"], "shift=night", "{report}");
    let lines = gateway.request_lines(10);
    let line = lines
        .iter()
        .rfind(|line| line["virtual_key"] == "press-2")
        .expect("a line names the key");
    assert_eq!(line["tenant"], "line-2", "{line}");
    assert_eq!(line["tags"]["shift"], "night", "{line}");
}

#[test]
fn a_stream_is_asked_what_it_has_used_and_the_client_sees_only_what_it_asked_for() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).start();
    let plain = gateway.ask(&Request::stream("openai/gpt-x"));
    let secret = key(&gateway, "press-3", json!({}));
    in_force(&gateway, &secret);
    for options in [
        "",
        r#""stream_options":null,"#,
        r#""stream_options":{},"#,
        r#""stream_options":{"include_usage":false},"#,
    ] {
        for writes in ["", "+write_bytes=7", "+chunks_per_write=100"] {
            let body = format!(
                r#"{{{options}"stream":true,"model":"openai/gpt-x{writes}","messages":[{{"role":"user","content":"Hello"}}]}}"#
            );
            let answer = gateway.ask(&bearer(Request::post("/v1/chat/completions", body), &secret));
            assert_eq!(answer.status, 200, "{answer:?}");
            let text = answer.text();
            assert!(!text.contains("prompt_tokens"), "{options} {writes}: {text}");
            assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
            assert_eq!(
                text.matches("data: ").count(),
                plain.text().matches("data: ").count(),
                "{text}"
            );
        }
    }
    let body = r#"{"stream_options":{"include_usage":true},"stream":true,"model":"openai/gpt-x","messages":[]}"#;
    let answer = gateway.ask(&bearer(Request::post("/v1/chat/completions", body), &secret));
    assert!(answer.text().contains("prompt_tokens"), "{answer:?}");
    expect_spent_as_billed(&gateway, &sim, "streams");
}

#[test]
fn a_budget_is_never_exceeded_on_several_cores_and_nothing_stays_reserved() {
    for cores in [1, 3] {
        let sim = Sim::start();
        let gateway = setup(&sim, cores).start();
        let limit = 20_000_000;
        let secret = key(
            &gateway,
            "tight",
            json!({"budgets": [{"limit": "0.02", "window": "total"}]}),
        );
        in_force(&gateway, &secret);
        let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for worker in 0..16 {
                let (gateway, secret, answered, refused) = (&gateway, &secret, &answered, &refused);
                scope.spawn(move || {
                    for round in 0..20 {
                        let stream = (worker + round) % 2 == 0;
                        let body = format!(
                            r#"{{"model":"openai/gpt-x","stream":{stream},"max_tokens":100,"messages":[{{"role":"user","content":"Hello"}}]}}"#
                        );
                        let request = bearer(Request::post("/v1/chat/completions", body), secret);
                        if (worker + round) % 7 == 0 {
                            leave_early(gateway, &request);
                            continue;
                        }
                        let answer = gateway.ask(&request);
                        match answer.status {
                            200 => answered.fetch_add(1, Ordering::Relaxed),
                            402 => {
                                assert_eq!(code(&answer), "budget_exceeded", "{answer:?}");
                                assert!(answer.text().contains("the budget of tight"), "{answer:?}");
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                            503 => refused.fetch_add(1, Ordering::Relaxed),
                            other => panic!("{other}: {answer:?}"),
                        };
                    }
                });
            }
        });
        assert!(answered.load(Ordering::Relaxed) > 0 && refused.load(Ordering::Relaxed) > 0);
        assert!(billed(&sim) <= limit, "the bill {} is within the limit", billed(&sim));
        wait::until("the ledger covers the bill", || {
            (spent(&gateway) >= billed(&sim)).then_some(())
        });
        assert!(spent(&gateway) <= limit, "{} is within the limit", spent(&gateway));
        nothing_reserved(&gateway, "tight", &secret);
    }
}

#[test]
fn what_was_spent_outlives_the_process() {
    let sim = Sim::start();
    let kept = TempDir::new();
    let store = kept.path().join("kept.db");
    let with_store = |setup: Setup| setup.set("/accounts/store", store.display().to_string());
    let mut gateway = with_store(setup(&sim, 1)).start();
    let secret = key(
        &gateway,
        "kept",
        json!({"budgets": [{"limit": "1", "window": "total"}]}),
    );
    in_force(&gateway, &secret);
    for _ in 0..5 {
        assert_eq!(gateway.ask(&bearer(Request::chat("openai/gpt-x"), &secret)).status, 200);
    }
    gateway.signal(15);
    assert!(gateway.wait().success());
    drop(gateway);
    let gateway = with_store(setup(&sim, 1)).start();
    let answer = gateway.ask(&bearer(Request::chat("openai/gpt-x"), &secret));
    assert_eq!(answer.status, 200, "{answer:?}");
    let left = nanos(answer.field("x-sluice-budget-remaining").expect("what is left"));
    assert_eq!(1_000_000_000 - left, billed(&sim), "what was not spent was given back");
}

#[test]
fn an_unknown_price_is_refused_or_counted_as_the_operator_decides() {
    let sim = Sim::start();
    for (decision, status) in [("refuse", 402), ("zero", 200)] {
        let gateway = setup(&sim, 1).set("/accounts/unknown_price", decision).start();
        let poor = key(&gateway, "poor", json!({"budgets": [{"limit": "1", "window": "day"}]}));
        let free = key(&gateway, "free", json!({}));
        in_force(&gateway, &free);
        let answer = gateway.ask(&bearer(Request::chat("openai/nobody-knows"), &poor));
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 402 {
            assert_eq!(code(&answer), "price_unknown", "{answer:?}");
        }
        assert_eq!(
            gateway.ask(&bearer(Request::chat("openai/nobody-knows"), &free)).status,
            200
        );
        assert!(gateway.metric("sluice_unpriced_total") > 0, "it is never silent");
    }
}

#[test]
fn a_budget_that_cannot_afford_an_answer_in_full_limits_its_length() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).set("/accounts/enforce", "clamp").start();
    // The input alone may cost some 2.2 million nano-dollars: a token for each byte, and a template.
    for (body, name) in [
        (
            r#"{"model":"openai/gpt-x+echo","max_tokens":5000,"messages":[]}"#,
            "max_tokens",
        ),
        (
            r#"{"model":"openai/gpt-x+echo","messages":[]}"#,
            "max_completion_tokens",
        ),
    ] {
        let budget = json!({"budgets": [{"limit": "0.0025", "window": "total"}]});
        let secret = key(&gateway, name, budget);
        in_force(&gateway, &secret);
        let answer = gateway.ask(&bearer(Request::post("/v1/chat/completions", body), &secret));
        assert_eq!(answer.status, 200, "{answer:?}");
        let sent: Value = serde_json_of(&echoed_body(&answer.json()));
        let most = sent[name].as_u64().expect("a limit was set");
        assert!((1..1000).contains(&most), "{sent}");
    }
}

fn serde_json_of(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a body is JSON")
}
