//! Brings a provider's answer to the client: collected, passed on as it arrives, or event by event.
//!
//! Invariants: the client's status line leaves only when the answer is known to be whole (collected), to have begun
//! (events), or to be too large to wait for (passed); a cut answer never looks complete; what the provider sent is forwarded
//! verbatim, from the buffer that it arrived in. Deliberately absent: which answers are for the client (`attempt.rs`).

mod events;
mod head;
mod hold;
mod translated;

use sluice_policy::route::PlannedTarget;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::body::{LAST_CHUNK, Step, write_chunk_head};
use sluice_wire::http::{self, FieldId};
use sluice_wire::tally::Framing;

use self::head::BodyFrame;
pub use self::head::write_trace;
pub use self::translated::{Unfinished, give_up, go_on};
use crate::attempt::{Answer, Failure};
use crate::buffer::{Chunk, Size};
use crate::connection::{ClientGone, Downstream};
use crate::exchange::{Context, End, Request};
use crate::scratch::Work;

/// Largest answer that is collected before its first byte is sent on, in bytes: until then another target can take over.
const COLLECTED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why an answer did not reach the client whole.
pub enum Undelivered {
    /// Nothing has been sent: another target may answer.
    Failed(Failure),
    /// A stream was cut after it had begun, and another target may go on with it.
    Cut(Box<Unfinished>),
    /// The request is over.
    Ended(End),
}

impl From<ClientGone> for Undelivered {
    fn from(_: ClientGone) -> Self {
        Self::Ended(End::Gone)
    }
}

/// The next part of an answer's body.
enum Piece {
    /// Bytes as they arrived; the payload within is `work.spans`.
    Data(Chunk, Step),
    /// The end, by a close that the framing allows.
    End,
    /// The answer is cut, late or malformed.
    Broken(Code),
}

/// Delivers `answer`, whose head is in `work.response`.
///
/// # Errors
/// [`Undelivered`].
pub async fn deliver(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    answer: Answer,
) -> Result<(), Undelivered> {
    request.record.status = work.response.status;
    // Draining may have begun since the request was read: the client is told that its connection ends here.
    request.keep_alive &= !context.core.is_draining();
    let mode = mode(work, &answer);
    tally(work, target, &answer, &mode);
    let resumable = context.plane.snapshot.resumes(context.route) && context.endpoint.is_translatable();
    if target.provider.dialect != context.dialect || resumable && matches!(mode, Mode::Events) {
        return match mode {
            Mode::Events => translated::stream(context, down, work, request, target, answer).await,
            Mode::Collect | Mode::Pass => translated::unary(context, down, work, request, target, answer).await,
        };
    }
    match mode {
        Mode::Collect => collect(context, down, work, request, target, answer).await,
        Mode::Events => {
            request.record.stream = true;
            events::relay(context, down, work, request, target, answer).await
        }
        Mode::Pass => pass(context, down, work, request, target, answer).await,
    }
}

/// Looks for what the answer says it has used, in whatever form that comes.
fn tally(work: &mut Work, target: &PlannedTarget<'_>, answer: &Answer, mode: &Mode) {
    if !work.payment.wants_usage() {
        return;
    }
    let framing = match mode {
        Mode::Collect | Mode::Pass => Framing::Whole,
        Mode::Events if target.provider.dialect == Dialect::Bedrock && is_frames(work, answer) => Framing::Frames,
        Mode::Events => Framing::Events,
    };
    work.payment.begin(target.provider.dialect, framing);
}

fn is_frames(work: &Work, answer: &Answer) -> bool {
    let content_type = work.response.field(FieldId::ContentType);
    content_type.is_some_and(|field| {
        field
            .value
            .of(&answer.head_bytes)
            .starts_with(b"application/vnd.amazon")
    })
}

enum Mode {
    Collect,
    Events,
    Pass,
}

fn mode(work: &Work, answer: &Answer) -> Mode {
    let content_type = work
        .response
        .field(FieldId::ContentType)
        .map(|field| field.value.of(&answer.head_bytes));
    let is = |kind: &[u8]| {
        content_type
            .and_then(|value| value.get(..kind.len()))
            .is_some_and(|value| value.eq_ignore_ascii_case(kind))
    };
    match work.response.framing {
        http::Framing::Empty => Mode::Collect,
        _ if work.response.status == 200 && (is(b"text/event-stream") || is(b"application/vnd.amazon.eventstream")) => {
            Mode::Events
        }
        http::Framing::Length(bytes) if bytes <= COLLECTED_BYTES_MAX as u64 => Mode::Collect,
        http::Framing::Length(_) => Mode::Pass,
        _ if is(b"application/json") => Mode::Collect,
        _ => Mode::Pass,
    }
}

/// Collects a whole body, then sends it in one go.
async fn collect(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    mut answer: Answer,
) -> Result<(), Undelivered> {
    let bytes = read_whole(context, down, work, &mut answer, target, COLLECTED_BYTES_MAX).await?;
    if bytes > COLLECTED_BYTES_MAX {
        return pass(context, down, work, request, target, answer).await;
    }
    if is_broken_json(work, &answer) {
        return Err(Undelivered::Failed(Failure::new(
            Code::UpstreamProtocolError,
            target.provider,
        )));
    }
    work.payment.charge(context.core);
    let frame = if work.response.framing == http::Framing::Empty {
        BodyFrame::None
    } else {
        BodyFrame::Length(bytes as u64)
    };
    work.parts.clear();
    head::write(context.core, work, &answer.head_bytes, request, target, frame);
    if let Some(tape) = &work.tape {
        work.answer.iter().for_each(|piece| tape.push(piece));
    }
    for chunk in work.answer.drain(..) {
        work.parts.chunk(chunk);
    }
    request.record.bytes_out = bytes as u64;
    send_whole(context, down, work, request, answer).await
}

/// Reads a body into `work.answer` until it is complete, or longer than `bytes_max`; gives its length so far.
async fn read_whole(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    answer: &mut Answer,
    target: &PlannedTarget<'_>,
    bytes_max: usize,
) -> Result<usize, Undelivered> {
    work.answer.clear();
    let mut bytes = 0;
    while !answer.decoder.is_done() && bytes <= bytes_max {
        match next_piece(context, down, work, answer, target, None).await? {
            Piece::Data(chunk, _) => {
                for &(start, end) in &work.spans {
                    bytes += (end - start) as usize;
                    work.answer.push(chunk.slice(start as usize, end as usize));
                }
            }
            Piece::End => break,
            Piece::Broken(code) => return Err(Undelivered::Failed(Failure::new(code, target.provider))),
        }
    }
    Ok(bytes)
}

/// Sends the whole answer that is in `work.parts`; the provider's connection is free for others before that.
async fn send_whole(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    answer: Answer,
) -> Result<(), Undelivered> {
    request.answered(context.core);
    settle(context, answer);
    let write_ms = context.plane.snapshot.downstream().write_ms;
    Ok(down.send(context.core, &mut work.parts, write_ms).await?)
}

/// A successful JSON answer that does not begin and end as JSON does: half of one, or something else.
fn is_broken_json(work: &Work, answer: &Answer) -> bool {
    let declared = work
        .response
        .field(FieldId::ContentType)
        .map(|field| field.value.of(&answer.head_bytes));
    let is_json = declared.is_some_and(|value| value.starts_with(b"application/json"));
    if work.response.status != 200 || !is_json || work.response.field(FieldId::ContentEncoding).is_some() {
        return false;
    }
    if work.response.framing == http::Framing::Empty {
        return false;
    }
    let first = work
        .answer
        .iter()
        .flat_map(|chunk| chunk.iter())
        .find(|byte| !byte.is_ascii_whitespace());
    let last = work
        .answer
        .iter()
        .rev()
        .flat_map(|chunk| chunk.iter().rev())
        .find(|byte| !byte.is_ascii_whitespace());
    !matches!((first, last), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')))
}

/// Passes a body on as it arrives; what was collected of it already goes first.
async fn pass(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    mut answer: Answer,
) -> Result<(), Undelivered> {
    let write_ms = context.plane.snapshot.downstream().write_ms;
    let frame = match work.response.framing {
        http::Framing::Length(bytes) => BodyFrame::Length(bytes),
        _ => request.stream_frame(),
    };
    work.parts.clear();
    head::write(context.core, work, &answer.head_bytes, request, target, frame);
    context.begins();
    request.answered(context.core);
    let collected = work.answer.iter().map(|chunk| chunk.len()).sum();
    emit(work, request, frame, collected, |work| {
        let Work {
            answer, parts, tape, ..
        } = work;
        for chunk in answer.drain(..) {
            if let Some(tape) = tape {
                tape.keep(&chunk);
            }
            parts.chunk(chunk);
        }
    });
    down.send(context.core, &mut work.parts, write_ms).await?;
    let ended = loop {
        if answer.decoder.is_done() {
            break true;
        }
        match next_piece(context, down, work, &mut answer, target, None).await? {
            Piece::Data(chunk, _) => {
                let bytes = work.spans.iter().map(|&(start, end)| (end - start) as usize).sum();
                emit(work, request, frame, bytes, |work| {
                    let Work { spans, parts, tape, .. } = work;
                    for &(start, end) in spans.iter() {
                        let piece = chunk.slice(start as usize, end as usize);
                        if let Some(tape) = tape {
                            tape.keep(&piece);
                        }
                        parts.chunk(piece);
                    }
                });
            }
            Piece::End => break true,
            Piece::Broken(_) => break false,
        }
        down.send(context.core, &mut work.parts, write_ms).await?;
    };
    if !ended {
        request.keep_alive = false;
        return Err(Undelivered::Ended(End::Interrupted));
    }
    settle(context, answer);
    if frame == BodyFrame::Chunked {
        work.parts.text().extend_from_slice(LAST_CHUNK);
        down.send(context.core, &mut work.parts, write_ms).await?;
    }
    Ok(())
}

/// Appends `bytes` of payload, which `write` adds, in the frame of the client's answer.
fn emit(work: &mut Work, request: &mut Request, frame: BodyFrame, bytes: usize, write: impl FnOnce(&mut Work)) {
    if bytes == 0 {
        return;
    }
    request.record.bytes_out += bytes as u64;
    if frame == BodyFrame::Chunked {
        write_chunk_head(bytes, work.parts.text());
    }
    write(work);
    if frame == BodyFrame::Chunked {
        work.parts.text().extend_from_slice(b"\r\n");
    }
}

/// The next part of the body, by `deadline_ms` or after the silence that the target is allowed.
async fn next_piece(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    answer: &mut Answer,
    target: &PlannedTarget<'_>,
    deadline_ms: Option<u64>,
) -> Result<Piece, ClientGone> {
    if answer.rest.is_empty() {
        let stream = &mut answer.upstream.stream;
        let silence_ms = u64::from(target.timeouts.stream_idle_ms);
        let by_ms = deadline_ms.unwrap_or_else(|| context.core.clock.tick_ms() + silence_ms);
        stream.deadline().set(by_ms.min(context.limit_at_ms()));
        if answer
            .decoder
            .remaining()
            .is_some_and(|left| left > sluice_wire::limits::RECV_SMALL_BYTES as u64)
        {
            stream.expect(Size::Large);
        }
        match down.while_present(stream.recv()).await? {
            Ok(Some(chunk)) => answer.rest = chunk,
            _ if stream.deadline().expired() => return Ok(Piece::Broken(Code::UpstreamTimeout)),
            Ok(None) if answer.decoder.finish_at_eof().is_ok() => {
                answer.reusable = false;
                return Ok(Piece::End);
            }
            Ok(None) => return Ok(Piece::Broken(Code::UpstreamProtocolError)),
            Err(_) => return Ok(Piece::Broken(Code::UpstreamReset)),
        }
    }
    work.spans.clear();
    let chunk = std::mem::take(&mut answer.rest);
    match answer.decoder.push(&chunk, &mut work.spans) {
        Ok(step) => {
            // Bytes after the answer: the connection has lost its place.
            answer.reusable &= step.consumed == chunk.len();
            if work.payment.reads() {
                let Work { payment, spans, .. } = work;
                match **spans {
                    [(start, end)] if step.done => payment.scan_last(&chunk[start as usize..end as usize]),
                    _ => spans
                        .iter()
                        .for_each(|&(start, end)| payment.scan(&chunk[start as usize..end as usize])),
                }
            }
            Ok(Piece::Data(chunk, step))
        }
        Err(_) => Ok(Piece::Broken(Code::UpstreamProtocolError)),
    }
}

/// Gives the connection back after a complete answer, or closes it.
fn settle(context: &Context<'_>, answer: Answer) {
    if answer.reusable && answer.rest.is_empty() && answer.decoder.is_done() {
        answer
            .upstream
            .release(context.core, context.plane.snapshot.upstream().idle_connections);
    }
}

/// What a client is told inside a stream that was cut.
fn interrupted() -> ApiError {
    ApiError::new(
        Code::UpstreamStreamInterrupted,
        "the provider's stream ended before it was complete; what was received is not the whole answer",
    )
}
