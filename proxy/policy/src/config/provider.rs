//! Providers, their keys, and the timeouts that hold for requests to them.
//!
//! Invariants: a secret is never part of configuration, only the name of the variable or file that holds it. Deliberately
//! absent: what a vendor's name implies (`vendors.rs`), and the secrets themselves (`snapshot.rs`).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_wire::dialect::Dialect;
use sluice_wire::limits;

use super::concurrency::Concurrency;
use super::url::UrlTemplate;
use super::values::DurationMs;
use crate::vendors::{self, Vendor};

/// One provider account. Everything but the keys follows from the name if it is a known vendor's.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Provider {
    /// The known vendor whose defaults apply: openai, anthropic, bedrock, azure, deepseek, fireworks, groq, mistral, ollama,
    /// openrouter, perplexity, together, vllm or xai. Default: the provider's own name, if it is one of these.
    #[schemars(extend("x-sluice-kind" = "vendor"))]
    pub vendor: Option<String>,
    /// What it speaks: openai (and all compatible with it), anthropic or bedrock. Default: the vendor's.
    pub dialect: Option<DialectName>,
    /// Where requests go, written as that vendor's own SDK takes it (with `/v1` for OpenAI, without for Anthropic).
    /// `{region}` stands for the key's region. Default: the vendor's.
    pub base_url: Option<UrlTemplate>,
    /// How a key is sent: bearer, x-api-key, api-key or none. Default: the vendor's.
    pub auth: Option<AuthName>,
    /// The keys, chosen by weight for each request (up to 64). Needed unless `auth` is none or the vendor needs no key.
    #[schemars(length(max = 64))]
    pub keys: Vec<Key>,
    /// Region of every key that names none, such as eu-central-1. Needed by bedrock. Default: none.
    #[schemars(extend("x-sluice-kind" = "region"))]
    pub region: Option<String>,
    /// Models that clients may name without `PROVIDER/` before it. The first provider that lists a name gets it.
    #[schemars(length(max = 4096), inner(length(min = 1, max = 256)))]
    pub models: Vec<String>,
    /// Header fields set on every request to this provider, in place of the client's own of the same name (up to 32). Not for
    /// secrets: these belong to `keys`.
    #[schemars(extend("maxProperties" = 32))]
    pub headers: IndexMap<String, String>,
    /// Tokens that an answer may have at most where this provider demands a number (Anthropic does) and the client, speaking
    /// another dialect, gave none (1 to 1,000,000). 4096 is what every Claude model can do.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_tokens_default: u32,
    /// TLS towards this provider.
    pub tls: ProviderTls,
    /// Timeouts of requests to this provider, as far as they differ from the global ones.
    pub timeouts: TimeoutOverrides,
    /// Whether its models take the beginning of an answer, as a last message of the assistant's, and go on with it. Default: true
    /// for the anthropic dialect and for Claude on bedrock, else false.
    pub prefill: Option<bool>,
    /// How many requests one core has at this provider at a time. Default: any number.
    pub concurrency: Option<Concurrency>,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            vendor: None,
            dialect: None,
            base_url: None,
            auth: None,
            keys: Vec::new(),
            region: None,
            models: Vec::new(),
            headers: IndexMap::new(),
            max_tokens_default: limits::MAX_TOKENS_DEFAULT,
            tls: ProviderTls::default(),
            timeouts: TimeoutOverrides::default(),
            prefill: None,
            concurrency: None,
        }
    }
}

impl Provider {
    /// The row of the vendor table that applies to a provider of that name.
    pub fn vendor(&self, name: &str) -> Option<&'static Vendor> {
        vendors::find(self.vendor.as_deref().unwrap_or(name))
    }

    /// What a provider of that name speaks.
    pub fn dialect(&self, name: &str) -> Dialect {
        let of_vendor = self.vendor(name).map_or(Dialect::OpenAi, |vendor| vendor.dialect);
        self.dialect.map_or(of_vendor, Dialect::from)
    }
}

/// The dialect of a provider, as configuration spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DialectName {
    /// OpenAI's API, and all that is compatible with it.
    Openai,
    /// Anthropic's Messages API.
    Anthropic,
    /// Amazon Bedrock's Converse API.
    Bedrock,
}

impl From<DialectName> for Dialect {
    fn from(name: DialectName) -> Self {
        match name {
            DialectName::Openai => Self::OpenAi,
            DialectName::Anthropic => Self::Anthropic,
            DialectName::Bedrock => Self::Bedrock,
        }
    }
}

/// How a key is sent, as configuration spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum AuthName {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `x-api-key: KEY`.
    XApiKey,
    /// `api-key: KEY`.
    ApiKey,
    /// No credential is sent.
    None,
}

/// One credential of a provider: `env` or `file` says where the secret is, `aws` what signs the requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Key {
    /// Environment variable that holds the secret. If it is unset or empty, the key is skipped with a warning.
    pub env: Option<String>,
    /// File that holds the secret; white space around it is ignored. If it is missing, the key is skipped with a warning.
    pub file: Option<String>,
    /// AWS credentials, for bedrock only and in place of `env` and `file`: requests are signed (Signature Version 4). Either the
    /// places of an access key's parts, or `instance`. Needs a region.
    pub aws: Option<Aws>,
    /// What logs, metrics and the answer's header call it. Default: the variable's name, or the file's without its folder.
    #[schemars(extend("x-sluice-kind" = "name"))]
    pub name: Option<String>,
    /// Share of the requests, relative to the other keys' (0 to 1000, up to 6 decimals). 0: only when no other key is left.
    #[schemars(range(min = 0, max = 1000))]
    pub weight: f64,
    /// Region of this key. Default: the provider's.
    #[schemars(extend("x-sluice-kind" = "region"))]
    pub region: Option<String>,
    /// The only models that this key may be used for; a trailing `*` stands for any ending. Default: every model.
    #[schemars(length(max = 4096), inner(length(min = 1, max = 256)))]
    pub models: Vec<String>,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            env: None,
            file: None,
            aws: None,
            name: None,
            weight: 1.0,
            region: None,
            models: Vec::new(),
        }
    }
}

/// AWS credentials, as configuration spells them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Aws {
    /// One word.
    Source(AwsSource),
    /// Where the parts of an access key are.
    AccessKey(AwsAccessKey),
}

/// Where AWS credentials come from that are not named one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AwsSource {
    /// What this process was given, looked for in this order: the variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
    /// `AWS_SESSION_TOKEN`; the container's role (ECS, EKS pod identity); the EC2 instance's role. Roles are refreshed before
    /// they expire. Web identity tokens (`AWS_WEB_IDENTITY_TOKEN_FILE`) and profiles are not looked at.
    Instance,
}

/// An AWS access key. If one of its parts is unset or empty, the key is skipped with a warning.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsAccessKey {
    /// Where the access key id is.
    pub access_key_id: SecretPlace,
    /// Where the secret access key is.
    pub secret_access_key: SecretPlace,
    /// Where the session token of temporary credentials is. Default: none.
    #[serde(default)]
    pub session_token: Option<SecretPlace>,
}

/// Where one secret is: `env` or `file`.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecretPlace {
    /// Environment variable that holds it.
    pub env: Option<String>,
    /// File that holds it; white space around it is ignored.
    pub file: Option<String>,
}

/// TLS towards one provider. Certificates are always verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderTls {
    /// File with the authorities in PEM that this provider's certificate must come from, instead of all others.
    pub ca_file: Option<String>,
    /// File with a client certificate chain in PEM, for providers that ask for one. Needs `client_key`.
    pub client_cert: Option<String>,
    /// File with the private key of `client_cert`, in PEM.
    pub client_key: Option<String>,
    /// Name to ask for and to verify instead of the URL's host.
    pub server_name: Option<String>,
}

/// How long a request to a provider may take, phase by phase. A route's value wins over a provider's, and that over these.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until the TCP and TLS connection stands.
    pub connect: DurationMs,
    /// From the end of the request until the head of the answer. An answer that is not streamed begins only when all of it
    /// has been generated: give slow models more.
    pub first_byte: DurationMs,
    /// Streamed answers: from the end of the request until the first event, the head included. Beyond: the next target, as long
    /// as nothing has reached the client.
    pub first_token: DurationMs,
    /// Longest silence within an answer that has begun.
    pub stream_idle: DurationMs,
    /// The whole request, all attempts together.
    pub total: DurationMs,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: DurationMs(5_000),
            first_byte: DurationMs(120_000),
            first_token: DurationMs(60_000),
            stream_idle: DurationMs(60_000),
            total: DurationMs(600_000),
        }
    }
}

/// Timeouts that differ from the more general ones.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutOverrides {
    /// Until the TCP and TLS connection stands. Default: the more general value.
    pub connect: Option<DurationMs>,
    /// From the end of the request until the head of the answer. Default: the more general value.
    pub first_byte: Option<DurationMs>,
    /// Streamed answers: from the end of the request until the first event. Default: the more general value.
    pub first_token: Option<DurationMs>,
    /// Longest silence within an answer that has begun. Default: the more general value.
    pub stream_idle: Option<DurationMs>,
    /// The whole request, all attempts together. Default: the more general value.
    pub total: Option<DurationMs>,
}
