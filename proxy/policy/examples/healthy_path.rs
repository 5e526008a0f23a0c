//! What a request to a healthy target pays for breakers, keys and budgets, in nanoseconds of one core.
//!
//! `cargo run --release -p sluice-policy --example healthy_path [threads]`: with several threads all use one target, which is
//! the worst case for shared memory. The plan of a request is measured by itself.

use std::hint::black_box;
use std::time::Instant;

use sluice_policy::config;
use sluice_policy::health::{Admission, Call, Health, KeyVerdict};
use sluice_policy::route::{Situation, next_key, plan};
use sluice_policy::snapshot::Snapshot;

const ROUNDS: u64 = 2_000_000;

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let text = include_str!("../../../config/sluice.yaml");
    let config = config::load(text, "sluice.yaml").expect("the example is good");
    let (snapshot, _) = Snapshot::compile(&config, 1, &|_| Ok(Some("secret".into())));
    let health = Health::new(7);
    let keys = snapshot.key_states(None);
    let situation = |now_ms: u64, random: u64| Situation {
        health: &health,
        keys: &keys,
        now_ms,
        random,
        session: None,
        streamed: true,
    };
    let planned = || {
        let resolved = snapshot.resolve("openai/gpt-4o-mini").expect("a provider's model");
        per_round(|round| {
            let situation = situation(1_000_000 + round / 1000, round);
            let plan = plan(&snapshot, black_box(&resolved), &[], &situation);
            black_box(plan.is_ok());
        })
    };
    let remembered = || {
        let provider = &snapshot.providers()[0];
        let settings = snapshot.settings();
        per_round(|round| {
            let now_ms = 1_000_000 + round / 1000;
            let model = black_box("gpt-4o-mini");
            let tag = health.tag(&provider.name, model);
            let slot = health
                .find(tag, &provider.name, model, now_ms)
                .expect("the table is empty");
            let target = health.target(slot);
            target.earn_retry(&settings.retries);
            let Admission::Go(permit) = target.admit(now_ms, &settings.breaker) else {
                panic!("it is healthy");
            };
            let (key, key_permit) =
                next_key(provider, tag, 0, &situation(now_ms, round), false).expect("both keys are ready");
            target.observe(1000, true, now_ms);
            let _ = target.report(permit, Call::Good, now_ms, &settings.breaker);
            let state = &keys[provider.keys[key].id.index()];
            state.report(key_permit, KeyVerdict::Accepted, now_ms, 0, &settings.keys);
            target.leave(false);
        })
    };
    let keys_alone = || {
        let provider = &snapshot.providers()[0];
        per_round(|round| {
            black_box(next_key(provider, 1, 0, &situation(1_000_000, round), false).is_ok());
        })
    };
    for (what, measure) in [
        ("plan", &planned as &(dyn Fn() -> f64 + Sync)),
        ("key by weight alone", &keys_alone),
        ("target, key, budget, latency: all that is remembered", &remembered),
    ] {
        let all: Vec<f64> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(measure)).collect();
            running
                .into_iter()
                .map(|thread| thread.join().expect("it measures"))
                .collect()
        });
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        println!("{what}: {mean:.0} ns on each of {threads} threads");
    }
}

/// Nanoseconds of one round, the best of five tries.
fn per_round(round: impl Fn(u64)) -> f64 {
    let attempt = || {
        let begun = Instant::now();
        (0..ROUNDS).for_each(&round);
        begun.elapsed().as_nanos() as f64 / ROUNDS as f64
    };
    (0..5).map(|_| attempt()).fold(f64::INFINITY, f64::min)
}
