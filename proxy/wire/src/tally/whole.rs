//! Usage out of a document that is there as a whole: looked for by its name, and by what stands behind it.
//!
//! In a JSON text, the bytes `"usage"` with no backslash before them are a string of their own: within a string, quotes are
//! escaped. Before a colon it is a key. It is the outermost object's if behind its value exactly one bracket more closes than
//! opens, up to the document's end. Invariants: whatever is not as plain as that is left to be read from its begin
//! ([`super::path`]). Deliberately absent: documents in pieces.

use std::sync::LazyLock;

use memchr::{memchr2, memmem};

use crate::chat::{ServiceTier, Usage};
use crate::provider::UsageReader;

const NAME: &[u8] = b"\"usage\"";
const TIER: &[u8] = b"service_tier";
static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(NAME));
static TIER_FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(TIER));

/// What a document says.
pub(super) enum Seen {
    /// Nothing of usage.
    Nothing,
    /// This, and the tier that is named behind it.
    Usage(Usage, Option<ServiceTier>),
}

/// Looks at a whole document; `None` if it has to be read from its begin.
pub(super) fn look(document: &[u8], reader: &mut UsageReader) -> Option<Seen> {
    let Some(at) = FINDER.find(document) else {
        return Some(Seen::Nothing);
    };
    let value = at + NAME.len();
    if at > 0 && document[at - 1] == b'\\' || FINDER.find(&document[value..]).is_some() {
        return None;
    }
    let value = value + colon(&document[value..])?;
    let rest = &document[value..];
    if rest.starts_with(b"null") {
        return Some(Seen::Nothing);
    }
    let (usage, len) = reader.read_plain(rest)?;
    let tier = end(&rest[len..])?;
    // OpenAI names the tier behind it. Elsewhere it is looked for thoroughly.
    if tier.is_none() && TIER_FINDER.find(&document[..at]).is_some() {
        return None;
    }
    Some(Seen::Usage(usage, tier))
}

/// Bytes of a colon and the whitespace around it.
fn colon(bytes: &[u8]) -> Option<usize> {
    let blank = |bytes: &[u8]| bytes.len() - bytes.trim_ascii_start().len();
    let before = blank(bytes);
    (bytes.get(before) == Some(&b':')).then(|| before + 1 + blank(&bytes[before + 1..]))
}

/// Goes to the end of a document from behind a value of its outermost object; the tier that the object names there, if it does.
fn end(bytes: &[u8]) -> Option<Option<ServiceTier>> {
    let mut depth: u32 = 1;
    let mut tier = None;
    let mut at = 0;
    while depth > 0 {
        match *bytes.get(at)? {
            b'"' => {
                let string = string(&bytes[at + 1..])?;
                at += 1 + string.len();
                if depth == 1
                    && string == TIER
                    && let Some(skip) = colon(&bytes[at + 1..])
                {
                    at += 1 + skip;
                    if bytes.get(at) != Some(&b'"') {
                        continue;
                    }
                    let value = self::string(&bytes[at + 1..])?;
                    tier = ServiceTier::new(value);
                    at += 1 + value.len();
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    bytes[at..].trim_ascii().is_empty().then_some(tier)
}

/// What stands before the quote that ends a string.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', &bytes[at..])?;
        if bytes[at] == b'"' {
            return Some(&bytes[..at]);
        }
        at += 2;
        if at > bytes.len() {
            return None;
        }
    }
}
