//! The head of an answer as the client sees it: the provider's own fields, without hop-by-hop ones, plus what the gateway says.
//!
//! Invariants: the provider's status, reason and end-to-end fields are forwarded verbatim; framing is the gateway's own;
//! nothing of another provider's answer is left. Deliberately absent: bodies.

use sluice_policy::route::PlannedTarget;
use sluice_wire::http::FieldId;
use sluice_wire::http::Version;

use crate::core::Core;
use crate::exchange::Request;
use crate::reply;
use crate::scratch::Work;

/// How the client finds the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFrame {
    /// There is none: the provider's own `Content-Length` stands (HEAD), if any.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end: clients of HTTP/1.0.
    Close,
}

impl Request {
    /// The frame of an answer whose length is not known; an HTTP/1.0 client gets it until the connection's end.
    pub(super) fn stream_frame(&mut self) -> BodyFrame {
        match self.view().version {
            Version::Http11 => BodyFrame::Chunked,
            Version::Http10 => {
                self.keep_alive = false;
                BodyFrame::Close
            }
        }
    }
}

/// Writes the head of the answer in `work.response` for the client.
pub fn write(
    core: &Core,
    work: &mut Work,
    head_bytes: &[u8],
    request: &Request,
    target: &PlannedTarget<'_>,
    frame: BodyFrame,
) {
    let Work {
        response,
        payment,
        parts,
        ..
    } = work;
    let text = parts.text();
    let own_limits = payment.is_limited();
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(itoa::Buffer::new().format(response.status).as_bytes());
    text.push(b' ');
    text.extend_from_slice(response.reason.of(head_bytes));
    text.extend_from_slice(b"\r\n");
    let keep_length = frame == BodyFrame::None;
    response.copy_fields(head_bytes, text, |field| {
        !field.hop
            && field.id != FieldId::Sluice
            && (keep_length || field.id != FieldId::ContentLength)
            && !(own_limits && is_of_limits(field.name.of(head_bytes)))
    });
    match frame {
        BodyFrame::Length(bytes) => reply::number_field(text, b"content-length: ", bytes),
        BodyFrame::Chunked => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyFrame::None | BodyFrame::Close => {}
    }
    match response.field(FieldId::XRequestId) {
        None => reply::request_id_field(text, request.record.id),
        // The provider's id is the client's to quote to the provider; the log knows the request by the gateway's.
        Some(_) => say(text, b"x-sluice-request-id: ", &reply::hex(request.record.id)),
    }
    payment.write_fields(core, text);
    finish(text, request, target);
}

/// Fields that tell how the provider's limits stand.
fn is_of_limits(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-ratelimit-";
    // Most fields are told apart by these two bytes.
    let may_be = name.len() > PREFIX.len() && (name[0] | 0x20, name[2] | 0x20) == (b'x', b'r');
    may_be
        && name
            .get(..PREFIX.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
}

/// Writes a head of the gateway's own for a translated answer; its status is the record's.
pub fn write_own(
    core: &Core,
    work: &mut Work,
    request: &Request,
    target: &PlannedTarget<'_>,
    content_type: &str,
    frame: BodyFrame,
    error_field: Option<(&str, &str)>,
) {
    let text = work.parts.text();
    reply::status_line(text, request.record.status);
    say(text, b"content-type: ", content_type.as_bytes());
    reply::field(text, error_field);
    match frame {
        BodyFrame::Length(bytes) => reply::number_field(text, b"content-length: ", bytes),
        BodyFrame::Chunked => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyFrame::None | BodyFrame::Close => {}
    }
    reply::request_id_fields(text, request.view());
    if !work.notes.list().is_empty() {
        say(text, b"x-sluice-warning: ", work.notes.header_value().as_bytes());
    }
    work.payment.write_fields(core, text);
    finish(text, request, target);
}

/// What the gateway says of every answer: who gave it, and why it was not another.
fn finish(text: &mut Vec<u8>, request: &Request, target: &PlannedTarget<'_>) {
    write_trace(text, request, &target.provider.name, target.model);
    reply::connection_field(text, request.view());
    text.extend_from_slice(b"\r\n");
}

/// Who was asked for the answer, and why it was not another.
pub fn write_trace(text: &mut Vec<u8>, request: &Request, provider: &str, model: &str) {
    say(text, b"x-sluice-provider: ", provider.as_bytes());
    if !model.is_empty() {
        say(text, b"x-sluice-model: ", model.as_bytes());
    }
    let (record, key) = (&request.record, request.names.key_bytes());
    if !key.is_empty() {
        say(text, b"x-sluice-key: ", key);
    }
    reply::number_field(text, b"x-sluice-attempts: ", u64::from(record.attempts));
    if let Some(reason) = record.reason {
        say(text, b"x-sluice-fallback-reason: ", reason.as_str().as_bytes());
    }
    if let Some(use_of) = record.cache {
        say(text, b"x-sluice-cache: ", use_of.as_str().as_bytes());
    }
}

/// A field with a value that may come from a client or an operator: bytes that a head cannot hold are left out.
fn say(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.extend_from_slice(name);
    // Nearly every value is; the loop has no branch, so that it vectorises.
    let printable = |byte: &u8| matches!(byte, 0x20..=0x7e);
    if value.iter().fold(true, |all, byte| all & printable(byte)) {
        text.extend_from_slice(value);
    } else {
        text.extend(value.iter().copied().filter(printable));
    }
    text.extend_from_slice(b"\r\n");
}
