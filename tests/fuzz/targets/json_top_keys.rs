//! The top-level key scan: the same in every split; and of a body that both accept, serde_json reads the same values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sluice_fuzz::{pieces, seeded};
use sluice_wire::json::{JsonError, Located, Range, TopKeys};

fuzz_target!(|input: &[u8]| {
    let (seed, bytes) = seeded(input);
    let whole = scan([bytes].into_iter());
    let cut = scan(pieces(seed, bytes));
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(facts(whole), facts(cut)),
        // Which of several faults is named may depend on the cuts.
        (Err(_), Err(_)) => {}
        _ => panic!("{whole:?} and {cut:?}"),
    }
    if let (Ok(keys), Ok(value)) = (&whole, serde_json::from_slice::<Value>(bytes)) {
        agree(keys, &value, bytes);
    }
});

fn scan<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Result<TopKeys, JsonError> {
    let mut keys = TopKeys::new();
    pieces.try_for_each(|piece| keys.push(piece))?;
    keys.finish()?;
    Ok(keys)
}

type Facts<'a> = (
    Option<&'a Located>,
    bool,
    Option<bool>,
    [Option<u64>; 4],
    [Option<Range>; 5],
    u64,
);

fn facts(keys: &TopKeys) -> Facts<'_> {
    (
        keys.model(),
        keys.stream(),
        keys.include_usage(),
        [
            keys.max_tokens(),
            keys.max_completion_tokens(),
            keys.max_output_tokens(),
            keys.n(),
        ],
        [
            keys.stream_options(),
            keys.user(),
            keys.fallbacks(),
            keys.fallbacks_member(),
            keys.include_usage_range(),
        ],
        keys.object_start(),
    )
}

fn agree(keys: &TopKeys, value: &Value, bytes: &[u8]) {
    let object = value.as_object().expect("the scan accepts objects only");
    let at = |range: Range| &bytes[range.start as usize..range.end as usize];
    assert_eq!(
        keys.model().map(Located::as_str),
        object.get("model").and_then(Value::as_str)
    );
    if let Some(model) = keys.model() {
        let raw = at(Range {
            start: model.start,
            end: model.end,
        });
        assert_eq!(serde_json::from_slice::<String>(raw).expect("a string"), model.as_str());
    }
    assert_eq!(keys.stream(), object.get("stream") == Some(&Value::Bool(true)));
    let usage = object
        .get("stream_options")
        .and_then(|options| options.get("include_usage"))
        .and_then(Value::as_bool);
    assert_eq!(keys.include_usage(), usage);
    if let Some(count) = object.get("max_tokens").and_then(Value::as_u64) {
        assert_eq!(keys.max_tokens(), Some(count));
    }
    for (name, range) in [
        ("user", keys.user()),
        ("fallbacks", keys.fallbacks()),
        ("stream_options", keys.stream_options()),
    ] {
        if let (Some(range), Some(value)) = (range, object.get(name)) {
            assert_eq!(serde_json::from_slice::<Value>(at(range)).ok().as_ref(), Some(value));
        }
    }
    assert_eq!(keys.has_members(), !object.is_empty());
    if let Some(member) = keys.fallbacks_member() {
        let rest = [&bytes[..member.start as usize], &bytes[member.end as usize..]].concat();
        let rest: Value = serde_json::from_slice(&rest).expect("still JSON without the member");
        let mut expected = value.clone();
        expected.as_object_mut().expect("an object").remove("fallbacks");
        assert_eq!(rest, expected);
    }
}
