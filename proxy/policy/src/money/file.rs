//! Price files: YAML lists of groups that share a source and a date.
//!
//! ```yaml
//! - source: https://example.com/pricing
//!   date: 2026-11-22
//!   prices:
//!     vendor/model: {input: 1.25, cache_read: 0.125, output: 10, input_max: 272000, output_max: 128000,
//!       batch: {input: 0.625, output: 5}, above: [{tokens: 200000, input: 2.5, output: 15}]}
//! ```
//!
//! Invariants: amounts are dollars, for a million tokens or for one of anything else, and are read exactly as they are
//! written; an unknown key is an error, never a rate that is left out. Deliberately absent: positions within the file, which
//! is not meant to be written by hand.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Tokens;
use super::price::{Item, Price, Rates, Tier};
use super::table::Row;

/// Why a text is no price file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceFileError(String);

impl fmt::Display for PriceFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PriceFileError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    source: String,
    date: String,
    prices: Map<String, Value>,
}

/// Reads a price file.
///
/// # Errors
/// It is not YAML of the form above; a rate is negative or finer than a nano-dollar for a million; a key is unknown.
pub fn parse(text: &str) -> Result<Vec<Row>, PriceFileError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 1_000_000, max_events: 4_000_000, },
        strict_booleans: true,
        with_snippet: false,
    };
    let groups: Vec<Group> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| PriceFileError(format!("not a price file: {error}")))?;
    let mut rows = Vec::new();
    for group in groups {
        for (name, value) in group.prices {
            let price = price(&value).map_err(|why| PriceFileError(format!("{name}: {why}")))?;
            rows.push(Row {
                name: name.into(),
                price,
                source: group.source.as_str().into(),
                date: group.date.as_str().into(),
            });
        }
    }
    Ok(rows)
}

/// One model's price from its mapping.
///
/// # Errors
/// A sentence that says which key is wrong.
pub fn price(value: &Value) -> Result<Price, String> {
    let members = value.as_object().ok_or("it is not a mapping of rates")?;
    let count = |key: &str| match members.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(|tokens| Some(Tokens(tokens)))
            .ok_or(format!("{key} is not a number of tokens")),
    };
    let known = |key: &str| matches!(key, "input_max" | "output_max" | "above") || is_tier(key);
    let base = Price::new(rates(members, known)?, count("input_max")?, count("output_max")?);
    let mut price = with_tiers(base, 0, members)?;
    let above = members.get("above").map_or(Ok([].as_slice()), |above| {
        above.as_array().map(Vec::as_slice).ok_or("above is not a list")
    })?;
    for sheet in above {
        let members = sheet.as_object().ok_or("an entry of above is not a mapping")?;
        let tokens = members
            .get("tokens")
            .and_then(Value::as_u64)
            .filter(|tokens| *tokens > 0);
        let tokens = tokens.ok_or("an entry of above does not say from how many tokens on")?;
        let rates = rates(members, |key| key == "tokens" || is_tier(key))?;
        price = with_tiers(price.with_sheet(Tier::Standard, tokens, rates), tokens, members)?;
    }
    Ok(price)
}

fn is_tier(key: &str) -> bool {
    Tier::ALL[1..].iter().any(|(_, name)| *name == key)
}

fn with_tiers(mut price: Price, above: u64, members: &Map<String, Value>) -> Result<Price, String> {
    for (tier, name) in &Tier::ALL[1..] {
        if let Some(value) = members.get(*name) {
            let members = value
                .as_object()
                .ok_or_else(|| format!("{name} is not a mapping of rates"))?;
            price = price.with_sheet(*tier, above, rates(members, |_| false)?);
        }
    }
    Ok(price)
}

fn rates(members: &Map<String, Value>, known: impl Fn(&str) -> bool) -> Result<Rates, String> {
    let mut rates = [None; Item::COUNT];
    for (key, value) in members {
        if let Some((item, _)) = Item::ALL.iter().find(|(_, name)| name == key) {
            rates[*item as usize] = Some(rate(*item, value).ok_or_else(|| {
                format!("{key} is not an amount of dollars from 0 to 1000000 with at most nine digits behind the point")
            })?);
        } else if !known(key) {
            return Err(format!("the key {key} is not known"));
        }
    }
    Ok(rates)
}

/// Nano-dollars for a million. What is written in decimal is read exactly: the nearest binary number is closer to it than to
/// any other with that few digits.
fn rate(item: Item, value: &Value) -> Option<u64> {
    const DOLLARS_MAX: f64 = 1e6;
    let dollars = value.as_f64().filter(|dollars| (0.0..=DOLLARS_MAX).contains(dollars))?;
    let nanos = dollars * 1e9;
    let whole = nanos.round();
    let is_exact = (nanos - whole).abs() <= whole * 1e-14 + 1e-4;
    // At most 1e15, far within what 64 bits hold.
    let whole = is_exact.then_some(whole as u64)?;
    if item.is_token() {
        Some(whole)
    } else {
        whole.checked_mul(1_000_000)
    }
}
