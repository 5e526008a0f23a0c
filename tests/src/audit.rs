//! The auditor: a crowd of clients before one or more gateways, and the provider's own bill beside what the gateways record.
//!
//! Invariants: a bill is read before the record that it is held against, so that what happens between the two cannot excuse a
//! record that is too low; clients give nothing away of what they got, they only spend. Deliberately absent: knowledge of how
//! budgets work; all that is used is the administration, as an administrator would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::http::{Client, Request, Response};
use crate::setup::Setup;
use crate::sim::Sim;
use crate::wait;

/// The administrator's credential.
pub const ADMIN: &str = "an-administrators-credential";
/// What the models cost here, in nano-dollars: a token of input, and one of output.
pub const RATES: (u64, u64) = (1_000, 4_000);
const PRICES: &str = "- source: test
  date: 2026-11-22
  prices:
    \"*/gpt*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}
";
/// The provider's key for those without a budget.
const UNPAID: &str = "sk-three";
/// What goes wrong at the provider, by chance; the last rule is for those that nothing happens to.
const FAULTS: [&str; 9] = [
    "status=500,probability=0.03",
    "status=503,probability=0.02",
    "reset=before_head,probability=0.02",
    "reset=mid_stream:3,probability=0.02",
    "close=mid_body,probability=0.02",
    "truncate=20,probability=0.02",
    "latency_ms=400,probability=0.03",
    "first_token_ms=300,tps=200,probability=0.05",
    "tps=2000,latency_ms=5",
];

/// Several gateways with one store, before one provider.
pub struct Audit {
    /// The provider.
    pub sim: Sim,
    /// The gateways.
    pub replicas: Vec<Gateway>,
    /// A key with a budget, and one without.
    pub keys: [String; 2],
    addresses: Arc<Vec<Mutex<SocketAddr>>>,
    budget: u64,
}

/// Clients that spend.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

/// What clients were answered.
#[derive(Debug, Default)]
pub struct Counts {
    /// 200.
    pub admitted: AtomicU64,
    /// 402.
    pub exhausted: AtomicU64,
    /// 503.
    pub unavailable: AtomicU64,
    /// Anything else, and nothing.
    pub other: AtomicU64,
}

/// What the store says of the budget, in nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What is known to be spent.
    pub spent: u64,
    /// What gateways hold: spent in part.
    pub leased: u64,
    /// What may be spent.
    pub limit: u64,
}

impl Audit {
    /// Starts `replicas` gateways of `cores` cores with one store: the place of a file, or a PostgreSQL URL. The key's budget is
    /// `limit` nano-dollars.
    ///
    /// # Panics
    /// When one does not start, or refuses what an administrator asks.
    #[must_use]
    pub fn start(cores: usize, replicas: usize, store: Option<&str>, limit: u64) -> Self {
        let sim = Sim::start();
        let replicas: Vec<Gateway> = (0..replicas).map(|_| setup(&sim, cores, store).start()).collect();
        let addresses = replicas.iter().map(|gateway| Mutex::new(gateway.address)).collect();
        let mut audit = Self {
            sim,
            replicas,
            keys: Default::default(),
            addresses: Arc::new(addresses),
            budget: 0,
        };
        let limit = dollars(limit);
        let paying = json!({"name": "paying", "budgets": [{"limit": limit, "window": "total"}]});
        for (at, body) in [paying, json!({"name": "free"})].iter().enumerate() {
            let made = audit.admin("POST", "/keys", body);
            assert_eq!(made.status, 201, "{made:?}");
            made.json()["key"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut audit.keys[at]);
        }
        let shown = audit.admin("GET", "/keys/paying", &Value::Null).json();
        audit.budget = shown["budgets"][0]["id"].as_u64().expect("a budget has a number");
        audit
    }

    /// Lets things go wrong at the provider.
    pub fn with_faults(&self) {
        let rules: Vec<Value> = FAULTS.iter().map(|script| json!({"do": script})).collect();
        self.sim.rules(&Value::from(rules));
    }

    /// Asks the first gateway's administration.
    #[must_use]
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Response {
        self.admin_of(0, method, path, body)
    }

    /// Asks one gateway's administration.
    #[must_use]
    pub fn admin_of(&self, replica: usize, method: &str, path: &str, body: &Value) -> Response {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let target = format!("/admin/v1{path}");
        let request = Request::new(method, &target)
            .field("Content-Type", "application/json")
            .field("Content-Length", &text.len().to_string())
            .field("Authorization", &format!("Bearer {ADMIN}"))
            .field("Connection", "close");
        let mut bytes = request.bytes();
        bytes.extend_from_slice(text.as_bytes());
        let mut client = Client::connect(self.replicas[replica].admin);
        client.send(bytes);
        client.response()
    }

    /// What the provider has billed for the paying, in nano-dollars.
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn billed(&self) -> u64 {
        let bill = self.sim.bill();
        let rows = bill["rows"].as_array().expect("a bill has rows");
        let paying = rows.iter().filter(|row| row["key"] != UNPAID);
        let tokens = |row: &Value, name: &str| row[name].as_u64().expect("tokens are counted");
        let cost = |row| tokens(row, "input_tokens") * RATES.0 + tokens(row, "output_tokens") * RATES.1;
        paying.map(cost).sum()
    }

    /// What the store says of the budget.
    ///
    /// # Panics
    /// When the administration does not answer.
    #[must_use]
    pub fn recorded(&self) -> Recorded {
        // While replicas die with rows in their hands the store may make others wait for longer than a reader does.
        let shown = wait::for_at_most(Duration::from_secs(60), "the store answers", || {
            let shown = self.admin("GET", "/keys/paying", &Value::Null);
            (shown.status != 503).then_some(shown)
        });
        assert_eq!(shown.status, 200, "{shown:?}");
        let budget = &shown.json()["budgets"][0];
        let of = |name: &str| budget[name].as_str().map_or(0, nanos);
        Recorded {
            spent: of("spent"),
            leased: of("leased"),
            limit: of("limit") + of("extra"),
        }
    }

    /// Holds the provider's bill against the record, and the record against the limit.
    ///
    /// # Panics
    /// When they do not agree.
    pub fn check(&self, when: &str) -> Recorded {
        let billed = self.billed();
        let recorded = self.recorded();
        let Recorded { spent, leased, limit } = recorded;
        assert!(
            billed <= spent + leased && spent + leased <= limit,
            "{when}: billed {billed}, spent {spent} and {leased} leased, of {limit}"
        );
        recorded
    }

    /// Allows so many nano-dollars more; how long that took.
    ///
    /// # Panics
    /// When the administration refuses, or keeps the administrator waiting for longer than it is patient itself: whatever dies
    /// beside it, and however many requests are refused meanwhile.
    pub fn top_up(&self, amount: u64) -> Duration {
        let path = format!("/budgets/{}/top-up", self.budget);
        let begun = Instant::now();
        let answer = self.admin("POST", &path, &json!({"amount": dollars(amount)}));
        assert_eq!(answer.status, 204, "after {:?}: {answer:?}", begun.elapsed());
        begun.elapsed()
    }

    /// Kills a gateway as `kill -9` does, and starts it again.
    pub fn kill_and_revive(&mut self, replica: usize) {
        self.replicas[replica].kill();
        self.revive(replica);
    }

    /// Starts a gateway that has ended.
    pub fn revive(&mut self, replica: usize) {
        self.replicas[replica].revive();
        *lock(&self.addresses[replica]) = self.replicas[replica].address;
    }

    /// Lets `clients` clients spend with one of the keys until they are told to stop.
    #[must_use]
    pub fn crowd(&self, clients: usize, key: usize, seed: u64) -> Crowd {
        let stop = Arc::<AtomicBool>::default();
        let counts = Arc::<Counts>::default();
        let threads = (0..clients as u64).map(|client| {
            let (stop, counts, addresses) = (stop.clone(), counts.clone(), self.addresses.clone());
            let model = ["openai/gpt-x", "unpaid/gpt-x"][key];
            let key = self.keys[key].clone();
            let body = move || {
                let mut random = fastrand::Rng::with_seed(seed << 16 ^ client);
                while !stop.load(Ordering::Relaxed) {
                    let address = *lock(&addresses[random.usize(..addresses.len())]);
                    let status = spend(address, &key, model, &mut random);
                    let count = match status {
                        Some(200) => &counts.admitted,
                        Some(402) => &counts.exhausted,
                        Some(503) => &counts.unavailable,
                        _ => &counts.other,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    if status != Some(200) {
                        // A client that is refused asks again, but not as fast as it can.
                        std::thread::sleep(Duration::from_millis(random.u64(2..20)));
                    }
                }
            };
            let builder = std::thread::Builder::new().stack_size(256 * 1024);
            builder.spawn(body).expect("a thread can be made")
        });
        Crowd {
            threads: threads.collect(),
            stop,
            counts,
        }
    }

    /// Ends all gateways in order, once nobody asks any more: nothing that was leased is left over, and the bill agrees.
    ///
    /// # Panics
    /// When something is left over.
    pub fn settle(mut self, is_exact: bool) -> Recorded {
        for gateway in &mut self.replicas {
            gateway.signal(libc::SIGTERM);
        }
        for gateway in &mut self.replicas {
            let status = gateway.wait();
            assert!(status.success(), "{status}");
        }
        self.replicas.truncate(1);
        self.revive(0);
        let started = self.replicas[0].stderr();
        assert!(
            started.contains("reclaimed: NanoUsd(0)"),
            "something stayed reserved: {started}"
        );
        let recorded = self.check("after the end");
        let billed = self.billed();
        assert!(billed <= recorded.spent, "billed {billed}: {recorded:?}");
        assert!(!is_exact || billed == recorded.spent, "billed {billed}: {recorded:?}");
        recorded
    }
}

impl Crowd {
    /// What was answered so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many requests were let in so far.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.counts.admitted.load(Ordering::Relaxed)
    }

    /// Ends it, and waits for what is under way.
    ///
    /// # Panics
    /// When a client has.
    pub fn stop(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client ends in order");
        }
        self.counts
    }
}

/// One gateway: two providers, the second beside a late first, and no breaker that would end the traffic.
fn setup(sim: &Sim, cores: usize, store: Option<&str>) -> Setup {
    let setup = Setup::new()
        .provider("openai", &sim.base_url(), &["sk-one"])
        .provider("backup", &sim.base_url(), &["sk-two"])
        .provider("unpaid", &sim.base_url(), &[UNPAID])
        .route(&["openai/*"], &["backup/gpt-spare"])
        .set("/routes/0/hedge", json!({"delay": "150ms"}))
        .cores(cores);
    let prices = setup.dir().write("prices.yaml", PRICES);
    let file = setup.dir().path().join("sluice.db").display().to_string();
    let accounts = json!({
        "store": store.unwrap_or(&file),
        "admin_credential": {"env": "ADMIN"},
        "prices": prices.display().to_string(),
        // Nobody is let in for nothing before a replica has heard of the keys.
        "require_key": "always",
    });
    let mut setup = setup.set("/accounts", accounts);
    setup.env.push(("ADMIN".into(), ADMIN.into()));
    setup
}

/// One request over a connection of its own, in one of the ways in which clients behave; the status, if there was one.
fn spend(address: SocketAddr, key: &str, model: &str, random: &mut fastrand::Rng) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let is_stream = random.bool();
    let words = "spend ".repeat(random.usize(1..60));
    let body = json!({
        "model": model,
        "stream": is_stream,
        "max_tokens": 40,
        "messages": [{"role": "user", "content": words}],
    });
    let request = Request::post("/v1/chat/completions", body.to_string())
        .field("Authorization", &format!("Bearer {key}"))
        .field("Connection", "close");
    stream.write_all(&request.bytes()).ok()?;
    let mut answer = Vec::new();
    match random.u8(0..20) {
        // Gone before there is an answer.
        0 => return None,
        // Gone in the middle of one.
        1 | 2 => {
            let mut some = [0; 256];
            let count = stream.read(&mut some).ok()?;
            answer.extend_from_slice(&some[..count]);
        }
        _ => {
            // What was read before an error counts.
            let _ = stream.read_to_end(&mut answer);
        }
    }
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dollars(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Decimal dollars in nano-dollars.
///
/// # Panics
/// When they are not.
#[must_use]
pub fn nanos(usd: &str) -> u64 {
    let (whole, fraction) = usd.split_once('.').unwrap_or((usd, ""));
    let fraction = format!("{fraction:0<9}");
    whole.parse::<u64>().expect("dollars") * 1_000_000_000 + fraction.parse::<u64>().expect("nano-dollars")
}
