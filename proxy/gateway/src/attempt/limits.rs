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
        let Some((kind, is_limit)) = kind_of(field.id) else {
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
fn kind_of(id: FieldId) -> Option<(usize, bool)> {
    Some(match id {
        FieldId::RequestsLeft | FieldId::AnthropicRequestsLeft => (0, false),
        FieldId::RequestsLimit | FieldId::AnthropicRequestsLimit => (0, true),
        FieldId::TokensLeft => (1, false),
        FieldId::TokensLimit => (1, true),
        FieldId::AnthropicInputLeft => (2, false),
        FieldId::AnthropicInputLimit => (2, true),
        FieldId::AnthropicOutputLeft => (3, false),
        FieldId::AnthropicOutputLimit => (3, true),
        _ => return None,
    })
}

/// A decimal number of at most 19 digits, which 64 bits hold.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0, |number: u64, &digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}

/// What is left, in thousandths of the limit.
fn left_milli(remaining: u64, limit: u64) -> Option<u32> {
    if limit == 0 {
        return None;
    }
    let remaining = remaining.min(limit);
    let milli = match remaining.checked_mul(1000) {
        Some(thousandfold) => thousandfold / limit,
        // Then the limit is far above 1000 as well, and the result short of the exact one by less than a thousandth.
        None => remaining / (limit / 1000),
    };
    Some(u32::try_from(milli.min(1000)).unwrap_or(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_share_of_the_limit() {
        assert_eq!(left_milli(5, 100), Some(50));
        assert_eq!(left_milli(200, 100), Some(1000));
        assert_eq!(left_milli(u64::MAX, u64::MAX), Some(1000));
        assert_eq!(left_milli(0, 0), None);
        assert_eq!(number(b"12"), Some(12));
        assert_eq!(number(b""), None);
        assert_eq!(number(&[b'9'; 20]), None);
        assert_eq!(number(b"-1"), None);
        assert_eq!(number(b"1s"), None);
    }
}
