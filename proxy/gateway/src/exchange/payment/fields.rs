//! Header fields that tell a client what an answer has cost, and how its limits stand.
//!
//! Invariants: written without an allocation of their own. Deliberately absent: which amounts and limits those are.

use sluice_policy::money::NanoUsd;
use sluice_policy::rate::{Standing, Unit};

use crate::reply;

/// A field with an amount in US dollars.
pub(super) fn money_field(text: &mut Vec<u8>, name: &[u8], amount: NanoUsd) {
    text.extend_from_slice(name);
    amount.write(text);
    text.extend_from_slice(b"\r\n");
}

/// How a caller's limits stand, as OpenAI's own fields say it: of requests and of tokens, the limit that is nearest.
pub(super) fn limit_fields(text: &mut Vec<u8>, standings: impl Iterator<Item = Standing>) {
    let mut nearest: [Option<Standing>; 2] = [None; 2];
    for standing in standings {
        let at = match standing.unit {
            Unit::Requests => 0,
            Unit::InputTokens | Unit::OutputTokens | Unit::TotalTokens => 1,
            Unit::Concurrent => continue,
        };
        let place = &mut nearest[at];
        if place.is_none_or(|other| standing.remaining < other.remaining) {
            *place = Some(standing);
        }
    }
    for (standing, names) in nearest.into_iter().zip([
        [
            &b"x-ratelimit-limit-requests: "[..],
            b"x-ratelimit-remaining-requests: ",
            b"x-ratelimit-reset-requests: ",
        ],
        [
            b"x-ratelimit-limit-tokens: ",
            b"x-ratelimit-remaining-tokens: ",
            b"x-ratelimit-reset-tokens: ",
        ],
    ]) {
        let Some(standing) = standing else { continue };
        reply::number_field(text, names[0], standing.most);
        reply::number_field(text, names[1], standing.remaining);
        text.extend_from_slice(names[2]);
        text.extend_from_slice(itoa::Buffer::new().format(standing.resets_in_s).as_bytes());
        text.extend_from_slice(b"s\r\n");
    }
}
