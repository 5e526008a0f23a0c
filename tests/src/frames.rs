//! A reader of AWS event-stream frames that shares no code with the proxy.
//!
//! Invariants: both checksums of every frame are checked; bytes that are no whole frame are a failure. Deliberately absent:
//! header values of other types than text, which these streams do not use.

use serde_json::Value;
use sluice_bench::sim::digest::crc32;

/// One frame.
#[derive(Debug)]
pub struct Frame {
    /// `:message-type`: `event` or `exception`.
    pub kind: String,
    /// `:event-type` or `:exception-type`.
    pub name: String,
    /// The payload.
    pub payload: Value,
}

/// The frames of a body.
///
/// # Panics
/// When it is anything else than a row of whole, sound frames.
#[must_use]
pub fn parse(mut body: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        assert!(body.len() >= 16, "half a frame at the end: {body:?}");
        let total = number(body) as usize;
        assert!(
            (16..=body.len()).contains(&total),
            "half a frame at the end: {total} of {}",
            body.len()
        );
        let (frame, rest) = body.split_at(total);
        frames.push(parse_one(frame));
        body = rest;
    }
    frames
}

fn parse_one(frame: &[u8]) -> Frame {
    assert_eq!(crc32(&frame[..8]), number(&frame[8..]), "the prelude's checksum");
    let end = frame.len() - 4;
    assert_eq!(crc32(&frame[..end]), number(&frame[end..]), "the frame's checksum");
    let headers_end = 12 + number(&frame[4..]) as usize;
    let mut headers = &frame[12..headers_end];
    let (mut kind, mut name) = (String::new(), String::new());
    while !headers.is_empty() {
        let (key, rest) = headers[1..].split_at(usize::from(headers[0]));
        assert_eq!(rest[0], 7, "a header's value is text");
        let bytes = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
        let (value, rest) = rest[3..].split_at(bytes);
        let value = String::from_utf8(value.to_vec()).expect("a header is text");
        match key {
            b":message-type" => kind = value,
            b":event-type" | b":exception-type" => name = value,
            _ => {}
        }
        headers = rest;
    }
    let payload = serde_json::from_slice(&frame[headers_end..end]).expect("a payload is JSON");
    Frame { kind, name, payload }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
