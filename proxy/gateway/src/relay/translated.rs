//! An answer of another dialect than the client's: read as the provider wrote it, written as the client expects it.
//!
//! Invariants: as for same-dialect answers, nothing is sent before the answer is whole (unary) or its first token is there
//! (streamed), and a cut answer never looks complete; the provider's own header fields stay behind, except what every
//! dialect shares. Deliberately absent: what the fields of a body become (`sluice_wire::provider`).

use sluice_policy::route::PlannedTarget;
use sluice_wire::chat::{StreamEnd, UpstreamError};
use sluice_wire::error::Code;
use sluice_wire::http::body::LAST_CHUNK;
use sluice_wire::limits::TRANSLATED_BODY_BYTES_MAX;
use sluice_wire::provider::{self, Reply, Transcoder};

use super::head::{self, BodyFrame};
use super::hold::Held;
use super::{Piece, Undelivered, emit, interrupted, next_piece, read_whole, send_whole, settle};
use crate::attempt::{Answer, Failure, failure};
use crate::connection::Downstream;
use crate::exchange::{Context, End, Request};
use crate::reply::hex;
use crate::scratch::Work;

/// Delivers a whole answer.
///
/// # Errors
/// [`Undelivered`].
pub async fn unary(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    mut answer: Answer,
) -> Result<(), Undelivered> {
    let bytes = read_whole(context, down, work, &mut answer, target, TRANSLATED_BODY_BYTES_MAX).await?;
    if bytes > TRANSLATED_BODY_BYTES_MAX {
        return Err(Undelivered::Failed(Failure::new(
            Code::UpstreamProtocolError,
            target.provider,
        )));
    }
    let body = context.core.net.buffers.gather(&work.answer);
    work.answer.clear();
    let status = work.response.status;
    let mut error_field = None;
    if status >= 400 {
        let error = read_error(work, &answer, target, &body);
        work.out.begin(&[]);
        provider::write_error(context.dialect, &error, &mut work.out);
        request.record.status = error.client_status();
        error_field = provider::error_field(context.dialect, &error);
    } else {
        let id = id_text(request);
        let Ok(response) = provider::parse_response(target.provider.dialect, &body) else {
            return Err(Undelivered::Failed(Failure::new(
                Code::UpstreamProtocolError,
                target.provider,
            )));
        };
        work.out.begin(&body);
        let reply = reply_of(context, target, request, &id);
        provider::write_response(context.dialect, &response, &reply, &mut work.out);
    }
    let length = work.write_down(&body);
    work.payment.charge(context.core);
    work.parts.clear();
    head::write_own(
        context.core,
        work,
        request,
        target,
        "application/json",
        BodyFrame::Length(length),
        error_field,
    );
    let mut from = 0;
    for (at, range) in work.out.splices() {
        work.parts.text().extend_from_slice(&work.out.buf[from..*at]);
        work.parts.chunk(body.slice(range.start, range.end));
        from = *at;
    }
    work.parts.text().extend_from_slice(&work.out.buf[from..]);
    request.record.bytes_out = length;
    send_whole(context, down, work, request, answer).await
}

/// Delivers a stream, event by event.
///
/// # Errors
/// [`Undelivered`].
pub async fn stream(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    answer: Answer,
) -> Result<(), Undelivered> {
    request.record.stream = true;
    let id = id_text(request);
    let reply = reply_of(context, target, request, &id);
    let (from, to) = (target.provider.dialect, context.dialect);
    let transcoder = if context.plane.snapshot.resumes(context.route) {
        Transcoder::resumable(from, to, &reply)
    } else {
        Transcoder::new(from, to, &reply)
    };
    // Boxed: only translated streams need it, and every connection's task would be as large as the largest.
    let unfinished = Box::new(Unfinished {
        transcoder,
        frame: request.stream_frame(),
        begun: false,
        held: Held::new(context.plane.snapshot.holds_back(context.route)),
    });
    work.parts.clear();
    work.out.begin(&[]);
    carry(context, down, work, request, target, answer, unfinished).await
}

/// A stream on its way to the client.
pub struct Unfinished {
    transcoder: Transcoder,
    frame: BodyFrame,
    begun: bool,
    held: Held,
}

impl Unfinished {
    /// The text that another provider may go on from.
    pub fn continuation(&self) -> Option<&str> {
        self.transcoder.continuation()
    }
}

/// Goes on with a stream that was cut: `answer` is what `target` makes of its text.
///
/// # Errors
/// [`Undelivered`].
pub async fn go_on(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    answer: Answer,
    mut unfinished: Box<Unfinished>,
) -> Result<(), Undelivered> {
    unfinished.transcoder.resume(target.provider.dialect);
    super::tally(work, target, &answer, &super::Mode::Events);
    work.parts.clear();
    work.out.begin(&[]);
    carry(context, down, work, request, target, answer, unfinished).await
}

/// Nobody goes on with a stream that was cut: tells the client.
pub async fn give_up(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    mut unfinished: Box<Unfinished>,
) -> End {
    request.keep_alive = false;
    work.parts.clear();
    work.out.begin(&[]);
    unfinished.transcoder.interrupt(&interrupted(), &mut work.out);
    let bytes = work.out.buf.len();
    emit(work, request, unfinished.frame, bytes, |work| {
        work.parts.text().extend_from_slice(&work.out.buf)
    });
    let write_ms = context.plane.snapshot.downstream().write_ms;
    match down.send(context.core, &mut work.parts, write_ms).await {
        Ok(()) => End::Interrupted,
        Err(gone) => gone.into(),
    }
}

/// Carries one provider's events into the client's stream, to its end or until it is cut.
async fn carry(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    mut answer: Answer,
    mut unfinished: Box<Unfinished>,
) -> Result<(), Undelivered> {
    let write_ms = context.plane.snapshot.downstream().write_ms;
    let mut first_by_ms = Some(answer.sent_at_ms + u64::from(target.timeouts.first_token_ms));
    let frame = unfinished.frame;
    loop {
        let piece = next_piece(context, down, work, &mut answer, target, first_by_ms).await?;
        let (end, code) = take(&mut unfinished.transcoder, work, piece);
        let begun = unfinished.begun;
        if let Some(error) = unfinished.transcoder.error().filter(|_| !begun) {
            unfinished.held.failed(context);
            return Err(Undelivered::Failed(Failure::reported(error.clone(), target.provider)));
        }
        let failed = matches!(end, Some(StreamEnd::Interrupted | StreamEnd::Failed));
        if failed && !begun {
            unfinished.held.failed(context);
            return Err(Undelivered::Failed(Failure::new(code, target.provider)));
        }
        let cut = failed && unfinished.continuation().is_some();
        if end == Some(StreamEnd::Interrupted) && !cut {
            unfinished.transcoder.interrupt(&interrupted(), &mut work.out);
        }
        let enough =
            unfinished.transcoder.has_output() && unfinished.held.is_enough(context, request, work.out.buf.len());
        if !begun && (end.is_some() || enough) {
            unfinished.begun = true;
            context.begins();
            request.answered(context.core);
            let content_type = provider::stream_content_type(context.dialect);
            head::write_own(context.core, work, request, target, content_type, frame, None);
            if let Some(tape) = &work.tape {
                tape.begin();
            }
        }
        if unfinished.held.has_begun() {
            first_by_ms = None;
        }
        if unfinished.begun {
            first_by_ms = first_by_ms.filter(|_| work.out.buf.is_empty());
            if let Some(tape) = work.tape.as_ref().filter(|_| !failed) {
                tape.push(&work.out.buf);
            }
            let bytes = work.out.buf.len();
            emit(work, request, frame, bytes, |work| {
                work.parts.text().extend_from_slice(&work.out.buf)
            });
            work.out.begin(&[]);
        }
        if end == Some(StreamEnd::Complete) {
            work.payment.charge(context.core);
        }
        if end == Some(StreamEnd::Complete) && frame == BodyFrame::Chunked {
            work.parts.text().extend_from_slice(LAST_CHUNK);
        }
        if !work.parts.is_empty() {
            down.send(context.core, &mut work.parts, write_ms).await?;
        }
        match end {
            None => {}
            Some(StreamEnd::Complete) => {
                settle(context, answer);
                return Ok(());
            }
            Some(_) if cut => return Err(Undelivered::Cut(unfinished)),
            Some(StreamEnd::Failed | StreamEnd::Interrupted) => {
                request.keep_alive = false;
                return Err(Undelivered::Ended(End::Interrupted));
            }
        }
    }
}

/// Translates one piece into `work.out`; says how the stream ended if it did, and what to call a failure.
fn take(transcoder: &mut Transcoder, work: &mut Work, piece: Piece) -> (Option<StreamEnd>, Code) {
    let (ended, code) = match piece {
        Piece::Data(chunk, step) => {
            for &(start, end) in &work.spans {
                if transcoder
                    .push(&chunk[start as usize..end as usize], &mut work.out)
                    .is_err()
                {
                    return (Some(StreamEnd::Interrupted), Code::UpstreamProtocolError);
                }
            }
            (step.done, Code::UpstreamReset)
        }
        Piece::End => (true, Code::UpstreamReset),
        // A stream that had said all it had to say is complete, however its connection ended.
        Piece::Broken(code) => (true, code),
    };
    (ended.then(|| transcoder.finish(&mut work.out)), code)
}

/// What the provider's error says, whatever its dialect.
fn read_error(work: &Work, answer: &Answer, target: &PlannedTarget<'_>, body: &[u8]) -> UpstreamError {
    let head = failure::error_head(&work.response, &answer.head_bytes);
    provider::parse_error(target.provider.dialect, &head, body)
}

fn reply_of<'r>(context: &Context<'_>, target: &PlannedTarget<'r>, request: &Request, id: &'r str) -> Reply<'r> {
    Reply {
        model: target.model,
        id,
        created: request.record.unix_us / 1_000_000,
        include_usage: context.asked.keys.include_usage() == Some(true),
    }
}

fn id_text(request: &Request) -> String {
    String::from_utf8_lossy(&hex(request.record.id)).into_owned()
}
