//! The PROXY protocol: once an outcome is known, no further byte changes it; and it lies within what has arrived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{arrivals, seeded};
use sluice_wire::limits::PROXY_V2_BYTES_MAX;
use sluice_wire::proxy_protocol::parse;

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = parse(bytes);
    let cut = arrivals(seed, bytes)
        .map(parse)
        .find(|outcome| *outcome != Ok(None))
        .unwrap_or(parse(b""));
    assert_eq!(whole, cut);
    if let Ok(Some((consumed, _))) = whole {
        assert!(consumed <= bytes.len() && consumed <= PROXY_V2_BYTES_MAX);
    }
    assert!(bytes.len() < PROXY_V2_BYTES_MAX || whole != Ok(None));
});
