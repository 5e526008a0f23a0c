//! Money: integer nano-dollars, what a request consumed, and what that costs.
//!
//! Invariants: amounts are whole nano-dollars and every sum is checked; a price is exact to a nano-dollar for a million
//! units; the items of a request are multiplied and added exactly, in 128 bits, and rounded *up* once, to the next
//! nano-dollar, so that a cost is never below the provider's own; what has no price is an error, never zero.
//! Deliberately absent: other currencies, taxes, negotiated totals, and what a provider charges beyond its answers
//! (storage, searches that its own tools make, batches that are submitted elsewhere).

mod amount;
mod file;
mod price;
mod table;

pub use amount::{AmountError, NanoUsd, Tokens};
pub use file::{PriceFileError, parse as parse_prices};
pub use price::{Bound, Item, PLAIN, Price, Quantities, Rates, Tier, Unpriced};
pub use table::{OnUnknown, PriceId, PriceTable, Row};

/// The prices that come with this version, as YAML.
pub const SHIPPED: &str = include_str!("../../../config/prices.yaml");

#[cfg(test)]
mod tests;
