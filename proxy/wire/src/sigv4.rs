//! AWS Signature Version 4, header based: signs what goes to Bedrock, verifies what a Bedrock client sends to us.
//!
//! Invariants: the clock is an argument, in seconds since the Unix epoch; a signature is compared in constant time; the
//! secret and what is derived from it appear in no `Debug`, error or output; a verified request has `host` and
//! `x-amz-date` under its signature, a date within [`limits::SIGV4_SKEW_S_MAX`], and the body that was hashed.
//! Deliberately absent: presigned URLs, chunk signatures (`STREAMING-…`), `UNSIGNED-PAYLOAD` and SigV4A, which
//! no Bedrock client needs, and S3's single encoding of the path.
//!
//! Specification: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::limits;

mod canonical;
mod date;

/// The only algorithm spoken here.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Last part of every credential scope.
const TERMINATOR: &str = "aws4_request";

/// SHA-256 of a payload.
pub type PayloadHash = [u8; 32];

/// Hashes a payload that lies in pieces, in order.
pub fn payload_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> PayloadHash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// What signs: a long-lived pair, or a temporary one with its session token.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Travels in the clear.
    pub access_key_id: &'a str,
    /// Never travels.
    pub secret_access_key: &'a str,
    /// `x-amz-security-token` of temporary credentials.
    pub session_token: Option<&'a str>,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// What is signed, as it goes over the wire.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `POST`, in capitals.
    pub method: &'a str,
    /// Path of the request target, percent-encoded as sent, without the query.
    pub path: &'a str,
    /// Query without `?`; empty if there is none.
    pub query: &'a str,
    /// Fields as sent, in any order and case. Signing covers all of them, so name only those that no hop changes
    /// (`host`, `content-type`); verifying takes all that came and uses those that the client signed.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// An `Authorization` header taken apart; nothing is verified yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// Whose secret to look up.
    pub access_key_id: &'a str,
    /// `YYYYMMDD`.
    pub date: &'a str,
    /// Any; the gateway has no region of its own.
    pub region: &'a str,
    /// `bedrock` for every Bedrock runtime operation.
    pub service: &'a str,
    signed_headers: &'a str,
    signature: [u8; 32],
}

impl fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("access_key_id", &self.access_key_id)
            .field("scope", &(self.date, self.region, self.service))
            .field("signed_headers", &self.signed_headers)
            .finish_non_exhaustive()
    }
}

/// Why a signed request is refused. All are the client's fault and none is worth a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// No `Authorization` header of this algorithm, or more than one.
    Missing,
    /// The header, or `x-amz-date`, does not have the specified form.
    Incomplete,
    /// The access key id is not known.
    UnknownKey,
    /// Signed for another service.
    Service,
    /// `x-amz-date` is too far from the clock, or on another day than the credential scope.
    Skewed,
    /// `host` or `x-amz-date` is not signed, or a signed header is not in the request.
    Headers,
    /// The body is not the one that `x-amz-content-sha256` announces.
    Payload,
    /// The signature does not match.
    Mismatch,
}

impl SignatureError {
    /// The `x-amzn-errortype` that an AWS SDK expects
    /// (<https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html>); the status is 403 for each.
    pub const fn error_type(self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::Incomplete => "IncompleteSignatureException",
            Self::UnknownKey => "UnrecognizedClientException",
            Self::Service | Self::Skewed | Self::Headers | Self::Payload | Self::Mismatch => {
                "InvalidSignatureException"
            }
        }
    }

    /// What to tell the client.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Missing => "The request has no AWS4-HMAC-SHA256 Authorization header.",
            Self::Incomplete => "The Authorization or x-amz-date header does not have the form of Signature Version 4.",
            Self::UnknownKey => "The access key id is not known to this gateway.",
            Self::Service => "The credential must be scoped to the service 'bedrock'.",
            Self::Skewed => {
                "x-amz-date is more than five minutes from the gateway's clock, or not on the credential's day."
            }
            Self::Headers => {
                "The headers host and x-amz-date, and all that SignedHeaders names, must be sent and signed."
            }
            Self::Payload => "x-amz-content-sha256 is not the SHA-256 of the body.",
            Self::Mismatch => {
                "The request signature does not match. Check the secret access key and the signing method."
            }
        }
    }
}

impl<'a> Authorization<'a> {
    /// Finds and takes apart the `Authorization` header.
    ///
    /// # Errors
    /// `Missing` or `Incomplete`.
    pub fn parse(headers: &[(&'a str, &'a [u8])]) -> Result<Self, SignatureError> {
        let value = single(headers, "authorization")?.ok_or(SignatureError::Missing)?;
        let value = std::str::from_utf8(value)
            .map_err(|_| SignatureError::Incomplete)?
            .trim();
        let rest = value.strip_prefix(ALGORITHM).ok_or(SignatureError::Missing)?;
        if !rest.starts_with([' ', '\t']) {
            return Err(SignatureError::Missing);
        }
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or(SignatureError::Incomplete)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(SignatureError::Incomplete),
            };
            if slot.replace(value).is_some() {
                return Err(SignatureError::Incomplete);
            }
        }
        let (Some(credential), Some(signed_headers), Some(signature)) = (credential, signed_headers, signature) else {
            return Err(SignatureError::Incomplete);
        };
        let mut parts = credential.split('/');
        let mut part = || {
            let part = parts.next().ok_or(SignatureError::Incomplete)?;
            let sound = !part.is_empty() && part.len() <= limits::SIGV4_SCOPE_PART_BYTES_MAX;
            sound.then_some(part).ok_or(SignatureError::Incomplete)
        };
        let (access_key_id, date, region, service) = (part()?, part()?, part()?, part()?);
        if part()? != TERMINATOR || parts.next().is_some() {
            return Err(SignatureError::Incomplete);
        }
        let signature = unhex(signature).ok_or(SignatureError::Incomplete)?;
        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            signed_headers,
            signature,
        })
    }
}

/// Signs and verifies, one per core: it keeps derived keys and scratch, so that a signature costs two HMACs and the
/// canonical request's hash beside the payload's.
#[derive(Default)]
pub struct Signer {
    keys: Vec<Option<DerivedKey>>,
    /// Canonical request, then string to sign.
    scratch: Vec<u8>,
    /// Positions of headers in canonical order.
    order: Vec<usize>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("keys", &self.keys.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer without any derived key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the header lines that sign `request` to `out`, each ended by CRLF: `x-amz-date`, `x-amz-security-token`
    /// if there is a token, and `authorization`. `request.headers` must hold `host` and none of these three.
    pub fn sign(
        &mut self,
        credentials: &Credentials<'_>,
        region: &str,
        service: &str,
        request: &Request<'_>,
        payload: &PayloadHash,
        now_s: u64,
        out: &mut Vec<u8>,
    ) {
        let stamp = date::Stamp::from_epoch(now_s);
        let mut extra = [("x-amz-date", stamp.as_bytes()), ("", &[][..])];
        let extra = match credentials.session_token {
            Some(token) => {
                extra[1] = ("x-amz-security-token", token.as_bytes());
                &extra[..]
            }
            None => &extra[..1],
        };
        let header = |index: usize| -> (&str, &[u8]) {
            match index.checked_sub(request.headers.len()) {
                None => request.headers[index],
                Some(index) => extra[index],
            }
        };
        self.order.clear();
        self.order.extend(0..request.headers.len() + extra.len());
        self.order
            .sort_by(|&a, &b| canonical::compare_names(header(a).0, header(b).0));

        self.scratch.clear();
        canonical::put_request_line(request, &mut self.scratch);
        canonical::put_headers(self.order.iter().map(|&index| header(index)), &mut self.scratch);
        self.scratch.push(b'\n');
        let names_from = self.scratch.len();
        canonical::put_names(self.order.iter().map(|&index| header(index).0), &mut self.scratch);
        let names = names_from..self.scratch.len();
        self.scratch.push(b'\n');
        put_hex(payload, &mut self.scratch);

        for (name, value) in extra {
            put_line(name, &[value], out);
        }
        out.extend_from_slice(b"authorization: ");
        out.extend_from_slice(ALGORITHM.as_bytes());
        out.extend_from_slice(b" Credential=");
        for part in [credentials.access_key_id, stamp.day(), region, service] {
            out.extend_from_slice(part.as_bytes());
            out.push(b'/');
        }
        out.extend_from_slice(TERMINATOR.as_bytes());
        out.extend_from_slice(b", SignedHeaders=");
        out.extend_from_slice(&self.scratch[names]);
        out.extend_from_slice(b", Signature=");
        let scope = Scope {
            date: stamp.day(),
            region,
            service,
        };
        let mac = self.mac(
            credentials.access_key_id,
            credentials.secret_access_key,
            scope,
            stamp.as_bytes(),
        );
        put_hex(&mac.finalize().into_bytes(), out);
        out.extend_from_slice(b"\r\n");
    }

    /// Checks that `request` with this payload was signed, not long ago, by the holder of the secret that `secret_of`
    /// finds for its access key id. `service` is the one that the credential must name (`bedrock`).
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn verify<'a, 's>(
        &mut self,
        request: &Request<'a>,
        payload: &PayloadHash,
        service: &str,
        now_s: u64,
        secret_of: impl FnOnce(&str) -> Option<&'s str>,
    ) -> Result<Authorization<'a>, SignatureError> {
        let authorization = Authorization::parse(request.headers)?;
        if authorization.service != service {
            return Err(SignatureError::Service);
        }
        let stamp = single(request.headers, "x-amz-date")?.ok_or(SignatureError::Incomplete)?;
        let at_s = date::to_epoch(stamp).ok_or(SignatureError::Incomplete)?;
        if at_s.abs_diff(now_s) > limits::SIGV4_SKEW_S_MAX || !stamp.starts_with(authorization.date.as_bytes()) {
            return Err(SignatureError::Skewed);
        }
        if authorization.date.len() != date::DAY_BYTES {
            return Err(SignatureError::Incomplete);
        }
        self.order_signed(authorization.signed_headers, request.headers)?;
        if let Some(announced) = single(request.headers, "x-amz-content-sha256")? {
            let announced = std::str::from_utf8(announced)
                .ok()
                .and_then(unhex)
                .ok_or(SignatureError::Payload)?;
            if announced != *payload {
                return Err(SignatureError::Payload);
            }
        }
        let secret = secret_of(authorization.access_key_id).ok_or(SignatureError::UnknownKey)?;

        self.scratch.clear();
        canonical::put_request_line(request, &mut self.scratch);
        canonical::put_headers(
            self.order.iter().map(|&index| request.headers[index]),
            &mut self.scratch,
        );
        self.scratch.push(b'\n');
        self.scratch.extend_from_slice(authorization.signed_headers.as_bytes());
        self.scratch.push(b'\n');
        put_hex(payload, &mut self.scratch);
        let scope = Scope {
            date: authorization.date,
            region: authorization.region,
            service,
        };
        self.mac(authorization.access_key_id, secret, scope, stamp)
            .verify_slice(&authorization.signature)
            .map_err(|_| SignatureError::Mismatch)?;
        Ok(authorization)
    }

    /// Fills `order` with the signed headers in the order of `names`, which must ascend.
    fn order_signed(&mut self, names: &str, headers: &[(&str, &[u8])]) -> Result<(), SignatureError> {
        self.order.clear();
        let (mut host, mut date, mut last) = (false, false, "");
        for name in names.split(';') {
            if name <= last || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(SignatureError::Headers);
            }
            last = name;
            host |= name == "host";
            date |= name == "x-amz-date";
            let before = self.order.len();
            let matching = (0..headers.len()).filter(|&index| headers[index].0.eq_ignore_ascii_case(name));
            self.order.extend(matching);
            if self.order.len() == before {
                return Err(SignatureError::Headers);
            }
        }
        if host && date {
            Ok(())
        } else {
            Err(SignatureError::Headers)
        }
    }

    /// The HMAC over the string to sign of the canonical request in `scratch`.
    fn mac(&mut self, access_key_id: &str, secret: &str, scope: Scope<'_>, stamp: &[u8]) -> Hmac<Sha256> {
        let canonical: [u8; 32] = Sha256::digest(&self.scratch).into();
        self.scratch.clear();
        for line in [ALGORITHM.as_bytes(), stamp] {
            self.scratch.extend_from_slice(line);
            self.scratch.push(b'\n');
        }
        for part in [scope.date, scope.region, scope.service] {
            self.scratch.extend_from_slice(part.as_bytes());
            self.scratch.push(b'/');
        }
        self.scratch.extend_from_slice(TERMINATOR.as_bytes());
        self.scratch.push(b'\n');
        put_hex(&canonical, &mut self.scratch);

        if self.keys.is_empty() {
            self.keys.resize_with(limits::SIGV4_KEYS_CACHED, || None);
        }
        let slot = &mut self.keys[slot_of(access_key_id, scope.region)];
        let key = match slot {
            Some(key) if key.is_for(access_key_id, secret, scope) => key,
            _ => slot.insert(DerivedKey::new(access_key_id, secret, scope)),
        };
        let mut mac = key.mac.clone();
        mac.update(&self.scratch);
        mac
    }
}

#[derive(Clone, Copy)]
struct Scope<'a> {
    date: &'a str,
    region: &'a str,
    service: &'a str,
}

/// A signing key for one day, with the HMAC's key schedule already done.
struct DerivedKey {
    access_key_id: Box<str>,
    /// Kept to notice that the secret behind an access key id was replaced.
    secret: Box<str>,
    date: Box<str>,
    region: Box<str>,
    service: Box<str>,
    mac: Hmac<Sha256>,
}

impl DerivedKey {
    fn new(access_key_id: &str, secret: &str, scope: Scope<'_>) -> Self {
        let mut mac = keyed(&[b"AWS4", secret.as_bytes()].concat());
        for part in [scope.date, scope.region, scope.service, TERMINATOR] {
            mac.update(part.as_bytes());
            mac = keyed(&mac.finalize().into_bytes());
        }
        Self {
            access_key_id: access_key_id.into(),
            secret: secret.into(),
            date: scope.date.into(),
            region: scope.region.into(),
            service: scope.service.into(),
            mac,
        }
    }

    fn is_for(&self, access_key_id: &str, secret: &str, scope: Scope<'_>) -> bool {
        *self.access_key_id == *access_key_id
            && *self.secret == *secret
            && *self.date == *scope.date
            && *self.region == *scope.region
            && *self.service == *scope.service
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// FNV-1a; a collision only costs a derivation.
fn slot_of(access_key_id: &str, region: &str) -> usize {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = access_key_id
        .bytes()
        .chain(region.bytes())
        .fold(0xcbf2_9ce4_8422_2325, step);
    ((hash >> 32) ^ hash) as usize & (limits::SIGV4_KEYS_CACHED - 1)
}

/// The value of a field that may come once at most.
fn single<'a>(headers: &[(&'a str, &'a [u8])], name: &str) -> Result<Option<&'a [u8]>, SignatureError> {
    let mut values = headers
        .iter()
        .filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
    let first = values.next().map(|(_, value)| *value);
    if values.next().is_some() {
        Err(SignatureError::Incomplete)
    } else {
        Ok(first)
    }
}

fn put_line(name: &str, value: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    value.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

fn put_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// 64 hexadecimal digits in lower case, as the specification writes them.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
