//! The control thread's part in steering and in a handover: which cores may get connections, and who accepts them.
//!
//! Invariants: a core that has missed its ticks gets no new connection while another one may; the sockets stay open here until
//! another process has them, so nobody who waits in a queue is lost. Deliberately absent: the exchange with the other process
//! (`handover.rs`).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rtrb::PushError;
use tokio::signal::unix::Signal;

use super::accounts::Office;
use super::handover::{Ask, Sockets, State};
use super::{Control, FETCH_PERIOD, accounts, lock};
use crate::clock;
use crate::mesh::{Order, Place};

/// A core that has not ticked for as long is stuck, in milliseconds; it should every ten.
const STUCK_MS: u64 = 250;
/// How often what the kernel believes of the cores' load is set right, in looks.
const REBASE_TICKS: u64 = 50;
/// How long the cores may take until they accept no more.
const CEASE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the next process waits for the cache to be written.
const CACHE_PATIENCE: Duration = Duration::from_secs(5);

impl Control {
    /// Looks at the cores' signs of life.
    pub(super) fn watch_cores(&mut self) {
        self.ticks += 1;
        let now_ms = clock::shared_ms();
        let lives = |core: &usize| {
            let beat_ms = self.pulses[*core].beat_ms.load(Ordering::Relaxed);
            !self.threads[*core].is_finished() && now_ms.saturating_sub(beat_ms) < STUCK_MS
        };
        let usable: Vec<u32> = (0..self.pulses.len()).filter(lives).map(|core| core as u32).collect();
        let Some(sockets) = &mut self.sockets else { return };
        for (own, thread) in sockets.clients.iter_mut().zip(&self.threads) {
            if thread.is_finished() {
                // What waits in its queue goes to the other cores.
                own.clear();
            }
        }
        let mut kernel = lock(&self.kernel);
        kernel.pace(now_ms);
        kernel.set_usable(&usable);
        if self.ticks.is_multiple_of(REBASE_TICKS)
            && let Some(steering) = kernel.steering.get()
        {
            steering.rebase(&sockets.clients);
        }
    }

    /// Has every core accept connections.
    ///
    /// # Errors
    /// When a socket cannot be copied.
    pub(super) async fn accept(&mut self) -> Result<()> {
        let Some(sockets) = &self.sockets else { return Ok(()) };
        let mut all = Vec::new();
        {
            let mut kernel = lock(&self.kernel);
            kernel.attach(&sockets.clients);
            for (core, own) in sockets.clients.iter().enumerate() {
                let place = |(address, listener): (usize, &std::net::TcpListener)| {
                    Ok(Place {
                        listener: listener.try_clone()?,
                        load: kernel.steering.get().map(|steering| steering.load_of(core, address)),
                    })
                };
                all.push(own.iter().enumerate().map(place).collect::<Result<Vec<_>>>()?);
            }
        }
        for (core, places) in all.into_iter().enumerate() {
            let mut order = Order::Listen(places);
            while let Err(PushError::Full(back)) = self.cores[core].orders.push(order) {
                order = back;
                tokio::time::sleep(FETCH_PERIOD).await;
            }
        }
        self.ceased = false;
        Ok(())
    }

    /// Does what the next process asks for; true if this one is to retire.
    pub(super) async fn answer(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Sockets(reply) => {
                // The next process reads it when it starts: what is cached after this moment stays here.
                let _ = tokio::time::timeout(CACHE_PATIENCE, self.cache.write()).await;
                let _ = reply.send(self.copies());
            }
            Ask::Cease(reply) => {
                let _ = reply.send(self.cease().await);
            }
            Ask::Resume if self.ceased => {
                if let Err(error) = self.accept().await {
                    tracing::error!("cannot accept connections again: {error:#}");
                }
            }
            Ask::Resume => {}
            Ask::Retire => return true,
        }
        false
    }

    fn copies(&self) -> Result<Sockets> {
        let sockets = self.sockets.as_ref().context("another process has the sockets")?;
        let copy = |own: &Vec<std::net::TcpListener>| own.iter().map(|socket| Ok(socket.try_clone()?)).collect();
        let successor = sockets.successor.as_ref().map(|socket| socket.try_clone());
        let clients: Result<Vec<Vec<_>>> = sockets.clients.iter().map(copy).collect();
        let clients = clients?;
        let even = clients.iter().all(|own| own.len() == clients[0].len());
        ensure!(even, "a core has ended; restart instead");
        Ok(Sockets {
            clients,
            admin: sockets.admin.try_clone()?,
            successor: successor.transpose()?,
        })
    }

    /// No core accepts any more; gives what the next process should know.
    pub(super) async fn cease(&mut self) -> Result<State> {
        self.ceased = true;
        for index in 0..self.cores.len() {
            self.order(index, || Order::Cease).await;
        }
        let until = Instant::now() + CEASE_PATIENCE;
        while self
            .pulses
            .iter()
            .any(|pulse| pulse.accepting.load(Ordering::Acquire) > 0)
        {
            ensure!(Instant::now() < until, "a core goes on accepting");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lock(&self.kernel).release();
        let mut state = State::of(&self.plane, clock::shared_ms());
        state.rates = self.office.as_ref().map(Office::rates).unwrap_or_default();
        Ok(state)
    }

    /// Another process serves: goes on until the last request has ended, however long that takes, or a signal says to stop.
    pub(super) async fn retire(&mut self, stop: &mut Signal, interrupt: &mut Signal) -> Result<()> {
        tracing::info!("another process has taken over; requests in flight go on here");
        self.successor.retired();
        self.status.retired();
        self.sockets = None;
        lock(&self.kernel).retire();
        self.cache.give_up_file();
        for index in 0..self.cores.len() {
            self.order(index, || Order::Retire).await;
        }
        let mut fetch = tokio::time::interval(FETCH_PERIOD);
        let mut signalled = false;
        while !signalled && self.threads.iter().any(|thread| !thread.is_finished()) {
            tokio::select! {
                _ = fetch.tick() => {
                    self.fetch();
                    lock(&self.kernel).pace(clock::shared_ms());
                }
                event = accounts::next(&mut self.office) => self.heed(event).await,
                _ = stop.recv() => signalled = true,
                _ = interrupt.recv() => signalled = true,
            }
        }
        let grace = Duration::from_millis(self.config.server.timeouts.drain.0.into());
        self.drain(stop, interrupt, grace).await?;
        self.successor.settled().await;
        Ok(())
    }
}
