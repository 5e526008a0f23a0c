//! [`PriceTable`]: from a provider and a model to its price.
//!
//! Invariants: an operator's own price comes before a shipped one, an exact name before a pattern, then the first wins;
//! a model without a price is a decision of the operator's, and visible. Deliberately absent: guessing a price from a similar
//! name.

use std::collections::HashMap;

use super::{NanoUsd, Price};
use crate::glob::Glob;

/// A model's price, and where it is from.
#[derive(Clone, Debug)]
pub struct Row {
    /// `VENDOR/MODEL` of a shipped price, `PROVIDER/MODEL` of an operator's own, where `*` stands for any text.
    pub name: Box<str>,
    /// The price.
    pub price: Price,
    /// Where it is published.
    pub source: Box<str>,
    /// When it was taken from there, as `YYYY-MM-DD`.
    pub date: Box<str>,
}

/// What happens to a request for a model without a price, by a caller that has a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnknown {
    /// It is refused.
    #[default]
    Refuse,
    /// It costs nothing, and is counted as unpriced.
    Zero,
}

/// A price of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PriceId(u32);

/// All prices.
#[derive(Debug, Default)]
pub struct PriceTable {
    rows: Vec<Row>,
    own: HashMap<Box<str>, PriceId>,
    patterns: Box<[(Glob, PriceId)]>,
    shipped: HashMap<Box<str>, PriceId>,
    on_unknown: OnUnknown,
}

impl PriceTable {
    /// A table of shipped prices and an operator's own.
    pub fn new(shipped: Vec<Row>, own: Vec<Row>, on_unknown: OnUnknown) -> Self {
        let mut rows = Vec::with_capacity(shipped.len() + own.len());
        let mut add = |row: Row| {
            let id = PriceId(u32::try_from(rows.len()).unwrap_or(u32::MAX));
            rows.push(row);
            id
        };
        let mut exact = HashMap::new();
        let mut patterns = Vec::new();
        for row in own {
            let name = row.name.clone();
            let id = add(row);
            if name.contains('*') {
                patterns.push((Glob::new(&name), id));
            } else {
                exact.entry(name).or_insert(id);
            }
        }
        let shipped = shipped.into_iter().map(|row| (row.name.clone(), add(row))).collect();
        Self {
            rows,
            own: exact,
            patterns: patterns.into(),
            shipped,
            on_unknown,
        }
    }

    /// The price of `model` at a provider, and where it is from. `provider` is its name in the configuration, `vendor` the row
    /// of the vendors' table that it starts from. No allocation for names within bounds.
    pub fn find(&self, provider: &str, vendor: Option<&str>, model: &str) -> Option<&Row> {
        self.find_id(provider, vendor, model).map(|id| self.row(id))
    }

    /// The same, to be looked at later in this table.
    pub fn find_id(&self, provider: &str, vendor: Option<&str>, model: &str) -> Option<PriceId> {
        let mut name = Name::default();
        if (!self.own.is_empty() || !self.patterns.is_empty())
            && let Some(own) = name.join(provider, model)
        {
            let pattern = || {
                self.patterns
                    .iter()
                    .find(|(glob, _)| glob.matches(own))
                    .map(|(_, id)| id)
            };
            if let Some(id) = self.own.get(own).or_else(pattern) {
                return Some(*id);
            }
        }
        self.shipped.get(name.join(vendor?, model)?).copied()
    }

    /// A price that this table has found.
    pub fn row(&self, id: PriceId) -> &Row {
        &self.rows[id.0 as usize]
    }

    /// What a model without a price means.
    pub fn on_unknown(&self) -> OnUnknown {
        self.on_unknown
    }

    /// What to reserve and charge for a model without a price: nothing, or `None` if it is to be refused.
    pub fn unknown(&self) -> Option<NanoUsd> {
        (self.on_unknown == OnUnknown::Zero).then_some(NanoUsd::ZERO)
    }

    /// Number of prices.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Room for `PROVIDER/MODEL`.
struct Name {
    bytes: [u8; Self::BYTES_MAX],
}

impl Default for Name {
    fn default() -> Self {
        Self {
            bytes: [0; Self::BYTES_MAX],
        }
    }
}

impl Name {
    const BYTES_MAX: usize = sluice_wire::limits::NAME_BYTES_MAX + 1 + sluice_wire::limits::MODEL_BYTES_MAX;

    /// `None` if it does not fit, and can thus be no name in a table.
    fn join(&mut self, provider: &str, model: &str) -> Option<&str> {
        let len = provider.len() + 1 + model.len();
        let room = self.bytes.get_mut(..len)?;
        room[..provider.len()].copy_from_slice(provider.as_bytes());
        room[provider.len()] = b'/';
        room[provider.len() + 1..].copy_from_slice(model.as_bytes());
        std::str::from_utf8(room).ok()
    }
}
