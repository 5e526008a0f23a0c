//! `x-amz-date`: ISO 8601 basic format in UTC, `YYYYMMDD'T'HHMMSS'Z'`.
//!
//! Invariants: proleptic Gregorian calendar, years 1970 to 9999, no leap seconds; nothing else is accepted or written.
//! Deliberately absent: any other date format (`Date` is not accepted in its place) and the clock.

use crate::calendar::{civil, day_number};

/// Length of the day at the start of a stamp, in bytes.
pub(super) const DAY_BYTES: usize = 8;
/// Length of a stamp, in bytes.
const STAMP_BYTES: usize = 16;
/// 9999-12-31T23:59:59Z.
const EPOCH_S_MAX: u64 = 253_402_300_799;
const DAY_S: u64 = 86_400;

/// A formatted instant.
#[derive(Clone, Copy)]
pub(super) struct Stamp([u8; STAMP_BYTES]);

impl Stamp {
    /// Formats seconds since the Unix epoch; what lies beyond the year 9999 counts as its last second.
    pub(super) fn from_epoch(epoch_s: u64) -> Self {
        let epoch_s = epoch_s.min(EPOCH_S_MAX);
        let (year, month, day) = civil(epoch_s / DAY_S);
        let second = epoch_s % DAY_S;
        let mut out = *b"00000000T000000Z";
        put(&mut out[..4], year);
        put(&mut out[4..6], month);
        put(&mut out[6..8], day);
        put(&mut out[9..11], second / 3600);
        put(&mut out[11..13], second / 60 % 60);
        put(&mut out[13..15], second % 60);
        Self(out)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `YYYYMMDD`.
    pub(super) fn day(&self) -> &str {
        std::str::from_utf8(&self.0[..DAY_BYTES]).expect("digits only")
    }
}

/// Seconds since the Unix epoch, or `None` for anything but an existing instant in exactly this format.
pub(super) fn to_epoch(stamp: &[u8]) -> Option<u64> {
    let stamp: &[u8; STAMP_BYTES] = stamp.try_into().ok()?;
    let number = |from: usize, to: usize| {
        stamp[from..to].iter().try_fold(0u64, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if stamp[8] != b'T' || stamp[15] != b'Z' || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = day_number(year, month, day);
    // A day that the month does not have comes back as one of the next month.
    (civil(days) == (year, month, day)).then_some(days * DAY_S + hour * 3600 + minute * 60 + second)
}

fn put(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_written_and_read() {
        for (epoch_s, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_799, "20000229T235959Z"),
            (1_440_938_160, "20150830T123600Z"),
            (1_709_164_800, "20240229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
            (EPOCH_S_MAX, "99991231T235959Z"),
        ] {
            assert_eq!(Stamp::from_epoch(epoch_s).as_bytes(), text.as_bytes());
            assert_eq!(to_epoch(text.as_bytes()), Some(epoch_s));
        }
        assert_eq!(Stamp::from_epoch(u64::MAX).as_bytes(), b"99991231T235959Z");
    }

    #[test]
    fn every_day_of_two_eras_comes_back() {
        for day in 0..146_097 * 2 {
            let stamp = Stamp::from_epoch(day * DAY_S + 12_345);
            assert_eq!(to_epoch(stamp.as_bytes()), Some(day * DAY_S + 12_345));
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "20150830",
            "20150830T123600",
            "20150830t123600Z",
            "20150830T123600z",
            "2015-08-30T12:36:00Z",
            "20150230T000000Z",
            "21000229T000000Z",
            "20151301T000000Z",
            "20150001T000000Z",
            "20150100T000000Z",
            "20150132T000000Z",
            "20150830T240000Z",
            "20150830T126000Z",
            "20150830T123660Z",
            "19691231T235959Z",
            "+0150830T123600Z",
            "2015083 T123600Z",
            "20150830T1236000Z",
        ] {
            assert_eq!(to_epoch(text.as_bytes()), None, "{text}");
        }
    }
}
