//! [`Estimates`]: how long the answers of each model are on one core, learned where budgets reserve by that.
//!
//! Invariants: one thread; prices that are replaced take what was learned with them, because a model is known by its price;
//! bounded by the number of prices. Deliberately absent: the estimate itself (`sluice_policy::budget::OutputEstimate`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use sluice_policy::budget::OutputEstimate;
use sluice_policy::money::{PriceId, PriceTable};

use crate::plane::Plane;

/// How long answers are, by model.
#[derive(Default)]
pub struct Estimates(RefCell<Learned>);

#[derive(Default)]
struct Learned {
    /// The table whose ids these are.
    table: Weak<PriceTable>,
    by_price: HashMap<PriceId, Box<OutputEstimate>>,
}

impl Estimates {
    /// What has been learned of a price that the plane does not have any more is forgotten.
    pub fn follow(&self, plane: &Plane) {
        let mut learned = self.0.borrow_mut();
        let table = plane.accounts.as_ref().map(|accounts| &accounts.prices);
        let is_same = table.is_some_and(|table| Weak::as_ptr(&learned.table) == Arc::as_ptr(table));
        if !is_same {
            *learned = Learned {
                table: table.map(Arc::downgrade).unwrap_or_default(),
                by_price: HashMap::new(),
            };
        }
    }

    /// What 99 of 100 answers need at most, in output tokens; `None` before enough are known.
    pub fn p99(&self, price: PriceId) -> Option<u64> {
        self.0.borrow().by_price.get(&price)?.p99()
    }

    /// Learns from an answer.
    pub fn record(&self, price: PriceId, output_tokens: u64) {
        let mut learned = self.0.borrow_mut();
        learned.by_price.entry(price).or_default().record(output_tokens);
    }
}
