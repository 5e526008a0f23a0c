//! One gateway before four providers, and requests of every kind that there is: answered, refused, cached, shared, hedged, retried,
//! fallen back, cut, and left by their clients.
//!
//! Invariants: what each client saw is written down, so that counters can be held against it; `openai` and `backup` either answer
//! whole or refuse, so that their bill is known to the token, whatever happens at `shaky` and `slow`. Deliberately absent: judging
//! (`books.rs`).

use std::io::Read as _;
use std::time::Duration;

use sluice_tests::accounts::{ADMIN, RATES, admin, bearer, key};
use sluice_tests::{Client, Gateway, Request, Setup, Sim, json, wait};

/// Models whose names tell the simulator what to do; a `+` begins the instruction. They fall back where they fail.
const SOUND: [&str; 5] = ["", "", "+status=500", "+status=429", "+status=400"];
/// What leaves open what the provider charges.
const UNSOUND: [&str; 4] = [
    "+reset=before_head",
    "+close=mid_body",
    "+truncate=20",
    "+reset=mid_stream:3",
];
/// Kinds of requests.
pub const KINDS: u8 = 16;
/// The kind that a limit refuses after the first few, and how many those are.
pub const LIMITED: u8 = 3;
/// See [`LIMITED`].
pub const LIMIT: u8 = 3;
/// Largest body.
const BODY_BYTES: usize = 8_192;

const PRICES: &str = "- source: test
  date: 2026-11-22
  prices:
    \"*/gpt*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}
";

/// Providers, a gateway, and callers.
pub struct World {
    /// `openai`, `backup`, `shaky` and `slow`.
    pub sims: [(&'static str, Sim); 4],
    /// The gateway.
    pub gateway: Gateway,
    free: String,
    narrow: String,
    limited: String,
    poor: String,
}

/// What clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests.
    pub sent: u64,
    /// Of those, with a virtual key that holds.
    pub keyed: u64,
    /// Without one.
    pub unknown: u64,
    /// Clients that left before the end.
    pub left: u64,
    /// Answers by the first digit of their status.
    pub classes: [u64; 6],
    /// Answers with 429, which only the gateway gives here.
    pub limited: u64,
    /// Answers with 402.
    pub unpaid: u64,
}

impl Seen {
    fn status(&mut self, status: u16) {
        self.classes[usize::from(status / 100)] += 1;
        self.limited += u64::from(status == 429);
        self.unpaid += u64::from(status == 402);
    }

    /// Both together.
    pub fn join(&mut self, other: &Self) {
        self.sent += other.sent;
        self.keyed += other.keyed;
        self.unknown += other.unknown;
        self.left += other.left;
        self.limited += other.limited;
        self.unpaid += other.unpaid;
        for (mine, others) in self.classes.iter_mut().zip(other.classes) {
            *mine += others;
        }
    }
}

impl World {
    /// Starts all of it.
    pub fn start(cores: usize) -> Self {
        let sims = ["openai", "backup", "shaky", "slow"].map(|name| (name, Sim::start()));
        let hedged = |model: &str, rival: &str| json!({"models": [model], "fallbacks": [rival], "hedge": {"delay": "60ms", "budget": 1.0}});
        let mut setup = Setup::new();
        for (name, sim) in &sims {
            setup = setup.provider(name, &sim.base_url(), &[&format!("sk-{name}")]);
        }
        let exact = json!({"mode": "exact"});
        let meaning = json!({"mode": "semantic", "agreements": 0, "audit": 0});
        let mut setup = setup
            .set("/routes", json!([
                {"models": ["openai/gpt-exact*"], "cache": exact},
                {"models": ["openai/gpt-meaning*"], "cache": meaning},
                {"models": ["openai/gpt-alone*"]},
                hedged("slow/gpt-loses*", "shaky/gpt-spare"),
                hedged("slow/gpt-wins*", "shaky/gpt-spare+latency_ms=1500"),
                {"models": ["openai/*", "shaky/*"], "fallbacks": ["backup/gpt-spare"]},
            ]))
            // Breakers and rests would only make most attempts not happen.
            .set("/breaker/enabled", false)
            .set("/key_rest/rest", "1ms")
            .set("/limits/body_bytes", format!("{BODY_BYTES}B"))
            .cores(cores);
        let prices = setup.dir().write("prices.yaml", PRICES);
        let store = setup.dir().path().join("sluice.db");
        setup = setup.set(
            "/accounts",
            json!({
                "store": store.display().to_string(),
                "admin_credential": {"env": "ADMIN"},
                "prices": prices.display().to_string(),
                "require_key": "always",
            }),
        );
        setup.env.push(("ADMIN".into(), ADMIN.into()));
        let gateway = setup.start();
        let world = Self {
            free: key(&gateway, "station-14", json!({})),
            narrow: key(&gateway, "narrow", json!({"models": ["claude*"]})),
            limited: key(&gateway, "limited", json!({})),
            poor: key(
                &gateway,
                "poor",
                json!({"budgets": [{"limit": "0.000001", "window": "day"}]}),
            ),
            sims,
            gateway,
        };
        let limit = json!({"unit": "requests", "window": "day", "most": LIMIT});
        let made = admin(&world.gateway, "POST", "/keys/limited/limits", &limit);
        assert_eq!(made.status, 201, "{made:?}");
        wait::until("the keys are in force on every core", || {
            let known = |key: &String| (0..8).all(|_| world.models(key) == 200);
            [&world.free, &world.narrow, &world.poor]
                .into_iter()
                .all(known)
                .then_some(())
        });
        world
    }

    fn models(&self, key: &str) -> u16 {
        self.gateway.ask(&bearer(Request::get("/v1/models"), key)).status
    }

    /// Sends one request of a kind below [`KINDS`], and writes down what its client saw.
    pub fn one(&self, kind: u8, random: &mut fastrand::Rng, seen: &mut Seen) {
        seen.sent += 1;
        seen.keyed += u64::from(kind > 1);
        seen.unknown += u64::from(kind == 1);
        let is_stream = random.bool();
        let chat = |model: &str| {
            if is_stream {
                Request::stream(model)
            } else {
                Request::chat(model)
            }
        };
        let free = |request: Request| bearer(request, &self.free);
        let sound = SOUND[random.usize(..SOUND.len())];
        let unsound = UNSOUND[random.usize(..UNSOUND.len())];
        let request = match kind {
            0 => Request::get("/nowhere"),
            1 => chat("openai/gpt-x"),
            2 => bearer(chat("openai/gpt-x"), &self.narrow),
            LIMITED => bearer(chat("openai/gpt-x"), &self.limited),
            4 => bearer(chat("openai/gpt-x"), &self.poor),
            5 => free(Request::post("/v1/chat/completions", "{")),
            6 => free(Request::post("/v1/chat/completions", vec![b' '; BODY_BYTES + 1])),
            7 => free(asking(
                "openai/gpt-exact+latency_ms=30",
                &format!("number {}", random.u8(..6)),
                is_stream,
            )),
            8 => free(asking(
                "openai/gpt-meaning",
                &bolt(random.u8(1..4), random.bool()),
                is_stream,
            )),
            9 => free(chat("slow/gpt-loses+latency_ms=1500")),
            10 => free(chat("slow/gpt-wins+latency_ms=300")),
            11 => free(chat("openai/gpt-alone+status=503")),
            12 => return self.leave(&free(chat("shaky/gpt-x+latency_ms=30000")), false, random, seen),
            13 => {
                return self.leave(
                    &free(Request::stream("shaky/gpt-x+tokens=1000,tps=100")),
                    true,
                    random,
                    seen,
                );
            }
            14 => free(chat(&format!("shaky/gpt-x{unsound}"))),
            _ => free(chat(&format!("openai/gpt-x{sound}"))),
        };
        let mut client = self.gateway.client();
        client.send(request.bytes());
        seen.status(client.response_or_cut().status);
    }

    /// A client that leaves: before there is an answer, or in the middle of one.
    fn leave(&self, request: &Request, is_begun: bool, random: &mut fastrand::Rng, seen: &mut Seen) {
        seen.left += 1;
        let mut client: Client = self.gateway.client();
        client.send(request.bytes());
        if is_begun {
            seen.status(client.begin().status);
        } else {
            let soon = Duration::from_millis(random.u64(1..80));
            let set = client.stream.set_read_timeout(Some(soon));
            set.expect("a socket takes a timeout");
            let early = client.stream.read(&mut [0; 1]);
            assert!(early.is_err(), "there is no answer yet: {early:?}");
        }
    }

    /// Many clients ask the same at once, of which those on one core share a provider's answer.
    pub fn at_once(&self, clients: usize, seen: &mut Seen) {
        let request = bearer(asking("openai/gpt-exact+latency_ms=400", "at once", false), &self.free);
        let mut all: Vec<Client> = (0..clients).map(|_| self.gateway.client()).collect();
        all.iter_mut().for_each(|client| client.send(request.bytes()));
        for mut client in all {
            seen.sent += 1;
            seen.keyed += 1;
            seen.status(client.response().status);
        }
    }

    /// Asks the same until it is answered from the store, and one thing in two ways until the second is answered with the first
    /// one's answer: what one core stores, another knows a moment later.
    pub fn until_stored(&self, seen: &mut Seen) {
        let mut is_answered = |text: &str, by: &str| {
            seen.sent += 1;
            seen.keyed += 1;
            let request = asking("openai/gpt-meaning", text, false);
            let answer = self.gateway.ask(&bearer(request, &self.free));
            seen.status(answer.status);
            answer.field("x-sluice-cache") == Some(by)
        };
        let mut ways = (10..200).flat_map(|line| [bolt(line, true), bolt(line, false)]);
        let by_meaning = ways.any(|text| is_answered(&text, "semantic"));
        assert!(by_meaning, "nothing is answered by meaning");
        let stored = (0..50).any(|_| is_answered("again and again", "hit"));
        assert!(stored, "nothing is answered from the store");
    }

    /// What one of the providers bills, in nano-dollars.
    pub fn billed(&self, name: &str) -> u64 {
        let sims = self.sims.iter().filter(|(own, _)| *own == name);
        let bills = sims.map(|(_, sim)| {
            let bill = sim.bill();
            let total = |name: &str| bill["total"][name].as_u64().expect("a total");
            total("input_tokens") * RATES.0 + total("output_tokens") * RATES.1
        });
        bills.sum()
    }
}

/// A chat request with this text.
fn asking(model: &str, text: &str, stream: bool) -> Request {
    let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]});
    Request::post("/v1/chat/completions", body.to_string())
}

/// A question, in one of two ways of asking it.
fn bolt(line: u8, is_long: bool) -> String {
    if is_long {
        format!("What is the tightening torque of the M8 bolt on line {line}?")
    } else {
        format!("What's the tightening torque of the M8 bolt on line {line}")
    }
}
