//! The compiled configuration: all that a core reads to carry a request, immutable and shared.
//!
//! Invariants: ids are dense indices into this snapshot only; `resolve` allocates nothing unless it fails; a secret has no
//! `Display` and its `Debug` is `***`; a provider without a usable key stays known and counts as unavailable. Deliberately
//! absent: what changes while requests run (health, pools), and reading variables or files, which the caller passes in.

mod caching;
mod compile;
mod rules;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::ApiError;
use sluice_wire::provider::{self, Quirks};

pub use self::caching::Caching;
pub(crate) use self::caching::compiled_region;
use self::rules::Overrides;
pub use self::rules::{Hedging, Hold};
pub(crate) use self::rules::{Member, Route};
use crate::admission;
use crate::config::names::{NameMap, Names};
use crate::config::values::Network;
use crate::config::{Accounts, Config, Log, Metrics, ProviderTls, Upstream};
use crate::health::Settings;
use crate::vendors::Auth;

macro_rules! ids {
    ($( $(#[$doc:meta])* $name:ident; )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u16);

        impl $name {
            /// As an index into a table that has one entry for each id.
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            pub(crate) fn from_index(index: usize) -> Self {
                Self(u16::try_from(index).expect("limits.rs keeps ids within 16 bits"))
            }
        }
    )* };
}

ids! {
    /// A provider of one snapshot.
    ProviderId;
    /// A usable key of one snapshot, counted over all providers.
    KeyId;
    /// An address of one snapshot to which connections are pooled.
    OriginId;
    /// A set of TLS settings of one snapshot.
    TlsId;
    /// A route of one snapshot.
    RouteId;
}

/// Bytes that no log, error, metric or admin answer may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, to be written to the provider and nowhere else.
    pub fn expose(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// In an environment variable of that name.
    Env(String),
    /// In a file of that path.
    File(String),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "variable {name}"),
            SecretRef::File(path) => write!(f, "file {path}"),
        }
    }
}

/// Something an operator should know that does not keep the gateway from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The provider it is about.
    pub provider: Box<str>,
    /// A sentence in plain English; never holds a secret.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "provider {}: {}", self.provider, self.message)
    }
}

/// Limits of each phase of a request to a provider, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the TCP and TLS connection stands.
    pub connect_ms: u32,
    /// From the end of the request until the head of the answer.
    pub first_byte_ms: u32,
    /// Streamed answers: from the end of the request until the first event.
    pub first_token_ms: u32,
    /// Longest silence within an answer that has begun.
    pub stream_idle_ms: u32,
    /// The whole request, all attempts together.
    pub total_ms: u32,
}

/// What a client is allowed, from `server.timeouts` and `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// Until a request's head is complete, in milliseconds.
    pub head_ms: u32,
    /// Longest pause within a request's body, in milliseconds.
    pub body_idle_ms: u32,
    /// Slowest body, in bytes a second, averaged since its head.
    pub body_rate_min: u64,
    /// Longest wait for the next request, in milliseconds.
    pub keep_alive_ms: u32,
    /// Longest wait for a client that does not read, in milliseconds.
    pub write_ms: u32,
    /// Grace for requests in flight after SIGTERM, in milliseconds.
    pub drain_ms: u32,
    /// Largest request body, in bytes.
    pub body_bytes_max: u64,
    /// Most connections of one core.
    pub connections_max: u32,
    /// Most bytes of request bodies that one core holds.
    pub in_flight_body_bytes_max: u64,
    /// Whether what an SDK says of its own patience counts.
    pub sdk_timeouts: bool,
}

/// An address that connections are pooled by. Between snapshots, [`Snapshot::same_origin`] says which is which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The TLS settings; `None`: plain TCP.
    pub tls: Option<TlsId>,
    /// A name in lower case, or an IP address without brackets.
    pub host: Box<str>,
    /// From 1.
    pub port: u16,
}

/// How the requests of a key are signed (AWS Signature Version 4).
#[derive(Clone, Debug)]
pub struct Signing {
    /// Of the credential's scope.
    pub region: Box<str>,
    /// Of the credential's scope.
    pub service: &'static str,
    /// What signs.
    pub by: SignedBy,
}

/// Where the credentials are that sign.
#[derive(Clone, Debug)]
pub enum SignedBy {
    /// Here.
    AccessKey {
        /// Travels in the clear.
        access_key_id: Box<str>,
        /// Never travels.
        secret_access_key: Secret,
        /// Of temporary credentials.
        session_token: Option<Secret>,
    },
    /// With the environment, the container or the machine that the gateway runs in; they change while it runs.
    Instance,
}

/// One credential of a provider, with all that depends on it rendered in advance.
#[derive(Clone, Debug)]
pub struct Key {
    /// Dense over all providers.
    pub id: KeyId,
    /// What logs, metrics and answers call it; unique within its provider.
    pub name: Box<str>,
    /// Share of the requests, in millionths of a configured weight of 1.
    pub weight: u32,
    /// The credential itself; empty for a provider without keys and for a key that signs.
    pub secret: Secret,
    /// Whether and how requests must be signed.
    pub signing: Option<Signing>,
    /// The region, if any.
    pub region: Option<Box<str>>,
    /// Where requests with this key go.
    pub origin: OriginId,
    /// The value of `Host`.
    pub host: Box<str>,
    /// What precedes the path that the dialect defines: the path of `base_url`, without a slash at its end. For OpenAI it
    /// stands in place of the client's `/v1`.
    pub path_prefix: Box<str>,
    /// The credential's header field with CRLF, or nothing (no credential, or one that signs).
    pub auth_header: Secret,
    /// `Host`, the credential and the provider's own header fields, each with CRLF: one piece to send.
    pub head: Secret,
    models: Box<[Pattern]>,
}

impl Key {
    /// Whether the key may be used for `model`.
    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }
}

/// One provider account.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its place in [`Snapshot::providers`].
    pub id: ProviderId,
    /// The name before the slash.
    pub name: Box<str>,
    /// The vendor whose prices are its own, unless the operator says otherwise.
    pub vendor: Option<&'static str>,
    /// What it speaks.
    pub dialect: Dialect,
    /// What it does differently from its dialect's first provider.
    pub quirks: Quirks,
    /// Tokens to generate at most, where the dialect demands a number and the client gave none.
    pub max_tokens_default: u32,
    /// How a key is sent.
    pub auth: Auth,
    /// The usable keys, at most `limits::KEYS_MAX`. A provider that needs none has one, named `none`.
    pub keys: Box<[Key]>,
    /// Timeouts as far as a route does not override them.
    pub timeouts: Timeouts,
    /// Whether its models go on with the beginning of an answer; `None`: see [`Provider::takes_beginnings`].
    pub prefill: Option<bool>,
    /// How many requests one core has there at a time; `None`: any number.
    pub concurrency: Option<admission::Limits>,
    /// Names of the header fields that [`Key::head`] sets, in lower case: the client's own are left out.
    pub header_names: Box<[Box<str>]>,
    /// The models it lists.
    pub models: Box<[Box<str>]>,
    restricted: bool,
    exact: NameMap<RouteId>,
    patterns: Box<[(Pattern, RouteId)]>,
}

impl Provider {
    /// Whether it has a usable key, or needs none.
    pub fn available(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether `model` goes on with the beginning of an answer that it is given.
    pub fn takes_beginnings(&self, model: &str) -> bool {
        self.prefill
            .unwrap_or_else(|| provider::takes_beginnings(self.dialect, model))
    }

    /// The keys that may not be used for `model`, as a mask over [`Provider::keys`].
    pub fn excluded_keys(&self, model: &str) -> u64 {
        if !self.restricted {
            return 0;
        }
        let excluded = self.keys.iter().enumerate().filter(|(_, key)| !key.allows(model));
        excluded.fold(0, |mask, (index, _)| mask | 1 << index)
    }
}

/// A model at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose model.
    pub provider: ProviderId,
    /// Its name there.
    pub model: Box<str>,
}

/// A name, or the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    stem: Box<str>,
    open: bool,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let stem = text.strip_suffix('*');
        Self {
            stem: stem.unwrap_or(text).into(),
            open: stem.is_some(),
        }
    }

    fn matches(&self, name: &str) -> bool {
        if self.open {
            name.starts_with(&*self.stem)
        } else {
            name == &*self.stem
        }
    }
}

/// What a model name means in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// Whose model.
    pub provider: ProviderId,
    /// Its name there: the client's own bytes, without the provider before the slash.
    pub model: &'a str,
    /// The route that applies, if any.
    pub route: Option<RouteId>,
}

/// The compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    names: Names,
    providers: Box<[Provider]>,
    origins: Box<[Origin]>,
    tls: Box<[ProviderTls]>,
    routes: Box<[Route]>,
    downstream: Downstream,
    trusted_proxies: Box<[Network]>,
    upstream: Upstream,
    settings: Settings,
    accounts: Option<Accounts>,
    log: Log,
    metrics: Metrics,
    keys_len: usize,
    /// Of requests without a route.
    caching: Option<Arc<Caching>>,
    cache_limits: crate::cache::Limits,
}

impl Snapshot {
    /// Compiles a configuration that [`crate::config::load`] accepted; one that it would refuse loses the parts that are
    /// wrong and never panics. `secrets` returns `Ok(None)` for what is not set and `Err` with a reason for what cannot be
    /// read; a key without a secret is left out with a warning.
    pub fn compile(
        config: &Config,
        generation: u64,
        secrets: &dyn Fn(&SecretRef) -> Result<Option<String>, String>,
    ) -> (Self, Vec<Warning>) {
        compile::compile(config, generation, secrets)
    }

    /// Which configuration this is; higher is newer.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What a client is allowed.
    pub fn downstream(&self) -> &Downstream {
        &self.downstream
    }

    /// Whether a connection from `address` begins with a PROXY header.
    pub fn trusts_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }

    /// How connections to providers are kept and resolved.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// When breakers open, how requests are retried and how long keys rest.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How callers are known and charged; `None`: they are not.
    pub fn accounts(&self) -> Option<&Accounts> {
        self.accounts.as_ref()
    }

    /// What is logged.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether tokens are counted where nobody is charged for them.
    pub fn counts_tokens(&self) -> bool {
        self.metrics.tokens
    }

    /// Every provider, in the order of the file.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// The provider with that id of this snapshot.
    pub fn provider(&self, id: ProviderId) -> &Provider {
        &self.providers[id.index()]
    }

    /// The provider of that name.
    pub fn provider_by_name(&self, name: &str) -> Option<&Provider> {
        self.names.provider(name).map(|id| &self.providers[usize::from(id)])
    }

    /// Where requests go that name no model, such as those for files.
    pub fn default_provider(&self) -> Option<&Provider> {
        self.names.default_provider().map(|id| &self.providers[usize::from(id)])
    }

    /// Whether any provider is available.
    pub fn ready(&self) -> bool {
        self.providers.iter().any(Provider::available)
    }

    /// Usable keys over all providers; every [`KeyId`] is below it.
    pub fn keys_len(&self) -> usize {
        self.keys_len
    }

    /// Whether any key is signed by what the gateway's own environment is granted.
    pub fn needs_instance_credentials(&self) -> bool {
        let by_instance = |key: &Key| {
            key.signing
                .as_ref()
                .is_some_and(|signing| matches!(signing.by, SignedBy::Instance))
        };
        self.providers
            .iter()
            .any(|provider| provider.keys.iter().any(by_instance))
    }

    /// Every origin, indexed by [`OriginId`].
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Every set of TLS settings, indexed by [`TlsId`].
    pub fn tls_settings(&self) -> &[ProviderTls] {
        &self.tls
    }

    /// The origin of `older` whose connections may serve `id` of this snapshot: the same address with the same TLS
    /// settings. Whether the files that these name have changed, the caller must know.
    pub fn same_origin(&self, id: OriginId, older: &Snapshot) -> Option<OriginId> {
        let settings =
            |snapshot: &'_ Snapshot, origin: &Origin| origin.tls.map(|tls| snapshot.tls[tls.index()].clone());
        let wanted = &self.origins[id.index()];
        let wanted_settings = settings(self, wanted);
        if wanted.tls.is_some() && self.upstream.ca_file != older.upstream.ca_file {
            return None;
        }
        let same = |origin: &&Origin| {
            origin.host == wanted.host && origin.port == wanted.port && settings(older, origin) == wanted_settings
        };
        older
            .origins
            .iter()
            .position(|origin| same(&origin))
            .map(OriginId::from_index)
    }

    /// What `model` means. A name that no provider lists is passed on: the provider knows its models best.
    ///
    /// # Errors
    /// `model_not_found`, with the closest name; `invalid_parameter` for an empty name or one that is too long.
    pub fn resolve<'a>(&self, model: &'a str) -> Result<Resolved<'a>, ApiError> {
        self.resolved(model, self.names.split(model)?)
    }

    /// What `model` means to a client of that dialect: as [`Snapshot::resolve`], but a bare name that no provider lists is
    /// meant for a provider that speaks the client's dialect, if there is one.
    ///
    /// # Errors
    /// Those of [`Snapshot::resolve`].
    pub fn resolve_for<'a>(&self, model: &'a str, dialect: Dialect) -> Result<Resolved<'a>, ApiError> {
        self.resolved(model, self.names.split_for(model, dialect)?)
    }

    fn resolved<'a>(&self, model: &'a str, (provider, model_at): (u16, usize)) -> Result<Resolved<'a>, ApiError> {
        let id = ProviderId(provider);
        let model = &model[model_at..];
        let provider = self.provider(id);
        let route = provider.exact.get(model).copied().or_else(|| {
            provider
                .patterns
                .iter()
                .find(|(pattern, _)| pattern.matches(model))
                .map(|(_, route)| *route)
        });
        Ok(Resolved {
            provider: id,
            model,
            route,
        })
    }

    /// Timeouts of a request by `route` to `provider`.
    pub fn timeouts(&self, route: Option<RouteId>, provider: ProviderId) -> Timeouts {
        let base = self.provider(provider).timeouts;
        route.map_or(base, |route| self.routes[route.index()].overrides.apply(base))
    }
}

#[cfg(test)]
mod tests;
