//! [`Window`]: over what time a budget or a limit holds.
//!
//! Invariants: the periods of a calendar window are numbered without gaps, in UTC, weeks from Monday (ISO 8601 §2.2.9);
//! of a rolling window, what falls into one of its slices counts until the whole slice is older than the window, never less.
//! Deliberately absent: time zones and leap seconds.

use sluice_wire::calendar;

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// A calendar month; 30 days if rolling.
    Month,
    /// A calendar year; 365 days if rolling.
    Year,
}

impl Span {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Minute, "minute"),
        (Self::Hour, "hour"),
        (Self::Day, "day"),
        (Self::Week, "week"),
        (Self::Month, "month"),
        (Self::Year, "year"),
    ];

    /// Its length when rolling, in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => DAY_S,
            Self::Week => 7 * DAY_S,
            Self::Month => 30 * DAY_S,
            Self::Year => 365 * DAY_S,
        }
    }
}

/// Over what time a budget or a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// For ever.
    Total,
    /// From the begin of each minute, hour, day, week, month or year, in UTC.
    Calendar(Span),
    /// Over the latest so many seconds, at every moment.
    Rolling(Span),
}

/// One second after the last that there is.
pub(super) const NEVER_S: u64 = u64::MAX;
const DAY_S: u64 = 86_400;
/// Slices that a rolling window is divided into.
pub(super) const SLICES: u64 = 60;

impl Window {
    /// The period that a moment, in seconds since the epoch, falls into: its number, and where it begins and ends. Windows
    /// without periods have one that never ends.
    pub fn period(self, unix_s: u64) -> (u64, u64, u64) {
        let Self::Calendar(span) = self else {
            return (0, 0, NEVER_S);
        };
        let regular = |length: u64, shift: u64| {
            // `shift` is how long before the epoch a period began.
            let index = (unix_s + shift) / length;
            (
                index,
                (index * length).saturating_sub(shift),
                (index + 1) * length - shift,
            )
        };
        match span {
            Span::Minute | Span::Hour | Span::Day => regular(span.seconds(), 0),
            // The epoch was a Thursday.
            Span::Week => regular(span.seconds(), 3 * DAY_S),
            Span::Month | Span::Year => {
                let (year, month, _) = calendar::civil(unix_s / DAY_S);
                let months = if span == Span::Month { 1 } else { 12 };
                let index = (year * 12 + month - 1) / months;
                let begin = |index: u64| first_day(index * months) * DAY_S;
                (index - 1970 * 12 / months, begin(index), begin(index + 1))
            }
        }
    }

    /// Of a rolling window: the length of a slice, in seconds.
    pub(super) fn slice_s(self) -> Option<u64> {
        match self {
            Self::Rolling(span) => Some((span.seconds() / SLICES).max(1)),
            _ => None,
        }
    }

    /// Its name, as in `day` and `rolling-day`.
    pub fn name(self) -> String {
        let of = |span: Span| {
            Span::ALL
                .iter()
                .find(|(own, _)| *own == span)
                .map_or("", |(_, name)| name)
        };
        match self {
            Self::Total => "total".to_owned(),
            Self::Calendar(span) => of(span).to_owned(),
            Self::Rolling(span) => format!("rolling-{}", of(span)),
        }
    }
}

/// From its name.
impl std::str::FromStr for Window {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let of = |name: &str| Span::ALL.iter().find(|(_, own)| *own == name).map(|(span, _)| *span);
        match name.strip_prefix("rolling-") {
            Some(name) => of(name).map(Self::Rolling),
            None if name == "total" => Some(Self::Total),
            None => of(name).map(Self::Calendar),
        }
        .ok_or("a window is minute, hour, day, week, month, year, one of them after rolling-, or total")
    }
}

/// The first day, since the epoch, of a month counted from the year 0.
fn first_day(month: u64) -> u64 {
    calendar::day_number(month / 12, month % 12 + 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22 18:20:00 UTC, a Sunday.
    const SUNDAY_S: u64 = 1_795_371_600;

    #[test]
    fn calendar_periods_follow_one_another_without_a_gap_or_an_overlap() {
        for (span, _) in Span::ALL {
            let window = Window::Calendar(span);
            let (mut index, mut begins, mut ends) = window.period(0);
            assert!(begins == 0 && index <= 1, "{span:?} {index} {begins}");
            for _ in 0..3_000 {
                assert_eq!(window.period(begins), (index, begins, ends), "{span:?}");
                assert_eq!(window.period(ends - 1), (index, begins, ends), "{span:?}");
                let next = window.period(ends);
                assert_eq!((next.0, next.1), (index + 1, ends), "{span:?}");
                (index, begins, ends) = next;
            }
        }
    }

    #[test]
    fn periods_begin_where_people_expect_them() {
        let begins = |span: Span, at: u64| Window::Calendar(span).period(at).1;
        let midnight = SUNDAY_S - (18 * 60 + 20) * 60;
        assert_eq!(begins(Span::Minute, SUNDAY_S + 59), SUNDAY_S);
        assert_eq!(begins(Span::Day, SUNDAY_S), midnight);
        assert_eq!(begins(Span::Week, SUNDAY_S), midnight - 6 * DAY_S);
        assert_eq!(begins(Span::Month, SUNDAY_S), midnight - 21 * DAY_S);
        // 1 January 2026 was day 20,454 since the epoch.
        assert_eq!(begins(Span::Year, SUNDAY_S), 20_454 * DAY_S);
        // 29 February 2024 belongs to February, and the day after it to March.
        let leap_day = 19_782 * DAY_S;
        assert_eq!(begins(Span::Month, leap_day), leap_day - 28 * DAY_S);
        assert_eq!(begins(Span::Month, leap_day + DAY_S), leap_day + DAY_S);
    }

    #[test]
    fn names_and_windows_are_images_of_one_another() {
        for name in ["total", "minute", "year", "rolling-hour", "rolling-month"] {
            assert_eq!(name.parse::<Window>().unwrap().name(), name);
        }
        for name in ["", "rolling", "rolling-total", "daily"] {
            assert!(name.parse::<Window>().is_err(), "{name}");
        }
    }
}
