//! Requests that clients signed.

use super::*;

#[test]
fn verifies_what_botocore_signed_and_nothing_that_differs() {
    let mut signer = Signer::new();
    for case in golden(BOTOCORE) {
        let sent = case.sent();
        let headers = borrowed(&sent);
        let request = Request {
            method: &case.method,
            path: &case.path,
            query: &case.query,
            headers: &headers,
        };
        let hash = payload_hash([&case.body[..]]);
        let secret_of = |id: &str| (id == case.access_key_id).then_some(case.secret.as_str());
        let verified = signer.verify(&request, &hash, "bedrock", case.epoch_s, secret_of);
        assert_eq!(
            verified.map(|authorization| authorization.region),
            Ok(case.region.as_str()),
            "{}",
            case.name
        );

        let mut refuse = |request: &Request<'_>, hash: &PayloadHash, secret: &str, expected: SignatureError| {
            let refused = signer.verify(request, hash, "bedrock", case.epoch_s, |_| Some(secret));
            assert_eq!(refused, Err(expected), "{}", case.name);
        };
        refuse(
            &request,
            &payload_hash([&case.body[..], b" "]),
            &case.secret,
            SignatureError::Mismatch,
        );
        refuse(&request, &hash, "another secret", SignatureError::Mismatch);
        refuse(
            &Request {
                method: "PUT",
                ..request
            },
            &hash,
            &case.secret,
            SignatureError::Mismatch,
        );
        refuse(
            &Request {
                path: "/model/y/converse",
                ..request
            },
            &hash,
            &case.secret,
            SignatureError::Mismatch,
        );
        refuse(
            &Request {
                query: "x=1",
                ..request
            },
            &hash,
            &case.secret,
            SignatureError::Mismatch,
        );
        let other: Vec<Header<'_>> = headers
            .iter()
            .map(|&(name, value)| {
                if name == "Host" {
                    (name, &b"evil.example"[..])
                } else {
                    (name, value)
                }
            })
            .collect();
        refuse(
            &Request {
                headers: &other,
                ..request
            },
            &hash,
            &case.secret,
            SignatureError::Mismatch,
        );
    }
}

/// A request that verifies, and a way to spoil one of its headers.
fn sent(more: &[Header<'_>], body: &[u8]) -> Vec<(String, String)> {
    let mut headers = vec![("host", &b"127.0.0.1:8080"[..]), ("content-type", b"application/json")];
    headers.extend_from_slice(more);
    let request = Request {
        method: "POST",
        path: "/model/x/converse",
        query: "",
        headers: &headers,
    };
    let mut lines = signed(&mut Signer::new(), &PAIR, "bedrock", &request, body);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    lines.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), text(value))));
    lines
}

fn verify(headers: &[(String, String)], body: &[u8], now_s: u64) -> Result<(), SignatureError> {
    let headers = borrowed(headers);
    let request = Request {
        method: "POST",
        path: "/model/x/converse",
        query: "",
        headers: &headers,
    };
    let secret_of = |id: &str| (id == ACCESS_KEY_ID).then_some(SECRET);
    Signer::new()
        .verify(&request, &payload_hash([body]), "bedrock", now_s, secret_of)
        .map(|_| ())
}

fn with(headers: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let spoil = |(found, old): &(String, String)| {
        (
            found.clone(),
            if found == name { value.to_owned() } else { old.clone() },
        )
    };
    headers.iter().map(spoil).collect()
}

#[test]
fn the_clock_may_differ_by_five_minutes() {
    let headers = sent(&[], b"{}");
    let skew = limits::SIGV4_SKEW_S_MAX;
    for now_s in [NOW_S, NOW_S - skew, NOW_S + skew] {
        assert_eq!(verify(&headers, b"{}", now_s), Ok(()));
    }
    for now_s in [NOW_S - skew - 1, NOW_S + skew + 1, 0, u64::MAX] {
        assert_eq!(verify(&headers, b"{}", now_s), Err(SignatureError::Skewed));
    }
}

#[test]
fn the_scope_must_be_of_the_same_day_and_service() {
    let headers = sent(&[], b"{}");
    let value = authorization(&headers).to_owned();
    let scoped = |from: &str, to: &str| with(&headers, "authorization", &value.replace(from, to));
    assert_eq!(
        verify(&scoped("/20150830/", "/20150829/"), b"{}", NOW_S),
        Err(SignatureError::Skewed)
    );
    assert_eq!(
        verify(&scoped("/20150830/", "/2015083/"), b"{}", NOW_S),
        Err(SignatureError::Incomplete)
    );
    assert_eq!(
        verify(&scoped("/bedrock/", "/s3/"), b"{}", NOW_S),
        Err(SignatureError::Service)
    );
    assert_eq!(
        verify(&scoped("/us-east-1/", "/us-east-2/"), b"{}", NOW_S),
        Err(SignatureError::Mismatch)
    );
    assert_eq!(
        verify(&scoped("AKIDEXAMPLE", "AKIDOTHER"), b"{}", NOW_S),
        Err(SignatureError::UnknownKey)
    );
}

#[test]
fn a_malformed_authorization_is_incomplete_and_a_foreign_one_is_missing() {
    let headers = sent(&[], b"{}");
    let value = authorization(&headers).to_owned();
    let outcome = |value: &str| verify(&with(&headers, "authorization", value), b"{}", NOW_S);
    for foreign in [
        "Bearer sk-123",
        "",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256x Credential=a",
        "AWS4-ECDSA-P256-SHA256 Credential=a",
    ] {
        assert_eq!(outcome(foreign), Err(SignatureError::Missing), "{foreign}");
    }
    for (from, to) in [
        ("aws4_request", "aws5_request"),
        ("aws4_request", "aws4_request/more"),
        ("AKIDEXAMPLE", ""),
        ("/us-east-1", ""),
        (", Signature=", ", Sig="),
        (", Signature=", ", Signature=0"),
        (", SignedHeaders=", ", Signature="),
        (", SignedHeaders=", ", Credential="),
    ] {
        assert_eq!(
            outcome(&value.replace(from, to)),
            Err(SignatureError::Incomplete),
            "{from} -> {to}"
        );
    }
    assert_eq!(
        outcome(&value.replace(", ", ",")),
        Ok(()),
        "blanks between the parts are optional"
    );
    let long = "A".repeat(limits::SIGV4_SCOPE_PART_BYTES_MAX + 1);
    assert_eq!(
        outcome(&value.replace("AKIDEXAMPLE", &long)),
        Err(SignatureError::Incomplete)
    );
    assert_eq!(
        verify(&headers[1..], b"{}", NOW_S),
        Err(SignatureError::Incomplete),
        "no x-amz-date"
    );
    let twice = [headers.clone(), vec![("Authorization".into(), value)]].concat();
    assert_eq!(verify(&twice, b"{}", NOW_S), Err(SignatureError::Incomplete));
}

#[test]
fn host_and_date_must_be_signed_and_all_signed_headers_present() {
    let headers = sent(&[], b"{}");
    let value = authorization(&headers).to_owned();
    let named = |names: &str| {
        let value = value.replace(
            "SignedHeaders=content-type;host;x-amz-date",
            &format!("SignedHeaders={names}"),
        );
        verify(&with(&headers, "authorization", &value), b"{}", NOW_S)
    };
    for names in [
        "content-type;host",
        "content-type;x-amz-date",
        "",
        ";host;x-amz-date",
        "host;host;x-amz-date",
        "x-amz-date;host",
        "Host;x-amz-date",
        "content-type;host;x-amz-date;x-missing",
    ] {
        assert_eq!(named(names), Err(SignatureError::Headers), "{names}");
    }
    assert_eq!(
        named("host;x-amz-date"),
        Err(SignatureError::Mismatch),
        "fewer headers are another signature"
    );
}

#[test]
fn an_announced_payload_hash_must_be_that_of_the_body() {
    let mut hash = Vec::new();
    put_hex(&payload_hash([&b"{}"[..]]), &mut hash);
    let announced = sent(&[("x-amz-content-sha256", &hash)], b"{}");
    assert_eq!(verify(&announced, b"{}", NOW_S), Ok(()));
    assert_eq!(verify(&announced, b"{ }", NOW_S), Err(SignatureError::Payload));
    for value in ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""] {
        let headers = with(&announced, "x-amz-content-sha256", value);
        assert_eq!(verify(&headers, b"{}", NOW_S), Err(SignatureError::Payload), "{value}");
    }
}
