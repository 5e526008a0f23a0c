//! The provider simulator inside the test, and its books.

use serde_json::Value;
use sluice_bench::sim::bill::Filter;
use sluice_bench::sim::{SimHandle, SimOptions, spawn};

use crate::certificates::Identity;
use crate::wait;

/// A running simulator.
pub struct Sim {
    handle: SimHandle,
    scheme: &'static str,
}

impl Sim {
    /// Starts one that speaks plain HTTP.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start() -> Self {
        Self {
            handle: spawn(&SimOptions::default()).expect("the simulator starts"),
            scheme: "http",
        }
    }

    /// Starts one that knows this AWS access key, and checks signatures made with it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_aws(access_key: &str, secret: &str) -> Self {
        let options = SimOptions {
            aws_secrets: vec![(access_key.to_owned(), secret.to_owned())],
            ..SimOptions::default()
        };
        Self {
            handle: spawn(&options).expect("the simulator starts"),
            scheme: "http",
        }
    }

    /// Starts one that speaks TLS, and demands client certificates from `client_ca` if it is given.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_tls(identity: &Identity, client_ca: Option<&std::path::Path>) -> Self {
        let tls = sluice_bench::sim::tls::TlsFiles {
            cert: identity.cert.clone(),
            key: identity.key.clone(),
            client_ca: client_ca.map(Into::into),
        };
        let options = SimOptions {
            tls: Some(tls),
            ..SimOptions::default()
        };
        Self {
            handle: spawn(&options).expect("the simulator starts"),
            scheme: "https",
        }
    }

    /// What a provider's `base_url` is set to.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("{}://{}/v1", self.scheme, self.handle.addr)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.handle.addr.port()
    }

    /// The bill.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn bill(&self) -> Value {
        let text = self.handle.shared.bill.lock().to_json();
        serde_json::from_str(&text).expect("the bill is JSON")
    }

    /// All attempts so far, oldest first.
    ///
    /// # Panics
    /// When the simulator does not list them.
    #[must_use]
    pub fn attempts(&self) -> Vec<Value> {
        let text = self.handle.shared.bill.lock().attempts_json(&Filter::default());
        let page: Value = serde_json::from_str(&text).expect("the attempts are JSON");
        page["attempts"].as_array().expect("attempts are a list").clone()
    }

    /// Waits until the last attempt has the outcome, and gives it.
    pub fn last_outcome(&self, outcome: &str) -> Value {
        wait::until(outcome, || {
            let attempts = self.attempts();
            attempts.last().filter(|last| last["outcome"] == outcome).cloned()
        })
    }

    /// Replaces the rule table.
    ///
    /// # Panics
    /// When the simulator refuses it.
    pub fn rules(&self, rules: &Value) {
        let replaced = self.handle.shared.scripts.replace(rules.to_string().as_bytes());
        assert!(replaced.is_ok(), "{replaced:?}");
    }
}

/// The body that an echo answer says arrived.
///
/// # Panics
/// When it says none.
#[must_use]
pub fn echoed_body(echo: &Value) -> Vec<u8> {
    let text = echo["body_base64"]
        .as_str()
        .unwrap_or_else(|| panic!("no body: {echo}"));
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut word, mut bits) = (0_u32, 0);
    for symbol in text.bytes().filter(|&symbol| symbol != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("not base64: {other}"),
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    bytes
}

/// The values of a header field that an echo answer says arrived; `name` is in lower case.
#[must_use]
pub fn echoed_fields(echo: &Value, name: &str) -> Vec<String> {
    let fields = echo["headers"].as_array().into_iter().flatten();
    let named = fields.filter(|field| field[0].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name)));
    named.filter_map(|field| Some(field[1].as_str()?.to_owned())).collect()
}
