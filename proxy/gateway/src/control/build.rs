//! Configuration → [`Plane`]: secrets, certificates and addresses put together.
//!
//! Invariants: a plane is complete or there is none; secrets come from the environment or from files and go nowhere but into
//! the snapshot. Deliberately absent: when to build one (`reload.rs`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use rustls::pki_types::ServerName;
use sluice_policy::config::{ClientAuth, Config, ProviderTls, SecretPlace, ServerTls};
use sluice_policy::health::Health;
use sluice_policy::snapshot::{Secret, SecretRef, SignedBy, Snapshot, Warning};

use super::accounts;
use super::credentials::InstanceCredentials;
use super::resolve::{Resolver, TtlBounds};
use crate::plane::{Accounts, OriginRuntime, Plane};
use crate::signing::AwsCredentials;
use crate::tls::settings::{self, ClientCertificates};

/// Builds the plane of one generation of a configuration; what is known of targets and keys is taken over from `older`.
///
/// # Errors
/// When a certificate, key or CA file cannot be used.
pub async fn plane(
    config: &Config,
    generation: u64,
    resolver: &mut Resolver,
    instance: &InstanceCredentials,
    older: Option<&Plane>,
) -> Result<(Plane, Vec<Warning>)> {
    let (snapshot, warnings) = Snapshot::compile(config, generation, &secret);
    let tls = client_configs(config, &snapshot)?;
    let bounds = ttl_bounds(config);
    let mut origins = Vec::new();
    for origin in snapshot.origins() {
        let addresses = resolver.addresses(&origin.host, origin.port, bounds).await;
        let tls = match origin.tls {
            Some(id) => {
                let settings = &snapshot.tls_settings()[id.index()];
                let name = settings.server_name.clone().unwrap_or_else(|| origin.host.to_string());
                let name =
                    ServerName::try_from(name.clone()).with_context(|| format!("{name} cannot be verified by TLS"))?;
                Some((tls[id.index()].clone(), name))
            }
            None => None,
        };
        origins.push(OriginRuntime {
            addresses,
            tls,
            tagger: None,
        });
    }
    let ready_body = ready_body(&snapshot, &warnings);
    let accounts = match &config.accounts {
        Some(accounts) => Some(Accounts {
            keyring: older
                .and_then(|older| older.accounts.as_ref())
                .map(|accounts| accounts.keyring.clone())
                .unwrap_or_default(),
            pairs: match older.and_then(|older| older.accounts.as_ref()) {
                Some(accounts) => accounts.pairs.clone(),
                None => accounts::pair_issuer(accounts)?.map(Arc::new),
            },
            prices: Arc::new(accounts::prices(accounts)?),
        }),
        None => {
            crate::plane::shipped_prices();
            None
        }
    };
    let plane = Plane {
        aws: aws(&snapshot, instance.latest().as_ref()),
        health: older.map_or_else(
            || Arc::new(Health::new(fastrand::u64(..))),
            |older| older.health.clone(),
        ),
        keys: snapshot
            .key_states(older.map(|older| (&*older.snapshot, &*older.keys)))
            .into(),
        snapshot: Arc::new(snapshot),
        origins,
        ready_body,
        cache: None,
        accounts,
        server_tls: config.server.tls.as_ref().map(server_config).transpose()?,
    };
    Ok((plane, warnings))
}

/// The same plane with addresses looked up again; `None` if none has changed.
pub async fn with_new_addresses(plane: &Plane, config: &Config, resolver: &mut Resolver) -> Option<Plane> {
    let mut origins = plane.origins.clone();
    let mut changed = false;
    for (origin, runtime) in plane.snapshot.origins().iter().zip(&mut origins) {
        let addresses = resolver.addresses(&origin.host, origin.port, ttl_bounds(config)).await;
        changed |= addresses != runtime.addresses;
        runtime.addresses = addresses;
    }
    changed.then(|| Plane {
        origins,
        ..plane.clone()
    })
}

/// The same plane with the credentials that the instance has now; `None` if no key is signed by them.
pub fn with_new_credentials(plane: &Plane, instance: &InstanceCredentials) -> Option<Plane> {
    plane.snapshot.needs_instance_credentials().then(|| Plane {
        aws: aws(&plane.snapshot, instance.latest().as_ref()),
        ..plane.clone()
    })
}

fn aws(snapshot: &Snapshot, instance: Option<&Arc<AwsCredentials>>) -> Vec<Option<Arc<AwsCredentials>>> {
    let mut table = vec![None; snapshot.keys_len()];
    let text = |secret: &Secret| Box::<str>::from(String::from_utf8_lossy(secret.expose()));
    for key in snapshot.providers().iter().flat_map(|provider| &provider.keys) {
        table[key.id.index()] = match key.signing.as_ref().map(|signing| &signing.by) {
            None => None,
            Some(SignedBy::Instance) => instance.cloned(),
            Some(SignedBy::AccessKey {
                access_key_id,
                secret_access_key,
                session_token,
            }) => Some(Arc::new(AwsCredentials {
                access_key_id: access_key_id.clone(),
                secret_access_key: text(secret_access_key),
                session_token: session_token.as_ref().map(text),
                expires_unix_s: None,
            })),
        };
    }
    table
}

fn ttl_bounds(config: &Config) -> TtlBounds {
    TtlBounds {
        min: Duration::from_millis(config.upstream.dns_ttl_min.0.into()),
        max: Duration::from_millis(config.upstream.dns_ttl_max.0.into()),
    }
}

/// The secret at a place that must hold one.
///
/// # Errors
/// It is not set, is empty, or cannot be read.
pub fn secret_at(place: &SecretPlace) -> Result<String> {
    let env = place.env.clone().map(SecretRef::Env);
    let mut tried = Vec::new();
    for reference in env.into_iter().chain(place.file.clone().map(SecretRef::File)) {
        let found = secret(&reference).map_err(|why| anyhow!("{reference}: {why}"))?;
        let found = found.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if let Some(found) = found {
            return Ok(found);
        }
        tried.push(format!("{reference} is not set, or is empty"));
    }
    bail!(tried.join("; "))
}

fn secret(place: &SecretRef) -> Result<Option<String>, String> {
    match place {
        SecretRef::Env(name) => match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err("it does not hold UTF-8 text".into()),
        },
        SecretRef::File(path) => match std::fs::read_to_string(path) {
            Ok(value) => Ok(Some(value.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn client_configs(config: &Config, snapshot: &Snapshot) -> Result<Vec<Arc<rustls::ClientConfig>>> {
    let client = |tls: &ProviderTls| {
        let ca = tls
            .ca_file
            .as_deref()
            .or(config.upstream.ca_file.as_deref())
            .map(Path::new);
        let certificate = tls.client_cert.as_deref().zip(tls.client_key.as_deref());
        settings::client(
            ca,
            certificate.map(|(certificate, key)| (Path::new(certificate), Path::new(key))),
        )
    };
    snapshot.tls_settings().iter().map(client).collect()
}

fn server_config(tls: &ServerTls) -> Result<Arc<rustls::ServerConfig>> {
    let clients = match tls.client_auth() {
        ClientAuth::None => ClientCertificates::None,
        ClientAuth::Optional => ClientCertificates::Optional,
        ClientAuth::Required => ClientCertificates::Required,
    };
    settings::server(
        Path::new(&tls.cert),
        Path::new(&tls.key),
        clients,
        tls.client_ca.as_deref().map(Path::new),
    )
}

/// What `/ready` says: whether there is a usable provider, and why each unusable one is not.
fn ready_body(snapshot: &Snapshot, warnings: &[Warning]) -> Bytes {
    let providers = snapshot.providers().iter().map(|provider| {
        let why: Vec<&str> = warnings
            .iter()
            .filter(|warning| warning.provider == provider.name)
            .map(|warning| &*warning.message)
            .collect();
        serde_json::json!({
            "name": &*provider.name,
            "available": provider.available(),
            "keys": provider.keys.len(),
            "warnings": why,
        })
    });
    let body = serde_json::json!({
        "status": if snapshot.ready() { "ready" } else { "no usable provider" },
        "generation": snapshot.generation(),
        "providers": providers.collect::<Vec<_>>(),
    });
    body.to_string().into()
}
