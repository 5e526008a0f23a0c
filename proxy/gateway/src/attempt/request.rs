//! The request as a provider is to see it: the client's own bytes with one splice, or a translation of them.
//!
//! Invariants: what goes to a provider of the client's own dialect differs from what the client sent only in the model's
//! name, the credential, the compression asked for and hop-by-hop fields; nothing of a client's credential is forwarded; a
//! large body is never copied here. Deliberately absent: sending it (`attempt.rs`).

pub mod change;

use sluice_policy::route::PlannedTarget;
use sluice_policy::snapshot::Key;
use sluice_wire::chat::{Content, Message, Part, Role, Text};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::{Field, FieldId, Method};
use sluice_wire::json::Range;
use sluice_wire::provider::{self, Ingress, Target};
use sluice_wire::surface;

use self::change::Splice;
use crate::buffer::Chunk;
use crate::exchange::Context;
use crate::parts::{COALESCE_BYTES_MAX, Parts};
use crate::reply;
use crate::scratch::Work;
use crate::signing;

/// Writes the request for `target` with `key` into `work.parts`.
///
/// # Errors
/// What the target's dialect cannot express, as a 400 that names it.
pub fn write(context: &Context<'_>, work: &mut Work, target: &PlannedTarget<'_>, key: &Key) -> Result<(), ApiError> {
    work.parts.clear();
    work.notes.clear();
    if target.provider.dialect == context.dialect && work.beginning.is_none() {
        return write_spliced(context, work, target, key);
    }
    translate(context, work, target)?;
    write_translated(context, work, target, key)
}

/// Signs the request whose line stands at the beginning of `text`, if the key asks for it.
fn sign<'p>(
    context: &Context<'_>,
    key: &Key,
    text: &mut Vec<u8>,
    payload: impl Iterator<Item = &'p [u8]>,
) -> Result<(), ApiError> {
    let Some(signing) = &key.signing else { return Ok(()) };
    let Some(credentials) = &context.plane.aws[key.id.index()] else {
        let message = "the gateway has no valid AWS credentials for this provider at present; the operator must look";
        return Err(ApiError::new(Code::UpstreamAuth, message));
    };
    let mut words = text.split(|&byte| byte == b' ').map(<[u8]>::to_vec);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path_bytes = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let (path, query) = (&target[..path_bytes], target.get(path_bytes + 1..).unwrap_or_default());
    let core = context.core;
    let unix_s = core.clock.unix_us(core.clock.now_us()) / 1_000_000;
    let head = signing::RequestHead {
        method: &method,
        host: &key.host,
        path,
        query,
    };
    core.with_signer(|signer| {
        signing::sign(signer, credentials, &signing.region, &head, payload, unix_s, text);
    });
    Ok(())
}

/// The target in the words of the dialects.
fn wire_target<'t>(target: &PlannedTarget<'t>) -> Target<'t> {
    Target {
        model: target.model,
        max_tokens_default: target.provider.max_tokens_default,
        quirks: target.provider.quirks,
    }
}

/// Brings the body into one piece, `work.whole`, if it is not yet.
pub fn gather(context: &Context<'_>, work: &mut Work) {
    if work.whole.is_empty() {
        work.whole = match context.asked.keys.fallbacks_member() {
            None => context.core.net.buffers.gather(&context.asked.body),
            // The gateway's own member: a translator would report it as lost.
            Some(member) => context.core.net.buffers.gather(&without(&context.asked.body, member)),
        };
    }
}

/// Translates the body into `work.out`; large strings in it refer to `work.whole`.
fn translate(context: &Context<'_>, work: &mut Work, target: &PlannedTarget<'_>) -> Result<(), ApiError> {
    gather(context, work);
    let ingress = Ingress {
        path_model: context.path_model,
        path_stream: context.stream,
    };
    let mut request = provider::parse_request(context.dialect, &work.whole, &ingress)?;
    if let Some(beginning) = work.beginning.as_deref().filter(|text| !text.is_empty()) {
        request.messages.push(Message {
            role: Role::Assistant,
            name: None,
            parts: vec![Part::from(Content::Text {
                text: Text::plain(beginning),
                citations: Vec::new(),
            })],
        });
    }
    if let Some(most) = work.payment.clamp() {
        request.max_tokens = Some(request.max_tokens.map_or(most, |asked| asked.min(most)));
    }
    work.out.begin(&work.whole);
    provider::write_request(
        target.provider.dialect,
        &request,
        &wire_target(target),
        &mut work.out,
        &mut work.notes,
    )
}

fn write_translated(
    context: &Context<'_>,
    work: &mut Work,
    target: &PlannedTarget<'_>,
    key: &Key,
) -> Result<(), ApiError> {
    let Work { parts, out, whole, .. } = work;
    let text = parts.text();
    text.extend_from_slice(b"POST ");
    text.extend_from_slice(key.path_prefix.as_bytes());
    let dialect = target.provider.dialect;
    provider::request_path(dialect, &wire_target(target), context.stream, text);
    text.extend_from_slice(b" HTTP/1.1\r\n");
    text.extend_from_slice(key.head.expose());
    text.extend_from_slice(b"accept-encoding: identity\r\ncontent-type: application/json\r\n");
    let own = &target.provider.header_names;
    for (name, value) in provider::request_headers(dialect) {
        if !is_named(own, name.as_bytes()) {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
    }
    sign(context, key, text, out.parts(whole))?;
    reply::number_field(text, b"content-length: ", out.total_len() as u64);
    text.extend_from_slice(b"\r\n");
    let mut from = 0;
    for (at, range) in out.splices() {
        parts.text().extend_from_slice(&out.buf[from..*at]);
        parts.chunk_uncopied(whole.slice(range.start, range.end));
        from = *at;
    }
    parts.text().extend_from_slice(&out.buf[from..]);
    Ok(())
}

fn write_spliced(
    context: &Context<'_>,
    work: &mut Work,
    target: &PlannedTarget<'_>,
    key: &Key,
) -> Result<(), ApiError> {
    let asked = context.asked;
    let clamp = work.payment.clamp();
    let usage = change::usage_of(context, target, work.payment.is_billed());
    let parts = &mut work.parts;
    let text = parts.text();
    text.extend_from_slice(asked.head.method_span.of(&asked.head_bytes));
    text.push(b' ');
    text.extend_from_slice(key.path_prefix.as_bytes());
    let path = asked.head.path.of(&asked.head_bytes);
    match surface::forwarded_path(context.endpoint, path) {
        Some(path) => text.extend_from_slice(path),
        None => provider::request_path(context.dialect, &wire_target(target), context.stream, text),
    }
    if !asked.head.query.is_empty() {
        text.push(b'?');
        text.extend_from_slice(asked.head.query.of(&asked.head_bytes));
    }
    text.extend_from_slice(b" HTTP/1.1\r\n");
    text.extend_from_slice(key.head.expose());
    // The gateway reads what the provider answers (ends of streams, usage), so the answer must not be compressed.
    text.extend_from_slice(b"accept-encoding: identity\r\n");
    let own = &target.provider.header_names;
    let signed = context.dialect == Dialect::Bedrock;
    asked.head.copy_fields(&asked.head_bytes, text, |field| {
        let name = || field.name.of(&asked.head_bytes);
        is_forwarded(field) && (own.is_empty() || !is_named(own, name())) && !(signed && is_of_signature(name()))
    });
    // A body that is signed is Bedrock's, which names no model: it is sent as it came, but for the gateway's own member.
    match asked.keys.fallbacks_member().filter(|_| key.signing.is_some()) {
        None => sign(context, key, text, asked.body.iter().map(|piece| &**piece))?,
        Some(member) => {
            let sent = without(&asked.body, member);
            sign(context, key, text, sent.iter().map(|piece| &**piece))?;
        }
    }
    let mut splices = [
        change::model_of(context, target.model),
        change::cut_of(context),
        change::clamp_of(context, target, clamp),
        usage,
    ];
    splices.sort_by_key(|splice| splice.as_ref().map(|splice| (splice.start, splice.end)));
    let splices = || splices.iter().flatten();
    let replaced: u64 = splices().map(|splice| splice.end - splice.start).sum();
    let replacement_bytes: u64 = splices().map(|splice| splice.written_bytes()).sum();
    let body_bytes = context.body_bytes - replaced + replacement_bytes;
    if body_bytes > 0 || asked.head.method == Method::Post {
        reply::number_field(text, b"content-length: ", body_bytes);
    }
    text.extend_from_slice(b"\r\n");
    write_body(parts, &asked.body, context.body_bytes, splices);
    Ok(())
}

/// The body without a range of it.
fn without(body: &[Chunk], range: Range) -> Vec<Chunk> {
    let mut kept = Vec::with_capacity(body.len() + 1);
    let mut from = 0;
    for piece in body {
        let to = from + piece.len() as u64;
        let within = |at: u64| (at.clamp(from, to) - from) as usize;
        kept.push(piece.slice(0, within(range.start)));
        kept.push(piece.slice(within(range.end), piece.len()));
        from = to;
    }
    kept
}

/// Appends the body, spliced: a small one by copying it behind the head, a large one without any copy. The splices are in
/// the order of the body and do not overlap.
fn write_body<'s, I: Iterator<Item = &'s Splice<'s>>>(
    parts: &mut Parts,
    body: &[Chunk],
    body_bytes: u64,
    splices: impl Fn() -> I,
) {
    let push = |parts: &mut Parts, piece: Chunk| {
        if body_bytes <= COALESCE_BYTES_MAX as u64 {
            parts.chunk(piece)
        } else {
            parts.chunk_uncopied(piece)
        }
    };
    if splices().next().is_none() {
        return body.iter().for_each(|piece| push(parts, piece.clone()));
    }
    let mut offset = 0;
    for piece in body {
        let (from, to) = (offset, offset + piece.len() as u64);
        offset = to;
        let within = |at: u64| (at.clamp(from, to) - from) as usize;
        let mut at = 0;
        for splice in splices() {
            push(parts, piece.slice(at, within(splice.start)));
            if (from..to).contains(&splice.start) {
                splice.write(parts.text());
            }
            at = within(splice.end);
        }
        push(parts, piece.slice(at, piece.len()));
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
                | FieldId::XBfVk
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

/// Fields of an AWS client's own signature, which holds for nobody else.
fn is_of_signature(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 5] = [
        b"x-amz-date",
        b"x-amz-security-token",
        b"x-amz-content-sha256",
        b"amz-sdk-invocation-id",
        b"amz-sdk-request",
    ];
    NAMES.iter().any(|own| own.eq_ignore_ascii_case(name))
}
