//! Names of providers → addresses, in the order in which to try them.
//!
//! Invariants: a name that stops resolving keeps its last good addresses for [`STALE_MAX`]; addresses of both families
//! alternate (RFC 8305 §4). Deliberately absent: connections.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;

/// How long the last good addresses of a name serve while it does not resolve.
const STALE_MAX: Duration = Duration::from_secs(3600);
/// Longest wait for one answer.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Bounds on how long an answer is used, whatever its TTL.
#[derive(Clone, Copy, Debug)]
pub struct TtlBounds {
    /// At least this long.
    pub min: Duration,
    /// At most this long.
    pub max: Duration,
}

/// The resolver and what it knows.
pub struct Resolver {
    resolver: Option<TokioResolver>,
    known: HashMap<Box<str>, Known>,
}

struct Known {
    addresses: Vec<IpAddr>,
    good_at: Instant,
    due: Instant,
}

impl Resolver {
    /// A resolver by the system's configuration. Without a usable one, only literal addresses and `localhost` resolve.
    pub fn new() -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver = resolver
            .map_err(|error| tracing::warn!(%error, "no usable resolver configuration"))
            .ok();
        Self {
            resolver,
            known: HashMap::new(),
        }
    }

    /// The addresses of `host`, asked for if they are not known or due again.
    pub async fn addresses(&mut self, host: &str, port: u16, bounds: TtlBounds) -> Arc<[SocketAddr]> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Arc::new([SocketAddr::new(address, port)]);
        }
        let now = Instant::now();
        if self.known.get(host).is_none_or(|known| known.due <= now) {
            self.ask(host, now, bounds).await;
        }
        let addresses = self.known.get(host).map_or(&[][..], |known| &known.addresses);
        addresses
            .iter()
            .map(|&address| SocketAddr::new(address, port))
            .collect()
    }

    /// When the next name is due; `None` if no name is known.
    pub fn next_due(&self) -> Option<Instant> {
        self.known.values().map(|known| known.due).min()
    }

    async fn ask(&mut self, host: &str, now: Instant, bounds: TtlBounds) {
        let answer = match &self.resolver {
            Some(resolver) => tokio::time::timeout(LOOKUP_MAX, resolver.lookup_ip(host)).await,
            None => return,
        };
        match answer {
            Ok(Ok(found)) => {
                let ttl = found
                    .valid_until()
                    .saturating_duration_since(now)
                    .clamp(bounds.min, bounds.max);
                let addresses = alternate(found.iter());
                tracing::debug!(host, ?addresses, ?ttl, "resolved");
                self.known.insert(
                    host.into(),
                    Known {
                        addresses,
                        good_at: now,
                        due: now + ttl,
                    },
                );
            }
            failed => {
                let reason = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                tracing::warn!(host, reason, "the name does not resolve");
                let entry = self.known.entry(host.into()).or_insert(Known {
                    addresses: Vec::new(),
                    good_at: now,
                    due: now,
                });
                entry.due = now + bounds.min;
                if now.duration_since(entry.good_at) > STALE_MAX {
                    entry.addresses.clear();
                }
            }
        }
    }
}

/// Both families in turn, beginning with the family of the first address.
fn alternate(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let all: Vec<IpAddr> = addresses.collect();
    let first_is_v6 = all.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<IpAddr>, Vec<IpAddr>) =
        all.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let before = order.len();
        order.extend(first.next());
        order.extend(second.next());
        if order.len() == before {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_from_the_first_one_on() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let order = alternate(parse(&["::1", "::2", "::3", "127.0.0.1"]).into_iter());
        assert_eq!(order, parse(&["::1", "127.0.0.1", "::2", "::3"]));
        assert!(alternate(std::iter::empty()).is_empty());
    }
}
