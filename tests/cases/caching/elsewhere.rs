//! Texts whose vectors come from an embedding service, in time or not.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use sluice_tests::{Gateway, Setup, Sim, json};

use super::{asking, caching, use_of};

const ONE: &str = "What is the tightening torque of the M8 bolt on line 3?";
const SAME: &str = "What's the tightening torque of the M8 bolt on line 3";
const OTHER: &str = "What is the tightening torque of the M10 bolt on line 3?";

/// A gateway that has texts embedded at an address.
fn embedding(sim: &Sim, base_url: &str, timeout: &str) -> Setup {
    caching(sim, "semantic")
        .set("/cache/default/agreements", 0)
        .set("/cache/default/audit", 0)
        .set(
            "/cache/embedding",
            json!({"base_url": base_url, "model": "text-embedding-3-small", "key": {"env": "OPENAI_KEY_0"}, "timeout": timeout}),
        )
}

fn ask(gateway: &Gateway, text: &str) -> String {
    use_of(&gateway.ask(&asking("openai/m", text, false))).to_owned()
}

#[test]
fn a_service_ranks_and_the_guard_still_decides() {
    let (sim, service) = (Sim::start(), Sim::start());
    let gateway = embedding(&sim, &service.base_url(), "10s").start();
    assert_eq!(ask(&gateway, ONE), "miss");
    assert_eq!(service.attempts().len(), 1);
    assert_eq!(ask(&gateway, SAME), "semantic");
    // An exact match asks nobody.
    assert_eq!(ask(&gateway, ONE), "hit");
    assert_eq!(service.attempts().len(), 2);
    // The simulator's vectors are all alike.
    assert_eq!(ask(&gateway, OTHER), "miss");
    assert_eq!(sim.attempts().len(), 2);
}

/// What `explain` says of two texts.
fn explained(gateway: &Gateway, one: &str, other: &str) -> sluice_tests::Value {
    let body = |text: &str| json!({"model": "openai/m", "messages": [{"role": "user", "content": text}]});
    let question = json!({"one": body(one), "other": body(other)});
    let answer = gateway.admin_post("/admin/cache/explain", &question);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn what_is_explained_is_what_the_service_says() {
    let (sim, service) = (Sim::start(), Sim::start());
    let gateway = embedding(&sim, &service.base_url(), "10s").start();
    let said = explained(&gateway, ONE, SAME);
    // The simulator's vectors are all alike; the gateway's own are not.
    let similarity = said["similarity"].as_f64().expect("a similarity");
    assert!(similarity > 0.999 && said["shares"] == true, "{said}");
    assert_eq!(service.attempts().len(), 2);
    assert_eq!(explained(&gateway, ONE, OTHER)["guard"], "signature");
    // What is one request needs no vector.
    assert_eq!(explained(&gateway, ONE, ONE)["layer"], "exact");
    assert_eq!(service.attempts().len(), 4);
    let own = caching(&sim, "semantic").start();
    let said = explained(&own, ONE, SAME);
    assert!(
        said["similarity"].as_f64().is_some_and(|cosine| cosine < 0.999),
        "{said}"
    );
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", silent.local_addr().unwrap());
    let gateway = embedding(&sim, &base_url, "50ms").start();
    let said = explained(&gateway, ONE, SAME);
    let why = said["why"].as_str().unwrap_or_default();
    assert!(said["shares"] == false && why.contains("embedding service"), "{said}");
}

#[test]
fn a_service_that_is_late_or_refuses_costs_a_match_and_nothing_else() {
    let sim = Sim::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), deaf] {
        let gateway = embedding(&sim, &format!("http://{address}/v1"), "50ms").start();
        let begun = Instant::now();
        assert_eq!(ask(&gateway, ONE), "miss");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert_eq!(ask(&gateway, SAME), "miss");
        assert_eq!(ask(&gateway, ONE), "hit");
    }
}
