//! [`Place`] and [`Client`]: the admin interface of a running gateway, as the command line asks it: its open pages (state,
//! measurements, cache), and, with a credential, its administration (keys, budgets, ledger).
//!
//! Invariants: all commands find a gateway in the same way: flags go before environment, environment before the configuration
//! file; the credential is in no message, and goes to the administration alone; an answer that is no success is an error that
//! says what to do. Deliberately absent: waiting for a gateway that does not run.

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

/// Where the admin interface is.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Address or URL of the admin interface; else SLUICE_ADMIN, else the configuration's `server.admin`.
    #[arg(long, value_name = "ADDR", global = true)]
    admin: Option<String>,
    /// The running gateway's configuration file, for what neither flags nor environment say [default: config/sluice.yaml].
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// How to reach the administration.
#[derive(Debug, clap::Args)]
pub struct Access {
    #[command(flatten)]
    place: Place,
    /// File with the administrator's credential; else SLUICE_ADMIN_CREDENTIAL, else where the configuration's
    /// `accounts.admin_credential` says.
    #[arg(long, value_name = "FILE", global = true)]
    credential_file: Option<PathBuf>,
}

/// A way to the administration.
pub struct Client {
    url: BaseUrl,
    credential: String,
}

impl Place {
    /// Finds the admin interface.
    ///
    /// # Errors
    /// It is nowhere, or not what it should be.
    pub fn url(&self) -> Result<BaseUrl, String> {
        match self.named() {
            Some(admin) => url(&admin),
            None => self.configured(self.config()?.as_ref()),
        }
    }

    /// What flag or environment say.
    fn named(&self) -> Option<String> {
        self.admin.clone().or_else(|| variable(ADMIN_VARIABLE))
    }

    /// What the configuration says.
    fn configured(&self, config: Option<&Config>) -> Result<BaseUrl, String> {
        let config = config.ok_or_else(|| {
            format!("where is the gateway? Name its admin interface by --admin, {ADMIN_VARIABLE} or --config")
        })?;
        url(&config.server.admin.0.to_string())
    }

    /// The configuration, if there is one.
    fn config(&self) -> Result<Option<Config>, String> {
        let path = self.config.clone().unwrap_or_else(|| CONFIG_DEFAULT.into());
        if self.config.is_none() && !path.exists() {
            return Ok(None);
        }
        crate::control::load(&path).map(Some)
    }
}

impl Access {
    /// Finds address and credential.
    ///
    /// # Errors
    /// One of them is nowhere, or not what it should be.
    pub fn client(&self) -> Result<Client, String> {
        let named = self.place.named();
        let credential = match &self.credential_file {
            Some(path) => Some(read(path)?),
            None => variable(CREDENTIAL_VARIABLE),
        };
        if let (Some(admin), Some(credential)) = (&named, &credential) {
            return Client::new(url(admin)?, credential);
        }
        let config = self.place.config()?;
        let admin = match named {
            Some(admin) => url(&admin)?,
            None => self.place.configured(config.as_ref())?,
        };
        match credential {
            Some(credential) => Client::new(admin, &credential),
            None => Client::new(admin, &configured_credential(config.as_ref())?),
        }
    }
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// An address, such as `127.0.0.1:9091`, or a URL.
fn url(admin: &str) -> Result<BaseUrl, String> {
    let url = if admin.contains("://") {
        admin.to_owned()
    } else {
        format!("http://{admin}")
    };
    url.parse()
        .map_err(|why| format!("the admin interface is an address or a URL, not {admin:?}: {why}"))
}

fn configured_credential(config: Option<&Config>) -> Result<String, String> {
    let none =
        format!("the administrator's credential is missing: give it by {CREDENTIAL_VARIABLE} or --credential-file");
    let Some(config) = config else { return Err(none) };
    let place = config
        .accounts
        .as_ref()
        .and_then(|accounts| accounts.admin_credential.as_ref());
    let Some(place) = place else {
        return Err(format!(
            "{none}.\nThe configuration has no accounts.admin_credential; as long as it has none, keys and budgets cannot be administered"
        ));
    };
    match (&place.env, &place.file) {
        (Some(name), _) => std::env::var(name).map_err(|_| {
            format!("{none}.\nThe configuration expects it in the variable {name}, which is not set here")
        }),
        (None, Some(path)) => read(path.as_ref()),
        (None, None) => Err(none),
    }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

impl Client {
    /// With a credential.
    ///
    /// # Errors
    /// It cannot stand in a header field.
    fn new(url: BaseUrl, credential: &str) -> Result<Self, String> {
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
        let body = body.map(Value::to_string);
        let asked = exchange(
            &self.url,
            method,
            &format!("/admin/v1{path}"),
            body,
            Some(&self.credential),
        );
        let (status, text) = asked?;
        if status.is_success() {
            return Ok(text);
        }
        let said = serde_json::from_str::<Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said["error"]["message"].as_str());
        Err(refusal(status, said, &text, &self.url.authority()))
    }
}

/// An open page of the admin interface, as JSON.
///
/// # Errors
/// The gateway cannot be reached, or what answers is no admin interface.
pub fn page(url: &BaseUrl, path: &str) -> Result<Value, String> {
    let (status, text) = exchange(url, "GET", path, None, None)?;
    let place = url.authority();
    if !status.is_success() {
        return Err(format!("{place} answers {status} to {path}: {}", text.trim()));
    }
    serde_json::from_str(&text).map_err(|error| format!("what {place} answers to {path} is not JSON: {error}"))
}

/// A request to the admin interface: the answer's status and text, whatever they are.
///
/// # Errors
/// The gateway cannot be reached, or does not speak HTTP.
pub fn exchange(
    url: &BaseUrl,
    method: &str,
    path: &str,
    body: Option<String>,
    credential: Option<&str>,
) -> Result<(StatusCode, String), String> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", url.path))
        .header(header::HOST, url.authority())
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(credential) = credential {
        request = request.header(header::AUTHORIZATION, format!("Bearer {credential}"));
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
    let request = request.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let place = url.authority();
    let answer = runtime.block_on(ask(url, request, PATIENCE));
    let (status, body) = answer.map_err(|failure| match failure {
        Failure::NotReached(why) => format!(
            "there is no admin interface at {place} ({why}).\nIs the gateway running? Its configuration says under server.admin \
             where it listens; name another place by --admin or {ADMIN_VARIABLE}"
        ),
        Failure::NotAnswered(why) => format!("{place} does not answer as an admin interface does: {why}"),
    })?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
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
