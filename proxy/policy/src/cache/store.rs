//! The entries of one core: found by key, by bucket, by frames; evicted by what they save.
//!
//! Invariants: an entry stands in every table that finds it, or in none; entries and bytes stay within [`Limits`] after every call.
//! Eviction is GreedyDual-Size-Frequency: the lowest of *age + cost × (uses + 1) ÷ bytes* goes, and its value becomes the age of
//! those that come. Deliberately absent: anything about requests.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use sluice_wire::limits::{CACHE_ANSWER_BYTES_MAX, CACHE_ENTRIES_MAX, CACHE_FRAMES_PER_KEY_MAX};

use super::embed::Vector;
use super::entry::Entry;
use super::index::{EntryId, Index, Near};
use super::key::Key;

/// Fixed-point places of a value.
const VALUE_SCALE: u128 = 1 << 16;

/// How much one core's cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries, at most [`CACHE_ENTRIES_MAX`].
    pub entries: usize,
    /// Bytes of answers, requests, vectors and graphs.
    pub bytes: usize,
}

/// How much one core's cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Entries.
    pub entries: usize,
    /// Buckets, which have one index each.
    pub buckets: usize,
    /// Bytes of answers, requests and labels. Shared with other cores.
    pub entry_bytes: usize,
    /// Bytes of vectors and graphs.
    pub index_bytes: usize,
    /// Entries evicted for want of room, since the start.
    pub evicted: u64,
}

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge<'a> {
    /// Of this tenant alone.
    pub tenant: Option<&'a str>,
    /// Which of them.
    pub what: What<'a>,
}

/// Which entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// All.
    All,
    /// The one of this key.
    Key(Key),
    /// Those with this tag.
    Tag(&'a str),
    /// Those that this model answered.
    Model(&'a str),
    /// Those with this context value, as `name=value`.
    Context(&'a str),
}

impl Purge<'_> {
    fn includes(&self, entry: &Entry) -> bool {
        let labels = &entry.labels;
        let of_tenant = self.tenant.is_none_or(|tenant| *labels.tenant == *tenant);
        of_tenant
            && match self.what {
                What::All => true,
                What::Key(key) => entry.exact == key,
                What::Tag(tag) => labels.tags.iter().any(|label| **label == *tag),
                What::Model(model) => *labels.model == *model,
                What::Context(value) => labels.context.iter().any(|label| **label == *value),
            }
    }
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    bytes: usize,
    uses: u32,
    /// The age when it was used last.
    used_at: u64,
    /// By which it stands in the order; it may be worth more by now.
    value: u64,
}

/// A key is a hash already: its first bytes will do. What is written last counts, which is the key itself.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type ByKey<V> = HashMap<Key, V, BuildHasherDefault<KeyHasher>>;

#[derive(Debug)]
pub(super) struct Store {
    limits: Limits,
    slots: Vec<Option<Slot>>,
    free: Vec<EntryId>,
    exact: ByKey<EntryId>,
    buckets: ByKey<Index>,
    frames: ByKey<Vec<EntryId>>,
    by_value: BTreeSet<(u64, EntryId)>,
    /// The value of what was evicted last.
    age: u64,
    entry_bytes: usize,
    index_bytes: usize,
    evicted: u64,
    swept_to: usize,
    /// Whether entries are found by their meaning.
    indexed: bool,
}

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            exact: HashMap::default(),
            buckets: HashMap::default(),
            frames: HashMap::default(),
            by_value: BTreeSet::new(),
            age: 0,
            entry_bytes: 0,
            index_bytes: 0,
            evicted: 0,
            swept_to: 0,
            indexed: true,
        }
    }

    /// Without indices.
    pub(super) fn ledger(limits: Limits) -> Self {
        Self {
            indexed: false,
            ..Self::new(limits)
        }
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>, now_ms: u64) -> bool {
        let bytes = entry.bytes();
        let expired = now_ms.saturating_sub(entry.stored_ms) > entry.ttl_ms;
        if entry.answer.body.len() > CACHE_ANSWER_BYTES_MAX || bytes > self.limits.bytes || expired {
            return false;
        }
        if let Some(known) = self.exact.get(&entry.exact).and_then(|id| self.get(*id)) {
            if known.stored_ms > entry.stored_ms {
                return false;
            }
            self.remove(entry.exact);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as EntryId
        });
        self.exact.insert(entry.exact, id);
        if let Some(meaning) = entry.meaning.as_ref().filter(|_| self.indexed) {
            let index = self.buckets.entry(meaning.bucket).or_default();
            let before = index.bytes();
            // What the index has no room for is still found exactly.
            index.add(id, &meaning.vector);
            self.index_bytes = self.index_bytes + index.bytes() - before;
        }
        if let Some(frames) = &entry.frames {
            let originals = self.frames.entry(frames.key).or_default();
            if originals.len() < CACHE_FRAMES_PER_KEY_MAX {
                originals.push(id);
            }
        }
        self.entry_bytes += bytes;
        let value = value(self.age, &entry, bytes, 0);
        self.by_value.insert((value, id));
        self.slots[id as usize] = Some(Slot {
            entry,
            bytes,
            uses: 0,
            used_at: self.age,
            value,
        });
        self.evict();
        true
    }

    pub(super) fn get(&self, id: EntryId) -> Option<&Arc<Entry>> {
        self.slots.get(id as usize)?.as_ref().map(|slot| &slot.entry)
    }

    pub(super) fn exact(&self, key: Key) -> Option<EntryId> {
        self.exact.get(&key).copied()
    }

    pub(super) fn nearest(&self, bucket: Key, vector: &Vector, floor: f32) -> impl Iterator<Item = Near> + use<> {
        self.buckets
            .get(&bucket)
            .map(|index| index.nearest(vector, floor))
            .into_iter()
            .flatten()
    }

    /// Entries whose images may be near those of a request.
    pub(super) fn originals(&self, frames: Key) -> &[EntryId] {
        self.frames.get(&frames).map_or(&[], Vec::as_slice)
    }

    /// Takes note that an entry was served. Its place in the order is put right when it comes to be evicted.
    pub(super) fn used(&mut self, id: EntryId) {
        if let Some(Some(slot)) = self.slots.get_mut(id as usize) {
            slot.uses = slot.uses.saturating_add(1);
            slot.used_at = self.age;
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> bool {
        let id = self.exact.get(&key).copied();
        id.is_some_and(|id| self.take(id))
    }

    pub(super) fn purge(&mut self, purge: &Purge<'_>) -> usize {
        if let What::Key(key) = purge.what {
            let entry = self.exact(key).and_then(|id| self.get(id));
            return usize::from(entry.is_some_and(|entry| purge.includes(entry)) && self.remove(key));
        }
        let mut removed = 0;
        for id in 0..self.slots.len() as EntryId {
            if self.get(id).is_some_and(|entry| purge.includes(entry)) {
                removed += usize::from(self.take(id));
            }
        }
        removed
    }

    pub(super) fn sweep(&mut self, now_ms: u64, entries: usize) -> usize {
        let mut removed = 0;
        for _ in 0..entries.min(self.slots.len()) {
            self.swept_to = (self.swept_to + 1) % self.slots.len();
            let id = self.swept_to as EntryId;
            let expired = |entry: &Arc<Entry>| now_ms.saturating_sub(entry.stored_ms) > entry.ttl_ms;
            if self.get(id).is_some_and(expired) {
                removed += usize::from(self.take(id));
            }
        }
        removed
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.evict();
    }

    pub(super) fn size(&self) -> Size {
        Size {
            entries: self.exact.len(),
            buckets: self.buckets.len(),
            entry_bytes: self.entry_bytes,
            index_bytes: self.index_bytes,
            evicted: self.evicted,
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.iter().flatten().map(|slot| &slot.entry)
    }

    fn evict(&mut self) {
        let entries_max = self.limits.entries.min(CACHE_ENTRIES_MAX);
        while self.exact.len() > entries_max || self.entry_bytes + self.index_bytes > self.limits.bytes {
            let Some(&(old, id)) = self.by_value.first() else {
                return;
            };
            // Used since it was put there: it has earned another place, once for all its uses.
            if let Some(Some(slot)) = self.slots.get_mut(id as usize) {
                let now = value(slot.used_at, &slot.entry, slot.bytes, slot.uses);
                if now > old {
                    slot.value = now;
                    self.by_value.remove(&(old, id));
                    self.by_value.insert((now, id));
                    continue;
                }
            }
            self.age = old;
            self.take(id);
            self.evicted += 1;
        }
    }

    fn take(&mut self, id: EntryId) -> bool {
        let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::take) else {
            return false;
        };
        self.free.push(id);
        self.exact.remove(&slot.entry.exact);
        self.by_value.remove(&(slot.value, id));
        self.entry_bytes -= slot.bytes;
        if let Some(meaning) = &slot.entry.meaning
            && let Some(index) = self.buckets.get_mut(&meaning.bucket)
        {
            let before = index.bytes();
            index.remove(id);
            self.index_bytes = self.index_bytes + index.bytes() - before;
            if index.is_empty() {
                self.index_bytes -= index.bytes();
                self.buckets.remove(&meaning.bucket);
            }
        }
        if let Some(frames) = &slot.entry.frames
            && let Some(originals) = self.frames.get_mut(&frames.key)
        {
            originals.retain(|original| *original != id);
            if originals.is_empty() {
                self.frames.remove(&frames.key);
            }
        }
        true
    }
}

/// What an entry is worth that was used last at `age`.
fn value(age: u64, entry: &Entry, bytes: usize, uses: u32) -> u64 {
    let cost = u128::from(entry.answer.cost_nano_usd.max(1));
    let saved = cost * (u128::from(uses) + 1) * VALUE_SCALE / (bytes as u128).max(1);
    age.saturating_add(u64::try_from(saved).unwrap_or(u64::MAX))
}
