//! Verifies AWS Signature Version 4 on a Bedrock request.
//!
//! The path is encoded a second time in the canonical request, as every service but S3 does. A signature by an access key whose
//! secret the simulator was not given is only checked for its form. Time skew of up to five minutes is allowed.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::sim::digest::{hex, percent_decode, sha256_hex};
use crate::sim::http::{self, Request};

/// Largest difference between the signature's time and now, in seconds.
const SKEW_SECONDS: u64 = 300;

/// Checks the `Authorization` header of `request` against `secrets` (access key, secret) at `now` seconds since the epoch.
///
/// # Errors
/// The message that the service answers with 403.
pub fn verify(
    request: &Request<'_>,
    authorization: &str,
    secrets: &[(String, String)],
    now: u64,
) -> Result<(), &'static str> {
    const MISSING: &str = "Missing Authentication Token";
    const INCOMPLETE: &str = "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.";
    const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. \
                            Check your AWS Secret Access Key and signing method.";
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(MISSING)?;
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let credential = field("Credential").ok_or(INCOMPLETE)?;
    let signed = field("SignedHeaders").ok_or(INCOMPLETE)?;
    let signature = field("Signature").ok_or(INCOMPLETE)?;
    let (access, scope) = credential.split_once('/').ok_or(INCOMPLETE)?;
    let [day, region, service, "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err(INCOMPLETE);
    };
    let date = request
        .header_str("x-amz-date")
        .ok_or("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")?;
    let Some((_, secret)) = secrets.iter().find(|(held, _)| held == access) else {
        let unknown = "The security token included in the request is invalid.";
        return if secrets.is_empty() { Ok(()) } else { Err(unknown) };
    };
    if !date.starts_with(day) || seconds(date).is_none_or(|at| at.abs_diff(now) > SKEW_SECONDS) {
        return Err("Signature expired");
    }
    if !signed.split(';').any(|name| name == "host") || !signed.split(';').any(|name| name == "x-amz-date") {
        return Err("'Host' and 'X-Amz-Date' must be signed headers.");
    }
    let canonical = canonical_request(request, signed).ok_or(MISMATCH)?;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        sha256_hex(canonical.as_bytes())
    );
    let mut key = mac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    let expected = hex(&mac(&key, to_sign.as_bytes()));
    if expected == signature { Ok(()) } else { Err(MISMATCH) }
}

fn canonical_request(request: &Request<'_>, signed: &str) -> Option<String> {
    let payload = sha256_hex(request.body);
    if request
        .header_str("x-amz-content-sha256")
        .is_some_and(|claimed| claimed != payload)
    {
        return None;
    }
    let path = encode(request.path(), true);
    let mut query: Vec<(String, String)> = Vec::new();
    for pair in request.query().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        query.push((
            encode(&percent_decode(name), false),
            encode(&percent_decode(value), false),
        ));
    }
    query.sort();
    let query: Vec<String> = query
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut headers = String::new();
    for name in signed.split(';') {
        let values: Vec<String> = request
            .headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case(name))
            .map(|h| trim(h.value))
            .collect();
        if values.is_empty() {
            return None;
        }
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    Some(format!(
        "{}\n{path}\n{}\n{headers}\n{signed}\n{payload}",
        request.method,
        query.join("&")
    ))
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3), and `/` if it `is_path`.
fn encode(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || is_path && byte == b'/' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A header value without outer blanks and with runs of blanks made one.
fn trim(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .split_ascii_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Seconds since the epoch of `YYYYMMDD'T'HHMMSS'Z'`.
fn seconds(date: &str) -> Option<u64> {
    if date.len() != 16 || !date.is_ascii() {
        return None;
    }
    let number = |range: std::ops::Range<usize>| date.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    // The simulator runs in this century: a search over days is exact and needs no second calendar.
    let from = (year.checked_sub(1970)?) * 365;
    let days = (from..from + 64)
        .chain(from + 64..from + 500)
        .find(|days| http::civil(*days) == (year, month, day))?;
    Some(days * 86_400 + number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?)
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}
