use super::*;

mod verifying;

const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30T12:36:00Z, the instant of AWS's published suite.
const NOW_S: u64 = 1_440_938_160;
const PAIR: Credentials<'_> = Credentials {
    access_key_id: ACCESS_KEY_ID,
    secret_access_key: SECRET,
    session_token: None,
};

type Header<'a> = (&'a str, &'a [u8]);

/// Signs, and returns the lines that a client would send.
fn signed(
    signer: &mut Signer,
    credentials: &Credentials<'_>,
    service: &str,
    request: &Request<'_>,
    body: &[u8],
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    signer.sign(
        credentials,
        "us-east-1",
        service,
        request,
        &payload_hash([body]),
        NOW_S,
        &mut out,
    );
    lines(&out)
}

fn lines(out: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(out).unwrap();
    assert!(text.ends_with("\r\n"));
    text.trim_end()
        .split("\r\n")
        .map(|line| line.split_once(": ").unwrap())
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

fn authorization(lines: &[(String, String)]) -> &str {
    &lines.iter().find(|(name, _)| name == "authorization").unwrap().1
}

#[test]
fn matches_the_published_suite() {
    // <https://docs.aws.amazon.com/general/latest/gr/signature-v4-test-suite.html>: method, path, query, further headers, body,
    // signed headers, signature.
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [Header<'a>], &'a str, &'a str, &'a str);
    const PLAIN: &str = "host;x-amz-date";
    const ONE: &str = "host;my-header1;x-amz-date";
    const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const FORM: Header<'_> = ("Content-Type", b"application/x-www-form-urlencoded");
    const FORM_UTF8: Header<'_> = ("Content-Type", b"application/x-www-form-urlencoded; charset=utf8");
    let unreserved_path = format!("/{UNRESERVED}");
    let unreserved_query = format!("{UNRESERVED}={UNRESERVED}");
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    let post = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
    let cases: &[Case<'_>] = &[
        ("GET", "/", "", &[], "", PLAIN, vanilla),
        (
            "GET",
            "/",
            "",
            &[
                ("My-Header1", b"value2"),
                ("My-Header1", b"value2"),
                ("My-Header1", b"value1"),
            ],
            "",
            ONE,
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            "GET",
            "/",
            "",
            &[
                ("My-Header1", b"value4"),
                ("My-Header1", b"value1"),
                ("My-Header1", b"value3"),
                ("My-Header1", b"value2"),
            ],
            "",
            ONE,
            "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
        ),
        (
            "GET",
            "/",
            "",
            &[("My-Header1", b" value1"), ("My-Header2", b" \"a   b   c\"")],
            "",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "GET",
            &unreserved_path,
            "",
            &[],
            "",
            PLAIN,
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "GET",
            "/ሴ",
            "",
            &[],
            "",
            PLAIN,
            "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
        ),
        (
            "GET",
            "/",
            "Param1=value1",
            &[],
            "",
            PLAIN,
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
        (
            "GET",
            "/",
            "Param2=value2&Param1=value1",
            &[],
            "",
            PLAIN,
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "GET",
            "/",
            &unreserved_query,
            &[],
            "",
            PLAIN,
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        (
            "GET",
            "/",
            "ሴ=bar",
            &[],
            "",
            PLAIN,
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
        ("GET", "/example/..", "", &[], "", PLAIN, vanilla),
        ("GET", "/example1/example2/../..", "", &[], "", PLAIN, vanilla),
        ("GET", "//", "", &[], "", PLAIN, vanilla),
        ("GET", "/./", "", &[], "", PLAIN, vanilla),
        (
            "GET",
            "/./example",
            "",
            &[],
            "",
            PLAIN,
            "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
        ),
        (
            "GET",
            "//example//",
            "",
            &[],
            "",
            PLAIN,
            "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
        ),
        (
            "GET",
            "/example space/",
            "",
            &[],
            "",
            PLAIN,
            "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
        ),
        ("POST", "/", "", &[], "", PLAIN, post),
        (
            "POST",
            "/",
            "",
            &[("My-Header1", b"value1")],
            "",
            ONE,
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            "POST",
            "/",
            "",
            &[("My-Header1", b"VALUE1")],
            "",
            ONE,
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
        ),
        (
            "POST",
            "/",
            "Param1=value1",
            &[],
            "",
            PLAIN,
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        ),
        (
            "POST",
            "/",
            "",
            &[FORM],
            "Param1=value1",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "POST",
            "/",
            "",
            &[FORM_UTF8],
            "Param1=value1",
            "content-type;host;x-amz-date",
            "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
        ),
    ];
    let mut signer = Signer::new();
    for (method, path, query, more, body, names, signature) in cases {
        let headers: Vec<Header<'_>> = [("Host", &b"example.amazonaws.com"[..])]
            .iter()
            .chain(*more)
            .copied()
            .collect();
        let request = Request {
            method,
            path,
            query,
            headers: &headers,
        };
        let lines = signed(&mut signer, &PAIR, "service", &request, body.as_bytes());
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}"
        );
        assert_eq!(authorization(&lines), expected, "{method} {path}?{query} {more:?}");
    }
}

#[test]
fn a_session_token_is_signed_as_the_published_suite_does() {
    let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI\
/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL\
64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
    let credentials = Credentials {
        session_token: Some(token),
        ..PAIR
    };
    let request = Request {
        method: "POST",
        path: "/",
        query: "",
        headers: &[("host", b"example.amazonaws.com")],
    };
    let lines = signed(&mut Signer::new(), &credentials, "service", &request, b"");
    assert!(authorization(&lines).ends_with(
        "SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
    ));
    assert!(lines.contains(&("x-amz-security-token".into(), token.into())));
}

struct Golden {
    name: String,
    method: String,
    path: String,
    query: String,
    /// As sent, without what signing adds.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    epoch_s: u64,
    region: String,
    access_key_id: String,
    secret: String,
    token: Option<String>,
    date: String,
    authorization: String,
}

/// The table that `tests/golden/sigv4/generate.py` wrote.
fn botocore() -> Vec<Golden> {
    let table: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/golden/sigv4/botocore.json")).unwrap();
    let text = |case: &serde_json::Value, name: &str| case[name].as_str().unwrap().to_owned();
    let golden = |case: &serde_json::Value| {
        let mut headers = vec![("Host".to_owned(), text(case, "host"))];
        let more = case["headers"].as_object().unwrap();
        headers.extend(
            more.iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())),
        );
        Golden {
            name: text(case, "name"),
            method: text(case, "method"),
            path: text(case, "path"),
            query: text(case, "query"),
            headers,
            body: text(case, "body")
                .into_bytes()
                .repeat(case["body_repeat"].as_u64().unwrap_or(1) as usize),
            epoch_s: case["epoch_s"].as_u64().unwrap(),
            region: text(case, "region"),
            access_key_id: text(case, "access_key_id"),
            secret: text(case, "secret"),
            token: case["token"].as_str().map(str::to_owned),
            date: text(case, "date"),
            authorization: text(case, "authorization"),
        }
    };
    table["cases"].as_array().unwrap().iter().map(golden).collect()
}

fn borrowed(headers: &[(String, String)]) -> Vec<Header<'_>> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect()
}

#[test]
fn signs_as_botocore_does() {
    let mut signer = Signer::new();
    let cases = botocore();
    assert!(cases.len() >= 18);
    for case in cases {
        let headers = borrowed(&case.headers);
        let request = Request {
            method: &case.method,
            path: &case.path,
            query: &case.query,
            headers: &headers,
        };
        let credentials = Credentials {
            access_key_id: &case.access_key_id,
            secret_access_key: &case.secret,
            session_token: case.token.as_deref(),
        };
        let mut out = Vec::new();
        signer.sign(
            &credentials,
            &case.region,
            "bedrock",
            &request,
            &payload_hash([&case.body[..]]),
            case.epoch_s,
            &mut out,
        );
        let lines = lines(&out);
        assert_eq!(authorization(&lines), case.authorization, "{}", case.name);
        assert_eq!(lines[0], ("x-amz-date".into(), case.date.clone()));
    }
}

#[test]
fn a_replaced_secret_replaces_the_derived_key() {
    let request = Request {
        method: "POST",
        path: "/",
        query: "",
        headers: &[("host", b"h")],
    };
    let mut signer = Signer::new();
    let first = signed(&mut signer, &PAIR, "bedrock", &request, b"");
    let rotated = Credentials {
        secret_access_key: "rotated",
        ..PAIR
    };
    let second = signed(&mut signer, &rotated, "bedrock", &request, b"");
    assert_ne!(first, second);
    assert_eq!(second, signed(&mut Signer::new(), &rotated, "bedrock", &request, b""));
    assert_eq!(first, signed(&mut signer, &PAIR, "bedrock", &request, b""));
    assert_ne!(first, signed(&mut signer, &PAIR, "other", &request, b""));
}

#[test]
fn a_payload_in_pieces_hashes_as_one() {
    let body = b"The quick brown fox jumps over the lazy dog";
    for cut in 0..=body.len() {
        let (a, b) = body.split_at(cut);
        assert_eq!(payload_hash([a, b]), payload_hash([&body[..]]));
    }
}

#[test]
fn debug_shows_no_secret() {
    let mut signer = Signer::new();
    let request = Request {
        method: "POST",
        path: "/",
        query: "",
        headers: &[("host", b"h")],
    };
    let lines = signed(
        &mut signer,
        &Credentials {
            session_token: Some("tok3n"),
            ..PAIR
        },
        "bedrock",
        &request,
        b"",
    );
    let parsed = Authorization::parse(&borrowed(&lines))
        .unwrap()
        .access_key_id
        .to_owned();
    let shown = format!(
        "{PAIR:?} {signer:?} {parsed:?} {:?}",
        Authorization::parse(&borrowed(&lines))
    );
    assert!(!shown.contains(SECRET) && !shown.contains("tok3n"), "{shown}");
}
