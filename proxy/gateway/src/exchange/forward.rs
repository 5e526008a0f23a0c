//! From the plan of a request to its answer: targets in order, their keys, and what follows a failure.
//!
//! Invariants: nothing is tried after the first byte to the client; a target that was silent is not tried twice; a provider
//! that said when to come back is not asked before; nobody waits before the same target is tried again while another one of
//! the plan is well; retries at one target stay within its budget; a target that is passed over only because it failed before
//! is tried once all the same if no other answers. Deliberately absent: one attempt (`attempt.rs`), and what is remembered of
//! it (`ticket.rs`).

use sluice_policy::health::Blocked;
use sluice_policy::meter::Reason;
use sluice_policy::route::{self, KeysOut, Plan, PlannedTarget};
use sluice_policy::snapshot::{Key, Resolved};
use sluice_wire::error::{ApiError, Code};

use super::hedge::{self, Leg};
use super::ticket::{Need, PassedOver, Place, Ticket};
use super::{Context, End, Request, account, resume, shadow};
use crate::attempt::{self, Answer, Failure, Next, failure, limits};
use crate::connection::{ClientGone, Downstream};
use crate::deadline::TICK_MS;
use crate::net;
use crate::record::{Fate, Label};
use crate::relay::{self, Undelivered, Unfinished};
use crate::scratch::Work;

/// Longest `Retry-After` of a failing target that a request waits for, in milliseconds.
const RETRY_AFTER_MS_MAX: u64 = 1_000;

/// How long a request waits for a lease that is late, in ticks: a quarter of a second.
const LEASE_TICKS: u32 = 25;

/// How far a request has come.
#[derive(Default)]
pub(super) struct Course {
    /// Targets that were asked beside another one, as bits.
    beside: u16,
    last: Option<Failure>,
    attempted: bool,
    retries: u8,
    /// The first target that deserved a retry when another one was well.
    again: Option<usize>,
    /// The first target that was passed over for its past alone.
    resort: Option<usize>,
    /// The target that was looked at last.
    index: usize,
}

/// Which target it is, and what else there is.
#[derive(Clone, Copy)]
struct Turn<'a> {
    index: usize,
    /// Whether it has failed already, and so have those after it.
    again: bool,
    last_resort: bool,
    /// Whether no other target comes after it.
    is_last: bool,
    plan: &'a Plan,
    resolved: &'a Resolved<'a>,
    /// The target that may be asked beside it.
    rival: Option<(usize, PlannedTarget<'a>)>,
}

/// Tries the plan's targets, and each target's keys, until one answers.
pub(super) async fn forward(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    resolved: &Resolved<'_>,
    plan: &Plan,
) -> Result<(), End> {
    let snapshot = &*context.plane.snapshot;
    let mut course = Course::default();
    for step in 0..plan.len() + 2 {
        let beyond = step.checked_sub(plan.len());
        let (again, last_resort) = (beyond == Some(0), beyond == Some(1));
        let index = match beyond {
            None => Some(step),
            Some(0) => course.again,
            Some(_) => course.resort,
        };
        let Some(index) = index else { continue };
        let Some(target) = plan.target(snapshot, resolved, context.own_fallbacks, index) else {
            break;
        };
        if !fits(context, &target) || !last_resort && course.beside >> index & 1 == 1 {
            continue;
        }
        if let Err(refusal) = account::may_use(context, &target) {
            course.refuse(context, request, &target, refusal);
            continue;
        }
        let is_last = beyond.is_some() || index + 1 == plan.len();
        let hedged = !is_last && snapshot.hedge(context.route).is_some();
        let rest = index + 1..if hedged { plan.len() } else { 0 };
        let turn = Turn {
            index,
            again,
            last_resort,
            is_last,
            plan,
            resolved,
            rival: rest.into_iter().find_map(|rival| {
                let target = plan.target(snapshot, resolved, context.own_fallbacks, rival)?;
                let fits = fits(context, &target) && course.beside >> rival & 1 == 0;
                (fits && account::may_use(context, &target).is_ok()).then_some((rival, target))
            }),
        };
        match try_target(context, down, work, request, target, &mut course, turn).await? {
            Tried::Answered => return Ok(()),
            Tried::Cut(unfinished) => {
                let rest = resume::run(context, down, work, request, (resolved, plan), index, unfinished);
                // Boxed: it is rare, and its state would make every connection's task larger.
                return Box::pin(rest).await;
            }
            Tried::Failed => {}
        }
        if context.is_late() {
            break;
        }
    }
    let looked_at = plan.target(snapshot, resolved, context.own_fallbacks, course.index);
    request.trace = looked_at.map(|target| request.trace_of(target.provider, target.model));
    Err(course.into_end())
}

/// Whether a target can be asked this at all.
fn fits(context: &Context<'_>, target: &PlannedTarget<'_>) -> bool {
    target.provider.dialect == context.dialect || context.endpoint.is_translatable()
}

impl Turn<'_> {
    fn need(&self) -> Need {
        match (self.last_resort, self.is_last) {
            (true, _) => Need::Resort,
            (false, true) => Need::Last,
            (false, false) => Need::Choice,
        }
    }

    /// Whether a target that comes later is thought to be well.
    fn others_are_well(&self, context: &Context<'_>, course: &Course) -> bool {
        let later = if self.is_last {
            0..0
        } else {
            self.index + 1..self.plan.len()
        };
        let situation = context.situation();
        later
            .filter(|other| course.beside >> other & 1 == 0)
            .filter_map(|other| {
                let snapshot = &context.plane.snapshot;
                self.plan.target(snapshot, self.resolved, context.own_fallbacks, other)
            })
            .filter(|other| fits(context, other) && account::may_use(context, other).is_ok())
            .any(|other| route::is_healthy(other.provider, other.model, &situation))
    }
}

/// What became of a target.
enum Tried {
    /// The client has its answer.
    Answered,
    /// It gave none.
    Failed,
    /// The client has a part of it, and another target may go on.
    Cut(Box<Unfinished>),
}

/// Tries one target.
async fn try_target(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    mut target: PlannedTarget<'_>,
    course: &mut Course,
    turn: Turn<'_>,
) -> Result<Tried, End> {
    let place = Place::of(context, &target);
    if !begin(context, down, course, place, turn).await? {
        return Ok(Tried::Failed);
    }
    let mut tried = target.provider.excluded_keys(target.model);
    loop {
        let (ticket, choice) = match Ticket::enter(context, &target, place, tried, turn.need()) {
            Ok(entered) => entered,
            Err(why) => {
                course.pass_over(context, request, &target, turn, why);
                return Ok(Tried::Failed);
            }
        };
        tried |= 1 << choice;
        if let Err(refusal) = hold(context, down, work, &target).await? {
            course.refuse(context, request, &target, refusal);
            return Ok(Tried::Failed);
        }
        let key = &target.provider.keys[choice];
        name(request, &target, key);
        shorten(context, &mut target, place, &ticket, turn);
        if !std::mem::replace(&mut course.attempted, true) {
            shadow::send(context, turn.resolved);
        }
        request.ticket = Some(ticket);
        let first = Leg { target, key, place };
        let (answered, other) = ask(context, down, work, request, course, first, turn.rival).await?;
        let leg = other.unwrap_or(first);
        let failure = match answered {
            Ok(answer) => match finish(context, down, work, request, answer, leg, turn).await? {
                Finished::Failed(failure) => failure,
                Finished::Answered(cut) => {
                    context.core.meter.hedges_won.add(u64::from(other.is_some()));
                    return Ok(cut.map_or(Tried::Answered, Tried::Cut));
                }
            },
            Err(failure) => failure,
        };
        work.payment.failed(context.core);
        if other.is_some() {
            let last_resort = true;
            course.note(context, request, &leg, Turn { last_resort, ..turn }, failure);
            return Ok(Tried::Failed);
        }
        let next = failure.next;
        let pause_ms = course.note(context, request, &leg, turn, failure);
        let over = context.is_late();
        match pause_ms {
            _ if over => return Ok(Tried::Failed),
            Some(pause_ms) => {
                // Another key does as well; the same one may be the only one.
                tried &= !(1 << choice);
                if pause_ms > 0 {
                    down.while_present(net::pause_ms(pause_ms)).await?;
                }
            }
            None if next == Next::OtherKey && !turn.last_resort => {}
            None => return Ok(Tried::Failed),
        }
    }
}

/// One attempt, with another one beside it if it is late and there is a rival. Says which leg it was that answered, or failed
/// last, if not the first.
async fn ask<'a>(
    context: &Context<'a>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    course: &mut Course,
    first: Leg<'a>,
    rival: Option<(usize, PlannedTarget<'a>)>,
) -> Result<(Result<Answer, Failure>, Option<Leg<'a>>), ClientGone> {
    match rival.zip(hedge::delay_ms(context, first.place)) {
        None => {
            let answered = attempt::run(context, down, work, request, &first.target, first.key).await?;
            Ok((answered, None))
        }
        Some((rival, delay_ms)) => {
            let both = hedge::race(context, down, work, request, course, first, rival, delay_ms);
            // Boxed: it is rare, and its state would make every connection's task larger.
            Box::pin(both).await
        }
    }
}

/// Says in the record who is asked.
fn name(request: &mut Request, target: &PlannedTarget<'_>, key: &Key) {
    request.names.set_asked(&target.provider.name, &key.name);
    request.record.fallback = target.is_fallback;
}

/// A target's turn begins; false if the request may not ask it, after all.
async fn begin(
    context: &Context<'_>,
    down: &mut Downstream,
    course: &mut Course,
    place: Place,
    turn: Turn<'_>,
) -> Result<bool, ClientGone> {
    course.begin(context, place, turn);
    if turn.last_resort && course.attempted && !Course::affords(context, place) {
        return Ok(false);
    }
    if !turn.again {
        return Ok(true);
    }
    match course.pause_ms(context, place, 0, None) {
        Some(pause_ms) => down.while_present(net::pause_ms(pause_ms)).await.map(|()| true),
        None => Ok(false),
    }
}

/// Sets aside what an attempt may cost. Where only the lease of a budget is late, it is given a moment: the store has been told
/// already how much is missing.
async fn hold(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    target: &PlannedTarget<'_>,
) -> Result<Result<(), ApiError>, ClientGone> {
    let mut held = work.payment.hold(context, target);
    for _ in 0..LEASE_TICKS {
        match &held {
            Err(refusal) if refusal.code == Code::BudgetStoreUnavailable && !context.is_late() => {}
            _ => break,
        }
        down.while_present(net::pause_ms(TICK_MS)).await?;
        held = work.payment.hold(context, target);
    }
    let meter = &context.core.meter;
    match &held {
        Ok(()) => {}
        Err(refusal) if refusal.code == Code::BudgetStoreUnavailable => meter.store_refusals.add(1),
        Err(_) => meter.budget_refusals.add(1),
    }
    Ok(held)
}

/// What became of an answer.
enum Finished {
    /// Nothing of it reached the client.
    Failed(Failure),
    /// The client has it, or the part of it that came before it was cut.
    Answered(Option<Box<Unfinished>>),
}

/// Delivers an answer.
async fn finish(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    mut answer: Answer,
    leg: Leg<'_>,
    turn: Turn<'_>,
) -> Result<Finished, End> {
    if let Some(failure) = verdict(context, down, work, &mut answer, &leg.target, turn).await? {
        return Ok(Finished::Failed(failure));
    }
    limits::observe(context, work, &answer, leg.key);
    match relay::deliver(context, down, work, request, &leg.target, answer).await {
        Ok(()) => {
            request.settle_delivered(context, &mut work.payment, (turn.resolved, turn.plan), &leg.target);
            Ok(Finished::Answered(None))
        }
        Err(Undelivered::Cut(unfinished)) => {
            request.settle_ended(context, &mut work.payment, &leg.target, &End::Interrupted);
            Ok(Finished::Answered(Some(unfinished)))
        }
        Err(Undelivered::Ended(end)) => {
            request.settle_ended(context, &mut work.payment, &leg.target, &end);
            Err(end)
        }
        Err(Undelivered::Failed(failure)) => Ok(Finished::Failed(failure)),
    }
}

/// If the provider's verdict on the request is one that another model may not share, and another follows: that failure.
async fn verdict(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    answer: &mut Answer,
    target: &PlannedTarget<'_>,
    turn: Turn<'_>,
) -> Result<Option<Failure>, End> {
    let is_verdict = matches!(work.response.status, 400 | 413 | 422);
    if !is_verdict || turn.is_last || !context.plane.snapshot.heeds_verdicts(context.route) {
        return Ok(None);
    }
    // Boxed: it is rare, and its state would make every connection's task larger.
    Ok(Box::pin(failure::verdict(context, down, work, answer, target.provider)).await?)
}

/// A probe may fail: it must not keep the client from the next target for long.
fn shorten(context: &Context<'_>, target: &mut PlannedTarget<'_>, place: Place, ticket: &Ticket, turn: Turn<'_>) {
    let Some(slot) = place.slot.filter(|_| ticket.is_probe() && !turn.is_last) else {
        return;
    };
    let patience_ms = context.plane.health.target(slot).probe_patience_ms(context.stream);
    let timeouts = &mut target.timeouts;
    timeouts.connect_ms = timeouts.connect_ms.min(patience_ms);
    timeouts.first_byte_ms = timeouts.first_byte_ms.min(patience_ms);
    timeouts.first_token_ms = timeouts.first_token_ms.min(patience_ms);
}

impl Course {
    /// Takes note of a failed attempt; how long to pause if the same target is to be tried again.
    fn note(
        &mut self,
        context: &Context<'_>,
        request: &mut Request,
        leg: &Leg<'_>,
        turn: Turn<'_>,
        failure: Failure,
    ) -> Option<u64> {
        let ticket = request.ticket.take();
        Self::remember(context, request, leg, (ticket.as_ref(), &failure));
        let core = context.core;
        core.meter.failures.add(failure.code);
        let in_time = !context.is_late();
        if let Some(ticket) = ticket {
            ticket.failed(&failure, in_time);
        }
        request.record.reason.get_or_insert(Reason::Failed(failure.code));
        let pause_ms = self.retry(context, leg.place, turn, &failure);
        self.last = Some(failure.prefer_over(self.last.take()));
        pause_ms
    }

    /// An attempt has failed: what the log says of it.
    fn remember(
        context: &Context<'_>,
        request: &mut Request,
        leg: &Leg<'_>,
        (ticket, failure): (Option<&Ticket>, &Failure),
    ) {
        let begun_us = ticket.map(Ticket::begun_us);
        let (key, fate) = (Label::new(&leg.key.name), Fate::Failed(failure.code));
        request.tried(context, &leg.target, key, begun_us, (fate, failure.status));
    }

    /// A target's turn begins, which earns it a share of a retry.
    fn begin(&mut self, context: &Context<'_>, place: Place, turn: Turn<'_>) {
        if let Some(slot) = place.slot.filter(|_| !turn.again) {
            let settings = &context.plane.snapshot.settings().retries;
            context.plane.health.target(slot).earn_retry(settings);
        }
        self.index = turn.index;
    }

    /// A target beside another one has had its turn.
    pub(super) fn asked(&mut self, index: usize) {
        self.beside |= 1 << index;
    }

    /// Takes note of the failure of an attempt beside another one that goes on.
    pub(super) fn beside(
        &mut self,
        context: &Context<'_>,
        request: &mut Request,
        ticket: Option<Ticket>,
        (leg, failure): (&Leg<'_>, Failure),
    ) {
        Self::remember(context, request, leg, (ticket.as_ref(), &failure));
        context.core.meter.failures.add(failure.code);
        if let Some(ticket) = ticket {
            ticket.failed(&failure, !context.is_late());
        }
        request.record.reason.get_or_insert(Reason::Failed(failure.code));
        self.last = Some(failure.prefer_over(self.last.take()));
    }

    /// How long to pause before the same target is tried again, if it may be and its budget allows it.
    fn retry(&mut self, context: &Context<'_>, place: Place, turn: Turn<'_>, failure: &Failure) -> Option<u64> {
        let worth_it = match failure.code {
            Code::UpstreamError => matches!(failure.status, 500 | 502 | 503 | 504 | 529),
            Code::UpstreamConnectFailed => true,
            _ => false,
        };
        if !worth_it || turn.last_resort {
            return None;
        }
        if turn.others_are_well(context, self) {
            // That is the better answer: no pause, and another provider.
            self.again.get_or_insert(turn.index);
            return None;
        }
        // One retry is kept for the target that has had none because of this one.
        let kept = u8::from(self.again.is_some() && !turn.again);
        self.pause_ms(context, place, kept, failure.retry_after_s)
    }

    /// How long to pause before a target that has failed is tried again, if its budget and the request's time allow it and
    /// `kept` retries are left then; `said_s` is what the provider said, in seconds.
    fn pause_ms(&mut self, context: &Context<'_>, place: Place, kept: u8, said_s: Option<u32>) -> Option<u64> {
        let settings = &context.plane.snapshot.settings().retries;
        if self.retries.saturating_add(kept) >= settings.per_request {
            return None;
        }
        let core = context.core;
        let state = context.plane.health.target(place.slot?);
        let now_ms = core.clock.shared_ms();
        let said_ms = u64::from(said_s.unwrap_or(0)) * 1000;
        let pause_ms = settings.delay_ms(u32::from(self.retries), core.random()).max(said_ms);
        let in_time = core.clock.tick_ms() + pause_ms < context.limit_at_ms();
        if said_ms > RETRY_AFTER_MS_MAX || !in_time || !state.is_passable(now_ms + pause_ms) {
            return None;
        }
        if !state.take_retry(now_ms, settings) {
            core.meter.retries_denied.add(1);
            return None;
        }
        self.retries += 1;
        core.meter.retries.add(1);
        Some(pause_ms)
    }

    /// A target is not tried, because of what is remembered of it.
    fn pass_over(
        &mut self,
        context: &Context<'_>,
        request: &mut Request,
        target: &PlannedTarget<'_>,
        turn: Turn<'_>,
        why: PassedOver,
    ) {
        let now_ms = context.core.clock.shared_ms();
        let seconds =
            |until_ms: u64| u32::try_from(until_ms.saturating_sub(now_ms).div_ceil(1000).max(1)).unwrap_or(u32::MAX);
        let failure = match why {
            PassedOver::Keys(KeysOut {
                rest_ms: Some(rest_ms),
                said_ms,
                ..
            }) => Failure::resting(target.provider, seconds(said_ms.unwrap_or(rest_ms)), said_ms.is_some()),
            PassedOver::Keys(KeysOut { refused: true, .. }) => Failure::new(Code::UpstreamAuth, target.provider),
            // All that there are have been tried.
            PassedOver::Keys(_) => return,
            PassedOver::Target(Blocked { until_ms, said }) => {
                if !said && !turn.last_resort {
                    self.resort.get_or_insert(turn.index);
                }
                Failure::left_alone(target.provider, seconds(until_ms))
            }
        };
        context.core.meter.passed_over.add(1);
        request.tried(context, target, Label::EMPTY, None, (Fate::PassedOver(failure.code), 0));
        request.record.reason.get_or_insert(Reason::Failed(failure.code));
        if request.names.provider().is_empty() {
            request.names.set_asked(&target.provider.name, "");
        }
        self.last = Some(failure.prefer_over(self.last.take()));
    }

    /// A target is not tried, because the caller may not use it, or cannot pay for it.
    fn refuse(&mut self, context: &Context<'_>, request: &mut Request, target: &PlannedTarget<'_>, refusal: ApiError) {
        let fate = Fate::PassedOver(refusal.code);
        request.tried(context, target, Label::EMPTY, None, (fate, 0));
        request.record.reason.get_or_insert(Reason::Failed(refusal.code));
        if request.names.provider().is_empty() {
            request.names.set_asked(&target.provider.name, "");
        }
        self.last = Some(Failure::unsent(refusal, target.provider).prefer_over(self.last.take()));
    }

    /// Whether a target may be asked that the request would have done without, had another one answered: like a retry.
    fn affords(context: &Context<'_>, place: Place) -> bool {
        let settings = &context.plane.snapshot.settings().retries;
        let now_ms = context.core.clock.shared_ms();
        place
            .slot
            .is_some_and(|slot| context.plane.health.target(slot).take_retry(now_ms, settings))
    }

    fn into_end(self) -> End {
        match self.last {
            Some(failure) => failure.into_end(),
            None => ApiError::new(
                Code::UnsupportedRoute,
                "no target of this model's route speaks the dialect that this path needs",
            )
            .with_param("model")
            .into(),
        }
    }
}
