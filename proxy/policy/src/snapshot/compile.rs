//! From [`Config`] to [`Snapshot`]: defaults filled in, names numbered, headers rendered.
//!
//! Invariants: never panics, whatever the configuration; every part left out is warned about. Deliberately absent: mistakes
//! with positions (`config/meaning.rs` has refused those before).

use bytes::Bytes;
use sluice_wire::dialect::Dialect;
use sluice_wire::limits;
use sluice_wire::provider::Quirks;

use super::{
    Caching, Downstream, Key, KeyId, Member, Origin, OriginId, Overrides, Pattern, Provider, ProviderId, Route,
    RouteId, Secret, SecretRef, SignedBy, Signing, Snapshot, Target, Timeouts, TlsId, Warning,
};
use crate::admission;
use crate::config::names::{NameMap, Names};
use crate::config::url::{BaseUrl, UrlTemplate};
use crate::config::values::DurationMs;
use crate::config::{self, AuthName, Aws, AwsSource, Config, ProviderTls, SecretPlace, TimeoutOverrides};
use crate::health::Settings;
use crate::vendors::Auth;

type Secrets<'a> = &'a dyn Fn(&SecretRef) -> Result<Option<String>, String>;

pub(super) fn compile(config: &Config, generation: u64, secrets: Secrets<'_>) -> (Snapshot, Vec<Warning>) {
    let names = Names::new(config);
    let mut compiler = Compiler {
        config,
        secrets,
        origins: Vec::new(),
        tls: Vec::new(),
        keys_len: 0,
        warnings: Vec::new(),
    };
    let mut providers: Vec<Provider> = Vec::with_capacity(config.providers.len());
    for (name, provider) in config.providers.iter().take(limits::PROVIDERS_MAX) {
        let id = ProviderId::from_index(providers.len());
        providers.push(compiler.provider(id, name, provider));
    }
    let mut patterns: Vec<Vec<(Pattern, RouteId)>> = vec![Vec::new(); providers.len()];
    let mut routes = Vec::with_capacity(config.routes.len());
    for route in config.routes.iter().take(limits::ROUTES_MAX) {
        let id = RouteId::from_index(routes.len());
        for model in route.models.iter().take(limits::MODELS_MAX) {
            index_route(&names, model, id, &mut providers, &mut patterns);
        }
        routes.push(compile_route(&names, route, &config.cache.default));
    }
    for (provider, patterns) in providers.iter_mut().zip(patterns) {
        provider.patterns = patterns.into();
    }
    let snapshot = Snapshot {
        generation,
        names,
        providers: providers.into(),
        origins: compiler.origins.into(),
        tls: compiler.tls.into(),
        routes: routes.into(),
        downstream: downstream(config),
        trusted_proxies: config
            .server
            .proxy_protocol
            .iter()
            .flat_map(|proxy| proxy.trusted.iter().copied())
            .collect(),
        upstream: config.upstream.clone(),
        settings: Settings {
            breaker: (&config.breaker).into(),
            retries: (&config.retries).into(),
            keys: (&config.key_rest).into(),
        },
        accounts: config.accounts.clone(),
        log: config.log.clone(),
        metrics: config.metrics,
        caching: Caching::compile(&config.cache.default, String::new()),
        cache_limits: super::caching::limits(&config.cache),
        keys_len: compiler.keys_len,
    };
    (snapshot, compiler.warnings)
}

struct Compiler<'a> {
    config: &'a Config,
    secrets: Secrets<'a>,
    origins: Vec<Origin>,
    tls: Vec<ProviderTls>,
    keys_len: usize,
    warnings: Vec<Warning>,
}

impl Compiler<'_> {
    fn provider(&mut self, id: ProviderId, name: &str, provider: &config::Provider) -> Provider {
        let vendor = provider.vendor(name);
        let auth = match provider.auth {
            Some(AuthName::Bearer) => Auth::Bearer,
            Some(AuthName::XApiKey) => Auth::XApiKey,
            Some(AuthName::ApiKey) => Auth::ApiKey,
            Some(AuthName::None) => Auth::None,
            None => vendor.map_or(Auth::Bearer, |vendor| vendor.auth),
        };
        let dialect = provider.dialect(name);
        // What is known of a vendor is known of its usual dialect only.
        let quirks = vendor
            .filter(|vendor| vendor.dialect == dialect)
            .map_or(Quirks::default(), |vendor| vendor.quirks);
        let keys = self.keys(name, provider, auth, dialect);
        if keys.is_empty() {
            self.warn(name, "no key is usable: the provider is unavailable".to_owned());
        }
        let mut header_names: Vec<Box<str>> = vec!["host".into()];
        header_names.extend(provider.headers.keys().map(|name| name.to_ascii_lowercase().into()));
        Provider {
            id,
            name: name.into(),
            vendor: vendor.map(|vendor| vendor.name),
            dialect,
            quirks,
            max_tokens_default: provider.max_tokens_default,
            auth,
            restricted: keys.iter().any(|key| !key.models.is_empty()),
            keys,
            timeouts: overrides(&provider.timeouts).apply(timeouts(&self.config.timeouts)),
            prefill: provider.prefill,
            concurrency: provider.concurrency.as_ref().map(|concurrency| admission::Limits {
                concurrency: concurrency.limit,
                queue: concurrency.queue,
                queue_ms: concurrency.queue_timeout.0,
                adaptive: concurrency.adaptive,
            }),
            header_names: header_names.into(),
            models: provider.models.iter().map(|model| model.as_str().into()).collect(),
            exact: NameMap::default(),
            patterns: Box::default(),
        }
    }

    fn keys(&mut self, provider_name: &str, provider: &config::Provider, auth: Auth, dialect: Dialect) -> Box<[Key]> {
        let mut keys: Vec<Key> = Vec::new();
        let keyless = config::Key {
            name: Some("none".into()),
            ..config::Key::default()
        };
        let configured = if provider.keys.is_empty() {
            std::slice::from_ref(&keyless)
        } else {
            &provider.keys[..]
        };
        for key in configured.iter().take(limits::KEYS_MAX) {
            let region = key.region.as_deref().or(provider.region.as_deref());
            let Some(url) = self.base_url(provider_name, provider, region) else {
                continue;
            };
            let signing = match &key.aws {
                Some(aws) => match self.signing(provider_name, aws, region.filter(|_| dialect == Dialect::Bedrock)) {
                    Some(signing) => Some(signing),
                    None => continue,
                },
                None => None,
            };
            let secret = match place(&key.env, &key.file) {
                _ if signing.is_some() => String::new(),
                Some(reference) => match self.secret(provider_name, &reference, limits::SECRET_BYTES_MAX) {
                    Some(secret) => secret,
                    None => continue,
                },
                None if !needs_key(provider_name, provider, auth) => String::new(),
                None => continue,
            };
            if !secret.is_empty() && !url.tls && !is_near(&url.host) {
                let message = format!(
                    "keys travel unencrypted to {}: its base_url does not begin with https://",
                    url.host
                );
                self.warn(provider_name, message);
            }
            let auth_header = auth_header(auth, &secret);
            let mut head = format!("host: {}\r\n{auth_header}", url.authority());
            for (name, value) in &provider.headers {
                head.extend([name.to_ascii_lowercase().as_str(), ": ", value, "\r\n"]);
            }
            let id = KeyId::from_index(self.keys_len);
            self.keys_len += 1;
            keys.push(Key {
                id,
                name: unique_name(key, &keys),
                weight: weight(key.weight),
                secret: Secret::new(secret),
                signing,
                region: region.map(Into::into),
                origin: self.origin(&url, &provider.tls),
                host: url.authority().into(),
                path_prefix: url.path.as_str().into(),
                auth_header: Secret::new(auth_header),
                head: Secret::new(Bytes::from(head)),
                models: key.models.iter().map(|model| Pattern::new(model)).collect(),
            });
        }
        keys.into()
    }

    fn base_url(&mut self, name: &str, provider: &config::Provider, region: Option<&str>) -> Option<BaseUrl> {
        let template: Option<UrlTemplate> = match &provider.base_url {
            Some(url) => Some(url.clone()),
            None => provider
                .vendor(name)
                .and_then(|vendor| vendor.base_url)
                .and_then(|url| url.parse().ok()),
        };
        let url = template
            .ok_or_else(|| "it has no base_url".to_owned())
            .and_then(|template| {
                if template.is_regional() && region.is_none() {
                    return Err("a key without a region cannot be used: base_url needs one".to_owned());
                }
                template.for_region(region)
            });
        url.map_err(|reason| self.warn(name, reason)).ok()
    }

    /// `None`: a part is missing, which has been warned about.
    fn signing(&mut self, provider: &str, aws: &Aws, region: Option<&str>) -> Option<Signing> {
        let by = match aws {
            Aws::Source(AwsSource::Instance) => SignedBy::Instance,
            Aws::AccessKey(parts) => {
                let mut part = |part: &SecretPlace, bytes_max: usize| {
                    self.secret(provider, &place(&part.env, &part.file)?, bytes_max)
                };
                SignedBy::AccessKey {
                    access_key_id: part(&parts.access_key_id, limits::SIGV4_SCOPE_PART_BYTES_MAX)?.into(),
                    secret_access_key: Secret::new(part(&parts.secret_access_key, limits::SECRET_BYTES_MAX)?),
                    session_token: match &parts.session_token {
                        Some(token) => Some(Secret::new(part(token, limits::AWS_SESSION_TOKEN_BYTES_MAX)?)),
                        None => None,
                    },
                }
            }
        };
        let Some(region) = region else {
            self.warn(
                provider,
                "AWS credentials need a region, and bedrock: their key is skipped".to_owned(),
            );
            return None;
        };
        Some(Signing {
            region: region.into(),
            service: "bedrock",
            by,
        })
    }

    fn secret(&mut self, provider: &str, reference: &SecretRef, bytes_max: usize) -> Option<String> {
        let reason = match (self.secrets)(reference) {
            Ok(Some(text)) => {
                let secret = text.trim();
                match secret.len() {
                    0 => "is empty",
                    len if len > bytes_max => "is too long for a key",
                    // A line break would end the header field (RFC 9110 §5.5).
                    _ if !secret.bytes().all(|b| b.is_ascii_graphic() || b == b' ') => {
                        "holds characters that no key has"
                    }
                    _ => return Some(secret.to_owned()),
                }
                .to_owned()
            }
            Ok(None) if matches!(reference, SecretRef::Env(_)) => "is not set".to_owned(),
            Ok(None) => "does not exist".to_owned(),
            Err(reason) => format!("cannot be read: {reason}"),
        };
        self.warn(provider, format!("{reference} {reason}: its key is skipped"));
        None
    }

    fn origin(&mut self, url: &BaseUrl, tls: &ProviderTls) -> OriginId {
        let tls = url.tls.then(|| TlsId::from_index(intern(&mut self.tls, tls.clone())));
        let origin = Origin {
            tls,
            host: url.host.as_str().into(),
            port: url.port,
        };
        OriginId::from_index(intern(&mut self.origins, origin))
    }

    fn warn(&mut self, provider: &str, message: String) {
        let warning = Warning {
            provider: provider.into(),
            message,
        };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

fn intern<T: PartialEq>(table: &mut Vec<T>, item: T) -> usize {
    table.iter().position(|known| *known == item).unwrap_or_else(|| {
        table.push(item);
        table.len() - 1
    })
}

fn place(env: &Option<String>, file: &Option<String>) -> Option<SecretRef> {
    match (env, file) {
        (Some(name), _) => Some(SecretRef::Env(name.clone())),
        (None, Some(path)) => Some(SecretRef::File(path.clone())),
        (None, None) => None,
    }
}

fn needs_key(name: &str, provider: &config::Provider, auth: Auth) -> bool {
    auth != Auth::None && !provider.vendor(name).is_some_and(|vendor| vendor.keyless)
}

fn auth_header(auth: Auth, secret: &str) -> String {
    match auth {
        _ if secret.is_empty() => String::new(),
        Auth::Bearer => format!("authorization: Bearer {secret}\r\n"),
        Auth::XApiKey => format!("x-api-key: {secret}\r\n"),
        Auth::ApiKey => format!("api-key: {secret}\r\n"),
        Auth::None => String::new(),
    }
}

/// The key's own name, else its variable's or file's, numbered if an earlier key has it.
fn unique_name(key: &config::Key, earlier: &[Key]) -> Box<str> {
    let (env, file) = match &key.aws {
        Some(Aws::AccessKey(parts)) => (&parts.access_key_id.env, &parts.access_key_id.file),
        _ => (&key.env, &key.file),
    };
    let file = file.as_deref().and_then(|path| path.rsplit('/').next());
    let otherwise = if key.aws.is_some() { "instance" } else { "key" };
    let base = key.name.as_deref().or(env.as_deref()).or(file).unwrap_or(otherwise);
    let taken = |name: &str| earlier.iter().any(|key| &*key.name == name);
    if !taken(base) {
        return base.into();
    }
    (2..)
        .map(|n| format!("{base}-{n}"))
        .find(|name| !taken(name))
        .expect("at most 64 names are taken")
        .into()
}

/// Millionths, so that shares written with up to six decimals are exact.
fn weight(weight: f64) -> u32 {
    // The schema allows 0 to 1000; the cast saturates beyond, and makes 0 of what is not a number.
    (weight * 1e6).round() as u32
}

/// A host that a plain connection may well be meant for: this machine, a private address, a name without a public domain.
fn is_near(host: &str) -> bool {
    use std::net::IpAddr;
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => {
            let domains = [".localhost", ".local", ".internal", ".svc", ".lan", ".test"];
            !host.contains('.') || domains.iter().any(|domain| host.ends_with(domain))
        }
    }
}

fn compile_route(names: &Names, route: &config::Route, cached: &config::CacheRules) -> Route {
    let target = |name: &String| {
        let (provider, model_at) = names.split(name).ok()?;
        Some(Target {
            provider: ProviderId(provider),
            model: name[model_at..].into(),
        })
    };
    let member = |member: &config::WeightedTarget| {
        Some(Member {
            target: target(&member.model)?,
            weight: weight(member.weight),
            priority: member.priority,
        })
    };
    // Of 2^32; the cast saturates.
    let sample = |sample: &config::Sample| Some((target(&sample.model)?, (sample.share * 2f64.powi(32)) as u32));
    Route {
        name: route.models.first().map_or("", String::as_str).into(),
        members: route
            .targets
            .iter()
            .filter_map(member)
            .take(limits::ROUTE_TARGETS_MAX)
            .collect(),
        balance: route.balance,
        canary: route.canary.as_ref().and_then(sample),
        shadow: route.shadow.as_ref().and_then(sample),
        fallbacks: route
            .fallbacks
            .iter()
            .filter_map(target)
            .take(limits::FALLBACKS_MAX)
            .collect(),
        sticky: route.sticky.as_ref().map(|name| name.to_ascii_lowercase().into()),
        fallback_on: route.fallback_on.clone().into(),
        resume: route.resume,
        hold: (&route.restart).into(),
        hedge: route.hedge.as_ref().map(Into::into),
        // Whatever the route leads to is part of its keys: another configuration shares nothing with this one.
        caching: Caching::compile(
            route.cache.as_ref().unwrap_or(cached),
            format!("{:?} {:?} {:?}", route.models, route.targets, route.canary),
        ),
        overrides: overrides(&route.timeouts),
    }
}

/// Enters a route where requests for `model` will look for it; what an earlier route has claimed stays.
fn index_route(
    names: &Names,
    model: &str,
    route: RouteId,
    providers: &mut [Provider],
    patterns: &mut [Vec<(Pattern, RouteId)>],
) {
    if !model.ends_with('*') {
        if let Ok((provider, model_at)) = names.split(model) {
            providers[usize::from(provider)]
                .exact
                .entry(model[model_at..].into())
                .or_insert(route);
        }
        return;
    }
    match model
        .split_once('/')
        .and_then(|(name, rest)| Some((names.provider(name)?, rest)))
    {
        Some((provider, rest)) => patterns[usize::from(provider)].push((Pattern::new(rest), route)),
        None => patterns
            .iter_mut()
            .for_each(|patterns| patterns.push((Pattern::new(model), route))),
    }
}

fn timeouts(config: &config::Timeouts) -> Timeouts {
    Timeouts {
        connect_ms: config.connect.0,
        first_byte_ms: config.first_byte.0,
        first_token_ms: config.first_token.0,
        stream_idle_ms: config.stream_idle.0,
        total_ms: config.total.0,
    }
}

fn overrides(config: &TimeoutOverrides) -> Overrides {
    let ms = |duration: Option<DurationMs>| duration.map(|duration| duration.0);
    Overrides {
        connect_ms: ms(config.connect),
        first_byte_ms: ms(config.first_byte),
        first_token_ms: ms(config.first_token),
        stream_idle_ms: ms(config.stream_idle),
        total_ms: ms(config.total),
    }
}

fn downstream(config: &Config) -> Downstream {
    let (timeouts, limits) = (&config.server.timeouts, &config.limits);
    Downstream {
        head_ms: timeouts.head.0,
        body_idle_ms: timeouts.body_idle.0,
        body_rate_min: timeouts.body_rate_min.0,
        keep_alive_ms: timeouts.keep_alive.0,
        write_ms: timeouts.write.0,
        drain_ms: timeouts.drain.0,
        body_bytes_max: limits.body_bytes.0,
        connections_max: limits.connections,
        in_flight_body_bytes_max: limits.in_flight_body_bytes.0,
        sdk_timeouts: config.server.sdk_timeouts,
    }
}
