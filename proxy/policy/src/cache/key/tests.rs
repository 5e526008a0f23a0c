//! What is in a key, what is not, and what is not cached, in every dialect.

use sluice_wire::provider::{self, Ingress};

use super::*;

const SCOPE: Scope<'static> = Scope {
    tenant: "plant",
    route: "inspection",
    dialect: Dialect::ALL[0],
    context: &[("variant", Some("a"))],
    epoch: 1,
};

fn secret() -> Secret {
    Secret::new([3; 32])
}

fn read(dialect: Dialect, body: &str, scope: &Scope<'_>, eligible: &Eligible) -> Result<Canonical, Bypass> {
    let ingress = Ingress {
        path_model: Some("m"),
        path_stream: false,
    };
    let request = provider::parse_request(dialect, body.as_bytes(), &ingress).unwrap();
    let mut canonical = Canonical::default();
    canonical.read(&request, scope, eligible, &secret()).map(|()| canonical)
}

fn openai(body: &str) -> Canonical {
    read(Dialect::ALL[0], body, &SCOPE, &Eligible::default()).unwrap()
}

fn bypass(body: &str) -> Option<Bypass> {
    read(Dialect::ALL[0], body, &SCOPE, &Eligible::default()).err()
}

/// The key and the bucket of a body.
fn keys(body: &str) -> (Key, Option<Key>) {
    let canonical = openai(body);
    (
        canonical.exact(&secret()),
        canonical.bucket(&secret(), b"signature", b""),
    )
}

fn chat(fields: &str, messages: &str) -> String {
    let fields = if fields.is_empty() {
        String::new()
    } else {
        format!(",{fields}")
    };
    format!(r#"{{"model":"m","messages":[{messages}]{fields}}}"#)
}

const USER: &str = r#"{"role":"user","content":"Is it there?"}"#;

#[test]
fn every_parameter_is_in_key_and_bucket() {
    let plain = keys(&chat("", USER));
    let fields = [
        r#""temperature":0"#,
        r#""temperature":0.0"#,
        r#""top_p":0.5"#,
        r#""top_k":3"#,
        r#""max_tokens":10"#,
        r#""max_tokens":11"#,
        r#""stop":["x"]"#,
        r#""stop":["x","y"]"#,
        r#""stop":["xy"]"#,
        r#""seed":1"#,
        r#""presence_penalty":1"#,
        r#""frequency_penalty":1"#,
        r#""logit_bias":{"1":2}"#,
        r#""logprobs":true"#,
        r#""logprobs":true,"top_logprobs":2"#,
        r#""reasoning_effort":"low""#,
        r#""service_tier":"flex""#,
        r#""user":"u""#,
        r#""metadata":{"a":"b"}"#,
        r#""response_format":{"type":"json_object"}"#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{}}}"#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{},"strict":true}}"#,
        r#""verbosity":"low""#,
        r#""something_new":1"#,
    ];
    let mut all = vec![plain];
    for field in fields {
        let keys = keys(&chat(field, USER));
        assert!(
            all.iter().all(|known| known.0 != keys.0 && known.1 != keys.1),
            "{field}"
        );
        all.push(keys);
    }
}

#[test]
fn how_a_request_is_written_and_whether_it_is_streamed_is_not() {
    let plain = keys(&chat("", USER));
    for field in [
        r#""stream":true"#,
        r#""stream":true,"stream_options":{"include_usage":true}"#,
        r#""n":1"#,
    ] {
        assert_eq!(keys(&chat(field, USER)), plain, "{field}");
    }
    let escaped = r#" { "messages" : [ {"content":"Is it \u0074here?", "role":"user"} ], "model":"\u006d" } "#;
    assert_eq!(keys(escaped), plain);
    let parts = r#"{"role":"user","content":[{"type":"text","text":"Is it there?"}]}"#;
    assert_eq!(keys(&chat("", parts)), plain);
}

#[test]
fn history_is_in_the_bucket_and_the_last_text_is_not() {
    let system = r#"{"role":"system","content":"Be brief."}"#;
    let developer = r#"{"role":"developer","content":"Be brief."}"#;
    let answer = r#"{"role":"assistant","content":"Yes."}"#;
    let named = r#"{"role":"user","name":"n","content":"Is it there?"}"#;
    let histories = [
        USER.to_owned(),
        format!("{system},{USER}"),
        format!("{developer},{USER}"),
        format!("{USER},{USER}"),
        format!("{USER},{answer},{USER}"),
        named.to_owned(),
    ];
    let all: Vec<_> = histories.iter().map(|messages| keys(&chat("", messages))).collect();
    for (at, one) in all.iter().enumerate() {
        assert!(
            all[..at].iter().all(|other| other.0 != one.0 && other.1 != one.1),
            "{}",
            histories[at]
        );
    }
    let other = keys(&chat("", r#"{"role":"user","content":"Is it gone?"}"#));
    assert!(other.0 != all[0].0 && other.1 == all[0].1);
    let canonical = openai(&chat("", &histories[4]));
    assert_eq!((canonical.text(), canonical.is_semantic()), ("Is it there?", true));
}

#[test]
fn texts_do_not_run_together() {
    let parts = |texts: &[&str]| {
        let parts: Vec<String> = texts
            .iter()
            .map(|text| format!(r#"{{"type":"text","text":"{text}"}}"#))
            .collect();
        keys(&chat(
            "",
            &format!(r#"{{"role":"user","content":[{}]}}"#, parts.join(",")),
        ))
    };
    let all = [
        parts(&["ab", "c"]),
        parts(&["a", "bc"]),
        parts(&["abc"]),
        parts(&["a", "b", "c"]),
        parts(&["", "abc"]),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(all[..at].iter().all(|other| other.0 != one.0), "{at}");
    }
}

#[test]
fn scope_is_in_key_and_bucket() {
    let with = |scope: &Scope<'_>| {
        let canonical = read(Dialect::ALL[0], &chat("", USER), scope, &Eligible::default()).unwrap();
        (canonical.exact(&secret()), canonical.bucket(&secret(), b"", b""))
    };
    let base = with(&SCOPE);
    let contexts: [&[(&str, Option<&str>)]; 6] = [
        &[],
        &[("variant", None)],
        &[("variant", Some(""))],
        &[("variant", Some("b"))],
        &[("camera", Some("a"))],
        &[("variant", Some("a")), ("camera", Some("a"))],
    ];
    let mut scopes: Vec<Scope<'_>> = contexts.iter().map(|context| Scope { context, ..SCOPE }).collect();
    scopes.push(Scope {
        tenant: "plan",
        ..SCOPE
    });
    scopes.push(Scope {
        route: "other",
        ..SCOPE
    });
    scopes.push(Scope { epoch: 2, ..SCOPE });
    scopes.push(Scope {
        dialect: Dialect::ALL[1],
        ..SCOPE
    });
    let mut all = vec![base];
    for scope in &scopes {
        let keys = with(scope);
        assert!(
            all.iter().all(|known| known.0 != keys.0 && known.1 != keys.1),
            "{scope:?}"
        );
        all.push(keys);
    }
    let canonical = openai(&chat("", USER));
    assert_ne!(
        canonical.exact(&secret()),
        canonical.exact(&Secret::new([4; 32])),
        "another installation"
    );
}

#[test]
fn every_byte_of_an_image_is_in_the_key_and_frames_of_one_scene_have_one() {
    let image = |data: &str, text: &str| {
        let url = format!("data:image/png;base64,{data}");
        let parts =
            format!(r#"[{{"type":"image_url","image_url":{{"url":"{url}"}}}},{{"type":"text","text":"{text}"}}]"#);
        openai(&chat("", &format!(r#"{{"role":"user","content":{parts}}}"#)))
    };
    let (one, other, asked) = (image("AAAA", "ok?"), image("AAAB", "ok?"), image("AAAA", "worn?"));
    let all = |canonical: &Canonical| {
        let secret = secret();
        (
            canonical.exact(&secret),
            canonical.bucket(&secret, b"", b""),
            canonical.frames(&secret),
        )
    };
    assert!(all(&one).0 != all(&other).0 && all(&one).1 != all(&other).1);
    assert_eq!(all(&one).2, all(&other).2);
    assert!(all(&one).2 != all(&asked).2 && all(&one).1 == all(&asked).1);
    assert_eq!(openai(&chat("", USER)).frames(&secret()), None);
    assert_eq!((one.images().len(), one.is_semantic()), (32, true));
}

#[test]
fn what_may_change_behind_an_address_or_is_unknown_or_calls_tools_is_not_cached() {
    let content = |part: &str| chat("", &format!(r#"{{"role":"user","content":[{part}]}}"#));
    let tool = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    let called =
        r#"{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}"#;
    let cases = [
        (
            content(r#"{"type":"image_url","image_url":{"url":"http://camera/latest.jpg"}}"#),
            Bypass::Remote,
        ),
        (chat(tool, USER), Bypass::Tools),
        (chat(r#""tool_choice":"auto""#, USER), Bypass::Tools),
        (
            chat(
                "",
                &format!(r#"{called},{{"role":"tool","tool_call_id":"1","content":"x"}}"#),
            ),
            Bypass::Tools,
        ),
        (chat(r#""n":2"#, USER), Bypass::Several),
        (
            chat("", r#"{"role":"user","content":"x","novelty":1}"#),
            Bypass::Unknown,
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(bypass(&body), Some(expected), "{body}");
    }
}

#[test]
fn temperatures_above_the_route_s_are_not_cached_and_none_counts_as_one() {
    let at = |fields: &str, max: f64| {
        let eligible = Eligible {
            temperature_max: Some(max),
        };
        read(Dialect::ALL[0], &chat(fields, USER), &SCOPE, &eligible).err()
    };
    assert_eq!(at(r#""temperature":0.2"#, 0.2), None);
    assert_eq!(at(r#""temperature":0.21"#, 0.2), Some(Bypass::Temperature));
    assert_eq!(at("", 0.9), Some(Bypass::Temperature));
    assert_eq!(at("", 1.0), None);
    assert_eq!(at(r#""temperature":0"#, f64::NAN), Some(Bypass::Temperature));
}

#[test]
fn every_dialect_has_a_last_text_and_a_history() {
    let bodies = [
        chat("", &format!(r#"{{"role":"system","content":"Be brief."}},{USER}"#)),
        format!(r#"{{"model":"m","max_tokens":9,"system":"Be brief.","messages":[{USER}]}}"#),
        r#"{"system":[{"text":"Be brief."}],"messages":[{"role":"user","content":[{"text":"Is it there?"}]}]}"#
            .to_owned(),
    ];
    for (dialect, body) in Dialect::ALL.into_iter().zip(&bodies) {
        let scope = Scope { dialect, ..SCOPE };
        let canonical = read(dialect, body, &scope, &Eligible::default()).unwrap();
        assert_eq!(
            (canonical.text(), canonical.is_semantic()),
            ("Is it there?", true),
            "{body}"
        );
        let changed = read(dialect, &body.replace("brief", "long"), &scope, &Eligible::default()).unwrap();
        assert_ne!(
            canonical.bucket(&secret(), b"", b""),
            changed.bucket(&secret(), b"", b""),
            "{body}"
        );
    }
}

#[test]
fn only_a_user_s_last_words_are_matched_by_meaning() {
    let prefill = chat("", &format!(r#"{USER},{{"role":"assistant","content":"It"}}"#));
    assert!(!openai(&prefill).is_semantic() && openai(&prefill).text().is_empty());
    assert_eq!(openai(&prefill).bucket(&secret(), b"", b""), None);
    let empty = chat("", r#"{"role":"user","content":""}"#);
    assert!(!openai(&empty).is_semantic());
    let endless = chat(
        "",
        &format!(r#"{{"role":"user","content":"{}"}}"#, "word ".repeat(5_000)),
    );
    assert!(!openai(&endless).is_semantic());
}

#[test]
fn a_stored_request_is_recognised_and_gives_its_text_back() {
    let (one, other) = (openai(&chat("", USER)), openai(&chat(r#""seed":1"#, USER)));
    let stored = one.store();
    assert!(one.is(&stored) && !other.is(&stored));
    assert_eq!(Canonical::text_of(&stored), Some("Is it there?"));
    assert!(!one.is(&stored[..stored.len() - 1]) && !one.is(&[&stored[..], b"x"].concat()));
    assert_eq!(Canonical::text_of(b"short"), None);
}
