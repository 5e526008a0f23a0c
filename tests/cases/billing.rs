//! What is charged, and to whom: images, sound and batches, budgets and limits of one model or provider, tags, reports, and the
//! webhook that hears of soft budgets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

use sluice_tests::accounts::{
    ADMIN, admin, bearer, billed, code, expect_spent_as_billed, in_force, key, nanos, setup, spent,
};
use sluice_tests::{Gateway, Request, Response, Setup, Sim, Value, binary, json, wait};

/// Prices by the token and by the piece.
const PRICES: &str = r#"- source: test
  date: 2026-11-23
  prices:
    "*/gpt-image*": {input: 1, output_image: 4, output_max: 1000}
    "*/gpt-unbounded*": {input: 1, output_image: 4}
    "*/gpt*": {input: 1, output: 4, input_max: 100000, output_max: 1000}
    "*/paint*": {image: 0.02}
    "*/speak*": {character: 0.00002}
    "*/whisper*": {audio_second: 0.0001}
"#;

fn priced(sim: &Sim, unknown: &str) -> Setup {
    let setup = setup(sim, 1);
    let prices = setup.dir().write("more.yaml", PRICES).display().to_string();
    setup
        .set("/accounts/prices", prices)
        .set("/accounts/unknown_price", unknown)
}

fn paying(gateway: &Gateway, name: &str, limit: &str) -> String {
    let secret = key(gateway, name, json!({"budgets": [{"limit": limit, "window": "total"}]}));
    in_force(gateway, &secret);
    secret
}

fn chat(model: &str, most: u64, secret: &str) -> Request {
    let body =
        format!(r#"{{"model":"{model}","max_tokens":{most},"messages":[{{"role":"user","content":"Hello there"}}]}}"#);
    bearer(Request::post("/v1/chat/completions", body), secret)
}

fn image(model: &str, count: u32, secret: &str) -> Request {
    let body = format!(r#"{{"model":"openai/{model}","n":{count},"prompt":"a press line","max_tokens":1}}"#);
    bearer(Request::post("/v1/images/generations", body), secret)
}

/// A form with these fields, and a file of so many bytes.
fn form(path: &str, fields: &[(&str, &str)], file_bytes: usize, secret: &str) -> Request {
    let mut body = String::new();
    for (name, value) in fields {
        body.push_str(&format!(
            "--part\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        ));
    }
    let file = "x".repeat(file_bytes);
    body.push_str(&format!(
        "--part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n{file}\r\n--part--\r\n"
    ));
    bearer(
        Request::with_type("POST", path, "multipart/form-data; boundary=part", body),
        secret,
    )
}

fn cost(answer: &Response) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    nanos(answer.field("x-sluice-cost").expect("a whole answer says what it cost"))
}

#[test]
fn images_are_charged_by_their_tokens_or_by_the_piece() {
    let sim = Sim::start();
    let gateway = priced(&sim, "refuse").start();
    let secret = paying(&gateway, "painter", "1");
    let answer = gateway.ask(&image("gpt-image-1", 2, &secret));
    assert_eq!(cost(&answer), billed(&sim));
    expect_spent_as_billed(&gateway, &sim, "images that cost tokens");
    let by_tokens = spent(&gateway);
    assert_eq!(cost(&gateway.ask(&image("paint-1", 3, &secret))), 60_000_000);
    let edit = form(
        "/v1/images/edits",
        &[("model", "openai/paint-1"), ("n", "2"), ("prompt", "bluer")],
        100,
        &secret,
    );
    assert_eq!(cost(&gateway.ask(&edit)), 40_000_000);
    wait::until("the ledger says so too", || {
        (spent(&gateway) == by_tokens + 100_000_000).then_some(())
    });
    assert_eq!(gateway.metric("sluice_unpriced_total"), 0);
    // What they may cost at most is held: an image of 1,000 tokens each, or its price, whatever limit a client claims.
    for (model, count, limit, status) in [
        ("gpt-image-1", 2, "0.0101", 402),
        ("gpt-image-1", 2, "0.0103", 200),
        ("paint-1", 3, "0.059", 402),
        ("paint-1", 3, "0.061", 200),
    ] {
        let poor = paying(&gateway, &format!("poor-{model}-{limit}"), limit);
        let answer = gateway.ask(&image(model, count, &poor));
        assert_eq!(answer.status, status, "{model} {limit}: {answer:?}");
        assert!(status == 200 || code(&answer) == "budget_exceeded", "{answer:?}");
    }
}

#[test]
fn speech_is_charged_by_the_character_and_transcriptions_by_the_second() {
    let sim = Sim::start();
    let gateway = priced(&sim, "refuse").start();
    let secret = paying(&gateway, "speaker", "1");
    // Five characters, of which JSON makes eleven bytes.
    let body = r#"{"model":"openai/speak-1","voice":"alloy","input":"Gr\u00fc\u00dfe"}"#;
    let answer = gateway.ask(&bearer(Request::post("/v1/audio/speech", body), &secret));
    // Nobody waits for the end of sound to say in its head what it has cost.
    assert_eq!(answer.status, 200, "{answer:?}");
    wait::until("what was spoken is in the ledger", || {
        (spent(&gateway) == 5 * 20_000).then_some(())
    });
    let transcribe = |bytes: usize, secret: &str| {
        let fields = [("model", "openai/whisper-1")];
        gateway.ask(&form("/v1/audio/transcriptions", &fields, bytes, secret))
    };
    assert_eq!(
        cost(&transcribe(40_000, &secret)),
        3 * 100_000,
        "the answer says 3 seconds"
    );
    wait::until("what was heard is in the ledger", || {
        (spent(&gateway) == 100_000 + 300_000).then_some(())
    });
    assert_eq!(gateway.metric("sluice_unpriced_total"), 0);
    // 40 kB may be 320 seconds.
    for (limit, status) in [("0.03", 402), ("0.04", 200)] {
        let poor = paying(&gateway, &format!("poor-{limit}"), limit);
        assert_eq!(transcribe(40_000, &poor).status, status, "{limit}");
    }
}

#[test]
fn what_has_no_price_that_covers_it_is_refused_or_counted_as_unpriced() {
    let sim = Sim::start();
    for (unknown, status) in [("refuse", 402), ("zero", 200)] {
        let gateway = priced(&sim, unknown).start();
        let secret = paying(&gateway, "batcher", "1");
        let batch = r#"{"input_file_id":"file-1","endpoint":"/v1/chat/completions","completion_window":"24h"}"#;
        let asked = [
            bearer(Request::post("/v1/batches", batch), &secret),
            image("gpt-unbounded", 1, &secret),
            image("nobody-knows", 1, &secret),
        ];
        for (at, request) in asked.iter().enumerate() {
            let answer = gateway.ask(request);
            assert_eq!(answer.status, status, "{unknown}: {answer:?}");
            assert!(status == 200 || code(&answer) == "price_unknown", "{answer:?}");
            let seen = if status == 200 { at as u64 + 1 } else { 0 };
            wait::until("it is never silent", || {
                (gateway.metric("sluice_unpriced_total") == seen).then_some(())
            });
        }
        assert_eq!(spent(&gateway), 0);
        // What was made before is looked at for nothing.
        assert_eq!(gateway.ask(&bearer(Request::get("/v1/batches"), &secret)).status, 200);
    }
}

#[test]
fn a_budget_may_be_for_one_model_or_provider_of_a_key() {
    let sim = Sim::start();
    let setup = setup(&sim, 1).provider("other", &sim.base_url(), &["sk-other"]);
    let gateway = setup.start();
    let secret = key(
        &gateway,
        "divided",
        json!({"budgets": [
            {"limit": "0.003", "window": "total", "model": "gpt-dear*"},
            {"limit": "0.003", "window": "total", "provider": "other"},
            {"limit": "1", "window": "total"},
        ]}),
    );
    in_force(&gateway, &secret);
    let ask = |model: &str| gateway.ask(&chat(model, 50, &secret));
    let exhaust = |model: &str| {
        let refused = (0..200).map(|_| ask(model)).find(|answer| answer.status != 200);
        let refused = refused.expect("its budget comes to its end");
        assert_eq!(
            (refused.status, code(&refused)),
            (402, "budget_exceeded".to_owned()),
            "{refused:?}"
        );
    };
    exhaust("openai/gpt-dear-1");
    assert_eq!(ask("openai/gpt-cheap").status, 200, "another model");
    exhaust("other/gpt-cheap");
    assert_eq!(ask("openai/gpt-cheap").status, 200, "another provider");
    let shown = admin(&gateway, "GET", "/keys/divided", &Value::Null).json();
    let of = |at: usize| nanos(shown["budgets"][at]["spent"].as_str().expect("an amount"));
    assert!(of(0) <= 3_000_000 && of(1) <= 3_000_000, "{shown}");
}

#[test]
fn limits_of_tokens_and_of_requests_at_a_time_hold_for_what_they_are_of() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).start();
    let limited = |name: &str, limit: Value| {
        let secret = key(&gateway, name, json!({}));
        let made = admin(&gateway, "POST", &format!("/keys/{name}/limits"), &limit);
        assert_eq!(made.status, 201, "{made:?}");
        in_force(&gateway, &secret);
        secret
    };
    let is_limited = |answer: &Response| {
        assert_eq!(
            (answer.status, code(answer)),
            (429, "rate_limit_exceeded".to_owned()),
            "{answer:?}"
        );
        assert!(answer.field("retry-after").is_some(), "{answer:?}");
    };
    // Ten tokens come back each time, of fifty that might have.
    let short = "openai/gpt-x+tokens=10";
    let output = limited(
        "output",
        json!({"unit": "output_tokens", "window": "day", "most": 60, "model": "gpt-x*"}),
    );
    for _ in 0..2 {
        let answer = gateway.ask(&chat(short, 50, &output));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.field("x-ratelimit-limit-tokens"), Some("60"), "{answer:?}");
    }
    is_limited(&gateway.ask(&chat(short, 50, &output)));
    assert_eq!(
        gateway.ask(&chat(short, 40, &output)).status,
        200,
        "as many as are left"
    );
    assert_eq!(
        gateway.ask(&chat("openai/gpt-y", 500, &output)).status,
        200,
        "of one model"
    );
    // A body of 100 bytes counts as 25 tokens until the answer says how many it were.
    let bytes = chat(short, 50, "").bytes().len() as u64;
    for (unit, most) in [("input_tokens", bytes / 4), ("total_tokens", bytes / 4 + 50)] {
        let secret = limited(
            unit,
            json!({"unit": unit, "window": "day", "most": most, "provider": "openai"}),
        );
        let mut answers = (0..200).map(|_| gateway.ask(&chat(short, 50, &secret)));
        assert_eq!(answers.next().map(|answer| answer.status), Some(200), "{unit}");
        is_limited(
            &answers
                .find(|answer| answer.status != 200)
                .expect("it comes to its end"),
        );
    }
    let single = limited("single", json!({"unit": "concurrent", "most": 1}));
    let mut client = gateway.client();
    client.send(chat("openai/gpt-x+latency_ms=60000", 5, &single).bytes());
    wait::until("it is under way", || {
        let attempts = sim.attempts();
        attempts
            .iter()
            .any(|attempt| attempt["outcome"] == "in_flight")
            .then_some(())
    });
    is_limited(&gateway.ask(&chat(short, 5, &single)));
    client.reset();
    wait::until("it is over", || {
        (gateway.ask(&chat(short, 5, &single)).status == 200).then_some(())
    });
}

#[test]
fn reports_tell_tags_of_fields_and_of_metadata_apart_by_every_dimension() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).start();
    assert_eq!(
        admin(&gateway, "POST", "/customers", &json!({"name": "acme"})).status,
        201
    );
    let team = json!({"name": "press-line-2", "customer": "acme"});
    assert_eq!(admin(&gateway, "POST", "/teams", &team).status, 201);
    let sluice = |words: &[&str]| -> String {
        let mut command = Command::new(binary::sluice());
        command.args(words).env_clear();
        command.env("SLUICE_ADMIN", gateway.admin.to_string());
        command.env("SLUICE_ADMIN_CREDENTIAL", ADMIN);
        let output = command.output().expect("the binary can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let secret = sluice(&["key", "create", "--team", "press-line-2", "--budget", "50/day"]);
    let secret = secret.trim();
    in_force(&gateway, secret);
    let body = r#"{"model":"openai/gpt-x","messages":[],"metadata":{"line":"2","shift":"night","count":7}}"#;
    let request = bearer(Request::post("/v1/chat/completions", body), secret).field("x-sluice-tag-shift", "day");
    assert_eq!(gateway.ask(&request).status, 200);
    expect_spent_as_billed(&gateway, &sim, "one request");
    let name = sluice(&["key", "list", "--team", "press-line-2"]);
    let name = name
        .lines()
        .nth(1)
        .and_then(|line| line.split(' ').next())
        .expect("a name");
    let month = month();
    let usd = format!(",{}.{:09}", billed(&sim) / 1_000_000_000, billed(&sim) % 1_000_000_000);
    let usd = usd.trim_end_matches('0');
    for (by, lines) in [
        ("key", vec![name]),
        ("team", vec!["press-line-2"]),
        ("customer", vec!["acme"]),
        ("model", vec!["openai/gpt-x"]),
        ("provider", vec!["openai"]),
        // The client's own field comes before what is in the body; a number is no tag.
        ("tag", vec!["line=2", "shift=day"]),
    ] {
        let report = sluice(&["spend", "--by", by, "--month", &month, "--csv"]);
        assert!(report.starts_with("name,requests,"), "{report}");
        for line in lines {
            let row = report.lines().find(|row| row.starts_with(&format!("\"{line}\",")));
            assert!(row.is_some_and(|row| row.ends_with(usd)), "{by} {line} {usd}: {report}");
        }
        assert!(!report.contains("count=7") && !report.contains("night"), "{report}");
    }
    assert_eq!(
        sluice(&["spend", "--by", "key", "--month", "2019-11", "--csv"])
            .lines()
            .count(),
        1
    );
}

/// The current month as `YYYY-MM`, as the gateway sees it.
fn month() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = now.map_or(0, |now| now.as_secs() / 86_400);
    let (year, month, _) = sluice_wire::calendar::civil(days);
    format!("{year:04}-{month:02}")
}

#[test]
fn a_soft_budget_is_told_of_before_the_hard_one_stops() {
    let sim = Sim::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let gateway = setup(&sim, 1).set("/accounts/webhook", url).start();
    let secret = key(
        &gateway,
        "warned",
        json!({"budgets": [{"limit": "1", "soft": "0.000001", "window": "day"}]}),
    );
    in_force(&gateway, &secret);
    assert_eq!(gateway.ask(&chat("openai/gpt-x", 50, &secret)).status, 200);
    let (mut socket, _) = listener.accept().expect("the webhook is told");
    let mut reader = BufReader::new(socket.try_clone().expect("a descriptor can be copied"));
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).expect("a head") > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    let told: Value = String::from_utf8(body)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("JSON");
    assert_eq!(
        (&told["event"], &told["limit_usd"]),
        (&json!("soft_budget"), &json!("1")),
        "{told}"
    );
    assert!(
        told["owner"].as_str().is_some_and(|owner| owner.contains("warned")),
        "{told}"
    );
    wait::until("a metric says so too", || {
        (gateway.metric("sluice_budget_soft_limits_passed_total") == 1).then_some(())
    });
    assert_eq!(
        gateway.ask(&chat("openai/gpt-x", 50, &secret)).status,
        200,
        "it goes on"
    );
}
