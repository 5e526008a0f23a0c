//! [`VirtualKey`] and [`Digest`]: a key's secret, and what is kept of it.
//!
//! Invariants: a secret has no `Display`, and its `Debug` is `***`; digests are compared in constant time.
//! Deliberately absent: randomness.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// What every key begins with, so that people, and scanners for leaked secrets, can tell it.
pub const KEY_PREFIX: &str = "sk-sluice-";

/// A key as it is shown once, to whoever made it.
#[derive(Clone, PartialEq, Eq)]
pub struct VirtualKey(String);

impl VirtualKey {
    /// A key of 256 random bits, which must come from the operating system: the prefix and 43 characters of base64url
    /// (RFC 4648 §5).
    pub fn from_random(bits: &[u8; 32]) -> Self {
        Self([KEY_PREFIX, &base64url(bits)].concat())
    }

    /// The text, to be shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// Its last four characters, by which its owner can tell it from others.
    pub fn hint(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }
}

/// Without padding (RFC 4648 §5).
pub(super) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=group.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

impl fmt::Debug for VirtualKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// SHA-256 of a key (FIPS 180-4).
#[derive(Clone, Copy, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of a credential as the client sent it.
    pub fn of(credential: &[u8]) -> Self {
        Self(Sha256::digest(credential).into())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(&other.0);
        std::hint::black_box(differences.fold(0, |sum, (one, other)| sum | (one ^ other))) == 0
    }
}

impl Eq for Digest {}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
