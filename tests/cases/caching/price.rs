//! What a hit costs its caller: nothing, unless the route says otherwise; then the ledger, the budget and the answer's head agree.

use sluice_tests::accounts::{bearer, billed, budget, code, in_force, key, nanos, setup, spent_by};
use sluice_tests::{Gateway, Request, Response, Setup, Sim, json, wait};

use super::use_of;

/// A gateway that charges this share for a hit.
fn charging(sim: &Sim, share: f64) -> Setup {
    setup(sim, 1).set("/cache", json!({"default": {"mode": "exact", "hit_price": share}}))
}

fn paying(gateway: &Gateway, limit: &str) -> String {
    let secret = key(
        gateway,
        "paying",
        json!({"budgets": [{"limit": limit, "window": "day"}]}),
    );
    in_force(gateway, &secret);
    secret
}

fn cost_of(answer: &Response) -> u64 {
    nanos(answer.field("x-sluice-cost").expect("it says what it cost"))
}

#[test]
fn a_hit_costs_the_share_that_is_configured_in_every_book() {
    for (share, of) in [(0.0, 0), (1.0, 4), (0.25, 1)] {
        let sim = Sim::start();
        let gateway = charging(&sim, share).start();
        let secret = paying(&gateway, "10");
        let requests = [Request::chat("openai/gpt-x"), Request::stream("openai/gpt-x")];
        let ask = |request: &Request| gateway.ask(&bearer(request.clone(), &secret));
        let first = ask(&requests[0]);
        assert_eq!(use_of(&first), "miss");
        let cost = cost_of(&first);
        assert_eq!(cost, billed(&sim));
        let each = (cost * of).div_ceil(4);
        for number in 1..=4 {
            let again = ask(&requests[number % 2]);
            assert_eq!((use_of(&again), cost_of(&again)), ("hit", each), "{again:?}");
            let left = again.field("x-sluice-budget-remaining").map(nanos);
            let expected = (each > 0).then(|| nanos("10") - cost - number as u64 * each);
            assert_eq!(left, expected, "{again:?}");
        }
        let all = cost + 4 * each;
        wait::until("ledger and budget say so", || {
            (spent_by(&gateway, "paying") == all && budget(&gateway, "paying").1 == all).then_some(())
        });
        assert_eq!(billed(&sim), cost, "the provider was asked once");
        gateway.expect_metric("sluice_cache_charged_nano_usd_total", 4 * each);
        gateway.expect_metric("sluice_cache_saved_nano_usd_total", 4 * cost);
        gateway.expect_metric("sluice_spent_nano_usd_total", all);
    }
}

#[test]
fn a_hit_that_the_budget_cannot_afford_is_refused() {
    let sim = Sim::start();
    let gateway = charging(&sim, 1.0).start();
    let secret = paying(&gateway, "0.01");
    let request = bearer(Request::chat("openai/gpt-x+tokens=800"), &secret);
    let cost = cost_of(&gateway.ask(&request));
    assert!(cost > nanos("0.0032") && cost < nanos("0.0034"), "{cost}");
    let mut hits = 0;
    let refused = wait::until("the budget is used up", || {
        let answer = gateway.ask(&request);
        hits += u64::from(answer.status == 200);
        (answer.status != 200 && code(&answer) != "budget_store_unavailable").then_some(answer)
    });
    assert_eq!((hits, code(&refused)), (2, "budget_exceeded".to_owned()), "{refused:?}");
    wait::until("the ledger says so", || {
        (spent_by(&gateway, "paying") == 3 * cost).then_some(())
    });
}

#[test]
fn who_follows_an_identical_request_pays_the_same_share() {
    for stream in [false, true] {
        let sim = Sim::start();
        let gateway = charging(&sim, 0.5).start();
        let secret = paying(&gateway, "10");
        let model = "openai/gpt-x+latency_ms=400,tokens=10";
        let request = if stream {
            Request::stream(model)
        } else {
            Request::chat(model)
        };
        let request = bearer(request, &secret);
        let (mut leader, mut follower) = (gateway.client(), gateway.client());
        let before = sim.attempts().len();
        leader.send(request.bytes());
        wait::until("the provider is asked", || {
            (sim.attempts().len() > before).then_some(())
        });
        assert_eq!(use_of(&follower.ask(&request)), "hit");
        assert_eq!(use_of(&leader.response()), "miss");
        let cost = billed(&sim);
        let all = cost + cost.div_ceil(2);
        wait::until("the ledger says so", || {
            (spent_by(&gateway, "paying") == all).then_some(())
        });
    }
}
