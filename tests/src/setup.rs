//! A configuration in the making: what differs from the defaults, and how the gateway is started with it.

use std::process::ExitStatus;

use serde_json::{Value, json};

use crate::gateway::{self, Gateway};
use crate::temp::TempDir;

/// What a gateway is started with.
pub struct Setup {
    /// The configuration; JSON is YAML.
    pub config: Value,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// Capabilities that the gateway may not have, by number.
    pub without: Vec<u32>,
    cores: usize,
    dir: TempDir,
}

impl Setup {
    /// One core, no provider, ports chosen by the kernel.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: json!({
                "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
                "providers": {},
                // Only tests of the kernel's side want its programs: each load costs the whole machine.
                "ebpf": {"steering": "off", "accounting": "off"},
            }),
            env: Vec::new(),
            args: Vec::new(),
            without: Vec::new(),
            cores: 1,
            dir: TempDir::new(),
        }
    }

    /// One provider, `openai`, with one key, `sk-one`.
    #[must_use]
    pub fn with(base_url: &str) -> Self {
        Self::new().provider("openai", base_url, &["sk-one"])
    }

    /// Adds a provider of the OpenAI dialect. Each key comes from a variable of its own, and is named by it.
    #[must_use]
    pub fn provider(self, name: &str, base_url: &str, keys: &[&str]) -> Self {
        self.vendor(name, "openai", base_url, keys)
    }

    /// Adds a provider of a vendor.
    #[must_use]
    pub fn vendor(mut self, name: &str, vendor: &str, base_url: &str, keys: &[&str]) -> Self {
        let mut entries = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let variable = format!("{}_KEY_{index}", name.to_ascii_uppercase());
            entries.push(json!({"env": variable}));
            self.env.push((variable, (*key).to_owned()));
        }
        let provider = json!({"vendor": vendor, "base_url": base_url, "keys": entries});
        self.set(&format!("/providers/{name}"), provider)
    }

    /// Adds a route.
    ///
    /// # Panics
    /// When `routes` has been set to something else than a list.
    #[must_use]
    pub fn route(mut self, models: &[&str], fallbacks: &[&str]) -> Self {
        let routes = &mut self.config["routes"];
        if routes.is_null() {
            *routes = json!([]);
        }
        let routes = routes.as_array_mut().expect("routes are a list");
        routes.push(json!({"models": models, "fallbacks": fallbacks}));
        self
    }

    /// Sets a value by its JSON pointer; what lies on the way is made.
    ///
    /// # Panics
    /// When a number in it is beyond the next index of a list.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.config;
        for name in pointer.split('/').skip(1) {
            place = match name.parse::<usize>() {
                Ok(index) => {
                    let list = place.as_array_mut().expect("a number is an index of a list");
                    if index == list.len() {
                        list.push(Value::Null);
                    }
                    &mut list[index]
                }
                Err(_) => &mut place[name],
            };
        }
        *place = value.into();
        self
    }

    /// The number of cores.
    #[must_use]
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// Without io_uring.
    #[must_use]
    pub fn epoll(mut self) -> Self {
        self.args.push("--epoll".into());
        self
    }

    /// The directory of this gateway's files.
    #[must_use]
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Starts a gateway that must not come up, and waits until it has ended: its status, and what it has written to standard
    /// error.
    #[must_use]
    pub fn fails(self) -> (ExitStatus, String) {
        gateway::fails(&self.dir, &self.config, &self.env, &self.args)
    }

    /// Starts the gateway, and waits until it listens.
    #[must_use]
    pub fn start(self) -> Gateway {
        let mut args = self.args;
        args.extend(["--cores".into(), self.cores.to_string()]);
        Gateway::start(self.dir, &self.config, &self.env, &args, self.without)
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}
