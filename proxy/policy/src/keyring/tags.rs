//! Tags: what a client says a request is for, as `x-sluice-tag-NAME: VALUE`, to attribute cost by.
//!
//! Invariants: the tags of a request take a fixed number of bytes and no heap; reports hold a bounded number of names and of
//! values of each, whatever clients send. Deliberately absent: decisions by tag.

use std::collections::{HashMap, HashSet};

use sluice_wire::limits::{TAG_BYTES_MAX, TAG_NAMES_MAX, TAG_VALUES_MAX, TAGS_BYTES_MAX};

/// What the fields of tags begin with.
pub(super) const FIELD_PREFIX: &str = "x-sluice-tag-";
/// What stands for the values, or the tags, that are one too many.
const OTHER: &str = "other";

/// The tags of one request: at most `limits::TAGS_BYTES_MAX` bytes of names and values.
#[derive(Clone, Copy)]
pub struct Tags {
    /// `NAME=VALUE\n…`.
    bytes: [u8; TAGS_BYTES_MAX],
    len: u8,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            bytes: [0; TAGS_BYTES_MAX],
            len: 0,
        }
    }
}

impl Tags {
    /// Adds a request's field if it is a tag; false if it is one that cannot be kept: for want of room, or because of what it
    /// holds. Names are letters, digits, `-` and `_`, in lower case here; values are printable.
    pub fn add_field(&mut self, name: &[u8], value: &[u8]) -> bool {
        let Some((prefix, name)) = name.split_at_checked(FIELD_PREFIX.len()) else {
            return true;
        };
        if !prefix.eq_ignore_ascii_case(FIELD_PREFIX.as_bytes()) {
            return true;
        }
        self.add(name, value.trim_ascii())
    }

    /// Adds a tag, as [`Tags::add_field`] does. Of several with one name the first is kept: no cost is attributed twice.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_sound = !name.is_empty()
            && name.iter().all(is_name)
            && name.len().max(value.len()) <= TAG_BYTES_MAX
            && std::str::from_utf8(value).is_ok_and(|text| !text.chars().any(char::is_control));
        let is_new = self
            .iter()
            .all(|(known, _)| !known.as_bytes().eq_ignore_ascii_case(name));
        let from = usize::from(self.len);
        let to = from + name.len() + value.len() + 2;
        let (true, Some(room)) = (is_sound && is_new, self.bytes.get_mut(from..to)) else {
            return false;
        };
        room[..name.len()].copy_from_slice(name);
        room[..name.len()].make_ascii_lowercase();
        room[name.len()] = b'=';
        room[name.len() + 1..to - from - 1].copy_from_slice(value);
        room[to - from - 1] = b'\n';
        self.len = to as u8;
        true
    }

    /// Names and values, in the order of the request.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once('='))
    }
}

/// The names and values that reports tell apart: the first ones seen; later ones are `other`.
#[derive(Debug, Default)]
pub struct TagBook {
    names: HashMap<Box<str>, HashSet<Box<str>>>,
}

impl TagBook {
    /// What a report says for a tag.
    pub fn place<'a>(&mut self, name: &'a str, value: &'a str) -> (&'a str, &'a str) {
        if !self.names.contains_key(name) {
            if self.names.len() >= TAG_NAMES_MAX {
                return (OTHER, OTHER);
            }
            self.names.insert(name.into(), HashSet::new());
        }
        let values = self.names.get_mut(name).expect("it was put there");
        if values.contains(value) {
            return (name, value);
        }
        if values.len() >= TAG_VALUES_MAX {
            return (name, OTHER);
        }
        values.insert(value.into());
        (name, value)
    }
}
