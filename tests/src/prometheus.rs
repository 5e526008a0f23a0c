//! A Prometheus of a test's own, and promtool.
//!
//! Invariants: it listens on loopback, keeps its files in a temporary directory, and ends with the test; where it is not
//! installed the test is told why. Deliberately absent: Alertmanager; whether an alert fires is asked of Prometheus itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::temp::TempDir;
use crate::wait;

/// A running Prometheus.
pub struct Prometheus {
    address: SocketAddr,
    child: Child,
    dir: TempDir,
}

/// Whether both programs are installed; says so if not.
#[must_use]
pub fn is_installed() -> bool {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let both = there("prometheus") && there("promtool");
    if !both {
        eprintln!("left out: what needs Prometheus: it is not installed (prometheus and promtool)");
    }
    both
}

/// Runs promtool with these words, with `input` on its standard input, in `directory`.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn promtool(words: &[&str], input: &str, directory: &Path) -> Output {
    let mut child = Command::new("promtool")
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // One that fails does not read to the end.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("promtool ends")
}

impl Prometheus {
    /// Starts one with this configuration and these alert rules, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(config: &str, rules: &str) -> Self {
        let dir = TempDir::new();
        dir.write("alerts.yaml", rules);
        let config = dir.write("prometheus.yaml", config);
        // The port is free a moment later as well, unless somebody is very quick.
        let probe = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = probe.local_addr().expect("it is bound");
        drop(probe);
        let log = std::fs::File::create(dir.path().join("log")).expect("a log file can be made");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus can be started");
        let server = Self { address, child, dir };
        wait::until("prometheus is ready", || server.get("/-/ready").map(|_| ()));
        server
    }

    /// The answer's body to a GET; `None` if it is no success.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(wait::PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        (head.split(' ').nth(1) == Some("200")).then(|| body.to_owned())
    }

    /// The first value of a query, now.
    #[must_use]
    pub fn value(&self, query: &str) -> Option<f64> {
        let mut escaped = String::new();
        for byte in query.bytes() {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        let answer: Value = serde_json::from_str(&self.get(&format!("/api/v1/query?query={escaped}"))?).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// When an alert of that name began to fire that does now, as Prometheus writes times.
    #[must_use]
    pub fn firing_since(&self, name: &str) -> Option<String> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/alerts")?).ok()?;
        let alerts = answer["data"]["alerts"].as_array()?;
        let fires = |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        Some(alerts.iter().find(fires)?["activeAt"].as_str()?.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- prometheus\n{log}");
        }
    }
}
