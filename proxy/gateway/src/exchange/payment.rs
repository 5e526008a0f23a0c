//! What a request costs whom: money is held before each attempt, and the attempt is settled exactly once, however it ends.
//!
//! ```text
//!  hold ─► sent ─► heard (status) ─► begin, scan … ─► charge     the answer is whole: what it says it has used
//!    │       │        │ an error                 └──► failed     uncertain: all that was held
//!    │       │        └──► failed: released
//!    │       └──► failed: uncertain, all that was held
//!    └──► failed: released
//! ```
//!
//! Invariants: dropped at any point, an attempt that was sent is charged in full, and one that was not is charged nothing;
//! usage counts only of an answer that is whole; without accounts, each step is one branch. Copies to shadow targets are the
//! operator's own experiment: nobody is charged for them. Deliberately absent: what may be spent (`sluice_policy::budget`).

mod fields;
mod spent;
mod stored;

use std::ops::Deref;

use sluice_policy::budget::{BudgetId, Refusal, Refused, Reservation};
use sluice_policy::charge::{self, Enforce, Held, Pieces, Unaffordable};
use sluice_policy::config::Accounts as Settings;
use sluice_policy::config::accounts::{self, Reserve, StoreDown};
use sluice_policy::keyring::{Caller, LimitId};
use sluice_policy::money::{NanoUsd, PriceId, Tier};
use sluice_policy::rate::{Ask, Limited, Limiter, Pass, Standing};
use sluice_policy::route::PlannedTarget;
use sluice_wire::chat::Usage;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::limits::BUDGETS_PER_REQUEST_MAX;
use sluice_wire::reference::ReferenceScan;
use sluice_wire::tally::{Framing, UsageScan};

use self::fields::{limit_fields, money_field};
use self::spent::Spent;
use super::account::{self, Payer};
use super::{Context, count};
use crate::core::Core;
use crate::plane::{Accounts, HeldPlane};
use crate::record::{Label, Names, Paid};
use crate::scratch::Asked;

/// What a request costs whom.
#[derive(Default)]
pub struct Payment {
    /// The plane that it began with, and whose key it came with, if anybody counts.
    of: Option<(HeldPlane, Option<Caller>)>,
    /// Its leave to be under way.
    pass: Pass<HeldLimit>,
    /// The limit that it was refused by.
    denied: Option<Limited>,
    /// The attempt under way.
    bill: Option<Bill>,
    /// What is held for a stored answer.
    stored: Option<Reservation>,
    /// What it is charged to.
    budgets: Budgets,
    tally: UsageScan,
    reads: bool,
    /// Where tokens are counted that nobody is charged for.
    counted: Option<usize>,
    /// What in the body its size does not bound, once that was looked for.
    looked: Option<ReferenceScan>,
    spent: Spent,
}

/// A rate limit, for as long as a request is under way, whatever becomes of the keyring: what it came from is held with it.
pub(super) struct HeldLimit {
    plane: HeldPlane,
    id: LimitId,
}

impl HeldLimit {
    /// A limit of the plane's keyring.
    pub fn new(plane: &HeldPlane, id: LimitId) -> Self {
        Self {
            plane: plane.clone(),
            id,
        }
    }
}

impl Deref for HeldLimit {
    type Target = Limiter;

    fn deref(&self) -> &Limiter {
        let accounts = self.plane.accounts.as_ref();
        accounts.expect("limits come from accounts").keyring.limiter(self.id)
    }
}

/// Money held for the attempt under way.
struct Bill {
    held: Held,
    price: Option<PriceId>,
    sent: bool,
    /// The status of its answer's head.
    status: Option<u16>,
    /// Where it is counted.
    row: usize,
}

/// The budgets that an attempt is charged to; one more than it may be, so that it is noticed.
#[derive(Clone, Copy)]
struct Budgets {
    ids: [BudgetId; BUDGETS_PER_REQUEST_MAX + 1],
    len: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            ids: [BudgetId(0); BUDGETS_PER_REQUEST_MAX + 1],
            len: 0,
        }
    }
}

impl Budgets {
    fn ids(&self) -> &[BudgetId] {
        &self.ids[..self.len]
    }
}

impl Payment {
    /// A request is counted from now on.
    pub(super) fn open(&mut self, plane: HeldPlane, caller: Option<Caller>) {
        self.of = Some((plane, caller));
    }

    /// Asks its rate limits to let it in.
    ///
    /// # Errors
    /// The first that does not; the fields of the answer tell of it.
    pub(super) fn enter(
        &mut self,
        limits: impl Iterator<Item = HeldLimit>,
        ask: Ask,
        unix_s: u64,
    ) -> Result<(), Limited> {
        let entered = self.pass.enter(limits, ask, unix_s);
        self.denied = entered.err();
        entered
    }

    /// Forgets the request and keeps the memory.
    pub fn clear(&mut self) {
        // Dropped, so that it is settled as any attempt is that nobody brought to an end.
        self.bill = None;
        self.stored = None;
        self.pass.clear();
        if self.of.take().is_some() || self.counted.take().is_some() {
            self.counted = None;
            self.denied = None;
            self.budgets.len = 0;
            self.reads = false;
            self.looked = None;
            self.spent = Spent::default();
        }
    }

    /// The same request's payment for an attempt beside another one.
    pub(super) fn fork(&self) -> Self {
        Self {
            of: self.of.clone(),
            looked: self.looked,
            ..Self::default()
        }
    }

    /// Sets money aside for an attempt at `target`.
    ///
    /// # Errors
    /// `budget_exceeded`, `budget_store_unavailable`, `price_unknown`.
    pub fn hold(&mut self, context: &Context<'_>, target: &PlannedTarget<'_>) -> Result<(), ApiError> {
        match (
            &context.payer,
            &context.plane.accounts,
            context.plane.snapshot.accounts(),
        ) {
            (Some(payer), Some(accounts), Some(settings)) if context.endpoint.is_charged() => {
                self.hold_of(context, target, payer, accounts, settings)
            }
            (None, ..) if context.plane.snapshot.counts_tokens() && context.endpoint.is_charged_by_tokens() => {
                let tag = context.plane.health.tag(&target.provider.name, target.model);
                self.counted = Some(count::target(context, target, tag));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hold_of(
        &mut self,
        context: &Context<'_>,
        target: &PlannedTarget<'_>,
        payer: &Payer,
        accounts: &Accounts,
        settings: &Settings,
    ) -> Result<(), ApiError> {
        let core = context.core;
        let (provider, model) = (target.provider, target.model);
        self.failed(core);
        let find = || accounts.prices.find_id(&provider.name, provider.vendor, model);
        let price_id = context.endpoint.is_priced().then(find).flatten();
        let price = price_id.map(|id| &accounts.prices.row(id).price);
        self.charge_to(accounts, payer, &provider.name, model);
        let mut demand = payer.demand;
        if self.budgets.len > 0 {
            let looked = self.looked.get_or_insert_with(|| look(context.asked));
            let is_openai = provider.dialect == Dialect::OpenAi;
            // How many tokens an image is there differs from model to model, by far; where images are made, it is known.
            let is_open = is_openai && looked.images() > 0 && demand.pieces == Pieces::default();
            demand.refers = looked.refers() || is_open;
            demand.images = demand.images.saturating_add(looked.images());
            // OpenAI's caches are written unasked.
            demand.may_write_cache = looked.caches() || is_openai;
        }
        let enforce = enforce(context, target, settings, price_id);
        let hold = |budgets: &[BudgetId]| {
            let on_unknown = accounts.prices.on_unknown();
            charge::hold(&core.purse, budgets, price, on_unknown, &demand, enforce, core.unix_s())
        };
        let held = match hold(self.budgets.ids()) {
            Err(Unaffordable::Budget(refused))
                if refused.why == Refusal::NotLeased && settings.store_down == StoreDown::Admit =>
            {
                self.budgets.len = 0;
                hold(&[])
            }
            held => held,
        };
        let held = held.map_err(|why| refusal(core, accounts, payer, (&provider.name, model), why))?;
        // A target that cannot be paid for has not been asked.
        self.spent.model = Label::new(model);
        self.bill = Some(Bill {
            held,
            price: price_id,
            sent: false,
            status: None,
            row: count::target(context, target, context.plane.health.tag(&provider.name, model)),
        });
        Ok(())
    }

    /// Finds the budgets that a model of a provider is charged to.
    fn charge_to(&mut self, accounts: &Accounts, payer: &Payer, provider: &str, model: &str) {
        self.budgets.len = 0;
        let Some(caller) = payer.caller else { return };
        for id in accounts.keyring.budgets(caller, provider, model) {
            if let Some(place) = self.budgets.ids.get_mut(self.budgets.len) {
                *place = id;
                self.budgets.len += 1;
            }
        }
    }

    /// The most output tokens to ask for in each answer, if the budgets do not afford what the client asked for.
    pub fn clamp(&self) -> Option<u64> {
        self.bill.as_ref()?.held.clamp
    }

    /// Whether the provider must be asked what a stream has used.
    pub fn is_billed(&self) -> bool {
        self.bill.is_some()
    }

    /// Whether what the answer says it has used is charged or counted.
    #[inline]
    pub fn wants_usage(&self) -> bool {
        self.bill.is_some() || self.counted.is_some()
    }

    /// The first byte of the request goes to the provider now.
    pub fn sent(&mut self) {
        if let Some(bill) = &mut self.bill {
            bill.sent = true;
            bill.held.reservation.sent();
        }
    }

    /// The head of the answer is here.
    pub fn heard(&mut self, status: u16) {
        if let Some(bill) = &mut self.bill {
            bill.status = Some(status);
        }
    }

    /// Its body is going to be read.
    pub fn begin(&mut self, dialect: Dialect, framing: Framing) {
        self.reads = self.wants_usage();
        if self.reads {
            self.tally.reset(dialect, framing);
        }
    }

    /// Whether [`Payment::scan`] is worth calling.
    #[inline]
    pub fn reads(&self) -> bool {
        self.reads
    }

    /// The next bytes of the answer's body.
    pub fn scan(&mut self, bytes: &[u8]) {
        self.tally.push(bytes);
    }

    /// The last bytes of the answer's body, which may be all of it.
    pub fn scan_last(&mut self, bytes: &[u8]) {
        self.tally.push_all(bytes);
    }

    /// The answer is whole: charges what it says it has used, and everything if it says nothing. An error costs nothing.
    pub fn charge(&mut self, core: &Core) {
        if let Some(row) = self.counted {
            return self.count(core, row);
        }
        if self.bill.as_ref().is_none_or(Bill::is_refused) {
            return self.failed(core);
        }
        let usage = if self.reads { self.tally.usage() } else { None };
        let tier = self
            .tally
            .tier()
            .and_then(|tier| Tier::from_service_tier(tier.as_str()));
        self.reads = false;
        let Some((plane, _)) = &self.of else {
            return self.failed(core);
        };
        let accounts = plane.accounts.as_ref();
        let price_of = |bill: &Bill| Some(&accounts?.prices.row(bill.price?).price);
        let is_known = |bill: &&Bill| bill.held.is_known_without_usage(price_of(bill));
        let known = self.bill.as_ref().filter(is_known).map(|_| Usage::default());
        let Some(usage) = usage.or(known) else {
            return self.failed(core);
        };
        let Some(bill) = self.bill.take() else { return };
        let price = price_of(&bill);
        let charged = bill.held.settle(price, &usage, tier);
        if let (Some(price), Some(settings)) = (bill.price, plane.snapshot.accounts())
            && settings.reserve == Reserve::Estimate
        {
            core.estimates.record(price, usage.output);
        }
        core.meter.unpriced.add(u64::from(!charged.priced));
        self.spent.add(charged.cost, charged.priced, &usage);
        core.meter.spent_nano_usd.add(charged.cost.0);
        count::usage(core, bill.row, &usage, charged.cost);
    }

    /// The same where nobody is charged: counts what a whole answer says it has used.
    fn count(&mut self, core: &Core, row: usize) {
        if !std::mem::take(&mut self.reads) {
            return;
        }
        if let Some(usage) = self.tally.usage() {
            self.spent.add(NanoUsd::ZERO, true, &usage);
            count::usage(core, row, &usage, NanoUsd::ZERO);
        }
    }

    /// The attempt is over without a whole answer: it costs nothing if nothing was sent or the provider refused it, and
    /// everything that was held otherwise.
    pub fn failed(&mut self, core: &Core) {
        let Some(bill) = self.bill.take() else { return };
        self.reads = false;
        if !bill.sent || bill.is_refused() {
            return bill.held.release();
        }
        let charged = bill.held.forfeit();
        count::cost(core, bill.row, charged.cost);
        if bill.price.is_some() {
            core.meter.uncertain.add(1);
        } else {
            core.meter.unpriced.add(1);
        }
        core.meter.spent_nano_usd.add(charged.cost.0);
        self.spent.uncertain = true;
        self.spent.add(charged.cost, false, &Usage::default());
    }

    /// An attempt beside this one is over: what it has cost is the same request's.
    pub(super) fn join(&mut self, mut other: Self, core: &Core) {
        other.failed(core);
        self.spent.join(&other.spent);
        // Which of the two the request began with does not matter any more.
        if !self.pass.is_held() {
            std::mem::swap(&mut self.pass, &mut other.pass);
        }
    }

    /// The request is over: tells its limits what it has used.
    pub(super) fn close(&mut self, core: &Core) {
        self.failed(core);
        let spent = &self.spent;
        let used = Ask {
            input_tokens: spent.input,
            output_tokens: spent.output,
        };
        match (spent.uncertain, spent.begun) {
            (true, _) => self.pass.clear(),
            (false, true) => self.pass.settle(used),
            (false, false) => self.pass.release(),
        }
    }

    /// Whose key the request came with: its number in the store, and its name.
    pub(super) fn caller(&self) -> Option<(i64, impl FnOnce() -> Box<str>)> {
        let (plane, caller) = self.of.as_ref()?;
        let (keyring, caller) = (&plane.accounts.as_ref()?.keyring, (*caller)?);
        let [row, ..] = keyring.rows(caller);
        Some((row, move || keyring.scope(caller.key).name.clone()))
    }

    /// Output tokens so far, as far as they were reported.
    pub(super) fn output_tokens(&self) -> u64 {
        self.spent.output
    }

    /// Input tokens, output tokens and what they cost, so far.
    pub(super) fn used(&self) -> (u64, u64, NanoUsd) {
        (self.spent.input, self.spent.output, self.spent.cost)
    }

    /// What has been spent so far, in nano-dollars.
    pub(super) fn spent_nano_usd(&self) -> u64 {
        self.spent.cost.0
    }

    /// Who was charged what, for the record. `names` says what was asked for, where nobody was asked.
    pub(super) fn paid(&self, asked: &Asked, names: &Names) -> Option<Paid> {
        let (plane, caller) = self.of.as_ref()?;
        let keyring = &plane.accounts.as_ref()?.keyring;
        let name = |id| Label::new(&keyring.scope(id).name);
        let spent = &self.spent;
        Some(Paid {
            scopes: caller.map_or([0; 3], |caller| keyring.rows(caller)),
            key: caller.map_or(Label::EMPTY, |caller| name(caller.key)),
            tenant: caller
                .and_then(|caller| caller.customer.or(caller.team))
                .map_or(Label::EMPTY, name),
            model: match spent.model.as_bytes() {
                // Names that belong to no provider are the client's own, and no names of the ledger.
                [] if !names.provider().is_empty() => Label::new(names.model_at_provider()),
                _ => spent.model,
            },
            input: spent.input,
            cached: spent.cached,
            output: spent.output,
            cost: spent.cost,
            priced: spent.priced,
            tags: account::tags_of(asked),
        })
    }

    /// Whether the request is subject to limits of its key, so that those of the provider's are none of its business.
    pub fn is_limited(&self) -> bool {
        self.pass.is_held()
    }

    /// Header fields that tell the client what the answer has cost, if that is known, and how its budgets and limits stand.
    pub fn write_fields(&self, core: &Core, text: &mut Vec<u8>) {
        if self.of.is_none() {
            return;
        }
        if (self.spent.begun || self.spent.stored) && self.bill.is_none() {
            money_field(text, b"x-sluice-cost: ", self.spent.cost);
        }
        let unix_s = core.unix_s();
        if let Some(left) = core.purse.remaining(self.budgets.ids(), unix_s) {
            money_field(text, b"x-sluice-budget-remaining: ", left);
        }
        if self.pass.is_held() {
            limit_fields(text, self.pass.limits().map(|limiter| limiter.standing(unix_s)));
        }
        if let Some(limited) = self.denied {
            let standing = Standing {
                unit: limited.unit,
                most: limited.most,
                remaining: 0,
                resets_in_s: limited.retry_after_s.into(),
            };
            limit_fields(text, std::iter::once(standing));
        }
    }
}

impl Bill {
    fn is_refused(&self) -> bool {
        self.status.is_some_and(|status| status >= 300)
    }
}

/// How much is set aside.
fn enforce(context: &Context<'_>, target: &PlannedTarget<'_>, settings: &Settings, price: Option<PriceId>) -> Enforce {
    if let (Reserve::Estimate, Some(price)) = (settings.reserve, price)
        && let Some(tokens) = context.core.estimates.p99(price)
    {
        return Enforce::Estimate(tokens);
    }
    // Where the limit stands in a Converse request, it is not changed in place.
    let can_clamp = context.endpoint.is_translatable()
        && (target.provider.dialect != Dialect::Bedrock || context.dialect != Dialect::Bedrock);
    if settings.enforce == accounts::Enforce::Clamp && can_clamp {
        return Enforce::Clamp;
    }
    Enforce::Worst
}

fn look(asked: &Asked) -> ReferenceScan {
    let mut scan = ReferenceScan::default();
    asked.body.iter().for_each(|piece| scan.push(piece));
    scan
}

#[cold]
fn refusal(
    core: &Core,
    accounts: &Accounts,
    payer: &Payer,
    (provider, model): (&str, &str),
    why: Unaffordable,
) -> ApiError {
    let Refused { budget, why, resets_s } = match why {
        Unaffordable::Budget(refused) => refused,
        Unaffordable::NoPrice => {
            let message = format!("what {provider}/{model} costs here is not known, and this virtual key has a budget");
            return ApiError::new(Code::PriceUnknown, message).with_param("model");
        }
        Unaffordable::Unpriced(_) => {
            let message = format!(
                "the price of {provider}/{model} does not cover this request; limit its output, or leave out what it refers to"
            );
            return ApiError::new(Code::PriceUnknown, message);
        }
    };
    let name = payer.caller.map_or_else(
        || "a budget".to_owned(),
        |caller| accounts.keyring.describe(caller, budget),
    );
    let in_s = resets_s.saturating_sub(core.unix_s());
    match why {
        Refusal::NotLeased => {
            let message = format!("nothing of {name} is at hand; the store of budgets has not granted it");
            ApiError::new(Code::BudgetStoreUnavailable, message).with_retry_after_s(1)
        }
        Refusal::OutOfBounds => ApiError::new(
            Code::BudgetExceeded,
            format!("{name}: the request may cost more than any budget can hold"),
        ),
        Refusal::Exhausted if resets_s == u64::MAX => ApiError::new(
            Code::BudgetExceeded,
            format!("{name}, does not have what this request may cost at most"),
        ),
        Refusal::Exhausted => ApiError::new(
            Code::BudgetExceeded,
            format!("{name}, does not have what this request may cost at most; it begins anew in {in_s} s"),
        ),
    }
}
