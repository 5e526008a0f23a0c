//! `cargo xtask dist`: the gateway as it should be shipped: optimised as a whole, and by a profile of its own work.
//!
//! Two builds: one that counts what it does, which is put through everything that a gateway commonly carries (forwarded,
//! streamed, translated, cached, charged), and one that is laid out by those counts. Both come from this tree alone; the profile
//! is not kept. Invariants: the loads are bounded, on loopback, and each must be answered without a failure, so that what is
//! learnt is the ordinary way. Deliberately absent: a check of the result (`cargo xtask ci` builds and tests the plain program).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cargo::{self, target_directory};
use crate::stack::{Running, address_in};

/// The profile that both builds have.
const PROFILE: &str = "dist";
/// The variable that holds the providers' keys, and the administrator's credential; and what they are.
const KEY: &str = "SLUICE_DIST_KEY";
const CREDENTIAL: &str = "a-credential-of-no-provider-and-of-no-administrator";

/// Seconds of each kind of load, unless something else is said.
pub const SECONDS: f64 = 3.0;

/// The flags of `dist`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds of each kind of load.
    #[arg(long, default_value_t = SECONDS)]
    seconds: f64,
}

/// Builds it and says where it is.
///
/// # Errors
/// When `llvm-profdata` of the compiler's own version is missing, a build fails, or a load does.
pub fn run(args: &Args) -> Result<()> {
    let program = build(args.seconds)?;
    println!("{}", program.display());
    Ok(())
}

/// Builds it, and returns where it is.
///
/// # Errors
/// As [`run`].
pub fn build(seconds: f64) -> Result<PathBuf> {
    let tools = Tools::find()?;
    let folder = target_directory()?.join("guided");
    let raw = folder.join("raw");
    if raw.exists() {
        std::fs::remove_dir_all(&raw)?;
    }
    std::fs::create_dir_all(&raw)?;
    eprintln!("building the program that counts (profile {PROFILE}) …");
    let counting = gateway(
        &tools,
        &folder.join("counting"),
        &format!("-Cprofile-generate={}", raw.display()),
    )?;
    let others = cargo::build(
        "release",
        &["-p", "sluice-bench", "--bin", "sluice-sim", "--bin", "sluice-load"],
    )?;
    let other = |name: &str| others.get(name).with_context(|| format!("{name} was not built"));
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let (certificate, secret) = (folder.join("ca.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, issued.cert.pem())?;
    std::fs::write(&secret, issued.signing_key.serialize_pem())?;
    let simulate = |tls: bool| -> Result<Running> {
        let mut command = Command::new(other("sluice-sim")?);
        command.args(["--listen", "127.0.0.1:0"]);
        if tls {
            command
                .arg("--tls-cert")
                .arg(&certificate)
                .arg("--tls-key")
                .arg(&secret);
        }
        Running::start(command)
    };
    let (plain, encrypted) = (simulate(false)?, simulate(true)?);
    let training = Training {
        gateway: counting,
        load: other("sluice-load")?.clone(),
        upstream: address_in(&plain.line()?)?,
        encrypted: address_in(&encrypted.line()?)?,
        certificate: certificate.clone(),
        folder: folder.clone(),
        seconds,
    };
    training.all()?;
    let profile = tools.merge(&raw, &folder)?;
    eprintln!("building the program that is laid out by what was counted …");
    // The compiler is not told of a new profile by a new name, so what was made with the last one must go.
    let shipped = folder.join("shipped");
    if shipped.exists() {
        std::fs::remove_dir_all(&shipped)?;
    }
    gateway(&tools, &shipped, &format!("-Cprofile-use={}", profile.display()))
}

/// Builds the gateway with a flag of the compiler's, in a directory of its own.
fn gateway(tools: &Tools, directory: &Path, flag: &str) -> Result<PathBuf> {
    let status = cargo::cargo()?
        .args(["build", "--profile", PROFILE, "-p", "sluice", "--bin", "sluice"])
        // With a target named, what runs while building is built without the flag.
        .args(["--target", &tools.host, "--target-dir"])
        .arg(directory)
        .env("RUSTFLAGS", flag)
        .env("CARGO_INCREMENTAL", "0")
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(directory.join(&tools.host).join(PROFILE).join("sluice"))
}

/// What comes with the compiler.
struct Tools {
    /// The target that it builds for by itself.
    host: String,
    /// Its program for profiles.
    profdata: PathBuf,
}

impl Tools {
    fn find() -> Result<Self> {
        let said = said(Command::new("rustc").arg("-vV"))?;
        let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
        let host = value("host: ").context("rustc -vV names no host")?.to_owned();
        let version = value("LLVM version: ").context("rustc -vV names no version of LLVM")?;
        let major = version.split('.').next().unwrap_or(version);
        let sysroot = PathBuf::from(self::said(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
        let component = sysroot.join("lib/rustlib").join(&host).join("bin/llvm-profdata");
        let packaged = [
            format!("/usr/bin/llvm-profdata-{major}"),
            format!("/usr/lib/llvm-{major}/bin/llvm-profdata"),
        ];
        let mut places = std::iter::once(component).chain(packaged.map(PathBuf::from));
        let Some(profdata) = places.find(|place| place.is_file()) else {
            bail!(
                "llvm-profdata for LLVM {major}, which this compiler has, is not installed: \
                `rustup component add llvm-tools`, or the package llvm-{major} of apt.llvm.org"
            );
        };
        Ok(Self { host, profdata })
    }

    /// One profile of those that the programs have left.
    fn merge(&self, raw: &Path, folder: &Path) -> Result<PathBuf> {
        let merged = folder.join("sluice.profdata");
        let mut command = Command::new(&self.profdata);
        command.arg("merge").arg("-o").arg(&merged);
        let mut count = 0;
        for entry in std::fs::read_dir(raw)? {
            command.arg(entry?.path());
            count += 1;
        }
        ensure!(count > 0, "the gateways have left no profile in {}", raw.display());
        ensure!(
            command.status().context("run llvm-profdata")?.success(),
            "llvm-profdata failed"
        );
        Ok(merged)
    }
}

/// What a program says.
fn said(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{} failed", command.get_program().display());
    Ok(String::from_utf8(output.stdout)?)
}

/// What the counting program is put through.
struct Training {
    gateway: PathBuf,
    load: PathBuf,
    upstream: String,
    /// The same, with TLS.
    encrypted: String,
    certificate: PathBuf,
    folder: PathBuf,
    seconds: f64,
}

impl Training {
    fn all(&self) -> Result<()> {
        eprintln!("training it …");
        let open = self.gateway("open", None)?;
        self.load(&open, "openai/gpt-4o-mini", &["--connections", "64"])?;
        self.load(&open, "openai/gpt-4o-mini", &["--connections", "500"])?;
        self.load(&open, "openai/gpt-4o-mini", &["--connections", "4", "--body", "100k"])?;
        let stream = ["--connections", "64", "--stream"];
        self.load(&open, "openai/gpt-4o-mini+tps=2000,tokens=50", &stream)?;
        self.load(&open, "anthropic/claude-sonnet-4-6", &["--connections", "16"])?;
        self.load(&open, "anthropic/claude-sonnet-4-6+tps=2000,tokens=50", &stream)?;
        self.load(&open, "openai/gpt-4.1-mini", &["--connections", "64"])?;
        self.load(&open, "encrypted/gpt-4o-mini", &["--connections", "64"])?;
        self.load(&open, "encrypted/gpt-4o-mini+tps=2000,tokens=50", &stream)?;
        open.end()?;
        let store = self.folder.join("store.db");
        for suffix in ["", "-wal", "-shm"] {
            let file = PathBuf::from(format!("{}{suffix}", store.display()));
            if file.exists() {
                std::fs::remove_file(file)?;
            }
        }
        let charged = self.gateway("charged", Some(&store))?;
        let key = charged.key()?;
        let field = format!("authorization:Bearer {key}");
        self.load(
            &charged,
            "openai/gpt-4o-mini",
            &["--connections", "64", "--header", &field],
        )?;
        let stream = ["--connections", "64", "--stream", "--header", &field];
        self.load(&charged, "openai/gpt-4o-mini+tps=2000,tokens=50", &stream)?;
        charged.end()
    }

    /// A gateway with the simulator behind it, its files in the folder.
    fn gateway(&self, name: &str, store: Option<&Path>) -> Result<Gateway> {
        let key = json!([{"env": KEY}]);
        let provider = |path: &str| json!({"base_url": format!("http://{}{path}", self.upstream), "keys": key});
        let encrypted = json!({
            "dialect": "openai",
            "base_url": format!("https://{}/v1", self.encrypted),
            "keys": key,
            "tls": {"ca_file": self.certificate},
        });
        let mut config = json!({
            "providers": {"openai": provider("/v1"), "anthropic": provider(""), "encrypted": encrypted},
            "routes": [{"models": ["openai/gpt-4.1-mini"], "cache": {"mode": "exact"}}],
            "log": {"format": "json", "requests": {"output": self.folder.join("requests.log")}},
        });
        if let Some(store) = store {
            config["accounts"] = json!({"store": store, "admin_credential": {"env": KEY}, "unknown_price": "zero"});
        }
        let path = self.folder.join(format!("{name}.yaml"));
        // JSON is YAML.
        std::fs::write(&path, config.to_string())?;
        let mut command = Command::new(&self.gateway);
        command.arg("serve").arg("--config").arg(&path);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cores", "1"]);
        command.env(KEY, CREDENTIAL).env("RUST_LOG", "warn");
        let running = Running::start(command)?;
        let hello: Value = serde_json::from_str(&running.line()?).context("the gateway says where it listens")?;
        let address = |place: &Value| address_in(place.as_str().unwrap_or_default());
        let (address, admin) = (address(&hello["listen"][0])?, address(&hello["admin"])?);
        Ok(Gateway {
            program: self.gateway.clone(),
            running,
            address,
            admin,
        })
    }

    fn load(&self, gateway: &Gateway, model: &str, flags: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.load);
        command.args(["--target", &format!("http://{}", gateway.address), "--model", model]);
        command
            .args(["--duration", &self.seconds.to_string(), "--warmup", "0.2"])
            .args(flags);
        let said = said(&mut command)?;
        let last: Value = serde_json::from_str(said.lines().last().context("the load says nothing")?)?;
        let failures = last["summary"]["failures"].as_u64().context("failures of the load")?;
        ensure!(failures == 0, "{failures} requests for {model} failed: {last}");
        Ok(())
    }
}

/// A gateway that counts what it does.
struct Gateway {
    program: PathBuf,
    running: Running,
    address: String,
    admin: String,
}

impl Gateway {
    /// A virtual key with a budget.
    fn key(&self) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["key", "create", "training", "--budget", "1000/day", "--admin"]);
        command
            .arg(format!("http://{}", self.admin))
            .env("SLUICE_ADMIN_CREDENTIAL", CREDENTIAL);
        let said = said(&mut command)?;
        let key = said.split_whitespace().find(|word| word.starts_with("sk-sluice-"));
        Ok(key.with_context(|| format!("no key in: {said}"))?.to_owned())
    }

    /// Ends it, and waits until it has left its profile.
    fn end(self) -> Result<()> {
        self.running.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_named() {
        let error = said(Command::new("false").arg("x")).unwrap_err();
        assert_eq!(error.to_string(), "false failed");
    }
}
