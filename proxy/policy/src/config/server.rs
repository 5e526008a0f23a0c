//! What the gateway itself is set to: where it listens, how long it waits for clients, what it holds at most, what it logs.
//!
//! Invariants: every key has a default, stated in its documentation, which becomes the schema's description. Deliberately
//! absent: anything about a provider.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_wire::limits;

use super::values::{Address, DurationMs, Listen, Network, Size};

/// The client side: addresses, cores, TLS, PROXY protocol and how long a client may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where clients connect: one address or a list of up to 16. Port 0 lets the kernel choose.
    pub listen: Listen,
    /// Where health, metrics and the admin interface listen. Port 0 lets the kernel choose.
    pub admin: Address,
    /// Data-plane threads, each pinned to a core of its own (1 to 1024). Default: every core that the process may use.
    #[schemars(range(min = 1, max = 1024))]
    pub cores: Option<u16>,
    /// TLS towards clients. Default: plain HTTP.
    pub tls: Option<ServerTls>,
    /// PROXY protocol, for a gateway behind a TCP load balancer. Default: not accepted from anyone.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How long the gateway waits for a client.
    pub timeouts: ServerTimeouts,
    /// Whether the timeout that OpenAI's and Anthropic's SDKs announce with each request (`x-stainless-read-timeout`,
    /// `x-stainless-timeout`) bounds the wait for the first byte of the answer, all attempts together. The client then gets a
    /// 504 shortly before it would give up by itself, and its SDK does not send the request once more while the first still
    /// runs.
    pub sdk_timeouts: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Listen(vec![Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080))]),
            admin: Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9091)),
            cores: None,
            tls: None,
            proxy_protocol: None,
            timeouts: ServerTimeouts::default(),
            sdk_timeouts: true,
        }
    }
}

/// TLS 1.2 and 1.3 towards clients.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// File with the certificate chain in PEM, the gateway's own certificate first.
    pub cert: String,
    /// File with the private key of that certificate, in PEM.
    pub key: String,
    /// File with the authorities, in PEM, that may have issued a client's certificate. Default: none.
    #[serde(default)]
    pub client_ca: Option<String>,
    /// Whether clients show a certificate: none, optional or required. Default: required if `client_ca` is set, else none.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
}

impl ServerTls {
    /// What applies when `client_auth` is left out.
    pub fn client_auth(&self) -> ClientAuth {
        self.client_auth.unwrap_or(if self.client_ca.is_some() {
            ClientAuth::Required
        } else {
            ClientAuth::None
        })
    }
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ClientAuth {
    /// Never asked for.
    None,
    /// Asked for; one that is shown must be valid.
    Optional,
    /// Asked for; a client without a valid one is refused.
    Required,
}

/// PROXY protocol versions 1 and 2 (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Networks of the load balancers. A connection from one of them must begin with a PROXY header; one from anywhere else
    /// must not.
    #[schemars(length(min = 1, max = 256))]
    pub trusted: Vec<Network>,
}

/// How long the gateway waits for a client.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTimeouts {
    /// From the first byte of a request (or the TLS or PROXY handshake's begin) until its head is complete. Beyond: 408.
    pub head: DurationMs,
    /// Longest pause between two pieces of a request's body. Beyond: 408.
    pub body_idle: DurationMs,
    /// Slowest body accepted, in bytes a second, averaged over the time since its head. It applies from `body_idle` on.
    pub body_rate_min: Size,
    /// How long a connection may wait for its next request.
    pub keep_alive: DurationMs,
    /// Longest wait for a client that does not read. Beyond: the connection is reset.
    pub write: DurationMs,
    /// How long requests in flight may go on after SIGTERM.
    pub drain: DurationMs,
}

impl Default for ServerTimeouts {
    fn default() -> Self {
        Self {
            head: DurationMs(10_000),
            body_idle: DurationMs(10_000),
            body_rate_min: Size(1024),
            keep_alive: DurationMs(75_000),
            write: DurationMs(30_000),
            drain: DurationMs(30_000),
        }
    }
}

/// What the gateway holds at most.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body (1B to 512MiB). Beyond: 413.
    pub body_bytes: Size,
    /// Most client connections of one core (1 to 1,000,000). Beyond: new ones wait in the kernel's queue.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: u32,
    /// Most bytes of request bodies that one core holds in memory at a time. Beyond: 503. At least `body_bytes`.
    pub in_flight_body_bytes: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: Size(limits::BODY_BYTES_DEFAULT),
            connections: limits::CONNECTIONS_DEFAULT,
            in_flight_body_bytes: Size(limits::IN_FLIGHT_BODY_BYTES_DEFAULT),
        }
    }
}

/// Connections to providers, as far as no provider says otherwise.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// Most idle connections that one core keeps per provider address (0 to 65,535; 0: none is reused).
    #[schemars(range(min = 0, max = 65_535))]
    pub idle_connections: u32,
    /// How long an idle connection is kept. Choose less than the providers' own limit.
    pub idle_timeout: DurationMs,
    /// Shortest time that a resolved address is used, whatever its TTL.
    pub dns_ttl_min: DurationMs,
    /// Longest time that a resolved address is used, whatever its TTL. At least `dns_ttl_min`.
    pub dns_ttl_max: DurationMs,
    /// File with authorities in PEM that are trusted for providers, beside the system's own. Default: none.
    pub ca_file: Option<String>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            idle_connections: limits::IDLE_CONNECTIONS_DEFAULT,
            idle_timeout: DurationMs(55_000),
            dns_ttl_min: DurationMs(5_000),
            dns_ttl_max: DurationMs(300_000),
            ca_file: None,
        }
    }
}

/// What is logged. Bodies and keys never are.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// auto (text on a terminal, else json), json or text.
    pub format: LogFormat,
    /// The least important messages that are still written: error, warn, info, debug or trace.
    pub level: LogLevel,
    /// The line that each request leaves.
    pub requests: LogRequests,
    /// Bodies, of virtual keys that an administrator has switched them on for (`sluice key bodies NAME on`); of no others.
    pub bodies: LogBodies,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// How important a message must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something needs attention.
    Warn,
    /// What an operator wants to see.
    #[default]
    Info,
    /// What a maintainer wants to see.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name in configuration, which is also the filter's.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// The line that each request leaves.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogRequests {
    /// Share of successful requests that are logged (0 to 1). Failed ones always are.
    #[schemars(range(min = 0, max = 1))]
    pub sample: f64,
    /// Where the lines go: stdout, none, or a file that is appended to. SIGHUP opens it anew.
    pub output: String,
    /// When the file is replaced by a new one: it is renamed to FILE.1, what was FILE.1 to FILE.2, and so on. Default: never.
    pub rotate: LogRotate,
}

/// What of bodies is logged, where they are. They are part of a request's JSON line; secrets and long runs of data (images) are
/// always left out, and so is whatever is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogBodies {
    /// Bytes of a body that are logged at most, from its beginning (1 B to 1 MiB).
    pub size: Size,
    /// Values that are replaced: by their place, as a JSON pointer in which * stands for any member or item, such as
    /// /messages/*/content, or by the name of a member, such as password, wherever it is (up to 256).
    #[schemars(length(max = 256), inner(length(min = 1, max = 256)))]
    pub redact: Vec<String>,
    /// Whether e-mail addresses are left as they are.
    pub emails: bool,
}

impl Default for LogBodies {
    fn default() -> Self {
        Self {
            size: Size(16 * 1024),
            redact: Vec::new(),
            emails: false,
        }
    }
}

/// What is counted beyond what costs next to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Whether the tokens that answers say they have used are counted without `accounts`, too. Each answer is read for that; of
    /// streams of OpenAI's dialect only those say it whose client has asked for it.
    pub tokens: bool,
}

/// When the file of the request log is replaced by a new one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogRotate {
    /// At this size. Default: at none.
    pub size: Option<Size>,
    /// At this age in hours (1 to 8760). Default: at none.
    #[schemars(range(min = 1, max = 8760))]
    pub age_hours: Option<u32>,
    /// Replaced files that are kept (0 to 1000).
    #[schemars(range(max = 1000))]
    pub keep: u32,
}

impl Default for LogRotate {
    fn default() -> Self {
        Self {
            size: None,
            age_hours: None,
            keep: 7,
        }
    }
}

impl Default for LogRequests {
    fn default() -> Self {
        Self {
            sample: 1.0,
            output: "stdout".into(),
            rotate: LogRotate::default(),
        }
    }
}
