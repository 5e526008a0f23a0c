//! Matches by meaning: served, kept apart, compared, and switched off.

use sluice_tests::{Gateway, Request, Response, Setup, Sim, json};

use super::{asking, caching, said, use_of};

/// Two ways of saying one thing that the guard has no objection to.
const ONE: &str = "What is the tightening torque of the M8 bolt on line 3?";
const SAME: &str = "What's the tightening torque of the M8 bolt on line 3";
/// The same words about another part.
const OTHER: &str = "What is the tightening torque of the M10 bolt on line 3?";

fn semantic(sim: &Sim) -> Setup {
    caching(sim, "semantic")
        .set("/cache/default/agreements", 0)
        .set("/cache/default/audit", 0)
}

fn ask(gateway: &Gateway, text: &str) -> Response {
    gateway.ask(&asking("openai/m", text, false))
}

#[test]
fn another_way_of_saying_it_is_answered_and_another_part_is_not() {
    let sim = Sim::start();
    let gateway = semantic(&sim).start();
    let first = ask(&gateway, ONE);
    assert_eq!(use_of(&first), "miss");
    let same = ask(&gateway, SAME);
    assert_eq!((use_of(&same), said(&same)), ("semantic", said(&first)));
    let similarity: f32 = same.field("x-sluice-cache-similarity").unwrap().parse().unwrap();
    assert!((0.85..=1.0).contains(&similarity), "{similarity}");
    assert_eq!(use_of(&ask(&gateway, OTHER)), "miss");
    // As a stream, and under a threshold that no two texts reach.
    let streamed = gateway.ask(&asking("openai/m", SAME, true));
    assert_eq!((use_of(&streamed), said(&streamed)), ("semantic", said(&first)));
    for (name, value) in [("x-sluice-cache", "exact"), ("x-sluice-cache-threshold", "1.1")] {
        let request = asking("openai/m", SAME, false)
            .field(name, value)
            .field("Cache-Control", "max-age=60");
        assert_eq!(use_of(&gateway.ask(&request)), "miss", "{name}");
        assert_eq!(
            gateway.admin_post("/admin/cache/purge", &json!({"all": true})).status,
            200
        );
        assert_eq!(use_of(&ask(&gateway, ONE)), "miss");
    }
    // A client's lower threshold than the route's changes nothing.
    let request = asking("openai/m", "Tell me about the M8 bolt", false).field("x-sluice-cache-threshold", "0.1");
    assert_eq!(use_of(&gateway.ask(&request)), "miss");
}

#[test]
fn a_context_key_keeps_variants_apart_and_a_required_one_must_be_there() {
    let sim = Sim::start();
    let gateway = semantic(&sim)
        .set(
            "/cache/default/context",
            json!({"headers": ["X-Variant"], "body": ["/metadata/cell"], "metadata": ["line"], "required": true}),
        )
        .start();
    let ask = |variant: Option<&str>, cell: &str, line: &str, text: &str| {
        let body = json!({"model": "openai/m", "metadata": {"cell": cell, "line": line},
            "messages": [{"role": "user", "content": text}]});
        let request = Request::post("/v1/chat/completions", body.to_string());
        gateway.ask(&match variant {
            Some(variant) => request.field("x-variant", variant),
            None => request,
        })
    };
    assert_eq!(use_of(&ask(Some("4711-B"), "1", "1", ONE)), "miss");
    assert_eq!(use_of(&ask(Some("4711-B"), "1", "1", ONE)), "hit");
    assert_eq!(use_of(&ask(Some("4711-B"), "1", "1", SAME)), "semantic");
    for (variant, cell, line) in [("4711-C", "1", "1"), ("4711-B", "2", "1"), ("4711-B", "1", "2")] {
        assert_eq!(
            use_of(&ask(Some(variant), cell, line, SAME)),
            "miss",
            "{variant} {cell} {line}"
        );
    }
    assert_eq!(use_of(&ask(None, "1", "1", ONE)), "bypass");
    // A bump of one value hides what has it, and nothing else.
    let bumped = gateway.admin_post(
        "/admin/cache/bump",
        &json!({"tenant": "default", "context": "x-variant=4711-B"}),
    );
    assert_eq!(bumped.status, 200, "{bumped:?}");
    assert_eq!(use_of(&ask(Some("4711-B"), "1", "1", ONE)), "miss");
    assert_eq!(use_of(&ask(Some("4711-C"), "1", "1", SAME)), "hit");
}

#[test]
fn shadow_mode_compares_and_never_serves() {
    let sim = Sim::start();
    let gateway = caching(&sim, "shadow").start();
    assert_eq!(use_of(&ask(&gateway, ONE)), "miss");
    assert_eq!(use_of(&ask(&gateway, SAME)), "shadow");
    assert_eq!(use_of(&ask(&gateway, SAME)), "hit");
    assert_eq!(sim.attempts().len(), 2);
    gateway.expect_metric("sluice_cache_compared_total", 1);
    gateway.expect_metric("sluice_cache_disagreed_total", 0);
}

#[test]
fn evidence_is_gathered_before_a_template_pair_is_served() {
    let sim = Sim::start();
    sim.rules(&json!([{"do": {"say": "12 Nm"}}]));
    let gateway = caching(&sim, "semantic")
        .set("/cache/default/agreements", 2)
        .set("/cache/default/audit", 0)
        .start();
    // Each pair of texts is of the same two templates: a full sentence, and a short one.
    let uses: Vec<String> = (1..=4)
        .flat_map(|line| {
            let long = ask(&gateway, &format!("Please tell me the torque limit of station {line}"));
            let short = ask(&gateway, &format!("Please state the torque limit of station {line}"));
            [use_of(&long).to_owned(), use_of(&short).to_owned()]
        })
        .collect();
    assert_eq!(
        uses[..6].iter().filter(|use_of| *use_of == "semantic").count(),
        0,
        "{uses:?}"
    );
    if uses[1] == "shadow" {
        assert_eq!(
            uses[1..],
            ["shadow", "miss", "shadow", "miss", "semantic", "miss", "semantic"][..],
            "{uses:?}"
        );
    }
}

#[test]
fn one_wrong_answer_found_by_the_audit_switches_matches_by_meaning_off() {
    let sim = Sim::start();
    sim.rules(&json!([{"do": {"say": "Torque is 12 Nm."}}]));
    let gateway = semantic(&sim).set("/cache/default/audit", 1.0).cores(2).start();
    // One connection: one core.
    let mut client = gateway.client();
    let mut ask = |text: &str| client.ask(&asking("openai/m", text, false));
    assert_eq!(use_of(&ask(ONE)), "miss");
    // All that are found are checked: this one agrees.
    assert_eq!(use_of(&ask(SAME)), "shadow");
    assert_eq!(gateway.admin("/admin/cache").json()["disagreed"], 0);
    sim.rules(&json!([{"do": {"say": "Torque is 25 Nm."}}]));
    assert_eq!(use_of(&ask(&ONE.replace('3', "4"))), "miss");
    sim.rules(&json!([{"do": {"say": "Torque is 52 Nm."}}]));
    let audited = ask(&SAME.replace('3', "4"));
    assert_eq!(
        (use_of(&audited), said(&audited)),
        ("shadow", "Torque is 52 Nm.".to_owned())
    );
    gateway.expect_metric("sluice_cache_switched_off", 1);
    let stats = gateway.admin("/admin/cache").json();
    assert_eq!(
        (&stats["disagreed"], &stats["namespaces"][0]["serving"]),
        (&json!(1), &json!(false)),
        "{stats}"
    );
    // Until an operator says otherwise.
    assert_eq!(gateway.admin_post("/admin/cache/release", &json!({})).status, 200);
    gateway.expect_metric("sluice_cache_switched_off", 0);
}

#[test]
fn the_admin_interface_explains_why_two_requests_share_an_answer_or_do_not() {
    let sim = Sim::start();
    let gateway = semantic(&sim).start();
    let body = |model: &str, text: &str| json!({"model": model, "messages": [{"role": "user", "content": text}]});
    let explain = |one: (&str, &str), other: (&str, &str), contexts: [&str; 2]| {
        let question = json!({"one": body(one.0, one.1), "other": body(other.0, other.1),
            "one_context": [contexts[0]], "other_context": [contexts[1]]});
        gateway.admin_post("/admin/cache/explain", &question).json()
    };
    let same = ["v=1", "v=1"];
    assert_eq!(explain(("m", ONE), ("m", ONE), same)["layer"], "exact");
    assert_eq!(explain(("m", ONE), ("m", SAME), same)["shares"], true);
    let guarded = explain(("m", ONE), ("m", OTHER), same);
    assert_eq!(
        (&guarded["shares"], &guarded["guard"]),
        (&json!(false), &json!("signature")),
        "{guarded}"
    );
    assert!(guarded["similarity"].as_f64() > Some(0.85), "{guarded}");
    assert_eq!(explain(("m", ONE), ("n", ONE), same)["differ"], json!(["the model"]));
    assert_eq!(
        explain(("m", ONE), ("m", ONE), ["v=1", "v=2"])["differ"],
        json!(["a context key"])
    );
}
