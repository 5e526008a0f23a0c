//! Where a client's credential stands in a request's head.
//!
//! Invariants: no allocation; what is returned borrows from the field. Deliberately absent: what it means (`keyring.rs`), and
//! credentials in the URL, which end up in logs.

use super::KEY_PREFIX;

/// Fields that may carry a virtual key, in lower case, the surer ones first: two that are the gateway's own, or another
/// gateway's that this one stands in for; then those of the vendors' SDKs.
pub const CREDENTIAL_FIELDS: [&str; 6] = [
    "x-sluice-key",
    "x-bf-vk",
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
];

/// Of [`CREDENTIAL_FIELDS`]: those that carry nothing but virtual keys.
const OWN: usize = 2;
const AUTHORIZATION: usize = 2;

/// The credential among a request's fields, given as names, in any case, and values: from the gateway's own fields, else the
/// first that looks like a virtual key, else the first there is. Empty values do not count.
pub fn credential<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Option<&'a [u8]> {
    let mut best: Option<(usize, &[u8])> = None;
    for (name, value) in fields {
        let is_it = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
        let Some(place) = CREDENTIAL_FIELDS.iter().position(is_it) else {
            continue;
        };
        let value = if place == AUTHORIZATION {
            bearer(value)
        } else {
            Some(value.trim_ascii())
        };
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            continue;
        };
        // SDKs insist on a key of their own vendor, so that a placeholder may stand beside the virtual key.
        let is_foreign = place >= OWN && !value.starts_with(KEY_PREFIX.as_bytes());
        let rank = place + if is_foreign { CREDENTIAL_FIELDS.len() } else { 0 };
        if best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, value));
        }
    }
    best.map(|(_, value)| value)
}

/// Whether a field, in any case, is for the gateway alone and must not reach a provider. The vendors' own credential fields
/// are replaced anyway.
pub fn is_own_field(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let tag = super::tags::FIELD_PREFIX.as_bytes();
    let begins = name
        .get(..tag.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(tag));
    begins || CREDENTIAL_FIELDS[..OWN].iter().any(|known| is(known))
}

/// The token of `Bearer TOKEN` (RFC 6750 §2.1; the scheme's name in any case, RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
