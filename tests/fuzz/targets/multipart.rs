//! A multipart body: the same in every split, and the model's place holds the model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::json::Located;
use sluice_wire::multipart::{Multipart, MultipartError};

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = scan([bytes].into_iter());
    assert_eq!(whole, scan(pieces(seed, bytes)));
    if let Ok((Some(model), _)) = &whole {
        assert_eq!(
            &bytes[model.start as usize..model.end as usize],
            model.as_str().as_bytes()
        );
    }
    // The same bytes as a Content-Type: no panic, and a boundary that is taken is bounded.
    _ = Multipart::new(bytes);
});

fn scan<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Option<Located>, bool), MultipartError> {
    let mut multipart = Multipart::new(b"multipart/form-data; boundary=x")?;
    pieces.try_for_each(|piece| multipart.push(piece))?;
    multipart.finish()?;
    Ok((multipart.model().cloned(), multipart.stream()))
}
