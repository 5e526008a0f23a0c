//! How long a client says that it waits: `x-sluice-timeout-ms`, and what the vendors' SDKs say of themselves.
//!
//! Invariants: what a client says shortens the configured limits and never lengthens them; the gateway's own header field is
//! checked, the SDKs' fields are hints, so that nonsense in them is as if they were not there. Deliberately absent: clocks;
//! durations come out, and the caller counts from the moment at which the request was there.

use sluice_wire::error::{ApiError, Code};

/// The header field by which a client bounds its request.
pub const TIMEOUT_FIELD: &str = "x-sluice-timeout-ms";
/// Largest value of it: a day, as in the configuration.
pub const TIMEOUT_MS_MAX: u32 = 86_400_000;

/// How much earlier than the client the gateway gives up, in milliseconds: at least, at most, and as a share (1/n).
const MARGIN_MS_MIN: u32 = 50;
const MARGIN_MS_MAX: u32 = 1000;
const MARGIN_SHARE: u32 = 20;

/// What a client says about its own patience.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// The value of [`TIMEOUT_FIELD`]: milliseconds for the whole request.
    pub own: Option<&'a [u8]>,
    /// The value of `x-stainless-read-timeout` (Python SDKs of OpenAI and Anthropic): seconds, with a fraction, that it waits
    /// for the next byte. The first byte is what it waits for longest.
    pub read: Option<&'a [u8]>,
    /// The value of `x-stainless-timeout` (TypeScript SDKs): whole seconds that it waits for the head of the answer.
    pub head: Option<&'a [u8]>,
}

/// Limits of one request, in milliseconds from the moment at which it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until its end, all attempts together.
    pub total_ms: u32,
    /// Until the first byte of the answer, all attempts together; never more than `total_ms`.
    pub answer_ms: u32,
}

/// The limits of a request whose route allows `total_ms`.
///
/// # Errors
/// `invalid_parameter`, naming the field: [`TIMEOUT_FIELD`] is not a whole number from 1 to [`TIMEOUT_MS_MAX`].
pub fn of(total_ms: u32, said: &Said<'_>) -> Result<Patience, ApiError> {
    let total_ms = match said.own {
        Some(value) => total_ms.min(own(value)?),
        None => total_ms,
    };
    let hints = [said.read, said.head].into_iter().flatten().filter_map(seconds);
    let answer_ms = hints.map(|ms| ms - margin(ms)).fold(total_ms, u32::min);
    Ok(Patience { total_ms, answer_ms })
}

fn own(value: &[u8]) -> Result<u32, ApiError> {
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match text.and_then(|text| text.parse::<u32>().ok()) {
        Some(ms) if (1..=TIMEOUT_MS_MAX).contains(&ms) => Ok(ms),
        _ => Err(ApiError::new(
            Code::InvalidParameter,
            format!("the header field {TIMEOUT_FIELD} holds a whole number of milliseconds from 1 to {TIMEOUT_MS_MAX}"),
        )
        .with_param(TIMEOUT_FIELD)),
    }
}

/// Seconds such as `600`, `600.0` or `0.25` in milliseconds, from 1 to a day; `None` for anything else.
fn seconds(value: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?;
    // What Rust reads as a number beyond digits and a point (`inf`, `1e9`) no SDK sends.
    if text.len() > 16 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let ms = text.parse::<f64>().ok()? * 1000.0;
    // The cast saturates and truncates; both ends are checked before.
    (1.0..=f64::from(TIMEOUT_MS_MAX)).contains(&ms).then_some(ms as u32)
}

/// How much of a client's patience is left over for the answer's way back.
fn margin(ms: u32) -> u32 {
    (ms / MARGIN_SHARE).clamp(MARGIN_MS_MIN, MARGIN_MS_MAX).min(ms / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(own: Option<&'static str>, read: Option<&'static str>, head: Option<&'static str>) -> Said<'static> {
        let bytes = |text: Option<&'static str>| text.map(str::as_bytes);
        Said {
            own: bytes(own),
            read: bytes(read),
            head: bytes(head),
        }
    }

    #[test]
    fn a_client_shortens_its_request_and_never_lengthens_it() {
        let total = |own| of(10_000, &said(Some(own), None, None)).unwrap();
        assert_eq!(total("300").total_ms, 300);
        assert_eq!(total("300").answer_ms, 300);
        assert_eq!(total("86400000").total_ms, 10_000);
        assert_eq!(total("0010").total_ms, 10);
    }

    #[test]
    fn nonsense_in_our_own_field_is_refused_by_name() {
        for value in [
            "",
            "0",
            "-1",
            "+5",
            "1.5",
            "1s",
            " 1",
            "86400001",
            "99999999999999999999",
            "\u{663}",
        ] {
            let error = of(10_000, &said(Some(value), None, None)).unwrap_err();
            assert_eq!(error.code, Code::InvalidParameter, "{value}");
            assert_eq!(error.param.as_deref(), Some(TIMEOUT_FIELD), "{value}");
            assert!(error.message.contains(TIMEOUT_FIELD), "{value}");
        }
    }

    #[test]
    fn an_sdk_is_answered_before_it_gives_up() {
        let answer = |read, head| of(600_000, &said(None, read, head)).unwrap();
        assert_eq!(answer(Some("600"), None).answer_ms, 599_000, "a second is enough");
        assert_eq!(answer(Some("10.0"), None).answer_ms, 9_500);
        assert_eq!(answer(Some("0.5"), None).answer_ms, 450);
        assert_eq!(answer(Some("0.02"), None).answer_ms, 10, "half of it is left at least");
        assert_eq!(answer(Some("60"), Some("10")).answer_ms, 9_500, "the shorter counts");
        assert_eq!(answer(Some("0.5"), None).total_ms, 600_000, "the stream may go on");
        assert_eq!(answer(Some("86000"), None).answer_ms, 600_000);
    }

    #[test]
    fn nonsense_in_an_sdks_field_changes_nothing() {
        for value in [
            "",
            "0",
            "None",
            "NOT_GIVEN",
            "inf",
            "nan",
            "-1",
            "1e3",
            "1.2.3",
            ".",
            "99999999999999",
        ] {
            let patience = of(5_000, &said(None, Some(value), Some(value))).unwrap();
            assert_eq!(patience.answer_ms, 5_000, "{value}");
        }
    }
}
