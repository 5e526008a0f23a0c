//! [`PairIssuer`]: a virtual key as a pair of an access key id and a secret, for AWS SDKs, which sign requests and cannot send a key.
//!
//! Invariants: a pair follows from the issuer's secret and the digest of a virtual key, so that nothing of it is stored, and a key
//! that is rotated has another pair, the old one for as long as the old key; the id says nothing of the secret; no secret has a
//! `Display`, and `Debug` is `***`. Deliberately absent: signatures (`sluice_wire::sigv4`).

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::secret::{Digest, base64url};

/// What every access key id begins with; 16 characters of base32 (RFC 4648 §6) follow.
const ID_PREFIX: &str = "SLCE";
/// Bytes of a digest that its id has: as good as unique among a gateway's keys, which a keyring checks.
const ID_BYTES: usize = 10;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// What a pair is derived for; another use of the same secret has another name.
const PURPOSE: &[u8] = b"sluice aws pair 1\n";

/// The part of a digest that an access key id names.
pub type PairId = [u8; ID_BYTES];

/// Derives the pairs of virtual keys.
#[derive(Clone)]
pub struct PairIssuer {
    keyed: Hmac<Sha256>,
}

/// What an AWS SDK is set up with.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Travels in the clear.
    pub access_key_id: String,
    /// Never travels.
    pub secret_access_key: String,
}

impl fmt::Debug for PairIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PairIssuer {
    /// An issuer whose pairs nobody can guess who does not know `secret`.
    pub fn new(secret: &str) -> Self {
        Self {
            keyed: Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length"),
        }
    }

    /// The pair of a virtual key.
    pub fn pair(&self, digest: &Digest) -> Pair {
        Pair {
            access_key_id: access_key_id(digest),
            secret_access_key: self.secret_of(digest),
        }
    }

    /// The secret of that pair alone: 256 bits as base64url.
    pub fn secret_of(&self, digest: &Digest) -> String {
        let mut mac = self.keyed.clone();
        mac.update(PURPOSE);
        mac.update(&digest.0);
        base64url(&mac.finalize().into_bytes())
    }
}

/// What an access key id names, if it is one of this gateway's.
pub fn parse_id(access_key_id: &str) -> Option<PairId> {
    let text = access_key_id.strip_prefix(ID_PREFIX)?;
    let mut bits: u128 = 0;
    for symbol in text.bytes() {
        let value = BASE32.iter().position(|own| *own == symbol)?;
        bits = bits << 5 | value as u128;
    }
    let bytes = bits.to_be_bytes();
    (text.len() * 5 == ID_BYTES * 8)
        .then(|| bytes.last_chunk::<ID_BYTES>().copied())
        .flatten()
}

/// What the access key id of a digest's pair names.
pub(super) fn id_of(digest: &Digest) -> PairId {
    *digest.0.first_chunk().expect("a digest is longer than an id")
}

fn access_key_id(digest: &Digest) -> String {
    let bits = id_of(digest)
        .iter()
        .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let symbol = |at: usize| char::from(BASE32[(bits >> (5 * at)) as usize & 31]);
    let symbols = (0..ID_BYTES * 8 / 5).rev().map(symbol);
    ID_PREFIX.chars().chain(symbols).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::VirtualKey;

    #[test]
    fn a_pair_names_its_key_and_follows_from_it_and_the_issuers_secret_alone() {
        let keys = [1, 2].map(|byte| VirtualKey::from_random(&[byte; 32]));
        let (one, other) = (PairIssuer::new("an operator's secret"), PairIssuer::new("another"));
        for key in &keys {
            let pair = one.pair(&key.digest());
            assert_eq!(pair.access_key_id.len(), 20);
            assert!(pair.access_key_id.starts_with(ID_PREFIX));
            assert_eq!(parse_id(&pair.access_key_id), Some(id_of(&key.digest())));
            assert_eq!(pair.secret_access_key.len(), 43);
            assert_eq!(pair, one.pair(&key.digest()));
            assert_ne!(pair.secret_access_key, other.pair(&key.digest()).secret_access_key);
            assert_eq!(format!("{pair:?} {one:?}"), "*** ***");
        }
        assert_ne!(one.pair(&keys[0].digest()), one.pair(&keys[1].digest()));
    }

    #[test]
    fn what_is_no_id_of_this_gateways_names_nothing() {
        for text in [
            "",
            "SLCE",
            "AKIAIOSFODNN7EXAMPLE",
            "SLCEAAAAAAAAAAAAAAA",
            "SLCEAAAAAAAAAAAAAAAAA",
            "SLCEaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(parse_id(text), None, "{text}");
        }
        assert_eq!(parse_id("SLCEAAAAAAAAAAAAAAAA"), Some([0; ID_BYTES]));
    }
}
