//! The cheapest load there is: a closed loop and the responder behind the subject, on one thread and one raw ring.
//!
//! Both ends of a measurement share a core, and the subject can only be measured saturated when they cost less than it.
//! So there is no runtime, no timer and no allocation per request: a connection sends its next request in the
//! completion of its last answer, and the responder replays one answer that the simulator has rendered.
//!
//! Invariants: every answer is checked to its last byte, a failure is counted and its connection replaced; a connection
//! leaves the table only when the kernel has nothing of it under way. Absent: streams, open loops, TLS, the bill.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use socket2::SockRef;

use super::answer::{Answer, Incoming};
use super::exchange::{Failure, nanos};
use super::ring::{Done, Ring};
use super::stage::{Orders, cheap_congestion_control};
use super::stats::Stats;
use super::{Flags, body, say};
use crate::rt;

/// How often the window's edges, timeouts and broken connections are looked at.
const TICK: Duration = Duration::from_millis(2);

/// How long a connection waits before it tries again after a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// What an operation was for; the lower half of its token is a peer's number.
const ACCEPT: u64 = 1 << 32;
const ORDER: u64 = 2 << 32;
const TICKED: u64 = 3 << 32;
const RECEIVE: u64 = 4 << 32;
const SEND: u64 = 5 << 32;

/// One connection, on either side of the subject.
struct Peer {
    socket: TcpStream,
    role: Role,
    /// Operations that the kernel has of it.
    pending: u32,
    /// It has been shut down; what still completes means nothing.
    over: bool,
}

enum Role {
    /// The subject's connection to us.
    Server(Incoming),
    /// Ours to the subject: the number of its client.
    Client(usize),
}

/// One of the run's connections, whichever socket carries it now.
struct Client {
    peer: Option<usize>,
    /// When the request under way was due.
    due: Option<Instant>,
    answer: Answer,
    retry_at: Option<Instant>,
    done: bool,
}

struct Run {
    flags: Flags,
    target: SocketAddr,
    requests: &'static [&'static [u8]],
    /// Which of them comes next, where there are several.
    random: fastrand::Rng,
    clients: Vec<Client>,
    stats: Stats,
    expect_bytes: Option<u64>,
    left: u64,
    from: Instant,
    to: Instant,
    measuring: Option<u64>,
    measured: bool,
}

/// The responder, and the run there is.
pub struct Engine {
    ring: Ring,
    listener: TcpListener,
    answer: &'static [u8],
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    run: Option<Run>,
    waiting: VecDeque<String>,
    /// The requests of earlier runs, by what they were made of; never freed, because the kernel may still read them.
    rendered: Vec<(String, &'static [&'static [u8]])>,
}

impl Engine {
    /// An engine that answers with `answer`.
    ///
    /// # Errors
    /// When the ring or the listener cannot be had.
    pub fn new(answer: Vec<u8>) -> Result<Self> {
        let listener = crate::sim::server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1)?.remove(0);
        cheap_congestion_control(SockRef::from(&listener));
        let mut ring = Ring::new().context("io_uring with DEFER_TASKRUN is not available")?;
        ring.accept(listener.as_raw_fd(), ACCEPT)?;
        Ok(Self {
            ring,
            listener,
            answer: answer.leak(),
            peers: Vec::new(),
            free: Vec::new(),
            run: None,
            waiting: VecDeque::new(),
            rendered: Vec::new(),
        })
    }

    /// Where the responder listens.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Performs the runs that are ordered until there are no more orders.
    ///
    /// # Errors
    /// When the ring or standard output breaks.
    pub fn serve(&mut self, orders: &mut Orders) -> Result<()> {
        self.ring.readable(orders.wake_fd(), ORDER)?;
        loop {
            self.ring.wait()?;
            while let Some(done) = self.ring.completed() {
                match done.token & !0xffff_ffff {
                    ACCEPT => self.accepted(done)?,
                    ORDER => {
                        let Some(line) = orders.next_blocking()? else {
                            return Ok(());
                        };
                        self.waiting.push_back(line);
                        self.ring.readable(orders.wake_fd(), ORDER)?;
                    }
                    TICKED => self.ticked()?,
                    RECEIVE => self.received(done)?,
                    _ => self.sent(done)?,
                }
            }
            if self.run.is_none()
                && let Some(line) = self.waiting.pop_front()
                && let Err(error) = self.begin(&line)
            {
                say(&json!({ "event": "error", "message": format!("{error:#}") }))?;
            }
        }
    }

    fn accepted(&mut self, done: Done) -> Result<()> {
        if done.result >= 0 {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
            let socket = unsafe { <TcpStream as std::os::fd::FromRawFd>::from_raw_fd(done.result) };
            self.enter(socket, Role::Server(Incoming::default()))?;
        }
        if !done.more {
            self.ring.accept(self.listener.as_raw_fd(), ACCEPT)?;
        }
        Ok(())
    }

    /// Takes a connection into the table and receives from it.
    fn enter(&mut self, socket: TcpStream, role: Role) -> Result<usize> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.ring.receive(socket.as_raw_fd(), RECEIVE | number as u64)?;
        self.peers[number] = Some(Peer {
            socket,
            role,
            pending: 1,
            over: false,
        });
        Ok(number)
    }

    fn send(&mut self, number: usize, bytes: &'static [u8]) -> Result<()> {
        if let Some(peer) = &mut self.peers[number] {
            peer.pending += 1;
            self.ring.send(peer.socket.as_raw_fd(), bytes, SEND | number as u64)?;
        }
        Ok(())
    }

    /// Shuts a connection down; its operations end with it.
    fn cut(&mut self, number: usize) {
        if let Some(peer) = &mut self.peers[number] {
            peer.over = true;
            // Disconnected already is as good.
            let _ = peer.socket.shutdown(Shutdown::Both);
        }
    }

    /// One operation of a connection has ended for good.
    fn ended(&mut self, number: usize) {
        if let Some(peer) = &mut self.peers[number] {
            peer.pending -= 1;
            if peer.pending == 0 {
                self.peers[number] = None;
                self.free.push(number);
            }
        }
    }

    fn sent(&mut self, done: Done) -> Result<()> {
        let number = (done.token & 0xffff_ffff) as usize;
        if let Some(peer) = &self.peers[number]
            && done.result < 0
            && !peer.over
        {
            self.broken(number, Failure::Write);
        }
        self.ended(number);
        Ok(())
    }

    fn received(&mut self, done: Done) -> Result<()> {
        let number = (done.token & 0xffff_ffff) as usize;
        let Some(peer) = &mut self.peers[number] else {
            return Ok(());
        };
        let no_buffer = done.result == -libc::ENOBUFS;
        let mut reply = None;
        let (mut failure, mut close) = (None, false);
        if peer.over {
            // What comes after the end is not looked at.
        } else if done.result <= 0 && !no_buffer {
            failure = Some(if done.result == 0 {
                Failure::Closed
            } else {
                Failure::Read
            });
        } else if !no_buffer {
            let bytes = self.ring.chunk(&done);
            match (&mut peer.role, &mut self.run) {
                (Role::Server(incoming), _) => match incoming.push(bytes) {
                    Ok(true) => reply = Some(self.answer),
                    Ok(false) => {}
                    Err(_) => failure = Some(Failure::Framing),
                },
                (Role::Client(client), Some(run)) => match run.received(*client, bytes) {
                    Ok(next) => {
                        reply = next;
                        close = run.clients[*client].peer.is_none();
                    }
                    Err(why) => failure = Some(why),
                },
                (Role::Client(_), None) => {}
            }
        }
        self.ring.release(&done);
        if let Some(bytes) = reply {
            self.send(number, bytes)?;
        }
        if let Some(why) = failure {
            self.broken(number, why);
        } else if close {
            self.cut(number);
        }
        self.received_last(number, done, no_buffer)
    }

    /// A multishot receive that has ended is armed again as long as its connection lives.
    fn received_last(&mut self, number: usize, done: Done, no_buffer: bool) -> Result<()> {
        let Some(peer) = &self.peers[number] else { return Ok(()) };
        if done.more {
            return Ok(());
        }
        if !peer.over && (done.result > 0 || no_buffer) {
            let socket = peer.socket.as_raw_fd();
            self.ring.receive(socket, RECEIVE | number as u64)?;
        } else {
            self.ended(number);
        }
        Ok(())
    }

    /// Ends a connection that failed, and counts that if it was a request of ours.
    fn broken(&mut self, number: usize, why: Failure) {
        self.cut(number);
        if let (
            Some(run),
            Some(Peer {
                role: Role::Client(client),
                ..
            }),
        ) = (&mut self.run, &self.peers[number])
        {
            run.failed(*client, why);
        }
    }

    fn begin(&mut self, line: &str) -> Result<()> {
        let flags = super::stage::order(line)?;
        ensure!(
            !flags.stream && flags.rate.is_none() && flags.search.is_empty(),
            "streams and open loops need --with-simulator"
        );
        let target = flags.address()?;
        let now = Instant::now();
        let from = now + Duration::from_secs_f64(flags.warmup);
        let mut run = Run {
            target,
            requests: self.requests(&flags),
            random: fastrand::Rng::with_seed(7),
            clients: Vec::new(),
            stats: Stats {
                connections: flags.connections,
                ..Stats::default()
            },
            expect_bytes: flags.expect_bytes,
            left: flags.requests,
            from,
            to: from + Duration::from_secs_f64(flags.duration),
            measuring: None,
            measured: false,
            flags,
        };
        run.clients.resize_with(run.flags.connections, || Client {
            peer: None,
            due: None,
            answer: Answer::default(),
            retry_at: Some(now),
            done: false,
        });
        self.run = Some(run);
        self.connect_missing()?;
        self.ring.tick(TICK, TICKED)?;
        Ok(())
    }

    /// What a run of these flags sends.
    fn requests(&mut self, flags: &Flags) -> &'static [&'static [u8]] {
        let made_of = format!(
            "{:?}",
            Flags {
                warmup: 0.0,
                duration: 0.0,
                ..flags.clone()
            }
        );
        if let Some((_, requests)) = self.rendered.iter().find(|(own, _)| *own == made_of) {
            return requests;
        }
        let requests = body::render_all(flags).into_iter().map(|request| &*request.leak());
        let requests: &'static [&'static [u8]] = Vec::leak(requests.collect());
        self.rendered.push((made_of, requests));
        requests
    }

    /// Connects the clients whose time has come and sends their first request; blocking, as on loopback it is short.
    fn connect_missing(&mut self) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let now = Instant::now();
        let ready =
            |client: &Client| client.peer.is_none() && !client.done && client.retry_at.is_some_and(|at| at <= now);
        let missing: Vec<usize> = (0..run.clients.len())
            .filter(|&index| ready(&run.clients[index]))
            .collect();
        let target = run.target;
        for index in missing {
            let socket = connect(target);
            let Some(run) = &mut self.run else { return Ok(()) };
            let Ok(socket) = socket else {
                run.failed(index, Failure::Connect);
                continue;
            };
            run.stats.connects += 1;
            let Some(request) = run.next(index, Instant::now()) else {
                continue;
            };
            let number = self.enter(socket, Role::Client(index))?;
            if let Some(run) = &mut self.run {
                run.clients[index].peer = Some(number);
            }
            self.send(number, request)?;
        }
        Ok(())
    }

    fn ticked(&mut self) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let now = Instant::now();
        let late = run.edges(now)?;
        for number in late {
            self.broken(number, Failure::Timeout);
        }
        self.connect_missing()?;
        let Some(run) = &mut self.run else { return Ok(()) };
        if !run.is_over(now) {
            return Ok(self.ring.tick(TICK, TICKED)?);
        }
        run.finish()?;
        let peers: Vec<usize> = run.clients.iter().filter_map(|client| client.peer).collect();
        peers.into_iter().for_each(|number| self.cut(number));
        self.run = None;
        Ok(())
    }
}

impl Run {
    /// The next request of a client, due now; `None` when there are no more.
    fn next(&mut self, client: usize, now: Instant) -> Option<&'static [u8]> {
        let client = &mut self.clients[client];
        client.due = None;
        client.retry_at = None;
        if now >= self.to || self.left == 0 {
            client.done = true;
            return None;
        }
        self.left -= 1;
        client.due = Some(now);
        Some(match self.requests {
            [only] => only,
            several => several[self.random.usize(..several.len())],
        })
    }

    /// Takes bytes of a client's answer; when they complete it, the request to send next.
    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<Option<&'static [u8]>, Failure> {
        let client = &mut self.clients[number];
        let due = client.due.ok_or(Failure::Framing)?;
        let Some(whole) = client.answer.push(bytes)? else {
            return Ok(None);
        };
        if self.expect_bytes.is_some_and(|wanted| wanted != whole.body_bytes) {
            return Err(Failure::Length);
        }
        self.expect_bytes = Some(whole.body_bytes);
        let now = Instant::now();
        if (self.from..self.to).contains(&now) {
            self.stats.requests += 1;
            self.stats.bytes_in += whole.bytes;
            self.stats.bytes_out += self.requests[0].len() as u64;
            self.stats.latency.record(nanos(now - due));
        }
        if whole.close {
            client.due = None;
            client.peer = None;
            client.retry_at = Some(now);
            // The tick opens another connection.
            return Ok(None);
        }
        Ok(self.next(number, now))
    }

    fn failed(&mut self, number: usize, why: Failure) {
        let client = &mut self.clients[number];
        client.peer = None;
        client.answer = Answer::default();
        if client.done {
            return;
        }
        // A connection that ends between two requests is replaced, not counted.
        if client.due.take().is_some() || why == Failure::Connect {
            *self.stats.failures.entry(why.name()).or_default() += 1;
        }
        client.retry_at = Some(Instant::now() + PAUSE_AFTER_FAILURE);
    }

    /// Says the window's edges, and returns the connections whose request has run for too long.
    fn edges(&mut self, now: Instant) -> Result<Vec<usize>> {
        if self.measuring.is_none() && now >= self.from {
            self.measuring = Some(rt::own_cpu_ns());
            say(&json!({ "event": "measure" }))?;
        }
        if let Some(cpu_ns) = self.measuring
            && !self.measured
            && (now >= self.to || self.clients.iter().all(|client| client.done))
        {
            self.measured = true;
            self.stats.own_cpu_ns = rt::own_cpu_ns() - cpu_ns;
            self.stats.seconds = (now.min(self.to) - self.from).as_secs_f64();
            say(&json!({ "event": "measured", "requests": self.stats.requests }))?;
        }
        if now >= self.to {
            for client in &mut self.clients {
                client.done |= client.due.is_none();
            }
        }
        let timeout = self.flags.timeout();
        let late = |client: &&Client| {
            client
                .due
                .is_some_and(|due| now.saturating_duration_since(due) > timeout)
        };
        Ok(self
            .clients
            .iter()
            .filter(late)
            .filter_map(|client| client.peer)
            .collect())
    }

    fn is_over(&self, now: Instant) -> bool {
        self.measured && (self.clients.iter().all(|c| c.done) || now > self.to + self.flags.timeout() * 2)
    }

    fn finish(&mut self) -> Result<()> {
        let unfinished = self.clients.iter().filter(|client| !client.done).count() as u64;
        if unfinished > 0 {
            self.stats.failures.insert("unfinished".to_owned(), unfinished);
        }
        say(&json!({ "event": "summary", "summary": self.stats.to_json() }))
    }
}

fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(target)?;
    socket.set_nodelay(true)?;
    cheap_congestion_control(SockRef::from(&socket));
    Ok(socket)
}
