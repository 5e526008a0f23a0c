//! Which target and key a request goes to: groups, sessions, fallbacks that it brings, copies; and what is remembered of
//! those that failed.

use sluice_tests::origin::{Origin, answer_once};
use sluice_tests::sim::echoed_body;
use sluice_tests::{Client, Gateway, Request, Response, Setup, Sim, Value, json, wait};

fn provider_of(answer: &Response) -> String {
    answer.field("x-sluice-provider").unwrap_or_default().to_owned()
}

/// Two providers, `openai` and `backup`, and a route for every model of the first.
fn two(one: &Sim, other: &Sim, route: Value) -> Setup {
    let mut routes = json!([route]);
    routes[0]["models"] = json!(["openai/*"]);
    Setup::new()
        .provider("openai", &one.base_url(), &["sk-one", "sk-two"])
        .provider("backup", &other.base_url(), &["sk-backup"])
        .set("/routes", routes)
}

fn post(gateway: &Gateway, target: &str) -> Response {
    let request = Request::new("POST", target)
        .field("Content-Length", "0")
        .field("Connection", "close");
    Client::connect(gateway.admin).ask(&request)
}

fn count(sim: &Sim) -> usize {
    sim.attempts().len()
}

#[test]
fn requests_share_a_routes_targets_by_weight_and_a_sick_one_gets_none() {
    let (one, other) = (Sim::start(), Sim::start());
    let targets = json!([{"model": "openai/a", "weight": 3}, {"model": "backup/a"}]);
    let gateway = two(&one, &other, json!({"targets": targets})).start();
    for _ in 0..200 {
        assert_eq!(gateway.ask(&Request::chat("openai/any")).status, 200);
    }
    assert!((20..90).contains(&count(&other)), "{} of 200", count(&other));
    one.rules(&json!([{"match": {}, "do": "status=500"}]));
    for _ in 0..100 {
        assert_eq!(provider_of(&gateway.ask(&Request::chat("openai/any"))), "backup");
    }
    gateway.expect_metric("sluice_breakers_opened_total", 1);
    assert!(gateway.metric("sluice_upstream_attempts_failed_total") < 25);
    let ready: Value = gateway.ask(&Request::get("/ready")).json();
    let targets = ready["targets"].as_array().expect("targets are a list").clone();
    let sick = targets.iter().find(|target| target["name"] == "openai/a");
    assert_ne!(sick.expect("it is remembered")["breaker"], "closed", "{ready}");
    assert_eq!(
        gateway.admin("/ready").json()["targets"],
        gateway.admin("/admin").json()["targets"]
    );
    one.rules(&json!([]));
    wait::until("the first provider is used again", || {
        (provider_of(&gateway.ask(&Request::chat("openai/any"))) == "openai").then_some(())
    });
}

#[test]
fn a_session_keeps_its_target_and_key() {
    let (one, other) = (Sim::start(), Sim::start());
    let targets = json!([{"model": "openai/a"}, {"model": "backup/a"}]);
    let route = json!({"targets": targets, "sticky": "X-Session-Id"});
    let gateway = two(&one, &other, route).cores(2).start();
    let mut places = std::collections::BTreeSet::new();
    for session in 0..12 {
        let ask = || {
            let answer = gateway.ask(&Request::chat("openai/any").field("x-session-id", &format!("session {session}")));
            format!(
                "{}/{}",
                provider_of(&answer),
                answer.field("x-sluice-key").unwrap_or_default()
            )
        };
        let place = ask();
        for _ in 0..6 {
            assert_eq!(ask(), place);
        }
        places.insert(place);
    }
    assert_eq!(places.len(), 3, "{places:?}");
}

#[test]
fn a_request_brings_its_own_fallbacks_and_they_are_not_forwarded() {
    let (one, other) = (Sim::start(), Sim::start());
    let gateway = two(&one, &other, json!({"fallbacks": ["openai/other+status=500"]}))
        .set("/retries/per_request", 0)
        .start();
    let by_field = Request::chat("openai/a+status=500").field("x-sluice-fallbacks", "openai/b+status=503, backup/c");
    let answer = gateway.ask(&by_field);
    assert_eq!((answer.status, provider_of(&answer).as_str()), (200, "backup"));
    assert_eq!(answer.field("x-sluice-attempts"), Some("3"));
    assert_eq!(answer.field("x-sluice-model"), Some("c"));
    for (sent, arrives) in [
        (
            r#"{"fallbacks" : ["backup/echo"], "model":"openai/a+status=500","messages":[]}"#,
            r#"{ "model":"echo","messages":[]}"#,
        ),
        (
            r#"{"model":"openai/a+status=500","messages":[],"fallbacks":["backup/echo"]}"#,
            r#"{"model":"echo","messages":[]}"#,
        ),
        (
            r#"{"messages":[],"fallbacks":["backup/echo"],"model":"openai/a+status=500","n":1}"#,
            r#"{"messages":[],"model":"echo","n":1}"#,
        ),
    ] {
        let echo = gateway.ask(&Request::post("/v1/chat/completions", sent)).json();
        assert_eq!(String::from_utf8_lossy(&echoed_body(&echo)), arrives);
    }
    for (list, status) in [
        (r#"["nowhere/x"]"#, 404),
        (r#"[1]"#, 400),
        (r#""backup/c""#, 400),
        ("[]", 200),
    ] {
        let body = format!(r#"{{"model":"openai/a","messages":[],"fallbacks":{list}}}"#);
        let answer = gateway.ask(&Request::post("/v1/chat/completions", body));
        assert_eq!(answer.status, status, "{list}: {answer:?}");
        if status != 200 {
            assert_eq!(answer.json()["error"]["param"], "fallbacks", "{answer:?}");
        }
    }
}

#[test]
fn a_conversation_that_does_not_fit_goes_to_a_fallback_and_another_verdict_does_not() {
    let (one, other) = (Sim::start(), Sim::start());
    let gateway = two(&one, &other, json!({"fallbacks": ["backup/large"]})).start();
    let long = "openai/a+status=400,code=context_length_exceeded,message=too%20long";
    for request in [Request::chat(long), Request::stream(long)] {
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, provider_of(&answer).as_str()), (200, "backup"));
        assert_eq!(
            answer.field("x-sluice-fallback-reason"),
            Some("context_length_exceeded")
        );
    }
    let alone = Setup::with(&one.base_url()).start();
    for gateway in [&gateway, &alone] {
        let answer = gateway.ask(&Request::chat("openai/a+status=400,code=odd,message=no"));
        assert_eq!((answer.status, provider_of(&answer).as_str()), (400, "openai"));
        assert_eq!(answer.json()["error"]["message"], "no");
        assert_eq!(answer.field("x-sluice-attempts"), Some("1"));
    }
    assert_eq!(alone.ask(&Request::chat(long)).json()["error"]["message"], "too long");
    assert_eq!(count(&other), 2);
}

#[test]
fn copies_go_to_the_shadow_and_never_hold_a_request_up() {
    let (one, other) = (Sim::start(), Sim::start());
    let shadow = json!({"model": "backup/copy", "share": 1.0});
    let gateway = two(&one, &other, json!({"shadow": shadow})).start();
    for (count_of_copies, request) in (1..).zip([Request::chat("openai/a"), Request::stream("openai/a")]) {
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, provider_of(&answer).as_str()), (200, "openai"));
        wait::until("the copy has been answered", || {
            let attempts = other.attempts();
            let whole = |attempt: &&Value| attempt["outcome"] == "complete" && attempt["model"] == "copy";
            (attempts.iter().filter(whole).count() == count_of_copies).then_some(())
        });
    }
    gateway.expect_metric("sluice_shadow_requests_total", 2);
    gateway.expect_metric("sluice_shadow_requests_failed_total", 0);
    assert_eq!(
        gateway.metric("sluice_upstream_attempts_total"),
        2,
        "copies are counted by themselves"
    );
    other.rules(&json!([{"match": {}, "do": "stall=before_head"}]));
    let mut client = gateway.client();
    for _ in 0..60 {
        assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
    }
    assert!(
        gateway.metric("sluice_shadow_requests_total") <= 2 + 32,
        "copies under way are bounded"
    );
}

#[test]
fn a_refused_key_rests_over_a_reload_until_an_operator_clears_it() {
    let one = Sim::start();
    one.rules(&json!([{"match": {"key": "sk-one"}, "do": "status=401"}]));
    let gateway = Setup::new()
        .provider("openai", &one.base_url(), &["sk-one", "sk-two"])
        .start();
    let refused = || {
        one.attempts()
            .iter()
            .filter(|attempt| attempt["key"] == "sk-one")
            .count()
    };
    let used = |key: &str| {
        let answer = gateway.ask(&Request::chat("openai/a"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.field("x-sluice-key") == Some(key)
    };
    wait::until("the key is refused", || {
        assert!(used("OPENAI_KEY_1"));
        (refused() == 1).then_some(())
    });
    let text = std::fs::read_to_string(gateway.config_path()).expect("the configuration can be read");
    gateway.rewrite(&format!("{text}\n# changed\n"));
    wait::until("the configuration is taken over", || {
        (gateway.metric("sluice_config_reloads_total") == 1).then_some(())
    });
    for _ in 0..30 {
        assert!(used("OPENAI_KEY_1"));
    }
    assert_eq!(refused(), 1, "one attempt told all there is to know");
    gateway.expect_metric("sluice_keys_refused_total", 1);
    assert_eq!(
        gateway.metric("sluice_key_state{provider=\"openai\",key=\"OPENAI_KEY_0\"}"),
        2
    );
    let keys = gateway.admin("/ready").json()["providers"][0]["key_states"].clone();
    assert_eq!(keys[0]["state"], "refused", "{keys}");
    one.rules(&json!([]));
    assert_eq!(post(&gateway, "/admin/keys/openai/nobody/clear").status, 404);
    assert_eq!(post(&gateway, "/admin/keys/openai/OPENAI_KEY_0/clear").status, 200);
    wait::until("the key is used again", || used("OPENAI_KEY_0").then_some(()));
}

#[test]
fn a_lone_provider_is_always_tried_once_unless_it_said_when_to_come_back() {
    let one = Sim::start();
    let gateway = Setup::with(&one.base_url()).start();
    let mut served = 0;
    for _ in 0..200 {
        let answer = gateway.ask(&Request::chat("openai/a+status=500,probability=0.6"));
        assert!([200, 500].contains(&answer.status), "{answer:?}");
        assert_eq!(provider_of(&answer), "openai");
        served += u32::from(answer.status == 200);
    }
    assert!(served > 50, "statistics alone refuse nothing: {served}");
    let held = Request::chat("openai/b+status=503,retry_after=30");
    let answer = gateway.ask(&held);
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("30")));
    let before = count(&one);
    for _ in 0..10 {
        let answer = gateway.ask(&held);
        assert_eq!((answer.status, &*answer.error_code()), (503, "upstream_unavailable"));
        assert_eq!(answer.field("retry-after"), Some("30"));
        assert_eq!(answer.field("x-sluice-attempts"), Some("0"));
    }
    assert_eq!(count(&one), before);
    assert_eq!(
        post(
            &gateway,
            "/admin/targets/reset?target=openai/b%2Bstatus%3D503,retry_after%3D30"
        )
        .status,
        200
    );
    for _ in 0..2 {
        assert_eq!(gateway.ask(&held).field("x-sluice-attempts"), Some("1"));
        assert_eq!(gateway.ask(&held).field("x-sluice-attempts"), Some("0"));
        assert_eq!(post(&gateway, "/admin/forget").status, 200);
    }
}

#[test]
fn retries_at_one_target_stay_within_its_budget() {
    let one = Sim::start();
    let gateway = Setup::with(&one.base_url())
        .set("/breaker/enabled", false)
        .set("/retries/budget_per_second", 0)
        .set("/retries/first_delay", "1ms")
        .start();
    for _ in 0..150 {
        let answer = gateway.ask(&Request::chat("openai/a+status=500"));
        assert_eq!(answer.status, 500);
        assert!(answer.field("x-sluice-provider").is_some(), "{answer:?}");
    }
    let retries = gateway.metric("sluice_upstream_retries_total") as usize;
    assert_eq!(count(&one), 150 + retries);
    assert!((28..=30).contains(&retries), "a fifth of 150: {retries}");
    assert!(gateway.metric("sluice_upstream_retries_denied_total") > 100);
}

#[test]
fn labels_hold_what_clients_invent_within_bounds() {
    let one = Sim::start();
    let gateway = Setup::with(&one.base_url()).start();
    let mut client = gateway.client();
    for index in 0..400 {
        assert_eq!(
            client.ask(&Request::chat(&format!("openai/invented-{index}"))).status,
            200
        );
    }
    let page = gateway.admin("/metrics").text();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("sluice_target_state{"))
        .collect();
    assert_eq!(rows, ["sluice_target_state{target=\"openai/other\"} 0"]);
    assert!(!page.contains("invented"));
}

#[test]
fn when_to_come_back_may_be_a_date_or_milliseconds() {
    let body = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let said = [
        "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT",
        "retry-after-ms: 29100",
        "Retry-After: 30\r\nretry-after-ms: 1",
    ];
    let answers = said.map(|fields| format!("HTTP/1.1 429 Too Many Requests\r\n{fields}\r\n{body}"));
    let origin = Origin::start(move |number, socket| answer_once(socket, answers[number % answers.len()].as_bytes()));
    let gateway = Setup::with(&origin.base_url()).start();
    for (index, fields) in said.iter().enumerate() {
        let answer = gateway.ask(&Request::chat(&format!("openai/{index}")));
        assert_eq!(
            (answer.status, answer.field("retry-after")),
            (429, Some("30")),
            "{fields}"
        );
    }
}
