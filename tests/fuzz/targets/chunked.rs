//! A chunked body: the same payload, end and refusal in every split; and what is called verbatim decodes to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::http::Framing;
use sluice_wire::http::body::{BodyDecoder, BodyError};

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = decode([bytes].into_iter());
    assert_eq!(whole, decode(pieces(seed, bytes)));
});

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<u8>, usize, bool), BodyError> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut payload, mut consumed, mut spans) = (Vec::new(), 0, Vec::new());
    for piece in pieces {
        spans.clear();
        let step = decoder.push(piece, &mut spans)?;
        let before = payload.len();
        for &(start, end) in &spans {
            assert!(start < end && end as usize <= step.consumed);
            payload.extend_from_slice(&piece[start as usize..end as usize]);
        }
        consumed += step.consumed;
        if step.verbatim {
            let mut again = Vec::new();
            let mut fresh = BodyDecoder::new(Framing::Chunked);
            let repeated = fresh
                .push(&piece[..step.consumed], &mut again)
                .expect("verbatim bytes are chunks");
            assert!(repeated.verbatim && repeated.consumed == step.consumed && repeated.done == step.done);
            let length: usize = again.iter().map(|&(start, end)| (end - start) as usize).sum();
            assert_eq!(length, payload.len() - before);
        }
        if step.done {
            break;
        }
        assert_eq!(step.consumed, piece.len());
    }
    Ok((payload, consumed, decoder.is_done()))
}
