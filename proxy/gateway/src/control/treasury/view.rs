//! [`Budgets`]: how each budget stands, for metrics and `sluice status`.
//!
//! Invariants: as the store said last, so that reading it asks nobody. Deliberately absent: what the cores have spent since, which
//! the store learns within a second.

use std::sync::{Arc, Mutex, PoisonError};

/// How one budget stands, in nano-dollars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    /// Its number in the store.
    pub row: i64,
    /// Whose it is.
    pub owner: Box<str>,
    /// Over what time, as the command line says it.
    pub window: Box<str>,
    /// What may be spent.
    pub limit: u64,
    /// What was spent in this period.
    pub spent: u64,
    /// What is neither spent nor leased.
    pub unleased: u64,
}

impl BudgetView {
    /// The part that is spent, 0 to 1 and beyond.
    pub fn share(&self) -> f64 {
        self.spent as f64 / self.limit.max(1) as f64
    }

    /// What gateways have leased and not reported as spent.
    pub fn leased(&self) -> u64 {
        self.limit.saturating_sub(self.spent).saturating_sub(self.unleased)
    }
}

/// All budgets, by their place in the treasury; `None` where one is gone.
#[derive(Clone, Debug, Default)]
pub struct Budgets(Arc<Mutex<Vec<Option<BudgetView>>>>);

impl Budgets {
    /// All that there are.
    pub fn all(&self) -> Vec<BudgetView> {
        self.with(|all| all.iter().flatten().cloned().collect())
    }

    /// Changes them.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Vec<Option<BudgetView>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_spent_nor_left_is_leased() {
        let view = BudgetView {
            row: 1,
            owner: "line".into(),
            window: "1d".into(),
            limit: 100,
            spent: 30,
            unleased: 50,
        };
        assert_eq!(view.leased(), 20);
        assert_eq!(view.share(), 0.3);
        assert_eq!(BudgetView { spent: 101, ..view }.leased(), 0);
    }
}
