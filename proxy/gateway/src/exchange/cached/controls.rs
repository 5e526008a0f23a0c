//! What a request says about the cache: `Cache-Control`, `x-sluice-cache-*`, and what clients of other gateways send.
//!
//! | field | means |
//! |---|---|
//! | `cache-control: no-cache` | ask the provider, keep the answer; also `cf-aig-skip-cache`, `x-portkey-cache-force-refresh`: true |
//! | `cache-control: no-store` | nothing to do with the cache; also `x-bf-cache-no-store`, `x-sluice-cache: off` |
//! | `cache-control: max-age=SECONDS` | no older answer |
//! | `x-sluice-cache-threshold` | least similarity, if higher than the route's; also `x-bf-cache-threshold` |
//! | `x-sluice-cache-ttl` | seconds that the answer is kept, if less than the route's; also `cf-aig-cache-ttl`, `x-bf-cache-ttl` |
//! | `x-sluice-cache-context` | `name=value, …`: further values that must be equal |
//! | `x-sluice-cache-key` | shares answers with requests of the same key only; also `cf-aig-cache-key`, `x-bf-cache-key`, `x-portkey-cache-namespace`, `helicone-cache-seed` |
//! | `x-sluice-cache-tags` | words to purge by, with commas |
//! | `x-sluice-cache: exact` | no matches by meaning; also `x-bf-cache-type: direct` |
//!
//! Invariants: a client only narrows what its route allows: none of this makes an answer reach a request that it would not reach without.
//! What cannot be read counts as the stricter thing. Deliberately absent: turning a cache on that is off.

use sluice_policy::cache::Controls;
use sluice_policy::snapshot::Caching;
use sluice_wire::limits::CACHE_TAGS_MAX;

use crate::scratch;

/// What a request asks of the cache.
#[derive(Default)]
pub struct Asked {
    /// For the lookup.
    pub controls: Controls,
    /// Nothing to do with the cache.
    pub no_store: bool,
    /// How long the answer is kept at most.
    pub ttl_ms: Option<u64>,
    /// Further values that must be equal, by name.
    pub context: Vec<(Box<str>, Box<str>)>,
    /// To purge by.
    pub tags: Vec<Box<str>>,
    /// Whether it says anything at all.
    pub any: bool,
}

/// Whether a field's name begins as those do that are about the cache.
fn may_be_about_it(name: &[u8]) -> bool {
    let beginnings: &[&[u8]] = match name.first().map(u8::to_ascii_lowercase) {
        Some(b'c') => &[b"cache-control", b"cf-aig-"],
        Some(b'x') => &[b"x-sluice-cache", b"x-bf-cache", b"x-portkey-cache"],
        Some(b'h') => &[b"helicone-cache"],
        _ => &[],
    };
    beginnings.iter().any(|beginning| {
        let start = name.get(..beginning.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(beginning))
    })
}

impl Asked {
    /// Reads the fields of a request's head.
    pub fn read(asked: &scratch::Asked, caching: &Caching) -> Self {
        let mut read = Self {
            controls: Controls {
                max_age_ms: caching.max_age_ms,
                ..Controls::default()
            },
            ..Self::default()
        };
        for field in &asked.head.fields {
            let name = field.name.of(&asked.head_bytes);
            // Hardly any request has one.
            if may_be_about_it(name) {
                let mut lower = [0; NAME_BYTES_MAX];
                if let Some(lower) = lower.get_mut(..name.len()) {
                    lower.copy_from_slice(name);
                    lower.make_ascii_lowercase();
                    read.field(lower, field.value.of(&asked.head_bytes));
                }
            }
        }
        read
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        // What is no text says nothing that could be heeded, except by keeping away.
        let Ok(value) = std::str::from_utf8(value).map(str::trim) else {
            self.any |= name.starts_with(b"x-sluice-cache") || name == b"cache-control";
            self.no_store |= name.starts_with(b"x-sluice-cache") || name == b"cache-control";
            return;
        };
        let is_true = || !matches!(value, "" | "0") && !value.eq_ignore_ascii_case("false");
        match name {
            b"cache-control" => value.split(',').for_each(|directive| self.directive(directive.trim())),
            b"x-sluice-cache" if value.eq_ignore_ascii_case("exact") => self.controls.exact_only = true,
            b"x-sluice-cache" if value.eq_ignore_ascii_case("off") => self.no_store = true,
            b"x-bf-cache-type" if value.eq_ignore_ascii_case("direct") => self.controls.exact_only = true,
            b"cf-aig-skip-cache" | b"x-portkey-cache-force-refresh" => self.controls.no_lookup |= is_true(),
            b"x-bf-cache-no-store" => self.no_store |= is_true(),
            b"x-sluice-cache-threshold" | b"x-bf-cache-threshold" => {
                // What is no number is above every similarity.
                let least = value.parse().ok().filter(|least: &f32| !least.is_nan()).unwrap_or(2.0);
                self.controls.similarity = Some(self.controls.similarity.map_or(least, |other| other.max(least)));
            }
            b"x-sluice-cache-ttl" | b"cf-aig-cache-ttl" | b"x-bf-cache-ttl" => {
                let seconds = value.trim_end_matches('s').parse::<u64>().unwrap_or(0);
                let ttl_ms = seconds.saturating_mul(1000);
                self.ttl_ms = Some(self.ttl_ms.map_or(ttl_ms, |other| other.min(ttl_ms)));
            }
            b"x-sluice-cache-context" => {
                for pair in value.split(',') {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    self.context.push((name.trim().into(), value.trim().into()));
                }
            }
            b"x-sluice-cache-key"
            | b"cf-aig-cache-key"
            | b"x-bf-cache-key"
            | b"x-portkey-cache-namespace"
            | b"helicone-cache-seed" => self.context.push(("key".into(), value.into())),
            b"x-sluice-cache-tags" => {
                let tags = value.split(',').map(str::trim).filter(|tag| !tag.is_empty());
                self.tags.extend(tags.take(CACHE_TAGS_MAX).map(Into::into));
            }
            _ => return,
        }
        self.any = true;
    }

    /// One directive of `Cache-Control` (RFC 9111 §5.2.1).
    fn directive(&mut self, directive: &str) {
        if directive.eq_ignore_ascii_case("no-cache") {
            self.controls.no_lookup = true;
        } else if directive.eq_ignore_ascii_case("no-store") {
            self.no_store = true;
        } else if let Some((name, seconds)) = directive.split_once('=')
            && name.eq_ignore_ascii_case("max-age")
        {
            let age_ms = seconds
                .trim_matches('"')
                .parse::<u64>()
                .unwrap_or(0)
                .saturating_mul(1000);
            let known = self.controls.max_age_ms.unwrap_or(u64::MAX);
            self.controls.max_age_ms = Some(known.min(age_ms));
        }
    }
}

/// Longest name above.
const NAME_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Asked {
        let mut asked = Asked::default();
        fields
            .iter()
            .filter(|(name, _)| may_be_about_it(name.to_ascii_uppercase().as_bytes()))
            .for_each(|(name, value)| asked.field(name.as_bytes(), value.as_bytes()));
        asked
    }

    #[test]
    fn a_client_narrows_and_never_widens() {
        let asked = read(&[
            ("cache-control", "max-age=60, no-cache"),
            ("cache-control", "max-age=120"),
            ("x-sluice-cache-ttl", "60"),
            ("cf-aig-cache-ttl", "3600"),
            ("x-sluice-cache-threshold", "0.95"),
            ("x-bf-cache-threshold", "0.1"),
            ("x-sluice-cache-context", "variant=4711-B, line"),
            ("helicone-cache-seed", "s"),
            ("x-sluice-cache-tags", "a, ,b"),
        ]);
        assert!(asked.controls.no_lookup && !asked.no_store && !asked.controls.exact_only);
        assert_eq!(asked.controls.max_age_ms, Some(60_000));
        assert_eq!((asked.ttl_ms, asked.controls.similarity), (Some(60_000), Some(0.95)));
        let context: Vec<(&str, &str)> = asked.context.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(context, [("variant", "4711-B"), ("line", ""), ("key", "s")]);
        assert_eq!(asked.tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_read_counts_as_the_stricter_thing() {
        let asked = read(&[
            ("x-sluice-cache-threshold", "high"),
            ("x-sluice-cache-ttl", "soon"),
            ("cache-control", "max-age=x"),
        ]);
        assert_eq!((asked.controls.similarity, asked.ttl_ms), (Some(2.0), Some(0)));
        assert_eq!(asked.controls.max_age_ms, Some(0));
        let mut asked = Asked::default();
        asked.field(b"x-sluice-cache-key", b"\xff");
        assert!(asked.no_store);
    }

    #[test]
    fn peers_words_are_understood() {
        assert!(read(&[("cf-aig-skip-cache", "true")]).controls.no_lookup);
        assert!(!read(&[("cf-aig-skip-cache", "false")]).controls.no_lookup);
        assert!(read(&[("x-portkey-cache-force-refresh", "True")]).controls.no_lookup);
        assert!(read(&[("x-bf-cache-type", "direct")]).controls.exact_only);
        assert!(read(&[("x-bf-cache-no-store", "true")]).no_store && read(&[("cache-control", "no-store")]).no_store);
    }
}
