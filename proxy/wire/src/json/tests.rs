//! Bodies as data, each in every split.

use super::*;
use crate::error::Code;
use crate::testing::split;

/// What a scan found, with everything that has a place.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    model: Option<Located>,
    stream: bool,
    include_usage: Option<(bool, Range)>,
    counts: [Option<u64>; 4],
    stream_options: Option<Range>,
    user: Option<Range>,
    fallbacks: Option<(Range, Range)>,
}

#[track_caller]
fn scan(body: &[u8]) -> Result<Facts, JsonError> {
    let mut keys = TopKeys::new();
    split(body, |pieces| {
        keys.reset();
        for piece in pieces {
            keys.push(piece)?;
        }
        keys.finish()?;
        let found = keys.found;
        Ok(Facts {
            model: keys.model().cloned(),
            stream: keys.stream(),
            include_usage: found.include_usage,
            counts: [
                keys.max_tokens(),
                keys.max_completion_tokens(),
                keys.max_output_tokens(),
                keys.n(),
            ],
            stream_options: keys.stream_options(),
            user: keys.user(),
            fallbacks: found.fallbacks,
        })
    })
}

fn at(body: &str, range: Range) -> &str {
    &body[range.start as usize..range.end as usize]
}

#[test]
fn a_usual_body_gives_its_members_and_their_places() {
    let body = r#" {"messages":[{"role":"user","content":"a \"model\": \\"},{"x":[{}, [1.5e3, null]]}],
        "model" : "openai/gpt-4o-mini" , "stream":true,"stream_options": {"a":{"include_usage":1}, "include_usage" :true },
        "max_tokens":100,"max_completion_tokens":2e2,"max_output_tokens":1.5,"n":-1,"user":"u\"1","model_x":"y",
        "metadata":{"model":"z"},"include_usage":"not here","temperature":0.1} "#;
    let facts = scan(body.as_bytes()).unwrap();
    let model = facts.model.unwrap();
    assert_eq!(model.as_str(), "openai/gpt-4o-mini");
    assert_eq!(
        at(
            body,
            Range {
                start: model.start,
                end: model.end
            }
        ),
        "\"openai/gpt-4o-mini\""
    );
    assert!(facts.stream);
    let (include_usage, range) = facts.include_usage.unwrap();
    assert_eq!((include_usage, at(body, range)), (true, "true"));
    assert_eq!(facts.counts, [Some(100), Some(200), Some(2), None]);
    assert_eq!(
        at(body, facts.stream_options.unwrap()),
        r#"{"a":{"include_usage":1}, "include_usage" :true }"#
    );
    assert_eq!(at(body, facts.user.unwrap()), r#""u\"1""#);
    assert_eq!(facts.fallbacks, None);
}

#[test]
fn models_are_read_as_the_provider_reads_them() {
    let cases = [
        (r#"{"model":"a"}"#, "a"),
        (r#"{"mod\u0065l":"a"}"#, "a"),
        (
            r#"{"\u006d\u006F\u0064\u0065\u006c":"a\/b\u00e9\ud83d\ude00"}"#,
            "a/bé😀",
        ),
        (r#"{"model":"é\t\"\\\b\f\n\r"}"#, "é\t\"\\\u{8}\u{c}\n\r"),
        (r#"{"model":""}"#, ""),
        (
            r#"{"mod\\u0065l":"x","\ud800model":1,"model\u0000":2,"model":"b"}"#,
            "b",
        ),
        (r#"{"a very long key that is not kept \n whole":1,"model":"c"}"#, "c"),
    ];
    for (body, model) in cases {
        let found = scan(body.as_bytes()).unwrap().model.unwrap();
        assert_eq!(found.as_str(), model, "{body}");
        let value: serde_json::Value = serde_json::from_str(&body.replace("\\ud800", "")).unwrap();
        assert_eq!(value["model"], model, "{body}");
        let quoted = &body[found.start as usize..found.end as usize];
        assert!(quoted.starts_with('"') && quoted.ends_with('"'), "{body}");
    }
    assert_eq!(scan(b"{}").unwrap().model, None);
    assert_eq!(scan(b"{ }").unwrap().model, None);
}

#[test]
fn fallbacks_can_be_cut_out_of_any_place() {
    let cases = [
        (r#"{"fallbacks":["a"]}"#, "{}"),
        (r#"{"fallbacks":["a"] , "b":1}"#, r#"{ "b":1}"#),
        (r#"{"b":1 , "fallbacks" : "x"}"#, r#"{"b":1 }"#),
        (r#"{"b":1,"fallbacks":{"a":[]},"c":2}"#, r#"{"b":1,"c":2}"#),
        (
            r#"{"stream_options":{"x":1,"y":2},"fallbacks":7}"#,
            r#"{"stream_options":{"x":1,"y":2}}"#,
        ),
        (
            r#"{"fallbacks":null,"stream_options":{},"z":0}"#,
            r#"{"stream_options":{},"z":0}"#,
        ),
        (
            r#"{"stream_options":{"fallbacks":1},"fallbacks":2}"#,
            r#"{"stream_options":{"fallbacks":1}}"#,
        ),
    ];
    for (body, expected) in cases {
        let (_, member) = scan(body.as_bytes()).unwrap().fallbacks.unwrap();
        let rest = [&body[..member.start as usize], &body[member.end as usize..]].concat();
        assert_eq!(rest, expected, "{body}");
    }
}

#[test]
fn members_may_be_inserted_after_the_opening_bracket() {
    let mut keys = TopKeys::new();
    keys.push(b" {\"a\":1}").unwrap();
    assert_eq!((keys.object_start(), keys.has_members()), (2, true));
    keys.reset();
    keys.push(b"{}").unwrap();
    assert_eq!((keys.object_start(), keys.has_members()), (1, false));
}

#[test]
fn bodies_that_parsers_read_differently_are_refused() {
    use JsonError::*;
    let deep = [b"{\"a\":".as_slice(), &[b'['; JSON_DEPTH_MAX as usize]].concat();
    let long_model = format!("{{\"model\":\"{}\"}}", "x".repeat(MODEL_BYTES_MAX + 1));
    let long_escaped = format!("{{\"model\":\"\\u0078{}\"}}", "x".repeat(MODEL_BYTES_MAX));
    let cases: &[(JsonError, &[u8])] = &[
        (NotAnObject, b""),
        (NotAnObject, b" \n"),
        (NotAnObject, b"[]"),
        (NotAnObject, b"\"model\""),
        (NotAnObject, b"\x00{}"),
        (ByteOrderMark, b"\xef\xbb\xbf{}"),
        (TrailingBytes, b"{}{}"),
        (TrailingBytes, b"{} x"),
        (TrailingBytes, b"{}\x00"),
        (DuplicateKey("model"), br#"{"model":"a","model":"a"}"#),
        (DuplicateKey("model"), br#"{"model":"a","mod\u0065l":"b"}"#),
        (DuplicateKey("stream"), br#"{"stream":true,"stream":false}"#),
        (
            DuplicateKey("stream_options"),
            br#"{"stream_options":null,"stream_options":{}}"#,
        ),
        (
            DuplicateKey("include_usage"),
            br#"{"stream_options":{"include_usage":true,"include_usage":false}}"#,
        ),
        (DuplicateKey("max_tokens"), br#"{"max_tokens":1,"max_tokens":2}"#),
        (ModelNotString, br#"{"model":1}"#),
        (ModelNotString, br#"{"model":null}"#),
        (ModelNotString, br#"{"model":["a"]}"#),
        (ModelTooLong, long_model.as_bytes()),
        (ModelTooLong, long_escaped.as_bytes()),
        (ModelText, b"{\"model\":\"a\nb\"}"),
        (ModelText, b"{\"model\":\"a\\\nb\"}"),
        (ModelText, b"{\"model\":\"\xff\"}"),
        (ModelText, br#"{"model":"\ud800"}"#),
        (ModelText, br#"{"model":"\ud800\ud800\udc00"}"#),
        (ModelText, br#"{"model":"\udc00"}"#),
        (ModelText, br#"{"model":"\x"}"#),
        (ModelText, br#"{"model":"\u00g0"}"#),
        (NotBoolean("stream"), br#"{"stream":1}"#),
        (NotBoolean("stream"), br#"{"stream":"true"}"#),
        (NotBoolean("stream"), br#"{"stream":trueish}"#),
        (NotBoolean("stream"), br#"{"stream":[true]}"#),
        (
            NotBoolean("include_usage"),
            br#"{"stream_options":{"include_usage":{}}}"#,
        ),
        (Truncated, b"{"),
        (Truncated, br#"{"model":"a""#),
        (Truncated, br#"{"a":"\""#),
        (Truncated, br#"{"a":1"#),
        (Truncated, br#"{"a":[{}"#),
        (Syntax, b"{,}"),
        (Syntax, br#"{"a":1,}"#),
        (Syntax, br#"{"a"}"#),
        (Syntax, br#"{"a":}"#),
        (Syntax, br#"{"a" 1}"#),
        (Syntax, br#"{"a":1 2}"#),
        (Syntax, br#"{"a":1 "b":2}"#),
        (Syntax, br#"{a:1}"#),
        (Syntax, br#"{'a':1}"#),
        (Syntax, br#"{"a":'"'}"#),
        (Syntax, br#"{"a":[/* " */]}"#),
        (Syntax, br#"{"a":[1,'"']}"#),
        (Syntax, br#"{/**/"a":1}"#),
        (Syntax, b"{\"a\":[\x00]}"),
        (Syntax, b"{\"a\\\n\":1}"),
        (Syntax, b"{\"a\n\":1}"),
        (BracketMismatch, br#"{"a":[1}"#),
        (BracketMismatch, br#"{"a":{"b":1]}"#),
        (BracketMismatch, br#"{"a":1]"#),
        (TooDeep, &deep),
    ];
    for &(rule, body) in cases {
        assert_eq!(scan(body), Err(rule), "{}", String::from_utf8_lossy(body));
        assert!(!rule.to_string().is_empty());
        assert!(matches!(rule.code(), Code::InvalidBody | Code::InvalidParameter));
    }
}

#[test]
fn limits_are_exact() {
    let nested = |depth: usize| {
        let levels = depth - 1;
        [b"{\"a\":".as_slice(), &vec![b'['; levels], &vec![b']'; levels], b"}"].concat()
    };
    assert!(scan(&nested(JSON_DEPTH_MAX as usize)).is_ok());
    assert_eq!(scan(&nested(JSON_DEPTH_MAX as usize + 1)), Err(JsonError::TooDeep));
    let model = "x".repeat(MODEL_BYTES_MAX);
    let facts = scan(format!("{{\"model\":\"{model}\"}}").as_bytes()).unwrap();
    assert_eq!(facts.model.unwrap().as_str(), model);
}

#[test]
fn strings_of_every_length_are_jumped_over_exactly() {
    for length in 0..100 {
        for backslash in 0..=length {
            let mut text = "é".repeat(length / 2 + 1)[..length & !1].to_owned();
            text.push_str(if length & 1 == 1 { "x" } else { "" });
            let escaped: String = text
                .chars()
                .take(backslash)
                .chain("\\\"".chars())
                .chain(text.chars().skip(backslash))
                .collect();
            let body = format!("{{\"a\":\"{escaped}\",\"b\":[\"{escaped}\"],\"model\":\"m\"}}");
            let mut keys = TopKeys::new();
            keys.push(body.as_bytes()).unwrap();
            keys.finish().unwrap();
            assert_eq!(keys.model().map(Located::as_str), Some("m"), "{body}");
        }
    }
}

#[test]
fn null_and_absent_are_the_same() {
    let facts = scan(br#"{"stream":null,"stream_options":null,"max_tokens":null,"n":null,"user":null}"#).unwrap();
    assert!(!facts.stream);
    assert_eq!((facts.include_usage, facts.counts), (None, [None; 4]));
    let facts = scan(br#"{"max_tokens":"5","n":"1"}"#).unwrap();
    assert_eq!(facts.counts[0], None, "a limit that may not be read as one is none");
    assert_eq!(
        facts.counts[3],
        Some(u64::MAX),
        "as many as some provider may make of it"
    );
    let facts = scan(br#"{"stream_options":{"include_usage":null}}"#).unwrap();
    assert_eq!(facts.include_usage, None);
}
