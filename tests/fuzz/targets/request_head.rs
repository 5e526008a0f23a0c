//! A request head: the same in every split, every span inside it, and a sound head says no more than one thing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{arrivals, seeded};
use sluice_wire::http::head::RequestHead;
use sluice_wire::http::{Field, FieldId, Framing, Span, Version};

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let mut whole = RequestHead::default();
    let outcome = whole.parse(bytes);
    let mut head = RequestHead::default();
    // Cut, a refusal may come later, and by another of the rules that the head breaks; but it comes.
    let cut = arrivals(seed, bytes)
        .map(|arrived| head.parse(arrived))
        .find(|outcome| *outcome != Ok(false))
        .unwrap_or(Ok(false));
    match (outcome, cut) {
        (Ok(true), cut) => {
            assert_eq!(cut, Ok(true));
            assert_eq!(facts(&whole), facts(&head));
            check(&whole, bytes);
        }
        (Ok(false), cut) => assert_eq!(cut, Ok(false)),
        (Err(_), cut) => assert_ne!(cut, Ok(true)),
    }
});

fn facts(head: &RequestHead) -> (Span, Span, Span, Span, &[Field], Framing, bool, bool, usize) {
    (
        head.target,
        head.path,
        head.query,
        head.authority,
        &head.fields,
        head.framing,
        head.keep_alive,
        head.expect_continue,
        head.head_bytes,
    )
}

fn check(head: &RequestHead, bytes: &[u8]) {
    let inside = |span: &Span| span.start <= span.end && usize::from(span.end) <= head.head_bytes;
    assert!(bytes[..head.head_bytes].ends_with(b"\r\n\r\n"));
    assert!(
        [
            &head.method_span,
            &head.target,
            &head.path,
            &head.query,
            &head.authority
        ]
        .into_iter()
        .all(inside)
    );
    for field in &head.fields {
        assert!(inside(&field.line) && field.line.of(bytes).ends_with(b"\r\n"));
        assert!(!field.name.of(bytes).is_empty());
        let value = field.value.of(bytes);
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) && value.trim_ascii() == value);
    }
    let count = |id| head.fields.iter().filter(|field| field.id == id).count();
    assert_eq!(
        count(FieldId::ContentLength),
        usize::from(matches!(head.framing, Framing::Length(_)))
    );
    assert_eq!(
        count(FieldId::TransferEncoding),
        usize::from(head.framing == Framing::Chunked)
    );
    assert!(count(FieldId::Host) == 1 || head.version == Version::Http10);
    let mut all = Vec::new();
    head.copy_fields(bytes, &mut all, |_| true);
    assert!(bytes[..head.head_bytes - 2].ends_with(&all));
}
