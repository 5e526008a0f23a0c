//! One attempt at one target with one key: connection, request, and the head of the answer.
//!
//! Invariants: the provider gets the client's bytes, with the model's name, the credential and hop-by-hop fields changed and
//! nothing else; a pooled connection that turns out to be closed is replaced once, and only while no byte of an answer has
//! arrived; a redirect is never followed. Deliberately absent: the body of an answer (`relay.rs`) and what happens after a
//! failure (`exchange/forward.rs`).

pub mod failure;
pub mod limits;
pub mod request;

use sluice_policy::route::PlannedTarget;
use sluice_policy::snapshot::Key;
use sluice_wire::error::Code;
use sluice_wire::http::body::BodyDecoder;
use sluice_wire::limits::{HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX};

pub use self::failure::{Failure, Next, Rejection};
use crate::admission::{Overloaded, Place};
use crate::buffer::{Block, Chunk, Size};
use crate::connection::ClientGone;
use crate::exchange::{Context, Request};
use crate::net::Sent;
use crate::presence::Presence;
use crate::scratch::Work;
use crate::upstream::{self, Upstream};

/// An answer whose head has arrived; the head is in `work.response`.
pub struct Answer {
    /// Where it comes from.
    pub upstream: Upstream,
    /// The bytes that the head's spans refer to.
    pub head_bytes: Chunk,
    /// Bytes of the body that arrived with the head.
    pub rest: Chunk,
    /// Finds the body's end.
    pub decoder: BodyDecoder,
    /// Whether the connection may be used again afterwards.
    pub reusable: bool,
    /// When the request had been sent, in milliseconds of the core's clock.
    pub sent_at_ms: u64,
    /// The request's place at the provider, if those are limited: held until the answer is dropped.
    #[expect(dead_code, reason = "what counts is how long it lives")]
    pub place: Option<Place>,
}

/// The bytes of a complete head, those behind it, and when the request had been sent.
type Heard = (Chunk, Chunk, u64);

/// How an attempt on one connection failed.
enum Broken {
    /// The connection ended without a byte of an answer.
    Silent,
    /// It ended, or went wrong, otherwise.
    Failed(Failure),
}

/// Sends the request to `target` with `key` and waits for the head of an answer that is meant for the client.
///
/// # Errors
/// [`ClientGone`] outside; inside, why this attempt gave no such answer.
pub async fn run(
    context: &Context<'_>,
    down: &mut impl Presence,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    key: &Key,
) -> Result<Result<Answer, Failure>, ClientGone> {
    let core = context.core;
    let mut place = None;
    if target.provider.concurrency.is_some() {
        place = match enter(context, down, request, target).await? {
            Ok(place) => place,
            Err(overloaded) => return Ok(Err(Failure::overloaded(&overloaded, target.provider))),
        };
    }
    let mut fresh = false;
    loop {
        if let Err(refusal) = request::write(context, work, target, key) {
            return Ok(Err(Failure::unsent(refusal, target.provider)));
        }
        if !fresh {
            request.sent(core);
        }
        let connect_ms = u64::from(target.timeouts.connect_ms);
        let connect_by = context.limit_at_ms().min(core.clock.tick_ms() + connect_ms);
        let idle = if fresh {
            None
        } else {
            upstream::idle(core, context.plane, key.origin)
        };
        let mut upstream = match idle {
            Some(upstream) => upstream,
            None => {
                let opening = upstream::open(core, context.plane, key.origin, connect_by);
                match down.while_present(opening).await? {
                    Ok(upstream) => upstream,
                    // What ran out was the request's time, not the connection's.
                    Err(Code::UpstreamConnectFailed) if context.is_late() => {
                        return Ok(Err(Failure::new(Code::UpstreamTimeout, target.provider)));
                    }
                    Err(code) => return Ok(Err(Failure::new(code, target.provider))),
                }
            }
        };
        let reused = upstream.reused;
        match ask(context, down, work, request, target, &mut upstream).await? {
            Ok(heard) => {
                work.payment.heard(work.response.status);
                let place = observed(place, work.response.status, request.record.upstream_us);
                let answer = Answer::new(work, upstream, heard, place);
                return match judge(work.response.status) {
                    None => Ok(Ok(answer)),
                    Some((next, code)) => reject(context, down, work, answer, target, (next, code)).await,
                };
            }
            // It may have been closed for being idle, and it may be what a sick provider does: the budget knows the difference.
            Err(Broken::Silent) if reused && !fresh && request.may_repeat() => {
                core.meter.stale_connections.add(1);
                // The provider may have seen it all the same: that is paid for, and what follows is another attempt.
                if let Err(refusal) = work.payment.hold(context, target) {
                    return Ok(Err(Failure::unsent(refusal, target.provider)));
                }
                fresh = true;
            }
            Err(Broken::Silent) => return Ok(Err(Failure::new(Code::UpstreamReset, target.provider))),
            Err(Broken::Failed(failure)) => {
                if let Some(place) = place.filter(|_| failure.code == Code::UpstreamTimeout) {
                    place.observe(None);
                }
                return Ok(Err(failure));
            }
        }
    }
}

/// Waits for a place at the target's provider, which limits them.
async fn enter(
    context: &Context<'_>,
    down: &mut impl Presence,
    request: &mut Request,
    target: &PlannedTarget<'_>,
) -> Result<Result<Option<Place>, Overloaded>, ClientGone> {
    let core = context.core;
    let (snapshot, provider) = (&context.plane.snapshot, target.provider);
    let asked_us = core.clock.now_us();
    let entering = core.gates.enter(snapshot, provider, context.limit_at_ms(), &core.meter);
    let entered = down.while_present(entering).await?;
    let queued_us = u32::try_from(core.clock.now_us() - asked_us).unwrap_or(u32::MAX);
    request.record.queued_us = request.record.queued_us.saturating_add(queued_us);
    Ok(entered)
}

/// How long the first byte of an answer may take, in milliseconds.
fn patience_ms(context: &Context<'_>, target: &PlannedTarget<'_>) -> u32 {
    if context.stream {
        // Before the first token comes the head.
        target.timeouts.first_byte_ms.min(target.timeouts.first_token_ms)
    } else {
        target.timeouts.first_byte_ms
    }
}

/// Sends what is in `work.parts` and reads until the final head of the answer is complete.
async fn ask(
    context: &Context<'_>,
    down: &mut impl Presence,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    upstream: &mut Upstream,
) -> Result<Result<Heard, Broken>, ClientGone> {
    let core = context.core;
    let patience_ms = u64::from(patience_ms(context, target));
    let deadline = |now_ms: u64| context.limit_at_ms().min(now_ms + patience_ms);
    upstream.stream.deadline().set(deadline(core.clock.tick_ms()));
    upstream.stream.turn(&work.parts).await;
    work.payment.sent();
    let begun_us = core.clock.now_us();
    let sent = match upstream.stream.send_now(&mut work.parts) {
        Ok(Sent::All) => Ok(()),
        Ok(Sent::Until(from)) => {
            down.while_present(upstream.stream.send_from(&mut work.parts, from))
                .await?
        }
        Err(error) => Err(error),
    };
    work.parts.clear();
    let sent_at_ms = core.clock.tick_ms();
    upstream.stream.deadline().set(deadline(sent_at_ms));
    // A provider may refuse a large body before it has read all of it: its answer counts even if sending failed.
    let first = match sent {
        Ok(()) => {
            core.take_back_parts(&mut work.parts);
            upstream.stream.will_use(work);
            let received = down.while_present(upstream.stream.recv()).await?;
            core.lend_parts(&mut work.parts);
            received
        }
        Err(error) => upstream.stream.arrived().unwrap_or(Err(error)),
    };
    request.record.upstream_us = u32::try_from(core.clock.now_us() - begun_us).unwrap_or(u32::MAX);
    let mut bytes = match first {
        Ok(Some(chunk)) => chunk,
        Ok(None) | Err(_) if upstream.stream.deadline().expired() => {
            return Ok(Err(Broken::Failed(Failure::new(
                Code::UpstreamTimeout,
                target.provider,
            ))));
        }
        Ok(None) | Err(_) => return Ok(Err(Broken::Silent)),
    };
    let head_only = request.view().head_only;
    let mut interim = 0;
    loop {
        match complete_head(context, down, work, upstream, bytes, head_only).await? {
            Ok((_, rest)) if (100..200).contains(&work.response.status) => {
                interim += 1;
                if interim > INTERIM_RESPONSES_MAX || work.response.status == 101 {
                    return Ok(Err(protocol_error(
                        target,
                        "sent too many interim responses, or switched protocols unasked",
                    )));
                }
                bytes = rest;
            }
            Ok((head_bytes, rest)) => return Ok(Ok((head_bytes, rest, sent_at_ms))),
            Err(_) if upstream.stream.deadline().expired() => {
                return Ok(Err(Broken::Failed(Failure::new(
                    Code::UpstreamTimeout,
                    target.provider,
                ))));
            }
            Err(HeadFailure::Ended) => {
                return Ok(Err(Broken::Failed(Failure::new(Code::UpstreamReset, target.provider))));
            }
            Err(HeadFailure::Malformed(why)) => return Ok(Err(protocol_error(target, &why))),
        }
    }
}

fn protocol_error(target: &PlannedTarget<'_>, why: &str) -> Broken {
    tracing::debug!(provider = %target.provider.name, why, "the provider's answer cannot be understood");
    Broken::Failed(Failure::new(Code::UpstreamProtocolError, target.provider))
}

enum HeadFailure {
    Ended,
    Malformed(String),
}

/// Reads until the head that begins with `bytes` is complete; gives the bytes of the head and those behind it.
async fn complete_head(
    context: &Context<'_>,
    down: &mut impl Presence,
    work: &mut Work,
    upstream: &mut Upstream,
    mut bytes: Chunk,
    head_only: bool,
) -> Result<Result<(Chunk, Chunk), HeadFailure>, ClientGone> {
    let mut gathered: Option<Block> = None;
    work.response.reset();
    loop {
        let so_far: &[u8] = gathered.as_ref().map_or(&bytes, |block| block.bytes());
        match context.core.parse_answer(&mut work.response, so_far, head_only) {
            Ok(true) => break,
            Ok(false) if so_far.len() < HEAD_BYTES_MAX => {}
            Ok(false) => return Ok(Err(HeadFailure::Malformed("the head is too large".into()))),
            Err(error) => return Ok(Err(HeadFailure::Malformed(error.to_string()))),
        }
        let Ok(Some(more)) = down.while_present(upstream.stream.recv()).await? else {
            return Ok(Err(HeadFailure::Ended));
        };
        let block = gathered.get_or_insert_with(|| {
            let mut block = context.core.net.buffers.lease(Size::Large);
            let _ = block.append(&bytes);
            block
        });
        if block.append(&more).is_err() {
            return Ok(Err(HeadFailure::Malformed("the head is too large".into())));
        }
    }
    if let Some(block) = gathered {
        bytes = block.into_chunk();
    }
    let head_bytes = bytes.slice(0, work.response.head_bytes);
    bytes.advance(work.response.head_bytes);
    Ok(Ok((head_bytes, bytes)))
}

/// Tells the gate what an answer's head says of the provider's load.
fn observed(place: Option<Place>, status: u16, latency_us: u32) -> Option<Place> {
    if let Some(place) = &place {
        match status {
            200..=299 => place.observe(Some(u64::from(latency_us))),
            429 | 503 | 529 => place.observe(None),
            _ => {}
        }
    }
    place
}

/// What an answer's status says of the attempt: nothing, if it is for the client.
fn judge(status: u16) -> Option<(Next, Code)> {
    match status {
        200..=299 | 400 | 404..=428 | 430..=499 => None,
        401..=403 => Some((Next::OtherKey, Code::UpstreamAuth)),
        429 => Some((Next::OtherKey, Code::UpstreamRateLimited)),
        300..=399 => Some((Next::OtherTarget, Code::UpstreamProtocolError)),
        _ => Some((Next::OtherTarget, Code::UpstreamError)),
    }
}

/// What becomes of an answer that is not for the client.
async fn reject(
    context: &Context<'_>,
    down: &mut impl Presence,
    work: &mut Work,
    answer: Answer,
    target: &PlannedTarget<'_>,
    (next, code): (Next, Code),
) -> Result<Result<Answer, Failure>, ClientGone> {
    if code == Code::UpstreamProtocolError {
        return Ok(Err(Failure::new(code, target.provider)));
    }
    // Boxed: it is rare, and its state would make every connection's task larger.
    let failure = Box::pin(failure::reject(
        context,
        down,
        work,
        answer,
        target.provider,
        next,
        code,
    ))
    .await?;
    Ok(Err(failure))
}

impl Answer {
    /// The answer whose head is in `work.response`.
    fn new(work: &Work, upstream: Upstream, (head_bytes, rest, sent_at_ms): Heard, place: Option<Place>) -> Self {
        Self {
            upstream,
            head_bytes,
            rest,
            decoder: BodyDecoder::new(work.response.framing),
            reusable: work.response.keep_alive,
            sent_at_ms,
            place,
        }
    }
}
