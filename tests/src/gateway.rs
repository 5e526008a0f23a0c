//! The gateway as a process, started with a configuration file, and what can be seen of it from outside.
//!
//! Invariants: it is killed, by its process id, when the test lets go of it; what it wrote is shown if the test fails.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;

use crate::binary;
use crate::http::{Client, Request, Response};
use crate::temp::TempDir;
use crate::wait;

/// A running gateway.
pub struct Gateway {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// Its files.
    pub dir: TempDir,
    env: Vec<(String, String)>,
    args: Vec<String>,
    child: Child,
}

impl Gateway {
    /// Starts it and waits until it listens.
    pub(crate) fn start(
        dir: TempDir,
        config: &Value,
        env: &[(String, String)],
        args: &[String],
        without: Vec<u32>,
    ) -> Self {
        dir.write("config.yaml", pretty(config));
        let child = spawn(&dir, env, args, without);
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gateway = Self {
            address: none,
            admin: none,
            dir,
            env: env.to_vec(),
            args: args.to_vec(),
            child,
        };
        gateway.listens();
        gateway
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on other ports, after [`Gateway::kill`] or [`Gateway::wait`]. What it had written to its outputs is gone.
    pub fn revive(&mut self) {
        self.child = spawn(&self.dir, &self.env, &self.args, Vec::new());
        self.listens();
    }

    fn listens(&mut self) {
        let line = wait::until("the gateway listens", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the gateway ended with {status}: {}", self.stderr());
            }
            self.lines().into_iter().find(|line| line["msg"] == "listening")
        });
        self.address = address(&line["listen"][0]);
        self.admin = address(&line["admin"]);
    }

    /// A new connection.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Asks over a connection of its own.
    #[must_use]
    pub fn ask(&self, request: &Request) -> Response {
        self.client().ask(request)
    }

    /// Checks that a plain chat request over a new connection is answered.
    ///
    /// # Panics
    /// When it is not.
    pub fn expect_healthy(&self) {
        let answer = self.ask(&Request::chat("openai/healthy"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["object"], "chat.completion", "{answer:?}");
    }

    /// A page of the admin interface.
    #[must_use]
    pub fn admin(&self, target: &str) -> Response {
        Client::connect(self.admin).ask(&Request::get(target).field("Connection", "close"))
    }

    /// Posts a JSON document to the admin interface.
    #[must_use]
    pub fn admin_post(&self, target: &str, document: &Value) -> Response {
        let request = Request::post(target, document.to_string()).field("Connection", "close");
        Client::connect(self.admin).ask(&request)
    }

    /// A metric, summed over the cores.
    ///
    /// # Panics
    /// When there is no such metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.admin("/metrics").text();
        let mut values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest.rsplit_once(' ')?;
            (value.0.is_empty() || value.0.starts_with('{')).then(|| value.1.parse::<u64>().ok())?
        });
        let first = values.next().unwrap_or_else(|| panic!("no metric {name}: {page}"));
        first + values.sum::<u64>()
    }

    /// Waits until a metric has a value.
    pub fn expect_metric(&self, name: &str, value: u64) {
        wait::until(&format!("{name} is {value}"), || {
            (self.metric(name) == value).then_some(())
        });
    }

    /// Waits until a metric is at least 1: a reload may be noticed twice, by the file and by the signal.
    pub fn expect_some(&self, name: &str) {
        wait::until(&format!("{name} is at least 1"), || {
            (self.metric(name) > 0).then_some(())
        });
    }

    /// The configuration's generation in force.
    ///
    /// # Panics
    /// When the admin interface does not say.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let page = self.admin("/admin").json();
        page["configuration"]["generation"].as_u64().expect("a generation")
    }

    /// Replaces the configuration file, in one step.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn rewrite(&self, text: &str) {
        let new = self.dir.write("config.yaml.new", text);
        std::fs::rename(new, self.config_path()).expect("a file can be renamed");
    }

    /// The path of the configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    /// Its process's id.
    #[must_use]
    pub fn process(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is an i32")
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: i32) {
        let pid = self.process();
        // SAFETY: a plain system call; the process is our own child and has not been waited for, so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "the gateway is not there any more");
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait::until("the gateway ends", || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Resident memory, in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the gateway runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a process has VmRSS");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number");
        kilobytes * 1024
    }

    /// All complete lines of standard output, as JSON.
    ///
    /// # Panics
    /// When one is none.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let text = self.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}")))
            .collect()
    }

    /// The lines of the request log, once there are `count`.
    #[must_use]
    pub fn request_lines(&self, count: usize) -> Vec<Value> {
        wait::until(&format!("{count} request lines"), || {
            let mut lines = self.lines();
            lines.retain(|line| line["msg"] == "request");
            (lines.len() >= count).then_some(lines)
        })
    }

    /// What it has written to standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// What it has written to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's stdout\n{}", self.stdout());
            eprintln!("--- the gateway's stderr\n{}", self.stderr());
        }
    }
}

/// Starts one that ends by itself.
pub(crate) fn fails(dir: &TempDir, config: &Value, env: &[(String, String)], args: &[String]) -> (ExitStatus, String) {
    dir.write("config.yaml", pretty(config));
    let mut child = spawn(dir, env, args, Vec::new());
    let status = wait::until("the gateway ends", || {
        child.try_wait().expect("a child can be waited for")
    });
    let said = std::fs::read(dir.path().join("stderr")).unwrap_or_default();
    (status, String::from_utf8_lossy(&said).into_owned())
}

fn spawn(dir: &TempDir, env: &[(String, String)], args: &[String], without: Vec<u32>) -> Child {
    let create = |name: &str| File::create(dir.path().join(name)).expect("a log file can be made");
    let mut command = Command::new(binary::sluice());
    if !without.is_empty() {
        // SAFETY: only system calls happen between fork and exec.
        unsafe { command.pre_exec(move || without.iter().try_for_each(|&number| drop_capability(number))) };
    }
    command
        .args(["serve", "--config"])
        .arg(dir.path().join("config.yaml"))
        .args(args)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(create("stdout"))
        .stderr(create("stderr"))
        .spawn()
        .expect("the gateway's binary can be started")
}

/// Runs `sluice check` on a file.
///
/// # Panics
/// When the binary cannot be started.
#[must_use]
pub fn check(path: &Path) -> Output {
    Command::new(binary::sluice())
        .args(["check", "--config"])
        .arg(path)
        .env_clear()
        .output()
        .expect("the gateway's binary can be started")
}

/// A configuration as it is written to the file.
///
/// # Panics
/// Never: it is plain JSON.
#[must_use]
pub fn pretty(config: &Value) -> String {
    serde_json::to_string_pretty(config).expect("plain JSON can be written")
}

/// Takes a capability out of the bounding set, so that no program started from here has it.
fn drop_capability(number: u32) -> std::io::Result<()> {
    // SAFETY: a plain system call.
    if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

fn address(url: &Value) -> SocketAddr {
    let url = url.as_str().expect("an address is text");
    let (_, address) = url.split_once("://").expect("an address is a URL");
    address.parse().expect("an address")
}
