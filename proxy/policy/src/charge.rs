//! What a request is charged: from what it asks for, over the price of its target, to money set aside and paid.
//!
//! Invariants: what is reserved is at least what the provider can bill, unless the operator chose to estimate; a request whose
//! cost cannot be told in advance, or afterwards, is never free: it is refused before, and pays what was reserved after.
//! Deliberately absent: reading requests and answers (`sluice-wire` counts both), and retries, each of which reserves anew.

use std::rc::Rc;

use sluice_wire::chat::Usage;
use sluice_wire::limits::IMAGE_TOKENS_MAX;

use crate::budget::{BudgetId, Purse, Refused, Reservation};
use crate::money::{Bound, Item, NanoUsd, OnUnknown, PLAIN, Price, Quantities, Tier, Tokens, Unpriced};

/// Tokens that a provider's template may add to a request beyond what its bytes are: roles, and a system prompt of its own
/// for tools.
const TEMPLATE_TOKENS: u64 = 2_048;

/// What is known of a request before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes of its body. Tokenisers make at most one token of a byte, so these bound the input of what is in the body.
    pub body_bytes: u64,
    /// Whether it refers to content that is not in it: images by URL, files by id, a conversation that the provider keeps.
    /// Then only the model's own maximum bounds its input.
    pub refers: bool,
    /// Output tokens that it asks for at most, for each answer.
    pub output: Option<u64>,
    /// Answers that it asks for; 0 counts as 1.
    pub answers: u32,
    /// Images in its body.
    pub images: u32,
    /// What it asks for that may have a price by the piece.
    pub pieces: Pieces,
    /// Whether anything in it is marked to be written to a prompt cache.
    pub may_write_cache: bool,
    /// The tier that it asks for.
    pub tier: Tier,
    /// Whether the provider may choose a dearer one.
    pub any_tier: bool,
}

/// What a request asks for, apart from tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// Images to be made.
    pub images: u32,
    /// Characters to be spoken.
    pub characters: u64,
    /// Seconds of sound to be listened to, at most.
    pub audio_seconds: u64,
}

impl Pieces {
    /// Whether it is these that a price counts. A model that has prices for tokens is charged by tokens.
    fn are_charged(self, price: &Price) -> bool {
        self != Self::default() && price.is_by_pieces()
    }
}

impl Demand {
    /// The tiers that it may be processed in, and be charged for.
    fn tiers(&self) -> impl Iterator<Item = Tier> {
        let dearer = self.any_tier.then_some(Tier::Priority);
        std::iter::once(self.tier).chain(dearer)
    }

    /// The most that it can cost within a bound.
    fn worst(&self, price: &Price, bound: &Bound) -> Result<NanoUsd, Unpriced> {
        self.tiers()
            .try_fold(NanoUsd::ZERO, |worst, tier| Ok(worst.max(price.worst(bound, tier)?)))
    }

    /// What it may consume at most of a model of that price.
    pub fn bound(&self, price: &Price) -> Bound {
        if self.pieces.are_charged(price) {
            return self.pieces_bound();
        }
        let in_images = u64::from(self.images) * IMAGE_TOKENS_MAX;
        let in_body = self
            .body_bytes
            .saturating_add(in_images)
            .saturating_add(TEMPLATE_TOKENS);
        let input = if self.refers {
            price.input_max.map_or(u64::MAX, |max| max.0.max(in_body))
        } else {
            in_body
        };
        let answers = self.answers.max(1);
        Bound {
            input: Tokens(input),
            output: self
                .output
                .map(|output| Tokens(output.saturating_mul(u64::from(answers)))),
            answers,
            may_write_cache: self.may_write_cache,
            // Sound and images, in either direction, are as dear as the model makes them: the body does not say cheaply that there
            // are none.
            audio_in: true,
            audio_out: true,
            image_out: true,
            ..PLAIN
        }
    }
}

impl Demand {
    /// The same of a model that is charged by the piece.
    fn pieces_bound(&self) -> Bound {
        let Pieces {
            images,
            characters,
            audio_seconds,
        } = self.pieces;
        // Sound that is somewhere else may be of any length.
        let is_elsewhere = self.refers && audio_seconds > 0;
        Bound {
            answers: self.answers,
            images,
            characters,
            audio_seconds: if is_elsewhere { u64::MAX } else { audio_seconds },
            ..PLAIN
        }
    }
}

/// How much is set aside for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforce {
    /// The most that it can cost.
    #[default]
    Worst,
    /// The same, but where that is more than its budgets have left, its output is limited to what they afford.
    Clamp,
    /// What an answer of so many output tokens costs. Budgets can be exceeded, by what longer answers cost beyond it.
    Estimate(u64),
}

/// Why a request is not sent to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unaffordable {
    /// Nobody knows what the model costs, and the operator wants such requests refused.
    NoPrice,
    /// The price does not cover the request.
    Unpriced(Unpriced),
    /// A budget has not enough left.
    Budget(Refused),
}

/// Money set aside for one attempt at a target.
#[must_use = "what is held is given back, or charged, when this is dropped"]
#[derive(Debug)]
pub struct Held {
    /// What is set aside, and where.
    pub reservation: Reservation,
    /// The most output tokens to ask the provider for, in each answer, if the budgets do not afford what the client asked for.
    pub clamp: Option<u64>,
    tier: Tier,
    pieces: Pieces,
    /// It was let in without a price that covers it, and costs nothing.
    is_uncovered: bool,
}

/// What one attempt was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// How much.
    pub cost: NanoUsd,
    /// Whether that is its price, not what was reserved in want of one.
    pub priced: bool,
}

/// Sets aside what a request to a target costs in each of `budgets`. Without budgets, nothing can be refused.
///
/// # Errors
/// The request must not be sent to that target.
pub fn hold(
    purse: &Rc<Purse>,
    budgets: &[BudgetId],
    price: Option<&Price>,
    on_unknown: OnUnknown,
    demand: &Demand,
    enforce: Enforce,
    unix_s: u64,
) -> Result<Held, Unaffordable> {
    let held = |reservation: Reservation, clamp: Option<u64>| Held {
        reservation,
        clamp,
        tier: demand.tier,
        pieces: demand.pieces,
        is_uncovered: false,
    };
    let reserve = |amount: NanoUsd| purse.reserve(budgets, amount, unix_s).map_err(Unaffordable::Budget);
    let Some(price) = price else {
        return match on_unknown {
            OnUnknown::Refuse if !budgets.is_empty() => Err(Unaffordable::NoPrice),
            _ => Ok(held(reserve(NanoUsd::ZERO)?, None)),
        };
    };
    let mut bound = demand.bound(price);
    if budgets.is_empty() {
        // Held in no budget: what the ledger says if nobody learns what it cost.
        let worst = demand.worst(price, &bound).unwrap_or(NanoUsd::ZERO);
        return Ok(held(reserve(worst.min(NanoUsd::LIMIT_MAX))?, None));
    }
    if let Enforce::Estimate(tokens) = enforce {
        let estimate = tokens.saturating_mul(u64::from(bound.answers));
        let asked = bound.output.map_or(estimate, |output| output.0.min(estimate));
        bound.output = Some(Tokens(asked));
    }
    let worst = demand.worst(price, &bound);
    match (worst, enforce) {
        (Ok(worst), Enforce::Clamp) => match reserve(worst) {
            Ok(reservation) => Ok(held(reservation, None)),
            Err(refusal) => clamped(purse, budgets, price, demand, &bound, unix_s)
                .ok_or(refusal)
                .map(|(reservation, clamp)| held(reservation, Some(clamp))),
        },
        (Err(Unpriced::OutputMax), Enforce::Clamp) => {
            let clamped = clamped(purse, budgets, price, demand, &bound, unix_s);
            let (reservation, clamp) = clamped.ok_or(Unaffordable::Unpriced(Unpriced::OutputMax))?;
            Ok(held(reservation, Some(clamp)))
        }
        (Ok(worst), _) => Ok(held(reserve(worst)?, None)),
        // Images and sound cannot be asked for in a way that a price without a bound covers.
        (Err(Unpriced::Item(_) | Unpriced::OutputMax), _)
            if on_unknown == OnUnknown::Zero && demand.pieces != Pieces::default() =>
        {
            Ok(Held {
                is_uncovered: true,
                ..held(reserve(NanoUsd::ZERO)?, None)
            })
        }
        (Err(why), _) => Err(Unaffordable::Unpriced(why)),
    }
}

/// As much as the budgets afford, and the output limit, for each answer, that goes with it.
fn clamped(
    purse: &Rc<Purse>,
    budgets: &[BudgetId],
    price: &Price,
    demand: &Demand,
    bound: &Bound,
    unix_s: u64,
) -> Option<(Reservation, u64)> {
    let money = purse.affordable(budgets, unix_s).ok()?;
    let affordable = |tier: Tier| price.affordable_output(bound, tier, money);
    let output = demand.tiers().map(affordable).min()??;
    let each = output.0 / u64::from(bound.answers);
    if each == 0 {
        return None;
    }
    let bound = Bound {
        output: Some(Tokens(each * u64::from(bound.answers))),
        ..*bound
    };
    let worst = demand.worst(price, &bound).ok()?;
    let reservation = purse.reserve(budgets, worst, unix_s).ok()?;
    Some((reservation, each))
}

impl Held {
    /// Charges what the provider says was used, in the tier that it says, else in the one that was asked for. What has no price
    /// costs what was reserved for it.
    pub fn settle(mut self, price: Option<&Price>, usage: &Usage, tier: Option<Tier>) -> Charged {
        self.tier = tier.unwrap_or(self.tier);
        let reserved = self.reservation.amount();
        let charged = self.cost(price, usage).map_or(
            Charged {
                cost: reserved,
                priced: false,
            },
            |cost| Charged { cost, priced: true },
        );
        self.reservation.settle(charged.cost);
        charged
    }

    /// What was used so far would cost so much; `None` without a price.
    pub fn cost(&self, price: Option<&Price>, usage: &Usage) -> Option<NanoUsd> {
        let price = price.filter(|_| !self.is_uncovered)?;
        price.cost(&self.quantities(price, usage)?, self.tier).ok()
    }

    /// Whether an answer that does not say what it has used costs a known amount all the same.
    pub fn is_known_without_usage(&self, price: Option<&Price>) -> bool {
        price.is_some_and(|price| self.pieces.are_charged(price)) && self.pieces.audio_seconds == 0
    }

    /// What was used, as the price counts it; `None` if the answer does not say.
    fn quantities(&self, price: &Price, usage: &Usage) -> Option<Quantities> {
        let Pieces {
            images,
            characters,
            audio_seconds,
        } = self.pieces;
        if !self.pieces.are_charged(price) {
            let mut usage = *usage;
            if images > 0 && usage.output_image == 0 {
                // Where images are made, output is images unless the answer says what else it is.
                usage.output_image = usage.output;
            }
            return Some(Quantities::from_usage(&usage));
        }
        if audio_seconds > 0 && usage.audio_seconds == 0 {
            return None;
        }
        let mut of = Quantities::default();
        of.set(Item::Image, images.into());
        of.set(Item::Character, characters);
        of.set(
            Item::AudioSecond,
            if audio_seconds > 0 { usage.audio_seconds } else { 0 },
        );
        of.set(Item::Request, 1);
        Some(of)
    }

    /// Gives everything back: nothing was sent, or the provider has refused the request.
    pub fn release(self) {
        self.reservation.release();
    }

    /// Charges everything: it was sent, and nobody knows what became of it.
    pub fn forfeit(self) -> Charged {
        let cost = self.reservation.amount();
        self.reservation.settle(cost);
        Charged { cost, priced: false }
    }
}

#[cfg(test)]
mod tests;
