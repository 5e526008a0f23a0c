//! From a configuration to a gateway that serves: sockets, the kernel's programs, threads, and, if asked, what a former process
//! hands over.
//!
//! Invariants: nothing is taken from a running process before this one's configuration is good; programs are loaded before any
//! thread exists that would keep the capabilities for it; a core accepts only once all that it needs is there.
//! Deliberately absent: what happens from then on (`control.rs`).

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_policy::config::Config;
use sluice_policy::meter::CoreMeter;

use super::accounts::{self, Office};
use super::admin::{self, Status};
use super::cache::Desk;
use super::credentials::InstanceCredentials;
use super::handover::{self, Found, Port, Sockets, Successor, Taken};
use super::log::RequestLog;
use super::reload::Watch;
use super::resolve::Resolver;
use super::roster::Roster;
use super::{Control, Overrides, build, is_json, with_instance};
use crate::clock;
use crate::ebpf::Kernel;
use crate::mesh::{self, CacheEnd, ControlEnd, Funds, Pulse};
use crate::plane::Plane;
use crate::worker::{self, Worker};

/// Length of the kernel's queue of connections not yet accepted, per socket.
const BACKLOG: i32 = 4096;
/// How long the cores may take until they are ready to accept.
const CORES_PATIENCE: Duration = Duration::from_secs(10);

/// Starts all of it.
///
/// # Errors
/// When an address is taken, a certificate is unusable, or a former process does not hand over.
pub(super) async fn start(config: Config, path: PathBuf, overrides: &Overrides) -> Result<Control> {
    let mut resolver = Resolver::new();
    let mut instance = InstanceCredentials::default();
    let (plane, warnings) = build::plane(&config, 1, &mut resolver, &instance, None).await?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let mut plane = with_instance(plane, &mut instance).await;
    let processors = core_affinity::get_core_ids().unwrap_or_default();
    let cores = overrides
        .cores
        .or(config.server.cores)
        .map_or(processors.len().max(1), usize::from);
    let (sockets, taken) = sockets(&config, &path, overrides, &plane, cores)?;
    let bound: Vec<SocketAddr> = sockets.clients[0]
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    let admin_bound = sockets.admin.local_addr()?;
    // With as many threads as processors each gets its own; otherwise the kernel places them better.
    let pinned = if cores == processors.len() {
        processors
    } else {
        Vec::new()
    };
    let stay = pinned.iter().map(|processor| processor.id).collect();
    let mut kernel = Kernel::load(&config.ebpf, &bound, cores, stay, config.providers.len());
    kernel.tag(&mut plane);
    let count = u32::try_from(cores).unwrap_or(u32::MAX);
    let (office, funds, changes) = open_office(&config, &mut plane, count, taken.is_some()).await?;
    let meters: Vec<_> = (0..cores).map(|_| Arc::new(CoreMeter::default())).collect();
    let (cache, cache_ends) = open_cache(&config, &mut plane, &meters);
    let plane = Arc::new(plane);
    let begun = spawn(&meters, cache_ends, &pinned, &plane, &funds, overrides.epoll)
        .and_then(|cores| learn(taken.as_ref(), &cores, &plane, office.as_ref()).map(|()| cores));
    let (cores, office) = or_give_back(begun, office).await?;
    let kernel = Arc::new(Mutex::new(kernel));
    let status = Arc::new(Status::new(meters, plane.clone(), cache.clone(), kernel.clone()));
    if let Some(office) = &office {
        status.shows(office.budgets());
    }
    let watch = Watch::new(path);
    status.hashes_to(watch.hash());
    let json = is_json(config.log.format);
    let log = open_log(&config, json)?;
    let successor = wait_for_successor(&sockets)?;
    serve_admin(&sockets.admin, &status, changes)?;
    let mut control = Control {
        rosters: (0..cores.ends.len()).map(Roster::of).collect(),
        cores: cores.ends,
        threads: cores.threads,
        log,
        office,
        cache,
        resolver,
        instance,
        watch,
        config,
        plane,
        status,
        kernel,
        pulses: cores.pulses,
        sockets: Some(sockets),
        successor,
        ceased: true,
        superseded: false,
        ticks: 0,
    };
    control.accept().await?;
    if let Some(taken) = taken {
        match taken.serving() {
            Ok(Port::Ours) => {}
            Ok(Port::Theirs) => control.superseded = true,
            Err(error) => tracing::warn!("the former process may go on beside this one: {error:#}"),
        }
    }
    announce(scheme_of(&control.plane), &bound, admin_bound, json);
    Ok(control)
}

/// What has begun and the store behind it; of a start that has come to nothing, what was leased goes back: it would count as spent.
async fn or_give_back(begun: Result<Cores>, office: Option<Office>) -> Result<(Cores, Option<Office>)> {
    match (begun, office) {
        (Ok(cores), office) => Ok((cores, office)),
        (Err(error), None) => Err(error),
        (Err(error), Some(office)) => {
            office.close().await;
            Err(error)
        }
    }
}

fn scheme_of(plane: &Plane) -> &'static str {
    if plane.server_tls.is_some() { "https" } else { "http" }
}

/// Waits until the cores can serve; then the former process stops accepting, and this one knows what it knew.
fn learn(taken: Option<&Taken>, cores: &Cores, plane: &Plane, office: Option<&Office>) -> Result<()> {
    cores.wait()?;
    if let Some(taken) = taken {
        let state = taken.ready()?;
        state.apply(plane, clock::shared_ms());
        if let Some(office) = office {
            office.add_rates(&state.rates);
        }
    }
    Ok(())
}

fn open_log(config: &Config, json: bool) -> Result<RequestLog> {
    RequestLog::open(&config.log.requests, &config.log.bodies, json)
        .with_context(|| format!("cannot write the request log to {}", config.log.requests.output))
}

fn serve_admin(socket: &TcpListener, status: &Arc<Status>, changes: Option<axum::Router>) -> Result<()> {
    let socket = socket.try_clone()?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    tokio::spawn(admin::serve(socket, status.clone(), changes));
    Ok(())
}

fn wait_for_successor(sockets: &Sockets) -> Result<Successor> {
    match &sockets.successor {
        Some(listener) => Ok(Successor::wait(listener.try_clone()?)?),
        None => Ok(Successor::none()),
    }
}

/// The sockets: new ones, or those of the process that this one takes over from.
fn sockets(
    config: &Config,
    path: &Path,
    overrides: &Overrides,
    plane: &Plane,
    cores: usize,
) -> Result<(Sockets, Option<Taken>)> {
    let addresses = match overrides.listen {
        Some(address) => vec![address],
        None => config.server.listen.0.iter().map(|address| address.0).collect(),
    };
    let admin = overrides.admin.unwrap_or(config.server.admin.0);
    let bind_admin =
        || TcpListener::bind(admin).with_context(|| format!("cannot listen on {admin} for the admin interface"));
    let address = handover::address(&config.handover.socket, path)?;
    let found = if overrides.takeover {
        ensure!(
            plane.snapshot.ready(),
            "not ready to take over: no provider has a usable key"
        );
        let address = address.as_ref();
        handover::take(address.context("handover.socket is off, so nothing can be taken over")?)?
    } else {
        Found::Nobody
    };
    let Found::Sockets(given, taken) = found else {
        let sockets = Sockets {
            // First: it is what only one process can have.
            admin: bind_admin()?,
            clients: handover::adopt(Vec::new(), &addresses, cores, listen)?,
            successor: address.as_ref().and_then(successor),
        };
        return Ok((sockets, None));
    };
    let local = given.admin.local_addr()?;
    let same = local.ip() == admin.ip() && (admin.port() == 0 || local.port() == admin.port());
    let admin_socket = if same { given.admin } else { bind_admin()? };
    let sockets = Sockets {
        clients: handover::adopt(given.clients, &addresses, cores, listen)?,
        admin: admin_socket,
        successor: given.successor,
    };
    Ok((sockets, Some(taken)))
}

/// Where the next process is waited for; without it, this one still serves.
fn successor(address: &std::os::unix::net::SocketAddr) -> Option<UnixListener> {
    match handover::listen(address) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!("hot upgrades are off: the handover socket {address:?} cannot be had: {error:#}");
            None
        }
    }
}

/// The data plane's threads, and the control thread's side of them.
struct Cores {
    ends: Vec<ControlEnd>,
    threads: Vec<std::thread::JoinHandle<()>>,
    pulses: Vec<Arc<Pulse>>,
}

/// One thread for each meter.
fn spawn(
    meters: &[Arc<CoreMeter>],
    cache_ends: Vec<CacheEnd>,
    pinned: &[core_affinity::CoreId],
    plane: &Arc<Plane>,
    funds: &[Funds],
    epoll: bool,
) -> Result<Cores> {
    let mut all = Cores {
        ends: Vec::new(),
        threads: Vec::new(),
        pulses: Vec::new(),
    };
    for (index, (meter, cache_end)) in meters.iter().zip(cache_ends).enumerate() {
        let (core_end, control_end) = mesh::rings(cache_end);
        let pulse = Arc::new(Pulse::default());
        all.threads.push(worker::spawn(Worker {
            index,
            cpu: pinned.get(index).copied(),
            pulse: pulse.clone(),
            plane: plane.clone(),
            end: core_end,
            meter: meter.clone(),
            cores: u32::try_from(meters.len()).unwrap_or(u32::MAX),
            funds: funds.to_vec(),
            seed: fastrand::u64(..),
            force_epoll: epoll,
        })?);
        all.ends.push(control_end);
        all.pulses.push(pulse);
    }
    Ok(all)
}

impl Cores {
    /// Waits until every core runs.
    fn wait(&self) -> Result<()> {
        let until = Instant::now() + CORES_PATIENCE;
        while self
            .pulses
            .iter()
            .any(|pulse| pulse.beat_ms.load(Ordering::Relaxed) == 0)
        {
            if self.threads.iter().any(std::thread::JoinHandle::is_finished) || Instant::now() > until {
                bail!("a core does not run; the log says why");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let kind = socket2::Type::STREAM.cloexec();
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        kind,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn announce(scheme: &str, bound: &[SocketAddr], admin: SocketAddr, json: bool) {
    let urls: Vec<String> = bound.iter().map(|address| format!("{scheme}://{address}")).collect();
    if json {
        let line = serde_json::json!({"msg": "listening", "listen": urls, "admin": format!("http://{admin}")});
        println!("{line}");
    } else {
        println!("listening on {}\nadmin on http://{admin}", urls.join(", "));
    }
    tracing::info!(listen = urls.join(", "), %admin, "serving");
}

/// What passes on what the cores cache, and each core's end of it.
fn open_cache(config: &Config, plane: &mut Plane, meters: &[Arc<CoreMeter>]) -> (Arc<Desk>, Vec<CacheEnd>) {
    let (ends, control) = meters.iter().map(|_| mesh::cache_rings()).unzip();
    let desk = Desk::new(control, meters.to_vec());
    plane.cache = desk.plane(&config.cache, &plane.snapshot);
    (desk, ends)
}

/// Opens the store, if there is one: who waits behind it, accounts to begin with, and the pages that change it.
async fn open_office(
    config: &Config,
    plane: &mut Plane,
    cores: u32,
    joins: bool,
) -> Result<(Option<Office>, Vec<Funds>, Option<axum::Router>)> {
    let (Some(config), Some(known)) = (&config.accounts, &mut plane.accounts) else {
        return Ok((None, Vec::new(), None));
    };
    let credential = accounts::admin_credential(config)?;
    let (office, opening) = Office::open(config, cores, joins).await?;
    known.keyring = opening.keyring;
    let changes = credential
        .map(|credential| admin::accounts::Accounts::new(office.desk(), &credential, known.pairs.clone()).routes());
    Ok((Some(office), opening.funds, changes))
}
