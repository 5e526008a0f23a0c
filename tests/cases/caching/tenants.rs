//! Who shares answers: each virtual key its own, all keys of a team where the route says so, and nobody what it may not ask for.

use sluice_tests::{Client, Gateway, Request, Response, Setup, Sim, Value, json, wait};

use super::{asking, caching, use_of};

const ADMIN: &str = "an-administrators-credential";

fn counted(sim: &Sim, share: &str) -> Setup {
    let setup = caching(sim, "semantic")
        .set("/cache/default/share", share)
        .set("/cache/default/agreements", 0)
        .set("/cache/default/audit", 0);
    let store = setup.dir().path().join("sluice.db");
    let prices = "- source: test\n  date: 2026-11-22\n  prices:\n    \"*/m*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}\n";
    let prices = setup.dir().write("prices.yaml", prices);
    let mut setup = setup.set(
        "/accounts",
        json!({"store": store.display().to_string(), "admin_credential": {"env": "ADMIN"},
            "prices": prices.display().to_string()}),
    );
    setup.env.push(("ADMIN".into(), ADMIN.into()));
    setup
}

fn make(gateway: &Gateway, what: &str, body: &Value) -> Value {
    let request = Request::post(&format!("/admin/v1/{what}"), body.to_string())
        .field("Authorization", &format!("Bearer {ADMIN}"))
        .field("Connection", "close");
    let made = Client::connect(gateway.admin).ask(&request);
    assert_eq!(made.status, 201, "{made:?}");
    made.json()
}

fn key(gateway: &Gateway, body: &Value) -> String {
    let made = make(gateway, "keys", body);
    let secret = made["key"].as_str().expect("a key is shown once").to_owned();
    wait::until("the key is in force", || {
        let models =
            |key: &str| gateway.ask(&Request::get("/v1/models").field("Authorization", &format!("Bearer {key}")));
        (models(&secret).status == 200 && models("sk-sluice-of-nobody").status == 401).then_some(())
    });
    secret
}

fn ask(gateway: &Gateway, key: &str, text: &str) -> Response {
    gateway.ask(&asking("openai/m", text, false).field("Authorization", &format!("Bearer {key}")))
}

#[test]
fn each_key_has_its_own_answers_unless_its_team_shares_them() {
    for (share, across) in [("key", "miss"), ("team", "hit")] {
        let sim = Sim::start();
        let gateway = counted(&sim, share).start();
        make(&gateway, "teams", &json!({"name": "line-7"}));
        let one = key(&gateway, &json!({"name": "one", "team": "line-7"}));
        let two = key(&gateway, &json!({"name": "two", "team": "line-7"}));
        let stranger = key(&gateway, &json!({"name": "three"}));
        assert_eq!(use_of(&ask(&gateway, &one, "What is the torque?")), "miss");
        assert_eq!(use_of(&ask(&gateway, &one, "What is the torque?")), "hit");
        assert_eq!(use_of(&ask(&gateway, &two, "What is the torque?")), across, "{share}");
        assert_eq!(use_of(&ask(&gateway, &stranger, "What is the torque?")), "miss");
    }
}

#[test]
fn a_hit_costs_nothing_and_counts_as_money_saved() {
    let sim = Sim::start();
    let gateway = counted(&sim, "key").start();
    let secret = key(
        &gateway,
        &json!({"name": "one", "budgets": [{"limit": "10", "window": "day"}]}),
    );
    assert_eq!(use_of(&ask(&gateway, &secret, "What is the torque?")), "miss");
    gateway.expect_some("sluice_spent_nano_usd_total");
    let spent = gateway.metric("sluice_spent_nano_usd_total");
    for _ in 0..3 {
        let again = ask(&gateway, &secret, "What is the torque?");
        assert_eq!(
            use_of(&again),
            "hit",
            "{again:?} {}",
            gateway.admin("/admin/cache").text()
        );
    }
    gateway.expect_metric("sluice_spent_nano_usd_total", spent);
    gateway.expect_metric("sluice_cache_saved_nano_usd_total", 3 * spent);
}

#[test]
fn what_a_key_may_not_ask_for_it_is_not_told_either() {
    let sim = Sim::start();
    let gateway = counted(&sim, "team").start();
    make(&gateway, "teams", &json!({"name": "line-7"}));
    let may = key(&gateway, &json!({"name": "may", "team": "line-7"}));
    let may_not = key(
        &gateway,
        &json!({"name": "may-not", "team": "line-7", "models": ["other*"]}),
    );
    assert_eq!(use_of(&ask(&gateway, &may, "What is the torque?")), "miss");
    let refused = ask(&gateway, &may_not, "What is the torque?");
    assert_eq!(refused.status, 403, "{refused:?}");
}
