//! Programs that measure the cache: how good its decisions are, how fast they are made, and what a gateway pays for them.
//!
//! The first two use the cache as the gateway does: a chat request is parsed, looked up, and its answer stored.

pub mod cost;
pub mod eval;
pub mod speed;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use sluice_policy::cache::entry::{Answer, Shape};
use sluice_policy::cache::key::{Eligible, Scope, Secret};
use sluice_policy::cache::{Brain, Query};
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, Ingress};

/// Milliseconds since the epoch at which everything here happens.
const NOW_MS: u64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;

/// The brain of an installation that ends with the program.
fn brain() -> Brain {
    Brain::new(Secret::new([7; 32]))
}

/// A chat request of one user text behind a system prompt.
fn body(text: &str) -> Vec<u8> {
    let system = "You are the assistant of a production line. Answer briefly.";
    serde_json::json!({
        "model": "gpt-4o-mini",
        "temperature": 0,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}],
    })
    .to_string()
    .into_bytes()
}

/// Parses a body and takes it up.
fn prepare(query: &mut Query, brain: &Brain, body: &[u8], tenant: &str) -> Result<()> {
    let request =
        provider::parse_request(Dialect::OpenAi, body, &Ingress::default()).map_err(|error| anyhow!("{error:?}"))?;
    let scope = Scope {
        tenant,
        route: "inspection",
        dialect: Dialect::OpenAi,
        context: &[],
        epoch: 0,
    };
    let prepared = query.prepare(&request, &scope, &Eligible::default(), brain);
    prepared.map_err(|bypass| anyhow!("not cached: {}", bypass.name()))
}

fn answer() -> Answer {
    Answer {
        shape: Shape::Whole,
        dialect: Dialect::OpenAi,
        body: Bytes::from_static(br#"{"choices":[{"message":{"content":"No."}}]}"#),
        tokens: [60, 2],
        cost_nano_usd: 12_000,
    }
}
