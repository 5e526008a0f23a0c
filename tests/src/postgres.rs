//! A PostgreSQL server of a test's own, in a temporary directory, reached by a Unix socket.
//!
//! Invariants: it ends with the test, whatever becomes of that; where no server is installed the test is told why. It does not
//! sync its files: no test cuts the power. Deliberately absent: passwords.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An account that every Linux has, for a server that refuses to run as root.
const NOBODY: u32 = 65_534;
const START: Duration = Duration::from_secs(60);

/// A running server.
pub struct Postgres {
    dir: PathBuf,
    programs: PathBuf,
    child: Child,
    /// Beside the Unix socket: a port with TLS alone.
    port: Option<u16>,
}

impl Postgres {
    /// Makes and starts one; `None`, having said why, if no server is installed.
    ///
    /// # Panics
    /// When one is installed and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// The same with a port beside the socket, which speaks TLS with this certificate and its key (PEM).
    ///
    /// # Panics
    /// When one is installed and does not start.
    #[must_use]
    #[allow(dead_code, reason = "not everybody who includes this file needs it")]
    pub fn start_tls(cert: &Path, key: &Path) -> Option<Self> {
        Self::start_with(Some((cert, key)))
    }

    fn start_with(tls: Option<(&Path, &Path)>) -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("left out: what needs PostgreSQL: no server is installed (initdb and postgres)");
            return None;
        };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sluice-pg-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory can be made");
        if is_root() {
            std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may give a directory away");
        } else {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("one's own directory");
        }
        let initdb = command(&programs.join("initdb"), &dir)
            .args([
                "--pgdata=data",
                "--auth=trust",
                "--username=sluice",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .output()
            .expect("initdb can be started");
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let port = tls.map(|(cert, key)| {
            for (from, to) in [(cert, "server.pem"), (key, "server.key")] {
                let to = dir.join("data").join(to);
                fs::copy(from, &to).expect("a file can be copied");
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("one's own file");
                if is_root() {
                    std::os::unix::fs::chown(&to, Some(NOBODY), Some(NOBODY)).expect("root may give a file away");
                }
            }
            // The kernel's choice; the server does not take a socket that is open already.
            let chosen = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
            chosen.expect("a port is free").port()
        });
        let child = spawn(&programs, &dir, port);
        let mut server = Self {
            dir,
            programs,
            child,
            port,
        };
        server.wait();
        Some(server)
    }

    /// What `store` is set to, for TLS.
    ///
    /// # Panics
    /// When it has no such port.
    #[must_use]
    #[allow(dead_code, reason = "not everybody who includes this file needs it")]
    pub fn tls_url(&self) -> String {
        let port = self.port.expect("started with a certificate");
        format!("postgres://sluice@localhost:{port}/postgres?sslmode=require")
    }

    /// What `store` is set to.
    #[must_use]
    pub fn url(&self) -> String {
        let dir = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://sluice@{dir}/postgres")
    }

    /// Stops all of its processes where they are.
    pub fn freeze(&self) {
        self.signal_all(libc::SIGSTOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal_all(libc::SIGCONT);
    }

    /// Kills it without a word to anyone.
    pub fn kill(&mut self) {
        self.signal_all(libc::SIGKILL);
        let _ = self.child.wait();
    }

    /// Starts it again after [`Postgres::kill`].
    pub fn revive(&mut self) {
        let _ = fs::remove_file(self.dir.join("data/postmaster.pid"));
        self.child = spawn(&self.programs, &self.dir, self.port);
        self.wait();
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        let ready = self.dir.join("data/postmaster.pid");
        while !fs::read_to_string(&ready)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
        {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("PostgreSQL ended with {status}: {}", self.log());
            }
            assert!(begun.elapsed() < START, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn signal_all(&self, signal: i32) {
        let own = self.child.id();
        let mut all = vec![own];
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // PID (NAME) STATE PARENT …
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            if parent.and_then(|parent| parent.parse::<u32>().ok()) == Some(own) {
                all.push(pid);
            }
        }
        for pid in all {
            // SAFETY: a plain system call. The first is our own child, which has not been waited for; the others are its
            // children, which it would have to reap before their ids could be anyone else's.
            unsafe { libc::kill(pid.cast_signed(), signal) };
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal_all(libc::SIGCONT);
        // SAFETY: a plain system call; the process is our own child and has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGQUIT) };
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn spawn(programs: &Path, dir: &Path, port: Option<u16>) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log"));
    let log = log.expect("a log can be written");
    let mut postgres = command(&programs.join("postgres"), dir);
    postgres
        .args(["-D", "data", "-c", "fsync=off", "-c", "max_connections=50", "-k"])
        .arg(dir)
        .args(listens(port))
        .stdout(log.try_clone().expect("a descriptor can be copied"))
        .stderr(log);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
    unsafe {
        postgres.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT);
            Ok(())
        });
    }
    postgres.spawn().expect("postgres can be started")
}

fn listens(port: Option<u16>) -> Vec<String> {
    let settings = match port {
        None => vec!["listen_addresses=".to_owned()],
        Some(port) => vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "ssl=on".to_owned(),
            "ssl_cert_file=server.pem".to_owned(),
            "ssl_key_file=server.key".to_owned(),
        ],
    };
    settings
        .into_iter()
        .flat_map(|setting| ["-c".to_owned(), setting])
        .collect()
}

fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .env("HOME", dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    // SAFETY: a plain system call that cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where Debian, others, and the search path have the server's programs; the newest first.
fn programs() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    for root in ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"] {
        let versions = fs::read_dir(root).into_iter().flatten().flatten();
        places.extend(versions.map(|version| version.path().join("bin")));
    }
    places.sort();
    places.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places
        .into_iter()
        .find(|place| place.join("initdb").is_file() && place.join("postgres").is_file())
}
