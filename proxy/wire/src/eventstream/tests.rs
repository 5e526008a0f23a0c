//! Tests of AWS event-stream framing: real messages, every split, every broken byte.

use super::*;

/// Bytes that botocore 1.43's decoder reads as the headers and payloads below.
const EMPTY: &str = "000000100000000005c248eb7d98c8ff";
const ALL_TYPES: &str = "0000008d000000707c51da760474727565000566616c736501046279746502ff0573686f727403fffe03696e7404fffffffd\
046c6f6e6705fffffffffffffffc05627974657306000300010206737472696e67070002c3bc0474696d65080000014f7e9b6f8004757569640900010203\
0405060708090a0b0c0d0e0f7b27666f6f273a27626172277d57422526";
const MESSAGE_START: &str = "00000082000000522b610c430b3a6576656e742d7479706507000c6d65737361676553746172740d3a636f6e74656e742d\
747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b2270223a226162636465222c22726f6c65\
223a22617373697374616e74227d2a2e7318";

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .map(|byte| (byte as char).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// All that a message shows, owned, so that runs can be compared.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: MessageKind,
    event_type: String,
    exception_type: String,
    headers: String,
    payload: Vec<u8>,
}

fn see(message: &Message<'_>) -> Seen {
    Seen {
        kind: message.kind,
        event_type: message.event_type.to_owned(),
        exception_type: message.exception_type.to_owned(),
        headers: format!("{:?}", message.headers().collect::<Vec<_>>()),
        payload: message.payload.to_vec(),
    }
}

/// Decodes `bytes` given in pieces that end at `cuts`.
fn decode(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Seen>, FrameError> {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&bytes.len()]) {
        let mut input = &bytes[from..to];
        while let Some(message) = decoder.next_message(&mut input)? {
            seen.push(see(&message));
        }
        assert!(input.is_empty(), "all input is used before more is asked for");
        from = to;
    }
    decoder.finish()?;
    Ok(seen)
}

fn stream() -> Vec<u8> {
    let mut out = unhex(MESSAGE_START);
    out.extend(unhex(EMPTY));
    out.extend(unhex(ALL_TYPES));
    let open = begin_exception("throttlingException", &mut out);
    out.extend_from_slice(br#"{"message":"slow down"}"#);
    open.finish(&mut out).unwrap();
    out
}

#[test]
fn decodes_every_header_type() {
    let bytes = unhex(ALL_TYPES);
    let mut decoder = Decoder::new();
    let mut input = &bytes[..];
    let message = decoder.next_message(&mut input).unwrap().unwrap();
    let uuid = std::array::from_fn(|index| index as u8);
    let expected = [
        ("true", HeaderValue::Bool(true)),
        ("false", HeaderValue::Bool(false)),
        ("byte", HeaderValue::Byte(-1)),
        ("short", HeaderValue::Short(-2)),
        ("int", HeaderValue::Integer(-3)),
        ("long", HeaderValue::Long(-4)),
        ("bytes", HeaderValue::Bytes(&[0, 1, 2])),
        ("string", HeaderValue::String("ü")),
        ("time", HeaderValue::Timestamp(1_440_938_160_000)),
        ("uuid", HeaderValue::Uuid(uuid)),
    ];
    assert_eq!(message.headers().collect::<Vec<_>>(), expected);
    assert_eq!(message.payload, b"{'foo':'bar'}");

    let mut again = Vec::new();
    let open = begin(&expected, &mut again).unwrap();
    again.extend_from_slice(message.payload);
    open.finish(&mut again).unwrap();
    assert_eq!(again, bytes, "encoding is the inverse");
}

#[test]
fn an_event_is_encoded_as_aws_sends_it() {
    let mut out = Vec::new();
    let open = begin_event("messageStart", &mut out);
    out.extend_from_slice(br#"{"p":"abcde","role":"assistant"}"#);
    open.finish(&mut out).unwrap();
    assert_eq!(out, unhex(MESSAGE_START));
}

#[test]
fn names_of_events_and_exceptions_are_seen() {
    let seen = decode(&stream(), &[]).unwrap();
    assert_eq!(seen.len(), 4);
    assert_eq!(
        (seen[0].kind, seen[0].event_type.as_str()),
        (MessageKind::Event, "messageStart")
    );
    assert_eq!((seen[1].kind, seen[1].event_type.as_str()), (MessageKind::Event, ""));
    assert_eq!(
        (seen[3].kind, seen[3].exception_type.as_str()),
        (MessageKind::Exception, "throttlingException")
    );
    assert_eq!(seen[3].payload, br#"{"message":"slow down"}"#);
}

#[test]
fn an_unmodelled_error_shows_code_and_message() {
    let headers = [
        (":message-type", HeaderValue::String("error")),
        (":error-code", HeaderValue::String("InternalFailure")),
        (":error-message", HeaderValue::String("went away")),
    ];
    let mut out = Vec::new();
    begin(&headers, &mut out).unwrap().finish(&mut out).unwrap();
    let mut decoder = Decoder::new();
    let mut input = &out[..];
    let message = decoder.next_message(&mut input).unwrap().unwrap();
    assert_eq!(message.kind, MessageKind::Error);
    assert_eq!(
        (message.exception_type, message.error_message),
        ("InternalFailure", "went away")
    );
}

#[test]
fn a_stream_split_anywhere_decodes_alike() {
    let bytes = stream();
    let whole = decode(&bytes, &[]).unwrap();
    for cut in 0..=bytes.len() {
        assert_eq!(decode(&bytes, &[cut]).unwrap(), whole, "cut at {cut}");
    }
    let every: Vec<usize> = (1..bytes.len()).collect();
    assert_eq!(decode(&bytes, &every).unwrap(), whole, "one byte at a time");
    for first in 0..bytes.len() {
        let second = (first + 13).min(bytes.len());
        assert_eq!(
            decode(&bytes, &[first, second]).unwrap(),
            whole,
            "cuts at {first} and {second}"
        );
    }
}

#[test]
fn a_stream_that_ends_inside_a_message_is_truncated() {
    let bytes = unhex(MESSAGE_START);
    for end in 1..bytes.len() {
        assert_eq!(decode(&bytes[..end], &[]), Err(FrameError::Truncated), "end at {end}");
    }
    assert_eq!(decode(&[], &[]), Ok(vec![]));
}

#[test]
fn any_flipped_bit_is_an_error_and_stays_one() {
    let bytes = unhex(MESSAGE_START);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let mut decoder = Decoder::new();
            let error = decoder
                .next_message(&mut &bad[..])
                .expect_err("a CRC finds every single-bit error");
            let expected = if at < 12 {
                FrameError::PreludeCrc
            } else {
                FrameError::MessageCrc
            };
            assert_eq!(error, expected, "byte {at} bit {bit}");
            assert_eq!(decoder.next_message(&mut &bytes[..]), Err(error), "the framing is lost");
            assert_eq!(decoder.finish(), Err(error));
        }
    }
}

fn prelude(total: u32, headers: u32) -> Vec<u8> {
    let mut out = [total.to_be_bytes(), headers.to_be_bytes()].concat();
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

#[test]
fn lengths_are_checked_before_a_byte_of_the_body_is_kept() {
    let max = limits::EVENTSTREAM_MESSAGE_BYTES_MAX as u32;
    let headers_max = limits::EVENTSTREAM_HEADERS_BYTES_MAX as u32;
    for (total, headers, error) in [
        (0, 0, FrameError::Length),
        (15, 0, FrameError::Length),
        (16, 1, FrameError::Length),
        (100, u32::MAX, FrameError::Length),
        (max + 1, 0, FrameError::TooLarge),
        (u32::MAX, 0, FrameError::TooLarge),
        (max, headers_max + 1, FrameError::TooLarge),
    ] {
        let mut decoder = Decoder::new();
        assert_eq!(
            decoder.next_message(&mut &prelude(total, headers)[..]),
            Err(error),
            "{total} {headers}"
        );
        let mut decoder = Decoder::new();
        let bytes = prelude(total, headers);
        assert_eq!(decoder.next_message(&mut &bytes[..5]), Ok(None));
        assert_eq!(
            decoder.next_message(&mut &bytes[5..]),
            Err(error),
            "split: {total} {headers}"
        );
        assert!(decoder.held_bytes() <= 12);
    }
    let mut decoder = Decoder::new();
    assert_eq!(
        decoder.next_message(&mut &prelude(max, headers_max)[..]),
        Ok(None),
        "the largest is accepted"
    );
    assert_eq!(decoder.held_bytes(), 12);
}

#[test]
fn a_message_over_the_bound_is_not_written() {
    let mut out = b"before".to_vec();
    let open = begin_event("contentBlockDelta", &mut out);
    out.resize(out.len() + limits::EVENTSTREAM_MESSAGE_BYTES_MAX, b'x');
    assert_eq!(open.finish(&mut out), Err(FrameError::TooLarge));
    assert_eq!(out, b"before");
    let long = "x".repeat(256);
    assert_eq!(
        begin(&[(&long, HeaderValue::Bool(true))], &mut out).unwrap_err(),
        FrameError::Header
    );
    assert_eq!(
        begin(&[("", HeaderValue::Bool(true))], &mut out).unwrap_err(),
        FrameError::Header
    );
    assert_eq!(out, b"before");
}

fn with_headers(headers: &[u8]) -> Vec<u8> {
    let mut out = prelude(16 + headers.len() as u32, headers.len() as u32);
    out.extend_from_slice(headers);
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

#[test]
fn bad_headers_are_errors() {
    for headers in [
        &b"\x00\x00"[..],                                            // no name
        b"\x05ab",                                                   // cut in the name
        b"\x01a",                                                    // no type
        b"\x01a\x0a",                                                // unknown type
        b"\x01a\x02",                                                // cut in a byte
        b"\x01a\x09\x00",                                            // cut in a UUID
        b"\x01a\x07\x00\x05ab",                                      // cut in a string
        b"\x01a\x07\x00\x01\xff",                                    // not UTF-8
        b"\x01\xff\x00",                                             // name not UTF-8
        b"\x0b:event-type\x07\x00\x01a\x0b:event-type\x07\x00\x01b", // twice
    ] {
        let bytes = with_headers(headers);
        let mut decoder = Decoder::new();
        assert_eq!(
            decoder.next_message(&mut &bytes[..]),
            Err(FrameError::Header),
            "{headers:?}"
        );
    }
    let ordinary = with_headers(b"\x01a\x00\x01a\x01");
    assert_eq!(decode(&ordinary, &[]).unwrap().len(), 1, "other names may come twice");
}

#[test]
fn what_a_large_message_needed_is_given_back() {
    let mut bytes = Vec::new();
    let open = begin_event("contentBlockDelta", &mut bytes);
    bytes.resize(1024 * 1024, b'x');
    open.finish(&mut bytes).unwrap();
    let mut decoder = Decoder::new();
    let (head, mut tail) = bytes.split_at(1000);
    assert_eq!(decoder.next_message(&mut &head[..]), Ok(None));
    assert_eq!(decoder.held_bytes(), 1000);
    assert!(decoder.next_message(&mut tail).unwrap().is_some());
    assert_eq!(decoder.next_message(&mut &[][..]), Ok(None));
    assert!(decoder.partial.capacity() <= limits::EVENTSTREAM_RETAINED_BYTES_MAX);
}

#[test]
fn a_message_that_lies_whole_in_the_input_is_not_copied() {
    let bytes = stream();
    let mut decoder = Decoder::new();
    let mut input = &bytes[..];
    while decoder.next_message(&mut input).unwrap().is_some() {}
    assert_eq!(decoder.partial.capacity(), 0);
}
