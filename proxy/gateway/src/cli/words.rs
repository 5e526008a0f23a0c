//! What a person writes on a command line: `50/day`, `90d`, `2026-12-31`.
//!
//! Invariants: what is ambiguous is refused with an example of what is not. Deliberately absent: time zones; days are UTC.

use serde_json::{Value, json};
use sluice_policy::budget::{Span, Window};
use sluice_policy::money::NanoUsd;

/// Months since 1970 begin at seconds since the epoch that [`Window::Calendar`] knows.
const DAY_S: u64 = 86_400;

/// `AMOUNT/WINDOW` in dollars, such as `50/day`, `1.5/rolling-hour`, `200/total`.
///
/// # Errors
/// It is not one.
pub fn budget(text: &str) -> Result<Value, String> {
    let (limit, window) = text
        .split_once('/')
        .ok_or("a budget is AMOUNT/WINDOW, such as 50/day or 200/total")?;
    amount(limit)?;
    let window: Window = window.parse().map_err(|why: &str| why.to_owned())?;
    Ok(json!({"limit": limit.trim_start_matches('$'), "window": window.name()}))
}

/// Decimal dollars.
///
/// # Errors
/// They are not.
pub fn amount(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('$');
    let amount: NanoUsd = text.parse().map_err(|why| format!("{text:?} is not an amount of dollars: {why}"))?;
    Ok(amount.to_string())
}

/// `90s`, `15m`, `24h`, `30d`, `2w`, in seconds.
///
/// # Errors
/// It is not one.
pub fn duration_s(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a length of time, such as 90s, 15m, 24h, 30d or 2w");
    let at = text.len() - text.chars().last().map_or(0, char::len_utf8);
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => DAY_S,
        "w" => 7 * DAY_S,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..at].parse().map_err(|_| wrong())?;
    count.checked_mul(unit).ok_or_else(wrong)
}

/// A moment: `2026-12-31` (its begin), seconds since the epoch, or a length of time from now: later if `ahead`, else ago.
///
/// # Errors
/// It is none of them.
pub fn moment_s(text: &str, now_s: u64, ahead: bool) -> Result<u64, String> {
    if let Some(day) = day(text) {
        return Ok(day * DAY_S);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| format!("{text} is too large"));
    }
    let length = duration_s(text)
        .map_err(|_| format!("{text:?} is not a moment, such as 2026-12-31, 90d or seconds since the epoch"))?;
    Ok(if ahead {
        now_s.saturating_add(length)
    } else {
        now_s.saturating_sub(length)
    })
}

/// Days since the epoch of `YYYY-MM-DD`.
fn day(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-');
    let mut part = |digits: usize| -> Option<u64> {
        let part = parts.next()?;
        let is_plain = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| part.parse().ok())?
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    if year < 1970 || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    // The months before it, one after the other: there are at most some hundred thousand.
    let mut begins_s = 0;
    for _ in 0..(year - 1970) * 12 + month - 1 {
        begins_s = Window::Calendar(Span::Month).period(begins_s).2;
    }
    let at = begins_s / DAY_S + day - 1;
    (at * DAY_S < Window::Calendar(Span::Month).period(begins_s).2).then_some(at)
}

/// `YYYY-MM-DD HH:MM:SS` in UTC.
pub fn shown_time(unix_s: u64) -> String {
    let month = Window::Calendar(Span::Month);
    let (index, begins_s, _) = month.period(unix_s);
    let of_day = unix_s % DAY_S;
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        1970 + index / 12,
        index % 12 + 1,
        (unix_s - begins_s) / DAY_S + 1,
        of_day / 3_600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Now, in seconds since the epoch.
pub fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_lengths_are_what_people_mean() {
        assert_eq!(moment_s("2026-11-22", 0, true), Ok(1_795_305_600));
        assert_eq!(moment_s("2024-02-29", 0, true), Ok(19_782 * DAY_S));
        assert_eq!(moment_s("90d", 1_000, true), Ok(1_000 + 90 * DAY_S));
        assert_eq!(moment_s("2h", 10_000, false), Ok(2_800));
        assert_eq!(moment_s("1795305600", 0, true), Ok(1_795_305_600));
        for text in ["", "soon", "2026-02-30", "2026-13-01", "5", "-1d", "1.5h", "2026-1-1", "9é"] {
            assert!(text == "5" || moment_s(text, 0, true).is_err(), "{text}");
        }
        for s in [0, 951_868_799, 1_795_371_601, 4_102_444_800] {
            let text = shown_time(s);
            assert_eq!(moment_s(&text[..10], 0, true), Ok(s - s % DAY_S), "{text}");
        }
        assert_eq!(shown_time(1_795_371_601), "2026-11-22 18:20:01");
    }

    #[test]
    fn budgets_name_their_window() {
        assert_eq!(budget("50/day"), Ok(json!({"limit": "50", "window": "day"})));
        assert_eq!(budget("$1.5/rolling-hour").unwrap()["limit"], "1.5");
        for text in ["50", "50/daily", "-5/day", "x/day", ""] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}
