//! [`NanoUsd`] and [`Tokens`]: amounts that cannot be mixed up, and that do not wrap.
//!
//! Invariants: an amount is not negative; text and amount are exact images of one another. Deliberately absent: floating
//! point.

use std::fmt;
use std::str::FromStr;

/// Nano-dollars in a dollar.
const NANOS: u64 = 1_000_000_000;

/// An amount of US dollars in billionths, from 0 to about 18.4 thousand million dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest limit that a budget may have, in nano-dollars: a thousand million dollars, so that sums of budgets, and of
    /// what is reserved in them, stay far within 64 bits.
    pub const LIMIT_MAX: Self = Self(1_000_000_000 * NANOS);

    /// Whole dollars; `None` if they do not fit.
    pub const fn from_usd(dollars: u64) -> Option<Self> {
        match dollars.checked_mul(NANOS) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The sum, or `None` if it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` if it would be negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The difference, or nothing if it would be negative.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, or the largest amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl NanoUsd {
    /// Appends what `Display` shows, without an allocation.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut whole = [0; 20];
        let (mut at, mut dollars) = (whole.len(), self.0 / NANOS);
        loop {
            at -= 1;
            whole[at] = b'0' + (dollars % 10) as u8;
            dollars /= 10;
            if dollars == 0 {
                break;
            }
        }
        out.extend_from_slice(&whole[at..]);
        let mut nanos = self.0 % NANOS;
        if nanos == 0 {
            return;
        }
        let mut digits = *b".000000000";
        for place in digits[1..].iter_mut().rev() {
            *place = b'0' + (nanos % 10) as u8;
            nanos /= 10;
        }
        let end = digits.iter().rposition(|digit| *digit != b'0').unwrap_or(0);
        out.extend_from_slice(&digits[..=end]);
    }
}

/// Decimal dollars without a sign, and without zeros at the end: `0`, `12.5`, `0.000000001`.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, nanos) = (self.0 / NANOS, self.0 % NANOS);
        if nanos == 0 {
            return write!(f, "{dollars}");
        }
        let digits = format!("{nanos:09}");
        write!(f, "{dollars}.{}", digits.trim_end_matches('0'))
    }
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmountError {
    /// Not digits with at most one point between or before them.
    NotDecimal,
    /// More than nine digits behind the point.
    TooFine,
    /// Beyond [`NanoUsd`]'s range.
    TooLarge,
}

impl fmt::Display for AmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDecimal => "it is not an amount in dollars such as 50 or 0.25",
            Self::TooFine => "it has more than nine digits behind the point",
            Self::TooLarge => "it is too large",
        })
    }
}

/// Decimal dollars, with or without `$` before them.
impl FromStr for NanoUsd {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let text = text.strip_prefix('$').unwrap_or(text);
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(fraction) {
            return Err(AmountError::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 9 {
            return Err(AmountError::TooFine);
        }
        let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| AmountError::NotDecimal)?;
        let dollars: u64 = whole.parse().map_err(|_| AmountError::TooLarge)?;
        let amount = Self::from_usd(dollars).and_then(|amount| amount.checked_add(Self(nanos)));
        amount.ok_or(AmountError::TooLarge)
    }
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens(pub u64);
