//! A stored answer as the client wants it, and a provider's answer as it is stored.
//!
//! Invariants: an answer is given in the form that was asked for, or not at all; what was stored in that form leaves byte for
//! byte. Deliberately absent: which answer (`cached.rs`).

use std::borrow::Cow;

use sluice_policy::cache::entry::{Answer, Entry, Shape};
use sluice_policy::cache::{By, Hit};
use sluice_wire::chat::{ChatResponse, Gathered, Out, play};
use sluice_wire::dialect::Dialect;
use sluice_wire::http::Version;
use sluice_wire::http::body::{LAST_CHUNK, write_chunk_head};
use sluice_wire::provider::{self, Reply, StreamDecoder, StreamEncoder};

use crate::connection::Downstream;
use crate::exchange::{Context, End, Request};
use crate::net;
use crate::record::CacheUse;
use crate::reply::{connection_field, hex, number_field, request_id_fields, status_line};
use crate::scratch::Work;

/// The form that a client asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Form {
    stream: bool,
    /// Whether a stream must say what was used.
    counted: bool,
    created: u64,
}

/// What a provider's answer is worth.
pub struct Judged {
    /// How it is stored.
    pub shape: Shape,
    /// Tokens in and out, as far as it says.
    pub tokens: [u64; 2],
    /// Whether it may be given again.
    pub is_good: bool,
    /// What the model said, for comparison.
    pub said: String,
}

impl Form {
    /// What `context` asks for.
    pub fn asked(context: &Context<'_>) -> Self {
        let unasked = provider::streams_usage_unasked(context.dialect);
        Self {
            stream: context.stream,
            counted: unasked || context.asked.keys.include_usage() == Some(true),
            created: 0,
        }
    }

    /// The same, for a flight: two that are equal get the same bytes.
    pub fn pair(self) -> (bool, bool) {
        (self.stream, self.stream && self.counted)
    }

    /// Whether an answer can be given in this form: a stream that does not say what was used cannot become one that does.
    pub fn fits(self, answer: &Answer) -> bool {
        match answer.shape {
            Shape::Stream => self.stream && !self.counted,
            Shape::Whole | Shape::CountedStream => true,
        }
    }

    /// The body in this form; `None` if that cannot be.
    fn body(self, answer: &Answer) -> Option<Cow<'_, [u8]>> {
        let verbatim = match answer.shape {
            Shape::Whole => !self.stream,
            Shape::Stream => self.stream && !self.counted,
            Shape::CountedStream => self.stream && self.counted,
        };
        if verbatim {
            return Some(Cow::Borrowed(&answer.body));
        }
        if !self.fits(answer) {
            return None;
        }
        let (dialect, mut out) = (answer.dialect, Out::default());
        let reply = Reply {
            model: "",
            id: "",
            created: self.created,
            include_usage: self.counted,
        };
        let written = with_response(answer, |response| {
            if self.stream {
                let mut encoder = StreamEncoder::new(dialect, &reply);
                return play(response, &mut |event| encoder.push(&event, &mut out));
            }
            provider::write_response(dialect, response, &reply, &mut out);
            true
        });
        written.filter(|written| *written).map(|_| Cow::Owned(out.buf))
    }
}

/// Lends out what a stored answer says.
fn with_response<T>(answer: &Answer, act: impl FnOnce(&ChatResponse<'_>) -> T) -> Option<T> {
    match answer.shape {
        Shape::Whole => provider::parse_response(answer.dialect, &answer.body)
            .ok()
            .map(|response| act(&response)),
        Shape::Stream | Shape::CountedStream => gather(answer.dialect, &answer.body)?.response().map(act),
    }
}

fn gather(dialect: Dialect, body: &[u8]) -> Option<Gathered> {
    let (mut decoder, mut gathered) = (StreamDecoder::new(dialect), Gathered::default());
    decoder.push(body, &mut |event| gathered.push(&event)).ok()?;
    decoder.finish(&mut |event| gathered.push(&event));
    Some(gathered)
}

/// What the model said in a stored answer.
pub fn said(answer: &Answer) -> Option<String> {
    with_response(answer, |response| response.said())
}

/// Looks at what a provider answered, as the client got it. `None` if it is no answer.
pub fn judge(context: &Context<'_>, streamed: bool, body: &[u8], truncated_too: bool) -> Option<Judged> {
    let judged = |response: &ChatResponse<'_>, shape| {
        let usage = response.usage.unwrap_or_default();
        let said = response.said();
        Judged {
            shape,
            tokens: [usage.input_total(), usage.output],
            is_good: response.ended_well(truncated_too) && !said.trim().is_empty(),
            said,
        }
    };
    if !streamed {
        let response = provider::parse_response(context.dialect, body).ok()?;
        return Some(judged(&response, Shape::Whole));
    }
    let gathered = gather(context.dialect, body)?;
    let form = Form::asked(context);
    let shape = if form.counted && gathered.usage().is_some() {
        Shape::CountedStream
    } else {
        Shape::Stream
    };
    gathered.response().map(|response| judged(response, shape))
}

/// Writes the whole answer to `work.parts`; false, and nothing is written, if it cannot be given in the form asked for.
pub fn write(context: &Context<'_>, work: &mut Work, request: &mut Request, entry: &Entry, hit: Option<&Hit>) -> bool {
    let mut form = Form::asked(context);
    form.created = request.record.unix_us / 1_000_000;
    let Some(body) = form.body(&entry.answer) else {
        return false;
    };
    work.parts.clear();
    head(context, work, request, Some(entry), hit);
    if let Some(tape) = &work.tape {
        tape.keep(&body);
    }
    let text = work.parts.text();
    number_field(text, b"content-length: ", body.len() as u64);
    text.extend_from_slice(b"\r\n");
    request.record.bytes_out = body.len() as u64;
    match body {
        Cow::Borrowed(_) => work.parts.shared(entry.answer.body.clone()),
        Cow::Owned(body) => work.parts.shared(body.into()),
    }
    request.answered(context.core);
    true
}

/// Status line and fields, without the body's length.
pub fn head(context: &Context<'_>, work: &mut Work, request: &mut Request, entry: Option<&Entry>, hit: Option<&Hit>) {
    request.record.status = 200;
    request.record.stream = context.stream;
    let view = request.view();
    let text = work.parts.text();
    status_line(text, 200);
    text.extend_from_slice(b"content-type: ");
    let kind = if context.stream {
        provider::stream_content_type(context.dialect)
    } else {
        "application/json"
    };
    text.extend_from_slice(kind.as_bytes());
    text.extend_from_slice(b"\r\nx-sluice-cache: ");
    text.extend_from_slice(request.record.cache.unwrap_or(CacheUse::Hit).as_str().as_bytes());
    text.extend_from_slice(b"\r\n");
    let age_ms = hit.map_or(0, |hit| hit.age_ms);
    number_field(text, b"x-sluice-cache-age: ", age_ms / 1000);
    if let Some(hit) = hit.filter(|hit| hit.by == By::Meaning) {
        // In thousandths, rounded down, so that it never looks better than it is.
        let milli = (hit.similarity.clamp(0.0, 1.0) * 1000.0) as u32;
        text.extend_from_slice(
            format!("x-sluice-cache-similarity: {}.{:03}\r\n", milli / 1000, milli % 1000).as_bytes(),
        );
    }
    if let Some(entry) = entry {
        text.extend_from_slice(b"x-sluice-cache-key: ");
        let (halves, _) = entry.exact.0.as_chunks::<16>();
        for half in halves {
            text.extend_from_slice(&hex(u128::from_be_bytes(*half)));
        }
        text.extend_from_slice(b"\r\n");
    }
    work.payment.write_fields(context.core, text);
    request_id_fields(text, view);
    connection_field(text, view);
}

/// Sends a stored stream at so many events a second.
pub async fn replay(
    context: &Context<'_>,
    per_second: u16,
    down: &mut Downstream,
    work: &mut Work,
    request: &mut Request,
    hit: &Hit,
) -> Result<(), End> {
    let mut form = Form::asked(context);
    form.created = request.record.unix_us / 1_000_000;
    let body = form.body(&hit.entry.answer).unwrap_or_default();
    let live = Live::begin(context, work, request, Some(&hit.entry), Some(hit));
    let pause_ms = 1000 / u64::from(per_second.max(1));
    let mut rest = &body[..];
    while !rest.is_empty() {
        let (event, behind) = rest.split_at(provider::event_bytes(context.dialect, rest));
        rest = behind;
        live.write(work, request, event);
        if rest.is_empty() {
            live.finish(work);
        }
        live.send(context, down, work).await?;
        if !rest.is_empty() {
            down.while_present(net::pause_ms(pause_ms)).await?;
        }
    }
    Ok(())
}

/// A streamed answer whose length is not known.
pub struct Live {
    chunked: bool,
}

impl Live {
    /// Writes the head.
    pub fn begin(
        context: &Context<'_>,
        work: &mut Work,
        request: &mut Request,
        entry: Option<&Entry>,
        hit: Option<&Hit>,
    ) -> Self {
        let chunked = request.view().version == Version::Http11;
        request.keep_alive &= chunked;
        work.parts.clear();
        head(context, work, request, entry, hit);
        let text = work.parts.text();
        text.extend_from_slice(if chunked {
            b"transfer-encoding: chunked\r\n\r\n"
        } else {
            b"\r\n"
        });
        context.begins();
        request.answered(context.core);
        Self { chunked }
    }

    /// Writes some of the body.
    pub fn write(&self, work: &mut Work, request: &mut Request, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        request.record.bytes_out += bytes.len() as u64;
        if let Some(tape) = &work.tape {
            tape.keep(bytes);
        }
        let text = work.parts.text();
        if self.chunked {
            write_chunk_head(bytes.len(), text);
        }
        text.extend_from_slice(bytes);
        if self.chunked {
            text.extend_from_slice(b"\r\n");
        }
    }

    /// Writes the end.
    pub fn finish(&self, work: &mut Work) {
        if self.chunked {
            work.parts.text().extend_from_slice(LAST_CHUNK);
        }
    }

    /// Sends what was written.
    pub async fn send(&self, context: &Context<'_>, down: &mut Downstream, work: &mut Work) -> Result<(), End> {
        let write_ms = context.plane.snapshot.downstream().write_ms;
        down.send(context.core, &mut work.parts, write_ms).await?;
        Ok(())
    }
}
