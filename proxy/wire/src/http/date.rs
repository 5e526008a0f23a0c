//! Dates of header fields, in the one form that is generated today: IMF-fixdate (RFC 9110 §5.6.7), `Sun, 06 Nov 1994 08:49:37 GMT`.
//!
//! Invariants: what is no such date is none; the name of the day is not looked at. Deliberately absent: the two obsolete
//! forms, and any clock: two dates of one message are held against each other.

const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// Seconds from one date to a later one; 0 if it is not later, `None` if either is not a date.
pub fn seconds_between(from: &[u8], to: &[u8]) -> Option<u32> {
    let seconds = (unix_s(to)? - unix_s(from)?).max(0);
    u32::try_from(seconds).ok()
}

/// Seconds since 1970, years 1600 to 9999.
fn unix_s(date: &[u8]) -> Option<i64> {
    let fixed = |at: usize, text: &[u8]| date.get(at..at + text.len()) == Some(text);
    let number = |at: usize, digits: usize| {
        let digits = date.get(at..at + digits)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    if date.len() != 29 || !fixed(3, b", ") || !fixed(25, b" GMT") || !fixed(19, b":") || !fixed(22, b":") {
        return None;
    }
    let month = MONTHS.iter().position(|name| fixed(8, name))? as i64 + 1;
    let (day, year) = (number(5, 2)?, number(12, 4)?);
    let (hour, minute, second) = (number(17, 2)?, number(20, 2)?, number(23, 2)?);
    if !(1..=31).contains(&day) || year < 1600 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 0000-03-01: a leap day is then the last day of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_from_1970() {
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
        ] {
            assert_eq!(unix_s(date.as_bytes()), Some(seconds), "{date}");
        }
    }

    #[test]
    fn what_is_no_date_is_none_and_an_earlier_one_is_no_wait() {
        let now = b"Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(seconds_between(now, b"Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(seconds_between(now, b"Sun, 06 Nov 1993 08:50:07 GMT"), Some(0));
        for text in [
            "",
            "soon",
            "30",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 6  Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds_between(now, text.as_bytes()), None, "{text}");
        }
    }
}
