//! Heads as data: what is accepted, and for each rule of RFC 9112 what is refused.

use super::*;
use crate::error::Code;
use crate::testing::split_growing;

/// Input, path, query, authority, framing, keep-alive.
type Accepted<'a> = (&'a [u8], &'a str, &'a str, &'a str, Framing, bool);
/// Input, whether the method was HEAD, status, reason, framing, keep-alive.
type Answer<'a> = (&'a [u8], bool, u16, &'a str, Framing, bool);

/// Parses in every split. A refusal may be noticed before the head is complete, and by another rule that it breaks too, so
/// only whether it is refused must agree.
#[track_caller]
fn request(input: &[u8]) -> Result<RequestHead, HeadError> {
    let parse = |head: &mut RequestHead, buf: &[u8]| {
        head.parse(buf)
            .map(|complete| complete.then(|| head.clone()))
            .transpose()
    };
    split_growing(input, RequestHead::default, |head, buf| {
        parse(head, buf).map(|outcome| outcome.map(facts).map_err(|_| ()))
    });
    parse(&mut RequestHead::default(), input).expect("a whole head")
}

#[track_caller]
fn response(input: &[u8], to_head: bool) -> Result<ResponseHead, HeadError> {
    let parse = |head: &mut ResponseHead, buf: &[u8]| {
        head.parse(buf, to_head)
            .map(|complete| complete.then(|| head.clone()))
            .transpose()
    };
    split_growing(input, ResponseHead::default, |head, buf| {
        parse(head, buf).map(|outcome| {
            outcome
                .map(|head| (head.status, head.fields, head.framing, head.head_bytes))
                .map_err(|_| ())
        })
    });
    parse(&mut ResponseHead::default(), input).expect("a whole head")
}

fn facts(head: RequestHead) -> (Span, Span, Span, Vec<Field>, Framing, usize) {
    (
        head.target,
        head.path,
        head.authority,
        head.fields,
        head.framing,
        head.head_bytes,
    )
}

#[test]
fn a_usual_request_becomes_spans() {
    let input = b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: api.example:8080\r\ncontent-LENGTH: 12\r\n\
        Authorization:  Bearer x \t\r\nX-Empty:\r\nX-Sluice-Tag: q\r\n\r\n{\"model\":1}\n";
    let head = request(input).unwrap();
    assert_eq!(
        (head.method, head.version, head.framing),
        (Method::Post, Version::Http11, Framing::Length(12))
    );
    assert_eq!(head.method_span.of(input), b"POST");
    assert_eq!(head.target.of(input), b"/v1/chat/completions?a=b");
    assert_eq!(head.path.of(input), b"/v1/chat/completions");
    assert_eq!(head.query.of(input), b"a=b");
    assert_eq!(head.authority.of(input), b"api.example:8080");
    assert!(head.keep_alive && !head.expect_continue);
    assert_eq!(&input[head.head_bytes..], b"{\"model\":1}\n");
    assert_eq!(head.field(FieldId::Authorization).unwrap().value.of(input), b"Bearer x");
    assert_eq!(
        head.field(FieldId::Sluice).unwrap().line.of(input),
        b"X-Sluice-Tag: q\r\n"
    );
    assert_eq!(head.named(input, b"x-empty"), Some(b"".as_slice()));
    assert_eq!(head.named(input, b"x-none"), None);
    let mut kept = Vec::new();
    head.copy_fields(input, &mut kept, |field| field.id != FieldId::Authorization);
    let expected = b"Host: api.example:8080\r\ncontent-LENGTH: 12\r\nX-Empty:\r\nX-Sluice-Tag: q\r\n";
    assert_eq!(kept, expected);
}

/// Unusual but sound requests, and what they say.
const ACCEPTED: &[Accepted<'static>] = &[
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "/", "", "a", Framing::Empty, true),
    (
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "/",
        "",
        "a",
        Framing::Empty,
        true,
    ),
    (b"GET / HTTP/1.0\r\n\r\n", "/", "", "", Framing::Empty, false),
    (
        b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        "/",
        "",
        "",
        Framing::Empty,
        true,
    ),
    (
        b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        "/",
        "",
        "",
        Framing::Empty,
        false,
    ),
    (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
        "/",
        "",
        "a",
        Framing::Empty,
        false,
    ),
    (
        b"POST http://h:1/p?q?r HTTP/1.1\r\nHost: a\r\n\r\n",
        "/p",
        "q?r",
        "h:1",
        Framing::Empty,
        true,
    ),
    (
        b"POST HTTPS://h?q HTTP/1.1\r\nHost: a\r\n\r\n",
        "",
        "q",
        "h",
        Framing::Empty,
        true,
    ),
    (
        b"GET http://h HTTP/1.1\r\nHost: a\r\n\r\n",
        "",
        "",
        "h",
        Framing::Empty,
        true,
    ),
    (
        b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "*",
        "",
        "[::1]:80",
        Framing::Empty,
        true,
    ),
    (
        b"POST /? HTTP/1.1\r\nHost: a:\r\nTransfer-Encoding: CHUNKED\r\n\r\n",
        "/",
        "",
        "a:",
        Framing::Chunked,
        true,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "/",
        "",
        "a",
        Framing::Length(0),
        true,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
        "/",
        "",
        "a",
        Framing::Length(9999999999999999999),
        true,
    ),
    (
        b"GET //x/../y HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \xff\tz\r\n\r\n",
        "//x/../y",
        "",
        "127.0.0.1",
        Framing::Empty,
        true,
    ),
];

#[test]
fn requests_that_are_unusual_but_sound_are_accepted() {
    for &(input, path, query, authority, framing, keep_alive) in ACCEPTED {
        let name = String::from_utf8_lossy(input);
        let head = request(input).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(head.path.of(input), path.as_bytes(), "{name}");
        assert_eq!(head.query.of(input), query.as_bytes(), "{name}");
        assert_eq!(head.authority.of(input), authority.as_bytes(), "{name}");
        assert_eq!(
            (head.framing, head.keep_alive, head.head_bytes),
            (framing, keep_alive, input.len()),
            "{name}"
        );
    }
}

#[test]
fn fields_named_in_connection_are_hop_by_hop() {
    let input = b"GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nConnection: x-a, ,close\r\nTE: trailers\r\nConnection: X-B\r\nx-b: 2\r\nx-c: 3\r\n\r\n";
    let head = request(input).unwrap();
    let mut kept = Vec::new();
    head.copy_fields(input, &mut kept, |field| !field.hop);
    assert_eq!(kept, b"Host: a\r\nx-c: 3\r\n");
}

#[test]
fn expectations_are_met_or_refused_and_ignored_in_http10() {
    let expect = |version: &str, value: &str| {
        request(format!("POST / {version}\r\nHost: a\r\nExpect: {value}\r\n\r\n").as_bytes())
    };
    assert!(expect("HTTP/1.1", "100-Continue").unwrap().expect_continue);
    assert_eq!(expect("HTTP/1.1", "tea").unwrap_err().code(), Code::ExpectationFailed);
    assert!(!expect("HTTP/1.0", "100-continue").unwrap().expect_continue);
    assert!(!expect("HTTP/1.0", "tea").unwrap().expect_continue);
}

/// (the rule, the head). Each is refused; the first line and the Host field of those that start with `+` are added.
const BAD_REQUESTS: &[(HeadError, &[u8])] = {
    use HeadError::*;
    &[
        (LengthRepeated, b"+Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        (LengthRepeated, b"+Content-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        (
            LengthRepeated,
            b"+Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n\r\n",
        ),
        (LengthInvalid, b"+Content-Length: 5, 5\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 5,6\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: +5\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: -0\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 0x5\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 5 5\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 5.0\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 1e1\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: \"5\"\r\n\r\n"),
        (LengthInvalid, b"+Content-Length:\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 18446744073709551616\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: 00000000000000000005\r\n\r\n"),
        (LengthInvalid, b"+Content-Length: \xb2\r\n\r\n"),
        (
            LengthAndChunked,
            b"+Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            LengthAndChunked,
            b"+Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            LengthAndChunked,
            b"GET / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (CodingInHttp10, b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (
            CodingRepeated,
            b"+Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            CodingUnknown,
            b"+Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        ),
        (CodingUnknown, b"+Transfer-Encoding: gzip, chunked\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: chunked, gzip\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: chunked, chunked\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: chunked,\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: identity\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: xchunked\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: chunked;q=1\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding: \"chunked\"\r\n\r\n"),
        (CodingUnknown, b"+Transfer-Encoding:\r\n\r\n"),
        (FieldValue, b"+Transfer-Encoding: \x0bchunked\r\n\r\n"),
        (FieldName, b"+Transfer-Encoding : chunked\r\n\r\n"),
        (FieldName, b"+Transfer-Encoding\t: chunked\r\n\r\n"),
        (FieldName, b"+Content-Length : 5\r\n\r\n"),
        (FieldName, b"+X: a\r\n folded\r\n\r\n"),
        (FieldName, b"+X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n"),
        (FieldName, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        (FieldName, b"+: empty\r\n\r\n"),
        (FieldName, b"+no colon\r\n\r\n"),
        (FieldName, b"+X\x00Y: a\r\n\r\n"),
        (FieldName, b"+X\xe9: a\r\n\r\n"),
        (FieldName, b"+X(Y): a\r\n\r\n"),
        (FieldValue, b"+X: a\x00b\r\n\r\n"),
        (FieldValue, b"+X: a\x7fb\r\n\r\n"),
        (FieldValue, b"+X: a\rTransfer-Encoding: chunked\r\n\r\n"),
        (FieldValue, b"+X: a\r\r\n\r\n"),
        (BareLf, b"+X: a\nContent-Length: 5\r\n\r\n"),
        (BareLf, b"+X: a\r\nY: b\n\r\n"),
        (BareLf, b"+X: a\r\n\n"),
        (BareLf, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
        (BareLf, b"GET / HTTP/1.1\nHost: a\n\n"),
        (BareLf, b"+X:\n\r\n"),
        (BareLf, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (BareCr, b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (BareCr, b"GET / HTTP/1.1\rHost: a\r\n\r\n"),
        (BareCr, b"+\r\r\n\r\n"),
        (LeadingEmptyLines, b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (HostMissing, b"GET / HTTP/1.1\r\n\r\n"),
        (HostMissing, b"GET http://a/ HTTP/1.1\r\nX: y\r\n\r\n"),
        (HostRepeated, b"+Host: b\r\n\r\n"),
        (HostRepeated, b"+host: a\r\n\r\n"),
        (HostRepeated, b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n"),
        (HostInvalid, b"GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n"),
        (HostInvalid, b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n"),
        (HostInvalid, b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (HostInvalid, b"GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
        (TargetInvalid, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (TargetInvalid, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET /a\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET /\r\nHost: a\r\n\r\n"),
        (
            RequestLine,
            b"AMETHODTHATISTHIRTYTHREEBYTESLONG / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (BareCr, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        (Version, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (Version, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (RequestLine, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
        (RequestLine, b"GET / HTTP/11.1\r\nHost: a\r\n\r\n"),
        (TargetForm, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (TargetForm, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (TargetForm, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (TargetForm, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (TargetForm, b"GET ?q HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            ConnectionNamesFraming,
            b"+Connection: close, Content-Length\r\nContent-Length: 5\r\n\r\n",
        ),
        (ConnectionNamesFraming, b"+Connection: host\r\n\r\n"),
        (Expectation, b"+Expect: 100-continue, tea\r\n\r\n"),
    ]
};

#[test]
fn heads_that_could_smuggle_a_request_are_refused_by_the_rule_they_break() {
    for &(rule, input) in BAD_REQUESTS {
        let mut head = Vec::new();
        head.extend_from_slice(match input {
            [b'+', ..] => b"POST /v1/x HTTP/1.1\r\nHost: a\r\n",
            _ => b"",
        });
        head.extend_from_slice(input.strip_prefix(b"+").unwrap_or(input));
        assert_eq!(
            request(&head).map(facts),
            Err(rule),
            "{:?}",
            String::from_utf8_lossy(&head)
        );
    }
}

#[test]
fn every_rule_has_a_code_that_blames_the_client() {
    for &(rule, _) in BAD_REQUESTS {
        assert!(
            (400..=505).contains(&rule.code().status()) && !rule.to_string().is_empty(),
            "{rule:?}"
        );
    }
}

#[test]
fn limits_are_exact() {
    let with_target = |bytes: usize| {
        let mut head = b"GET /".to_vec();
        head.resize(4 + bytes, b'a');
        head.extend_from_slice(b" HTTP/1.1\r\nHost: a\r\n\r\n");
        RequestHead::default().parse(&head)
    };
    assert_eq!(with_target(TARGET_BYTES_MAX), Ok(true));
    assert_eq!(with_target(TARGET_BYTES_MAX + 1), Err(HeadError::TargetTooLong));
    let with_fields = |count: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        (1..count).for_each(|_| head.extend_from_slice(b"x: y\r\n"));
        head.extend_from_slice(b"\r\n");
        RequestHead::default().parse(&head)
    };
    assert_eq!(with_fields(HEADER_FIELDS_MAX), Ok(true));
    assert_eq!(with_fields(HEADER_FIELDS_MAX + 1), Err(HeadError::TooManyFields));
    let with_bytes = |bytes: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nx: ".to_vec();
        head.resize(bytes - 4, b'y');
        head.extend_from_slice(b"\r\n\r\nbody");
        RequestHead::default().parse(&head)
    };
    assert_eq!(with_bytes(HEAD_BYTES_MAX), Ok(true));
    assert_eq!(with_bytes(HEAD_BYTES_MAX + 1), Err(HeadError::HeadTooLarge));
}

#[test]
fn heads_that_cannot_become_sound_are_refused_before_they_end() {
    let mut head = RequestHead::default();
    let mut arrived = b"GET /".to_vec();
    assert_eq!(head.parse(&arrived), Ok(false));
    arrived.resize(Progress::REQUEST_LINE_BYTES_MAX, b'a');
    assert_eq!(head.parse(&arrived), Ok(false));
    arrived.push(b'a');
    assert_eq!(head.parse(&arrived), Err(HeadError::TargetTooLong));

    let mut arrived = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    assert_eq!(head.parse(&arrived), Ok(false));
    arrived.resize(HEAD_BYTES_MAX - 1, b'a');
    assert_eq!(head.parse(&arrived), Ok(false));
    arrived.push(b'a');
    assert_eq!(head.parse(&arrived), Err(HeadError::HeadTooLarge));
    assert_eq!(head.parse(b"\x16\x03\x01\x02"), Err(HeadError::RequestLine));
}

#[test]
fn a_head_is_parsed_afresh_after_an_error_a_success_or_a_reset() {
    let sound = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut head = RequestHead::default();
    assert_eq!(head.parse(&sound[..20]), Ok(false));
    head.reset();
    assert_eq!(head.parse(sound), Ok(true));
    assert_eq!(head.parse(b"GET / HTTP/1.1\nHost"), Err(HeadError::BareLf));
    assert_eq!(head.parse(sound), Ok(true));
    assert_eq!(head.fields.len(), 1);
}

#[test]
fn responses_are_framed_by_status_method_and_fields() {
    let cases: &[Answer<'_>] = &[
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            false,
            200,
            "OK",
            Framing::Length(3),
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            true,
            200,
            "OK",
            Framing::Empty,
            true,
        ),
        (b"HTTP/1.1 200\r\n\r\n", false, 200, "", Framing::UntilClose, false),
        (b"HTTP/1.1 200 \r\n\r\n", false, 200, "", Framing::UntilClose, false),
        (
            b"HTTP/1.0 200 Fine day\r\nContent-Length: 3\r\n\r\n",
            false,
            200,
            "Fine day",
            Framing::Length(3),
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            false,
            200,
            "OK",
            Framing::Chunked,
            false,
        ),
        (
            b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n",
            false,
            204,
            "No",
            Framing::Empty,
            true,
        ),
        (
            b"HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            304,
            "Not",
            Framing::Empty,
            true,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            false,
            100,
            "Continue",
            Framing::Empty,
            true,
        ),
        (
            b"HTTP/1.1 999 \xc3\xa9\r\nContent-Length: 0\r\n\r\n",
            false,
            999,
            "\u{e9}",
            Framing::Length(0),
            true,
        ),
    ];
    for &(input, to_head, status, reason, framing, keep_alive) in cases {
        let head = response(input, to_head).unwrap();
        let name = String::from_utf8_lossy(input);
        assert_eq!(
            (head.status, head.framing, head.keep_alive),
            (status, framing, keep_alive),
            "{name}"
        );
        assert_eq!(head.reason.of(input), reason.as_bytes(), "{name}");
    }
}

#[test]
fn bad_responses_are_refused_by_the_rule_they_break() {
    use HeadError::*;
    let cases: &[(HeadError, &[u8])] = &[
        (StatusRange, b"HTTP/1.1 099 Low\r\n\r\n"),
        (StatusLine, b"HTTP/1.1 20 OK\r\n\r\n"),
        (StatusLine, b"HTTP/1.1 2000 OK\r\n\r\n"),
        (StatusLine, b"HTTP/1.1 +20 OK\r\n\r\n"),
        (StatusLine, b"HTTP/1.1  200 OK\r\n\r\n"),
        (StatusLine, b"HTTP/1.1 200\tOK\r\n\r\n"),
        (StatusLine, b"HTTP/1.1 200 O\x00K\r\n\r\n"),
        (StatusLine, b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
        (Version, b"HTTP/2.0 200 OK\r\n\r\n"),
        (StatusLine, b"ICY 200 OK\r\n\r\n"),
        (BareLf, b"HTTP/1.1 200 OK\n\r\n"),
        (BareLf, b"HTTP/1.1 200\nX: y\r\n\r\n"),
        (BareLf, b"HTTP/1.1 200 OK\r\nX: y\n\r\n"),
        (BareLf, b"HTTP/1.1 200 OK\r\n\n"),
        (
            LengthRepeated,
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        ),
        (LengthInvalid, b"HTTP/1.1 204 OK\r\nContent-Length: x\r\n\r\n"),
        (
            LengthAndChunked,
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            CodingUnknown,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ),
        (CodingInHttp10, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (FieldName, b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"),
        (FieldName, b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n"),
    ];
    for &(rule, input) in cases {
        assert_eq!(
            response(input, false).map(|head| head.status),
            Err(rule),
            "{:?}",
            String::from_utf8_lossy(input)
        );
    }
}

#[test]
fn the_quick_way_keeps_the_limit_of_fields() {
    let head = |fields: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(fields));
    assert!(
        response(head(HEADER_FIELDS_MAX).as_bytes(), false).is_ok_and(|head| head.fields.len() == HEADER_FIELDS_MAX)
    );
    assert_eq!(
        response(head(HEADER_FIELDS_MAX + 1).as_bytes(), false).map(drop),
        Err(HeadError::TooManyFields)
    );
}
