//! Signature verification: whatever a request holds, it is refused unless it was signed; and what the signer signs is verified,
//! until a byte of it changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::sigv4::{Authorization, Credentials, Request, Signer, payload_hash};

const NOW_S: u64 = 1_440_938_160;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

// Lines of `name: value`; an empty line; the body. The first line is method, path and query, parted by blanks.
fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.split('\n');
    let mut target = lines.next().unwrap_or_default().split(' ');
    let (method, path, query) = (
        target.next().unwrap_or_default(),
        target.next().unwrap_or_default(),
        target.next().unwrap_or_default(),
    );
    let headers: Vec<(&str, &[u8])> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name, value.as_bytes()))
        .collect();
    let request = Request {
        method,
        path,
        query,
        headers: &headers,
    };
    let hash = payload_hash([body.as_bytes()]);
    let mut signer = Signer::new();
    // A seed may be signed with the published pair; a secret that nobody knows must never verify.
    let _ = signer.verify(&request, &hash, "bedrock", NOW_S, |_| Some(SECRET));
    let unknown = signer.verify(&request, &hash, "bedrock", NOW_S, |_| {
        Some("a secret that signed nothing")
    });
    assert!(unknown.is_err());
    if let Ok(authorization) = Authorization::parse(&headers) {
        assert!(!authorization.access_key_id.is_empty() && !format!("{authorization:?}").contains(SECRET));
    }
    sign_and_verify(&mut signer, &request, body);
});

fn sign_and_verify(signer: &mut Signer, request: &Request<'_>, body: &str) {
    let mut headers: Vec<(&str, &[u8])> = request.headers.to_vec();
    let ours = [
        "authorization",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-content-sha256",
        "host",
    ];
    // A name that no request can carry cannot stand in a list of names either.
    let sound = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    headers.retain(|(name, _)| sound(name) && !ours.iter().any(|own| name.eq_ignore_ascii_case(own)));
    headers.push(("host", b"h"));
    let hash = payload_hash([body.as_bytes()]);
    let credentials = Credentials {
        access_key_id: "AKIDEXAMPLE",
        secret_access_key: SECRET,
        session_token: None,
    };
    let signed = Request {
        headers: &headers,
        ..*request
    };
    let mut lines = Vec::new();
    signer.sign(
        &credentials,
        "eu-central-1",
        "bedrock",
        &signed,
        &hash,
        NOW_S,
        &mut lines,
    );
    let lines = String::from_utf8(lines).expect("names, digits and what the credentials hold");
    let added = lines.trim_end().split("\r\n").filter_map(|line| line.split_once(": "));
    let mut sent = headers.clone();
    sent.extend(added.map(|(name, value)| (name, value.as_bytes())));
    let sent = Request {
        headers: &sent,
        ..*request
    };
    let verified = signer.verify(&sent, &hash, "bedrock", NOW_S, |_| Some(SECRET));
    assert!(verified.is_ok(), "{verified:?}");
    let other = payload_hash([body.as_bytes(), b"x"]);
    assert!(
        signer
            .verify(&sent, &other, "bedrock", NOW_S, |_| Some(SECRET))
            .is_err()
    );
}
