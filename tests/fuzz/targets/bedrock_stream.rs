//! ConverseStream into every dialect: the same in every split, whole frames out, and never an end behind an error.
//!
//! The input is lines of `event-type payload`, framed here, because the fuzzer cannot guess a checksum; a line that begins with
//! `!` is an exception.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::chat::{Out, StreamEnd};
use sluice_wire::dialect::Dialect;
use sluice_wire::eventstream::{Decoder, begin_event, begin_exception};
use sluice_wire::provider::{Reply, Transcoder};

const REPLY: Reply<'_> = Reply {
    model: "m",
    id: "id",
    created: 0,
    include_usage: true,
};

fuzz_target!(|input: &[u8]| {
    let (seed, lines) = seeded(input);
    let mut stream = Vec::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let (name, payload) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let open = match name.strip_prefix('!') {
            Some(name) => begin_exception(name, &mut stream),
            None => begin_event(name, &mut stream),
        };
        stream.extend_from_slice(payload.trim_ascii());
        open.finish(&mut stream).expect("inputs are small");
    }
    for to in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Bedrock] {
        let (whole, end) = transcode(to, [&stream[..]].into_iter());
        assert_eq!((&whole, end), (&transcode(to, pieces(seed | 128, &stream)).0, end));
        if to == Dialect::Bedrock {
            let mut decoder = Decoder::new();
            let (mut rest, mut last) = (&whole[..], String::new());
            while let Some(message) = decoder.next_message(&mut rest).expect("sound frames") {
                last = message.event_type.to_owned();
            }
            assert_eq!(decoder.finish(), Ok(()));
            assert_eq!(last == "metadata", end == StreamEnd::Complete);
        }
    }
});

fn transcode<'a>(to: Dialect, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, StreamEnd) {
    let mut transcoder = Transcoder::new(Dialect::Bedrock, to, &REPLY);
    let mut out = Out::default();
    out.begin(&[]);
    for piece in pieces {
        if transcoder.push(piece, &mut out).is_err() {
            return (out.collect(&[]), StreamEnd::Interrupted);
        }
    }
    let end = transcoder.finish(&mut out);
    (out.collect(&[]), end)
}
