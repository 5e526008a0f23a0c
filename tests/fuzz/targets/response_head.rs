//! A response head: the same in every split, and every span inside it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{arrivals, seeded};
use sluice_wire::http::Framing;
use sluice_wire::http::head::ResponseHead;

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let to_head = seed & 1 == 1;
    let mut whole = ResponseHead::default();
    let outcome = whole.parse(bytes, to_head);
    let mut head = ResponseHead::default();
    let parsed = arrivals(seed, bytes).map(|arrived| head.parse(arrived, to_head));
    let cut = parsed
        .into_iter()
        .find(|outcome| *outcome != Ok(false))
        .unwrap_or(Ok(false));
    match (outcome, cut) {
        (Ok(true), cut) => {
            assert_eq!(cut, Ok(true));
            let facts =
                |head: &ResponseHead| (head.status, head.reason, head.framing, head.keep_alive, head.head_bytes);
            assert_eq!(facts(&whole), facts(&head));
            assert_eq!(whole.fields, head.fields);
            assert!((100..=999).contains(&whole.status));
            assert!(!to_head || whole.framing == Framing::Empty);
            assert!(usize::from(whole.reason.end) < whole.head_bytes && !whole.reason.of(bytes).contains(&b'\n'));
            assert!(whole.fields.iter().all(|field| field.line.of(bytes).ends_with(b"\r\n")));
        }
        (Ok(false), cut) => assert_eq!(cut, Ok(false)),
        (Err(_), cut) => assert_ne!(cut, Ok(true)),
    }
});
