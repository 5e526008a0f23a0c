//! The event decoder: the same events in every split, and an event that is written is read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::sse::{SseDecoder, write_event};

type Event = (Vec<u8>, Vec<u8>, Vec<u8>);

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = decode([bytes].into_iter());
    assert_eq!(whole, decode(pieces(seed, bytes)));
    for (_, data, _) in &whole {
        let mut stream = Vec::new();
        write_event(Some("e"), data, &mut stream);
        let events = decode(pieces(seed, &stream));
        assert_eq!(events, [(b"e".to_vec(), data.clone(), Vec::new())]);
    }
});

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut decoder = SseDecoder::new();
    let mut events = Vec::new();
    for piece in pieces {
        decoder
            .push(piece, |event| {
                events.push((event.event.to_vec(), event.data.to_vec(), event.id.to_vec()))
            })
            .expect("smaller than the bound");
    }
    events
}
