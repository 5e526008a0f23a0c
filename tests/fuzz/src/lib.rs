//! What the fuzz targets share: cutting an input into the pieces that a network might deliver.
//!
//! The first byte of every fuzz input chooses the cuts, so that the fuzzer controls them. To add a target: `targets/NAME.rs`,
//! its `[[bin]]` in `Cargo.toml`, and a few first inputs in `seeds/NAME/`. To run one for a minute (what it learns goes into the
//! directory that is named first; the code under test has no `unsafe`, hence no sanitizer):
//!
//! ```text
//! mkdir -p tests/fuzz/corpus/NAME
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none NAME tests/fuzz/corpus/NAME tests/fuzz/seeds/NAME -- -max_total_time=60
//! ```

/// Splits a fuzz input into its seed for the cuts and the bytes under test.
pub fn seeded(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(&seed, rest)| (seed, rest))
}

/// Cuts `bytes` into pieces whose lengths follow from `seed`: single bytes for 0, longer and irregular ones otherwise.
pub fn pieces(seed: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(u32::from(seed));
        let length = (1 + (state >> 16) as usize % (1 + usize::from(seed) / 4)).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

/// The same for parsers that are given all that has arrived so far: the growing lengths.
pub fn arrivals(seed: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut arrived = 0;
    pieces(seed, bytes).map(move |piece| {
        arrived += piece.len();
        &bytes[..arrived]
    })
}

/// Whether `text` is JSON by its grammar. Numbers of any size are (RFC 8259 §6), though few programs can hold them.
pub fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}
