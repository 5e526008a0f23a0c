//! [`Line`]: of a customer, a team or a key, what nearly every request needs: in one cache line.
//!
//! Invariants: a line and the rest in its [`Scope`] say together what the scope says, and nothing twice: the budgets and limits
//! that apply to all requests stand first there, and as many as there is room for stand here. Deliberately absent: names.

use std::sync::Arc;

use super::{Filter, Scope};
use crate::budget::BudgetId;
use crate::rate::Limiter;

const BUDGETS: usize = 4;
const LIMITS: usize = 3;

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Line {
    /// The scope's number in the store.
    pub row: i64,
    limits: [Option<Arc<Limiter>>; LIMITS],
    budgets: [BudgetId; BUDGETS],
    budgets_len: u8,
    limits_len: u8,
    has_more: bool,
    /// Whether it may not use everything.
    pub has_lists: bool,
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// Of a scope, whose budgets and limits are put in order for it.
    pub fn new(scope: &mut Scope) -> Self {
        let applies_to_some = |filter: &Filter| *filter != Filter::default();
        scope.budgets.sort_by_key(|charge| applies_to_some(&charge.filter));
        scope.limits.sort_by_key(|subject| applies_to_some(&subject.filter));
        let all = scope
            .budgets
            .iter()
            .take_while(|charge| !applies_to_some(&charge.filter));
        let mut budgets = [BudgetId(0); BUDGETS];
        let mut budgets_len = 0;
        for (place, charge) in budgets.iter_mut().zip(all) {
            *place = charge.budget;
            budgets_len += 1;
        }
        let all = scope
            .limits
            .iter()
            .take_while(|subject| !applies_to_some(&subject.filter));
        let mut limits = [const { None }; LIMITS];
        let mut limits_len = 0;
        for (place, subject) in limits.iter_mut().zip(all) {
            *place = Some(subject.limiter.clone());
            limits_len += 1;
        }
        Self {
            row: scope.row,
            limits,
            budgets,
            budgets_len,
            limits_len,
            has_more: scope.budgets.len() > usize::from(budgets_len) || scope.limits.len() > usize::from(limits_len),
            has_lists: !scope.models.is_empty() || !scope.providers.is_empty(),
        }
    }

    /// The budgets that a request is charged to. `scope` is looked at only if it has more than the line.
    pub fn budgets<'a>(
        &'a self,
        scope: impl FnOnce() -> &'a Scope,
        (provider, model): (&'a str, &'a str),
    ) -> impl Iterator<Item = BudgetId> + 'a {
        let len = usize::from(self.budgets_len);
        let more = if self.has_more { &scope().budgets[len..] } else { &[] };
        let more = more.iter().filter(move |charge| charge.filter.matches(provider, model));
        self.budgets[..len]
            .iter()
            .copied()
            .chain(more.map(|charge| charge.budget))
    }

    /// The limits that a request is subject to, likewise; with each, its place in the scope.
    pub fn limits<'a>(
        &'a self,
        scope: impl FnOnce() -> &'a Scope,
        (provider, model): (&'a str, &'a str),
    ) -> impl Iterator<Item = (u32, &'a Arc<Limiter>)> + 'a {
        let len = usize::from(self.limits_len);
        let more = if self.has_more { &scope().limits[len..] } else { &[] };
        let more = (self.limits_len.into()..).zip(more);
        let more = more.filter(move |(_, subject)| subject.filter.matches(provider, model));
        let own = (0..).zip(self.limits[..len].iter().flatten());
        own.chain(more.map(|(at, subject)| (at, &subject.limiter)))
    }

    /// The limit at such a place, if the line has it.
    pub fn limit(&self, at: u32) -> Option<&Arc<Limiter>> {
        self.limits.get(at as usize)?.as_ref()
    }
}
