//! The cache over HTTP: what it holds and what checks have found, purge and bump, and why two requests share an answer or do not.
//!
//! Invariants: a purge or bump is confirmed once every core has applied it and the file says so, or said not to be; no answer and no
//! value of a context key is shown. Deliberately absent: reading what is stored.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json as value};
use sluice_policy::cache::explain::{Sharing, Why};
use sluice_policy::cache::key::Scope;
use sluice_policy::cache::{Brain, Explanation};
use sluice_policy::meter::catalog as of;
use sluice_policy::meter::{CoreMeter, Counter};
use sluice_policy::snapshot::Snapshot;
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, Ingress};

use super::metrics::text::Page;
use super::{Status, json};
use crate::cache::prepare::Helper;
use crate::control::cache::{Desk, View};
use crate::mesh::{Change, Purged};

/// How often it is looked for what an embedding service says.
const LOOK_PERIOD: Duration = Duration::from_millis(2);

/// `GET /admin/cache`.
pub async fn stats(State(status): State<Arc<Status>>) -> Response {
    let Some(view) = status.cache.view() else { return off() };
    let sum = |name: &str| -> u64 {
        let at = CoreMeter::TABLE.iter().position(|(known, ..)| *known == name);
        at.map_or(0, |at| status.meters.iter().map(|meter| meter.values()[at]).sum())
    };
    let namespaces = view.audits.iter().map(|(namespace, audit)| {
        value!({
            "namespace": format!("{namespace:016x}"),
            "checks": audit.checks,
            "errors": audit.errors,
            "error_upper_bound": audit.upper_bound(),
            "serving": audit.is_on(view.tolerance),
        })
    });
    let quarantine = view.quarantine.iter().map(|(namespace, pair)| {
        value!({
            "namespace": format!("{namespace:016x}"),
            "templates": pair.templates().map(|template| hex(&template.0)),
        })
    });
    let facts = &view.facts;
    let body = value!({
        "hits": {
            "exact": sum("sluice_cache_hits_total"),
            "in_flight": sum("sluice_cache_hits_in_flight_total"),
            "semantic": sum("sluice_cache_hits_semantic_total"),
            "frames": sum("sluice_cache_hits_frames_total"),
        },
        "misses": sum("sluice_cache_misses_total"),
        "bypasses": sum("sluice_cache_bypasses_total"),
        "stored": sum("sluice_cache_stored_total"),
        "compared": sum("sluice_cache_compared_total"),
        "disagreed": sum("sluice_cache_disagreed_total"),
        "saved": {
            "input_tokens": sum("sluice_cache_saved_input_tokens_total"),
            "output_tokens": sum("sluice_cache_saved_output_tokens_total"),
            "nano_usd": sum("sluice_cache_saved_nano_usd_total"),
        },
        "entries": view.size.entries,
        "bytes": view.size.entry_bytes,
        "evicted": sum("sluice_cache_evicted_total"),
        "template_pairs": view.pairs,
        "quarantined": view.quarantined,
        "quarantine": quarantine.collect::<Vec<_>>(),
        "namespaces": namespaces.collect::<Vec<_>>(),
        "change": view.change,
        "snapshot": {
            "written": facts.written,
            "failed": facts.failed,
            "refused": facts.refused,
            "refusal": facts.refusal,
            "restored": facts.restored,
        },
    });
    json(StatusCode::OK, body.to_string())
}

/// What is to be purged: exactly one of `all`, `key`, `tag`, `model` and `context`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeOrder {
    tenant: Option<Box<str>>,
    #[serde(default)]
    all: bool,
    key: Option<String>,
    tag: Option<Box<str>>,
    model: Option<Box<str>>,
    context: Option<Box<str>>,
}

impl PurgeOrder {
    fn purged(self) -> Result<Purged, &'static str> {
        const ONE: &str = "expected exactly one of all, key, tag, model and context";
        let key = self
            .key
            .map(|text| key(&text).ok_or("expected a key of 64 hexadecimal digits"));
        let mut chosen = [
            self.all.then_some(Purged::All),
            key.transpose()?.map(Purged::Key),
            self.tag.map(Purged::Tag),
            self.model.map(Purged::Model),
            self.context.map(Purged::Context),
        ]
        .into_iter()
        .flatten();
        match (chosen.next(), chosen.next()) {
            (Some(purged), None) => Ok(purged),
            _ => Err(ONE),
        }
    }
}

fn key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(key)
}

/// `POST /admin/cache/purge`.
pub async fn purge(State(status): State<Arc<Status>>, body: Bytes) -> Response {
    let order: PurgeOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return refused(&error.to_string()),
    };
    let tenant = order.tenant.clone();
    match order.purged() {
        Ok(purged) => change(&status, Change::Purge(tenant, purged)).await,
        Err(message) => refused(message),
    }
}

/// A tenant, or one of its context values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BumpOrder {
    tenant: Box<str>,
    context: Option<Box<str>>,
}

/// `POST /admin/cache/bump`.
pub async fn bump(State(status): State<Arc<Status>>, body: Bytes) -> Response {
    match serde_json::from_slice::<BumpOrder>(&body) {
        Ok(order) => change(&status, Change::Bump(order.tenant, order.context)).await,
        Err(error) => refused(&error.to_string()),
    }
}

/// `POST /admin/cache/release`.
pub async fn release(State(status): State<Arc<Status>>) -> Response {
    change(&status, Change::Release).await
}

async fn change(status: &Status, change: Change) -> Response {
    match status.cache.change(change).await {
        None => off(),
        Some(changed) => {
            let code = if changed.confirmed {
                StatusCode::OK
            } else {
                StatusCode::ACCEPTED
            };
            let body = value!({"removed": changed.removed, "confirmed": changed.confirmed});
            json(code, body.to_string())
        }
    }
}

/// Two requests, as clients would send them, and the context values of each.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    one: Value,
    other: Value,
    #[serde(default = "openai")]
    dialect: String,
    #[serde(default)]
    one_context: Vec<String>,
    #[serde(default)]
    other_context: Vec<String>,
}

fn openai() -> String {
    Dialect::ALL[0].as_str().to_owned()
}

/// `POST /admin/cache/explain`.
pub async fn explain(State(status): State<Arc<Status>>, body: Bytes) -> Response {
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return refused(&error.to_string()),
    };
    let Some(view) = status.cache.view() else { return off() };
    let snapshot = status.plane().snapshot.clone();
    // The first time finds out whether texts are compared at all, and which.
    let mut texts = None;
    let brain = &view.brain;
    let mut answered = answer(&question, brain, &snapshot, |one, other| {
        texts = Some([one.to_owned(), other.to_owned()]);
        Some(brain.similarity(one, other))
    });
    if let (Some((_, wait_ms)), Some(texts)) = (view.helper.embedding, texts) {
        let similarity = remote_similarity(&view.helper, &texts, wait_ms).await;
        answered = answer(&question, brain, &snapshot, |_, _| similarity);
    }
    match answered {
        Ok(answer) => json(StatusCode::OK, answer.to_string()),
        Err(message) => refused(&message),
    }
}

/// How similar the configured service finds two texts; `None` if it does not say in time.
async fn remote_similarity(helper: &Helper, texts: &[String; 2], wait_ms: u64) -> Option<f32> {
    let asked = texts.each_ref().map(|text| helper.embed(text));
    let until = tokio::time::Instant::now() + Duration::from_millis(wait_ms);
    loop {
        if let (Some(one), Some(other)) = (asked[0](), asked[1]()) {
            return Some(one?.cosine(&other?));
        }
        if tokio::time::Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

fn answer(
    question: &Question,
    brain: &Brain,
    snapshot: &Snapshot,
    similarity: impl FnOnce(&str, &str) -> Option<f32>,
) -> Result<Value, String> {
    let known = Dialect::ALL.iter().find(|dialect| dialect.as_str() == question.dialect);
    let dialect = *known.ok_or_else(|| format!("no dialect is called \"{}\"", question.dialect))?;
    let bodies = [question.one.to_string(), question.other.to_string()];
    let model = question.one["model"].as_str().unwrap_or_default();
    let resolved = snapshot
        .resolve_for(model, dialect)
        .map_err(|error| error.message.to_string())?;
    let Some(caching) = snapshot.caching(&resolved) else {
        return Ok(value!({"shares": false, "why": "the route of the first request does not cache"}));
    };
    let ingress = Ingress::default();
    let parse = |at: usize| {
        let which = ["first", "second"][at];
        provider::parse_request(dialect, bodies[at].as_bytes(), &ingress)
            .map_err(|error| format!("the {which} request: {}", error.message))
    };
    let (one, other) = (parse(0)?, parse(1)?);
    let context = |pairs: &'_ [String]| -> Vec<(String, String)> {
        let split = |pair: &String| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        pairs.iter().map(split).collect()
    };
    let contexts = [context(&question.one_context), context(&question.other_context)];
    let contexts = contexts.each_ref().map(|pairs| {
        let pairs = pairs.iter().map(|(name, value)| (&**name, Some(&**value)));
        pairs.collect::<Vec<(&str, Option<&str>)>>()
    });
    let scope = |at: usize| Scope {
        tenant: "",
        route: &caching.scope,
        dialect,
        context: &contexts[at],
        epoch: 0,
    };
    let sharing = brain.sharing(
        (&one, &scope(0)),
        (&other, &scope(1)),
        &caching.eligible,
        &caching.rules,
        similarity,
    );
    Ok(words(&sharing))
}

fn words(sharing: &Sharing) -> Value {
    let meaning = |explanation: &Explanation, shares: bool| {
        value!({
            "shares": shares,
            "layer": "semantic",
            "similarity": explanation.similarity,
            "guard": explanation.verdict.map_or_else(|refusal| refusal.name(), |()| "no objection"),
        })
    };
    match sharing {
        Sharing::Exact => value!({"shares": true, "layer": "exact", "why": "they are one request"}),
        Sharing::Meaning(explanation) => meaning(explanation, true),
        Sharing::Apart(Why::Meaning(explanation)) => meaning(explanation, false),
        Sharing::Apart(Why::ExactOnly) => {
            value!({"shares": false, "why": "they differ in the last text, and are matched exactly only"})
        }
        Sharing::Apart(Why::NoVector) => {
            value!({"shares": false, "why": "they differ in the last text, and the embedding service says nothing of it in time"})
        }
        Sharing::Apart(Why::Differ(names)) => value!({"shares": false, "why": "they differ", "differ": names}),
        Sharing::Apart(Why::Bypass(which, bypass)) => {
            let which = if *which == 1 { "first" } else { "second" };
            value!({"shares": false, "why": format!("the {which} request is not cached: {}", bypass.name())})
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Appends the metrics that no core has.
pub fn write_metrics(page: &mut Page, desk: &Desk) {
    let Some(view) = desk.view() else { return };
    let View {
        audits,
        tolerance,
        quarantined,
        facts,
        ..
    } = &view;
    let bound = audits.iter().filter(|(_, audit)| audit.checks > 0);
    let bound = bound.map(|(_, audit)| audit.upper_bound()).fold(0.0, f64::max);
    let off = audits.iter().filter(|(_, audit)| !audit.is_on(*tolerance)).count();
    let checks: u64 = audits.iter().map(|(_, audit)| audit.checks).sum();
    page.single(&of::CACHE_BOUND, bound);
    page.single(&of::CACHE_TOLERANCE, tolerance);
    page.single(&of::CACHE_CHECKS, checks);
    page.single(&of::CACHE_OFF, off);
    page.single(&of::CACHE_QUARANTINED, quarantined);
    page.single(&of::CACHE_WRITTEN, facts.written);
    page.single(&of::CACHE_WRITE_FAILED, facts.failed);
    page.single(&of::CACHE_REFUSED, facts.refused);
    page.single(&of::CACHE_RESTORED, facts.restored);
}

/// What `sluice status` shows of it; null without a cache.
pub fn summary(status: &Status) -> Value {
    let Some(view) = status.cache.view() else {
        return Value::Null;
    };
    let meters = &status.meters;
    let sum = |which: fn(&CoreMeter) -> &Counter| -> u64 { meters.iter().map(|meter| which(meter).get()).sum() };
    let off = view
        .audits
        .iter()
        .filter(|(_, audit)| !audit.is_on(view.tolerance))
        .count();
    value!({
        "hits": sum(|meter| &meter.cache_hits),
        "in_flight": sum(|meter| &meter.cache_hits_flight),
        "semantic": sum(|meter| &meter.cache_hits_semantic),
        "misses": sum(|meter| &meter.cache_misses),
        "saved_nano_usd": sum(|meter| &meter.cache_saved_nano_usd),
        "entries": view.size.entries,
        "switched_off": off,
    })
}

fn refused(message: &str) -> Response {
    json(StatusCode::BAD_REQUEST, value!({"error": message}).to_string())
}

fn off() -> Response {
    json(
        StatusCode::CONFLICT,
        value!({"error": "no route caches (cache.default.mode, routes[].cache.mode)"}).to_string(),
    )
}
