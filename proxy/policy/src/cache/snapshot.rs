//! The cache as bytes: to keep it warm over a restart, and to tell replicas.
//!
//! ```text
//! "SLCACHE1"  fingerprint of embedding, words and rules (32)
//! entries: count, then each            evidence: count, then namespace, two templates, standing
//! audits: count, then namespace, checks, errors     epochs: count, then key and number
//! BLAKE3 under the installation's key of all before (32)
//! ```
//! All numbers are `u64`, little-endian. Invariants: bytes that were cut, changed, or made by another installation, embedding or set of
//! rules are refused as a whole; entries share the memory of what was read. Deliberately absent: files, and
//! reading a part.

use std::sync::Arc;

use bytes::Bytes;
use sluice_wire::limits::{CACHE_ENTRIES_MAX, CACHE_EPOCHS_MAX};

use super::entry::Entry;
use super::evidence::{Audit, Audits, Evidence, Standing, TemplatePair};
use super::guard::Template;
use super::{Brain, Cache, RULES_VERSION};

const MAGIC: &[u8; 8] = b"SLCACHE1";
const HASH: usize = 32;
/// Stands for a quarantined pair, where agreements are counted.
const QUARANTINED: u64 = u64::MAX;

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Not a snapshot, or of another version.
    Magic,
    /// Cut, changed, or of another installation.
    Damaged,
    /// Made by another embedding, other words or other rules.
    Outdated,
    /// Whole, and yet not of the form.
    Form,
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Magic => "not a snapshot of this version",
            Self::Damaged => "the snapshot is damaged, or of another installation",
            Self::Outdated => "the snapshot is of another embedding or other rules",
            Self::Form => "the snapshot is not of the form",
        })
    }
}

/// All that a restart should keep.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The entries; the oldest version of a request is overtaken by the newest when they are inserted.
    pub entries: Vec<Arc<Entry>>,
    /// What is known of pairs of templates.
    pub evidence: Evidence,
    /// The checks.
    pub audits: Audits,
    /// The epochs, by tenant or by tenant and context value.
    pub epochs: Vec<(Box<str>, u64)>,
}

impl Snapshot {
    /// As bytes.
    pub fn encode(&self, brain: &Brain) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(brain.fingerprint());
        number(&mut out, self.entries.len());
        self.entries.iter().for_each(|entry| entry.encode(&mut out));
        number(&mut out, self.evidence.pairs().count());
        for (namespace, pair, standing) in self.evidence.pairs() {
            out.extend(namespace.to_le_bytes());
            pair.templates().iter().for_each(|template| out.extend(template.0));
            let standing = match standing {
                Standing::Agreed(count) => u64::from(count),
                Standing::Quarantined => QUARANTINED,
            };
            out.extend(standing.to_le_bytes());
        }
        number(&mut out, self.audits.all().count());
        for (namespace, audit) in self.audits.all() {
            [namespace, audit.checks, audit.errors]
                .iter()
                .for_each(|value| out.extend(value.to_le_bytes()));
        }
        number(&mut out, self.epochs.len());
        for (key, epoch) in &self.epochs {
            number(&mut out, key.len());
            out.extend(key.as_bytes());
            out.extend(epoch.to_le_bytes());
        }
        let hash = brain.secret.hasher("snapshot").update(&out).finalize();
        out.extend(hash.as_bytes());
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are not exactly what [`Snapshot::encode`] gave under the same key, embedding and rules.
    pub fn decode(bytes: &Bytes, brain: &Brain) -> Result<Self, SnapshotError> {
        let header = MAGIC.len() + HASH;
        if bytes.len() < header + HASH || !bytes.starts_with(MAGIC) {
            return Err(SnapshotError::Magic);
        }
        let end = bytes.len() - HASH;
        let hash = brain.secret.hasher("snapshot").update(&bytes[..end]).finalize();
        if hash.as_bytes() != &bytes[end..] {
            return Err(SnapshotError::Damaged);
        }
        if bytes[MAGIC.len()..header] != brain.fingerprint() {
            return Err(SnapshotError::Outdated);
        }
        let mut rest = bytes.slice(header..end);
        let snapshot = body(&mut rest).ok_or(SnapshotError::Form)?;
        if rest.is_empty() {
            Ok(snapshot)
        } else {
            Err(SnapshotError::Form)
        }
    }
}

fn body(rest: &mut Bytes) -> Option<Snapshot> {
    let mut snapshot = Snapshot::default();
    for _ in 0..count(rest, CACHE_ENTRIES_MAX)? {
        let (entry, len) = Entry::decode(rest)?;
        *rest = rest.slice(len..);
        snapshot.entries.push(Arc::new(entry));
    }
    for _ in 0..count(rest, usize::MAX)? {
        let namespace = take(rest).map(u64::from_le_bytes)?;
        let pair = TemplatePair::new(Template(take(rest)?), Template(take(rest)?));
        let standing = match take(rest).map(u64::from_le_bytes)? {
            QUARANTINED => Standing::Quarantined,
            count => Standing::Agreed(u32::try_from(count).ok()?),
        };
        snapshot.evidence.set(namespace, pair, standing);
    }
    for _ in 0..count(rest, usize::MAX)? {
        let [namespace, checks, errors] = [take(rest)?, take(rest)?, take(rest)?].map(u64::from_le_bytes);
        snapshot.audits.set(namespace, Audit { checks, errors });
    }
    for _ in 0..count(rest, CACHE_EPOCHS_MAX)? {
        let len = count(rest, rest.len())?;
        let key = rest.get(..len).and_then(|key| std::str::from_utf8(key).ok())?.into();
        *rest = rest.slice(len..);
        snapshot.epochs.push((key, take(rest).map(u64::from_le_bytes)?));
    }
    Some(snapshot)
}

impl Brain {
    /// What a stored vector and a stored bucket depend on.
    fn fingerprint(&self) -> [u8; HASH] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&RULES_VERSION.to_le_bytes());
        hasher.update(&self.model.fingerprint());
        hasher.update(&self.guard.fingerprint());
        hasher.finalize().into()
    }
}

impl Cache {
    /// All that a restart should keep; shares the entries.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            entries: self.store.entries().cloned().collect(),
            evidence: self.evidence.clone(),
            audits: self.audits.clone(),
            epochs: self.epochs.iter().map(|(key, epoch)| (key.clone(), *epoch)).collect(),
        }
    }

    /// Takes over what a snapshot knows besides entries, which are inserted one by one, a few at a time. Epochs only rise.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        for (namespace, pair, standing) in snapshot.evidence.pairs() {
            self.evidence.set(namespace, pair, standing);
        }
        for (namespace, audit) in snapshot.audits.all() {
            self.audits.set(namespace, audit);
        }
        for (key, epoch) in &snapshot.epochs {
            if self.epochs.len() < CACHE_EPOCHS_MAX {
                let known = self.epochs.entry(key.clone()).or_default();
                *known = (*known).max(*epoch);
            }
        }
    }
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.extend((number as u64).to_le_bytes());
}

fn take<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
    let array = *rest.first_chunk()?;
    *rest = rest.slice(N..);
    Some(array)
}

fn count(rest: &mut Bytes, max: usize) -> Option<usize> {
    let count = usize::try_from(take(rest).map(u64::from_le_bytes)?).ok()?;
    (count <= max).then_some(count)
}
