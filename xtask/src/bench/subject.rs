//! Who is measured, how each is started, and the load on both of its sides.
//!
//! A stage holds one temporary directory and one load process (generator and simulator); both go when it is dropped.
//! A subject that is not installed, or not built, is reported and left out.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::build::Programs;
use super::configs;
use super::generator::{Generator, Upstream};
use super::process::{self, Kept};

/// How long a program may take to start listening.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A target of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Name {
    /// The simulator without anything in between.
    Direct,
    /// The bare byte-forwarder: the floor.
    L4,
    /// Sluice.
    Gateway,
    /// Sluice with TLS to the upstream.
    GatewayTls,
    /// Another gateway, for `bench difference`.
    Base,
    /// Sluice built without counting, and without a request log, for `bench difference uncounted`.
    Uncounted,
    /// Sluice without anything in the kernel, for `bench kernel`.
    GatewayBare,
    /// Sluice with all of it at all times, for `bench kernel`.
    GatewayTraced,
    /// nginx as a reverse proxy.
    Nginx,
    /// HAProxy as a reverse proxy.
    Haproxy,
    /// The minimal proxy on monoio.
    Monoio,
    /// The minimal proxy on glommio.
    Glommio,
    /// The minimal proxy on tokio and hyper.
    Tokio,
}

impl Name {
    /// As it stands in tables and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::L4 => "l4",
            Self::Gateway => "gateway",
            Self::GatewayTls => "gateway-tls",
            Self::Base => "base",
            Self::Uncounted => "uncounted",
            Self::GatewayBare => "gateway-bare",
            Self::GatewayTraced => "gateway-traced",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Monoio => "monoio",
            Self::Glommio => "glommio",
            Self::Tokio => "tokio",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A subject that takes load.
#[derive(Debug)]
pub struct Running {
    /// Who it is.
    pub name: Name,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its admin interface is, if it has one.
    pub admin: Option<SocketAddr>,
    /// Resident memory before the first request, in bytes.
    pub rss_idle: u64,
    process: Option<Kept>,
}

impl Running {
    /// The process under test; `None` when there is nothing between generator and simulator.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Kept::id)
    }

    /// Resident memory now, in bytes.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        self.pid().map_or(0, process::rss_bytes)
    }
}

/// What all subjects share: programs, cores, the upstream.
#[derive(Debug)]
pub struct Stage {
    programs: Programs,
    directory: PathBuf,
    proxy_cpu: usize,
    load_cpu: usize,
    responder: Generator,
    simulator: Generator,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Left behind it costs a few kilobytes of the temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Stage {
    /// Starts generator and simulator and makes the temporary directory.
    ///
    /// # Errors
    /// When they do not start.
    pub fn open(programs: Programs, proxy_cpu: usize, load_cpu: usize) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let program = programs.get("sluice-load").context("sluice-load was not built")?;
        let start = |upstream| Generator::start(program, upstream, &directory, load_cpu);
        let (responder, simulator) = (start(Upstream::Responder)?, start(Upstream::Simulator)?);
        Ok(Self {
            programs,
            directory,
            proxy_cpu,
            load_cpu,
            responder,
            simulator,
        })
    }

    /// The load process with this upstream; the other one sleeps meanwhile.
    pub fn generator(&mut self, upstream: Upstream) -> &mut Generator {
        match upstream {
            Upstream::Responder => &mut self.responder,
            Upstream::Simulator => &mut self.simulator,
        }
    }

    /// Core of generator and simulator.
    #[must_use]
    pub fn load_cpu(&self) -> usize {
        self.load_cpu
    }

    /// Core of the process under test.
    #[must_use]
    pub fn proxy_cpu(&self) -> usize {
        self.proxy_cpu
    }

    /// Starts a subject in front of `upstream`; `None` when it is not available here.
    ///
    /// # Errors
    /// When it is, and yet does not listen in time.
    pub fn start(&self, name: Name, upstream: Upstream) -> Result<Option<Running>> {
        let plain = match upstream {
            Upstream::Responder => self.responder.plain,
            Upstream::Simulator => self.simulator.plain,
        };
        let mut admin = None;
        let started = match name {
            Name::Direct => None,
            Name::L4 | Name::Monoio | Name::Glommio | Name::Tokio => {
                let Some(program) = self.programs.get(&format!("yard-{name}")) else {
                    return Ok(None);
                };
                let mut command = Command::new(program);
                command.args(["--upstream", &plain.to_string(), "--cpu", &self.proxy_cpu.to_string()]);
                Some(start_announced(command, self.proxy_cpu)?)
            }
            Name::Nginx | Name::Haproxy => {
                let Some(program) = self.programs.get(name.as_str()) else {
                    return Ok(None);
                };
                Some(self.start_reverse_proxy(name, program, plain)?)
            }
            Name::Gateway | Name::Base | Name::Uncounted | Name::GatewayBare | Name::GatewayTraced => {
                self.start_gateway(name, &format!("http://{plain}/v1"), None, &mut admin)?
            }
            Name::GatewayTls => {
                let Some((address, certificate)) = &self.simulator.tls else {
                    return Ok(None);
                };
                self.start_gateway(name, &format!("https://{address}/v1"), Some(certificate), &mut admin)?
            }
        };
        let Some((process, address)) = started else {
            let direct = Running {
                name,
                address: plain,
                admin: None,
                rss_idle: 0,
                process: None,
            };
            return Ok((name == Name::Direct).then_some(direct));
        };
        // Start-up has to be over before idle memory means anything.
        std::thread::sleep(Duration::from_millis(300));
        let rss_idle = process::rss_bytes(process.id());
        Ok(Some(Running {
            name,
            address,
            admin,
            rss_idle,
            process: Some(process),
        }))
    }

    fn start_gateway(
        &self,
        name: Name,
        base_url: &str,
        ca: Option<&Path>,
        admin_at: &mut Option<SocketAddr>,
    ) -> Result<Option<(Kept, SocketAddr)>> {
        let program = match name {
            Name::Base | Name::Uncounted => "sluice-base",
            _ => "sluice",
        };
        let Some(program) = self.programs.get(program) else {
            return Ok(None);
        };
        let log = match name {
            Name::Uncounted => PathBuf::from("none"),
            _ => self.directory.join(format!("{name}-requests.log")),
        };
        let config = self.directory.join(format!("{name}.yaml"));
        let kernel = match name {
            Name::GatewayBare => "ebpf:\n  steering: off\n  accounting: off\n",
            Name::GatewayTraced => "ebpf:\n  accounting: always\n",
            _ => "",
        };
        std::fs::write(&config, configs::gateway(base_url, &log, ca) + kernel)?;
        let (listen, admin) = (free_address()?, free_address()?);
        *admin_at = Some(admin);
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env("OPENAI_KEY_PRIMARY", "sk-sim");
        command.args([
            "--listen",
            &listen.to_string(),
            "--admin",
            &admin.to_string(),
            "--cores",
            "1",
        ]);
        let errors = self.directory.join(format!("{name}.err"));
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&errors)?);
        let mut process = Kept::spawn(command, self.proxy_cpu)?;
        wait_until_listening(&mut process, listen).with_context(|| last_lines(&errors))?;
        Ok(Some((process, listen)))
    }

    fn start_reverse_proxy(&self, name: Name, program: &Path, upstream: SocketAddr) -> Result<(Kept, SocketAddr)> {
        let listen = free_address()?;
        let config = self.directory.join(format!("{name}.conf"));
        let mut command = Command::new(program);
        if name == Name::Nginx {
            std::fs::write(&config, configs::nginx(listen, upstream, &self.directory))?;
            command.arg("-p").arg(&self.directory).arg("-c").arg(&config);
        } else {
            std::fs::write(&config, configs::haproxy(listen, upstream))?;
            command.arg("-q").arg("-db").arg("-f").arg(&config);
        }
        command.stdout(Stdio::null());
        let mut process = Kept::spawn(command, self.proxy_cpu)?;
        wait_until_listening(&mut process, listen)?;
        Ok((process, listen))
    }
}

/// Starts a program that says `listening on ADDRESS` on its standard output.
fn start_announced(mut command: Command, cpu: usize) -> Result<(Kept, SocketAddr)> {
    command.stdout(Stdio::piped());
    let name = command.get_program().display().to_string();
    let mut process = Kept::spawn(command, cpu)?;
    let stdout = process.child().stdout.take().context("standard output is piped")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some((_, address)) = line.rsplit_once("listening on ") {
            let address = address.trim_start_matches("http://").trim_start_matches("https://");
            return Ok((
                process,
                address.trim().parse().with_context(|| format!("{name}: `{line}`"))?,
            ));
        }
    }
    bail!("{name} ended before it listened")
}

/// What a program said last, for an error message.
fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("its last words: {:?}", lines.join(" / "))
}

/// An address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn wait_until_listening(process: &mut Kept, address: SocketAddr) -> Result<()> {
    let until = Instant::now() + START_TIMEOUT;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.child().try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() > until {
            bail!("nothing listens on {address} after {START_TIMEOUT:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
