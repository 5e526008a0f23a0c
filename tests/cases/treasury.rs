//! Between the store and the requests: a store that stands still, is away, or is reached over TLS; estimates in place of the
//! worst case; and keys as AWS SDKs take them.

use std::time::{Duration, Instant};

use sluice_tests::accounts::{
    admin, bearer, billed, code, expect_spent_as_billed, in_force, key, nothing_reserved, setup,
};
use sluice_tests::certificates::Authority;
use sluice_tests::postgres::Postgres;
use sluice_tests::stall::Stalled;
use sluice_tests::{Gateway, Request, Response, Setup, Sim, Value, json, wait};
use sluice_wire::sigv4::{self, Credentials, Signer};

fn chat(most: u64, secret: &str) -> Request {
    let body =
        format!(r#"{{"model":"openai/gpt-x","max_tokens":{most},"messages":[{{"role":"user","content":"Hello"}}]}}"#);
    bearer(Request::post("/v1/chat/completions", body), secret)
}

#[test]
fn a_store_that_stands_still_keeps_nobody_waiting_who_has_a_lease() {
    let sim = Sim::start();
    let gateway = setup(&sim, 2).start();
    let secret = key(
        &gateway,
        "leased",
        json!({"budgets": [{"limit": "1000", "window": "day"}]}),
    );
    in_force(&gateway, &secret);
    assert_eq!(gateway.ask(&chat(10, &secret)).status, 200);
    let Some(stalled) = Stalled::thread(gateway.process(), "store") else {
        return;
    };
    let begun = Instant::now();
    let (mut slowest, mut asked) = (Duration::ZERO, 0);
    while begun.elapsed() < Duration::from_secs(3) {
        let sent = Instant::now();
        let answer = gateway.ask(&chat(10, &secret));
        slowest = slowest.max(sent.elapsed());
        assert_eq!(answer.status, 200, "{answer:?}");
        asked += 1;
    }
    assert!(asked > 100, "{asked} requests in three seconds");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    drop(stalled);
    expect_spent_as_billed(&gateway, &sim, "what was spent meanwhile is written down");
    nothing_reserved(&gateway, "leased", &secret);
}

#[test]
fn while_the_store_is_away_budgets_are_spent_to_the_lease_and_then_refuse_or_go_unpaid() {
    for (decision, is_admitted) in [("refuse", false), ("admit", true)] {
        let Some(server) = Postgres::start() else { return };
        let sim = Sim::start();
        let gateway = setup(&sim, 1)
            .set("/accounts/store", server.url())
            .set("/accounts/store_down", decision)
            .start();
        let secret = key(
            &gateway,
            "poor",
            json!({"budgets": [{"limit": "0.05", "window": "total"}]}),
        );
        in_force(&gateway, &secret);
        assert_eq!(gateway.ask(&chat(10, &secret)).status, 200);
        server.freeze();
        // More than any lease of that budget holds.
        let mut answers = (0..400).map(|_| gateway.ask(&chat(200, &secret)));
        let refused = answers.find(|answer| answer.status != 200);
        server.thaw();
        if is_admitted {
            assert!(refused.is_none(), "{refused:?}");
            // More than the limit, and all of it in the ledger: nothing is lost of what was let in.
            expect_spent_as_billed(&gateway, &sim, "what went unpaid is written down");
            assert!(billed(&sim) > 50_000_000 / 4, "{}", billed(&sim));
            continue;
        }
        let first = refused.expect("a lease comes to its end");
        assert_eq!(
            (first.status, code(&first)),
            (503, "budget_store_unavailable".to_owned()),
            "{first:?}"
        );
        assert!(first.field("retry-after").is_some(), "{first:?}");
        assert!(gateway.metric("sluice_budget_store_refusals_total") > 0);
        wait::until("the store is there again", || {
            let answer = gateway.ask(&chat(10, &secret));
            (answer.status == 200 || answer.status == 402).then_some(())
        });
        assert!(billed(&sim) <= 50_000_000);
    }
}

#[test]
fn an_estimate_lets_in_what_the_worst_case_would_not_and_the_ledger_stays_exact() {
    let sim = Sim::start();
    let gateway = setup(&sim, 1).set("/accounts/reserve", "estimate").start();
    let secret = key(
        &gateway,
        "hopeful",
        json!({"budgets": [{"limit": "0.02", "window": "total"}]}),
    );
    in_force(&gateway, &secret);
    // At most 20 million for the output alone, which is all that there is.
    let answer = gateway.ask(&chat(5_000, &secret));
    assert_eq!((answer.status, code(&answer)), (402, "budget_exceeded".to_owned()));
    let teacher = key(&gateway, "teacher", json!({}));
    wait::until("the teacher's key is in force", || {
        (gateway.ask(&chat(50, &teacher)).status == 200).then_some(())
    });
    for _ in 0..110 {
        assert_eq!(gateway.ask(&chat(50, &teacher)).status, 200);
    }
    let answer = gateway.ask(&chat(5_000, &secret));
    assert_eq!(answer.status, 200, "answers are short: {answer:?}");
    expect_spent_as_billed(&gateway, &sim, "estimates are for what is set aside");
    nothing_reserved(&gateway, "hopeful", &secret);
}

#[test]
fn postgresql_is_reached_over_tls_that_is_verified() {
    let setup_of = |sim: &Sim, server: &Postgres, authority: &Authority| -> Setup {
        let mut setup = setup(sim, 1).set("/accounts/store", server.tls_url());
        let file = authority.file.display().to_string();
        setup.env.push(("SSL_CERT_FILE".into(), file));
        setup
    };
    let dir = sluice_tests::temp::TempDir::new();
    let [trusted, other] = ["trusted", "other"].map(|name| Authority::new(&dir, name));
    let identity = trusted.issue(&dir, "server", "localhost");
    let Some(server) = Postgres::start_tls(&identity.cert, &identity.key) else {
        return;
    };
    let sim = Sim::start();
    let gateway = setup_of(&sim, &server, &trusted).start();
    let secret = key(&gateway, "far", json!({"budgets": [{"limit": "1", "window": "day"}]}));
    in_force(&gateway, &secret);
    assert_eq!(gateway.ask(&chat(10, &secret)).status, 200);
    expect_spent_as_billed(&gateway, &sim, "over TLS");
    drop(gateway);
    let (status, said) = setup_of(&sim, &server, &other).fails();
    assert!(!status.success() && said.contains("accounts.store"), "{said}");
}

/// A Converse request, signed as an AWS SDK does.
fn signed(path: &str, body: &str, pair: (&str, &str), at_s: u64) -> Request {
    // As every request of these tests says.
    let host = "gateway.test";
    let credentials = Credentials {
        access_key_id: pair.0,
        secret_access_key: pair.1,
        session_token: None,
    };
    let target = sigv4::Request {
        method: "POST",
        path,
        query: "",
        headers: &[("host", host.as_bytes()), ("content-type", b"application/json")],
    };
    let mut fields = Vec::new();
    let payload = sigv4::payload_hash([body.as_bytes()]);
    Signer::new().sign(
        &credentials,
        "eu-central-1",
        "bedrock",
        &target,
        &payload,
        at_s,
        &mut fields,
    );
    let mut request = Request::post(path, body);
    for line in String::from_utf8(fields).expect("fields are text").lines() {
        let (name, value) = line.split_once(": ").expect("a field has a value");
        request = request.field(name, value);
    }
    request
}

fn pair_of(answer: &Response) -> (String, String) {
    let aws = &answer.json()["aws"];
    let text = |name: &str| aws[name].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    (text("access_key_id"), text("secret_access_key"))
}

#[test]
fn a_key_is_a_pair_for_aws_sdks_whose_signature_is_verified_and_charged() {
    let sim = Sim::start();
    let mut setup = setup(&sim, 2).set("/accounts/aws_pairs_secret", json!({"env": "PAIRS"}));
    setup
        .env
        .push(("PAIRS".into(), "0123456789abcdef0123456789abcdef".into()));
    let gateway = setup.start();
    let made = admin(
        &gateway,
        "POST",
        "/keys",
        &json!({"name": "boto", "budgets": [{"limit": "1", "window": "day"}]}),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json()["key"].as_str().expect("a secret").to_owned();
    in_force(&gateway, &secret);
    let (id, pair_secret) = pair_of(&made);
    let pair = (&*id, &*pair_secret);
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let path = "/model/openai%2Fgpt-x/converse";
    let body = r#"{"messages":[{"role":"user","content":[{"text":"Hello"}]}],"inferenceConfig":{"maxTokens":50}}"#;
    for path in [
        path,
        "/bedrock/model/openai%2Fgpt-x/converse",
        "/model/openai%2Fgpt-x/converse-stream",
    ] {
        let answer = gateway.ask(&signed(path, body, pair, now_s));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    expect_spent_as_billed(&gateway, &sim, "what is signed is charged");
    let line = gateway
        .request_lines(1)
        .into_iter()
        .rfind(|line| line["model"] == "openai/gpt-x");
    assert_eq!(line.expect("a line")["virtual_key"], "boto");
    let other = "x".repeat(43);
    for (why, request) in [
        ("another secret", signed(path, body, (&id, &other), now_s)),
        (
            "an unknown id",
            signed(path, body, ("SLCEAAAAAAAAAAAAAAAA", &pair_secret), now_s),
        ),
        (
            "nobody's id",
            signed(path, body, ("AKIAIOSFODNN7EXAMPLE", &pair_secret), now_s),
        ),
        ("long ago", signed(path, body, pair, now_s - 3_600)),
    ] {
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 401, "{why}: {answer:?}");
        assert!(answer.field("x-amzn-errortype").is_some(), "{why}: {answer:?}");
        assert!(!answer.text().contains(&pair_secret));
    }
    let mut client = gateway.client();
    let text = String::from_utf8(signed(path, body, pair, now_s).bytes()).expect("a request is text");
    client.send(text.replace("Hello", "Hullo"));
    assert_eq!(client.response().status, 401, "another body than was signed");
    // Another secret means another pair, and the old one holds for as long as the old secret.
    let rotated = admin(&gateway, "POST", "/keys/boto/rotate", &json!({"overlap_s": 3_600}));
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let (new_id, new_secret) = pair_of(&rotated);
    assert!(new_id != id && new_secret != pair_secret);
    wait::until("both pairs hold", || {
        let holds = |pair| gateway.ask(&signed(path, body, pair, now_s)).status == 200;
        (holds((&*new_id, &*new_secret)) && holds(pair)).then_some(())
    });
    let shown = admin(&gateway, "GET", "/keys/boto", &Value::Null);
    assert!(
        !shown.text().contains(&new_secret) && !shown.text().contains(&new_id),
        "{shown:?}"
    );
    assert!(!gateway.stdout().contains(&new_secret) && !gateway.stderr().contains(&new_secret));
}

#[test]
fn without_a_secret_for_them_there_are_no_pairs_and_a_short_one_is_refused() {
    let sim = Sim::start();
    let gateway: Gateway = setup(&sim, 1).start();
    let made = admin(&gateway, "POST", "/keys", &json!({"name": "plain"}));
    assert!(made.status == 201 && made.json()["aws"].is_null(), "{made:?}");
    drop(gateway);
    let mut short = setup(&sim, 1).set("/accounts/aws_pairs_secret", json!({"env": "PAIRS"}));
    short.env.push(("PAIRS".into(), "too short".into()));
    let (status, said) = short.fails();
    assert!(!status.success() && said.contains("aws_pairs_secret"), "{said}");
}
