//! A client's connection: PROXY header, TLS, then one request after the other until either side ends it.
//!
//! Invariants: one read is always in flight or its bytes are in `carry`, so nothing that a client sends is lost, and a
//! client that goes away is noticed while a provider is still being waited for; every wait has a deadline; an idle
//! connection holds one small buffer. Deliberately absent: what a request means (`exchange.rs`).

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use sluice_wire::error::{ApiError, Code};
use sluice_wire::limits::HEAD_BYTES_MAX;
use sluice_wire::proxy_protocol;
use socket2::Socket;

use crate::buffer::{Block, Chunk, Size};
use crate::cache::flight::Flight;
use crate::core::{Core, OpenConnection};
use crate::deadline::IDLE_GRACE_MS;
use crate::exchange;
use crate::net::{Received, Stream};
use crate::parts::Parts;
use crate::plane::Plane;
use crate::scratch::Scratch;
use crate::tls::Tls;

/// Longest wait, after an answer that closes the connection, for the client to read it, in milliseconds.
const LINGER_MS: u64 = 2_000;
/// Most bytes that are read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A client's connection.
pub struct Downstream {
    /// The connection.
    pub stream: Stream,
    /// Bytes that arrived and do not belong to what has been worked off.
    pub carry: Chunk,
    /// The client's address; behind a load balancer with the PROXY protocol, the one that it reports.
    pub client: SocketAddr,
    /// The answer that others wait for as well: as long as somebody does, the request goes on without its client.
    pub audience: Option<Rc<Flight>>,
    /// Whether the request under way had to be waited for since its first bytes came.
    pub has_waited: bool,
    /// The client has gone, and its request goes on for others.
    absent: bool,
    early: Option<Received>,
}

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next request may come.
    KeepAlive,
    /// The answer has been sent; close in good order.
    Close,
    /// Nothing more can be said to this client.
    Abort,
}

/// The client closed its connection, or it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientGone;

/// Why there is no head.
enum NoHead {
    /// The client has finished, or went silent between requests.
    Closed,
    /// The head is not acceptable.
    Refused(ApiError),
}

/// Serves one client's connection to its end.
pub async fn serve(open: OpenConnection, socket: Socket, peer: SocketAddr) {
    let core = open.core();
    let plane = core.plane();
    let stream = match Stream::new(socket, &core.net) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "cannot watch a client's connection; it is closed"),
    };
    let mut down = Downstream {
        stream,
        carry: Chunk::empty(),
        client: peer,
        audience: None,
        has_waited: false,
        absent: false,
        early: None,
    };
    // Boxed, so that what happens once does not make the task of every idle connection larger.
    if !Box::pin(down.open(&core, &plane)).await {
        return;
    }
    drop(plane);
    loop {
        match down.one_request(&core).await {
            After::KeepAlive => {}
            After::Close => return Box::pin(down.linger(&core)).await,
            After::Abort => return,
        }
    }
}

impl Downstream {
    /// PROXY header and TLS handshake, where configured; false if the connection is of no use.
    async fn open(&mut self, core: &Rc<Core>, plane: &Arc<Plane>) -> bool {
        let head_ms = plane.snapshot.downstream().head_ms;
        self.stream.deadline().set(core.clock.tick_ms() + u64::from(head_ms));
        if plane.snapshot.trusts_proxy(self.client.ip()) && !self.read_proxy_header(core).await {
            return false;
        }
        if let Some(config) = &plane.server_tls {
            let Ok(tls) = Tls::server(config) else { return false };
            self.stream.put_back(std::mem::take(&mut self.carry));
            self.stream.start_tls(tls);
            if let Err(error) = self.stream.handshake().await {
                tracing::debug!(client = %self.client, %error, "TLS handshake with a client failed");
                return false;
            }
        }
        true
    }

    async fn read_proxy_header(&mut self, core: &Rc<Core>) -> bool {
        let mut gathered = core.net.buffers.lease(Size::Large);
        loop {
            let Ok(Some(more)) = self.stream.recv().await else {
                return false;
            };
            if gathered.append(&more).is_err() {
                return false;
            }
            match proxy_protocol::parse(gathered.bytes()) {
                Ok(Some((consumed, addresses))) => {
                    if let Some((source, _)) = addresses {
                        self.client = source;
                    }
                    self.carry = gathered.into_chunk();
                    self.carry.advance(consumed);
                    return true;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(peer = %self.client, %error, "a trusted load balancer sent no valid PROXY header");
                    return false;
                }
            }
        }
    }

    /// Waits for a request and serves it.
    async fn one_request(&mut self, core: &Rc<Core>) -> After {
        if self.carry.is_empty() && !self.wait_for_bytes(core).await {
            return After::Abort;
        }
        let begun_us = core.clock.now_us();
        self.has_waited = false;
        let mut scratch = core.lease_scratch();
        let after = match self.read_head(core, &mut scratch).await {
            Ok(()) => exchange::run(core, self, &mut scratch, begun_us).await,
            Err(NoHead::Closed) => After::Abort,
            Err(NoHead::Refused(error)) => exchange::refuse_head(core, self, &mut scratch, begun_us, error).await,
        };
        core.return_scratch(scratch);
        after
    }

    /// Waits for the first byte of the next request; false if the client has finished.
    async fn wait_for_bytes(&mut self, core: &Rc<Core>) -> bool {
        let idle_ms = if core.is_draining() && !core.is_retired() {
            // It was not told: its first request may be on the way, or wait to be read.
            IDLE_GRACE_MS
        } else {
            u64::from(core.plane().snapshot.downstream().keep_alive_ms)
        };
        let deadline = self.stream.deadline();
        deadline.set_idle(core.clock.tick_ms() + idle_ms);
        match self.next_bytes().await {
            Ok(Some(chunk)) => {
                self.carry = chunk;
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// The next bytes, from an early read or from the socket.
    pub async fn next_bytes(&mut self) -> Received {
        self.has_waited = true;
        match self.early.take() {
            Some(received) => received,
            None => self.stream.recv().await,
        }
    }

    /// Reads until the head in `carry` is complete, and moves it to the scratch memory.
    async fn read_head(&mut self, core: &Rc<Core>, scratch: &mut Scratch) -> Result<(), NoHead> {
        self.stream
            .deadline()
            .set_receiving(core.clock.tick_ms() + u64::from(core.plane().snapshot.downstream().head_ms));
        let mut gathered: Option<Block> = None;
        loop {
            let bytes: &[u8] = gathered.as_ref().map_or(&self.carry, |block| block.bytes());
            match core.parse_request(&mut scratch.asked.head, bytes) {
                Ok(true) => break,
                Ok(false) if bytes.len() < HEAD_BYTES_MAX => {}
                Ok(false) => return Err(NoHead::Refused(head_too_large())),
                Err(error) => {
                    let refusal = ApiError::new(error.code(), format!("the request's head is not acceptable: {error}"));
                    return Err(NoHead::Refused(refusal));
                }
            }
            let Ok(Some(more)) = self.next_bytes().await else {
                return Err(if self.stream.deadline().expired() {
                    NoHead::Refused(head_late())
                } else {
                    NoHead::Closed
                });
            };
            let block = gathered.get_or_insert_with(|| {
                let mut block = core.net.buffers.lease(Size::Large);
                // Cannot fail: what is carried fits one large buffer.
                let _ = block.append(&self.carry);
                block
            });
            if block.append(&more).is_err() {
                return Err(NoHead::Refused(head_too_large()));
            }
        }
        if let Some(block) = gathered {
            self.carry = block.into_chunk();
        }
        let head_bytes = scratch.asked.head.head_bytes;
        scratch.asked.head_bytes = self.carry.slice(0, head_bytes);
        self.carry.advance(head_bytes);
        if self.carry.is_empty() {
            // Lets go of the buffer: the head keeps its own reference.
            self.carry = Chunk::empty();
        }
        Ok(())
    }

    /// Runs `operation` while watching the client: ends early if the client goes away. Bytes that the client sends
    /// meanwhile (a pipelined request) are kept.
    ///
    /// # Errors
    /// [`ClientGone`]; the operation is then dropped.
    pub async fn while_present<T>(&mut self, operation: impl Future<Output = T>) -> Result<T, ClientGone> {
        let mut operation = pin!(operation);
        poll_fn(|context| {
            if let Poll::Ready(value) = operation.as_mut().poll(context) {
                return Poll::Ready(Ok(value));
            }
            if self.absent {
                let goes_on = self.carries_on(Some(context.waker()));
                return if goes_on {
                    Poll::Pending
                } else {
                    Poll::Ready(Err(ClientGone))
                };
            }
            if self.early.is_none()
                && self.carry.is_empty()
                && let Poll::Ready(received) = self.stream.poll_recv(context)
            {
                let gone = !matches!(received, Ok(Some(_)));
                self.early = Some(received);
                if gone && !self.carries_on(Some(context.waker())) {
                    return Poll::Ready(Err(ClientGone));
                }
                self.absent = gone;
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the request goes on for others although its client has gone.
    fn carries_on(&self, waker: Option<&Waker>) -> bool {
        self.audience.as_ref().is_some_and(|flight| flight.carries_on(waker))
    }

    /// Nobody follows the answer any more: whether the client had gone before its end.
    pub fn has_left(&mut self) -> bool {
        self.audience = None;
        self.absent
    }

    /// Sends a message; `bytes` beyond what the deadline's base covers give it more time.
    ///
    /// # Errors
    /// [`ClientGone`] if the client does not take it in time, or has closed.
    pub async fn send(&mut self, core: &Rc<Core>, parts: &mut Parts, write_ms: u32) -> Result<(), ClientGone> {
        /// Slowest client that a large answer is not taken from, in bytes per millisecond.
        const RATE_MIN: u64 = 16;
        let allowance = u64::from(write_ms) + parts.len() as u64 / RATE_MIN;
        self.stream.deadline().set(core.clock.tick_ms() + allowance);
        if self.absent {
            parts.clear();
            return if self.carries_on(None) { Ok(()) } else { Err(ClientGone) };
        }
        let sent = self.stream.send(parts).await;
        if sent.is_err() && self.carries_on(None) {
            self.absent = true;
            parts.clear();
            return Ok(());
        }
        if sent.is_err() && self.stream.deadline().expired() {
            self.stream.reset_on_drop();
        }
        self.stream.deadline().clear();
        sent.map_err(|_| ClientGone)
    }

    /// Closes in good order: FIN, then reading for a bounded time what the client still sends, because a close with unread
    /// bytes would reset the connection and could destroy the answer on its way (RFC 9112 §9.6).
    async fn linger(&mut self, core: &Rc<Core>) {
        self.stream.deadline().set(core.clock.tick_ms() + LINGER_MS);
        self.stream.finish().await;
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            match self.next_bytes().await {
                Ok(Some(chunk)) => thrown_away += chunk.len(),
                Ok(None) | Err(_) => break,
            }
        }
    }
}

fn head_too_large() -> ApiError {
    ApiError::new(
        Code::HeadersTooLarge,
        format!("the request's head is larger than {HEAD_BYTES_MAX} bytes"),
    )
}

fn head_late() -> ApiError {
    ApiError::new(Code::RequestTimeout, "the request's head did not arrive in time")
}
