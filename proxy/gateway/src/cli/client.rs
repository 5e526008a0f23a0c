//! [`Client`]: the administration of a running gateway, as the command line asks it.
//!
//! Invariants: flags go before environment, environment before the configuration file; the credential is in no message; an
//! answer that is no success is an error that says what to do. Deliberately absent: waiting for a gateway that does not run.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use serde_json::Value;
use sluice_policy::config::Config;
use sluice_policy::config::url::BaseUrl;

use crate::control::ask::{Failure, ask};

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
const CONFIG_DEFAULT: &str = "config/sluice.yaml";
const ADMIN_VARIABLE: &str = "SLUICE_ADMIN";
const CREDENTIAL_VARIABLE: &str = "SLUICE_ADMIN_CREDENTIAL";

/// How to reach the administration.
#[derive(Debug, clap::Args)]
pub struct Access {
    /// Address or URL of the admin interface; else SLUICE_ADMIN, else the configuration's `server.admin`.
    #[arg(long, value_name = "ADDR", global = true)]
    admin: Option<String>,
    /// File with the administrator's credential; else SLUICE_ADMIN_CREDENTIAL, else where the configuration's
    /// `accounts.admin_credential` says.
    #[arg(long, value_name = "FILE", global = true)]
    credential_file: Option<PathBuf>,
    /// The configuration file that address and credential are taken from.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// A way to the administration.
pub struct Client {
    url: BaseUrl,
    credential: String,
}

impl Access {
    /// Finds address and credential.
    ///
    /// # Errors
    /// One of them is nowhere, or not what it should be.
    pub fn client(&self) -> Result<Client, String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let admin = self.admin.clone().or_else(|| variable(ADMIN_VARIABLE));
        let credential = match &self.credential_file {
            Some(path) => Some(read(path)?),
            None => variable(CREDENTIAL_VARIABLE),
        };
        if let (Some(admin), Some(credential)) = (&admin, &credential) {
            return Client::new(admin, credential);
        }
        let path = self.config.clone().unwrap_or_else(|| CONFIG_DEFAULT.into());
        let config = if self.config.is_some() || path.exists() {
            Some(crate::control::load(&path)?)
        } else {
            None
        };
        let config = config.as_ref();
        let admin = admin
            .or_else(|| config.map(|config| config.server.admin.0.to_string()))
            .ok_or_else(|| format!("where is the gateway? Name its admin interface by --admin, {ADMIN_VARIABLE} or --config"))?;
        let credential = match credential {
            Some(credential) => credential,
            None => configured_credential(config)?,
        };
        Client::new(&admin, &credential)
    }
}

fn configured_credential(config: Option<&Config>) -> Result<String, String> {
    let none = format!("the administrator's credential is missing: give it by {CREDENTIAL_VARIABLE} or --credential-file");
    let Some(config) = config else { return Err(none) };
    let place = config.accounts.as_ref().and_then(|accounts| accounts.admin_credential.as_ref());
    let Some(place) = place else {
        return Err(format!(
            "{none}.\nThe configuration has no accounts.admin_credential; as long as it has none, keys and budgets cannot be administered"
        ));
    };
    match (&place.env, &place.file) {
        (Some(name), _) => std::env::var(name)
            .map_err(|_| format!("{none}.\nThe configuration expects it in the variable {name}, which is not set here")),
        (None, Some(path)) => read(path.as_ref()),
        (None, None) => Err(none),
    }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

impl Client {
    /// For an address, such as `127.0.0.1:9090`, or a URL.
    ///
    /// # Errors
    /// It is neither, or the credential cannot stand in a header field.
    pub fn new(admin: &str, credential: &str) -> Result<Self, String> {
        let url = if admin.contains("://") {
            admin.to_owned()
        } else {
            format!("http://{admin}")
        };
        let url: BaseUrl = url
            .parse()
            .map_err(|why| format!("the admin interface is an address or a URL, not {admin:?}: {why}"))?;
        if credential.is_empty() || !credential.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the administrator's credential is empty or has characters that none has".to_owned());
        }
        Ok(Self {
            url,
            credential: credential.to_owned(),
        })
    }

    /// The answer to a GET, as JSON.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.json("GET", path, None)
    }

    /// The answer to a request with a body, as JSON; nothing, if there is none.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let text = self.send(method, path, body)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| format!("the gateway's answer is not JSON: {error}"))
    }

    /// The answer's body.
    ///
    /// # Errors
    /// The gateway cannot be reached, refuses the credential, has no administration, or refuses what is asked.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, String> {
        let target = format!("{}/admin/v1{path}", self.url.path);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, self.url.authority())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.credential))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let place = self.url.authority();
        let answer = runtime.block_on(ask(&self.url, request, PATIENCE));
        let (status, body) = answer.map_err(|failure| match failure {
            Failure::NotReached(why) => format!(
                "there is no admin interface at {place} ({why}).\nIs the gateway running? Its configuration says under server.admin \
                 where it listens; name another place by --admin or {ADMIN_VARIABLE}"
            ),
            Failure::NotAnswered(why) => format!("{place} does not answer as an admin interface does: {why}"),
        })?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let said = serde_json::from_str::<Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said["error"]["message"].as_str());
        Err(refusal(status, said, &text, &place))
    }
}

fn refusal(status: StatusCode, said: Option<&str>, text: &str, place: &str) -> String {
    match (status, said) {
        (StatusCode::UNAUTHORIZED, _) => format!(
            "{place} does not accept the administrator's credential. It is the one that the gateway was started with \
             (accounts.admin_credential); give it by {CREDENTIAL_VARIABLE}, --credential-file or --config"
        ),
        (_, Some(said)) => said.to_owned(),
        (StatusCode::NOT_FOUND, None) => format!(
            "{place} does not administer keys and budgets: set accounts.admin_credential in the gateway's configuration and \
             start it again"
        ),
        (_, None) => format!("{place} answers {status}: {}", text.trim()),
    }
}

/// A name as a part of a path (RFC 3986 §3.3).
pub fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
