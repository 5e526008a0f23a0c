//! A stream of server-sent events, brought to the client as it comes, event by event.
//!
//! Invariants: nothing is sent before the first event (or, on a route that restarts streams, before its beginning is complete),
//! so that until then another target can take over; the client gets whole events: the beginning of one is held back, within a bound, until its end arrives; a stream that ends before it is
//! complete ends with an error event and without its final chunk; one that is complete but lacks `[DONE]` gets it.
//! Deliberately absent: any change to an event, and any delay.

use sluice_policy::route::PlannedTarget;
use sluice_policy::snapshot::Hold;
use sluice_wire::chat::ChatEvent;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::Code;
use sluice_wire::http::body::{LAST_CHUNK, Step};
use sluice_wire::limits::SSE_EVENT_BYTES_MAX;
use sluice_wire::provider::{Reply, StreamDecoder, StreamEncoder};
use sluice_wire::sse::{Scan, remove_usage};
use sluice_wire::surface::Endpoint;

use super::head::{self, BodyFrame};
use super::hold::Held;
use super::{Piece, Undelivered, emit, interrupted, next_piece, settle};
use crate::attempt::request::change::asks_for_usage;
use crate::attempt::{Answer, Failure};
use crate::buffer::Chunk;
use crate::connection::Downstream;
use crate::exchange::{Context, End, Request};
use crate::scratch::Work;

/// How long the end of a body may take after `[DONE]`, in milliseconds: long enough for a packet on its way, so that the
/// connection can be kept; the client has its whole answer already.
const END_GRACE_MS: u64 = 50;

/// Pieces of a beginning that is held back, before they are put into one.
const PIECES_MAX: usize = 16;

/// What is known of the stream so far.
struct Stream {
    frame: BodyFrame,
    /// The head, and with it the first event, has been sent.
    begun: bool,
    /// What is held back of the beginning.
    held: Held,
    /// A data event has been seen.
    content: bool,
    /// `data: [DONE]` has been seen.
    done: bool,
    /// A finish reason, or what ends a stream of another dialect, has been seen.
    finished: bool,
    /// The provider has reported an error.
    error: bool,
    /// Bytes in `work.answer`: the beginning of an event.
    held_bytes: usize,
    /// A piece of an event has been sent without its end, because it is larger than the bound.
    torn: bool,
    /// What the stream has used was asked for in the client's place: the client must not see it.
    strip: bool,
    /// The provider's own final chunk has been forwarded.
    closed_by_provider: bool,
    /// Where in the last span the last complete event ends, and which span that is.
    boundary: Option<(usize, usize)>,
}

/// Relays the events of `answer`.
///
/// # Errors
/// [`Undelivered`].
pub async fn relay(
    context: &Context<'_>,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    target: &PlannedTarget<'_>,
    mut answer: Answer,
) -> Result<(), Undelivered> {
    let write_ms = context.plane.snapshot.downstream().write_ms;
    let with_done = context.endpoint.stream_ends_with_done();
    let first_by_ms = answer.sent_at_ms + u64::from(target.timeouts.first_token_ms);
    let hold = context.plane.snapshot.holds_back(context.route);
    let mut stream = Stream::new(request.stream_frame(), hold);
    stream.strip = work.payment.is_billed() && asks_for_usage(context, target);
    work.events.begin(context.dialect == Dialect::Bedrock);
    work.answer.clear();
    work.parts.clear();
    loop {
        let deadline_ms = (!stream.begun && !stream.held.has_begun()).then_some(first_by_ms);
        let (ended, sound) = match next_piece(context, down, work, &mut answer, target, deadline_ms).await? {
            Piece::Data(chunk, step) => {
                let sound = stream.scan(work, &chunk);
                if (stream.error || !sound) && !stream.begun {
                    stream.held.failed(context);
                    return Err(Undelivered::Failed(failure(context, work, target, &chunk, sound)));
                }
                if sound {
                    stream.begin(context, work, request, target, &answer);
                    stream.forward(context, work, request, chunk, step, with_done);
                }
                (step.done || !sound, sound)
            }
            Piece::End => (true, true),
            Piece::Broken(code) if !stream.begun => {
                stream.held.failed(context);
                return Err(Undelivered::Failed(Failure::new(code, target.provider)));
            }
            Piece::Broken(_) => (true, false),
        };
        if ended {
            stream.note(&work.events.finish());
        }
        let complete = stream.is_complete(context, sound);
        if ended && !complete && !stream.begun {
            stream.held.failed(context);
            return Err(Undelivered::Failed(Failure::new(Code::UpstreamReset, target.provider)));
        }
        if ended && complete || stream.done {
            work.payment.charge(context.core);
        }
        if ended || stream.done && with_done {
            stream.start(context, work, request, target, &answer);
            stream.close(context, work, request, complete);
        }
        if request.record.first_byte_us == 0 && !work.parts.is_empty() {
            request.answered(context.core);
        }
        if !work.parts.is_empty() {
            down.send(context.core, &mut work.parts, write_ms).await?;
        }
        if ended && !complete {
            request.keep_alive = false;
            return Err(Undelivered::Ended(End::Interrupted));
        }
        if ended {
            settle(context, answer);
            return Ok(());
        }
        if stream.done && with_done {
            let grace = Some(context.core.clock.tick_ms() + END_GRACE_MS);
            // Whatever comes after `[DONE]` is not the client's, which may leave now; only the end of the body is of interest.
            if let Ok(Piece::Data(_, step)) = next_piece(context, down, work, &mut answer, target, grace).await
                && step.done
            {
                settle(context, answer);
            }
            return Ok(());
        }
    }
}

impl Stream {
    fn new(frame: BodyFrame, hold: Option<Hold>) -> Self {
        Self {
            frame,
            begun: false,
            held: Held::new(hold),
            content: false,
            done: false,
            finished: false,
            error: false,
            held_bytes: 0,
            torn: false,
            strip: false,
            closed_by_provider: false,
            boundary: None,
        }
    }

    /// Looks at the payload of one piece; false if it is no part of a stream.
    fn scan(&mut self, work: &mut Work, chunk: &Chunk) -> bool {
        self.boundary = None;
        for (index, &(start, end)) in work.spans.iter().enumerate() {
            let Some(seen) = work.events.push(&chunk[start as usize..end as usize]) else {
                return false;
            };
            self.note(&seen);
            if seen.complete > 0 {
                self.boundary = Some((index, seen.complete));
            }
        }
        true
    }

    fn note(&mut self, seen: &Scan) {
        self.content |= seen.content;
        self.done |= seen.done;
        self.finished |= seen.finished;
        self.error |= seen.error;
    }

    /// Writes the head before the first event, unless it is held back.
    fn begin(
        &mut self,
        context: &Context<'_>,
        work: &mut Work,
        request: &mut Request,
        target: &PlannedTarget<'_>,
        answer: &Answer,
    ) {
        let first_event = (self.content || self.done) && self.boundary.is_some();
        let too_large = self.held_bytes > SSE_EVENT_BYTES_MAX;
        if !self.begun && (too_large || first_event && self.held.is_enough(context, request, self.held_bytes)) {
            self.start(context, work, request, target, answer);
        }
    }

    /// Writes the head.
    fn start(
        &mut self,
        context: &Context<'_>,
        work: &mut Work,
        request: &Request,
        target: &PlannedTarget<'_>,
        answer: &Answer,
    ) {
        if !self.begun {
            self.begun = true;
            context.begins();
            head::write(context.core, work, &answer.head_bytes, request, target, self.frame);
            if let Some(tape) = &work.tape {
                tape.begin();
            }
        }
    }

    /// Forwards whole events and holds back the rest.
    fn forward(
        &mut self,
        context: &Context<'_>,
        work: &mut Work,
        request: &mut Request,
        chunk: Chunk,
        step: Step,
        with_done: bool,
    ) {
        let last = work.spans.len().wrapping_sub(1);
        let whole = self
            .boundary
            .is_some_and(|(index, at)| index == last && at == (work.spans[last].1 - work.spans[last].0) as usize);
        let ends_well = !step.done || self.done || !with_done;
        let strips = self.strip && (self.finished || self.done);
        if !strips
            && self.begun
            && whole
            && step.verbatim
            && ends_well
            && self.held_bytes == 0
            && self.frame == BodyFrame::Chunked
        {
            return self.forward_verbatim(work, request, &chunk, step);
        }
        let boundary = if self.begun { self.boundary } else { None };
        let ready = boundary.map_or(0, |(index, at)| self.held_bytes + bytes_before(&work.spans, index, at));
        if ready > 0 {
            self.torn = false;
        }
        let end = boundary.unwrap_or((0, 0));
        if strips && ready > 0 {
            pass_stripped(work, request, self.frame, &chunk, end);
        } else {
            pass(work, request, self.frame, &chunk, end, ready);
        }
        if ready > 0 {
            self.held_bytes = 0;
        }
        self.hold(work, &chunk, boundary);
        self.compact(context, work);
        if self.begun && self.held_bytes > SSE_EVENT_BYTES_MAX {
            self.release_held(work, request);
            self.torn = true;
        }
    }

    /// Forwards whole events in the frame that they came in.
    fn forward_verbatim(&mut self, work: &mut Work, request: &mut Request, chunk: &Chunk, step: Step) {
        let lengths = work.spans.iter().map(|&(start, end)| u64::from(end - start));
        request.record.bytes_out += lengths.sum::<u64>();
        if let Some(tape) = &work.tape {
            for &(start, end) in &work.spans {
                tape.push(&chunk[start as usize..end as usize]);
            }
        }
        let bytes = chunk.slice(0, step.consumed);
        if work.parts.is_empty() {
            work.parts.chunk_uncopied(bytes)
        } else {
            work.parts.chunk(bytes)
        }
        self.closed_by_provider = step.done;
    }

    /// Puts the pieces of a beginning that is held back into one: each keeps the buffer that it arrived in.
    fn compact(&self, context: &Context<'_>, work: &mut Work) {
        if self.held.has_begun() && !self.begun && work.answer.len() >= PIECES_MAX {
            let whole = context.core.net.buffers.gather(&work.answer);
            work.answer.clear();
            work.answer.push(whole);
        }
    }

    /// Keeps what comes after `boundary` for later.
    fn hold(&mut self, work: &mut Work, chunk: &Chunk, boundary: Option<(usize, usize)>) {
        for (index, &(start, end)) in work.spans.iter().enumerate() {
            let from = match boundary {
                Some((at, _)) if index < at => continue,
                Some((at, byte)) if index == at => start as usize + byte,
                _ => start as usize,
            };
            if from < end as usize {
                work.answer.push(chunk.slice(from, end as usize));
                self.held_bytes += end as usize - from;
            }
        }
    }

    fn release_held(&mut self, work: &mut Work, request: &mut Request) {
        let bytes = std::mem::take(&mut self.held_bytes);
        emit(work, request, self.frame, bytes, |work| {
            let Work {
                answer, parts, tape, ..
            } = work;
            for held in answer.drain(..) {
                if let Some(tape) = tape {
                    tape.push(&held);
                }
                parts.chunk(held);
            }
        });
    }

    /// Whether the stream may be presented as a success if it ends now. What streams of images or audio end with is not looked
    /// for: there, an end that the framing allows counts.
    fn is_complete(&self, context: &Context<'_>, sound: bool) -> bool {
        let says_its_end = context.endpoint.is_translatable()
            || context.endpoint.stream_ends_with_done()
            || context.endpoint == Endpoint::Responses;
        if says_its_end {
            self.done || self.finished
        } else {
            sound
        }
    }

    /// Writes the end of the client's stream.
    fn close(&mut self, context: &Context<'_>, work: &mut Work, request: &mut Request, complete: bool) {
        if self.closed_by_provider {
            return;
        }
        if complete {
            self.release_held(work, request);
            if context.endpoint.stream_ends_with_done() && !self.done {
                const DONE: &[u8] = b"data: [DONE]\n\n";
                if let Some(tape) = &work.tape {
                    tape.push(DONE);
                }
                emit(work, request, self.frame, DONE.len(), |work| {
                    work.parts.text().extend_from_slice(DONE)
                });
            }
            if self.frame == BodyFrame::Chunked {
                work.parts.text().extend_from_slice(LAST_CHUNK);
            }
            return;
        }
        work.answer.clear();
        if self.error && !self.torn {
            // The provider's own error event has been forwarded: the client is told once.
            return;
        }
        work.out.begin(&[]);
        if self.torn && context.dialect != Dialect::Bedrock {
            // Ends the event that was sent in part.
            work.out.buf.extend_from_slice(b"\n\n");
        }
        let reply = Reply {
            model: "",
            id: "",
            created: 0,
            include_usage: false,
        };
        StreamEncoder::new(context.dialect, &reply).interrupt(&interrupted(), &mut work.out);
        let bytes = work.out.buf.len();
        emit(work, request, self.frame, bytes, |work| {
            work.parts.text().extend_from_slice(&work.out.buf)
        });
    }
}

/// Why a stream failed before anything of it was sent: in the provider's own words, if it said any.
fn failure(context: &Context<'_>, work: &Work, target: &PlannedTarget<'_>, chunk: &Chunk, sound: bool) -> Failure {
    if !sound {
        return Failure::new(Code::UpstreamProtocolError, target.provider);
    }
    let mut reported = None;
    if context.endpoint.is_translatable() {
        let mut decoder = StreamDecoder::new(context.dialect);
        let mut sink = |event: ChatEvent<'_>| {
            if let ChatEvent::Error(error) = event {
                reported.get_or_insert_with(|| error.clone());
            }
        };
        let held = work.answer.iter().map(|held| &held[..]);
        let fresh = work
            .spans
            .iter()
            .map(|&(start, end)| &chunk[start as usize..end as usize]);
        // The scan has accepted these bytes; should the decoder not, the error stays without words.
        let _ = held.chain(fresh).try_for_each(|bytes| decoder.push(bytes, &mut sink));
    }
    match reported {
        Some(error) => Failure::reported(error, target.provider),
        None => Failure::new(Code::UpstreamError, target.provider),
    }
}

/// Where a span ends that is given on: the last one where the last whole event does.
fn end_of((at_span, at_byte): (usize, usize), index: usize, (start, end): (u32, u32)) -> usize {
    if index == at_span {
        start as usize + at_byte
    } else {
        end as usize
    }
}

/// Gives on what was held back and the piece at hand, up to `until`: `ready` bytes in all.
fn pass(work: &mut Work, request: &mut Request, frame: BodyFrame, chunk: &Chunk, until: (usize, usize), ready: usize) {
    emit(work, request, frame, ready, |work| {
        let Work {
            answer,
            parts,
            spans,
            tape,
            ..
        } = work;
        let mut give = |piece: Chunk| {
            if let Some(tape) = tape {
                tape.push(&piece);
            }
            parts.chunk(piece);
        };
        answer.drain(..).for_each(&mut give);
        for (index, &span) in spans.iter().enumerate().take(until.0 + 1) {
            give(chunk.slice(span.0 as usize, end_of(until, index, span)));
        }
    });
}

/// The same without what the client has not asked for.
fn pass_stripped(work: &mut Work, request: &mut Request, frame: BodyFrame, chunk: &Chunk, until: (usize, usize)) {
    work.out.begin(&[]);
    let events = &mut work.out.buf;
    work.answer.drain(..).for_each(|held| events.extend_from_slice(&held));
    for (index, &span) in work.spans.iter().enumerate().take(until.0 + 1) {
        events.extend_from_slice(&chunk[span.0 as usize..end_of(until, index, span)]);
    }
    remove_usage(events);
    let bytes = work.write_down(&[]) as usize;
    emit(work, request, frame, bytes, |work| {
        work.parts.text().extend_from_slice(&work.out.buf)
    });
}

fn bytes_before(spans: &[(u32, u32)], index: usize, at: usize) -> usize {
    spans[..index]
        .iter()
        .map(|&(start, end)| (end - start) as usize)
        .sum::<usize>()
        + at
}
