//! The control thread: configuration, names, logs, admin interface, signals; everything that may wait.
//!
//! Invariants: if this thread stalls, the cores go on with the plane they have; it never touches a request.
//! Deliberately absent: the data plane. What crosses is `mesh.rs`, [`Plane`] and the counters.

mod accounts;
pub mod admin;
pub mod ask;
mod build;
mod cache;
mod credentials;
pub mod handover;
mod log;
mod reload;
mod resolve;
mod roster;
mod start;
pub mod store;
mod succession;
pub mod treasury;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use sluice_policy::config::{Config, LogFormat};
use tokio::signal::unix::{SignalKind, signal};

use self::accounts::Office;
use self::admin::Status;
use self::cache::Desk;
use self::credentials::InstanceCredentials;
use self::handover::{Sockets, Successor};
use self::log::RequestLog;
use self::reload::Watch;
pub use self::reload::load;
use self::resolve::Resolver;
use self::roster::Roster;
use self::treasury::Event;
use crate::ebpf::Kernel;
use crate::mesh::{ControlEnd, Order, Pulse};
use crate::plane::{Accounts, Plane};

/// How often records are fetched from the cores.
const FETCH_PERIOD: Duration = Duration::from_millis(20);
/// How long whoever has changed something waits for cores that do not tick.
const SETTLED: Duration = Duration::from_millis(500);
/// How often the configuration file and the names' lifetimes are looked at.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// How long the start, or a reload, waits for the first AWS credentials of the instance.
const CREDENTIALS_PATIENCE: Duration = Duration::from_secs(3);

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
    /// Take over from the running process that has the same configuration file.
    pub takeover: bool,
}

/// What the kernel does, for the control thread and the admin interface, which runs on it.
pub type SharedKernel = Arc<Mutex<Kernel>>;

/// The control thread's side of everything.
struct Control {
    cores: Vec<ControlEnd>,
    /// What the records of each are about.
    rosters: Vec<Roster>,
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
    cache: Arc<Desk>,
    /// What the kernel does; shared with the admin interface, which answers on this thread too.
    kernel: SharedKernel,
    pulses: Vec<Arc<Pulse>>,
    /// The listening sockets, beside the cores' own copies; none once another process has them.
    sockets: Option<Sockets>,
    successor: Successor,
    /// Whether the cores have been told to accept no more.
    ceased: bool,
    /// Whether a former process has kept the port after all.
    superseded: bool,
    ticks: u64,
}

/// Runs the gateway until it is told to stop and has drained.
///
/// # Errors
/// When it cannot start: an address is taken, a certificate is unusable.
pub fn run(config: Config, path: PathBuf, overrides: &Overrides) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut control = start::start(config, path, overrides).await?;
        control.serve().await
    })
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
        if self.superseded {
            tracing::error!(
                "the former process did not hear in time that this one serves; it goes on, and this one ends"
            );
            // The sockets are the other process's too: they are left as they are.
            self.cease().await?;
            let grace = Duration::from_millis(self.config.server.timeouts.drain.0.into());
            self.drain(&mut stop, &mut interrupt, grace).await?;
            anyhow::bail!("not ready to take over in time");
        }
        fetch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = fetch.tick() => {
                    self.fetch();
                    self.watch_cores();
                }
                ask = self.successor.asked() => {
                    if self.answer(ask).await {
                        return self.retire(&mut stop, &mut interrupt).await;
                    }
                }
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
                _ = hangup.recv() => {
                    self.log.reopen();
                    self.reload("SIGHUP").await;
                }
                _ = stop.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        let grace = Duration::from_millis(self.config.server.timeouts.drain.0.into());
        self.drain(&mut stop, &mut interrupt, grace).await
    }

    fn fetch(&mut self) {
        self.fetch_records();
        self.cache.fetch();
    }

    fn fetch_records(&mut self) {
        let (log, office) = (&mut self.log, &mut self.office);
        for (core, roster) in self.cores.iter_mut().zip(&mut self.rosters) {
            self.status
                .spend(|spent| roster.read(&mut core.reports, spent, log, office.as_mut()));
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
            Event::Settled(whoever) => {
                self.settled().await;
                // Whoever asked may have gone.
                let _ = whoever.send(());
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
                        "server.listen, server.admin, server.cores, ebpf, handover, log and where accounts are kept take effect only \
                         after a restart"
                    );
                }
                self.config = config;
                tracing::info!(generation, why, "the configuration is in force");
                self.status.reloaded(generation);
                self.status.hashes_to(self.watch.hash());
                let mut plane = with_instance(plane, &mut self.instance).await;
                plane.cache = self.cache.plane(&self.config.cache, &plane.snapshot);
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
    async fn publish(&mut self, mut plane: Plane) {
        lock(&self.kernel).tag(&mut plane);
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

    /// Waits until every core has taken all of its orders, which it does on its tick; not for one that does not tick.
    async fn settled(&self) {
        let begun = tokio::time::Instant::now();
        let waits = |index: usize| {
            let orders = &self.cores[index].orders;
            orders.slots() < orders.buffer().capacity() && !self.threads[index].is_finished()
        };
        while (0..self.cores.len()).any(waits) && begun.elapsed() < SETTLED {
            tokio::time::sleep(FETCH_PERIOD / 4).await;
        }
    }

    async fn drain(
        &mut self,
        stop: &mut tokio::signal::unix::Signal,
        interrupt: &mut tokio::signal::unix::Signal,
        grace: Duration,
    ) -> Result<()> {
        // A process that is started in this one's place waits for its own successor.
        self.successor.retired();
        self.sockets = None;
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
        self.fetch();
        self.cache.write().await;
        if let Some(office) = self.office.take() {
            office.close().await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// What the kernel does, to be asked or told something. Nobody holds it while waiting.
pub fn lock(kernel: &SharedKernel) -> MutexGuard<'_, Kernel> {
    kernel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether lines are JSON.
pub fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::IsTerminal::is_terminal(&std::io::stdout()),
    }
}
