//! What is set aside for a request, and what it pays.

use std::sync::Arc;

use super::*;
use crate::budget::{Account, Period, Refusal, Window};
use crate::money::Item;

const NOW_S: u64 = 1_000_000;
const BUDGET: [BudgetId; 1] = [BudgetId(0)];

/// A nano-dollar for a token of input, ten for one of output; up to 100,000 and 1,000 of them.
fn price() -> Price {
    let mut rates = [None; Item::COUNT];
    rates[Item::Input as usize] = Some(1_000_000);
    rates[Item::Output as usize] = Some(10_000_000);
    Price::new(rates, Some(Tokens(100_000)), Some(Tokens(1_000)))
}

fn purse(money: u64) -> Rc<Purse> {
    let account = Account::new(Period::of(Window::Total, NOW_S), 0);
    account.grant(money);
    account.set_exhausted(true);
    let purse = Purse::new(1);
    purse.fund(BUDGET[0], Arc::new(account));
    purse
}

const DEMAND: Demand = Demand {
    body_bytes: 952,
    refers: false,
    output: Some(100),
    answers: 1,
    images: 0,
    pieces: Pieces {
        images: 0,
        characters: 0,
        audio_seconds: 0,
    },
    may_write_cache: false,
    tier: Tier::Standard,
    any_tier: false,
};

fn hold_of(purse: &Rc<Purse>, price: Option<&Price>, demand: &Demand, enforce: Enforce) -> Result<Held, Unaffordable> {
    hold(purse, &BUDGET, price, OnUnknown::Refuse, demand, enforce, NOW_S)
}

#[test]
fn the_worst_case_is_set_aside_and_the_real_cost_is_paid() {
    let (purse, price) = (purse(10_000), price());
    let mut held = hold_of(&purse, Some(&price), &DEMAND, Enforce::Worst).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(3_000 + 1_000));
    held.reservation.sent();
    let usage = Usage {
        input: 200,
        output: 50,
        ..Usage::default()
    };
    assert_eq!(held.cost(Some(&price), &usage), Some(NanoUsd(700)));
    let charged = held.settle(Some(&price), &usage, None);
    assert_eq!((charged.cost, charged.priced), (NanoUsd(700), true));
    assert_eq!(purse.affordable(&BUDGET, NOW_S), Ok(NanoUsd(9_300)));
    hold_of(&purse, Some(&price), &DEMAND, Enforce::Worst)
        .unwrap()
        .release();
    assert_eq!(purse.affordable(&BUDGET, NOW_S), Ok(NanoUsd(9_300)));
    let charged = hold_of(&purse, Some(&price), &DEMAND, Enforce::Worst)
        .unwrap()
        .forfeit();
    assert_eq!((charged.cost, charged.priced), (NanoUsd(4_000), false));
}

#[test]
fn what_a_request_refers_to_counts_as_a_full_context() {
    let (purse, price) = (purse(1_000_000), price());
    let demand = Demand { refers: true, ..DEMAND };
    let held = hold_of(&purse, Some(&price), &demand, Enforce::Worst).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(100_000 + 1_000));
}

#[test]
fn answers_multiply_what_each_may_cost() {
    let (purse, price) = (purse(1_000_000), price());
    let several = Demand { answers: 3, ..DEMAND };
    let held = hold_of(&purse, Some(&price), &several, Enforce::Worst).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(3_000 + 3_000));
    let open = Demand {
        output: None,
        ..several
    };
    let held = hold_of(&purse, Some(&price), &open, Enforce::Worst).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(3_000 + 30_000));
}

#[test]
fn clamp_limits_the_output_to_what_the_budget_affords() {
    let price = price();
    let rich = hold_of(&purse(4_000), Some(&price), &DEMAND, Enforce::Clamp).unwrap();
    assert_eq!(rich.clamp, None);
    let poor = purse(3_999);
    assert!(matches!(
        hold_of(&poor, Some(&price), &DEMAND, Enforce::Worst),
        Err(Unaffordable::Budget(Refused {
            why: Refusal::Exhausted,
            ..
        }))
    ));
    let held = hold_of(&poor, Some(&price), &DEMAND, Enforce::Clamp).unwrap();
    assert_eq!((held.clamp, held.reservation.amount()), (Some(99), NanoUsd(3_990)));
    let several = Demand { answers: 4, ..DEMAND };
    let held = hold_of(&purse(4_000), Some(&price), &several, Enforce::Clamp).unwrap();
    assert_eq!(held.clamp, Some(25));
    assert!(hold_of(&purse(3_009), Some(&price), &DEMAND, Enforce::Clamp).is_err());
}

#[test]
fn an_estimate_sets_less_aside_and_the_real_cost_is_paid_all_the_same() {
    let (purse, price) = (purse(100_000), price());
    let open = Demand { output: None, ..DEMAND };
    let held = hold_of(&purse, Some(&price), &open, Enforce::Estimate(200)).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(3_000 + 2_000));
    let usage = Usage {
        output: 900,
        ..Usage::default()
    };
    assert_eq!(held.settle(Some(&price), &usage, None).cost, NanoUsd(9_000));
    assert_eq!(purse.affordable(&BUDGET, NOW_S), Ok(NanoUsd(91_000)));
    let held = hold_of(&purse, Some(&price), &DEMAND, Enforce::Estimate(200)).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(4_000), "no more than was asked for");
}

#[test]
fn without_a_price_a_budget_refuses_or_counts_nothing_as_the_operator_says() {
    let purse = purse(1_000);
    assert_eq!(
        hold_of(&purse, None, &DEMAND, Enforce::Worst).unwrap_err(),
        Unaffordable::NoPrice
    );
    let counted = hold(&purse, &BUDGET, None, OnUnknown::Zero, &DEMAND, Enforce::Worst, NOW_S).unwrap();
    let charged = counted.settle(None, &Usage::default(), None);
    assert_eq!((charged.cost, charged.priced), (NanoUsd::ZERO, false));
    let free = hold(&purse, &[], None, OnUnknown::Refuse, &DEMAND, Enforce::Worst, NOW_S);
    assert!(free.is_ok(), "nobody's budget is concerned");
}

#[test]
fn what_has_no_price_is_refused_before_and_pays_what_was_reserved_after() {
    let purse = purse(100_000);
    let mut rates = [None; Item::COUNT];
    rates[Item::Input as usize] = Some(1_000_000);
    let embedding = Price::new(rates, None, None);
    let open = Demand { output: None, ..DEMAND };
    let held = hold_of(&purse, Some(&embedding), &open, Enforce::Worst).unwrap();
    let strange = Usage {
        output: 1,
        ..Usage::default()
    };
    let charged = held.settle(Some(&embedding), &strange, None);
    assert_eq!((charged.cost, charged.priced), (NanoUsd(3_000), false));
    rates[Item::Output as usize] = Some(1);
    let endless = Price::new(rates, None, None);
    let refused = hold_of(&purse, Some(&endless), &open, Enforce::Worst).unwrap_err();
    assert_eq!(refused, Unaffordable::Unpriced(Unpriced::OutputMax));
    let held = hold_of(&purse, Some(&endless), &open, Enforce::Clamp).unwrap();
    assert!(held.clamp.is_some());
}

#[test]
fn what_the_answer_says_of_its_tier_is_charged_and_a_tier_that_is_open_is_held_for() {
    let mut rates = [None; Item::COUNT];
    rates[Item::Output as usize] = Some(20_000_000);
    let mut half = [None; Item::COUNT];
    half[Item::Output as usize] = Some(5_000_000);
    let price = price()
        .with_sheet(Tier::Priority, 0, rates)
        .with_sheet(Tier::Flex, 0, half);
    let (purse, usage) = (
        purse(1_000_000),
        Usage {
            output: 50,
            ..Usage::default()
        },
    );
    let open = Demand {
        any_tier: true,
        ..DEMAND
    };
    for (demand, held, tier, cost) in [
        (&DEMAND, 4_000, None, 500),
        (&DEMAND, 4_000, Some(Tier::Flex), 250),
        (&open, 5_000, None, 500),
        (&open, 5_000, Some(Tier::Priority), 1_000),
    ] {
        let hold = hold_of(&purse, Some(&price), demand, Enforce::Worst).unwrap();
        assert_eq!(hold.reservation.amount(), NanoUsd(held));
        assert_eq!(hold.settle(Some(&price), &usage, tier).cost, NanoUsd(cost), "{tier:?}");
    }
    let clamped = hold_of(&self::purse(4_000), Some(&price), &open, Enforce::Clamp).unwrap();
    assert_eq!(clamped.clamp, Some(50), "at the dearer tier");
}

/// A price of these items alone.
fn price_of(rates_of: &[(Item, u64)]) -> Price {
    let mut rates = [None; Item::COUNT];
    for &(item, rate) in rates_of {
        rates[item as usize] = Some(rate);
    }
    Price::new(rates, None, None)
}

fn asked_for(pieces: Pieces) -> Demand {
    Demand {
        output: None,
        pieces,
        answers: pieces.images.max(1),
        ..DEMAND
    }
}

#[test]
fn what_has_a_price_by_the_piece_is_charged_by_the_piece_whatever_tokens_the_answer_tells_of() {
    let (purse, usage) = (
        purse(100_000),
        Usage {
            input: 9,
            output: 8,
            ..Usage::default()
        },
    );
    let images = asked_for(Pieces {
        images: 3,
        ..Pieces::default()
    });
    let spoken = asked_for(Pieces {
        characters: 40,
        ..Pieces::default()
    });
    let by_image = price_of(&[(Item::Image, 20_000_000)]);
    let by_character = price_of(&[(Item::Character, 15_000_000)]);
    for (price, demand, cost) in [(&by_image, images, 60), (&by_character, spoken, 600)] {
        let held = hold_of(&purse, Some(price), &demand, Enforce::Worst).unwrap();
        assert_eq!(held.reservation.amount(), NanoUsd(cost));
        assert!(held.is_known_without_usage(Some(price)));
        let charged = held.settle(Some(price), &usage, None);
        assert_eq!((charged.cost, charged.priced), (NanoUsd(cost), true));
    }
    // A chat with a model that has such a price is covered by nothing.
    let refused = hold_of(&purse, Some(&by_image), &DEMAND, Enforce::Worst).unwrap_err();
    assert_eq!(refused, Unaffordable::Unpriced(Unpriced::Item(Item::Input)));
    let refused = hold_of(&purse, Some(&by_image), &spoken, Enforce::Worst).unwrap_err();
    assert_eq!(refused, Unaffordable::Unpriced(Unpriced::Item(Item::Character)));
}

#[test]
fn sound_is_held_for_by_its_size_and_charged_by_the_seconds_that_the_answer_tells_of() {
    let (purse, price) = (purse(100_000), price_of(&[(Item::AudioSecond, 100_000_000)]));
    let mut demand = asked_for(Pieces {
        audio_seconds: 80,
        ..Pieces::default()
    });
    let held = hold_of(&purse, Some(&price), &demand, Enforce::Worst).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(8_000));
    assert!(!held.is_known_without_usage(Some(&price)));
    let usage = Usage {
        audio_seconds: 7,
        ..Usage::default()
    };
    assert_eq!(held.settle(Some(&price), &usage, None).cost, NanoUsd(700));
    let held = hold_of(&purse, Some(&price), &demand, Enforce::Worst).unwrap();
    let untold = held.settle(Some(&price), &Usage::default(), None);
    assert_eq!((untold.cost, untold.priced), (NanoUsd(8_000), false));
    demand.refers = true;
    let elsewhere = hold_of(&purse, Some(&price), &demand, Enforce::Worst);
    assert!(elsewhere.is_err(), "sound somewhere else may be of any length");
}

#[test]
fn images_that_cost_tokens_are_held_for_each_and_their_output_is_images() {
    let rates = [(Item::Input, 1_000_000), (Item::OutputImage, 10_000_000)];
    let unbounded = price_of(&rates);
    let demand = asked_for(Pieces {
        images: 2,
        ..Pieces::default()
    });
    let (purse, usage) = (
        purse(100_000),
        Usage {
            input: 20,
            output: 300,
            ..Usage::default()
        },
    );
    let mut bounded = unbounded.clone();
    bounded.output_max = Some(Tokens(500));
    let held = hold_of(&purse, Some(&bounded), &demand, Enforce::Worst).unwrap();
    assert_eq!(held.reservation.amount(), NanoUsd(3_000 + 2 * 5_000));
    assert_eq!(held.settle(Some(&bounded), &usage, None).cost, NanoUsd(20 + 3_000));
    // How many tokens an image is at most has to be known, or decided upon.
    let refused = hold_of(&purse, Some(&unbounded), &demand, Enforce::Worst).unwrap_err();
    assert_eq!(refused, Unaffordable::Unpriced(Unpriced::OutputMax));
    let zero = |demand: &Demand| {
        hold(
            &purse,
            &BUDGET,
            Some(&unbounded),
            OnUnknown::Zero,
            demand,
            Enforce::Worst,
            NOW_S,
        )
    };
    let charged = zero(&demand).unwrap().settle(Some(&unbounded), &usage, None);
    assert_eq!((charged.cost, charged.priced), (NanoUsd::ZERO, false));
    let plain = Demand { output: None, ..DEMAND };
    assert!(
        zero(&plain).is_err(),
        "whoever limits nothing is not let in for nothing"
    );
}

#[test]
fn images_in_a_body_count_beside_its_bytes() {
    let demand = Demand { images: 3, ..DEMAND };
    assert_eq!(demand.bound(&price()).input, Tokens(3_000 + 3 * IMAGE_TOKENS_MAX));
}
