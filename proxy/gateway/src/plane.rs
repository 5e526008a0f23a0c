//! [`Plane`]: everything a request reads that may change at run time: the compiled configuration, resolved addresses and
//! TLS settings, as one immutable value.
//!
//! Invariants: a request sees exactly one plane; planes are made by the control thread and replaced whole.
//! What is remembered of targets and keys outlives a plane: the next one refers to the same. Deliberately absent: anything
//! else mutable.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use sluice_policy::cache::Brain;
use sluice_policy::health::{Health, KeyStanding, KeyState, Standing};
use sluice_policy::keyring::{Keyring, PairIssuer};
use sluice_policy::money::{self, OnUnknown, PriceTable};
use sluice_policy::snapshot::{Provider, Snapshot};

use crate::ebpf::accounting::Tagger;
use crate::signing::AwsCredentials;

/// A core's hold on a plane: an `Rc` of its own around what all cores share, so that taking one per request touches no memory
/// of another core.
pub type HeldPlane = Rc<Arc<Plane>>;

/// One generation of all that the data plane reads.
#[derive(Clone)]
pub struct Plane {
    /// The compiled configuration.
    pub snapshot: Arc<Snapshot>,
    /// Where each origin of the snapshot is, in the snapshot's order.
    pub origins: Vec<OriginRuntime>,
    /// What signs the requests of each key, in the order of [`sluice_policy::snapshot::KeyId`]. A key whose `signing` is set
    /// and that has none here cannot be used now: the instance's credentials have not arrived, or have expired.
    pub aws: Vec<Option<Arc<AwsCredentials>>>,
    /// What is remembered of targets.
    pub health: Arc<Health>,
    /// What is remembered of each key, in the order of [`sluice_policy::snapshot::KeyId`].
    pub keys: Arc<[Arc<KeyState>]>,
    /// What [`Plane::report`] says that does not change while the plane is in force, as JSON.
    pub ready_body: Bytes,
    /// What every core's cache needs, if any route caches.
    pub cache: Option<Arc<CachePlane>>,
    /// Who may ask, and what it costs; `None`: everybody may, and nothing is counted.
    pub accounts: Option<Accounts>,
    /// TLS of the listener, if it is on.
    pub server_tls: Option<Arc<ServerConfig>>,
}

/// Who may ask, and what it costs.
#[derive(Clone)]
pub struct Accounts {
    /// Virtual keys.
    pub keyring: Arc<Keyring>,
    /// What signs for them, where AWS SDKs may.
    pub pairs: Option<Arc<PairIssuer>>,
    /// Prices of models.
    pub prices: Arc<PriceTable>,
}

/// The shipped table of prices. Reading it takes milliseconds: whoever makes a plane asks first, so that no core does.
pub fn shipped_prices() -> Option<&'static PriceTable> {
    static SHIPPED: OnceLock<Option<PriceTable>> = OnceLock::new();
    let read = || {
        let rows = money::parse_prices(money::SHIPPED).ok()?;
        Some(PriceTable::new(rows, Vec::new(), OnUnknown::Zero))
    };
    SHIPPED.get_or_init(read).as_ref()
}

impl Plane {
    /// A name for `model` that is nobody's free text: its own if the configuration or the table of prices has it, else `other`.
    pub fn model_label<'a>(&self, provider: &Provider, model: &'a str) -> &'a str {
        if model.is_empty() {
            return "none";
        }
        let has_price = |table: &PriceTable| table.find_id(&provider.name, provider.vendor, model).is_some();
        let priced = || match &self.accounts {
            Some(accounts) => has_price(&accounts.prices),
            None => shipped_prices().is_some_and(has_price),
        };
        if self.snapshot.knows(provider, model) || priced() {
            model
        } else {
            "other"
        }
    }

    /// What `/ready` says while the gateway is not draining: providers, with each key's state, and the targets that are
    /// remembered. `now_ms` is of the clock that all cores share.
    pub fn report(&self, now_ms: u64) -> serde_json::Value {
        let mut report: serde_json::Value = serde_json::from_slice(&self.ready_body).unwrap_or_default();
        let left_s = |until_ms: u64| until_ms.saturating_sub(now_ms).div_ceil(1000);
        for (index, provider) in self.snapshot.providers().iter().enumerate() {
            let states = provider.keys.iter().map(|key| {
                let (state, again_s) = match self.keys[key.id.index()].overview(now_ms) {
                    KeyStanding::Ready | KeyStanding::Tried => ("usable", None),
                    KeyStanding::ProbeDue => ("refused", None),
                    KeyStanding::Resting { until_ms, .. } => ("resting", Some(left_s(until_ms))),
                    KeyStanding::Refused { until_ms } => ("refused", Some(left_s(until_ms))),
                };
                serde_json::json!({"name": &*key.name, "state": state, "tried_again_in_s": again_s})
            });
            report["providers"][index]["key_states"] = states.collect();
        }
        let targets = self.health.report().into_iter().map(|target| {
            let (state, again_s) = match target.standing {
                Standing::Closed => ("closed", None),
                Standing::HalfOpen => ("half_open", None),
                Standing::Open(until_ms) => ("open", Some(left_s(until_ms))),
            };
            serde_json::json!({
                "name": target.name,
                "breaker": state,
                "tried_again_in_s": again_s,
                "in_flight": target.in_flight,
                "first_token_ms": f64::from(target.first_token_us) / 1000.0,
            })
        });
        report["targets"] = targets.collect();
        report
    }
}

/// What every core's cache needs.
pub struct CachePlane {
    /// What all cores share.
    pub brain: Arc<Brain>,
    /// What each may hold.
    pub limits: sluice_policy::cache::Limits,
    /// What prepares lookups that need a text embedded elsewhere, or frames decoded.
    pub helper: crate::cache::prepare::Helper,
    /// How long after its time an answer may still be served, at most.
    pub stale_ms: u64,
    /// The last change when the plane was made: a core that begins to cache has nothing older.
    pub change: u64,
}

/// What is known of one origin at run time.
#[derive(Clone)]
pub struct OriginRuntime {
    /// Addresses in the order in which to try them; empty if the name did not resolve.
    pub addresses: Arc<[SocketAddr]>,
    /// TLS towards it, if its scheme is https.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// What tells the kernel whose its connections are, if it measures them.
    pub tagger: Option<Tagger>,
}
