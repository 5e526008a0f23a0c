//! What a provider says of its limits in the head of an answer.
//!
//! Invariants: only lowers a key's share, never takes a key out: that is what a 429 does; a field that is missing or makes no
//! sense says nothing. Field names: <https://platform.openai.com/docs/guides/rate-limits> (`x-ratelimit-remaining-requests`,
//! `x-ratelimit-limit-requests`, the same for tokens) and <https://docs.anthropic.com/en/api/rate-limits>
//! (`anthropic-ratelimit-requests-remaining` and so on). Deliberately absent: when limits are reset; what was said is
//! believed for a short time only.

use sluice_policy::snapshot::Key;
use sluice_wire::http::FieldId;

use super::Answer;
use crate::exchange::Context;
use crate::scratch::Work;

/// Kinds of limits that are looked at; a provider of several dialects' names uses one.
const KINDS: usize = 4;

/// One kind of limit.
#[derive(Clone, Copy, Default)]
struct Limit {
    remaining: Option<u64>,
    limit: Option<u64>,
}

/// Takes note of how near the answer's head says that `key` is to its limits.
pub fn observe(context: &Context<'_>, work: &Work, answer: &Answer, key: &Key) {
    let mut limits = [Limit::default(); KINDS];
    let mut any = false;
    for field in &work.response.fields {
        // The shortest name has 24 bytes: most fields are told apart without looking at them.
        if field.id != FieldId::Other || field.name.len() < 24 {
            continue;
        }
        let Some((kind, is_limit)) = kind_of(field.name.of(&answer.head_bytes)) else {
            continue;
        };
        let number = number(field.value.of(&answer.head_bytes));
        let limit = &mut limits[kind];
        if is_limit {
            limit.limit = number;
        } else {
            limit.remaining = number;
        }
        any = true;
    }
    if !any {
        return;
    }
    let left = limits
        .iter()
        .filter_map(|limit| left_milli(limit.remaining?, limit.limit?));
    if let Some(left_milli) = left.min() {
        context.plane.keys[key.id.index()].observe(left_milli, context.core.clock.shared_ms());
    }
}

/// Which kind of limit a field is about, and whether it says the limit itself rather than what remains.
fn kind_of(name: &[u8]) -> Option<(usize, bool)> {
    const NAMES: [(&[u8], usize, bool); 10] = [
        (b"x-ratelimit-remaining-requests", 0, false),
        (b"x-ratelimit-limit-requests", 0, true),
        (b"x-ratelimit-remaining-tokens", 1, false),
        (b"x-ratelimit-limit-tokens", 1, true),
        (b"anthropic-ratelimit-requests-remaining", 0, false),
        (b"anthropic-ratelimit-requests-limit", 0, true),
        (b"anthropic-ratelimit-input-tokens-remaining", 2, false),
        (b"anthropic-ratelimit-input-tokens-limit", 2, true),
        (b"anthropic-ratelimit-output-tokens-remaining", 3, false),
        (b"anthropic-ratelimit-output-tokens-limit", 3, true),
    ];
    let same = |known: &&(&[u8], usize, bool)| known.0.len() == name.len() && known.0.eq_ignore_ascii_case(name);
    NAMES.iter().find(same).map(|&(_, kind, is_limit)| (kind, is_limit))
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// What is left, in thousandths of the limit.
fn left_milli(remaining: u64, limit: u64) -> Option<u32> {
    (limit > 0).then(|| u32::try_from(u128::from(remaining.min(limit)) * 1000 / u128::from(limit)).unwrap_or(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_in_any_case_and_only_whole() {
        assert_eq!(kind_of(b"X-RateLimit-Remaining-Requests"), Some((0, false)));
        assert_eq!(kind_of(b"x-ratelimit-limit-tokens"), Some((1, true)));
        assert_eq!(
            kind_of(b"anthropic-ratelimit-output-tokens-remaining"),
            Some((3, false))
        );
        assert_eq!(kind_of(b"x-ratelimit-reset-requests"), None);
        assert_eq!(kind_of(b"x-ratelimit-limit-tokens-and-more"), None);
    }

    #[test]
    fn what_is_left_is_a_share_of_the_limit() {
        assert_eq!(left_milli(5, 100), Some(50));
        assert_eq!(left_milli(200, 100), Some(1000));
        assert_eq!(left_milli(u64::MAX, u64::MAX), Some(1000));
        assert_eq!(left_milli(0, 0), None);
        assert_eq!(number(b" 12 "), Some(12));
        assert_eq!(number(b"-1"), None);
        assert_eq!(number(b"1s"), None);
    }
}
