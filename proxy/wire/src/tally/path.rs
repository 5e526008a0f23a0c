//! [`Path`]: follows a JSON document that arrives in pieces, and finds `usage` and `service_tier` by their place in it.
//!
//! Invariants: one pass, in pieces of any size; only a `usage` object is copied, up to a bound. Deliberately absent: what they
//! mean, and what is wrong with a document that cannot be followed.

use memchr::memchr2;

use crate::chat::ServiceTier;
use crate::limits::USAGE_BYTES_MAX;

/// What a key says of its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Other,
    /// `usage`.
    Usage,
    /// `service_tier`.
    Tier,
    /// `message` or `response`: what a stream's events wrap.
    Wrapper,
}

/// Bytes of the longest key that matters, and of more than any tier's name.
const KEY_BYTES: usize = 16;

/// Where in a JSON document the next byte stands, as far as that matters.
#[derive(Debug, Default)]
pub(super) struct Path {
    depth: u32,
    /// The kinds of the open brackets, outermost in bit 0: 1 is an object.
    kinds: u128,
    in_string: bool,
    escaped: bool,
    expects_key: bool,
    /// Of the key or the tier under way, if it may matter; longer ones do not.
    key: [u8; KEY_BYTES],
    key_len: Option<u8>,
    /// The current keys of the outermost two objects.
    names: [Name; 2],
    /// The object that is being copied, and the depth at which it ends.
    pub(super) object: Vec<u8>,
    object_depth: Option<u32>,
    /// The tier that was named last.
    tier: Option<ServiceTier>,
    /// Nested too deeply to be followed.
    lost: bool,
}

impl Path {
    /// Before a document; memory is reused, and a tier stays known.
    pub fn begin(&mut self) {
        let object = std::mem::take(&mut self.object);
        *self = Self {
            object,
            tier: self.tier,
            ..Self::default()
        };
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.tier = None;
        self.begin();
    }

    /// Whether it stands before a document.
    pub fn is_fresh(&self) -> bool {
        self.depth == 0 && !self.in_string && !self.lost
    }

    /// The tier that was named last.
    pub fn tier(&self) -> Option<ServiceTier> {
        self.tier
    }

    /// A document that was read elsewhere has named a tier.
    pub fn set_tier(&mut self, tier: ServiceTier) {
        self.tier = Some(tier);
    }

    /// The next bytes; `found` is told of each whole `usage` object.
    pub fn push(&mut self, input: &[u8], found: &mut dyn FnMut(&[u8])) {
        let mut at = 0;
        // From where on what is copied is not copied yet.
        let mut from = 0;
        while at < input.len() && !self.lost {
            if self.in_string {
                at = self.string(input, at);
                continue;
            }
            let was_copying = self.object_depth.is_some();
            self.structure(input[at]);
            if !was_copying && self.object_depth.is_some() {
                from = at;
            }
            at += 1;
            if self.object_depth == Some(self.depth) {
                self.copy(&input[from..at]);
                if self.object_depth.take().is_some() {
                    found(&self.object);
                }
            }
        }
        if self.object_depth.is_some() {
            self.copy(&input[from..at]);
        }
    }

    /// Copies more of the object, unless it becomes too large to be what it should be.
    fn copy(&mut self, more: &[u8]) {
        if self.object.len() + more.len() > USAGE_BYTES_MAX {
            self.object_depth = None;
        } else {
            self.object.extend_from_slice(more);
        }
    }

    /// Goes on within a string; returns where to go on.
    fn string(&mut self, input: &[u8], at: usize) -> usize {
        if std::mem::take(&mut self.escaped) {
            self.key_len = None;
            return at + 1;
        }
        let rest = &input[at..];
        let stop = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        if let Some(len) = self.key_len {
            let (from, to) = (usize::from(len), usize::from(len) + stop);
            self.key_len = self.key.get_mut(from..to).map(|room| {
                room.copy_from_slice(&rest[..stop]);
                to as u8
            });
        }
        match rest.get(stop) {
            Some(b'"') => {
                self.in_string = false;
                self.end_key();
                at + stop + 1
            }
            Some(_) => {
                self.escaped = true;
                at + stop + 1
            }
            None => input.len(),
        }
    }

    /// Whether a value of the key under way stands where usage and tier do.
    fn is_placed(&self, name: Name) -> bool {
        match self.depth {
            1 => self.names[0] == name,
            2 => self.names == [Name::Wrapper, name],
            _ => false,
        }
    }

    fn end_key(&mut self) {
        if !(1..=2).contains(&self.depth) {
            return;
        }
        if !self.expects_key {
            if self.is_placed(Name::Tier)
                && let Some(len) = self.key_len.take()
            {
                self.tier = ServiceTier::new(&self.key[..usize::from(len)]).or(self.tier);
            }
            return;
        }
        let len = self.key_len.take().unwrap_or(0);
        self.names[self.depth as usize - 1] = match &self.key[..usize::from(len)] {
            b"usage" => Name::Usage,
            b"service_tier" => Name::Tier,
            b"message" | b"response" => Name::Wrapper,
            _ => Name::Other,
        };
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                let matters = self.depth <= 2 && (self.expects_key || self.is_placed(Name::Tier));
                self.key_len = matters.then_some(0);
            }
            b'{' | b'[' => {
                let is_usage = self.is_placed(Name::Usage);
                if self.depth >= u128::BITS {
                    self.lost = true;
                    return;
                }
                if is_usage && byte == b'{' && self.object_depth.is_none() {
                    self.object.clear();
                    self.object_depth = Some(self.depth);
                }
                self.expects_key = byte == b'{';
                self.kinds &= !(1 << self.depth);
                self.kinds |= u128::from(self.expects_key) << self.depth;
                self.depth += 1;
                if let Some(name) = self.names.get_mut(self.depth as usize - 1) {
                    *name = Name::Other;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.expects_key = false;
            }
            b':' => self.expects_key = false,
            b',' => self.expects_key = self.depth > 0 && self.kinds >> (self.depth - 1) & 1 == 1,
            _ => {}
        }
    }
}
