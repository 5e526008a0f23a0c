//! Streams: the same in every split, and complete for the client only if it was complete at the provider.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::chat::{ChatEvent, Out, StreamEnd};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::eventstream;
use sluice_wire::provider::{Reply, StreamDecoder, Transcoder};

const REPLY: Reply<'static> = Reply {
    model: "m",
    id: "i",
    created: 1,
    include_usage: true,
};

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let from = Dialect::ALL[usize::from(seed) % 3];
    let framed = frames(bytes);
    // Checksums are beyond a fuzzer: one line becomes one frame. Raw bytes are the event-stream decoder's own target.
    let bytes = if from == Dialect::Bedrock { &framed } else { bytes };
    let late = has_late_delta(from, bytes);
    for to in Dialect::ALL {
        let (whole, end) = transcode(from, to, [bytes].into_iter());
        assert_eq!((&whole, end), (&transcode(from, to, pieces(seed, bytes)).0, end));
        let mut decoder = StreamDecoder::new(to);
        decoder.push(&whole, &mut |_| {}).expect("what is written can be read");
        let again = decoder.finish(&mut |_| {});
        assert_eq!(
            if late { 0 } else { decoder.malformed() },
            0,
            "{}",
            String::from_utf8_lossy(&whole)
        );
        assert_eq!(
            again == StreamEnd::Complete,
            end == StreamEnd::Complete,
            "{}",
            String::from_utf8_lossy(&whole)
        );
    }
});

/// Whether a call gets more arguments after the next part has begun, which no provider but an OpenAI-compatible one can say.
fn has_late_delta(from: Dialect, bytes: &[u8]) -> bool {
    let (mut open, mut late) = (None, false);
    let mut decoder = StreamDecoder::new(from);
    let mut watch = |event: ChatEvent<'_>| match event {
        ChatEvent::Open { choice: 0, part, .. } => open = Some(part),
        ChatEvent::Delta { choice: 0, part, .. } => late |= open != Some(part),
        _ => {}
    };
    // A refused stream has said all it had to say.
    let _ = decoder.push(bytes, &mut watch);
    decoder.finish(&mut watch);
    late
}

fn transcode<'a>(from: Dialect, to: Dialect, mut pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, StreamEnd) {
    let (mut transcoder, mut out) = (Transcoder::new(from, to, &REPLY), Out::default());
    out.begin(&[]);
    let refused = pieces.find_map(|piece| transcoder.push(piece, &mut out).err());
    let end = if refused.is_some() {
        StreamEnd::Interrupted
    } else {
        transcoder.finish(&mut out)
    };
    if end == StreamEnd::Interrupted {
        transcoder.interrupt(&ApiError::new(Code::UpstreamStreamInterrupted, "cut"), &mut out);
    }
    (out.buf, end)
}

fn frames(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b' ') else {
            continue;
        };
        let Ok(name) = std::str::from_utf8(&line[..at]) else {
            continue;
        };
        if name.is_empty() || name.len() > 60 {
            continue;
        }
        let open = match name.strip_prefix('!') {
            Some(exception) => eventstream::begin_exception(exception, &mut bytes),
            None => eventstream::begin_event(name, &mut bytes),
        };
        bytes.extend_from_slice(&line[at + 1..]);
        open.finish(&mut bytes).expect("smaller than the bound");
    }
    bytes
}
