//! Tests of AWS signatures against AWS's own suite and botocore's.

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
    service: String,
    access_key_id: String,
    secret: String,
    token: Option<String>,
    date: String,
    authorization: String,
}

impl Golden {
    /// The headers that the client sent, signature and all.
    fn sent(&self) -> Vec<(String, String)> {
        let mut sent = self.headers.clone();
        sent.push(("User-Agent".into(), "Boto3/1.43".into()));
        sent.push(("X-Amz-Date".into(), self.date.clone()));
        sent.extend(self.token.clone().map(|token| ("X-Amz-Security-Token".into(), token)));
        sent.push(("Authorization".into(), self.authorization.clone()));
        sent
    }
}

/// AWS's published suite, as far as it is about requests that HTTP allows.
const AWS_SUITE: &str = include_str!("../../../../tests/golden/sigv4/aws_suite.json");
/// What `tests/golden/sigv4/generate.py` had botocore sign.
const BOTOCORE: &str = include_str!("../../../../tests/golden/sigv4/botocore.json");

fn golden(table: &str) -> Vec<Golden> {
    let table: serde_json::Value = serde_json::from_str(table).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let golden = |case: &serde_json::Value| {
        let mut headers = vec![("Host".to_owned(), text(&case["host"]))];
        let more = case["headers"].as_array().unwrap();
        headers.extend(more.iter().map(|pair| (text(&pair[0]), text(&pair[1]))));
        let repeat = case["body_repeat"].as_u64().unwrap_or(1) as usize;
        Golden {
            name: text(&case["name"]),
            method: text(&case["method"]),
            path: text(&case["path"]),
            query: text(&case["query"]),
            headers,
            body: text(&case["body"]).into_bytes().repeat(repeat),
            epoch_s: case["epoch_s"].as_u64().unwrap(),
            region: text(&case["region"]),
            service: text(&case["service"]),
            access_key_id: text(&case["access_key_id"]),
            secret: text(&case["secret"]),
            token: case["token"].as_str().map(str::to_owned),
            date: text(&case["date"]),
            authorization: text(&case["authorization"]),
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
fn signs_as_aws_and_botocore_do() {
    let mut signer = Signer::new();
    let (suite, botocore) = (golden(AWS_SUITE), golden(BOTOCORE));
    assert!(suite.len() >= 24 && botocore.len() >= 18);
    for case in suite.into_iter().chain(botocore) {
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
            &case.service,
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
