//! The nearest entries of one bucket: a scan while there are few, a graph (HNSW, by `usearch`) when there are many.
//!
//! Invariants: one owner, so that the graph is never added to from two threads; it is reserved before every addition beyond
//! its capacity, because it fails instead of growing; the scan is exact and takes entries in the order of their ids where they
//! are equally near. A graph that fails (out of memory) costs hits and nothing else. Deliberately absent: filters; whatever
//! must be equal is in the bucket's key, because a filtered search finds nothing among many near misses.

use sluice_wire::limits::{CACHE_CANDIDATES, CACHE_SCAN_ENTRIES_MAX};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::embed::{DIMENSIONS, Vector};

/// An entry of the core's cache.
pub type EntryId = u32;

/// The graph's edges per node, and how many candidates are kept to add a node and to find one.
const CONNECTIVITY: usize = 16;
const EXPANSION_ADD: usize = 64;
const EXPANSION_SEARCH: usize = 64;
/// Bytes of an entry in the scan: its vector, its length and its id.
const SCANNED_BYTES: usize = DIMENSIONS + 8;
/// Entries that one addition moves from the scan into the graph.
const MOVED_PER_ADD: usize = 2;

/// An entry that is near.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// The entry.
    pub id: EntryId,
    /// Cosine, -1 to 1.
    pub similarity: f32,
}

/// The entries of one bucket, by meaning.
#[derive(Default)]
pub struct Index {
    vectors: Vec<Vector>,
    inverse_norms: Vec<f32>,
    ids: Vec<EntryId>,
    graph: Option<usearch::Index>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({} entries, graph: {})", self.len(), self.graph.is_some())
    }
}

impl Index {
    /// Entries.
    pub fn len(&self) -> usize {
        self.ids.len() + self.graph.as_ref().map_or(0, usearch::Index::size)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of vectors and graph.
    pub fn bytes(&self) -> usize {
        let graph = self.graph.as_ref().map_or(0, usearch::Index::memory_usage);
        self.ids.capacity() * SCANNED_BYTES + graph
    }

    /// Adds an entry that is not in it; `false` if there is no memory for it.
    pub fn add(&mut self, id: EntryId, vector: &Vector) -> bool {
        if self.graph.is_none() && self.ids.len() >= CACHE_SCAN_ENTRIES_MAX {
            self.graph = build();
        }
        let Some(graph) = &self.graph else {
            return self.ids.len() < CACHE_SCAN_ENTRIES_MAX && self.push(id, vector);
        };
        let added = insert(graph, id, vector);
        for _ in 0..MOVED_PER_ADD {
            let moved = match (&self.graph, self.ids.last(), self.vectors.last()) {
                (Some(graph), Some(id), Some(vector)) => insert(graph, *id, vector),
                _ => false,
            };
            if !moved {
                break;
            }
            self.take(self.ids.len() - 1);
        }
        if self.ids.is_empty() {
            (self.vectors, self.inverse_norms, self.ids) = Default::default();
        }
        added
    }

    fn push(&mut self, id: EntryId, vector: &Vector) -> bool {
        self.vectors.push(*vector);
        self.inverse_norms.push(vector.inverse_norm());
        self.ids.push(id);
        true
    }

    /// Removes an entry, if it is in it.
    pub fn remove(&mut self, id: EntryId) {
        if let Some(at) = self.ids.iter().position(|entry| *entry == id) {
            self.take(at);
        } else if let Some(graph) = &self.graph {
            // An error means that it is not there.
            let _ = graph.remove(u64::from(id));
        }
    }

    fn take(&mut self, at: usize) {
        self.vectors.swap_remove(at);
        self.inverse_norms.swap_remove(at);
        self.ids.swap_remove(at);
    }

    /// The nearest entries whose cosine is at least `floor`, nearest first.
    pub fn nearest(&self, vector: &Vector, floor: f32) -> impl Iterator<Item = Near> + use<> {
        let inverse_norm = vector.inverse_norm();
        let mut best = [None::<Near>; CACHE_CANDIDATES];
        if inverse_norm > 0.0 {
            self.scan(vector, inverse_norm, floor, &mut best);
            if let Some(graph) = &self.graph {
                search(graph, vector, floor, &mut best);
            }
        }
        best.into_iter().flatten()
    }

    fn scan(&self, vector: &Vector, inverse_norm: f32, floor: f32, best: &mut [Option<Near>; CACHE_CANDIDATES]) {
        // What a product must reach to be among the best, so that most entries cost one comparison.
        let mut floor = floor / inverse_norm;
        for (at, (other, norm)) in self.vectors.iter().zip(&self.inverse_norms).enumerate() {
            let product = vector.dot(other) as f32 * norm;
            if product >= floor {
                let near = Near {
                    id: self.ids[at],
                    similarity: product * inverse_norm,
                };
                keep(best, near);
                if let Some(worst) = best[CACHE_CANDIDATES - 1] {
                    floor = worst.similarity / inverse_norm;
                }
            }
        }
    }
}

fn build() -> Option<usearch::Index> {
    let options = IndexOptions {
        dimensions: DIMENSIONS,
        metric: MetricKind::Cos,
        quantization: ScalarKind::I8,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: EXPANSION_SEARCH,
        multi: false,
    };
    let graph = usearch::Index::new(&options).ok()?;
    graph.reserve_capacity_and_threads(CACHE_SCAN_ENTRIES_MAX * 2, 1).ok()?;
    Some(graph)
}

fn insert(graph: &usearch::Index, id: EntryId, vector: &Vector) -> bool {
    let (size, capacity) = (graph.size(), graph.capacity());
    if size >= capacity
        && graph
            .reserve_capacity_and_threads(capacity + capacity / 2 + 64, 1)
            .is_err()
    {
        return false;
    }
    graph.add(u64::from(id), &vector.0[..]).is_ok()
}

fn search(graph: &usearch::Index, vector: &Vector, floor: f32, best: &mut [Option<Near>; CACHE_CANDIDATES]) {
    let Ok(found) = graph.search(&vector.0[..], CACHE_CANDIDATES) else {
        return;
    };
    for (&key, &distance) in found.keys.iter().zip(&found.distances) {
        let near = Near {
            id: key as EntryId,
            similarity: 1.0 - distance,
        };
        if near.similarity >= floor {
            keep(best, near);
        }
    }
}

/// Keeps the best ones, best first; of equally near ones the lower id.
fn keep(best: &mut [Option<Near>; CACHE_CANDIDATES], near: Near) {
    let before = |kept: &Option<Near>| {
        kept.is_none_or(|kept| {
            near.similarity > kept.similarity || (near.similarity == kept.similarity && near.id < kept.id)
        })
    };
    if let Some(at) = best.iter().position(before) {
        best[at..].rotate_right(1);
        best[at] = Some(near);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seed: u32) -> Vector {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        Vector(std::array::from_fn(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as i8
        }))
    }

    fn ids(index: &Index, vector: &Vector, floor: f32) -> Vec<EntryId> {
        index.nearest(vector, floor).map(|near| near.id).collect()
    }

    #[test]
    fn the_scan_finds_what_is_nearest_in_order() {
        let mut index = Index::default();
        for id in 0..100 {
            assert!(index.add(id, &vector(id)));
        }
        let query = vector(42);
        let mut all: Vec<(EntryId, f32)> = (0..100).map(|id| (id, query.cosine(&vector(id)))).collect();
        all.sort_by(|one, other| other.1.total_cmp(&one.1));
        let expected: Vec<EntryId> = all.iter().take(CACHE_CANDIDATES).map(|near| near.0).collect();
        assert_eq!(ids(&index, &query, -1.0), expected);
        assert_eq!(ids(&index, &query, 0.99), [42]);
        assert_eq!(ids(&index, &Vector([0; DIMENSIONS]), -1.0), [0; 0]);
    }

    #[test]
    fn of_equally_near_entries_the_oldest_come_first() {
        let mut index = Index::default();
        for id in (0..8).rev() {
            index.add(id, &vector(1));
        }
        assert_eq!(ids(&index, &vector(1), 0.9), [0, 1, 2, 3]);
    }

    #[test]
    fn a_removed_entry_is_not_found() {
        let mut index = Index::default();
        (0..10).for_each(|id| assert!(index.add(id, &vector(id))));
        index.remove(3);
        index.remove(77);
        assert_eq!((index.len(), ids(&index, &vector(3), 0.99)), (9, vec![]));
        assert_eq!(ids(&index, &vector(9), 0.99), [9]);
    }

    #[test]
    fn a_large_bucket_becomes_a_graph_bit_by_bit_that_finds_and_forgets_alike() {
        let count = CACHE_SCAN_ENTRIES_MAX as u32 * 5 / 4;
        let mut index = Index::default();
        let finds_all = |index: &Index, count: u32| {
            let found = (0..count).filter(|&id| ids(index, &vector(id), 0.99) == [id]).count();
            assert!(found >= count as usize * 99 / 100, "{found} of {count}");
        };
        for id in 0..count {
            assert!(index.add(id, &vector(id)));
            assert_eq!(index.len(), id as usize + 1);
        }
        assert!(index.graph.is_some() && !index.ids.is_empty(), "half moved");
        finds_all(&index, count);
        for id in count..count * 2 {
            assert!(index.add(id, &vector(id)));
        }
        assert!(index.ids.is_empty(), "all moved");
        finds_all(&index, count * 2);
        index.remove(7);
        assert_eq!(ids(&index, &vector(7), 0.99), [0; 0]);
        assert!(index.add(7, &vector(7)));
        assert_eq!(ids(&index, &vector(7), 0.99), [7]);
        // The graph takes its memory in pieces of 8 MiB.
        assert!(
            index.bytes() > index.len() * DIMENSIONS && index.bytes() < 24 << 20,
            "{} bytes",
            index.bytes()
        );
    }
}
