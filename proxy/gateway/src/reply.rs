//! Answers that the gateway itself makes: errors, `/health`, `/ready`.
//!
//! Invariants: every answer carries `x-request-id`; every error is JSON of the client's dialect; `Connection: close` is said
//! whenever the connection will be closed. Deliberately absent: answers of providers (`relay.rs`).

use sluice_wire::chat::Out;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::ApiError;
use sluice_wire::http::Version;
use sluice_wire::provider;

use crate::parts::Parts;

/// What an answer's head must know about the request that it answers.
#[derive(Clone, Copy)]
pub struct Client {
    /// The request's id.
    pub id: u128,
    /// The dialect of errors.
    pub dialect: Dialect,
    /// The client's HTTP version.
    pub version: Version,
    /// True for HEAD: the answer has no body.
    pub head_only: bool,
    /// True if the connection stays open after the answer.
    pub keep_alive: bool,
}

/// Writes an error in the client's dialect; returns the length of its body. `trace` is header fields, each with CRLF.
pub fn error(parts: &mut Parts, client: Client, error: &ApiError, trace: &[u8]) -> u64 {
    let mut body = Out::default();
    provider::write_own_error(client.dialect, error, &mut body);
    let body = body.buf;
    let text = parts.text();
    status_line(text, error.status());
    if let Some(seconds) = error.retry_after_s {
        number_field(text, b"retry-after: ", u64::from(seconds));
    }
    field(text, provider::own_error_field(client.dialect, error));
    text.extend_from_slice(trace);
    json_tail(text, client, &body);
    if client.head_only { 0 } else { body.len() as u64 }
}

/// Writes a JSON document.
pub fn json(parts: &mut Parts, client: Client, status: u16, body: &[u8]) {
    let text = parts.text();
    status_line(text, status);
    json_tail(text, client, body);
}

fn json_tail(text: &mut Vec<u8>, client: Client, body: &[u8]) {
    text.extend_from_slice(b"content-type: application/json\r\n");
    number_field(text, b"content-length: ", body.len() as u64);
    request_id_fields(text, client);
    connection_field(text, client);
    text.extend_from_slice(b"\r\n");
    if !client.head_only {
        text.extend_from_slice(body);
    }
}

/// `HTTP/1.1 404 Not Found`: this server's own version, whatever the client's (RFC 9112 §2.3).
pub fn status_line(text: &mut Vec<u8>, status: u16) {
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    text.push(b' ');
    text.extend_from_slice(reason(status).as_bytes());
    text.extend_from_slice(b"\r\n");
}

/// `name: number`; `name` ends with `": "`.
pub fn number_field(text: &mut Vec<u8>, name: &[u8], number: u64) {
    text.extend_from_slice(name);
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    text.extend_from_slice(b"\r\n");
}

/// A field with a fixed value, if there is one.
pub fn field(text: &mut Vec<u8>, field: Option<(&str, &str)>) {
    if let Some((name, value)) = field {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
}

/// `x-request-id`, 32 hexadecimal digits.
pub fn request_id_field(text: &mut Vec<u8>, id: u128) {
    text.extend_from_slice(b"x-request-id: ");
    text.extend_from_slice(&hex(id));
    text.extend_from_slice(b"\r\n");
}

/// The request's id under every name that the client may look for: `x-request-id`, and what its dialect's SDK reads.
pub fn request_id_fields(text: &mut Vec<u8>, client: Client) {
    request_id_field(text, client.id);
    if let Some(name) = provider::request_id_field(client.dialect) {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(&hex(client.id));
        text.extend_from_slice(b"\r\n");
    }
}

/// `connection`, where the client's version does not say it by itself (RFC 9112 §9.3).
pub fn connection_field(text: &mut Vec<u8>, client: Client) {
    match (client.version, client.keep_alive) {
        (Version::Http11, true) | (Version::Http10, false) => {}
        (Version::Http11, false) => text.extend_from_slice(b"connection: close\r\n"),
        (Version::Http10, true) => text.extend_from_slice(b"connection: keep-alive\r\n"),
    }
}

/// An id as 32 hexadecimal digits.
pub fn hex(id: u128) -> [u8; 32] {
    const PAIRS: [[u8; 2]; 256] = {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < pairs.len() {
            pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
            byte += 1;
        }
        pairs
    };
    let mut text = [0; 32];
    for (byte, pair) in id.to_be_bytes().into_iter().zip(text.as_chunks_mut().0) {
        *pair = PAIRS[usize::from(byte)];
    }
    text
}

/// The reason phrase of the statuses that are made here or passed on after a failed chain (RFC 9110 §15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::error::Code;

    #[test]
    fn an_error_is_a_complete_http_answer() {
        let mut parts = Parts::default();
        let client = Client {
            id: 0xabc,
            dialect: Dialect::OpenAi,
            version: Version::Http11,
            head_only: false,
            keep_alive: false,
        };
        error(
            &mut parts,
            client,
            &ApiError::new(Code::Overloaded, "full").with_retry_after_s(3),
            b"x-sluice-attempts: 2\r\n",
        );
        let text = String::from_utf8(parts.text().clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 503 Service Unavailable\r\nretry-after: 3\r\n"),
            "{head}"
        );
        assert!(head.contains("x-sluice-attempts: 2\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(
            head.contains("x-request-id: 00000000000000000000000000000abc\r\n"),
            "{head}"
        );
        assert!(head.ends_with("connection: close"), "{head}");
    }

    #[test]
    fn every_code_has_a_reason_phrase() {
        for code in Code::ALL {
            assert!(!reason(code.status()).is_empty(), "{}", code.status());
        }
    }
}
