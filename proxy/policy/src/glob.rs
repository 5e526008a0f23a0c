//! [`Glob`]: names with `*` for any text, as in allow-lists and price tables.
//!
//! Invariants: matching takes time linear in pattern and name for patterns with one `*`, and at most their product for
//! others, both bounded by `limits.rs`; no allocation. Deliberately absent: `?`, classes, and escapes.

/// A name in which each `*` stands for any text, the empty one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        Self::matches_text(&self.0, name)
    }

    /// Whether all of `name` matches the glob that is written as `text`.
    pub(crate) fn matches_text(text: &str, name: &str) -> bool {
        let mut parts = text.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        // The leftmost place for each part leaves the most for those behind it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_anywhere() {
        for (glob, name, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-*", "gpt-5", true),
            ("*-mini", "gpt-5-mini", true),
            ("*-mini", "gpt-5-mini-2", false),
            ("openai/*-mini", "openai/gpt-5-mini", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXbbYc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("a**b", "ab", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(Glob::new(glob).matches(name), expected, "{glob} {name}");
        }
    }
}
