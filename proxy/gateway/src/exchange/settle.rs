//! The end of an attempt, as its request knows it: what is charged, counted and remembered.
//!
//! Invariants: an attempt that gave the answer alone needs no more than the record; of all others each is written down, with its
//! reason and how long it took. Deliberately absent: what target and key are told (`ticket.rs`), and what follows (`forward.rs`).

use sluice_policy::route::{Plan, PlannedTarget};
use sluice_policy::snapshot::Resolved;
use sluice_wire::error::Code;

use super::hedge::Leg;
use super::payment::Payment;
use super::ticket::Ticket;
use super::{Context, End, Request, count};
use crate::core::Core;
use crate::record::{Fate, Label, Try};

impl Request {
    /// An attempt is given up because another one began its answer sooner.
    pub(super) fn loses(&mut self, context: &Context<'_>, leg: &Leg<'_>, ticket: Ticket) {
        let (target, key) = (&leg.target, Label::new(&leg.key.name));
        self.tried(context, target, key, Some(ticket.begun_us()), (Fate::GivenUp, 0));
        ticket.given_up();
    }

    /// Remembers an attempt, or a target that was passed over, that the record alone does not tell.
    pub(super) fn tried(
        &mut self,
        context: &Context<'_>,
        target: &PlannedTarget<'_>,
        key: Label<32>,
        begun_us: Option<u64>,
        (fate, status): (Fate, u16),
    ) {
        let now_us = self.until(context.core.clock.now_us());
        let begun_us = begun_us.map_or(now_us, |begun_us| self.until(begun_us));
        self.extra.get_or_insert_default().note(Try {
            provider: Label::new(&target.provider.name),
            model: Label::new(target.model),
            key,
            fate,
            status,
            begun_us,
            took_us: now_us.saturating_sub(begun_us),
        });
    }

    /// The answer has been delivered.
    pub(super) fn settle_delivered(
        &mut self,
        context: &Context<'_>,
        payment: &mut Payment,
        planned: (&Resolved<'_>, &Plan),
        target: &PlannedTarget<'_>,
    ) {
        payment.charge(context.core);
        if let Some(ticket) = self.ticket.take() {
            if self.extra.is_some() {
                let (key, ended) = (Label::new(self.names.key()), (Fate::Answered, self.record.status));
                self.tried(context, target, key, Some(ticket.begun_us()), ended);
            }
            ticket.delivered(payment.output_tokens());
        }
        if target.is_fallback {
            count::fallback(context, planned, target, self.record.reason);
        }
    }

    /// The request is over without a whole answer.
    pub(super) fn settle_ended(
        &mut self,
        context: &Context<'_>,
        payment: &mut Payment,
        target: &PlannedTarget<'_>,
        end: &End,
    ) {
        payment.failed(context.core);
        let Some(ticket) = self.ticket.take() else { return };
        let interrupted = matches!(end, End::Interrupted);
        let fate = if interrupted {
            Fate::Failed(Code::UpstreamStreamInterrupted)
        } else {
            Fate::Abandoned
        };
        let (key, status) = (Label::new(self.names.key()), self.record.status);
        self.tried(context, target, key, Some(ticket.begun_us()), (fate, status));
        if interrupted {
            ticket.interrupted();
        }
    }

    /// Whoever waited for the attempt under way has gone.
    pub(super) fn let_go(&mut self, core: &Core) {
        let Some(ticket) = self.ticket.take() else { return };
        let now_us = self.until(core.clock.now_us());
        let begun_us = self.until(ticket.begun_us());
        if let Some(extra) = &mut self.extra {
            extra.note(Try {
                provider: Label::new(self.names.provider()),
                model: Label::EMPTY,
                key: Label::new(self.names.key()),
                fate: Fate::Abandoned,
                status: 0,
                begun_us,
                took_us: now_us.saturating_sub(begun_us),
            });
        }
    }
}
