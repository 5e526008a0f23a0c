//! Medians, ratios within a round, and the performance budget with its verdicts.
//!
//! A ratio is taken between two subjects of the same round and its median over the rounds is reported: what the
//! machine does to a whole round cancels out.

use serde::Serialize;

use super::Outcome;
use super::measure::Sample;
use super::subject::Name;

/// Largest resident memory of an idle gateway, in bytes.
const IDLE_RSS_MAX: f64 = 20e6;

/// One line of the budget.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What is limited.
    pub what: String,
    /// What was measured.
    pub measured: f64,
    /// The limit; measured may be at most this.
    pub limit: f64,
    /// Unit of both.
    pub unit: &'static str,
}

impl Verdict {
    /// Whether the budget was kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.measured <= self.limit
    }
}

/// The median, or `None` of nothing.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Outcome {
    /// The samples of one subject.
    pub fn of(&self, name: Name) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.subject == name)
    }

    /// The median over the rounds of something measured of one subject.
    pub fn median(&self, name: Name, value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.of(name).filter_map(value).collect())
    }

    /// The median over the rounds of something made of two subjects of one round.
    pub fn paired(&self, one: Name, other: Name, value: impl Fn(&Sample, &Sample) -> Option<f64>) -> Option<f64> {
        let pairs = self
            .of(one)
            .filter_map(|a| Some((a, self.of(other).find(|b| b.round == a.round)?)));
        median(pairs.filter_map(|(a, b)| value(a, b)).collect())
    }

    /// CPU per request or chunk of one subject as a multiple of another's.
    #[must_use]
    pub fn cpu_ratio(&self, one: Name, other: Name) -> Option<f64> {
        self.paired(one, other, |a, b| (b.cpu_us > 0.0).then(|| a.cpu_us / b.cpu_us))
    }

    /// How much larger a number of the summary is for one subject than for another.
    #[must_use]
    pub fn added(&self, one: Name, other: Name, path: &[&str]) -> Option<f64> {
        self.paired(one, other, |a, b| Some(a.number(path)? - b.number(path)?))
    }

    /// Failures of one subject over all rounds.
    #[must_use]
    pub fn failures(&self, name: Name) -> u64 {
        self.of(name).map(Sample::failures).sum()
    }
}

/// The budget, as far as what was measured can speak to it.
#[must_use]
pub fn all(outcomes: &[Outcome]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut add = |what: String, measured: Option<f64>, limit: f64, unit: &'static str| {
        if let Some(measured) = measured {
            verdicts.push(Verdict {
                what,
                measured,
                limit,
                unit,
            });
        }
    };
    let gateway = Name::Gateway;
    for outcome in outcomes {
        let ratio = |other| outcome.cpu_ratio(gateway, other);
        match outcome.scenario.name {
            "c64" => {
                add("CPU per request against nginx".into(), ratio(Name::Nginx), 0.80, "×");
                add(
                    "CPU per request against HAProxy".into(),
                    ratio(Name::Haproxy),
                    0.80,
                    "×",
                );
                add("CPU per request against L4".into(), ratio(Name::L4), 1.40, "×");
                let idle = outcome.median(gateway, |sample| Some(sample.rss_idle as f64));
                add(
                    "idle resident memory".into(),
                    idle.map(|bytes| bytes / 1e6),
                    IDLE_RSS_MAX / 1e6,
                    "MB",
                );
            }
            "c1000" => add(
                "1,000 connections: CPU per request against L4".into(),
                ratio(Name::L4),
                1.40,
                "×",
            ),
            "sse500" => add("streams: CPU per chunk against L4".into(), ratio(Name::L4), 1.25, "×"),
            "c1" => {
                let added = outcome.added(gateway, Name::L4, &["latency_us", "p99"]);
                add("one connection: p99 above L4's".into(), added, 30.0, "µs");
            }
            "tls" => {
                let added = outcome.paired(Name::GatewayTls, gateway, |tls, plain| Some(tls.cpu_us - plain.cpu_us));
                add("upstream TLS: CPU per request above plain".into(), added, 2.0, "µs");
            }
            _ => {}
        }
        if outcome.of(gateway).next().is_some() {
            add(
                format!("{}: failures", outcome.scenario.name),
                Some(outcome.failures(gateway) as f64),
                0.0,
                "",
            );
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::scenario;

    fn sample(subject: Name, round: usize, cpu_us: f64, p99: f64) -> Sample {
        Sample {
            subject,
            round,
            cpu_us,
            cpu_user_us: 0.0,
            ksoftirqd_us: 0.0,
            core_others: 0.0,
            core_own: 1.0,
            load_core_own: 0.5,
            core_busy: 1.0,
            load_core_busy: 0.5,
            load_cpu_us: 5.0,
            rss_idle: 10_000_000,
            rss_load: 0,
            rss_after: 0,
            load: json!({ "failures": 1, "latency_us": { "p99": p99 } }),
        }
    }

    fn outcome() -> Outcome {
        let samples = vec![
            sample(Name::L4, 0, 10.0, 100.0),
            sample(Name::Gateway, 0, 12.0, 120.0),
            sample(Name::L4, 1, 20.0, 200.0),
            sample(Name::Gateway, 1, 26.0, 220.0),
            sample(Name::Gateway, 2, 90.0, 900.0),
        ];
        Outcome {
            scenario: scenario::all().remove(0),
            samples,
        }
    }

    #[test]
    fn ratios_are_medians_of_what_shared_a_round() {
        assert_eq!(outcome().cpu_ratio(Name::Gateway, Name::L4), Some(1.25));
        assert_eq!(
            outcome().added(Name::Gateway, Name::L4, &["latency_us", "p99"]),
            Some(20.0)
        );
        assert_eq!(outcome().cpu_ratio(Name::Gateway, Name::Nginx), None);
    }

    #[test]
    fn the_budget_judges_what_was_measured_and_nothing_else() {
        let verdicts = all(&[outcome()]);
        let kept: Vec<_> = verdicts
            .iter()
            .map(|verdict| (verdict.what.as_str(), verdict.is_kept()))
            .collect();
        let wanted = [
            ("CPU per request against L4", true),
            ("idle resident memory", true),
            ("c64: failures", false),
        ];
        assert_eq!(kept, wanted);
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
