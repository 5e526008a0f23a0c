//! The control thread: configuration, names, logs, admin interface, signals; everything that may wait.
//!
//! Invariants: if this thread stalls, the cores go on with the plane they have; it never touches a request.
//! Deliberately absent: the data plane. What crosses is `mesh.rs`, [`Plane`] and the counters.

mod accounts;
pub mod admin;
pub mod ask;
mod build;
mod credentials;
mod log;
mod reload;
mod resolve;
pub mod store;
pub mod treasury;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_policy::config::{Config, LogFormat};
use sluice_policy::meter::CoreMeter;
use tokio::signal::unix::{SignalKind, signal};

use self::accounts::Office;
use self::admin::Status;
use self::credentials::InstanceCredentials;
use self::log::RequestLog;
use self::reload::Watch;
pub use self::reload::load;
use self::resolve::Resolver;
use self::treasury::Event;
use crate::mesh::{self, ControlEnd, Funds, Order};
use crate::plane::{Accounts, Plane};
use crate::worker::{self, Worker};

/// How often records are fetched from the cores.
const FETCH_PERIOD: Duration = Duration::from_millis(20);
/// How often the configuration file and the names' lifetimes are looked at.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// How long the start, or a reload, waits for the first AWS credentials of the instance.
const CREDENTIALS_PATIENCE: Duration = Duration::from_secs(3);
/// Length of the kernel's queue of connections not yet accepted, per socket.
const BACKLOG: i32 = 4096;

/// What the command line may override.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Instead of `server.listen`.
    pub listen: Option<SocketAddr>,
    /// Instead of `server.admin`.
    pub admin: Option<SocketAddr>,
    /// Instead of `server.cores`.
    pub cores: Option<u16>,
    /// Use epoll even where io_uring works.
    pub epoll: bool,
}

/// The control thread's side of everything.
struct Control {
    cores: Vec<ControlEnd>,
    threads: Vec<JoinHandle<()>>,
    log: RequestLog,
    /// If callers are known and charged.
    office: Option<Office>,
    resolver: Resolver,
    instance: InstanceCredentials,
    watch: Watch,
    config: Config,
    plane: Arc<Plane>,
    status: Arc<Status>,
}

/// Runs the gateway until it is told to stop and has drained.
///
/// # Errors
/// When it cannot start: an address is taken, a certificate is unusable.
pub fn run(config: Config, path: PathBuf, overrides: &Overrides) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut control = start(config, path, overrides).await?;
        control.serve().await
    })
}

async fn start(config: Config, path: PathBuf, overrides: &Overrides) -> Result<Control> {
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
    let count = u32::try_from(cores).unwrap_or(u32::MAX);
    let (office, funds, changes) = open_office(&config, &mut plane, count).await?;
    let plane = Arc::new(plane);
    let addresses = match overrides.listen {
        Some(address) => vec![address],
        None => config.server.listen.0.iter().map(|address| address.0).collect(),
    };
    let mut sockets = listen(&addresses, cores)?;
    let bound: Vec<SocketAddr> = sockets[0]
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    let admin_address = overrides.admin.unwrap_or(config.server.admin.0);
    let admin_socket = tokio::net::TcpListener::bind(admin_address)
        .await
        .with_context(|| format!("cannot listen on {admin_address} for the admin interface"))?;
    let admin_bound = admin_socket.local_addr()?;

    let mut meters = Vec::new();
    let mut control_ends = Vec::new();
    let mut threads = Vec::new();
    for (index, listeners) in sockets.drain(..).enumerate() {
        let (core_end, control_end) = mesh::rings();
        let meter = Arc::new(CoreMeter::default());
        meters.push(meter.clone());
        control_ends.push(control_end);
        threads.push(worker::spawn(Worker {
            index,
            // With as many threads as processors each gets its own; otherwise the kernel places them better.
            cpu: (cores == processors.len()).then(|| processors[index]),
            listeners,
            plane: plane.clone(),
            end: core_end,
            meter,
            cores: count,
            funds: funds.clone(),
            seed: fastrand::u64(..),
            force_epoll: overrides.epoll,
        })?);
    }
    let scheme = if plane.server_tls.is_some() { "https" } else { "http" };
    let json = is_json(config.log.format);
    announce(scheme, &bound, admin_bound, json);
    let status = Arc::new(Status::new(meters, plane.clone()));
    tokio::spawn(admin::serve(admin_socket, status.clone(), changes));
    let log = RequestLog::open(&config.log.requests.output, json, config.log.requests.sample)
        .with_context(|| format!("cannot write the request log to {}", config.log.requests.output))?;
    let watch = Watch::new(path);
    Ok(Control {
        cores: control_ends,
        threads,
        log,
        office,
        resolver,
        instance,
        watch,
        config,
        plane,
        status,
    })
}

/// Opens the store, if there is one: who waits behind it, accounts to begin with, and the pages that change it.
async fn open_office(
    config: &Config,
    plane: &mut Plane,
    cores: u32,
) -> Result<(Option<Office>, Vec<Funds>, Option<axum::Router>)> {
    let (Some(config), Some(known)) = (&config.accounts, &mut plane.accounts) else {
        return Ok((None, Vec::new(), None));
    };
    let credential = accounts::admin_credential(config)?;
    let (office, opening) = Office::open(config, cores).await?;
    known.keyring = opening.keyring;
    let changes = credential.map(|credential| admin::accounts::Accounts::new(office.desk(), &credential).routes());
    Ok((Some(office), opening.funds, changes))
}

/// Begins to ask for the instance's credentials if a key of the plane needs them.
async fn with_instance(plane: Plane, instance: &mut InstanceCredentials) -> Plane {
    if !plane.snapshot.needs_instance_credentials() {
        return plane;
    }
    instance.start(CREDENTIALS_PATIENCE).await;
    build::with_new_credentials(&plane, instance).unwrap_or(plane)
}

impl Control {
    async fn serve(&mut self) -> Result<()> {
        let mut stop = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut fetch = tokio::time::interval(FETCH_PERIOD);
        let mut watch = tokio::time::interval(WATCH_PERIOD);
        fetch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = fetch.tick() => self.fetch_records(),
                _ = watch.tick() => {
                    if self.watch.changed() {
                        self.reload("the configuration file has changed").await;
                    }
                    self.refresh_addresses().await;
                    if let Some(office) = &self.office {
                        self.status.store(office.troubles());
                    }
                }
                event = accounts::next(&mut self.office) => self.heed(event).await,
                () = self.instance.changed() => self.refresh_credentials().await,
                _ = hangup.recv() => self.reload("SIGHUP").await,
                _ = stop.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.drain(&mut stop, &mut interrupt).await
    }

    fn fetch_records(&mut self) {
        for core in &mut self.cores {
            while let Ok(record) = core.records.pop() {
                let paid = if record.paid { core.paid.pop().ok() } else { None };
                self.log.add(&record, paid.as_ref());
                if let (Some(paid), Some(office)) = (&paid, &mut self.office) {
                    office.enter(&record, paid);
                }
            }
        }
        if let Some(office) = &mut self.office {
            office.flush();
        }
        self.log.flush();
    }

    /// Does what the treasury says.
    async fn heed(&mut self, event: Event) {
        match event {
            Event::Funds(funds) => {
                for index in 0..self.cores.len() {
                    self.order(index, || Order::Fund(funds.clone())).await;
                }
            }
            Event::Keyring(keyring) => {
                let plane = Plane::clone(&self.plane);
                let accounts = plane.accounts.map(|accounts| Accounts { keyring, ..accounts });
                self.publish(Plane { accounts, ..plane }).await;
            }
            Event::Soft { owner, spent, limit } => {
                accounts::warn_soft(&owner, spent, limit);
                self.status.soft_limit_passed();
            }
        }
    }

    async fn reload(&mut self, why: &str) {
        let generation = self.plane.snapshot.generation() + 1;
        let mut loaded = self.watch.load();
        let mut restart = false;
        if let Ok(config) = &mut loaded {
            restart = reload::needs_restart(&self.config, config);
            reload::keep_store(&self.config, config);
        }
        let built = match &loaded {
            Ok(config) => build::plane(
                config,
                generation,
                &mut self.resolver,
                &self.instance,
                Some(&self.plane),
            )
            .await
            .map_err(|error| format!("{error:#}")),
            Err(mistakes) => Err(mistakes.clone()),
        };
        match (loaded, built) {
            (Ok(config), Ok((plane, warnings))) => {
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                if restart {
                    tracing::warn!(
                        "server.listen, server.admin, server.cores, log and where accounts are kept take effect only after a restart"
                    );
                }
                self.config = config;
                tracing::info!(generation, why, "the configuration is in force");
                self.status.reloaded(generation);
                let plane = with_instance(plane, &mut self.instance).await;
                self.publish(plane).await;
            }
            (_, Err(reason)) => {
                tracing::error!(why, "the configuration stays as it was: {reason}");
                self.status.refused(reason);
            }
            (Err(_), Ok(_)) => {}
        }
    }

    async fn refresh_addresses(&mut self) {
        if self.resolver.next_due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let plane = self.plane.clone();
        if let Some(plane) = build::with_new_addresses(&plane, &self.config, &mut self.resolver).await {
            tracing::info!("addresses of providers have changed");
            self.publish(plane).await;
        }
    }

    async fn refresh_credentials(&mut self) {
        if let Some(plane) = build::with_new_credentials(&self.plane, &self.instance) {
            self.publish(plane).await;
        }
    }

    /// Hands a plane to every core. A full ring means a core that has not looked for seconds: it is asked again.
    async fn publish(&mut self, plane: Plane) {
        self.plane = Arc::new(plane);
        self.status.serves(self.plane.clone());
        for index in 0..self.cores.len() {
            let plane = self.plane.clone();
            self.order(index, || Order::Serve(plane.clone())).await;
        }
    }

    async fn order(&mut self, index: usize, order: impl Fn() -> Order) {
        while !self.threads[index].is_finished() && self.cores[index].orders.push(order()).is_err() {
            tokio::time::sleep(FETCH_PERIOD).await;
        }
    }

    async fn drain(
        &mut self,
        stop: &mut tokio::signal::unix::Signal,
        interrupt: &mut tokio::signal::unix::Signal,
    ) -> Result<()> {
        let grace = Duration::from_millis(self.config.server.timeouts.drain.0.into());
        tracing::info!(?grace, "draining: no new connections; requests in flight go on");
        self.status.draining();
        for index in 0..self.cores.len() {
            self.order(index, || Order::Drain).await;
        }
        let until = tokio::time::Instant::now() + grace;
        let mut fetch = tokio::time::interval(FETCH_PERIOD);
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            tokio::select! {
                _ = fetch.tick() => self.fetch_records(),
                event = accounts::next(&mut self.office) => self.heed(event).await,
                () = tokio::time::sleep_until(until) => {
                    tracing::warn!("requests still in flight after the grace period are cut");
                    break;
                }
                _ = stop.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        for index in 0..self.cores.len() {
            self.order(index, || Order::Stop).await;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.fetch_records();
        if let Some(office) = self.office.take() {
            office.close().await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// One socket per core and address. The first core's sockets choose the ports where 0 was asked for.
fn listen(addresses: &[SocketAddr], cores: usize) -> Result<Vec<Vec<TcpListener>>> {
    let mut all: Vec<Vec<TcpListener>> = Vec::new();
    for core in 0..cores {
        let mut own = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let address = if core == 0 {
                *address
            } else {
                all[0][index].local_addr()?
            };
            own.push(bind(address).with_context(|| format!("cannot listen on {address}"))?);
        }
        all.push(own);
    }
    Ok(all)
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

/// Whether lines are JSON.
pub fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::IsTerminal::is_terminal(&std::io::stdout()),
    }
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
