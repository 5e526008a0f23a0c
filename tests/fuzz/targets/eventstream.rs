//! The event-stream decoder: the same messages and the same error in every split; what it shows can be written again; and
//! what is written is read alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::eventstream::{Decoder, FrameError, HeaderValue, begin};
use sluice_wire::limits;

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = decode([bytes].into_iter());
    assert_eq!(whole, decode(pieces(seed, bytes)));
    // The fuzzer cannot guess a checksum, so the same bytes are also tried as the inside of a sound message.
    let (name, payload) = bytes.split_at(bytes.len().min(usize::from(seed)));
    let headers = [
        (":event-type", HeaderValue::String("x")),
        ("bytes", HeaderValue::Bytes(name)),
    ];
    let mut framed = Vec::new();
    let open = begin(&headers, &mut framed).expect("names and values are short");
    framed.extend_from_slice(payload);
    open.finish(&mut framed).expect("inputs are small");
    let (seen, end) = decode(pieces(seed, &framed));
    assert_eq!((seen.len(), end), (1, Ok(())));
    assert_eq!(seen[0].1, payload);
    decode_headers(bytes);
});

/// Messages as text and payload, and how it ended.
type Seen = (Vec<(String, Vec<u8>)>, Result<(), FrameError>);

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.next_message(&mut piece) {
                Ok(Some(message)) => {
                    let headers: Vec<_> = message.headers().collect();
                    let mut again = Vec::new();
                    let open = begin(&headers, &mut again).expect("what was read can be written");
                    again.extend_from_slice(message.payload);
                    open.finish(&mut again).expect("no larger than it was");
                    assert_eq!(decode_one(&again), message.payload);
                    seen.push((format!("{headers:?} {message:?}"), message.payload.to_vec()));
                }
                Ok(None) => break,
                Err(error) => return (seen, Err(error)),
            }
        }
        assert!(piece.is_empty());
        assert!(decoder.held_bytes() <= limits::EVENTSTREAM_MESSAGE_BYTES_MAX);
    }
    (seen, decoder.finish())
}

fn decode_one(bytes: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new();
    let mut input = bytes;
    let payload = decoder
        .next_message(&mut input)
        .expect("sound")
        .expect("whole")
        .payload
        .to_vec();
    assert!(input.is_empty());
    payload
}

/// The bytes as a header section with sound checksums: read, or refused, without a panic.
fn decode_headers(bytes: &[u8]) {
    let crc = |bytes: &[u8]| {
        bytes.iter().fold(!0_u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        }) ^ !0
    };
    let bytes = &bytes[..bytes.len().min(4096)];
    let mut message = [
        (bytes.len() as u32 + 16).to_be_bytes(),
        (bytes.len() as u32).to_be_bytes(),
    ]
    .concat();
    message.extend_from_slice(&crc(&message).to_be_bytes());
    message.extend_from_slice(bytes);
    message.extend_from_slice(&crc(&message).to_be_bytes());
    let mut decoder = Decoder::new();
    match decoder.next_message(&mut &message[..]) {
        Ok(message) => {
            let message = message.expect("whole");
            assert!(message.payload.is_empty());
            assert!(message.headers().count() <= bytes.len());
        }
        Err(error) => assert_eq!(error, FrameError::Header),
    }
}
