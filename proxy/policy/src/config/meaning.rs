//! What the schema cannot say: relations between keys, and names that must exist.
//!
//! Invariants: every mistake points at the very key or value that is wrong; nothing is said about a part whose shape has
//! been reported already. Deliberately absent: whether variables are set and files exist (`Snapshot::compile` warns).

use sluice_wire::dialect::Dialect;
use sluice_wire::limits;

use super::check::{Mistakes, suggestion};
use super::names::Names;
use super::provider::SecretPlace;
use super::tree::{Node, Step};
use super::url::BaseUrl;
use super::{
    AuthName, Aws, Balance, CacheEmbedding, CacheRules, ClientAuth, Config, Key, Provider, Route, WeightedTarget,
};
use crate::snapshot::compiled_region;
use crate::vendors;

/// Adds every mistake of meaning.
pub(crate) fn check(config: &Config, root: &Node, mistakes: &mut Mistakes) {
    let mut checker = Checker {
        config,
        root,
        mistakes,
        path: Vec::new(),
    };
    checker.server();
    checker.bounds();
    for (name, provider) in &config.providers {
        checker.within(&["providers", name], |checker| checker.provider(name, provider));
    }
    checker.accounts();
    checker.default_provider();
    checker.within(&["cache", "default"], |checker| checker.caching(&config.cache.default));
    checker.embedding(config.cache.embedding.as_ref());
    checker.routes();
}

struct Checker<'a> {
    config: &'a Config,
    root: &'a Node,
    mistakes: &'a mut Mistakes,
    path: Vec<Step>,
}

impl Checker<'_> {
    fn within(&mut self, keys: &[&str], inner: impl FnOnce(&mut Self)) {
        let len = self.path.len();
        self.path.extend(keys.iter().map(|key| Step::Key((*key).to_owned())));
        inner(self);
        self.path.truncate(len);
    }

    fn at(&mut self, index: usize, inner: impl FnOnce(&mut Self)) {
        self.path.push(Step::Index(index));
        inner(self);
        self.path.pop();
    }

    /// A mistake at the current path: at its value, or at its key if the key is what is wrong.
    fn add(&mut self, message: impl AsRef<str>) {
        let path = spell(&self.path);
        if !self.mistakes.touch(&path) {
            let message = format!("{path}: {}", message.as_ref());
            self.mistakes.add(self.root.find(&self.path), path, message);
        }
    }

    /// A mistake about the name of the last key.
    fn add_at_key(&mut self, message: impl AsRef<str>) {
        let path = spell(&self.path);
        if !self.mistakes.touch(&path) {
            let message = format!("{path}: {}", message.as_ref());
            self.mistakes.add(self.root.find_key(&self.path), path, message);
        }
    }

    fn server(&mut self) {
        let Some(tls) = &self.config.server.tls else { return };
        if tls.client_ca.is_none() && tls.client_auth() != ClientAuth::None {
            self.within(&["server", "tls", "client_auth"], |c| {
                c.add("client certificates cannot be verified without client_ca");
            });
        }
    }

    fn accounts(&mut self) {
        let Some(accounts) = &self.config.accounts else { return };
        let is_blank = |text: &String| text.trim().is_empty();
        if accounts.store_secret.is_none() && accounts.store.as_ref().is_none_or(is_blank) {
            self.within(&["accounts", "store"], |c| {
                c.add("expected the path of a file, or postgres://…");
            });
        }
        for (key, place) in [
            ("store_secret", &accounts.store_secret),
            ("admin_credential", &accounts.admin_credential),
        ] {
            if place
                .as_ref()
                .is_some_and(|place| place.env.is_none() && place.file.is_none())
            {
                self.within(&["accounts", key], |c| c.add("expected env or file"));
            }
        }
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if accounts.webhook.as_ref().is_some_and(|url| !is_url(url)) {
            self.within(&["accounts", "webhook"], |c| {
                c.add("expected a URL such as https://example.com/hook");
            });
        }
    }

    fn bounds(&mut self) {
        let limits = &self.config.limits;
        if limits.body_bytes.0 > limits::BODY_BYTES_MAX {
            let message = format!("expected at most {}MiB", limits::BODY_BYTES_MAX >> 20);
            self.within(&["limits", "body_bytes"], |c| c.add(message));
        }
        if limits.in_flight_body_bytes < limits.body_bytes {
            let message = format!("must not be less than limits.body_bytes ({})", limits.body_bytes);
            self.within(&["limits", "in_flight_body_bytes"], |c| c.add(message));
        }
        let (breaker, retries, keys) = (&self.config.breaker, &self.config.retries, &self.config.key_rest);
        for (section, longest, at_least, (most, least)) in [
            (
                "breaker",
                "probe_interval_max",
                "probe_interval",
                (breaker.probe_interval_max, breaker.probe_interval),
            ),
            (
                "retries",
                "delay_max",
                "first_delay",
                (retries.delay_max, retries.first_delay),
            ),
            ("key_rest", "rest_max", "rest", (keys.rest_max, keys.rest)),
            (
                "key_rest",
                "probe_interval_max",
                "probe_interval",
                (keys.probe_interval_max, keys.probe_interval),
            ),
        ] {
            if most < least {
                let message = format!("must not be less than {section}.{at_least} ({least})");
                self.within(&[section, longest], |c| c.add(message));
            }
        }
        let upstream = &self.config.upstream;
        if upstream.dns_ttl_max < upstream.dns_ttl_min {
            let message = format!("must not be less than upstream.dns_ttl_min ({})", upstream.dns_ttl_min);
            self.within(&["upstream", "dns_ttl_max"], |c| c.add(message));
        }
        if self.config.log.requests.output.is_empty() {
            self.within(&["log", "requests", "output"], |c| {
                c.add("expected stdout, none or the name of a file")
            });
        }
        if self.config.log.bodies.size.0 > limits::LOG_BODY_BYTES_MAX {
            self.within(&["log", "bodies", "size"], |c| c.add("expected at most 1 MiB"));
        }
    }

    fn provider(&mut self, name: &str, provider: &Provider) {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.bytes().all(fits) {
            let max = limits::NAME_BYTES_MAX;
            self.add_at_key(format!(
                "a provider's name has 1 to {max} letters, digits, -, _ or . (a / would end it)"
            ));
        }
        let vendor = provider.vendor(name);
        match (vendor, provider.dialect, &provider.base_url) {
            (None, None, _) => {
                let hint = suggestion(name, vendors::VENDORS.iter().map(|vendor| vendor.name));
                let end = if hint.is_empty() { ": set" } else { " Otherwise set" };
                self.add_at_key(format!(
                    "\"{name}\" is not a known vendor{hint}{end} dialect and base_url, or vendor"
                ));
            }
            (None, Some(_), None) => self.add_at_key(format!("base_url is missing: \"{name}\" is not a known vendor")),
            (Some(vendor), _, None) if vendor.base_url.is_none() => {
                self.add_at_key(format!(
                    "base_url is missing: every customer of {} has an address of their own",
                    vendor.name
                ));
            }
            _ => {}
        }
        let keyless = provider.auth == Some(AuthName::None) || vendor.is_some_and(|vendor| vendor.keyless);
        if provider.keys.is_empty() && !keyless {
            self.add_at_key("keys are missing; write keys: [{env: VARIABLE}], or auth: none if it needs no key");
        }
        if !provider.keys.is_empty() && provider.auth == Some(AuthName::None) {
            self.within(&["keys"], |c| c.add_at_key("keys are of no use with auth: none"));
        }
        self.keys(name, provider);
        self.headers(provider);
        if provider.tls.client_cert.is_some() != provider.tls.client_key.is_some() {
            self.within(&["tls"], |c| c.add_at_key("client_cert and client_key need each other"));
        }
    }

    fn keys(&mut self, name: &str, provider: &Provider) {
        let regional = match (&provider.base_url, provider.vendor(name)) {
            (Some(url), _) => url.is_regional(),
            (None, vendor) => vendor
                .and_then(|vendor| vendor.base_url)
                .is_some_and(|url| url.contains("{region}")),
        };
        let bedrock = provider.dialect(name) == Dialect::Bedrock;
        for (index, key) in provider.keys.iter().enumerate() {
            self.within(&["keys"], |c| {
                c.at(index, |c| {
                    c.secret(key);
                    if key.aws.is_some() && !bedrock {
                        c.within(&["aws"], |c| {
                            c.add_at_key(
                                "AWS credentials sign requests to bedrock; this provider speaks another dialect",
                            );
                        });
                    }
                    let needs_region = regional || key.aws.is_some();
                    if needs_region && key.region.is_none() && provider.region.is_none() {
                        c.add(
                            "region is missing: write it here or once for the provider, such as region: eu-central-1",
                        );
                    }
                    let twin = |other: &Key| other.name.is_some() && other.name == key.name;
                    if provider.keys[..index].iter().any(twin) {
                        c.within(&["name"], |c| {
                            c.add("another key of this provider has this name already")
                        });
                    }
                });
            });
        }
        if regional && provider.keys.is_empty() && provider.region.is_none() {
            self.add_at_key("region is missing, such as region: eu-central-1");
        }
    }

    /// Where a key's secret is: at one place, and named, not written out.
    fn secret(&mut self, key: &Key) {
        let places = [key.env.is_some(), key.file.is_some(), key.aws.is_some()];
        if places.iter().filter(|given| **given).count() != 1 {
            self.add("expected either env (a variable), file or aws, and only one of them");
        }
        self.variable(key.env.as_deref());
        let Some(Aws::AccessKey(parts)) = &key.aws else { return };
        let parts = [
            ("access_key_id", Some(&parts.access_key_id)),
            ("secret_access_key", Some(&parts.secret_access_key)),
            ("session_token", parts.session_token.as_ref()),
        ];
        for (name, place) in parts {
            let Some(place) = place else { continue };
            self.within(&["aws", name], |c| {
                if place.env.is_some() == place.file.is_some() {
                    c.add("expected either env (a variable) or file, and not both");
                }
                c.variable(place.env.as_deref());
            });
        }
    }

    fn variable(&mut self, env: Option<&str>) {
        if env.is_some_and(|env| !is_variable(env)) {
            self.within(&["env"], |c| {
                c.add("expected the name of an environment variable (letters, digits and _), not the secret itself");
            });
        }
    }

    fn headers(&mut self, provider: &Provider) {
        for (name, value) in &provider.headers {
            self.within(&["headers", name], |c| {
                if name.is_empty() || !name.bytes().all(is_token) {
                    c.add_at_key("this is not the name of a header field");
                } else if FORBIDDEN_HEADERS
                    .iter()
                    .any(|forbidden| name.eq_ignore_ascii_case(forbidden))
                {
                    c.add_at_key("the gateway itself sets this header field");
                }
                if value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
                    c.add("a header field's value holds no control characters");
                }
            });
        }
    }

    fn default_provider(&mut self) {
        let Some(name) = &self.config.default_provider else {
            return;
        };
        if !self.config.providers.contains_key(name) {
            let hint = suggestion(name, self.config.providers.keys().map(String::as_str));
            self.within(&["default_provider"], |c| {
                c.add(format!("no provider \"{name}\" is configured{hint}"))
            });
        }
    }

    fn routes(&mut self) {
        let names = Names::new(self.config);
        let mut seen = std::collections::HashMap::new();
        for (index, route) in self.config.routes.iter().enumerate() {
            self.path.extend([Step::Key("routes".into()), Step::Index(index)]);
            for (at, pattern) in route.models.iter().enumerate() {
                self.within(&["models"], |c| c.at(at, |c| c.pattern(&names, pattern)));
                if let Some(first) = seen.insert(pattern.as_str(), index) {
                    let message = format!("\"{pattern}\" is in routes[{first}] already, which comes first");
                    self.within(&["models"], |c| c.at(at, |c| c.add(message)));
                }
            }
            self.targets(&names, route);
            for (at, fallback) in route.fallbacks.iter().enumerate() {
                self.within(&["fallbacks"], |c| c.at(at, |c| c.target(&names, fallback)));
            }
            if let Some(rules) = &route.cache {
                self.within(&["cache"], |c| c.caching(rules));
            }
            if route.restart.bytes.0 > limits::RESTART_BYTES_MAX as u64 {
                let message = format!("expected at most {}KiB", limits::RESTART_BYTES_MAX >> 10);
                self.within(&["restart", "bytes"], |c| c.add(message));
            }
            self.path.truncate(self.path.len() - 2);
        }
    }

    fn embedding(&mut self, embedding: Option<&CacheEmbedding>) {
        let Some(embedding) = embedding else { return };
        if let Err(why) = embedding.base_url.parse::<BaseUrl>() {
            self.within(&["cache", "embedding", "base_url"], |c| c.add(why));
        }
        let nowhere = |place: &SecretPlace| place.env.is_none() && place.file.is_none();
        if embedding.key.as_ref().is_some_and(nowhere) {
            self.within(&["cache", "embedding", "key"], |c| c.add("expected env or file"));
        }
    }

    fn caching(&mut self, rules: &CacheRules) {
        for (at, pointer) in rules.context.body.iter().enumerate() {
            if !pointer.starts_with('/') {
                let message = "expected a JSON pointer, such as /metadata/variant";
                self.within(&["context", "body"], |c| c.at(at, |c| c.add(message)));
            }
        }
        for (at, name) in rules.context.headers.iter().enumerate() {
            if !name.bytes().all(is_token) {
                let message = "expected the name of a header field, such as x-variant";
                self.within(&["context", "headers"], |c| c.at(at, |c| c.add(message)));
            }
        }
        let Some(frames) = &rules.frames else { return };
        let context = &rules.context;
        let has_camera = [&context.headers, &context.body, &context.metadata]
            .iter()
            .any(|keys| !keys.is_empty());
        if !has_camera || !context.required {
            let message = "frames need a context key that names the camera, and context.required";
            self.within(&["frames"], |c| c.add_at_key(message));
        }
        if frames
            .region
            .as_ref()
            .is_some_and(|region| compiled_region(region).is_none())
        {
            let message = "no rectangle touches a frame of this size, or the frame is too large";
            self.within(&["frames", "region"], |c| c.add_at_key(message));
        }
    }

    fn pattern(&mut self, names: &Names, pattern: &str) {
        let stem = pattern.strip_suffix('*');
        if stem.unwrap_or(pattern).contains('*') {
            self.add("a * may stand only at the end");
        } else if stem.is_none_or(|stem| stem.contains('/'))
            && let Err(error) = names.split(pattern)
        {
            self.add(error.message);
        }
    }

    /// What a route says of the targets that requests go to first.
    fn targets(&mut self, names: &Names, route: &Route) {
        for (at, target) in route.targets.iter().enumerate() {
            self.within(&["targets"], |c| {
                c.at(at, |c| {
                    c.within(&["model"], |c| c.target(names, &target.model));
                    let twin = |other: &WeightedTarget| other.model == target.model;
                    if route.targets[..at].iter().any(twin) {
                        c.within(&["model"], |c| c.add("this target is in the list already"));
                    }
                });
            });
        }
        if route.targets.is_empty() && route.balance != Balance::Weighted {
            self.within(&["balance"], |c| {
                c.add_at_key("there is nothing to choose from without targets")
            });
        }
        for (key, sample) in [("canary", &route.canary), ("shadow", &route.shadow)] {
            if let Some(sample) = sample {
                self.within(&[key, "model"], |c| c.target(names, &sample.model));
            }
        }
    }

    /// A name that must mean one target.
    fn target(&mut self, names: &Names, fallback: &str) {
        if fallback.contains('*') {
            self.add("a target is one model; a * cannot stand in it");
            return;
        }
        match names.split(fallback) {
            Err(error) => self.add(error.message),
            // Clients may rely on the default provider, a fallback that means one provider should say so.
            Ok((_, 0))
                if !self
                    .config
                    .providers
                    .values()
                    .any(|provider| provider.models.iter().any(|m| m == fallback)) =>
            {
                let providers: Vec<&str> = self.config.providers.keys().map(String::as_str).collect();
                let prefix = fallback.split('/').next().unwrap_or_default();
                let hint = if fallback.contains('/') {
                    suggestion(prefix, providers.iter().copied())
                } else {
                    String::new()
                };
                let end = if hint.is_empty() { "." } else { "" };
                let providers = providers.join(", ");
                self.add(format!("\"{fallback}\" names no configured provider{hint}{end} Write PROVIDER/MODEL; providers: {providers}"));
            }
            Ok(_) => {}
        }
    }
}

/// Fields that frame a message, belong to one connection, or carry what the gateway decides (RFC 9110 §7.6.1).
const FORBIDDEN_HEADERS: &[&str] = &[
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-api-key",
];

/// RFC 9110 §5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_variable(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && name.bytes().all(fits) && !name.as_bytes()[0].is_ascii_digit()
}

fn spell(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}
