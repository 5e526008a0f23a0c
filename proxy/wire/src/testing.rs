//! Feeds a decoder the same bytes in every way a network could deliver them, and demands the same outcome.
//!
//! Deliberately absent: random splits; the fuzz targets in `tests/fuzz` do those.

use std::fmt::Debug;

/// Runs `decode` on `input` whole, cut in two at every place, and one byte at a time. All outcomes must equal the first,
/// which is returned. `decode` is given the pieces in order and must start from a fresh decoder.
#[track_caller]
pub(crate) fn split<T: PartialEq + Debug>(input: &[u8], mut decode: impl FnMut(&[&[u8]]) -> T) -> T {
    let whole = decode(&[input]);
    for at in 0..=input.len() {
        let (head, tail) = input.split_at(at);
        assert_eq!(
            decode(&[head, tail]),
            whole,
            "cut after byte {at} of {:?}",
            String::from_utf8_lossy(input)
        );
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(
        decode(&bytes),
        whole,
        "byte by byte: {:?}",
        String::from_utf8_lossy(input)
    );
    whole
}

/// The same for a parser that is given everything that has arrived so far, from the start, each time: `parse` returns
/// `None` for "incomplete". Only the first outcome counts; bytes after it are not offered.
#[track_caller]
pub(crate) fn split_growing<T: PartialEq + Debug, S>(
    input: &[u8],
    fresh: impl Fn() -> S,
    parse: impl Fn(&mut S, &[u8]) -> Option<T>,
) -> Option<T> {
    split(input, |pieces| {
        let mut parser = fresh();
        let mut arrived = 0;
        pieces.iter().find_map(|piece| {
            arrived += piece.len();
            parse(&mut parser, &input[..arrived])
        })
    })
}
