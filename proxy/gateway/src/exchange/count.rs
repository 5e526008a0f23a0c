//! What is counted of requests and attempts: by how they end, by how long they took, and by label.
//!
//! Invariants: a request is counted once, when it ends, as answered by the cache, forwarded, or neither; what is labelled by a
//! model is labelled by a name that the configuration or the table of prices has, else `other`; without accounts, no label of
//! a caller exists. Deliberately absent: the numbers (`sluice_policy::meter`) and how an attempt ends (`ticket.rs`).

use sluice_policy::meter::board::OTHER;
use sluice_policy::meter::series::{FallbackLabel, TargetLabel, TargetSeries};
use sluice_policy::meter::{COUNTED, Reason};
use sluice_policy::money::NanoUsd;
use sluice_policy::route::{Plan, PlannedTarget};
use sluice_policy::snapshot::Resolved;
use sluice_wire::chat::Usage;
use sluice_wire::surface::Endpoint;

use super::Context;
use super::payment::Payment;
use crate::core::Core;
use crate::record::{CacheUse, Outcome, Record};

/// Counts a request that has ended.
pub fn request(core: &Core, record: &Record, payment: &Payment) {
    if !COUNTED {
        return;
    }
    let meter = &*core.meter;
    match record.status {
        200..=299 => meter.responses_2xx.add(1),
        400..=499 => meter.responses_4xx.add(1),
        500..=599 => meter.responses_5xx.add(1),
        _ => {}
    }
    match record.outcome {
        Outcome::ClientGone => meter.clients_gone.add(1),
        Outcome::Interrupted => meter.streams_interrupted.add(1),
        Outcome::Done | Outcome::Refused(_) => {}
    }
    meter.bytes_in.add(record.bytes_in);
    meter.bytes_out.add(record.bytes_out);
    match (record.attempts, record.cache) {
        (0, Some(CacheUse::Hit | CacheUse::Semantic)) => meter.from_cache.add(1),
        (0, _) => meter.refused.add(1),
        _ => meter.forwarded.add(1),
    }
    times(core, record, payment.output_tokens());
    let Some((number, name)) = payment.caller() else { return };
    let at = core.series.caller(meter, number, name);
    if let Some(row) = meter.boards.callers.row(at) {
        let (input, output, cost) = payment.used();
        row.requests.add(1);
        row.failed
            .add(u64::from(record.outcome != Outcome::Done || record.status >= 400));
        row.input.add(input);
        row.output.add(output);
        row.cost.add(cost.0);
    }
}

fn times(core: &Core, record: &Record, output_tokens: u64) {
    if record.status == 0 {
        return;
    }
    let times = &core.meter.times;
    let wide = u64::from;
    times.total.observe(wide(record.total_us));
    // After another attempt it is not told apart what the provider took that was asked before.
    if record.attempts == 1 {
        let elsewhere = wide(record.received_us) + wide(record.upstream_us) + wide(record.queued_us);
        times
            .added
            .observe(wide(record.first_byte_us).saturating_sub(elsewhere));
        times.upstream.observe(wide(record.upstream_us));
    }
    if record.stream {
        times.first_token.observe(wide(record.first_byte_us));
        if output_tokens > 1 {
            let streamed_us = wide(record.total_us.saturating_sub(record.first_byte_us));
            times.between_tokens.observe(streamed_us / (output_tokens - 1));
        }
    }
    if record.queued_us > 0 {
        times.queue.observe(wide(record.queued_us));
    }
}

/// The row of a target's series; `tag` is [`sluice_policy::health::Health::tag`] of it.
pub fn target(context: &Context<'_>, target: &PlannedTarget<'_>, tag: u64) -> usize {
    if !COUNTED {
        return OTHER;
    }
    let operation = operation(context.endpoint);
    // The tag alone says the operation that nearly all requests have.
    let tag = tag.wrapping_add((operation.len() as u64 - "chat".len() as u64) << 1);
    let label = || TargetLabel {
        provider: target.provider.name.clone(),
        model: context.plane.model_label(target.provider, target.model).into(),
        operation,
    };
    context.core.series.target(&context.core.meter, tag, label)
}

/// The numbers of a target.
pub fn row(core: &Core, at: usize) -> Option<&TargetSeries> {
    core.meter.boards.targets.row(at).filter(|_| COUNTED)
}

/// An answer has said what it used, which costs so much.
pub fn usage(core: &Core, at: usize, usage: &Usage, cost: NanoUsd) {
    let Some(row) = row(core, at) else { return };
    let input = usage.input_total();
    row.input.add(input);
    row.cached.add(usage.cache_read);
    row.output.add(usage.output);
    row.cost.add(cost.0);
    row.input_tokens.observe(input);
    row.output_tokens.observe(usage.output);
}

/// An attempt has cost something without saying what it used.
pub fn cost(core: &Core, at: usize, cost: NanoUsd) {
    if let Some(row) = row(core, at) {
        row.cost.add(cost.0);
    }
}

/// Another target than the first of the plan has answered.
pub fn fallback(
    context: &Context<'_>,
    (resolved, plan): (&Resolved<'_>, &Plan),
    to: &PlannedTarget<'_>,
    reason: Option<Reason>,
) {
    let meter = &*context.core.meter;
    meter.fallbacks.add(1);
    let Some(reason) = reason else { return };
    meter.fallbacks_by_reason.add(reason);
    let Some(from) = plan.target(&context.plane.snapshot, resolved, context.own_fallbacks, 0) else {
        return;
    };
    let health = &context.plane.health;
    let tag_of = |target: &PlannedTarget<'_>| health.tag(&target.provider.name, target.model);
    let tag = tag_of(&from).rotate_left(17) ^ tag_of(to) ^ (reason.index() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let name = |target: &PlannedTarget<'_>| {
        let model = context.plane.model_label(target.provider, target.model);
        format!("{}/{model}", target.provider.name).into_boxed_str()
    };
    let label = || FallbackLabel {
        from: name(&from),
        to: name(to),
        reason: reason.as_str(),
    };
    let at = context.core.series.fallback(meter, tag, label);
    if let Some(count) = meter.boards.fallbacks.row(at) {
        count.add(1);
    }
}

/// OpenTelemetry's `gen_ai.operation.name`.
fn operation(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Completions => "text_completion",
        Endpoint::Embeddings => "embeddings",
        endpoint if endpoint.is_charged_by_tokens() => "chat",
        _ => "other",
    }
}
