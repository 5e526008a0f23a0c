//! [`Ticket`]: what an attempt holds while it is under way, and how what became of it is remembered.
//!
//! Invariants: an attempt is counted as under way for exactly as long as its ticket lives; a probe that ends without a word,
//! because the client left for instance, is free again at once. Deliberately absent: what is tried next (`forward.rs`).

use std::rc::Rc;

use sluice_policy::health::{Admission, Blocked, Call, Change, KeyPermit, KeyVerdict, Permit};
use sluice_policy::route::{self, KeysOut, PlannedTarget};
use sluice_policy::snapshot::KeyId;
use sluice_wire::error::Code;

use super::{Context, count};
use crate::attempt::Failure;
use crate::core::Core;
use crate::plane::HeldPlane;

/// What one attempt holds.
#[must_use = "the attempt counts as under way only while this lives"]
pub struct Ticket {
    core: Rc<Core>,
    plane: HeldPlane,
    /// Where the target is remembered, if it is, and whether it was the last resort.
    target: Option<(usize, Permit, bool)>,
    key: KeyId,
    key_permit: KeyPermit,
    begun_us: u64,
    streamed: bool,
    told_target: bool,
    told_key: bool,
    /// Where it is counted.
    row: usize,
    sent: bool,
    /// Until the first token of a stream, in microseconds, once it is there.
    first_us: Option<u32>,
    ended: Ended,
}

/// How an attempt ended.
#[derive(Clone, Copy)]
enum Ended {
    /// Somebody else ended it.
    Abandoned,
    /// The client has its answer, which has so many tokens; 0 if that is not known.
    Delivered(u64),
    /// It failed.
    Failed(Code),
}

/// Why a target is passed over.
pub enum PassedOver {
    /// It failed too often, or its provider said when to come back.
    Target(Blocked),
    /// No key is left to try.
    Keys(KeysOut),
}

/// How much a request needs a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Others follow, or it does without.
    Choice,
    /// It is the last of its plan.
    Last,
    /// It was passed over, and no other answered.
    Resort,
}

/// Which target an attempt is for, as health knows it.
#[derive(Clone, Copy)]
pub struct Place {
    /// [`sluice_policy::health::Health::tag`].
    pub tag: u64,
    /// [`sluice_policy::health::Health::find`].
    pub slot: Option<usize>,
}

impl Place {
    /// Finds the place of `target`.
    pub fn of(context: &Context<'_>, target: &PlannedTarget<'_>) -> Self {
        let health = &context.plane.health;
        let tag = health.tag(&target.provider.name, target.model);
        let slot = health.find(tag, &target.provider.name, target.model, context.core.clock.shared_ms());
        Self { tag, slot }
    }
}

impl Ticket {
    /// Begins an attempt at `target` with a key whose bit in `tried` is clear; gives that key's index as well.
    ///
    /// # Errors
    /// Why the target is passed over.
    pub fn enter(
        context: &Context<'_>,
        target: &PlannedTarget<'_>,
        place: Place,
        tried: u64,
        need: Need,
    ) -> Result<(Self, usize), PassedOver> {
        let last_resort = need == Need::Resort;
        let situation = context.situation();
        let settings = &context.plane.snapshot.settings().breaker;
        let permit = match place.slot.map(|slot| context.plane.health.target(slot)) {
            None => None,
            Some(state) if last_resort => {
                let admitted = state.admit_last_resort(situation.now_ms);
                Some(admitted.map_err(PassedOver::Target)?)
            }
            Some(state) => match state.admit(situation.now_ms, settings) {
                Admission::Go(permit) => Some(permit),
                Admission::Blocked(blocked) => return Err(PassedOver::Target(blocked)),
            },
        };
        let target_permit = place.slot.zip(permit);
        match route::next_key(target.provider, place.tag, tried, &situation, need != Need::Choice) {
            Ok((choice, key_permit)) => {
                let ticket = Self {
                    core: context.core.clone(),
                    plane: context.plane.clone(),
                    target: target_permit.map(|(slot, permit)| (slot, permit, last_resort)),
                    key: target.provider.keys[choice].id,
                    key_permit,
                    begun_us: context.core.clock.now_us(),
                    streamed: context.stream,
                    told_target: false,
                    told_key: false,
                    row: count::target(context, target, place.tag),
                    sent: false,
                    first_us: None,
                    ended: Ended::Abandoned,
                };
                Ok((ticket, choice))
            }
            Err(out) => {
                if let Some((slot, permit)) = target_permit {
                    let state = context.plane.health.target(slot);
                    state.abandon(permit, situation.now_ms);
                    state.leave(last_resort);
                }
                Err(PassedOver::Keys(out))
            }
        }
    }

    /// When it began, in microseconds of the core's clock.
    pub fn begun_us(&self) -> u64 {
        self.begun_us
    }

    /// The request is being sent.
    pub fn sent(&mut self) {
        self.sent = true;
        if let Some(row) = count::row(&self.core, self.row) {
            row.attempts.add(1);
        }
    }

    /// The client has the answer, which has so many tokens; 0 if that is not known.
    pub fn delivered(mut self, output_tokens: u64) {
        self.ended = Ended::Delivered(output_tokens);
    }

    /// The answer was a verdict on the request as it was put to this target, and of no use.
    pub fn unfit(mut self) {
        self.ended = Ended::Failed(Code::UpstreamError);
    }

    /// Whether the attempt is the single one that a target gets while it is thought to be down.
    pub fn is_probe(&self) -> bool {
        self.target.is_some_and(|(_, permit, _)| permit.is_probe)
    }

    /// Takes a retry from the target's budget; false if it is spent.
    pub fn take_retry(&self) -> bool {
        let Some((slot, ..)) = self.target else { return true };
        let settings = &self.plane.snapshot.settings().retries;
        let taken = self
            .plane
            .health
            .target(slot)
            .take_retry(self.core.clock.shared_ms(), settings);
        self.core.meter.retries_denied.add(u64::from(!taken));
        taken
    }

    /// The answer has begun: its first token is there, or all of it.
    pub fn answered(&mut self, now_us: u64) {
        if self.told_key {
            return;
        }
        let took_us = u32::try_from(now_us.saturating_sub(self.begun_us)).unwrap_or(u32::MAX);
        let now_ms = self.core.clock.shared_ms();
        self.first_us = self.streamed.then_some(took_us);
        if let Some((slot, ..)) = self.target {
            self.plane.health.target(slot).observe(took_us, self.streamed, now_ms);
        }
        let slow_ms = self.plane.snapshot.settings().breaker.slow_ms;
        let is_slow = slow_ms > 0 && u64::from(took_us) > u64::from(slow_ms) * 1000;
        self.tell_target(if is_slow { Call::Slow } else { Call::Good });
        self.tell_key(KeyVerdict::Accepted);
    }

    /// The attempt is given up, because another target began its answer sooner: that it took as long is all that is known.
    pub fn given_up(self) {
        if let Some((slot, ..)) = self.target {
            let took_us = u32::try_from(self.core.clock.now_us() - self.begun_us).unwrap_or(u32::MAX);
            let now_ms = self.core.clock.shared_ms();
            let state = self.plane.health.target(slot);
            state.observe_given_up(took_us, self.streamed, now_ms);
        }
    }

    /// The answer was cut after it had begun.
    pub fn interrupted(mut self) {
        self.ended = Ended::Failed(Code::UpstreamStreamInterrupted);
        self.tell_target(Call::Failed);
    }

    /// The attempt failed. `in_time` is false if the request's own time is up: then its being late is no fault of the target.
    pub fn failed(mut self, failure: &Failure, in_time: bool) {
        self.ended = Ended::Failed(failure.code);
        if failure.blames_target && in_time {
            self.tell_target(Call::Failed);
        }
        if let (Some(seconds), 503 | 529) = (failure.retry_after_s, failure.status) {
            self.hold(u64::from(seconds) * 1000);
        }
        let after_ms = failure.retry_after_s.map(|seconds| u64::from(seconds) * 1000);
        match (failure.code, failure.status) {
            // Nothing was sent, or nothing came back.
            (_, 0) => {}
            (Code::UpstreamRateLimited, _) => self.tell_key(KeyVerdict::Limited(after_ms)),
            (Code::UpstreamAuth, 403) => self.tell_key(KeyVerdict::Denied),
            (Code::UpstreamAuth, _) => self.tell_key(KeyVerdict::Refused),
            (Code::ContextLengthExceeded | Code::ContentPolicyViolation, _) => self.tell_key(KeyVerdict::Accepted),
            // A provider that fails need not have looked at the key.
            _ => {}
        }
    }

    fn tell_target(&mut self, call: Call) {
        let Some((slot, permit, last_resort)) = self.target else {
            return;
        };
        let now_ms = self.core.clock.shared_ms();
        let settings = &self.plane.snapshot.settings().breaker;
        let (change, permit) = self.plane.health.target(slot).report(permit, call, now_ms, settings);
        self.target = Some((slot, permit, last_resort));
        self.told_target = true;
        self.count(change);
    }

    /// The provider said when to come back.
    fn hold(&mut self, after_ms: u64) {
        if let Some((slot, ..)) = self.target {
            let most_ms = u64::from(self.plane.snapshot.settings().keys.rest_max_ms);
            let until_ms = self.core.clock.shared_ms() + after_ms.min(most_ms);
            let change = self.plane.health.target(slot).hold(until_ms);
            self.told_target = true;
            self.count(change);
        }
    }

    fn tell_key(&mut self, verdict: KeyVerdict) {
        self.told_key = true;
        let state = &self.plane.keys[self.key.index()];
        let now_ms = self.core.clock.shared_ms();
        // Drawn only where it is used: the steady path does without.
        let random = match verdict {
            KeyVerdict::Limited(None) => self.core.random(),
            _ => 0,
        };
        let settings = &self.plane.snapshot.settings().keys;
        let alarm = state.report(self.key_permit, verdict, now_ms, random, settings);
        if let KeyVerdict::Limited(_) = verdict {
            self.core.meter.keys_limited.add(1);
        }
        if alarm {
            self.core.meter.keys_refused.add(1);
        }
    }

    /// Counts how it ended.
    fn settle(&self) {
        let meter = &self.core.meter;
        let Some(row) = count::row(&self.core, self.row) else {
            return;
        };
        let took_us = self.core.clock.now_us() - self.begun_us;
        match self.ended {
            Ended::Abandoned => {
                meter.attempts_abandoned.add(1);
                row.abandoned.add(1);
            }
            Ended::Failed(code) => {
                meter.attempts_failed.add(1);
                row.failed.add(code);
                row.failure_duration.observe(took_us);
            }
            Ended::Delivered(tokens) => {
                meter.attempts_succeeded.add(1);
                row.succeeded.add(1);
                row.duration.observe(took_us);
                if let Some(first_us) = self.first_us {
                    row.first_token.observe(u64::from(first_us));
                    if tokens > 1 {
                        let streamed_us = took_us.saturating_sub(u64::from(first_us));
                        row.per_token.observe(streamed_us / (tokens - 1));
                    }
                }
            }
        }
    }

    fn count(&self, change: Option<Change>) {
        match change {
            Some(Change::Opened) => self.core.meter.breakers_opened.add(1),
            Some(Change::Closed) => self.core.meter.breakers_closed.add(1),
            None => {}
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.sent {
            self.settle();
        }
        let now_ms = self.core.clock.shared_ms();
        if let Some((slot, permit, last_resort)) = self.target {
            let state = self.plane.health.target(slot);
            if !self.told_target {
                state.abandon(permit, now_ms);
            }
            state.leave(last_resort);
        }
        if !self.told_key {
            self.plane.keys[self.key.index()].abandon(self.key_permit, now_ms);
        }
    }
}
