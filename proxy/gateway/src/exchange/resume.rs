//! A stream that was cut after it had begun: another target is asked to go on from the text that the client has.
//!
//! Invariants: only a route that asks for it does this, only with targets that take the beginning of an answer, and only while
//! the answer is nothing but text; a target is asked once; if none goes on, the client is told that its stream was cut. The
//! client sees one stream. Deliberately absent: how two streams become one (`sluice_wire::provider`).

use sluice_policy::route::Plan;
use sluice_policy::snapshot::Resolved;
use sluice_wire::error::Code;

use super::ticket::{Need, Place, Ticket};
use super::{Context, End, Request, account};
use crate::attempt;
use crate::connection::Downstream;
use crate::record::{Fate, Label};
use crate::relay::{self, Undelivered, Unfinished};
use crate::scratch::Work;

/// Goes on with `unfinished` at the targets behind number `cut_at` of the plan, one after the other.
pub(super) async fn run(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    (resolved, plan): (&Resolved<'_>, &Plan),
    cut_at: usize,
    mut unfinished: Box<Unfinished>,
) -> Result<(), End> {
    let snapshot = &*context.plane.snapshot;
    for index in cut_at + 1..plan.len() {
        let Some(target) = plan.target(snapshot, resolved, context.own_fallbacks, index) else {
            break;
        };
        let Some(text) = unfinished.continuation().filter(|_| !context.is_late()) else {
            break;
        };
        if !target.provider.takes_beginnings(target.model) || account::may_use(context, &target).is_err() {
            continue;
        }
        let place = Place::of(context, &target);
        let excluded = target.provider.excluded_keys(target.model);
        let Ok((ticket, choice)) = Ticket::enter(context, &target, place, excluded, Need::Choice) else {
            continue;
        };
        if work.payment.hold(context, &target).is_err() {
            continue;
        }
        let key = &target.provider.keys[choice];
        request.names.set_asked(&target.provider.name, &key.name);
        request.record.fallback = target.is_fallback;
        request.ticket = Some(ticket);
        work.beginning = Some(text.into());
        let ran = attempt::run(context, down, work, request, &target, key).await;
        work.beginning = None;
        let failure = match ran? {
            Ok(answer) if work.response.status == 200 => {
                match relay::go_on(context, down, work, request, &target, answer, unfinished).await {
                    Ok(()) => {
                        context.core.meter.streams_resumed.add(1);
                        request.record.resumed = true;
                        request.settle_delivered(context, &mut work.payment, (resolved, plan), &target);
                        return Ok(());
                    }
                    Err(Undelivered::Cut(again)) => {
                        unfinished = again;
                        request.settle_ended(context, &mut work.payment, &target, &End::Interrupted);
                        continue;
                    }
                    Err(Undelivered::Ended(end)) => {
                        request.settle_ended(context, &mut work.payment, &target, &end);
                        return Err(end);
                    }
                    // Cannot be: the stream has begun.
                    Err(Undelivered::Failed(failure)) => return Err(failure.into_end()),
                }
            }
            // A verdict on the request as it was put to this target.
            Ok(_) => None,
            Err(failure) => Some(failure),
        };
        work.payment.failed(context.core);
        let Some(ticket) = request.ticket.take() else { continue };
        let verdict = (Code::UpstreamError, work.response.status);
        let (code, status) = failure.as_ref().map_or(verdict, |why| (why.code, why.status));
        let ended = (Fate::Failed(code), status);
        request.tried(context, &target, Label::new(&key.name), Some(ticket.begun_us()), ended);
        match failure {
            Some(failure) => {
                context.core.meter.failures.add(failure.code);
                ticket.failed(&failure, !context.is_late());
            }
            None => ticket.unfit(),
        }
    }
    Err(relay::give_up(context, down, work, request, unfinished).await)
}
