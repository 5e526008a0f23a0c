//! Where the time of requests went, as the gateway itself saw it: per provider, to be set beside what the kernel saw.
//!
//! Invariants: filled from the records that the cores send anyway; providers are those of the configuration, and at most
//! [`PROVIDERS_MAX`] of all that there ever were. Deliberately absent: what is outside the process (`ebpf/accounting.rs`).

use serde_json::{Value, json};
use sluice_ebpf_common::accounting::{BUCKETS, bucket, lower_bound};

use crate::record::Record;

/// Providers that are kept apart.
const PROVIDERS_MAX: usize = 512;

/// Requests of each provider.
#[derive(Default)]
pub struct Spent {
    of: Vec<(Box<str>, OfProvider)>,
}

/// Where the requests to one provider are added up; nowhere, of requests that asked none.
#[derive(Clone, Copy)]
pub struct Row(Option<usize>);

#[derive(Default)]
struct OfProvider {
    receiving: Distribution,
    queue: Distribution,
    gateway: Distribution,
    upstream: Distribution,
    total: Distribution,
}

/// Times in microseconds, counted by size as the kernel's programs do.
struct Distribution {
    buckets: Box<[u64; BUCKETS]>,
    sum: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            sum: 0,
        }
    }
}

impl Spent {
    /// Where the requests to a provider are added up.
    pub fn row(&mut self, provider: &str) -> Row {
        if provider.is_empty() {
            return Row(None);
        }
        let at = match self.of.iter().position(|(name, _)| **name == *provider) {
            Some(at) => at,
            None if self.of.len() >= PROVIDERS_MAX => return Row(None),
            None => {
                self.of.push((provider.into(), OfProvider::default()));
                self.of.len() - 1
            }
        };
        Row(Some(at))
    }

    /// A request has ended.
    pub fn add(&mut self, row: Row, record: &Record) {
        let Some((_, of)) = row.0.and_then(|at| self.of.get_mut(at)) else {
            return;
        };
        if record.status == 0 {
            return;
        }
        let elsewhere = u64::from(record.received_us) + u64::from(record.upstream_us) + u64::from(record.queued_us);
        of.receiving.add(record.received_us.into());
        of.queue.add(record.queued_us.into());
        of.gateway
            .add(u64::from(record.first_byte_us).saturating_sub(elsewhere));
        of.upstream.add(record.upstream_us.into());
        of.total.add(record.total_us.into());
    }

    /// All of it, by provider.
    pub fn report(&self) -> Value {
        // One that was asked, but never to the end, has nothing to tell.
        let mut all: Vec<_> = self.of.iter().filter(|(_, of)| of.total.sum > 0).collect();
        all.sort_unstable_by_key(|(name, _)| name);
        let of = all.into_iter().map(|(name, of)| {
            json!({
                "name": name,
                "receiving": of.receiving.report(),
                "queue": of.queue.report(),
                "gateway": of.gateway.report(),
                "upstream_first_byte": of.upstream.report(),
                "total": of.total.report(),
            })
        });
        of.collect()
    }
}

impl Distribution {
    fn add(&mut self, us: u64) {
        self.buckets[bucket(us) as usize] += 1;
        self.sum += us;
    }

    fn report(&self) -> Value {
        summary(&self.buckets, self.sum)
    }
}

/// A distribution as the interface shows it: how many, their sum, quantiles, and the buckets that hold any, by lower bound.
pub fn summary(buckets: &[u64; BUCKETS], sum: u64) -> Value {
    let count: u64 = buckets.iter().sum();
    let held = (0_u32..).zip(buckets).filter(|(_, count)| **count > 0);
    let held: Vec<(u64, u64)> = held.map(|(index, &count)| (lower_bound(index), count)).collect();
    json!({
        "count": count,
        "sum": sum,
        "p50": quantile(buckets, count, 0.50),
        "p90": quantile(buckets, count, 0.90),
        "p99": quantile(buckets, count, 0.99),
        "buckets": held,
    })
}

/// The middle of the bucket below which the given share of the values is; 0 without values.
fn quantile(buckets: &[u64; BUCKETS], count: u64, share: f64) -> u64 {
    let rank = ((count as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for (index, held) in (0_u32..).zip(buckets) {
        seen += held;
        if seen >= rank {
            return lower_bound(index).midpoint(lower_bound(index + 1).max(1) - 1);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_bucket_of_the_value() {
        let mut of = Distribution::default();
        (1..=1000).for_each(|us| of.add(us));
        let report = of.report();
        assert_eq!(report["count"], 1000);
        assert_eq!(report["sum"], 500_500);
        for (name, value) in [("p50", 500), ("p90", 900), ("p99", 990)] {
            let shown = report[name].as_u64().expect("a number");
            assert_eq!(bucket(shown), bucket(value), "{name}: {shown}");
        }
        assert_eq!(Distribution::default().report()["p99"], 0);
    }
}
