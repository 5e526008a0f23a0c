//! Signs a request to Bedrock with the credentials of its key, and verifies what a Bedrock client has signed with its own.
//!
//! Invariants: no IO and no clock; neither the secret nor the session token has a `Display` or shows in `Debug`; the same
//! request, credentials and second give the same bytes. Deliberately absent: where credentials come from
//! (`control/credentials.rs`), and `x-amz-content-sha256`, which only S3 demands.

use std::fmt;

use sluice_policy::keyring::PairId;
use sluice_wire::http::{FieldId, Span};
use sluice_wire::sigv4::{Authorization, Credentials, Request, SignatureError, Signer, payload_hash};

use crate::scratch::Asked;

/// What Bedrock's runtime operations are signed for.
const SERVICE: &str = "bedrock";

/// AWS credentials, temporary or lasting.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsCredentials {
    /// Travels in the clear.
    pub access_key_id: Box<str>,
    /// Never travels.
    pub secret_access_key: Box<str>,
    /// Of temporary credentials; travels in `x-amz-security-token`.
    pub session_token: Option<Box<str>>,
    /// When they stop to be valid, in seconds since the Unix epoch; `None`: never.
    pub expires_unix_s: Option<u64>,
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials")
            .field("access_key_id", &self.access_key_id)
            .field("temporary", &self.session_token.is_some())
            .field("expires_unix_s", &self.expires_unix_s)
            .finish_non_exhaustive()
    }
}

/// What is signed beside the payload, as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// In capitals.
    pub method: &'a [u8],
    /// The value of `Host`.
    pub host: &'a str,
    /// Of the request target, percent-encoded, without the query.
    pub path: &'a [u8],
    /// Of the request target, without `?`; empty if there is none.
    pub query: &'a [u8],
}

/// Appends the header lines that sign a request, each ended by CRLF: `x-amz-date`, `x-amz-security-token` if there is a token,
/// and `authorization`. The payload is hashed in the order of its pieces. Fields other than `host` and the first two stay
/// unsigned, as AWS allows.
pub fn sign<'p>(
    signer: &mut Signer,
    credentials: &AwsCredentials,
    region: &str,
    head: &RequestHead<'_>,
    payload: impl Iterator<Item = &'p [u8]>,
    unix_s: u64,
    out: &mut Vec<u8>,
) {
    // A request line is ASCII (RFC 9112 §3); of one that is not, the provider refuses the signature.
    let [method, path, query] = [head.method, head.path, head.query].map(String::from_utf8_lossy);
    let request = Request {
        method: &method,
        path: &path,
        query: &query,
        headers: &[("host", head.host.as_bytes())],
    };
    let credentials = Credentials {
        access_key_id: &credentials.access_key_id,
        secret_access_key: &credentials.secret_access_key,
        session_token: credentials.session_token.as_deref(),
    };
    signer.sign(
        &credentials,
        region,
        SERVICE,
        &request,
        &payload_hash(payload),
        unix_s,
        out,
    );
}

/// The virtual key's pair that a client's request says it is signed with; `None` if it says nothing of the kind.
pub(crate) fn pair_of(asked: &Asked) -> Option<PairId> {
    let field = asked.head.field(FieldId::Authorization)?;
    let value = field.value.of(&asked.head_bytes);
    let authorization = Authorization::parse(&[("authorization", value)]).ok()?;
    sluice_policy::keyring::parse_id(authorization.access_key_id)
}

/// Whether a client's request, with its body, was signed with this secret not long ago.
///
/// # Errors
/// Why it was not.
pub(crate) fn verify(signer: &mut Signer, asked: &Asked, secret: &str, unix_s: u64) -> Result<(), SignatureError> {
    let head = &asked.head;
    let text = |span: Span| std::str::from_utf8(span.of(&asked.head_bytes)).map_err(|_| SignatureError::Mismatch);
    let mut headers = Vec::with_capacity(head.fields.len());
    for field in &head.fields {
        headers.push((text(field.name)?, field.value.of(&asked.head_bytes)));
    }
    let request = Request {
        method: text(head.method_span)?,
        path: text(head.path)?,
        query: text(head.query)?,
        headers: &headers,
    };
    let payload = payload_hash(asked.body.iter().map(|piece| &**piece));
    signer
        .verify(&request, &payload, SERVICE, unix_s, |_| Some(secret))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-04T05:06:07Z.
    const NOW_S: u64 = 1_772_600_767;
    const HOST: &str = "bedrock-runtime.eu-central-1.amazonaws.com";
    const PATH: &str = "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream";
    const BODY: &[u8] = br#"{"messages":[{"role":"user","content":[{"text":"What is in lane 3?"}]}]}"#;

    fn credentials(token: Option<&str>) -> AwsCredentials {
        AwsCredentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session_token: token.map(Into::into),
            expires_unix_s: None,
        }
    }

    fn signed(token: Option<&str>) -> String {
        let mut out = Vec::new();
        let (head, tail) = BODY.split_at(11);
        sign(
            &mut Signer::new(),
            &credentials(token),
            "eu-central-1",
            &RequestHead {
                method: b"POST",
                host: HOST,
                path: PATH.as_bytes(),
                query: b"",
            },
            [head, tail].into_iter(),
            NOW_S,
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    /// Made with botocore 1.43.11 (`SigV4Auth` with the clock held, `host` the only field of the request).
    #[test]
    fn the_lines_are_those_of_botocore() {
        let with = |signed: &str, token: &str, signature: &str| {
            format!(
                "x-amz-date: 20260304T050607Z\r\n{token}authorization: AWS4-HMAC-SHA256 \
                 Credential=AKIAIOSFODNN7EXAMPLE/20260304/eu-central-1/bedrock/aws4_request, SignedHeaders={signed}, \
                 Signature={signature}\r\n"
            )
        };
        assert_eq!(
            signed(None),
            with(
                "host;x-amz-date",
                "",
                "10953b715d396a91e0af8215dd9e081fde08433ea863119aabc3967a20cbba85"
            )
        );
        assert_eq!(
            signed(Some("FwoGZXIvYXdzEXAMPLE//token==")),
            with(
                "host;x-amz-date;x-amz-security-token",
                "x-amz-security-token: FwoGZXIvYXdzEXAMPLE//token==\r\n",
                "ac4aa441a657f3029605a20ff45a7e6d25b9f09619889a009fa1de59d5bf1bd0"
            )
        );
    }

    #[test]
    fn a_signed_request_verifies_and_a_changed_one_does_not() {
        let text = signed(Some("token"));
        let mut headers: Vec<(&str, &[u8])> = vec![("host", HOST.as_bytes())];
        headers.extend(text.lines().map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name, value.as_bytes())
        }));
        let verify = |path: &str, body: &[u8]| {
            let request = Request {
                method: "POST",
                path,
                query: "",
                headers: &headers,
            };
            let key = credentials(None);
            Signer::new()
                .verify(&request, &payload_hash([body]), SERVICE, NOW_S + 60, |id| {
                    (id == &*key.access_key_id).then_some("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
                })
                .is_ok()
        };
        assert!(verify(PATH, BODY));
        assert!(!verify(PATH, b"{}"));
        assert!(!verify("/model/other/converse", BODY));
    }

    #[test]
    fn no_debug_output_shows_the_secret_or_the_token() {
        let shown = format!("{:?}", credentials(Some("FwoGZXIvYXdz")));
        assert!(shown.contains("AKIAIOSFODNN7EXAMPLE"), "{shown}");
        assert!(!shown.contains("wJalr") && !shown.contains("FwoG"), "{shown}");
    }
}
