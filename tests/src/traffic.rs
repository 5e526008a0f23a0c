//! Steady traffic: several clients that ask one after the other, half of it streamed, and remember what each saw.
//!
//! Invariants: an answer counts as good only if it is whole: a stream ends with `[DONE]`, and holds no error. Deliberately
//! absent: pacing; a client asks again as soon as it has its answer, so that the provider's latency paces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::gateway::Gateway;
use crate::http::{Client, Request, Response};
use crate::wait;

/// What one request saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// From its first byte out to its last byte in.
    pub took: Duration,
    /// The provider that answered.
    pub provider: String,
    /// The key that it answered to.
    pub key: String,
    /// What was wrong with the answer, if anything was.
    pub wrong: Option<String>,
}

/// Clients that are asking.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<Seen>>>,
}

/// What all clients of some traffic saw.
pub struct Report(pub Vec<Seen>);

impl Traffic {
    /// Starts `clients` clients that ask for `model` until they are stopped.
    ///
    /// # Panics
    /// In a client's thread, when the gateway does not take its connection.
    #[must_use]
    pub fn start(gateway: &Gateway, clients: usize, model: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let answered = Arc::<AtomicUsize>::default();
        let address = gateway.address;
        let clients = (0..clients).map(|number| {
            let (stop, answered) = (stop.clone(), answered.clone());
            let requests = [Request::chat(model), Request::stream(model)];
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut seen = Vec::new();
                for turn in number.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let begun = Instant::now();
                    client.send(requests[turn % 2].bytes());
                    let answer = client.response_or_cut();
                    let wrong = wrong(&answer, turn % 2 == 1);
                    if wrong.is_some() {
                        client = Client::connect(address);
                    }
                    let field = |name| answer.field(name).unwrap_or_default().to_owned();
                    seen.push(Seen {
                        took: begun.elapsed(),
                        provider: field("x-sluice-provider"),
                        key: field("x-sluice-key"),
                        wrong,
                    });
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                seen
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            answered,
        }
    }

    /// Waits until `count` more requests have been answered.
    pub fn pass(&self, count: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        wait::until("traffic goes on", || {
            (self.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Lets traffic go on for a time that is part of what is tested: the length of an outage.
    pub fn go_on(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Stops the clients after the request that they are at.
    ///
    /// # Panics
    /// When a client has.
    #[must_use]
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter();
        let seen = all.flat_map(|client| client.join().expect("a client asks to its end"));
        Report(seen.collect())
    }
}

/// What keeps an answer from being a whole, good one.
fn wrong(answer: &Response, streamed: bool) -> Option<String> {
    if answer.status != 200 || !answer.is_complete() {
        return Some(format!("{answer:?}"));
    }
    let good = if streamed {
        let events = answer.events();
        events.last().is_some_and(|last| last == "[DONE]") && !answer.text().contains("\"error\"")
    } else {
        answer.json()["object"] == "chat.completion"
    };
    (!good).then(|| answer.text())
}

impl Report {
    /// Checks that every request had a whole, good answer.
    ///
    /// # Panics
    /// When one had not.
    pub fn expect_no_failure(&self, what: &str) {
        let wrong: Vec<&String> = self.0.iter().filter_map(|seen| seen.wrong.as_ref()).collect();
        assert!(
            wrong.is_empty(),
            "{what}: {} of {} requests failed, the first with {}",
            wrong.len(),
            self.0.len(),
            wrong[0]
        );
    }

    /// How many requests a provider answered.
    #[must_use]
    pub fn answered_by(&self, provider: &str) -> usize {
        self.0.iter().filter(|seen| seen.provider == provider).count()
    }

    /// How long a request took that only the given share (0 to 1) of them exceeds.
    ///
    /// # Panics
    /// When there was no request.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let mut times: Vec<Duration> = self.0.iter().map(|seen| seen.took).collect();
        times.sort();
        let at = (times.len() as f64 * share) as usize;
        times[at.min(times.len() - 1)]
    }
}
