//! Reading a request's body: framing, limits, time, and one scan for the keys that decide where it goes.
//!
//! Invariants: the body stays in the buffers it arrived in; it is refused as soon as it is known to be too large, before
//! it has all been buffered; memory for it is set aside first. Deliberately absent: parsing of anything but the top level.

use std::rc::Rc;

use sluice_policy::snapshot::Downstream as Limits;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::body::BodyDecoder;
use sluice_wire::http::{FieldId, Framing};
use sluice_wire::multipart::Multipart;

use crate::buffer::{Chunk, Size};
use crate::connection::Downstream;
use crate::core::{BodyMemory, Core};
use crate::plane::Plane;
use crate::scratch::{Asked, Scratch};

/// Why a body is not there.
pub enum NoBody {
    /// The client is gone.
    Gone,
    /// It is refused. What was not read of it makes the connection useless for another request.
    Refused(ApiError),
}

/// What kind of body the scan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Top-level keys of a JSON object.
    Json,
    /// Fields of a multipart form.
    Multipart,
    /// Nothing in it matters here.
    None,
}

/// A body that has been read into `scratch.body`.
pub struct Body {
    /// Its length.
    pub bytes: u64,
    /// The memory it counts against.
    pub memory: BodyMemory,
}

/// Reads the body of the request whose head is in `scratch`.
///
/// # Errors
/// [`NoBody`].
pub async fn read(
    core: &Rc<Core>,
    plane: &Plane,
    down: &mut Downstream,
    scratch: &mut Scratch,
    scan: Scan,
) -> Result<Body, NoBody> {
    let limits = plane.snapshot.downstream();
    let framing = scratch.asked.head.framing;
    let declared = if let Framing::Length(bytes) = framing { bytes } else { 0 };
    if declared > limits.body_bytes_max {
        return Err(NoBody::Refused(too_large(limits.body_bytes_max)));
    }
    let Some(memory) = core.reserve_body(declared, limits.in_flight_body_bytes_max) else {
        return Err(NoBody::Refused(no_memory()));
    };
    let mut body = Body { bytes: 0, memory };
    begin_scan(&mut scratch.asked, scan)?;
    let mut decoder = BodyDecoder::new(framing);
    if decoder.is_done() {
        return Ok(body);
    }
    if scratch.asked.head.expect_continue && down.carry.is_empty() {
        send_continue(core, plane, down, scratch).await?;
    }
    let begun_ms = core.clock.tick_ms();
    let mut raw_bytes = 0;
    loop {
        if down.carry.is_empty() {
            if decoder
                .remaining()
                .is_none_or(|left| left > sluice_wire::limits::RECV_SMALL_BYTES as u64)
            {
                down.stream.expect(Size::Large);
            }
            down.stream
                .deadline()
                .set_receiving(deadline_ms(limits, begun_ms, core.clock.tick_ms(), raw_bytes));
            down.carry = next_piece(down).await?;
        }
        raw_bytes += down.carry.len() as u64;
        let done = take_piece(&mut decoder, &mut body, down, scratch, scan, limits)?;
        if done {
            break;
        }
    }
    end_scan(&mut scratch.asked, scan)?;
    Ok(body)
}

/// Decodes what is in `carry`; true if the body is complete.
fn take_piece(
    decoder: &mut BodyDecoder,
    body: &mut Body,
    down: &mut Downstream,
    scratch: &mut Scratch,
    scan: Scan,
    limits: &Limits,
) -> Result<bool, NoBody> {
    let Scratch { asked, work } = scratch;
    work.spans.clear();
    let step = decoder.push(&down.carry, &mut work.spans).map_err(|error| {
        NoBody::Refused(ApiError::new(
            Code::BadRequest,
            format!("the request's body is framed wrongly: {error}"),
        ))
    })?;
    for &(start, end) in &work.spans {
        let piece = down.carry.slice(start as usize, end as usize);
        body.bytes += piece.len() as u64;
        if body.bytes > limits.body_bytes_max {
            return Err(NoBody::Refused(too_large(limits.body_bytes_max)));
        }
        if !matches!(asked.head.framing, Framing::Length(_))
            && !body.memory.grow(piece.len() as u64, limits.in_flight_body_bytes_max)
        {
            return Err(NoBody::Refused(no_memory()));
        }
        match scan {
            Scan::Json => asked.keys.push(&piece).map_err(invalid)?,
            Scan::Multipart => {
                if let Some(form) = asked.form.as_mut() {
                    form.push(&piece).map_err(invalid)?;
                }
            }
            Scan::None => {}
        }
        asked.body.push(piece);
    }
    down.carry.advance(step.consumed);
    if down.carry.is_empty() {
        down.carry = Chunk::empty();
    }
    Ok(step.done)
}

fn begin_scan(asked: &mut Asked, scan: Scan) -> Result<(), NoBody> {
    // What the last request's body said is not this one's, whatever its form.
    asked.keys.reset();
    match scan {
        Scan::Multipart => {
            let content_type = asked
                .head
                .field(FieldId::ContentType)
                .map(|field| field.value.of(&asked.head_bytes));
            asked.form = Some(Box::new(
                Multipart::new(content_type.unwrap_or_default()).map_err(invalid)?,
            ));
        }
        Scan::Json | Scan::None => {}
    }
    Ok(())
}

fn end_scan(asked: &mut Asked, scan: Scan) -> Result<(), NoBody> {
    match (scan, asked.form.as_mut()) {
        (Scan::Json, _) => asked.keys.finish().map_err(invalid),
        (Scan::Multipart, Some(form)) => form.finish().map_err(invalid),
        _ => Ok(()),
    }
}

/// When the next piece of a body must be here: no pause is longer than `body_idle_ms`, and from then on the whole is no
/// slower than the least rate.
fn deadline_ms(limits: &Limits, begun_ms: u64, now_ms: u64, received: u64) -> u64 {
    let grace = u64::from(limits.body_idle_ms);
    let by_rate = received
        .saturating_mul(1000)
        .checked_div(limits.body_rate_min)
        .map_or(u64::MAX, |ms| begun_ms + grace + ms);
    by_rate.min(now_ms + grace)
}

async fn next_piece(down: &mut Downstream) -> Result<Chunk, NoBody> {
    match down.next_bytes().await {
        Ok(Some(chunk)) => Ok(chunk),
        _ if down.stream.deadline().expired() => Err(NoBody::Refused(ApiError::new(
            Code::RequestTimeout,
            "the request's body did not arrive in time",
        ))),
        _ => Err(NoBody::Gone),
    }
}

async fn send_continue(
    core: &Rc<Core>,
    plane: &Plane,
    down: &mut Downstream,
    scratch: &mut Scratch,
) -> Result<(), NoBody> {
    let parts = &mut scratch.work.parts;
    parts.text().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    down.send(core, parts, plane.snapshot.downstream().write_ms)
        .await
        .map_err(|_| NoBody::Gone)
}

fn invalid(error: impl std::fmt::Display) -> NoBody {
    NoBody::Refused(ApiError::new(
        Code::InvalidBody,
        format!("the request's body cannot be read: {error}"),
    ))
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(
        Code::BodyTooLarge,
        format!("the request's body is larger than {limit} bytes (`limits.body_bytes`)"),
    )
}

fn no_memory() -> ApiError {
    ApiError::new(
        Code::Overloaded,
        "too many request bodies are in memory; try again shortly",
    )
    .with_retry_after_s(1)
}
