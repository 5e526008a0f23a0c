//! Two targets at once: when the first is late, a second one is asked beside it, and the first to begin its answer wins.
//!
//! Invariants: the loser's connection is closed at once, and the record says who it was, because its provider may charge for
//! what it did; a second target is asked once at most, and comes out of the first one's budget of hedges; nothing is sent to
//! the client here. Deliberately absent: what follows when both fail (`forward.rs`).

use std::pin::pin;

use futures_util::future::{Either, select};
use sluice_policy::meter::Reason;
use sluice_policy::route::PlannedTarget;
use sluice_policy::snapshot::Key;
use sluice_wire::error::Code;

use super::forward::Course;
use super::ticket::{Need, Place, Ticket};
use super::{Context, Payment, Request};
use crate::attempt::{self, Answer, Failure};
use crate::connection::{ClientGone, Downstream};
use crate::net;
use crate::presence::Unwatched;
use crate::scratch::Work;

/// Shortest delay that is learnt, in milliseconds: two ticks of a core.
const DELAY_MS_MIN: u32 = 20;

/// A target with a key, and where it is remembered.
#[derive(Clone, Copy)]
pub(super) struct Leg<'a> {
    /// The target.
    pub target: PlannedTarget<'a>,
    /// Its key.
    pub key: &'a Key,
    /// Where it is remembered.
    pub place: Place,
}

/// After how many milliseconds the second target is asked; `None`: not at all. The request earns its share of a hedge.
pub(super) fn delay_ms(context: &Context<'_>, first: Place) -> Option<u32> {
    let hedging = context.plane.snapshot.hedge(context.route)?;
    let state = context.plane.health.target(first.slot?);
    state.earn_hedge(hedging.budget_milli);
    hedging
        .delay_ms
        .or_else(|| Some((state.late_us(context.stream)? / 1000).max(DELAY_MS_MIN)))
}

/// Asks `first`, and `rival` as well if that is late by `delay_ms`. Gives what the winner answered, or the failure of the
/// last that was left, and which leg it was if not the first.
///
/// # Errors
/// [`ClientGone`]: both are dropped, and charged.
pub(super) async fn race<'a>(
    context: &Context<'a>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    course: &mut Course,
    first: Leg<'a>,
    rival: (usize, PlannedTarget<'a>),
    delay_ms: u32,
) -> Result<(Result<Answer, Failure>, Option<Leg<'a>>), ClientGone> {
    // Out here, so that what the second leg has cost by then is known if the client leaves.
    let mut fork = request.fork();
    let mut scratch = context.core.lease_scratch();
    scratch.work.payment = work.payment.fork();
    let beside = Beside {
        request: &mut fork,
        work: &mut scratch.work,
    };
    let both = run(context, work, request, course, first, rival, (beside, delay_ms));
    let raced = down.while_present(both).await;
    request.record.attempts = request.record.attempts.saturating_add(fork.record.attempts);
    // What is in it now is the loser's, or, if nobody has won because nobody waits any more, the second leg's.
    let loser = std::mem::take(&mut scratch.work.payment);
    work.payment.join(loser, context.core);
    context.core.return_scratch(scratch);
    raced
}

/// What the second attempt has of its own.
struct Beside<'a> {
    request: &'a mut Request,
    work: &'a mut Work,
}

/// How it ended while both were under way.
enum Ended {
    /// The first one alone: the second never began, or failed.
    First(Result<Answer, Failure>, Option<Failure>),
    /// The first one began its answer before the second.
    FirstWon(Answer),
    /// The second one did, or is what is left after the first failed.
    Second(Result<Answer, Failure>, Option<Failure>),
}

async fn run<'a>(
    context: &Context<'a>,
    work: &mut Work,
    request: &mut Request,
    course: &mut Course,
    first: Leg<'a>,
    (index, rival): (usize, PlannedTarget<'a>),
    (other, delay_ms): (Beside<'_>, u32),
) -> (Result<Answer, Failure>, Option<Leg<'a>>) {
    let Beside {
        request: fork,
        work: spare,
    } = other;
    let mut second = None;
    let ended = {
        let mut running = pin!(begin(context, work, request, first));
        match select(running.as_mut(), pin!(net::sleep_ms(u64::from(delay_ms)))).await {
            Either::Left((result, _)) => Ended::First(result, None),
            Either::Right(_) => match enter(context, fork, &mut spare.payment, first.place, rival) {
                None => Ended::First(running.await, None),
                Some(leg) => {
                    context.core.meter.hedges.add(1);
                    second = Some(leg);
                    let mut beside = pin!(begin(context, spare, fork, leg));
                    match select(running.as_mut(), beside.as_mut()).await {
                        Either::Left((Ok(answer), _)) => Ended::FirstWon(answer),
                        Either::Left((Err(failure), _)) => Ended::Second(beside.await, Some(failure)),
                        Either::Right((Ok(answer), _)) => Ended::Second(Ok(answer), None),
                        Either::Right((Err(failure), _)) => Ended::First(running.await, Some(failure)),
                    }
                }
            },
        }
    };
    match ended {
        Ended::First(result, failed) => {
            if let Some(failure) = failed {
                course.asked(index);
                let leg = second.unwrap_or(first);
                course.beside(context, request, fork.ticket.take(), (&leg, failure));
            }
            (result, None)
        }
        Ended::FirstWon(answer) => {
            if let (Some(leg), Some(ticket)) = (second, fork.ticket.take()) {
                request.loses(context, &leg, ticket);
            }
            (Ok(answer), None)
        }
        Ended::Second(result, failed) => {
            course.asked(index);
            let ticket = std::mem::replace(&mut request.ticket, fork.ticket.take());
            match (failed, ticket) {
                (Some(failure), ticket) => course.beside(context, request, ticket, (&first, failure)),
                (None, Some(ticket)) => request.loses(context, &first, ticket),
                (None, None) => {}
            }
            request.record.reason.get_or_insert(Reason::Late);
            request.record.upstream_us = fork.record.upstream_us;
            request.record.queued_us = fork.record.queued_us;
            request.names.set_asked(&rival.provider.name, fork.names.key());
            request.record.fallback = rival.is_fallback;
            std::mem::swap(work, spare);
            // Who reads along, or logs, does so whoever answers.
            std::mem::swap(&mut work.tape, &mut spare.tape);
            (result, second)
        }
    }
}

/// Begins the second attempt, if its target is well and has a key, and the first one's budget allows it.
fn enter<'a>(
    context: &Context<'a>,
    fork: &mut Request,
    payment: &mut Payment,
    first: Place,
    target: PlannedTarget<'a>,
) -> Option<Leg<'a>> {
    let place = Place::of(context, &target);
    let excluded = target.provider.excluded_keys(target.model);
    let (ticket, choice) = Ticket::enter(context, &target, place, excluded, Need::Choice).ok()?;
    if ticket.is_probe() {
        return None;
    }
    let core = context.core;
    if !context
        .plane
        .health
        .target(first.slot?)
        .take_hedge(core.clock.shared_ms())
    {
        core.meter.hedges_denied.add(1);
        return None;
    }
    payment.hold(context, &target).ok()?;
    let key = &target.provider.keys[choice];
    fork.names.set_asked(&target.provider.name, &key.name);
    fork.ticket = Some(ticket);
    Some(Leg { target, key, place })
}

/// An attempt up to the first bytes of its answer's body.
async fn begin(context: &Context<'_>, work: &mut Work, request: &mut Request, leg: Leg<'_>) -> Result<Answer, Failure> {
    let ran = attempt::run(context, &mut Unwatched, work, request, &leg.target, leg.key).await;
    // Nobody is watched, so nobody has gone.
    let Ok(result) = ran else {
        return Err(Failure::new(Code::Internal, leg.target.provider));
    };
    let mut answer = result?;
    let by_ms = answer.sent_at_ms + u64::from(leg.target.timeouts.first_token_ms);
    if context.stream && answer.rest.is_empty() && !answer.decoder.is_done() {
        let stream = &mut answer.upstream.stream;
        stream.deadline().set(by_ms.min(context.limit_at_ms()));
        match stream.recv().await {
            Ok(Some(chunk)) => answer.rest = chunk,
            _ if stream.deadline().expired() => return Err(Failure::new(Code::UpstreamTimeout, leg.target.provider)),
            Ok(None) => return Err(Failure::new(Code::UpstreamProtocolError, leg.target.provider)),
            Err(_) => return Err(Failure::new(Code::UpstreamReset, leg.target.provider)),
        }
    }
    Ok(answer)
}
