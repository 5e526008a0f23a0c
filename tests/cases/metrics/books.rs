//! Counters add up, whatever mix of requests and outcomes there was on however many cores: among each other, with what the clients
//! saw, with the request log, and with the providers' own books. A failure prints the seed that replays it (`SLUICE_SEED`).

use std::collections::BTreeMap;

use sluice_tests::accounts::{nanos, spent};
use sluice_tests::{Value, wait};

use super::mix::{KINDS, LIMIT, LIMITED, Seen, World};

/// Clients at a time.
const CLIENTS: usize = 4;
/// Most that an attempt of these tests holds, in nano-dollars: a token a byte and what a provider may add, and 1,000 of output.
const HELD_MAX: f64 = (4_096 * 1_000 + 1_000 * 4_000) as f64;

/// A page of metrics.
struct Page(Vec<(String, f64)>);

impl Page {
    fn of(world: &World) -> Self {
        let text = world.gateway.admin("/metrics").text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
            (name.to_owned(), value.parse::<f64>().expect("a number"))
        });
        Self(samples.collect())
    }

    /// The sum of what has this name, and this label if one is given.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let is_meant = |sample: &&(String, f64)| {
            let (own, labels) = sample.0.split_once('{').unwrap_or((&sample.0, ""));
            own == name && labels.contains(label)
        };
        self.0.iter().filter(is_meant).map(|sample| sample.1).sum()
    }
}

/// What was counted between two pages.
struct Counted(Page, Page);

impl Counted {
    fn labelled(&self, name: &str, label: &str) -> f64 {
        let name = format!("sluice_{name}");
        self.1.sum(&name, label) - self.0.sum(&name, label)
    }

    fn of(&self, name: &str) -> f64 {
        self.labelled(name, "")
    }

    fn total(&self, names: &[&str]) -> f64 {
        names.iter().map(|name| self.of(&format!("{name}_total"))).sum()
    }
}

/// What there was before anything was counted.
struct Before {
    lines: usize,
    attempts: [usize; 4],
}

impl Before {
    fn of(world: &World) -> Self {
        world.gateway.expect_metric("sluice_connections", 0);
        let lines = world.gateway.metric("sluice_requests_total") as usize;
        Self {
            lines: world.gateway.request_lines(lines).len(),
            attempts: [0, 1, 2, 3].map(|at| world.sims[at].1.attempts().len()),
        }
    }
}

fn adds_up(seed: u64) {
    println!("replay with SLUICE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::start(random.usize(1..4));
    let before = Before::of(&world);
    let counted = Page::of(&world);
    let mut seen = Seen::default();
    // One of each kind, and what is beyond a limit, so that none is missing by chance.
    let each = (0..KINDS).chain([LIMITED; LIMIT as usize]);
    each.for_each(|kind| world.one(kind, &mut random, &mut seen));
    world.at_once(CLIENTS, &mut seen);
    world.until_stored(&mut seen);
    let requests = random.usize(10..30);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (world, mut random) = (&world, random.fork());
                scope.spawn(move || {
                    let mut seen = Seen::default();
                    for _ in 0..requests {
                        world.one(random.u8(..KINDS), &mut random, &mut seen);
                    }
                    seen
                })
            })
            .collect();
        for client in clients {
            seen.join(&client.join().expect("a client ends in order"));
        }
    });
    world.gateway.expect_metric("sluice_connections", 0);
    world.gateway.expect_metric("sluice_requests_in_flight", 0);
    let counted = Counted(counted, Page::of(&world));
    requests_add_up(&world, &counted, &seen);
    attempts_add_up(&world, &counted, &before);
    money_adds_up(&world, &counted);
    the_log_agrees(&world, &counted, &before);
}

fn requests_add_up(world: &World, counted: &Counted, seen: &Seen) {
    let of = |name: &str| counted.of(&format!("{name}_total"));
    assert_eq!(of("requests"), seen.sent as f64, "{seen:?}");
    assert_eq!(
        of("requests"),
        counted.total(&["requests_from_cache", "requests_forwarded", "requests_refused"]),
        "requests are hits, forwarded or refused"
    );
    let kinds = ["cache_hits", "cache_hits_in_flight", "cache_hits_semantic"];
    assert_eq!(of("requests_from_cache"), counted.total(&kinds));
    for (at, class) in [(2, "responses_2xx"), (4, "responses_4xx"), (5, "responses_5xx")] {
        assert_eq!(of(class), seen.classes[at] as f64, "{class}: {seen:?}");
    }
    let lines = world.gateway.request_lines(0);
    let gone = lines.iter().filter(|line| line["outcome"] == "client_gone");
    assert_eq!(
        of("clients_gone"),
        seen.left as f64,
        "{seen:?}: {:?}",
        gone.collect::<Vec<_>>()
    );
    assert_eq!(of("callers_unknown"), seen.unknown as f64, "{seen:?}");
    assert_eq!(of("callers_rate_limited"), seen.limited as f64, "{seen:?}");
    // Each target of the plan is refused by itself.
    assert_eq!(of("budget_refusals"), 2.0 * seen.unpaid as f64, "{seen:?}");
    assert_eq!(of("virtual_key_requests"), seen.keyed as f64, "{seen:?}");
    // The mix is one: nothing of this is missing.
    let others = [
        "hedges",
        "hedges_won",
        "fallbacks",
        "upstream_retries",
        "upstream_attempts_abandoned",
        "callers_forbidden",
        "callers_rate_limited",
        "budget_refusals",
        "uncertain_charges",
    ];
    for name in kinds.into_iter().chain(others) {
        assert!(of(name) > 0.0, "{name}: none");
    }
}

fn attempts_add_up(world: &World, counted: &Counted, before: &Before) {
    let of = |name: &str| counted.of(&format!("{name}_total"));
    let kinds = [
        "attempts",
        "attempts_succeeded",
        "attempts_failed",
        "attempts_abandoned",
    ];
    let [all, ends @ ..] = kinds.map(|kind| of(&format!("upstream_{kind}")));
    assert_eq!(
        all,
        ends.iter().sum::<f64>(),
        "attempts succeed, fail, or are abandoned"
    );
    for kind in kinds {
        assert_eq!(of(&format!("target_{kind}")), of(&format!("upstream_{kind}")), "{kind}");
    }
    assert_eq!(of("fallbacks_by_pair"), of("fallbacks"));
    assert_eq!(of("fallbacks_by_reason"), of("fallbacks"));
    let stale = of("upstream_stale_connections");
    for ((name, sim), before) in world.sims.iter().zip(before.attempts) {
        let theirs = (sim.attempts().len() - before) as f64;
        let ours = counted.labelled("target_attempts_total", &format!("provider=\"{name}\""));
        assert!(
            theirs <= ours + stale && ours <= theirs + stale,
            "{name} counts {theirs}, the gateway {ours} and {stale} stale connections"
        );
    }
}

/// What was charged is what the providers bill; more only where nobody can know what one made of a request that was cut.
fn money_adds_up(world: &World, counted: &Counted) {
    let cost = |label: &str| (counted.labelled("target_cost_usd_total", label) * 1e9).round();
    let charged = |name: &str| cost(&format!("provider=\"{name}\""));
    let billed = |name: &str| world.billed(name) as f64;
    for name in ["openai", "backup"] {
        assert!(billed(name) > 0.0, "{name}");
        assert_eq!(charged(name), billed(name), "what {name} bills is what is charged");
    }
    let unsure = ["shaky", "slow"];
    for name in unsure {
        assert!(
            charged(name) >= billed(name),
            "{name}: {} < {}",
            charged(name),
            billed(name)
        );
    }
    let over: f64 = unsure.iter().map(|name| charged(name) - billed(name)).sum();
    let uncertain = counted.of("uncertain_charges_total");
    assert!(
        over <= uncertain * HELD_MAX,
        "{over} for {uncertain} charges without a price"
    );
    let spent_nanos = counted.of("spent_nano_usd_total");
    assert_eq!(cost(""), spent_nanos, "by target");
    let by_key = (counted.of("virtual_key_cost_usd_total") * 1e9).round();
    assert_eq!(by_key, spent_nanos, "by virtual key");
    wait::until("the ledger has it all", || {
        (spent(&world.gateway) as f64 == spent_nanos).then_some(())
    });
}

/// Each request is a line, and the lines' attempts and costs are those that were counted.
fn the_log_agrees(world: &World, counted: &Counted, before: &Before) {
    let sent = counted.of("requests_total") as usize;
    let lines = world.gateway.request_lines(before.lines + sent).split_off(before.lines);
    assert_eq!(lines.len(), sent);
    let attempts: u64 = lines.iter().filter_map(|line| line["attempts"].as_u64()).sum();
    assert_eq!(attempts as f64, counted.of("upstream_attempts_total"));
    let cost = |line: &Value| line["cost_usd"].as_str().map_or(0, nanos);
    let cost: u64 = lines.iter().map(cost).sum();
    assert_eq!(cost as f64, counted.of("spent_nano_usd_total"));
    let mut statuses = BTreeMap::new();
    for line in &lines {
        *statuses.entry(line["status"].as_u64()).or_insert(0_usize) += 1;
    }
    for status in [200, 400, 401, 402, 403, 404, 413, 429] {
        assert!(statuses.contains_key(&Some(status)), "{status}: {statuses:?}");
    }
}

#[test]
fn counters_add_up_whatever_happens() {
    let fixed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    match fixed {
        Some(seed) => adds_up(seed),
        None => (0..4).for_each(|_| adds_up(fastrand::u64(..))),
    }
}
