//! Money where a request has more than one attempt, or ends before its time: hedges, streams that start anew or are gone on
//! with, and clients that leave. What the provider bills is in the ledger, the ledger says what the budget says, and nothing
//! stays set aside.

use sluice_tests::accounts::{
    admin, bearer, billed, budget, in_force, key, leave_early, nothing_reserved, setup, spent_by,
};
use sluice_tests::{Gateway, Request, Sim, Value, json, wait};

/// A gateway whose route asks a second target beside a late first one; both are the same provider, so that there is one bill.
fn hedged(sim: &Sim, cores: usize) -> (Gateway, String) {
    let setup = setup(sim, cores).provider("backup", &sim.base_url(), &["sk-two"]);
    let setup = setup.route(&["openai/*"], &["backup/gpt-spare"]);
    let gateway = setup.set("/routes/0/hedge", json!({"delay": "50ms"})).start();
    let secret = paying(&gateway);
    (gateway, secret)
}

/// A key with a budget, in force on every core.
fn paying(gateway: &Gateway) -> String {
    let secret = key(
        gateway,
        "paying",
        json!({"budgets": [{"limit": "1", "window": "total"}]}),
    );
    in_force(gateway, &secret);
    secret
}

fn request(stream: bool, secret: &str) -> Request {
    let body = format!(
        r#"{{"model":"openai/gpt-x","stream":{stream},"max_tokens":50,"messages":[{{"role":"user","content":"Hello"}}]}}"#
    );
    bearer(Request::post("/v1/chat/completions", body), secret)
}

/// Waits until both books agree, and holds them against the bill and the limit; what the ledger says.
fn agreed(gateway: &Gateway, sim: &Sim, what: &str) -> u64 {
    wait::until(what, || {
        let (_, used, limit) = budget(gateway, "paying");
        let (ledger, bill) = (spent_by(gateway, "paying"), billed(sim));
        assert!(
            ledger <= limit && used <= limit,
            "{what}: {ledger} and {used} of {limit}"
        );
        (ledger == used && bill <= ledger && used > 0).then_some(ledger)
    })
}

fn in_flight(sim: &Sim) -> usize {
    let attempts = sim.attempts();
    let is_one = |attempt: &&Value| attempt["outcome"] == "in_flight";
    attempts.iter().filter(is_one).count()
}

#[test]
fn a_client_that_leaves_both_legs_of_a_hedge_is_charged_for_both() {
    let sim = Sim::start();
    let (gateway, secret) = hedged(&sim, 1);
    assert_eq!(gateway.ask(&request(false, &secret)).status, 200);
    let before = agreed(&gateway, &sim, "one request");
    for (round, script) in ["latency_ms=60000", "first_token_ms=60000"].into_iter().enumerate() {
        sim.rules(&json!([{"do": script}]));
        let mut client = gateway.client();
        client.send(request(round == 1, &secret).bytes());
        wait::until("both are asked", || (in_flight(&sim) == 2).then_some(()));
        client.reset();
        wait::until("both are given up", || (in_flight(&sim) == 0).then_some(()));
        sim.rules(&json!([]));
        let line = wait::until("a line says so", || {
            let lines = gateway.request_lines(1);
            let gone = lines.into_iter().filter(|line| line["outcome"] == "client_gone");
            gone.skip(round).last()
        });
        assert_eq!(line["attempts"], 2, "{line}");
    }
    // What may have been used at most is some 2.2 million for the input and 0.2 for the output, four times.
    wait::until("both legs are in the ledger", || {
        (agreed(&gateway, &sim, "both books say the same") > before + 4 * 2_200_000).then_some(())
    });
    nothing_reserved(&gateway, "paying", &secret);
}

#[test]
fn a_hedge_is_charged_whoever_wins_or_fails() {
    let sim = Sim::start();
    for cores in [1, 3] {
        let (gateway, secret) = hedged(&sim, cores);
        for (first, second) in [
            ("latency_ms=30000", "latency_ms=0"),
            ("latency_ms=150", "latency_ms=30000"),
            ("latency_ms=150,status=500", "latency_ms=300"),
            ("latency_ms=300", "latency_ms=0,status=500"),
            ("latency_ms=150,reset=before_head", "latency_ms=200"),
        ] {
            sim.rules(&json!([{"match": {"model": "gpt-spare"}, "do": second}, {"do": first}]));
            for stream in [false, true] {
                let answer = gateway.ask(&request(stream, &secret));
                assert_eq!(answer.status, 200, "{first} beside {second}: {answer:?}");
            }
            agreed(&gateway, &sim, &format!("{first} beside {second}"));
        }
        assert!(gateway.metric("sluice_hedges_total") >= 4);
        sim.rules(&json!([]));
        nothing_reserved(&gateway, "paying", &secret);
    }
}

#[test]
fn a_stream_that_starts_anew_or_is_gone_on_with_is_charged_for_each_attempt() {
    for resume in [json!("restart"), json!("continue")] {
        let sim = Sim::start();
        let setup = setup(&sim, 2).provider("backup", &sim.base_url(), &["sk-two"]);
        let setup = setup.route(&["openai/*"], &["backup/gpt-spare"]);
        let gateway = setup.set("/routes/0/resume", resume.clone()).start();
        let secret = paying(&gateway);
        for cut in ["reset=mid_stream:2", "reset=mid_stream:5", "truncate=20"] {
            sim.rules(&json!([{"match": {"model": "gpt-spare"}, "do": "tps=2000"}, {"do": cut}]));
            let mut client = gateway.client();
            client.send(request(true, &secret).field("Connection", "close").bytes());
            // Whole or cut, as far as it goes.
            let _ = std::io::Read::read_to_end(&mut client.stream, &mut Vec::new());
            agreed(&gateway, &sim, &format!("{resume} after {cut}"));
            // Gone while the second one answers.
            sim.rules(&json!([{"match": {"model": "gpt-spare"}, "do": "tps=20"}, {"do": cut}]));
            leave_early(&gateway, &request(true, &secret));
            wait::until("nobody is asked any more", || (in_flight(&sim) == 0).then_some(()));
            agreed(&gateway, &sim, &format!("{resume} after {cut} and gone"));
        }
        sim.rules(&json!([]));
        nothing_reserved(&gateway, "paying", &secret);
    }
}

#[test]
fn clients_that_leave_at_any_moment_are_charged_and_leave_nothing_set_aside() {
    let sim = Sim::start();
    let (gateway, secret) = hedged(&sim, 3);
    sim.rules(&json!([
        {"do": "latency_ms=120,probability=0.3"},
        {"do": "first_token_ms=120,tps=500,probability=0.3"},
        {"do": "reset=before_head,probability=0.1"},
        {"do": "tps=500"},
    ]));
    std::thread::scope(|scope| {
        for worker in 0..8_u64 {
            let (gateway, secret) = (&gateway, &secret);
            scope.spawn(move || {
                for round in 0..20 {
                    let mut client = gateway.client();
                    client.send(request(round % 2 == 0, secret).bytes());
                    let after = std::time::Duration::from_millis((worker * 31 + round * 17) % 200);
                    client
                        .stream
                        .set_read_timeout(Some(after.max(std::time::Duration::from_millis(1))))
                        .expect("a timeout");
                    // For as long as nothing comes, and then no longer.
                    let _ = std::io::Read::read(&mut client.stream, &mut [0; 64]);
                    client.reset();
                }
            });
        }
    });
    wait::until("nobody is asked any more", || (in_flight(&sim) == 0).then_some(()));
    assert!(gateway.metric("sluice_hedges_total") > 0);
    sim.rules(&json!([]));
    agreed(&gateway, &sim, "after all have left");
    nothing_reserved(&gateway, "paying", &secret);
    let shown = admin(&gateway, "GET", "/keys/paying", &Value::Null).json();
    assert_eq!(shown["budgets"][0]["window"], "total", "{shown}");
}

#[test]
fn a_stream_that_the_end_of_a_drain_cuts_is_charged_and_in_the_ledger() {
    let sim = Sim::start();
    let setup = setup(&sim, 1).set("/server/timeouts/drain", json!("200ms"));
    let mut gateway = setup.start();
    let secret = paying(&gateway);
    sim.rules(&json!([{"do": "tokens=100000,tps=20"}]));
    let mut client = gateway.client();
    client.send(request(true, &secret).bytes());
    wait::until("the stream has begun", || (in_flight(&sim) == 1).then_some(()));
    gateway.signal(libc::SIGTERM);
    assert!(gateway.wait().success());
    let mut lines = gateway.request_lines(1);
    lines.retain(|line| line["path"] == "/v1/chat/completions");
    let [line] = &lines[..] else {
        panic!("one line: {lines:?}")
    };
    assert_ne!(line["outcome"], "ok", "{line}");
    assert_ne!(line["cost_usd"], "0", "{line}");
    gateway.revive();
    let (ledger, bill) = (spent_by(&gateway, "paying"), billed(&sim));
    let (_, used, _) = budget(&gateway, "paying");
    assert!(ledger > 0 && ledger >= bill, "{ledger} of {bill}");
    assert_eq!(ledger, used, "both books say the same");
}
