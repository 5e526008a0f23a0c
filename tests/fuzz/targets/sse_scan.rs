//! The event scan: the same boundaries and flags in every split, and as many events as the decoder gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::sse::{EventScan, Scan, SseDecoder};

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = scan([bytes].into_iter());
    assert_eq!(whole, scan(pieces(seed, bytes)));
    let (mut events, mut done) = (0, false);
    SseDecoder::new()
        .push(bytes, |event| {
            events += 1;
            done |= event.data == b"[DONE]";
        })
        .expect("smaller than the bound");
    assert_eq!(events, whole.events);
    assert!(whole.done || !done);
});

fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Scan {
    let mut scanner = EventScan::new();
    let (mut total, mut base) = (Scan::default(), 0);
    for piece in pieces {
        let scan = scanner.push(piece);
        assert!(scan.complete <= piece.len());
        if scan.complete > 0 {
            total.complete = base + scan.complete;
        }
        total.events += scan.events;
        total.done |= scan.done;
        total.finished |= scan.finished;
        total.error |= scan.error;
        total.content |= scan.content;
        base += piece.len();
    }
    total
}
