//! What experience says: of each pair of templates, whether their answers agreed; of each namespace, how often served answers were
//! wrong.
//!
//! Invariants: a pair of templates is served only after enough agreements, and never after one disagreement, until an operator
//! releases it; a namespace is switched off once the upper confidence bound of its error exceeds what the route
//! tolerates and an error was seen, and goes on being checked. Memory is bounded: what there is no room for stays in shadow.
//! Deliberately absent: how two answers are compared, which is the caller's to say.

use std::collections::HashMap;

use sluice_wire::limits::{CACHE_NAMESPACES_MAX, CACHE_TEMPLATE_PAIRS_MAX};

use super::guard::Template;

/// A tenant's route: what evidence is gathered for. A hash of both.
pub type Namespace = u64;

/// The error of which a bound is exceeded: 5 %, one-sided.
const ERROR: f64 = 0.05;
/// Checks after which old ones begin to count half.
const CHECKS_MAX: u64 = 100_000;

/// Two ways of saying something, in either order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplatePair(Template, Template);

impl TemplatePair {
    /// Of two templates.
    pub fn new(one: Template, other: Template) -> Self {
        Self(one.min(other), one.max(other))
    }

    /// Whether both are one: the texts differ in nothing but punctuation, case and fillers.
    pub fn is_one(&self) -> bool {
        self.0 == self.1
    }

    /// Both, the lower first.
    pub fn templates(&self) -> [Template; 2] {
        [self.0, self.1]
    }
}

/// What is known of a pair of templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Answers were the same so often.
    Agreed(u32),
    /// Answers differed once.
    Quarantined,
}

/// Whether a match may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it.
    Serve,
    /// Ask the provider all the same, and compare.
    Shadow,
    /// Leave it alone.
    Refuse,
}

/// What is known of all pairs of templates.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pairs: HashMap<(Namespace, TemplatePair), Standing>,
}

impl Evidence {
    /// Whether a match may be served that needs `agreements` of its pair.
    pub fn verdict(&self, namespace: Namespace, pair: TemplatePair, agreements: u32) -> Verdict {
        match self.pairs.get(&(namespace, pair)) {
            Some(Standing::Quarantined) => Verdict::Refuse,
            _ if pair.is_one() => Verdict::Serve,
            Some(Standing::Agreed(count)) if *count >= agreements => Verdict::Serve,
            None if agreements == 0 => Verdict::Serve,
            _ => Verdict::Shadow,
        }
    }

    /// Takes note of a comparison. `false` if there is no room for it.
    pub fn record(&mut self, namespace: Namespace, pair: TemplatePair, agrees: bool) -> bool {
        let full = self.pairs.len() >= CACHE_TEMPLATE_PAIRS_MAX;
        let standing = match self.pairs.get_mut(&(namespace, pair)) {
            Some(standing) => standing,
            None if full && agrees => return false,
            None => {
                // A disagreement must be remembered: it takes the place of an agreement.
                if full && !self.forget_one() {
                    return false;
                }
                self.pairs.entry((namespace, pair)).or_insert(Standing::Agreed(0))
            }
        };
        *standing = match *standing {
            Standing::Agreed(count) if agrees => Standing::Agreed(count.saturating_add(1)),
            _ => Standing::Quarantined,
        };
        true
    }

    /// Pairs that are not served.
    pub fn quarantined(&self) -> impl Iterator<Item = (Namespace, TemplatePair)> {
        let is_quarantined = |(_, standing): &(_, &Standing)| **standing == Standing::Quarantined;
        self.pairs.iter().filter(is_quarantined).map(|(key, _)| *key)
    }

    /// Lets a pair gather evidence anew; whether it was known.
    pub fn release(&mut self, namespace: Namespace, pair: TemplatePair) -> bool {
        self.pairs.remove(&(namespace, pair)).is_some()
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = (Namespace, TemplatePair, Standing)> {
        self.pairs
            .iter()
            .map(|((namespace, pair), standing)| (*namespace, *pair, *standing))
    }

    /// Sets what is known of a pair, as read from a snapshot.
    pub fn set(&mut self, namespace: Namespace, pair: TemplatePair, standing: Standing) {
        if self.pairs.len() < CACHE_TEMPLATE_PAIRS_MAX {
            self.pairs.insert((namespace, pair), standing);
        }
    }

    fn forget_one(&mut self) -> bool {
        let agreed = self
            .pairs
            .iter()
            .find(|(_, standing)| **standing != Standing::Quarantined);
        let Some(key) = agreed.map(|(key, _)| *key) else {
            return false;
        };
        self.pairs.remove(&key).is_some()
    }
}

/// The checks of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Served or shadowed matches whose answer was compared.
    pub checks: u64,
    /// Those that differed.
    pub errors: u64,
}

impl Audit {
    /// The largest share of wrong answers that the checks leave possible, with 95 % confidence (Clopper and Pearson, one-sided).
    pub fn upper_bound(&self) -> f64 {
        upper_bound(self.errors, self.checks)
    }

    /// Whether matches are served under this tolerance, 0 to 1.
    pub fn is_on(&self, tolerance: f64) -> bool {
        self.errors == 0 || self.upper_bound() <= tolerance
    }

    /// Takes note of a comparison.
    pub fn record(&mut self, agrees: bool) {
        if self.checks >= CHECKS_MAX {
            (self.checks, self.errors) = (self.checks / 2, self.errors.div_ceil(2));
        }
        self.checks += 1;
        self.errors += u64::from(!agrees);
    }
}

/// The checks of all namespaces.
#[derive(Clone, Debug, Default)]
pub struct Audits {
    namespaces: HashMap<Namespace, Audit>,
}

impl Audits {
    /// The checks of a namespace.
    pub fn of(&self, namespace: Namespace) -> Audit {
        self.namespaces.get(&namespace).copied().unwrap_or_default()
    }

    /// Takes note of a comparison. `false` if there is no room for another namespace.
    pub fn record(&mut self, namespace: Namespace, agrees: bool) -> bool {
        let full = self.namespaces.len() >= CACHE_NAMESPACES_MAX;
        if full && !self.namespaces.contains_key(&namespace) {
            return false;
        }
        self.namespaces.entry(namespace).or_default().record(agrees);
        true
    }

    /// All namespaces.
    pub fn all(&self) -> impl Iterator<Item = (Namespace, Audit)> {
        self.namespaces.iter().map(|(namespace, audit)| (*namespace, *audit))
    }

    /// Sets the checks of a namespace, as read from a snapshot.
    pub fn set(&mut self, namespace: Namespace, audit: Audit) {
        if self.namespaces.len() < CACHE_NAMESPACES_MAX {
            self.namespaces.insert(namespace, audit);
        }
    }
}

/// Whether a served match is one of the `per_million` that are checked; `random` is any number.
pub fn is_audited(random: u32, per_million: u32) -> bool {
    (u64::from(random) * 1_000_000) >> 32 < u64::from(per_million)
}

/// The rate of failure whose chance of showing at most `failures` in `trials` is 5 %.
pub fn upper_bound(failures: u64, trials: u64) -> f64 {
    if failures >= trials {
        return 1.0;
    }
    let (mut low, mut high) = (failures as f64 / trials as f64, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_most(failures, trials, middle) > ERROR {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The chance of at most `failures` in `trials` at this rate, within 0 and 1.
fn at_most(failures: u64, trials: u64, rate: f64) -> f64 {
    let (hit, miss) = (rate.ln(), (-rate).ln_1p());
    let mut term = trials as f64 * miss;
    let mut sum = term.exp();
    for count in 0..failures {
        let odds = (trials - count) as f64 / (count + 1) as f64;
        term += odds.ln() + hit - miss;
        sum += term.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(one: u8, other: u8) -> TemplatePair {
        TemplatePair::new(Template([one; 16]), Template([other; 16]))
    }

    #[test]
    fn a_pair_is_served_after_enough_agreements_whichever_came_first() {
        let mut evidence = Evidence::default();
        for _ in 0..3 {
            assert_eq!(evidence.verdict(1, pair(1, 2), 3), Verdict::Shadow);
            assert!(evidence.record(1, pair(2, 1), true));
        }
        assert_eq!(evidence.verdict(1, pair(1, 2), 3), Verdict::Serve);
        assert_eq!(evidence.verdict(2, pair(1, 2), 3), Verdict::Shadow, "another namespace");
        assert_eq!(evidence.verdict(1, pair(3, 4), 0), Verdict::Serve, "none are asked for");
        assert_eq!(evidence.verdict(1, pair(5, 5), 9), Verdict::Serve, "one template");
    }

    #[test]
    fn one_disagreement_quarantines_until_it_is_released() {
        let mut evidence = Evidence::default();
        (0..9).for_each(|_| assert!(evidence.record(1, pair(1, 2), true)));
        evidence.record(1, pair(1, 2), false);
        evidence.record(1, pair(1, 2), true);
        assert_eq!(evidence.verdict(1, pair(1, 2), 3), Verdict::Refuse);
        assert_eq!(evidence.quarantined().collect::<Vec<_>>(), [(1, pair(1, 2))]);
        assert!(evidence.release(1, pair(1, 2)) && !evidence.release(1, pair(1, 2)));
        assert_eq!(evidence.verdict(1, pair(1, 2), 3), Verdict::Shadow);
        evidence.record(1, pair(6, 6), false);
        assert_eq!(evidence.verdict(1, pair(6, 6), 3), Verdict::Refuse, "one template, too");
    }

    #[test]
    fn full_memory_forgets_agreements_before_disagreements() {
        let mut evidence = Evidence::default();
        for at in 0..CACHE_TEMPLATE_PAIRS_MAX as u64 {
            assert!(evidence.record(at, pair(1, 2), true));
        }
        assert!(!evidence.record(u64::MAX, pair(1, 2), true));
        assert!(evidence.record(u64::MAX, pair(1, 2), false));
        assert_eq!(evidence.verdict(u64::MAX, pair(1, 2), 0), Verdict::Refuse);
        assert_eq!(evidence.pairs().count(), CACHE_TEMPLATE_PAIRS_MAX);
    }

    #[test]
    fn bounds_are_those_of_clopper_and_pearson() {
        // 1 - 0.05^(1/n) without failures; the others from tables of the beta distribution.
        let cases = [
            (0, 298, 0.010_002),
            (0, 597, 0.005_005),
            (0, 10, 0.258_866),
            (1, 100, 0.046_560),
            (5, 100, 0.102_253),
            (10, 10, 1.0),
            (0, 0, 1.0),
        ];
        for (failures, trials, expected) in cases {
            let bound = upper_bound(failures, trials);
            assert!((bound - expected).abs() < 2e-5, "{failures} of {trials}: {bound}");
        }
        assert!(upper_bound(50_000, 100_000) < 0.51);
    }

    #[test]
    fn a_namespace_switches_off_on_an_error_and_on_again_with_clean_checks() {
        let mut audits = Audits::default();
        (0..50).for_each(|_| assert!(audits.record(7, true)));
        assert!(audits.of(7).is_on(0.01), "too few checks are no error");
        audits.record(7, false);
        assert!(!audits.of(7).is_on(0.01));
        assert!(audits.of(8).is_on(0.01), "another namespace");
        (0..500).for_each(|_| assert!(audits.record(7, true)));
        assert!(audits.of(7).is_on(0.01));
    }

    #[test]
    fn old_checks_fade() {
        let mut audit = Audit::default();
        (0..CHECKS_MAX * 3).for_each(|_| audit.record(true));
        assert!(audit.checks <= CHECKS_MAX);
        audit.record(false);
        assert!(audit.upper_bound() > 0.0 && audit.errors == 1);
    }

    #[test]
    fn the_share_that_is_audited_is_the_one_asked_for() {
        let audited = (0..=u32::MAX)
            .step_by(4001)
            .filter(|&random| is_audited(random, 20_000))
            .count();
        let all = (0..=u32::MAX).step_by(4001).count();
        assert!((audited as f64 / all as f64 - 0.02).abs() < 1e-4);
        assert!(!is_audited(0, 0) && is_audited(u32::MAX, 1_000_000));
    }
}
