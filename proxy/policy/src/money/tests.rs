//! What costs what, to the nano-dollar.

use sluice_wire::chat::Usage;

use super::file::price;
use super::*;

fn made(text: &str) -> Price {
    price(&serde_json::from_str(text).unwrap()).unwrap()
}

fn sonnet() -> Price {
    made(
        r#"{"input": 3, "cache_read": 0.3, "cache_write": 3.75, "cache_write_long": 6, "output": 15,
            "input_max": 1000000, "output_max": 64000, "batch": {"input": 1.5, "output": 7.5},
            "above": [{"tokens": 200000, "input": 6, "cache_read": 0.6, "output": 22.5}]}"#,
    )
}

#[test]
fn amounts_are_read_and_written_exactly() {
    for (text, nanos) in [
        ("0", 0),
        ("50", 50_000_000_000),
        ("0.25", 250_000_000),
        ("0.000000001", 1),
        ("12.000000034", 12_000_000_034),
    ] {
        assert_eq!(text.parse(), Ok(NanoUsd(nanos)));
        assert_eq!(NanoUsd(nanos).to_string(), text);
    }
    assert_eq!("$3.50".parse(), Ok(NanoUsd(3_500_000_000)));
    assert_eq!("0.0000000010".parse(), Ok(NanoUsd(1)));
    for (text, error) in [
        ("", AmountError::NotDecimal),
        ("-1", AmountError::NotDecimal),
        ("+1", AmountError::NotDecimal),
        ("1e3", AmountError::NotDecimal),
        ("1.", AmountError::NotDecimal),
        (".5", AmountError::NotDecimal),
        ("1.2.3", AmountError::NotDecimal),
        ("0.0000000001", AmountError::TooFine),
        ("99999999999", AmountError::TooLarge),
        ("99999999999999999999999", AmountError::TooLarge),
    ] {
        assert_eq!(text.parse::<NanoUsd>(), Err(error), "{text}");
    }
}

#[test]
fn each_kind_of_token_is_charged_at_its_own_rate() {
    let usage = Usage {
        input: 1_000,
        cache_read: 10_000,
        cache_write: 100,
        cache_write_1h: 10,
        output: 500,
        reasoning: Some(200),
        ..Usage::default()
    };
    let cost = sonnet().cost(&Quantities::from_usage(&usage), Tier::Standard).unwrap();
    // 1,000 × 3,000 + 10,000 × 300 + 100 × 3,750 + 10 × 6,000 + 500 × 15,000 nano-dollars.
    assert_eq!(cost, NanoUsd(3_000_000 + 3_000_000 + 375_000 + 60_000 + 7_500_000));
}

#[test]
fn a_cost_is_rounded_up_once_and_not_for_each_item() {
    // 0.4 nano-dollars a token: three items of one token each are 1.2 together.
    let price = made(r#"{"input": 0.0004, "cache_read": 0.0004, "output": 0.0004}"#);
    let usage = Usage {
        input: 1,
        cache_read: 1,
        output: 1,
        ..Usage::default()
    };
    let of = Quantities::from_usage(&usage);
    assert_eq!(price.cost(&of, Tier::Standard), Ok(NanoUsd(2)));
    assert_eq!(price.cost(&Quantities::default(), Tier::Standard), Ok(NanoUsd(0)));
}

#[test]
fn a_long_context_changes_the_rates_of_the_whole_request() {
    let at = |input: u64| {
        let usage = Usage {
            input,
            output: 1,
            ..Usage::default()
        };
        sonnet().cost(&Quantities::from_usage(&usage), Tier::Standard).unwrap()
    };
    assert_eq!(at(200_000), NanoUsd(200_000 * 3_000 + 15_000));
    assert_eq!(at(200_001), NanoUsd(200_001 * 6_000 + 22_500));
    // What counts is all input, cached or not.
    let cached = Usage {
        input: 1,
        cache_read: 200_000,
        ..Usage::default()
    };
    let cost = sonnet().cost(&Quantities::from_usage(&cached), Tier::Standard).unwrap();
    assert_eq!(cost, NanoUsd(6_000 + 200_000 * 600));
}

#[test]
fn a_tier_without_rates_for_long_contexts_costs_the_dearer_of_both() {
    let usage = Usage {
        input: 300_000,
        ..Usage::default()
    };
    let of = Quantities::from_usage(&usage);
    assert_eq!(sonnet().cost(&of, Tier::Batch), Ok(NanoUsd(300_000 * 6_000)));
    assert_eq!(sonnet().cost(&of, Tier::Flex), Ok(NanoUsd(300_000 * 6_000)));
    let short = Quantities::from_usage(&Usage {
        input: 10,
        ..Usage::default()
    });
    assert_eq!(sonnet().cost(&short, Tier::Batch), Ok(NanoUsd(15_000)));
}

#[test]
fn what_a_tier_charges_as_input_follows_its_own_input() {
    let price = made(r#"{"input": 2, "output": 8, "batch": {"input": 1, "output": 4}}"#);
    let cached = Quantities::from_usage(&Usage {
        cache_read: 10,
        output: 10,
        reasoning: Some(10),
        ..Usage::default()
    });
    assert_eq!(price.cost(&cached, Tier::Standard), Ok(NanoUsd(20_000 + 80_000)));
    assert_eq!(price.cost(&cached, Tier::Batch), Ok(NanoUsd(10_000 + 40_000)));
}

#[test]
fn sound_and_reasoning_are_taken_out_of_the_totals_that_include_them() {
    let price = made(r#"{"input": 1, "output": 10, "input_audio": 100, "output_audio": 1000, "reasoning": 20}"#);
    let usage = Usage {
        input: 10,
        input_audio: 4,
        output: 10,
        output_audio: 3,
        reasoning: Some(2),
        ..Usage::default()
    };
    let cost = price.cost(&Quantities::from_usage(&usage), Tier::Standard);
    assert_eq!(cost, Ok(NanoUsd(6_000 + 400_000 + 50_000 + 3_000_000 + 40_000)));
    let absurd = Usage {
        output: 1,
        output_audio: 9,
        reasoning: Some(9),
        ..Usage::default()
    };
    assert_eq!(Quantities::from_usage(&absurd).get(Item::OutputAudio), 1);
    assert_eq!(Quantities::from_usage(&absurd).get(Item::Reasoning), 0);
}

#[test]
fn pieces_are_priced_one_by_one() {
    let price = made(r#"{"request": 0.005, "image": 0.04, "audio_second": 0.0001, "character": 0.000015}"#);
    let mut of = Quantities::default();
    for (item, count) in [
        (Item::Request, 1),
        (Item::Image, 2),
        (Item::AudioSecond, 30),
        (Item::Character, 100),
    ] {
        of.set(item, count);
    }
    assert_eq!(
        price.cost(&of, Tier::Standard),
        Ok(NanoUsd(5_000_000 + 80_000_000 + 3_000_000 + 1_500_000))
    );
}

#[test]
fn what_has_no_price_is_an_error_and_never_free() {
    let price = made(r#"{"input": 1}"#);
    let mut of = Quantities::default();
    of.set(Item::Output, 1);
    assert_eq!(price.cost(&of, Tier::Standard), Err(Unpriced::Item(Item::Output)));
    of.set(Item::Output, 0);
    of.set(Item::Image, 1);
    assert_eq!(price.cost(&of, Tier::Standard), Err(Unpriced::Item(Item::Image)));
    let unbounded = made(r#"{"input": 1, "output": 2}"#);
    assert_eq!(unbounded.worst(&PLAIN, Tier::Standard), Err(Unpriced::OutputMax));
    let dear = made(r#"{"input": 1000000}"#);
    of = Quantities::default();
    of.set(Item::Input, u64::MAX);
    assert_eq!(dear.cost(&of, Tier::Standard), Err(Unpriced::TooLarge));
}

#[test]
fn the_worst_case_is_never_below_the_cost_of_anything_within_the_bound() {
    let prices = [
        sonnet(),
        made(
            r#"{"input": 0.15, "cache_read": 0.9, "output": 0.6, "reasoning": 1.2, "input_max": 128000, "output_max": 16384}"#,
        ),
        made(
            r#"{"input": 2.5, "output": 10, "input_audio": 40, "output_audio": 80, "input_max": 9000, "output_max": 400,
                "priority": {"input": 9}, "flex": {"output": 1}, "above": [{"tokens": 100, "input": 0.5, "flex": {"input": 7}}]}"#,
        ),
    ];
    let mut seed = 0x5eed_u64;
    let mut random = |bound: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    for round in 0..20_000 {
        let price = &prices[random(3) as usize];
        let tier = Tier::ALL[random(5) as usize].0;
        let usage = Usage {
            input: random(300_000).min(random(300_000)),
            cache_read: random(150_000).min(random(100_000)),
            cache_write: random(20_000) * random(2),
            cache_write_1h: random(20_000) * random(2),
            output: random(400),
            reasoning: Some(random(400)),
            input_audio: random(2) * random(100),
            input_image: random(2) * random(100),
            output_audio: random(2) * random(100),
            output_image: random(2) * random(100),
            audio_seconds: 0,
        };
        let max = price.input_max.unwrap().0;
        if usage.input_total() > max {
            continue;
        }
        let bound = Bound {
            input: Tokens(usage.input_total() + random(1000)),
            output: (random(2) == 0).then(|| Tokens(usage.output + random(10))),
            may_write_cache: usage.cache_write_total() > 0,
            audio_in: usage.input_audio > 0,
            audio_out: usage.output_audio > 0,
            image_out: usage.output_image > 0,
            ..PLAIN
        };
        let cost = price.cost(&Quantities::from_usage(&usage), tier).unwrap();
        let worst = price.worst(&bound, tier).unwrap();
        assert!(
            cost <= worst,
            "round {round}: {usage:?} {bound:?} {tier:?}: {cost} > {worst}"
        );
    }
}

#[test]
fn the_affordable_output_costs_no_more_than_the_money_and_one_token_more_does() {
    let price = sonnet();
    let bound = Bound {
        input: Tokens(1_000),
        ..PLAIN
    };
    let worst = |output: u64| {
        let bound = Bound {
            output: Some(Tokens(output)),
            ..bound
        };
        price.worst(&bound, Tier::Standard).unwrap()
    };
    let money = NanoUsd(10_000_000);
    let output = price.affordable_output(&bound, Tier::Standard, money).unwrap();
    assert!(worst(output.0) <= money && worst(output.0 + 1) > money);
    assert_eq!(price.affordable_output(&bound, Tier::Standard, worst(0)), None);
    let rich = price.affordable_output(&bound, Tier::Standard, NanoUsd::LIMIT_MAX);
    assert_eq!(rich, Some(Tokens(64_000)));
}

#[test]
fn several_answers_multiply_the_models_own_maximum() {
    let bound = Bound { answers: 3, ..PLAIN };
    let worst = sonnet().worst(&bound, Tier::Standard).unwrap();
    assert_eq!(worst, NanoUsd(3 * 64_000 * 15_000));
    let embedding = made(r#"{"input": 0.02, "input_max": 8191}"#);
    let bound = Bound {
        input: Tokens(1_000_000),
        ..PLAIN
    };
    assert_eq!(embedding.worst(&bound, Tier::Standard), Ok(NanoUsd(8191 * 20)));
}

#[test]
fn mistakes_in_a_price_file_are_named() {
    let wrong = |row: &str| {
        let file = format!("- source: s\n  date: 2026-01-01\n  prices:\n    a/b: {row}\n");
        parse_prices(&file).unwrap_err().to_string()
    };
    assert!(wrong("{imput: 1}").contains("a/b: the key imput is not known"));
    assert!(wrong("{input: -1}").contains("a/b: input is not"));
    assert!(wrong("{input: 0.0000000001}").contains("a/b: input is not"));
    assert!(!wrong("{input: .inf}").is_empty());
    assert!(wrong("{image: 999999}").contains("a/b: image is not"));
    assert!(wrong("{input: 1, above: [{input: 2}]}").contains("from how many"));
    assert!(wrong("{batch: {above: 1}}").contains("the key above is not known"));
    assert!(parse_prices("prices: 1").is_err());
}

#[test]
fn shipped_prices_are_sound_and_name_vendors_that_there_are() {
    let rows = parse_prices(SHIPPED).unwrap();
    assert!(rows.len() > 500, "{}", rows.len());
    for row in &rows {
        let (vendor, model) = row.name.split_once('/').unwrap();
        assert!(
            crate::vendors::find(vendor).is_some() && !model.is_empty(),
            "{}",
            row.name
        );
        assert!(row.source.contains("://") && row.date.len() == 10, "{}", row.name);
    }
    let table = PriceTable::new(rows, Vec::new(), OnUnknown::Refuse);
    let mini = &table.find("openai", Some("openai"), "gpt-4o-mini").unwrap().price;
    let usage = Usage {
        input: 1_000_000,
        output: 1_000_000,
        ..Usage::default()
    };
    let cost = mini.cost(&Quantities::from_usage(&usage), Tier::Standard);
    assert_eq!(cost, Ok(NanoUsd(750_000_000)));
    assert_eq!(mini.output_max, Some(Tokens(16_384)));
    assert!(
        table
            .find("anthropic", Some("anthropic"), "claude-sonnet-4-6")
            .is_some()
    );
    assert!(
        table
            .find("bedrock", Some("bedrock"), "eu.anthropic.claude-sonnet-4-6")
            .is_some()
    );
    assert!(table.find("openai", Some("openai"), "no-such-model").is_none());
}

#[test]
fn an_operators_own_price_comes_before_a_shipped_one_and_a_name_before_a_pattern() {
    let row = |name: &str, input: u64| Row {
        name: name.into(),
        price: made(&format!(r#"{{"input": {input}}}"#)),
        source: "here".into(),
        date: "2026-01-01".into(),
    };
    let table = PriceTable::new(
        vec![row("openai/a", 1), row("openai/b", 1)],
        vec![row("factory/*", 2), row("factory/a", 3), row("*/b", 4)],
        OnUnknown::Zero,
    );
    let found = |provider: &str, vendor: Option<&str>, model: &str| {
        let row = table.find(provider, vendor, model)?;
        let mut of = Quantities::default();
        of.set(Item::Input, 1_000);
        row.price.cost(&of, Tier::Standard).ok().map(|cost| cost.0 / 1_000_000)
    };
    assert_eq!(found("openai", Some("openai"), "a"), Some(1));
    assert_eq!(found("factory", Some("openai"), "a"), Some(3));
    assert_eq!(found("factory", Some("openai"), "x"), Some(2));
    assert_eq!(found("openai", Some("openai"), "b"), Some(4));
    assert_eq!(found("elsewhere", Some("openai"), "a"), Some(1));
    assert_eq!(found("elsewhere", None, "a"), None);
    assert_eq!(found(&"x".repeat(400), Some("openai"), "a"), Some(1));
    assert_eq!(table.unknown(), Some(NanoUsd::ZERO));
    assert_eq!(PriceTable::default().unknown(), None);
}
