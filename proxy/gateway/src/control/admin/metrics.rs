//! `/metrics`: what the cores count, what they remember together, and what the control thread knows, as one page.
//!
//! Invariants: made on the control thread from numbers that the cores write anyway, so a scrape costs no request anything; its
//! size is bounded by the limits in `sluice_wire::limits`, whatever there is to show: of targets, virtual keys and budgets
//! those that matter most, the rest of targets and keys as `other`. Deliberately absent: names and meanings of metrics
//! (`sluice_policy::meter::catalog`).

pub mod process;
pub mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use sluice_policy::meter::catalog::{self as of, Family};
use sluice_policy::meter::histogram::{DURATION_US, FIRST_TOKEN_US, Histogram, PER_TOKEN_US, Sums, TIMES_US, TOKENS};
use sluice_policy::meter::series::{FallbackLabel, TargetLabel, TargetSeries};
use sluice_policy::meter::{CoreMeter, Counter, Kind, Times};
use sluice_wire::limits::{METRICS_TARGETS, METRICS_TOP};

use self::text::{Format, Page, number};
use super::{Status, cache, health, kernel, lock};
use crate::clock;
use crate::control::treasury::BudgetView;

const NANO: f64 = 1e-9;
const MICRO: f64 = 1e-6;

/// `GET /metrics`.
pub async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let begun = Instant::now();
    let format = Format::wanted(&headers);
    let mut page = Page::new(format);
    cores(&mut page, &status.meters);
    times(&mut page, &status.meters);
    targets(&mut page, &status.meters);
    fallbacks(&mut page, &status.meters);
    health::write_codes(&mut page, &status.meters);
    callers(&mut page, &status.meters);
    health::write_metrics(&mut page, &status.plane(), clock::shared_ms());
    budgets(&mut page, &status);
    kernel::write_metrics(&mut page, &lock(&status.kernel));
    cache::write_metrics(&mut page, &status.cache);
    configuration(&mut page, &status);
    process::write(&mut page, status.started_at);
    page.single(&of::SCRAPES, status.scrapes.fetch_add(1, Ordering::Relaxed) + 1);
    let before_us = status.scrape_us.load(Ordering::Relaxed);
    page.single(&of::SCRAPE_SECONDS, number(before_us as f64 * MICRO));
    let text = page.finish();
    let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    status.scrape_us.store(took_us, Ordering::Relaxed);
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

/// Requests under way: those that began and did not end.
pub fn in_flight(meters: &[Arc<CoreMeter>]) -> u64 {
    let of = |meter: &Arc<CoreMeter>| {
        let ended = meter.from_cache.get() + meter.forwarded.get() + meter.refused.get();
        meter.requests.get().saturating_sub(ended)
    };
    meters.iter().map(of).sum()
}

/// One of the cores' histograms of times, of all cores together.
pub fn sums_of(meters: &[Arc<CoreMeter>], which: fn(&Times) -> &Histogram) -> Sums {
    Sums::of(TIMES_US, meters.iter().map(|meter| which(&meter.times)))
}

fn cores(page: &mut Page, meters: &[Arc<CoreMeter>]) {
    let values: Vec<_> = meters.iter().map(|meter| meter.values()).collect();
    for (index, (name, help, kind)) in CoreMeter::TABLE.iter().enumerate() {
        let unit = if *kind == Kind::Gauge && name.ends_with("_bytes") {
            "bytes"
        } else {
            ""
        };
        page.head(name, *kind, unit, help);
        for (core, values) in values.iter().enumerate() {
            page.labelled(name, "core", core, values[index]);
        }
    }
}

fn times(page: &mut Page, meters: &[Arc<CoreMeter>]) {
    page.single(&of::REQUESTS_IN_FLIGHT, in_flight(meters));
    type Which = fn(&Times) -> &Histogram;
    let all: [(&Family, Which); 6] = [
        (&of::REQUEST_SECONDS, |times| &times.total),
        (&of::ADDED_SECONDS, |times| &times.added),
        (&of::UPSTREAM_SECONDS, |times| &times.upstream),
        (&of::FIRST_TOKEN_SECONDS, |times| &times.first_token),
        (&of::BETWEEN_TOKENS_SECONDS, |times| &times.between_tokens),
        (&of::QUEUE_SECONDS, |times| &times.queue),
    ];
    for (family, which) in all {
        page.family(family);
        page.histogram(family, &[], &sums_of(meters, which), MICRO);
    }
    page.family(&of::CORE_LAG);
    for (core, meter) in meters.iter().enumerate() {
        let sums = Sums::of(TIMES_US, [&meter.times.lag].into_iter());
        page.histogram(&of::CORE_LAG, &[&core.to_string()], &sums, MICRO);
    }
}

/// One target's rows of all cores; several targets' as `other`.
struct Merged<'a> {
    label: TargetLabel,
    rows: Vec<&'a TargetSeries>,
}

impl Merged<'_> {
    fn sum(&self, which: fn(&TargetSeries) -> &Counter) -> u64 {
        self.rows.iter().map(|row| which(row).get()).sum()
    }

    fn sums(&self, bounds: &'static [u64], which: fn(&TargetSeries) -> &Histogram) -> Sums {
        Sums::of(bounds, self.rows.iter().map(|row| which(row)))
    }
}

/// The targets with most attempts; what is left of each provider is `other`, by what was asked.
fn merged(meters: &[Arc<CoreMeter>]) -> Vec<Merged<'_>> {
    let mut by_label: BTreeMap<&TargetLabel, Vec<&TargetSeries>> = BTreeMap::new();
    for (label, row) in meters.iter().flat_map(|meter| meter.boards.targets.rows()) {
        by_label.entry(label).or_default().push(row);
    }
    let mut all: Vec<Merged<'_>> = by_label
        .into_iter()
        .map(|(label, rows)| Merged {
            label: label.clone(),
            rows,
        })
        .filter(|target| target.sum(|row| &row.attempts) > 0)
        .collect();
    all.sort_by_key(|target| std::cmp::Reverse(target.sum(|row| &row.attempts)));
    let mut rest = Merged {
        label: TargetLabel {
            provider: "other".into(),
            model: "other".into(),
            operation: "other",
        },
        rows: Vec::new(),
    };
    if all.len() > METRICS_TARGETS {
        all.drain(METRICS_TARGETS..)
            .for_each(|target| rest.rows.extend(target.rows));
        all.push(rest);
    }
    all
}

fn targets(page: &mut Page, meters: &[Arc<CoreMeter>]) {
    let all = merged(meters);
    // A target may be asked for several things; its counters do not tell them apart.
    let mut counted: BTreeMap<(&str, &str), Vec<&Merged<'_>>> = BTreeMap::new();
    for target in &all {
        counted
            .entry((&target.label.provider, &target.label.model))
            .or_default()
            .push(target);
    }
    let sum = |targets: &[&Merged<'_>], which: fn(&TargetSeries) -> &Counter| -> u64 {
        targets.iter().map(|target| target.sum(which)).sum()
    };
    type Which = fn(&TargetSeries) -> &Counter;
    let plain: [(&Family, Which); 3] = [
        (&of::TARGET_ATTEMPTS, |row| &row.attempts),
        (&of::TARGET_SUCCEEDED, |row| &row.succeeded),
        (&of::TARGET_ABANDONED, |row| &row.abandoned),
    ];
    for (family, which) in plain {
        page.family(family);
        for ((provider, model), targets) in &counted {
            page.sample(family, &[provider, model], sum(targets, which));
        }
    }
    page.family(&of::TARGET_FAILED);
    for ((provider, model), targets) in &counted {
        let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
        for row in targets.iter().flat_map(|target| &target.rows) {
            for (code, count) in row.failed.counted() {
                *codes.entry(code.as_str()).or_default() += count;
            }
        }
        for (code, count) in codes {
            page.sample(&of::TARGET_FAILED, &[provider, model, code], count);
        }
    }
    page.family(&of::TARGET_TOKENS);
    let kinds: [(&str, Which); 3] = [
        ("input", |row| &row.input),
        ("cached", |row| &row.cached),
        ("output", |row| &row.output),
    ];
    for ((provider, model), targets) in &counted {
        for (kind, which) in kinds {
            page.sample(&of::TARGET_TOKENS, &[provider, model, kind], sum(targets, which));
        }
    }
    page.family(&of::TARGET_COST);
    for ((provider, model), targets) in &counted {
        let usd = sum(targets, |row| &row.cost) as f64 * NANO;
        page.sample(&of::TARGET_COST, &[provider, model], number(usd));
    }
    gen_ai(page, &all);
}

/// OpenTelemetry's histograms. One without values is not shown.
fn gen_ai(page: &mut Page, all: &[Merged<'_>]) {
    type Of = fn(&TargetSeries) -> &Histogram;
    // The metric, its bounds, where it is, the value of its last label, and what its unit is of ours.
    type Shown = (&'static Family, &'static [u64], Of, Option<&'static str>, f64);
    let all_of: [Shown; 6] = [
        (
            &of::OPERATION_SECONDS,
            DURATION_US,
            |row| &row.duration,
            Some(""),
            MICRO,
        ),
        (
            &of::OPERATION_SECONDS,
            DURATION_US,
            |row| &row.failure_duration,
            Some("_OTHER"),
            MICRO,
        ),
        (&of::TOKEN_USAGE, TOKENS, |row| &row.input_tokens, Some("input"), 1.0),
        (&of::TOKEN_USAGE, TOKENS, |row| &row.output_tokens, Some("output"), 1.0),
        (
            &of::SERVER_FIRST_TOKEN,
            FIRST_TOKEN_US,
            |row| &row.first_token,
            None,
            MICRO,
        ),
        (&of::SERVER_PER_TOKEN, PER_TOKEN_US, |row| &row.per_token, None, MICRO),
    ];
    let mut last = "";
    for (family, bounds, which, fourth, scale) in all_of {
        if std::mem::replace(&mut last, family.name) != family.name {
            page.family(family);
        }
        for target in all {
            let sums = target.sums(bounds, which);
            if sums.count() > 0 {
                let TargetLabel {
                    provider,
                    model,
                    operation,
                } = &target.label;
                let mut values = vec![*operation, &**provider, &**model];
                values.extend(fourth);
                page.histogram(family, &values, &sums, scale);
            }
        }
    }
}

fn fallbacks(page: &mut Page, meters: &[Arc<CoreMeter>]) {
    let mut sums: BTreeMap<&FallbackLabel, u64> = BTreeMap::new();
    for (label, count) in meters.iter().flat_map(|meter| meter.boards.fallbacks.rows()) {
        *sums.entry(label).or_default() += count.get();
    }
    page.family(&of::FALLBACKS);
    for (label, count) in sums.into_iter().filter(|(_, count)| *count > 0) {
        page.sample(&of::FALLBACKS, &[&label.from, &label.to, label.reason], count);
    }
}

/// Virtual keys: requests, failed ones, input and output tokens, nano-dollars.
fn callers(page: &mut Page, meters: &[Arc<CoreMeter>]) {
    let mut sums: HashMap<&str, [u64; 5]> = HashMap::new();
    for (name, row) in meters.iter().flat_map(|meter| meter.boards.callers.rows()) {
        let sum = sums.entry(name).or_default();
        let values = [&row.requests, &row.failed, &row.input, &row.output, &row.cost];
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value.get());
    }
    let mut rest = sums.remove("other").unwrap_or_default();
    let mut all: Vec<(&str, [u64; 5])> = sums.into_iter().collect();
    all.sort_unstable_by_key(|(name, sum)| (std::cmp::Reverse(sum[0]), *name));
    for (_, sum) in all.drain(METRICS_TOP.min(all.len())..) {
        rest.iter_mut().zip(sum).for_each(|(rest, value)| *rest += value);
    }
    if rest[0] > 0 {
        all.push(("other", rest));
    }
    for (family, index) in [(&of::KEY_REQUESTS, 0), (&of::KEY_FAILED, 1)] {
        page.family(family);
        all.iter()
            .for_each(|(name, sum)| page.sample(family, &[name], sum[index]));
    }
    page.family(&of::KEY_TOKENS);
    for (name, sum) in &all {
        page.sample(&of::KEY_TOKENS, &[name, "input"], sum[2]);
        page.sample(&of::KEY_TOKENS, &[name, "output"], sum[3]);
    }
    page.family(&of::KEY_COST);
    for (name, sum) in &all {
        page.sample(&of::KEY_COST, &[name], number(sum[4] as f64 * NANO));
    }
}

fn budgets(page: &mut Page, status: &Status) {
    let mut all: Vec<BudgetView> = status.budgets();
    page.single(&of::BUDGETS, all.len());
    let leased: u64 = all.iter().map(BudgetView::leased).sum();
    page.single(&of::BUDGET_LEASED, number(leased as f64 * NANO));
    all.sort_by(|a, b| b.share().total_cmp(&a.share()).then(a.row.cmp(&b.row)));
    all.truncate(METRICS_TOP);
    let usd = |nanos: u64| number(nanos as f64 * NANO);
    type Which = fn(&BudgetView) -> u64;
    let families: [(&Family, Which); 3] = [
        (&of::BUDGET_LIMIT, |budget| budget.limit),
        (&of::BUDGET_SPENT, |budget| budget.spent),
        (&of::BUDGET_REMAINING, |budget| {
            budget.limit.saturating_sub(budget.spent)
        }),
    ];
    for (family, which) in families {
        page.family(family);
        for budget in &all {
            let row = budget.row.to_string();
            page.sample(family, &[&row, &budget.owner, &budget.window], usd(which(budget)));
        }
    }
}

fn configuration(page: &mut Page, status: &Status) {
    page.family(&of::BUILD_INFO);
    page.sample(&of::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    status.change(|state| {
        page.family(&of::CONFIG_INFO);
        page.sample(&of::CONFIG_INFO, &[&state.config_hash], 1);
        page.single(&of::CONFIG_GENERATION, state.generation);
        page.single(&of::CONFIG_RELOADS, state.reloads);
        page.single(&of::CONFIG_REFUSED, state.refused);
        page.single(&of::CONFIG_RELOADED_AT, number(state.reloaded_at_ms as f64 / 1e3));
        page.single(&of::CONFIG_RELOAD_OK, u8::from(state.refusal.is_none()));
        page.single(&of::SOFT_LIMITS, state.soft_limits);
        let troubles = state.store.unwrap_or_default();
        page.single(&of::LEDGER_LOST, troubles.lost);
        page.single(&of::LEDGER_WAITING, troubles.waiting);
        page.single(&of::STORE_FAILING, u8::from(troubles.failing));
    });
}

#[cfg(test)]
mod tests;
