//! What it costs a core to let a request in and to settle it, with 10,000 keys and three budgets each:
//! `cargo run --profile dist -p sluice-policy --example admission`.
//!
//! Deliberately absent: other cores. What they share is touched once in many requests.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use sluice_policy::budget::{Account, BudgetId, Period, Purse, Window};
use sluice_policy::charge::{self, Demand, Enforce};
use sluice_policy::keyring::{Charge, Filter, KeyEntry, Keyring, Parts, Scope, Subject, VirtualKey};
use sluice_policy::money::{self, NanoUsd, OnUnknown, PriceTable};
use sluice_policy::rate::{Ask, Limiter, Pass, Unit};
use sluice_wire::chat::Usage;

const KEYS: u32 = 10_000;
const NOW_S: u64 = 1_800_000_000;
const ROUNDS: usize = 400;

fn secret(at: u32) -> VirtualKey {
    let mut bits = [7; 32];
    bits[..4].copy_from_slice(&at.to_le_bytes());
    VirtualKey::from_random(&bits)
}

/// A customer, a team and all the keys, each with a budget and a limit of its own.
fn keyring() -> Keyring {
    let scope = |budget: u32| Scope {
        budgets: Box::new([Charge {
            budget: BudgetId(budget),
            limit: NanoUsd::LIMIT_MAX,
            window: Window::Total,
            filter: Filter::default(),
        }]),
        limits: Box::new([Subject {
            limiter: Arc::new(Limiter::new(Unit::Requests, Window::Total, 1 << 38)),
            filter: Filter::default(),
        }]),
        ..Scope::default()
    };
    let key = |at: u32| KeyEntry {
        scope: scope(at + 2),
        digest: secret(at).digest(),
        team: Some(0),
        ..KeyEntry::default()
    };
    Keyring::new(Parts {
        customers: vec![scope(0)],
        teams: vec![(scope(1), Some(0))],
        keys: (0..KEYS).map(key).collect(),
    })
}

fn main() {
    let keyring = keyring();
    let purse = Purse::new(2);
    for id in 0..KEYS + 2 {
        let account = Account::new(Period::of(Window::Total, NOW_S), 1 << 40);
        account.grant(1 << 50);
        purse.fund(BudgetId(id), Arc::new(account));
    }
    let begun = Instant::now();
    let prices = money::parse_prices(money::SHIPPED).expect("what is shipped can be read");
    let table = PriceTable::new(prices, Vec::new(), OnUnknown::Refuse);
    println!("{} prices read in {:?}", table.len(), begun.elapsed());
    let secrets: Vec<String> = (0..KEYS)
        .map(|at| secret(at * 7_919 % KEYS).expose().to_owned())
        .collect();
    let demand = Demand {
        body_bytes: 1_024,
        output: Some(500),
        answers: 1,
        ..Demand::default()
    };
    let usage = Usage {
        input: 200,
        output: 100,
        ..Usage::default()
    };
    let mut pass = Pass::default();
    let mut request = |secret: &str| {
        let caller = keyring.find(secret.as_bytes(), NOW_S).expect("it is there");
        keyring.allows(caller, "openai", "gpt-5-mini").expect("it may");
        let limits = keyring.limits(caller, "openai", "gpt-5-mini");
        let limits = limits.map(|id| &**keyring.limiter(id));
        pass.enter(limits, Ask::default(), NOW_S).expect("below");
        let mut budgets = [BudgetId(0); 16];
        let mut len = 0;
        for id in keyring.budgets(caller, "openai", "gpt-5-mini").take(16) {
            budgets[len] = id;
            len += 1;
        }
        let price = table
            .find_id("openai", Some("openai"), "gpt-5-mini")
            .map(|id| &table.row(id).price);
        let held = charge::hold(
            &purse,
            &budgets[..len],
            price,
            OnUnknown::Refuse,
            &demand,
            Enforce::Worst,
            NOW_S,
        );
        let mut held = held.expect("there is money");
        held.reservation.sent();
        black_box(held.settle(price, &usage, None));
        pass.settle(Ask::default());
    };
    for (name, keys) in [("100 keys in turn", 100), ("10,000 keys at random", secrets.len())] {
        let mut took: Vec<f64> = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let from = round * 97 % (keys - 99);
            let begun = Instant::now();
            secrets[from..from + 100].iter().for_each(|secret| request(secret));
            took.push(begun.elapsed().as_nanos() as f64 / 100.0);
            if round % 4 == 0 {
                purse.tick();
            }
        }
        took.sort_by(f64::total_cmp);
        let [half, most] = [took[ROUNDS / 2], took[ROUNDS * 9 / 10]];
        println!("let in and settled, {name}: p50 {half:.0} ns, p90 {most:.0} ns");
    }
}
