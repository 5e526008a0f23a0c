//! `cargo xtask try`: the gateway with the user's own configuration, the provider simulator in the providers' place, and
//! one request, shown as it is sent and answered. No provider key is needed, and none that is set is used.
//!
//! Invariants: routes, keys and weights are those of the file; only where the providers are is changed, and the addresses
//! to listen on are loopback ports of the kernel's choice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sluice_policy::config::{self, Config, DialectName, LogFormat, ProviderTls};
use sluice_wire::dialect::Dialect;

use crate::cargo::workspace_root;
use crate::stack::{self, Running, address_in};

/// Longest wait for a piece of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The flags of `try`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to try.
    #[arg(long, default_value = "config/sluice.yaml")]
    config: PathBuf,
    /// Ask for a stream.
    #[arg(long)]
    stream: bool,
    /// Keep running until Ctrl-C, and show the request log.
    #[arg(long)]
    stay: bool,
    /// Cargo profile of gateway and simulator.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Runs it.
///
/// # Errors
/// When something cannot be built or started, or the request is not answered with 200.
pub fn run(args: &Args) -> Result<()> {
    let path = workspace_root()?.join(&args.config);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let config = config::load(&text, &args.config.display().to_string()).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        anyhow!(lines.join("\n"))
    })?;
    let first_key = key_names(&config).first().cloned();
    let model = model_of(&config);
    eprintln!("building (profile {}; the first time takes minutes) …", args.profile);
    let programs = stack::build(&args.profile)?;
    let mut command = Command::new(&programs.simulator);
    command.args(["--listen", "127.0.0.1:0"]);
    let simulator = Running::start(command)?;
    let upstream = address_in(&simulator.line()?)?;
    let config = redirected(config, &upstream)?;
    let rendered = Rendered::write(&config)?;
    let mut command = Command::new(&programs.gateway);
    command.arg("serve").arg("--config").arg(&rendered.0);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.env("RUST_LOG", "warn");
    command.envs(key_names(&config).into_iter().map(|name| (name, "sk-of-no-provider")));
    let gateway = Running::start(command)?;
    let listening = address_in(&gateway.line()?)?;
    println!(
        "# sluice listens on http://{listening}; the simulator stands in for the providers on http://{upstream}\n"
    );
    let status = ask(&listening, &model, args.stream)?;
    println!("\n# its line in the request log\n{}", gateway.line()?);
    ensure!(status == 200, "the request was answered with {status}");
    println!("\n# with a real key, on port 8080:");
    let assignment = first_key.map(|name| format!("{name}=… ")).unwrap_or_default();
    println!(
        "{assignment}cargo run --release -p sluice -- serve --config {}",
        args.config.display()
    );
    if args.stay {
        println!("\n# running until Ctrl-C; from another terminal:");
        println!(
            "curl http://{listening}/v1/chat/completions -H 'content-type: application/json' -d '{}'",
            body(&model, false)
        );
        gateway.follow(|line| println!("{line}"));
    }
    Ok(())
}

/// A configuration in a file that goes when it is dropped.
struct Rendered(PathBuf);

impl Rendered {
    fn write(config: &Config) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("sluice-try-{}.yaml", std::process::id()));
        // JSON is YAML.
        let text = serde_json::to_string_pretty(config).context("write the configuration")?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Rendered {
    fn drop(&mut self) {
        // Left behind it costs a small file of the temporary directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `config` with every provider at `upstream`, plain HTTP on both sides, no secret from a file, and a log to be shown.
fn redirected(mut config: Config, upstream: &str) -> Result<Config> {
    for (name, provider) in &mut config.providers {
        let speaks_openai = match (provider.dialect, provider.vendor(name)) {
            (Some(dialect), _) => dialect == DialectName::Openai,
            (None, vendor) => vendor.is_none_or(|vendor| vendor.dialect == Dialect::OpenAi),
        };
        // As the vendors' own SDKs take it.
        let path = if speaks_openai { "/v1" } else { "" };
        let url = format!("http://{upstream}{path}");
        provider.base_url = Some(url.parse().map_err(|error| anyhow!("{url}: {error}"))?);
        provider.tls = ProviderTls::default();
        for key in &mut provider.keys {
            if let Some(file) = key.file.take() {
                let name = Path::new(&file)
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                key.name = key.name.take().or(name);
                key.env = Some("SLUICE_TRY_KEY".to_owned());
            }
        }
    }
    config.server.tls = None;
    config.server.proxy_protocol = None;
    config.log.format = LogFormat::Json;
    config.log.requests.output = "stdout".to_owned();
    config.log.requests.sample = 1.0;
    Ok(config)
}

/// The variables that hold keys, in the order of the file.
fn key_names(config: &Config) -> Vec<String> {
    let keys = config.providers.values().flat_map(|provider| &provider.keys);
    keys.filter_map(|key| key.env.clone()).collect()
}

/// A model that the configuration names: the first route's, else any of the first provider.
fn model_of(config: &Config) -> String {
    let routed = config.routes.iter().flat_map(|route| &route.models);
    let provider = config.providers.keys().next().map_or("openai", String::as_str);
    routed
        .into_iter()
        .find(|model| !model.contains('*'))
        .cloned()
        .unwrap_or_else(|| format!("{provider}/gpt-4o-mini"))
}

/// `127.0.0.1:PORT` in the line in which a program says where it listens.
fn body(model: &str, stream: bool) -> String {
    let stream = if stream { r#","stream":true"# } else { "" };
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}]{stream}}}"#)
}

/// Sends one chat request, prints both sides of it, and gives the status.
fn ask(address: &str, model: &str, stream: bool) -> Result<u16> {
    let body = body(model, stream);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    for line in request.lines() {
        println!("> {line}");
    }
    let mut connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).context("read the answer")?;
    let answer = String::from_utf8_lossy(&answer);
    for line in answer.lines() {
        println!("< {line}");
    }
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.context("the answer has no status")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        config::load(text, "test.yaml").unwrap()
    }

    #[test]
    fn only_where_the_providers_are_is_changed() {
        let text = std::fs::read_to_string(workspace_root().unwrap().join("config/sluice.yaml")).unwrap();
        let before = config(&text);
        let after = redirected(before.clone(), "127.0.0.1:9").unwrap();
        assert_eq!(after.routes, before.routes);
        let urls: Vec<String> = after
            .providers
            .values()
            .map(|provider| provider.base_url.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(
            urls,
            ["http://127.0.0.1:9/v1", "http://127.0.0.1:9", "http://127.0.0.1:9"]
        );
        for (name, provider) in &before.providers {
            assert_eq!(after.providers[name].keys, provider.keys);
        }
        let written = serde_json::to_string(&after).unwrap();
        assert_eq!(config(&written), after);
    }

    #[test]
    fn secrets_in_files_are_not_read() {
        let before = config("providers: {openai: {keys: [{file: /run/secrets/one}]}}");
        let after = redirected(before, "127.0.0.1:9").unwrap();
        let key = &after.providers["openai"].keys[0];
        assert_eq!((key.file.as_deref(), key.name.as_deref()), (None, Some("one")));
        assert_eq!(key_names(&after), ["SLUICE_TRY_KEY"]);
    }

    #[test]
    fn the_model_asked_for_is_one_of_the_file() {
        let routed = "providers: {openai: {keys: [{env: K}]}}\nroutes: [{models: ['openai/*', 'openai/o3']}]";
        assert_eq!(model_of(&config(routed)), "openai/o3");
        assert_eq!(model_of(&config("providers: {ollama: }")), "ollama/gpt-4o-mini");
    }

    #[test]
    fn addresses_are_found_in_both_forms() {
        let json = r#"{"msg":"listening","listen":["http://127.0.0.1:80"],"admin":"http://127.0.0.1:81"}"#;
        assert_eq!(address_in(json).unwrap(), "127.0.0.1:80");
        assert_eq!(
            address_in("listening on http://127.0.0.1:8080").unwrap(),
            "127.0.0.1:8080"
        );
        assert!(address_in("no").is_err());
    }
}
