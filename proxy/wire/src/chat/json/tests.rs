//! Tests of the pull parser: what it accepts, refuses and borrows.

use super::*;

fn accepts(text: &str) -> bool {
    let ours = Raw::parse(text).is_ok();
    let reference = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    assert_eq!(ours, reference, "{text}");
    ours
}

#[test]
fn agrees_with_a_reference_parser_on_what_json_is() {
    for text in [
        "{}",
        "[]",
        "[1,2]",
        "{\"a\":[{}],\"b\":null}",
        " [ ] ",
        "-0",
        "0.5e-3",
        "1E+2",
        "\"\\u00e9\\n\\/\"",
        "true",
        "false",
        "[[[[]]]]",
        "\"ü\"",
        "[{\"a\":1},{\"b\":[2]}]",
    ] {
        assert!(accepts(text), "{text}");
    }
    for text in [
        "",
        "{",
        "}",
        "[1,]",
        "{\"a\":1,}",
        "{,}",
        "[,1]",
        "01",
        "1.",
        ".5",
        "1e",
        "-",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "tru",
        "nulll",
        "[1 2]",
        "{\"a\" 1}",
        "{a:1}",
        "[1]]",
        "{\"a\":}",
        "\u{feff}{}",
        "[}",
        "{]",
    ] {
        assert!(!accepts(text), "{text}");
    }
}

#[test]
fn strings_decode_as_the_reference_does() {
    for text in ["plain", "a\\nb", "\\u00fc\\ud83d\\ude00", "\\\"q\\\\\\/", "x\\u0000y"] {
        let quoted = format!("\"{text}\"");
        let ours = Reader::new(quoted.as_bytes()).unwrap().text().unwrap();
        assert_eq!(ours.decode(), serde_json::from_str::<String>(&quoted).unwrap());
        assert_eq!(ours.as_json(), text);
    }
    assert_eq!(Text(Cow::Borrowed("\\ud83dx")).decode(), "\u{fffd}x");
    assert_eq!(Text(Cow::Borrowed("\\ud83d\\u0041")).decode(), "\u{fffd}A");
}

#[test]
fn plain_text_is_escaped_only_where_it_must_be() {
    assert_eq!(Text::plain("ü/x").as_json(), "ü/x");
    assert_eq!(Text::plain("a\"\n\u{1}").as_json(), "a\\\"\\n\\u0001");
    let long = format!("{}\"", "x".repeat(500));
    assert_eq!(Text::plain(&long).decode(), long);
    assert!(Text::plain(" \n\t").is_blank() && !Text::plain(" x").is_blank() && Text::plain("").is_blank());
    assert!(Text::plain("a\"b").is("a\"b") && !Text::plain("a\\b").is("a\\\\b") && Text::plain("a\\b").is("a\\b"));
}

#[test]
fn a_special_byte_is_found_at_every_offset_of_a_block() {
    for at in 0..300 {
        for byte in [b'"', b'\\', 0x1f, b'\n'] {
            let mut bytes = vec![b'x'; 300];
            bytes[at] = byte;
            assert_eq!(special(&bytes, 0), at);
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(Raw::parse(deep(JSON_DEPTH_MAX as usize)).is_ok());
    assert_eq!(Raw::parse(deep(JSON_DEPTH_MAX as usize + 1)), Err(JsonError::Depth));
    let mixed = format!("{}1{}", "{\"a\":[".repeat(64), "]}".repeat(64));
    assert!(accepts(&mixed));
}

#[test]
fn fields_are_pulled_in_order_and_types_are_checked() {
    let body = b"{\"\\u0061\": 1.50, \"b\":[true,null,\"x\"], \"c\":{}, \"n\":5.0}";
    let mut reader = Reader::new(body).unwrap();
    reader.object("an object").unwrap();
    assert_eq!(reader.key().unwrap().as_deref(), Some("a"));
    assert_eq!(reader.number_or_null().unwrap().unwrap().as_json(), "1.50");
    assert_eq!(reader.key().unwrap().as_deref(), Some("b"));
    reader.array("an array").unwrap();
    assert!(reader.item().unwrap());
    assert_eq!(reader.clone().text(), Err(JsonError::Expected("a string")));
    assert_eq!(reader.bool_or_null(), Ok(Some(true)));
    assert!(reader.item().unwrap() && reader.null().unwrap() && reader.item().unwrap());
    assert_eq!(reader.word().unwrap(), "x");
    assert!(!reader.item().unwrap());
    assert_eq!(reader.key().unwrap().as_deref(), Some("c"));
    assert_eq!(reader.raw().unwrap().as_json(), "{}");
    assert_eq!(reader.key().unwrap().as_deref(), Some("n"));
    assert_eq!(reader.whole_or_null(), Ok(Some(5)));
    assert_eq!(reader.key().unwrap(), None);
    reader.end().unwrap();
}
