//! Values that configuration writes as text: durations, sizes, addresses, networks.
//!
//! Invariants: each type parses exactly what its [`Kind`] describes, prints what it would parse, and carries that kind into
//! the JSON schema, so that the checker and the schema cannot disagree. Deliberately absent: names that need a resolver.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use sluice_wire::limits;

use super::check::suggestion;
use super::url::UrlTemplate;
use crate::vendors;

/// The schema keyword that names a [`Kind`].
pub(crate) const KIND_KEYWORD: &str = "x-sluice-kind";
/// Longest duration, in milliseconds: one day.
const DURATION_MS_MAX: u64 = 24 * 3600 * 1000;

/// Longest time that an answer may be kept, in milliseconds: thirty days.
const AGE_MS_MAX: u64 = 30 * DURATION_MS_MAX;

/// What a text value must be.
pub(crate) struct Kind {
    /// Its name in the schema.
    pub name: &'static str,
    /// What to write, for an error message.
    pub expected: &'static str,
    /// Says what is wrong with a text, if anything.
    pub check: fn(&str) -> Result<(), String>,
}

fn check<T: FromStr<Err = String>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop)
}

fn check_vendor(text: &str) -> Result<(), String> {
    if vendors::find(text).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = vendors::VENDORS.iter().map(|vendor| vendor.name).collect();
    Err(format!(
        "the known ones are {}{}",
        names.join(", "),
        suggestion(text, names.iter().copied())
    ))
}

fn check_region(text: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=limits::NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(());
    }
    Err("a region has lower-case letters, digits and - only".into())
}

fn check_name(text: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if (1..=limits::NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "it must have 1 to {} letters, digits, - or _",
        limits::NAME_BYTES_MAX
    ))
}

/// Every kind that occurs in the schema.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "duration",
        expected: "a duration such as 10s, 250ms, 2m or 1h",
        check: check::<DurationMs>,
    },
    Kind {
        name: "age",
        expected: "a duration such as 10m, 1h or 7d",
        check: check::<AgeMs>,
    },
    Kind {
        name: "size",
        expected: "a size such as 32MiB, 64KiB or 1GiB",
        check: check::<Size>,
    },
    Kind {
        name: "address",
        expected: "an address such as 0.0.0.0:8080 or [::]:8080",
        check: check::<Address>,
    },
    Kind {
        name: "network",
        expected: "a network such as 10.0.0.0/8, or one address",
        check: check::<Network>,
    },
    Kind {
        name: "vendor",
        expected: "the name of a known vendor",
        check: check_vendor,
    },
    Kind {
        name: "region",
        expected: "a region such as eu-central-1",
        check: check_region,
    },
    Kind {
        name: "name",
        expected: "a name of letters, digits, - and _",
        check: check_name,
    },
    Kind {
        name: "url",
        expected: "a URL such as https://api.openai.com/v1",
        check: check::<UrlTemplate>,
    },
];

/// Serde as text, and the schema of a text of that kind.
macro_rules! textual {
    ($type:ident, $kind:literal, $pattern:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", $crate::config::values::KIND_KEYWORD: $kind, "pattern": $pattern })
            }
        }
    };
}

pub(crate) use textual;

/// A span of time in milliseconds, from 1 to 86,400,000 (one day).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationMs(pub u32);

textual!(DurationMs, "duration", "^[0-9]+(ms|s|m|h)$");

impl FromStr for DurationMs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = milliseconds(text, "ms, s, m or h")?;
        let ms = Some(ms).filter(|ms| (1..=DURATION_MS_MAX).contains(ms));
        let ms = ms.ok_or("it must be from 1ms to 24h")?;
        Ok(Self(u32::try_from(ms).expect("a day in milliseconds fits 32 bits")))
    }
}

/// A whole number and its unit; `units` are those allowed, in words. More than there are milliseconds is as many as there are.
fn milliseconds(text: &str, units: &str) -> Result<u64, String> {
    let wrong = || format!("it is not a whole number followed by {units}");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or("the unit is missing")?;
    let (number, unit) = text.split_at(unit_at);
    let scale: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" if units.contains(" d") => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(number.saturating_mul(scale))
}

/// A span of time in milliseconds, from 1 to 2,592,000,000 (thirty days): how long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgeMs(pub u64);

textual!(AgeMs, "age", "^[0-9]+(ms|s|m|h|d)$");

impl FromStr for AgeMs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = milliseconds(text, "ms, s, m, h or d")?;
        let ms = Some(ms).filter(|ms| (1..=AGE_MS_MAX).contains(ms));
        Ok(Self(ms.ok_or("it must be from 1ms to 30d")?))
    }
}

impl fmt::Display for AgeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, u32::try_from(self.0)) {
            (ms, _) if ms > DURATION_MS_MAX && ms % DURATION_MS_MAX == 0 => write!(f, "{}d", ms / DURATION_MS_MAX),
            (_, Ok(ms)) => DurationMs(ms).fmt(f),
            (ms, Err(_)) => write!(f, "{ms}ms"),
        }
    }
}

impl fmt::Display for DurationMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A number of bytes, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

textual!(Size, "size", "^[0-9]+(B|KiB|MiB|GiB|kB|KB|MB|GB)$");

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or("the unit is missing")?;
        let (number, unit) = text.split_at(unit_at);
        let scale: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err("it is not a whole number followed by B, KiB, MiB or GiB".into()),
        };
        let number: u64 = number
            .parse()
            .map_err(|_| "it is not a whole number followed by B, KiB, MiB or GiB")?;
        let bytes = number.checked_mul(scale).filter(|&bytes| bytes > 0 && bytes <= 1 << 50);
        Ok(Self(bytes.ok_or("it must be from 1B to 1048576GiB")?))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

/// An IP address and a port to listen on; port 0 lets the kernel choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

textual!(Address, "address", "^.+:[0-9]{1,5}$");

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(port) = text.strip_prefix(':')
            && port.parse::<u16>().is_ok()
        {
            return Err(format!(
                "the address before the port is missing; 0.0.0.0:{port} listens everywhere"
            ));
        }
        text.parse()
            .map(Self)
            .map_err(|_| "it is not an IP address and a port".into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A block of IP addresses in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3); one address stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

textual!(Network, "network", "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$");

impl Network {
    /// Whether `address` lies in the block; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                u32::from(base).checked_shr(shift) == u32::from(address).checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                u128::from(base).checked_shr(shift) == u128::from(address).checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base
            .parse()
            .map_err(|_| "the part before the slash is not an IP address")?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            None => bits_max,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|bits| *bits <= bits_max)
                .ok_or_else(|| format!("the part after the slash is not a number from 0 to {bits_max}"))?,
        };
        Ok(Self { base, prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

/// One address, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(pub Vec<Address>);

impl<'de> serde::Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(Address),
            Many(Vec<Address>),
        }
        Ok(match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(address) => Self(vec![address]),
            OneOrMany::Many(addresses) => Self(addresses),
        })
    }
}

impl serde::Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serde::Serialize::serialize(one, serializer),
            many => serde::Serialize::serialize(many, serializer),
        }
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = Address::json_schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1, "maxItems": 16 }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_stay_in_their_range() {
        for (text, ms) in [
            ("1ms", 1),
            ("250ms", 250),
            ("10s", 10_000),
            ("2m", 120_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(text.parse(), Ok(DurationMs(ms)));
            assert_eq!(DurationMs(ms).to_string(), text);
        }
        for text in [
            "",
            "10",
            "s",
            "0s",
            "25h",
            "1.5s",
            "-1s",
            "10 s",
            "99999999999999999999s",
            "1d",
        ] {
            assert!(text.parse::<DurationMs>().is_err(), "{text}");
        }
    }

    #[test]
    fn ages_reach_to_thirty_days() {
        for (text, ms) in [
            ("250ms", 250),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(text.parse(), Ok(AgeMs(ms)));
            assert_eq!(AgeMs(ms).to_string(), text);
        }
        assert_eq!("1d".parse(), Ok(AgeMs(86_400_000)));
        for text in [
            "0d",
            "31d",
            "721h",
            "1w",
            "d",
            "99999999999999999999d",
            "9999999999999999999d",
        ] {
            assert!(text.parse::<AgeMs>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        for (text, bytes) in [
            ("1B", 1),
            ("64KiB", 65536),
            ("32MiB", 33_554_432),
            ("1GiB", 1 << 30),
            ("2MB", 2_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        for text in ["", "10", "0B", "10M", "MiB", "99999999999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_hold_exactly_their_addresses() {
        let held =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(held("10.0.0.0/8", "10.255.1.2"));
        assert!(!held("10.0.0.0/8", "11.0.0.0"));
        assert!(held("0.0.0.0/0", "203.0.113.9"));
        assert!(held("192.0.2.7", "192.0.2.7"));
        assert!(!held("192.0.2.7", "192.0.2.6"));
        assert!(held("192.0.2.0/24", "::ffff:192.0.2.200"));
        assert!(held("2001:db8::/32", "2001:db8:1::1"));
        assert!(held("::/0", "2001:db8:1::1"));
        assert!(!held("2001:db8::/32", "10.0.0.1"));
        for text in ["10.0.0.0/33", "::/129", "10.0.0/8", "x", "10.0.0.0/"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
