//! What single requests are remembered by: the attempts of each, in the log and in the ledger, and bodies of keys that they are
//! switched on for.

use std::process::Command;

use sluice_tests::accounts::{ADMIN, admin, bearer, in_force, key, setup};
use sluice_tests::postgres::Postgres;
use sluice_tests::{Gateway, Request, Setup, Sim, Value, binary, json, wait};

/// A store in a file, or, where it is installed, in PostgreSQL.
fn with_accounts(sim: &Sim, backup: &Sim, store: Option<String>) -> Setup {
    let mut setup = setup(sim, 1)
        .provider("backup", &backup.base_url(), &["sk-two"])
        .route(&["openai/gpt-*"], &["backup/gpt-spare"]);
    if let Some(store) = store {
        setup = setup.set("/accounts/store", store);
    }
    setup
}

/// What `sluice log` prints as JSON.
fn logged(gateway: &Gateway, words: &[&str]) -> Vec<Value> {
    let mut command = Command::new(binary::sluice());
    command.arg("log").args(words).arg("--json").env_clear();
    command.env("SLUICE_ADMIN", gateway.admin.to_string());
    command.env("SLUICE_ADMIN_CREDENTIAL", ADMIN);
    let output = command.output().expect("the binary can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect()
}

/// The attempts of a request, without their times, which must be in order.
fn went(line: &Value) -> Vec<(String, String, u64)> {
    let tries = line["tries"].as_array().cloned().unwrap_or_default();
    let number = |one: &Value, name: &str| one[name].as_u64().expect("a number of microseconds");
    let mut ended_us = 0;
    tries
        .iter()
        .map(|one| {
            assert!(number(one, "at_us") >= ended_us, "{line}");
            ended_us = number(one, "at_us") + number(one, "took_us");
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            let target = format!("{}/{}", text("provider"), text("model"));
            (target, text("result"), one["status"].as_u64().unwrap_or(0))
        })
        .collect()
}

fn attempts_are_told(store: Option<String>) {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = with_accounts(&one, &two, store).start();
    let secret = key(&gateway, "station-14", json!({}));
    in_force(&gateway, &secret);
    let ask = |model: &str| gateway.ask(&bearer(Request::chat(model), &secret)).status;
    assert_eq!(ask("openai/gpt-x+status=429"), 200);
    assert_eq!(ask("openai/gpt-y+status=400"), 400);
    let words = |status: &'static str| ["--key", "station-14", "--since", "1h", "--status", status];
    let chats = |lines: Vec<Value>| -> Vec<Value> {
        let is_chat = |line: &Value| line["model"].as_str().is_some_and(|model| model.contains("gpt"));
        lines.into_iter().filter(is_chat).collect()
    };
    let (answered, failed) = wait::until("the ledger has both", || {
        let answered = chats(logged(&gateway, &words("200")));
        let failed = chats(logged(&gateway, &words("error")));
        (answered.len() == 1 && failed.len() == 1).then_some((answered, failed))
    });
    let in_log = gateway
        .request_lines(1)
        .into_iter()
        .find(|line| line["id"] == answered[0]["id"])
        .expect("the log has what the ledger has");
    let owned = |target: &str, result: &str, status| (target.to_owned(), result.to_owned(), status);
    for line in [&answered[0], &in_log] {
        assert_eq!(
            went(line),
            [
                owned("openai/gpt-x+status=429", "upstream_rate_limited", 429),
                owned("backup/gpt-spare", "ok", 200),
            ]
        );
        assert_eq!(line["route"], "openai/gpt-*");
        assert!(line["upstream_us"].as_u64().is_some_and(|us| us > 0), "{line}");
    }
    // One attempt that the record itself tells of needs no list.
    assert!(failed[0]["tries"].is_null(), "{failed:?}");
    assert_eq!(failed[0]["status"], 400);
}

#[test]
fn a_request_is_remembered_with_each_of_its_attempts() {
    attempts_are_told(None);
}

#[test]
fn a_request_is_remembered_with_each_of_its_attempts_in_postgresql() {
    let Some(server) = Postgres::start() else { return };
    attempts_are_told(Some(server.url()));
}

#[test]
fn bodies_are_logged_of_the_key_that_they_are_switched_on_for_and_redacted() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1)
        .set("/log/bodies", json!({"size": "600B", "redact": ["/user"]}))
        .start();
    let (open, closed) = (
        key(&gateway, "station-14", json!({})),
        key(&gateway, "station-15", json!({})),
    );
    in_force(&gateway, &open);
    in_force(&gateway, &closed);
    let switch = |on: bool| {
        let answer = admin(&gateway, "PATCH", "/keys/station-14", &json!({"log_bodies": on}));
        assert_eq!(answer.status, 204, "{answer:?}");
    };
    switch(true);
    let ask = |stream: bool, secret: &str, text: &str| {
        let body = json!({
            "model": "openai/gpt-x", "stream": stream, "user": "Jane",
            "messages": [{"role": "user", "content": text}],
        });
        let request = bearer(Request::post("/v1/chat/completions", body.to_string()), secret);
        assert_eq!(gateway.ask(&request).status, 200);
    };
    let line = |text: &str| -> Value {
        wait::until("the line is there", || {
            let is_it = |line: &Value| line.to_string().contains(text);
            gateway.lines().into_iter().find(is_it)
        })
    };
    let body = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    ask(false, &open, "first for jane@example.org with sk-proj-0123456789abcdef");
    let first = line("first for");
    let request: Value = serde_json::from_str(&body(&first, "request_body")).expect("a short body is whole");
    assert_eq!(request["user"], "[redacted]");
    assert_eq!(request["messages"][0]["content"], "first for [e-mail] with [secret]");
    assert!(body(&first, "answer_body").contains("\"choices\""), "{first}");
    ask(true, &open, &format!("second {}", "long ".repeat(200)));
    let second = wait::until("the stream is logged", || {
        let is_it = |line: &Value| line["stream"] == true && line["request_body_cut"] == true;
        gateway.lines().into_iter().find(is_it)
    });
    assert!(
        !second.to_string().contains("long long"),
        "what is cut is not half shown: {second}"
    );
    assert!(body(&second, "answer_body").starts_with("data: {"), "{second}");
    ask(false, &closed, "third");
    switch(false);
    ask(false, &open, "fourth");
    let count = |name: &str| {
        gateway
            .lines()
            .iter()
            .filter(|line| line["virtual_key"] == name)
            .count()
    };
    wait::until("all are logged", || (count("station-14") >= 3).then_some(()));
    let with_bodies = gateway
        .lines()
        .iter()
        .filter(|line| !line["request_body"].is_null())
        .count();
    assert_eq!(with_bodies, 2);
    let all = gateway.lines().iter().map(Value::to_string).collect::<String>();
    for never in ["third", "fourth", "Jane", "jane@", "sk-proj"] {
        assert!(!all.contains(never), "{never}");
    }
    gateway.expect_metric("sluice_log_bodies_dropped_total", 0);
}

#[test]
fn the_body_of_a_hedged_answer_is_the_one_that_won() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = with_accounts(&one, &two, None)
        .set("/routes/0/hedge", json!({"delay": "50ms"}))
        .start();
    let secret = key(&gateway, "station-14", json!({}));
    in_force(&gateway, &secret);
    let switched = admin(&gateway, "PATCH", "/keys/station-14", &json!({"log_bodies": true}));
    assert_eq!(switched.status, 204, "{switched:?}");
    for request in [Request::chat, Request::stream] {
        let answer = gateway.ask(&bearer(request("openai/gpt-x+latency_ms=3000"), &secret));
        assert_eq!(
            (answer.status, answer.field("x-sluice-provider")),
            (200, Some("backup")),
            "{answer:?}"
        );
        let id = answer
            .field("x-sluice-request-id")
            .expect("an answer names its request")
            .to_owned();
        let line = wait::until("the line is there", || {
            gateway.lines().into_iter().find(|line| line["id"] == *id)
        });
        // Of a stream, the empty lines between events are left out.
        let told = line["answer_body"].as_str().unwrap_or_default();
        let text = answer.text();
        let answered = text.lines().filter(|line| !line.is_empty());
        assert!(told.lines().eq(answered), "{line}: {text}");
    }
}

#[test]
fn what_is_refused_of_a_known_key_is_told_as_its() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = with_accounts(&one, &two, None)
        .set("/limits/body_bytes", "1KiB")
        .start();
    let secret = key(&gateway, "station-14", json!({}));
    in_force(&gateway, &secret);
    let ask = |body: Vec<u8>| gateway.ask(&bearer(Request::post("/v1/chat/completions", body), &secret));
    let table = [
        (vec![b' '; 2_000], 413),
        (b"{".to_vec(), 400),
        (b"{\"model\":\"nobody/x\"}".to_vec(), 404),
    ];
    for (body, status) in table {
        assert_eq!(ask(body).status, status);
        let words = ["--key", "station-14", "--since", "1h", "--status", "error"];
        wait::until("the ledger has it, with the key", || {
            let told = logged(&gateway, &words);
            told.iter().any(|line| line["status"] == status).then_some(())
        });
        let lines = gateway.request_lines(1);
        let theirs = lines.iter().find(|line| line["status"] == status).expect("a line");
        assert_eq!(theirs["virtual_key"], "station-14", "{theirs}");
    }
}
