//! What a stored answer costs its caller, where the route says that it costs anything.
//!
//! Invariants: the amount is held before the answer leaves, in the budgets that the provider's answer would have been charged to,
//! and charged or given back exactly once; a route whose hits are free pays one branch. A stream that is followed while it is made
//! is charged at its end, as far as the budgets go, because its price is not known before. Hits use up no rate limit: those protect
//! providers. Deliberately absent: what is saved (`cached.rs` counts that).

use sluice_policy::budget::{Refusal, Reservation};
use sluice_policy::charge::Unaffordable;
use sluice_policy::config::accounts::StoreDown;
use sluice_policy::money::NanoUsd;
use sluice_policy::snapshot::{Caching, Resolved};
use sluice_wire::error::ApiError;

use super::{Context, Payment, refusal};
use crate::core::Core;
use crate::record::Label;

/// Millionths in a whole.
const WHOLE: u128 = 1_000_000;

/// What a hit is charged of what its answer cost, rounded up.
fn price(caching: &Caching, cost_nano_usd: u64) -> NanoUsd {
    let share = u128::from(caching.hit_price_per_million).min(WHOLE);
    let amount = (u128::from(cost_nano_usd) * share).div_ceil(WHOLE);
    // At most the cost, which fits.
    NanoUsd(u64::try_from(amount).unwrap_or(cost_nano_usd))
}

impl Payment {
    /// Holds what a stored answer costs that cost its provider so much.
    ///
    /// # Errors
    /// `budget_exceeded`, `budget_store_unavailable`.
    pub(in crate::exchange) fn hold_stored(
        &mut self,
        context: &Context<'_>,
        caching: &Caching,
        resolved: &Resolved<'_>,
        cost_nano_usd: u64,
    ) -> Result<(), ApiError> {
        self.spent.stored = true;
        let amount = price(caching, cost_nano_usd);
        if amount == NanoUsd::ZERO {
            return Ok(());
        }
        let reservation = self.reserve(context, resolved, amount)?;
        self.stored = reservation;
        self.spent.cost = amount;
        Ok(())
    }

    /// Whether a hit whose price is not known yet may begin: only if anything is left to pay it from.
    ///
    /// # Errors
    /// Those of [`Payment::hold_stored`].
    pub(in crate::exchange) fn may_follow(
        &mut self,
        context: &Context<'_>,
        caching: &Caching,
        resolved: &Resolved<'_>,
    ) -> Result<(), ApiError> {
        if caching.hit_price_per_million > 0
            && let Some(reservation) = self.reserve(context, resolved, NanoUsd(1))?
        {
            reservation.release();
        }
        Ok(())
    }

    /// Such a hit has been delivered, and its answer cost so much.
    pub(in crate::exchange) fn followed(
        &mut self,
        context: &Context<'_>,
        caching: &Caching,
        resolved: &Resolved<'_>,
        cost_nano_usd: u64,
    ) {
        let core = context.core;
        if self.hold_stored(context, caching, resolved, cost_nano_usd).is_err() {
            let left = core.purse.affordable(self.budgets.ids(), core.unix_s());
            let left = left.unwrap_or(NanoUsd::ZERO).min(price(caching, cost_nano_usd));
            self.stored = core.purse.reserve(self.budgets.ids(), left, core.unix_s()).ok();
            self.spent.cost = self.stored.as_ref().map_or(NanoUsd::ZERO, Reservation::amount);
        }
        self.settle_stored(core);
    }

    /// The stored answer is written.
    pub(in crate::exchange) fn settle_stored(&mut self, core: &Core) {
        if let Some(reservation) = self.stored.take() {
            let amount = reservation.amount();
            reservation.settle(amount);
            core.meter.spent_nano_usd.add(amount.0);
            core.meter.cache_charged_nano_usd.add(amount.0);
        }
    }

    /// It could not be written after all.
    pub(in crate::exchange) fn release_stored(&mut self) {
        self.spent.stored = false;
        if let Some(reservation) = self.stored.take() {
            reservation.release();
            self.spent.cost = NanoUsd::ZERO;
        }
    }

    /// Holds an amount in the budgets of the target that a request resolves to; nothing, if nobody counts.
    fn reserve(
        &mut self,
        context: &Context<'_>,
        resolved: &Resolved<'_>,
        amount: NanoUsd,
    ) -> Result<Option<Reservation>, ApiError> {
        let (core, snapshot) = (context.core, &context.plane.snapshot);
        let (Some(payer), Some(accounts), Some(settings)) =
            (&context.payer, &context.plane.accounts, snapshot.accounts())
        else {
            return Ok(None);
        };
        let provider = &snapshot.provider(resolved.provider).name;
        self.spent.model = Label::new(resolved.model);
        self.charge_to(accounts, payer, provider, resolved.model);
        let reserved = match core.purse.reserve(self.budgets.ids(), amount, core.unix_s()) {
            Err(refused) if refused.why == Refusal::NotLeased && settings.store_down == StoreDown::Admit => {
                self.budgets.len = 0;
                core.purse.reserve(&[], amount, core.unix_s())
            }
            reserved => reserved,
        };
        let refused = |why| {
            refusal(
                core,
                accounts,
                payer,
                (provider, resolved.model),
                Unaffordable::Budget(why),
            )
        };
        reserved.map(Some).map_err(refused)
    }
}
