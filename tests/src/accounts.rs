//! Virtual keys and budgets as an administrator makes them, the provider's bill, and what the gateway records beside it.
//!
//! Invariants: amounts are nano-dollars; what is asked of the gateway goes through its administration, as an administrator
//! would. Deliberately absent: crowds and crashes (`audit.rs`).

use std::io::Read as _;

use serde_json::{Value, json};

pub use crate::audit::{ADMIN, RATES, nanos};
use crate::gateway::Gateway;
use crate::http::{Client, Request, Response};
use crate::setup::Setup;
use crate::sim::Sim;
use crate::wait;

/// A gateway with a store, an administrator and prices of its own, before the simulator.
#[must_use]
pub fn setup(sim: &Sim, cores: usize) -> Setup {
    let setup = Setup::with(&sim.base_url()).cores(cores);
    let prices = "- source: test\n  date: 2026-11-22\n  prices:\n    \"*/priced*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}\n    \"*/gpt*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}\n    \"*/claude*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}\n";
    let prices = setup.dir().write("prices.yaml", prices);
    let store = setup.dir().path().join("sluice.db");
    let mut setup = setup.set(
        "/accounts",
        json!({
            "store": store.display().to_string(),
            "admin_credential": {"env": "ADMIN"},
            "prices": prices.display().to_string(),
        }),
    );
    setup.env.push(("ADMIN".into(), ADMIN.into()));
    setup
}

/// Asks the administration.
#[must_use]
pub fn admin(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Response {
    let target = format!("/admin/v1{path}");
    let request = if method == "GET" {
        Request::get(&target)
    } else {
        Request::with_body(method, &target, body.to_string())
    };
    let request = request
        .field("Authorization", &format!("Bearer {ADMIN}"))
        .field("Connection", "close");
    Client::connect(gateway.admin).ask(&request)
}

/// Makes a key; gives its secret.
///
/// # Panics
/// When the administration refuses.
#[must_use]
pub fn key(gateway: &Gateway, name: &str, more: Value) -> String {
    let mut body = more;
    body["name"] = json!(name);
    let made = admin(gateway, "POST", "/keys", &body);
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["key"].as_str().expect("a key is shown once").to_owned()
}

/// With a key.
#[must_use]
pub fn bearer(request: Request, key: &str) -> Request {
    request.field("Authorization", &format!("Bearer {key}"))
}

/// Asks until the key is in force on every core.
pub fn in_force(gateway: &Gateway, key: &str) {
    wait::until("the key is in force", || {
        let known = (0..8).all(|_| gateway.ask(&bearer(Request::get("/v1/models"), key)).status == 200);
        let needed = (0..8).all(|_| gateway.ask(&Request::get("/v1/models")).status == 401);
        (known && needed).then_some(())
    });
}

/// What the provider has billed, in nano-dollars, at the rates of these tests.
///
/// # Panics
/// When it does not say.
#[must_use]
pub fn billed(sim: &Sim) -> u64 {
    let bill = sim.bill();
    let total = |name: &str| bill["total"][name].as_u64().expect("a total");
    total("input_tokens") * RATES.0 + total("output_tokens") * RATES.1
}

/// What the ledger says now was spent.
#[must_use]
pub fn spent(gateway: &Gateway) -> u64 {
    ledger(gateway, |_| true)
}

/// What the ledger says now was spent with a key.
#[must_use]
pub fn spent_by(gateway: &Gateway, name: &str) -> u64 {
    ledger(gateway, |row| row["name"] == name)
}

fn ledger(gateway: &Gateway, is_meant: impl Fn(&Value) -> bool) -> u64 {
    let report = admin(gateway, "GET", "/spend?by=key", &Value::Null).json();
    let rows = report.as_array().cloned().unwrap_or_default();
    let cost = |row: &Value| nanos(row["cost_usd"].as_str().unwrap_or("0"));
    rows.iter().filter(|row| is_meant(row)).map(cost).sum()
}

/// Waits until the ledger says exactly what the provider has billed.
pub fn expect_spent_as_billed(gateway: &Gateway, sim: &Sim, what: &str) {
    wait::until(
        &format!("{what}: the ledger ({}) is the bill ({})", spent(gateway), billed(sim)),
        || (spent(gateway) == billed(sim)).then_some(()),
    );
}

/// The code of an error.
#[must_use]
pub fn code(answer: &Response) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// A client that leaves in the middle of its answer.
pub fn leave_early(gateway: &Gateway, request: &Request) {
    let mut client = gateway.client();
    client.send(request.bytes());
    let mut piece = [0; 64];
    let _ = client.stream.read(&mut piece);
    client.reset();
}

/// How the first budget of a key stands: its number, what is spent of it, and what may be.
///
/// # Panics
/// When the administration does not say.
#[must_use]
pub fn budget(gateway: &Gateway, name: &str) -> (u64, u64, u64) {
    let shown = admin(gateway, "GET", &format!("/keys/{name}"), &Value::Null);
    let budget = &shown.json()["budgets"][0];
    let of = |name: &str| budget[name].as_str().map_or(0, nanos);
    let id = budget["id"].as_u64().unwrap_or_else(|| panic!("no budget: {shown:?}"));
    (id, of("spent"), of("limit") + of("extra"))
}

/// Waits until nothing of a key's only budget is set aside any more: the ledger's sum for the key is what the budget says is
/// spent, and all the rest can be spent by one request. That request is made, and allowed a little more for.
///
/// # Panics
/// When something stays reserved, or one of the two has missed something.
pub fn nothing_reserved(gateway: &Gateway, name: &str, secret: &str) {
    let (id, ..) = budget(gateway, name);
    let more = admin(
        gateway,
        "POST",
        &format!("/budgets/{id}/top-up"),
        &json!({"amount": "0.01"}),
    );
    assert_eq!(more.status, 204, "{more:?}");
    let body = |most: u64| {
        format!(
            r#"{{"model":"openai/gpt-x","max_tokens":{most:12},"messages":[{{"role":"user","content":"All of it"}}]}}"#
        )
    };
    wait::until(
        "the ledger says what the budget says, and all the rest can be spent",
        || {
            let (_, used, limit) = budget(gateway, name);
            if spent_by(gateway, name) != used {
                return None;
            }
            // A token for each byte, and what a provider may add of its own.
            let input = (body(0).len() as u64 + 2_048) * RATES.0;
            let most = (limit - used)
                .checked_sub(input)
                .expect("it was allowed enough for that")
                / RATES.1;
            let answer = gateway.ask(&bearer(Request::post("/v1/chat/completions", body(most)), secret));
            (answer.status == 200).then_some(())
        },
    );
}
