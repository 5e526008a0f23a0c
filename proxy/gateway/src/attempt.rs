//! One attempt at one target with one key: connection, request, and the head of the answer.
//!
//! Invariants: the provider gets the client's bytes, with the model's name, the credential and hop-by-hop fields changed and
//! nothing else; a pooled connection that turns out to be closed is replaced once, and only while no byte of an answer has
//! arrived; a redirect is never followed. Deliberately absent: the body of an answer (`relay.rs`) and what happens after a
//! failure (`exchange.rs`).

pub mod failure;

use sluice_policy::route::PlannedTarget;
use sluice_policy::snapshot::Key;
use sluice_wire::error::{Code, write_string};
use sluice_wire::http::body::BodyDecoder;
use sluice_wire::http::{Field, FieldId, Method};
use sluice_wire::limits::{HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX};
use sluice_wire::surface::{self, ModelField};

pub use self::failure::{Failure, Next, Rejection};
use crate::buffer::{Block, Chunk, Size};
use crate::connection::{ClientGone, Downstream};
use crate::exchange::{Context, Request};
use crate::parts::{COALESCE_BYTES_MAX, Parts};
use crate::reply;
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
}

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
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    key: &Key,
) -> Result<Result<Answer, Failure>, ClientGone> {
    let core = context.core;
    core.meter.attempts.add(1);
    request.record.attempts = request.record.attempts.saturating_add(1);
    let mut fresh = false;
    loop {
        let now_ms = core.clock.tick_ms();
        let connect_by = context.total_at_ms.min(now_ms + u64::from(target.timeouts.connect_ms));
        let obtained = upstream::obtain(core, context.plane, key.origin, fresh, connect_by);
        let mut upstream = match down.while_present(obtained).await? {
            Ok(upstream) => upstream,
            Err(code) => return Ok(Err(Failure::new(code, target.provider))),
        };
        let reused = upstream.reused;
        write_request(context, &mut work.parts, target, key);
        match ask(context, down, work, request, target, &mut upstream).await? {
            Ok((head_bytes, rest, sent_at_ms)) => {
                return accept(work, upstream, head_bytes, rest, sent_at_ms, context, down, target).await;
            }
            Err(Broken::Silent) if reused && !fresh => {
                core.meter.stale_connections.add(1);
                fresh = true;
            }
            Err(Broken::Silent) => return Ok(Err(Failure::new(Code::UpstreamReset, target.provider))),
            Err(Broken::Failed(failure)) => return Ok(Err(failure)),
        }
    }
}

/// Sends what is in `work.parts` and reads until the final head of the answer is complete.
async fn ask(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    upstream: &mut Upstream,
) -> Result<Result<(Chunk, Chunk, u64), Broken>, ClientGone> {
    let core = context.core;
    let patience_ms = u64::from(target.timeouts.first_byte_ms);
    let deadline = |now_ms: u64| context.total_at_ms.min(now_ms + patience_ms);
    upstream.stream.arm();
    upstream.stream.deadline().set(deadline(core.clock.tick_ms()));
    let sent = down.while_present(upstream.stream.send(&mut work.parts)).await?;
    work.parts.clear();
    let sent_us = core.clock.now_us();
    let sent_at_ms = core.clock.tick_ms();
    upstream.stream.deadline().set(deadline(sent_at_ms));
    // A provider may refuse a large body before it has read all of it: its answer counts even if sending failed.
    let first = match sent {
        Ok(()) => down.while_present(upstream.stream.recv()).await?,
        Err(error) => upstream.stream.arrived().unwrap_or(Err(error)),
    };
    request.record.upstream_us = u32::try_from(core.clock.now_us() - sent_us).unwrap_or(u32::MAX);
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
    down: &mut Downstream,
    work: &mut Work,
    upstream: &mut Upstream,
    mut bytes: Chunk,
    head_only: bool,
) -> Result<Result<(Chunk, Chunk), HeadFailure>, ClientGone> {
    let mut gathered: Option<Block> = None;
    work.response.reset();
    loop {
        let so_far: &[u8] = gathered.as_ref().map_or(&bytes, |block| block.bytes());
        match work.response.parse(so_far, head_only) {
            Ok(true) => break,
            Ok(false) if so_far.len() < HEAD_BYTES_MAX => {}
            Ok(false) => return Ok(Err(HeadFailure::Malformed("the head is too large".into()))),
            Err(error) => return Ok(Err(HeadFailure::Malformed(error.to_string()))),
        }
        let Ok(Some(more)) = down.while_present(upstream.stream.recv()).await? else {
            return Ok(Err(HeadFailure::Ended));
        };
        let block = gathered.get_or_insert_with(|| {
            let mut block = context.core.buffers.lease(Size::Large);
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

/// Decides whether the answer whose head has arrived is one for the client.
async fn accept(
    work: &mut Work,
    upstream: Upstream,
    head_bytes: Chunk,
    rest: Chunk,
    sent_at_ms: u64,
    context: &Context<'_>,
    down: &mut Downstream,
    target: &PlannedTarget<'_>,
) -> Result<Result<Answer, Failure>, ClientGone> {
    let decoder = BodyDecoder::new(work.response.framing);
    let reusable = work.response.keep_alive;
    let answer = Answer {
        upstream,
        head_bytes,
        rest,
        decoder,
        reusable,
        sent_at_ms,
    };
    let (next, code) = match work.response.status {
        200..=299 | 400 | 404..=428 | 430..=499 => return Ok(Ok(answer)),
        300..=399 => return Ok(Err(Failure::new(Code::UpstreamProtocolError, target.provider))),
        401..=403 => (Next::OtherKey, Code::UpstreamAuth),
        429 => (Next::OtherKey, Code::UpstreamRateLimited),
        _ => (Next::OtherTarget, Code::UpstreamError),
    };
    let failure = failure::reject(context, down, work, answer, target.provider, next, code).await?;
    Ok(Err(failure))
}

/// Writes the request as the provider is to see it.
fn write_request(context: &Context<'_>, parts: &mut Parts, target: &PlannedTarget<'_>, key: &Key) {
    let asked = context.asked;
    let text = parts.text();
    text.extend_from_slice(asked.head.method_span.of(&asked.head_bytes));
    text.push(b' ');
    text.extend_from_slice(key.path_prefix.as_bytes());
    let path = asked.head.path.of(&asked.head_bytes);
    text.extend_from_slice(surface::below_version(path).unwrap_or(path));
    if !asked.head.query.is_empty() {
        text.push(b'?');
        text.extend_from_slice(asked.head.query.of(&asked.head_bytes));
    }
    text.extend_from_slice(b" HTTP/1.1\r\n");
    text.extend_from_slice(key.head.expose());
    // The gateway reads what the provider answers (ends of streams, usage), so the answer must not be compressed.
    text.extend_from_slice(b"accept-encoding: identity\r\n");
    let own = &target.provider.header_names;
    asked.head.copy_fields(&asked.head_bytes, text, |field| {
        is_forwarded(field) && (own.is_empty() || !is_named(own, field.name.of(&asked.head_bytes)))
    });
    let splice = splice_of(context, target.model);
    let replaced = splice.as_ref().map_or(0, |splice| splice.end - splice.start);
    let replacement_bytes = splice.as_ref().map_or(0, |splice| splice.written_bytes(text));
    let body_bytes = context.body_bytes - replaced + replacement_bytes;
    if body_bytes > 0 || asked.head.method == Method::Post {
        reply::number_field(text, b"content-length: ", body_bytes);
    }
    text.extend_from_slice(b"\r\n");
    write_body(parts, &asked.body, context.body_bytes, splice.as_ref());
}

/// The one change to a body: the model's name.
struct Splice<'a> {
    start: u64,
    end: u64,
    model: &'a str,
    json: bool,
}

impl Splice<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        if self.json {
            write_string(self.model, text);
        } else {
            text.extend_from_slice(self.model.as_bytes());
        }
    }

    /// How many bytes [`Splice::write`] appends; `text` is left as it was.
    fn written_bytes(&self, text: &mut Vec<u8>) -> u64 {
        let mark = text.len();
        self.write(text);
        let bytes = text.len() - mark;
        text.truncate(mark);
        bytes as u64
    }
}

/// Where the body must change for `model` to be asked for; `None` if it says so already.
fn splice_of<'a>(context: &Context<'_>, model: &'a str) -> Option<Splice<'a>> {
    if context.endpoint.model_field() == ModelField::Absent {
        return None;
    }
    let (located, json) = match &context.asked.form {
        Some(form) => (form.model()?, false),
        None => (context.asked.keys.model()?, true),
    };
    let differs = located.as_str() != model;
    differs.then_some(Splice {
        start: located.start,
        end: located.end,
        model,
        json,
    })
}

/// Appends the body, spliced: a small one by copying it behind the head, a large one without any copy.
fn write_body(parts: &mut Parts, body: &[Chunk], body_bytes: u64, splice: Option<&Splice<'_>>) {
    let push = |parts: &mut Parts, piece: Chunk| {
        if body_bytes <= COALESCE_BYTES_MAX as u64 {
            parts.chunk(piece)
        } else {
            parts.chunk_uncopied(piece)
        }
    };
    let Some(splice) = splice else {
        return body.iter().for_each(|piece| push(parts, piece.clone()));
    };
    let mut offset = 0;
    for piece in body {
        let (from, to) = (offset, offset + piece.len() as u64);
        offset = to;
        let within = |at: u64| (at.clamp(from, to) - from) as usize;
        let (cut, resume) = (within(splice.start), within(splice.end));
        push(parts, piece.slice(0, cut));
        if (from..to).contains(&splice.start) {
            splice.write(parts.text());
        }
        push(parts, piece.slice(resume, piece.len()));
    }
}

fn is_forwarded(field: &Field) -> bool {
    !field.hop
        && !matches!(
            field.id,
            FieldId::Host
                | FieldId::ContentLength
                | FieldId::Expect
                | FieldId::AcceptEncoding
                | FieldId::Authorization
                | FieldId::XApiKey
                | FieldId::ApiKey
                | FieldId::XGoogApiKey
                | FieldId::Cookie
                | FieldId::XForwardedFor
                | FieldId::Forwarded
                | FieldId::Via
                | FieldId::Sluice
        )
}

fn is_named(names: &[Box<str>], name: &[u8]) -> bool {
    names.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name))
}
