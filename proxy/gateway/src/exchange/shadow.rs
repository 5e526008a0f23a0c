//! Copies of requests to a route's shadow target: sent by a task of their own, their answers read and thrown away.
//!
//! Invariants: a copy is made from buffers that are there already and never delays, changes or fails the client's request; at
//! most `limits::SHADOWS_MAX` are under way on a core, beyond that none is made, nor without a free place at a provider whose
//! concurrency is limited; a key at rest and a target that is left alone are left alone here too, and what happens is
//! remembered as for any attempt. Deliberately absent: retries, and any record
//! of its own (two counters tell).

use std::rc::Rc;

use sluice_policy::route::{self, PlannedTarget};
use sluice_policy::snapshot::{OriginId, Resolved};
use sluice_wire::error::Code;
use sluice_wire::http::body::BodyDecoder;
use sluice_wire::http::head::ResponseHead;
use sluice_wire::limits::{HEAD_BYTES_MAX, SHADOW_BODY_BYTES_MAX, SHADOWS_MAX};

use super::Context;
use super::ticket::{Need, Place, Ticket};
use crate::attempt::{Failure, request};
use crate::buffer::Size;
use crate::core::Core;
use crate::net;
use crate::parts::Parts;
use crate::plane::HeldPlane;
use crate::scratch::Work;
use crate::upstream;

/// A copy under way.
struct Copy {
    core: Rc<Core>,
    plane: HeldPlane,
    parts: Parts,
    origin: OriginId,
    connect_by_ms: u64,
    total_at_ms: u64,
}

/// What became of a copy.
enum Ended {
    /// A complete answer of that status.
    Answered(u16),
    /// None, and the target is to blame.
    Failed,
    /// None; a pooled connection had been closed.
    Stale,
}

/// One of the copies that a core has under way.
struct Slot(Rc<Core>);

impl Slot {
    fn take(core: &Rc<Core>) -> Option<Self> {
        let taken = core.shadows.get();
        (taken < SHADOWS_MAX).then(|| {
            core.shadows.set(taken + 1);
            Self(core.clone())
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.shadows.set(self.0.shadows.get() - 1);
    }
}

/// Sends a copy of the request to its route's shadow target, if it has one and the lot falls on this request.
pub(super) fn send(context: &Context<'_>, resolved: &Resolved<'_>) {
    let snapshot = &context.plane.snapshot;
    if !snapshot.has_shadow(resolved) || context.body_bytes > SHADOW_BODY_BYTES_MAX {
        return;
    }
    let Some(target) = route::shadow(snapshot, resolved, context.core.random()) else {
        return;
    };
    if target.provider.dialect == context.dialect || context.endpoint.is_translatable() {
        start(context, &target);
    }
}

#[cold]
fn start(context: &Context<'_>, target: &PlannedTarget<'_>) {
    let Some(slot) = Slot::take(context.core) else { return };
    let Ok(at_provider) = context
        .core
        .gates
        .enter_at_once(&context.plane.snapshot, target.provider)
    else {
        return;
    };
    let excluded = target.provider.excluded_keys(target.model);
    let place = Place::of(context, target);
    let Ok((ticket, choice)) = Ticket::enter(context, target, place, excluded, Need::Choice) else {
        return;
    };
    let key = &target.provider.keys[choice];
    let mut work = Work::default();
    if request::write(context, &mut work, target, key).is_err() {
        return;
    }
    let now_ms = context.core.clock.tick_ms();
    let total_at_ms = now_ms + u64::from(target.timeouts.total_ms);
    let copy = Copy {
        core: context.core.clone(),
        plane: context.plane.clone(),
        parts: work.parts,
        origin: key.origin,
        connect_by_ms: total_at_ms.min(now_ms + u64::from(target.timeouts.connect_ms)),
        total_at_ms,
    };
    context.core.meter.shadows.add(1);
    let provider = target.provider.id;
    net::spawn(async move {
        let (core, plane) = (copy.core.clone(), copy.plane.clone());
        let ended = copy.run().await;
        settle(&core, ticket, &ended, plane.snapshot.provider(provider));
        drop((slot, at_provider));
    });
}

/// Remembers what became of a copy.
fn settle(core: &Core, mut ticket: Ticket, ended: &Ended, provider: &sluice_policy::snapshot::Provider) {
    let code = match ended {
        Ended::Answered(200..=299) => return ticket.answered(core.clock.now_us()),
        Ended::Answered(401..=403) => Code::UpstreamAuth,
        Ended::Answered(429) => Code::UpstreamRateLimited,
        Ended::Answered(500..) => Code::UpstreamError,
        Ended::Failed => Code::UpstreamReset,
        // The request is wrong, or nothing is known: neither says anything of the target.
        Ended::Answered(_) | Ended::Stale => return core.meter.shadows_failed.add(1),
    };
    core.meter.shadows_failed.add(1);
    let status = match ended {
        Ended::Answered(status) => *status,
        Ended::Failed | Ended::Stale => 0,
    };
    let mut failure = Failure::new(code, provider);
    failure.status = status;
    ticket.failed(&failure, true);
}

impl Copy {
    async fn run(mut self) -> Ended {
        let mut upstream = match upstream::idle(&self.core, &self.plane, self.origin) {
            Some(upstream) => upstream,
            None => match upstream::open(&self.core, &self.plane, self.origin, self.connect_by_ms).await {
                Ok(upstream) => upstream,
                Err(_) => return Ended::Failed,
            },
        };
        upstream.stream.deadline().set(self.total_at_ms);
        let stale = upstream.reused;
        let nothing = if stale { Ended::Stale } else { Ended::Failed };
        if upstream.stream.send(&mut self.parts).await.is_err() {
            return nothing;
        }
        let mut head = ResponseHead::default();
        let mut gathered = self.core.net.buffers.lease(Size::Large);
        loop {
            match upstream.stream.recv().await {
                Ok(Some(chunk)) if gathered.append(&chunk).is_ok() => {}
                _ if gathered.bytes().is_empty() => return nothing,
                _ => return Ended::Failed,
            }
            match head.parse(gathered.bytes(), false) {
                Ok(true) if head.status >= 200 => break,
                Ok(false) if gathered.bytes().len() < HEAD_BYTES_MAX => {}
                // Interim answers are rare, and a copy is not worth the care.
                Ok(_) | Err(_) => return Ended::Failed,
            }
        }
        let mut rest = gathered.into_chunk();
        rest.advance(head.head_bytes);
        let mut decoder = BodyDecoder::new(head.framing);
        let mut spans = Vec::new();
        loop {
            spans.clear();
            let Ok(step) = decoder.push(&rest, &mut spans) else {
                return Ended::Failed;
            };
            let is_whole = step.consumed == rest.len();
            if decoder.is_done() {
                if is_whole && head.keep_alive {
                    upstream.release(&self.core, self.plane.snapshot.upstream().idle_connections);
                }
                return Ended::Answered(head.status);
            }
            match upstream.stream.recv().await {
                Ok(Some(chunk)) => rest = chunk,
                Ok(None) if decoder.finish_at_eof().is_ok() => return Ended::Answered(head.status),
                Ok(None) | Err(_) => return Ended::Failed,
            }
        }
    }
}
