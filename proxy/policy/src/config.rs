//! The configuration file: its definition, from which the schema and the reference follow, and the way from text to [`Config`].
//!
//! Invariants: every key is defined once, here or below, and its documentation is the schema's description; a text is
//! either a whole [`Config`] or a list of [`Mistake`]s with positions, never half of it. Deliberately absent: reading
//! files and variables, and anything compiled for the request path (`snapshot.rs`).

pub mod accounts;
pub mod cache;
mod check;
pub mod concurrency;
pub mod kernel;
mod meaning;
pub(crate) mod names;
pub mod provider;
pub mod routing;
pub mod server;
mod tree;
pub mod url;
pub mod values;

use std::fmt;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use accounts::Accounts;
pub use cache::{
    CacheContext, CacheEmbedding, CacheFrames, CacheMode, CacheRegion, CacheRules, CacheShare, CacheStore,
};
pub use concurrency::Concurrency;
pub use kernel::{Accounting, Ebpf, Handover, Steering};
pub use provider::{AuthName, Aws, AwsAccessKey, AwsSource, DialectName, Key, Provider, ProviderTls, SecretPlace};
pub use provider::{TimeoutOverrides, Timeouts};
pub use routing::{Balance, Breaker, Hedge, KeyRest, Resume, Retries, Route, Sample, Verdict, WeightedTarget};
pub use server::{
    ClientAuth, Limits, Log, LogBodies, LogFormat, LogLevel, LogRequests, LogRotate, Metrics, ProxyProtocol, Server,
};
pub use server::{ServerTimeouts, ServerTls, Upstream};

/// Sluice's configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Sluice configuration")]
pub struct Config {
    /// The client side: addresses, cores, TLS, PROXY protocol and how long a client may take.
    #[serde(default)]
    pub server: Server,
    /// How long a request to a provider may take, phase by phase. Overridable for each provider and each route.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When a target that fails is left alone for a while, and how it is tried again.
    #[serde(default)]
    pub breaker: Breaker,
    /// How a request is tried again at a target that failed, before the next one.
    #[serde(default)]
    pub retries: Retries,
    /// How long a key is left alone after its provider refused it.
    #[serde(default)]
    pub key_rest: KeyRest,
    /// What the gateway holds at most.
    #[serde(default)]
    pub limits: Limits,
    /// Connections to providers.
    #[serde(default)]
    pub upstream: Upstream,
    /// The providers, by the name that clients put before the model (`PROVIDER/MODEL`). At least one, up to 256.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 256))]
    pub providers: IndexMap<String, Provider>,
    /// The provider of a model name that no provider lists and that names none. Default: the first in the file.
    #[serde(default)]
    pub default_provider: Option<String>,
    /// What happens to requests for certain models (up to 4096 routes). Exact names come before patterns, then the first wins.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub routes: Vec<Route>,
    /// eBPF programs that the gateway loads where it may; each part that it may not load is left out, and the log says why.
    #[serde(default)]
    pub ebpf: Ebpf,
    /// How a new process takes the port over from this one.
    #[serde(default)]
    pub handover: Handover,
    /// Virtual keys, budgets, rate limits and the ledger of requests. Default: none; clients need no key and nothing is counted.
    #[serde(default)]
    pub accounts: Option<Accounts>,
    /// Answers that are given again. Default: none is.
    #[serde(default)]
    pub cache: CacheStore,
    /// What is counted. Most of it always is.
    #[serde(default)]
    pub metrics: Metrics,
    /// What is logged. Keys never are, and bodies only of virtual keys that they are switched on for.
    #[serde(default)]
    pub log: Log,
}

/// One thing wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, as it was passed in.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key, such as `routes[0].fallbacks[1]`; empty if the file as a whole is meant.
    pub path: String,
    /// What is wrong and what was expected; a sentence in plain English that names the key.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Reads a configuration; `file` is its name for messages.
///
/// # Errors
/// Every mistake that can be found, in order of position, at most `limits::CONFIG_MISTAKES_MAX`.
pub fn load(text: &str, file: &str) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = check::Mistakes::new(file);
    let Some(root) = tree::parse(text, &mut mistakes) else {
        return Err(mistakes.into_sorted());
    };
    let value = check::check(&root, &schema(), &mut mistakes);
    if !mistakes.is_empty() {
        // The shape is wrong somewhere; what can be said about the meaning of the rest is still worth saying, if it loads.
        if let Ok(config) = Config::deserialize(value) {
            meaning::check(&config, &root, &mut mistakes);
        }
        return Err(mistakes.into_sorted());
    }
    let config = match Config::deserialize(value) {
        Ok(config) => config,
        Err(error) => {
            mistakes.add(root.position(), String::new(), error.to_string());
            return Err(mistakes.into_sorted());
        }
    };
    meaning::check(&config, &root, &mut mistakes);
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes.into_sorted())
    }
}

/// The JSON schema of the configuration file (draft 2020-12), for editors; ends with a newline.
pub fn schema_json() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).expect("a schema is plain JSON");
    text.push('\n');
    text
}

fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    unwrap_descriptions(&mut schema);
    schema
}

/// Joins the lines of documentation that are broken for the source's sake only. As deep as our own definitions.
fn unwrap_descriptions(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                match member {
                    serde_json::Value::String(text) if name == "description" => *text = text.replace('\n', " "),
                    member => unwrap_descriptions(member),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(unwrap_descriptions),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
