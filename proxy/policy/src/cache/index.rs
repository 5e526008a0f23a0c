//! The nearest entries of one bucket: a scan while there are few, a graph (HNSW, by `usearch`) when there are many.
//!
//! Invariants: one owner, so that the graph is never added to from two threads; it is reserved before every addition beyond
//! its capacity, because it fails instead of growing; the scan is exact and takes entries in the order of their ids where they
//! are equally near. A graph that fails (out of memory) costs hits and nothing else. Deliberately absent: filters; whatever
//! must be equal is in the bucket's key, because a filtered search finds nothing among many near misses.

use sluice_lanes::{Work, widest};
use sluice_wire::limits::{CACHE_CANDIDATES, CACHE_SCAN_ENTRIES_MAX};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::embed::{DIMENSIONS, Vector};

/// An entry of the core's cache.
pub type EntryId = u32;

/// The graph's edges per node, and how many candidates are kept to add a node and to find one.
const CONNECTIVITY: usize = 16;
const EXPANSION_ADD: usize = 64;
const EXPANSION_SEARCH: usize = 64;
/// Numbers of a vector that are looked at first. The embedding's directions are ordered by what they tell apart, so that these
/// rule out most entries.
const HEAD: usize = 64;
const TAIL: usize = DIMENSIONS - HEAD;
/// Entries whose heads are looked at at a time.
const BLOCK: usize = 32;
/// Bytes of an entry in the scan.
const SCANNED_BYTES: usize = DIMENSIONS + 2 * size_of::<f32>() + size_of::<EntryId>();
/// What rounding may take from a bound, relative to the longest product.
const SLACK: f32 = 1e-4;
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
pub struct Index {
    heads: Vec<[i8; HEAD]>,
    tails: Vec<[i8; TAIL]>,
    /// One divided by each vector's length.
    inverse: Vec<f32>,
    /// Each tail's share of its vector's length, 0 to 1.
    tail_shares: Vec<f32>,
    ids: Vec<EntryId>,
    graph: Option<usearch::Index>,
    /// Entries of the scan beyond which there is a graph.
    scanned_max: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_scan(CACHE_SCAN_ENTRIES_MAX)
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({} entries, graph: {})", self.len(), self.graph.is_some())
    }
}

impl Index {
    fn with_scan(scanned_max: usize) -> Self {
        Self {
            heads: Vec::new(),
            tails: Vec::new(),
            inverse: Vec::new(),
            tail_shares: Vec::new(),
            ids: Vec::new(),
            graph: None,
            scanned_max,
        }
    }

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
        if self.graph.is_none() && self.ids.len() >= self.scanned_max {
            self.graph = build(self.scanned_max);
        }
        let Some(graph) = &self.graph else {
            return self.ids.len() < self.scanned_max && self.push(id, vector);
        };
        let added = insert(graph, id, vector);
        for _ in 0..MOVED_PER_ADD {
            let moved = match (&self.graph, self.ids.last(), self.heads.last(), self.tails.last()) {
                (Some(graph), Some(id), Some(head), Some(tail)) => insert(graph, *id, &joined(head, tail)),
                _ => false,
            };
            if !moved {
                break;
            }
            self.take(self.ids.len() - 1);
        }
        if self.ids.is_empty() {
            let graph = self.graph.take();
            *self = Self {
                graph,
                ..Self::default()
            };
        }
        added
    }

    fn push(&mut self, id: EntryId, vector: &Vector) -> bool {
        let len = self.ids.len();
        if len == self.ids.capacity() {
            // Smaller steps than a vector takes by itself: what is not used is memory all the same.
            let more = (len / 8).max(4);
            self.heads.reserve_exact(more);
            self.tails.reserve_exact(more);
            self.inverse.reserve_exact(more);
            self.tail_shares.reserve_exact(more);
            self.ids.reserve_exact(more);
        }
        let (head, tail) = split(vector);
        let inverse = vector.inverse_norm();
        let tail_length = (dot(tail, tail) as f32).sqrt();
        self.heads.push(*head);
        self.tails.push(*tail);
        self.inverse.push(inverse);
        self.tail_shares.push(tail_length * inverse);
        self.ids.push(id);
        true
    }

    /// Removes an entry, if it is in it.
    pub fn remove(&mut self, id: EntryId) {
        if let Some(at) = self.place(id) {
            self.take(at);
        } else if let Some(graph) = &self.graph {
            // An error means that it is not there.
            let _ = graph.remove(u64::from(id));
        }
    }

    fn place(&self, id: EntryId) -> Option<usize> {
        // Block by block without leaving early, which the compiler turns into comparisons of many at a time.
        let mut blocks = self.ids.chunks(BLOCK);
        let block = blocks.position(|ids| ids.iter().fold(false, |found, entry| found | (*entry == id)))?;
        let first = block * BLOCK;
        let within = self.ids[first..].iter().position(|entry| *entry == id)?;
        Some(first + within)
    }

    fn take(&mut self, at: usize) {
        self.heads.swap_remove(at);
        self.tails.swap_remove(at);
        self.inverse.swap_remove(at);
        self.tail_shares.swap_remove(at);
        self.ids.swap_remove(at);
    }

    /// The nearest entries whose cosine is at least `floor`, nearest first.
    pub fn nearest(&self, vector: &Vector, floor: f32) -> impl Iterator<Item = Near> + use<> {
        let mut best = [None::<Near>; CACHE_CANDIDATES];
        if vector.inverse_norm() > 0.0 {
            widest(Scan {
                index: self,
                vector,
                floor,
                best: &mut best,
            });
            if let Some(graph) = &self.graph {
                search(graph, vector, floor, &mut best);
            }
        }
        best.into_iter().flatten()
    }
}

/// A search through all scanned entries.
struct Scan<'a> {
    index: &'a Index,
    vector: &'a Vector,
    floor: f32,
    best: &'a mut [Option<Near>; CACHE_CANDIDATES],
}

impl Work for Scan<'_> {
    type Output = ();

    /// The cosine is the sum of the heads' product and the tails', and the latter is at most the product of the tails' lengths
    /// (Cauchy and Schwarz): where that does not reach the floor, the tails need not be looked at. Nothing is missed.
    #[inline(always)]
    fn run(self) {
        let (index, mut floor) = (self.index, self.floor);
        let (head, tail) = split(self.vector);
        let inverse = self.vector.inverse_norm();
        let tail_share = (dot(tail, tail) as f32).sqrt() * inverse;
        let mut products = [0; BLOCK];
        let mut most = [0.0; BLOCK];
        let others = index.inverse.chunks(BLOCK).zip(index.tail_shares.chunks(BLOCK));
        for (block, (heads, (inverses, shares))) in index.heads.chunks(BLOCK).zip(others).enumerate() {
            for (product, other) in products.iter_mut().zip(heads) {
                *product = dot(head, other);
            }
            for (((most, product), other), share) in most.iter_mut().zip(&products).zip(inverses).zip(shares) {
                *most = *product as f32 * (other * inverse) + tail_share * share;
            }
            // Of a last block that is not full, what is left of the one before passes at worst a second time, unseen.
            if most.iter().all(|most| *most < floor - SLACK) {
                continue;
            }
            for (at, other) in inverses.iter().enumerate() {
                if most[at] < floor - SLACK {
                    continue;
                }
                let id = block * BLOCK + at;
                let similarity = (products[at] + dot(tail, &index.tails[id])) as f32 * (other * inverse);
                if similarity >= floor {
                    let near = Near {
                        id: index.ids[id],
                        similarity,
                    };
                    keep(self.best, near);
                    if let Some(worst) = self.best[CACHE_CANDIDATES - 1] {
                        floor = worst.similarity;
                    }
                }
            }
        }
    }
}

/// Scalar product.
#[inline(always)]
fn dot<const N: usize>(one: &[i8; N], other: &[i8; N]) -> i32 {
    one.iter().zip(other).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

#[inline(always)]
fn split(vector: &Vector) -> (&[i8; HEAD], &[i8; TAIL]) {
    let (head, tail) = vector.0.split_first_chunk().expect("a vector is longer than its head");
    (head, tail.first_chunk().expect("the tail is the rest"))
}

fn joined(head: &[i8; HEAD], tail: &[i8; TAIL]) -> Vector {
    let mut vector = [0; DIMENSIONS];
    vector[..HEAD].copy_from_slice(head);
    vector[HEAD..].copy_from_slice(tail);
    Vector(vector)
}

fn build(entries: usize) -> Option<usearch::Index> {
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
    graph.reserve_capacity_and_threads(entries + entries / 2, 1).ok()?;
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
    fn what_the_heads_rule_out_would_not_have_been_found() {
        let mut index = Index::default();
        // Alike in their heads, or in their tails, to every degree.
        let mixed = |seed: u32| {
            let (near, far) = (vector(seed % 7), vector(seed));
            let of_near = seed as usize % DIMENSIONS;
            Vector(std::array::from_fn(|at| {
                let from_near = if seed.is_multiple_of(2) { at < of_near } else { at >= of_near };
                if from_near { near.0[at] } else { far.0[at] }
            }))
        };
        (0..1_000).for_each(|id| assert!(index.add(id, &mixed(id))));
        for (query, floor) in (0..14).map(|seed| (vector(seed), seed as f32 / 14.0)) {
            let near = |id: &EntryId| query.cosine(&mixed(*id));
            let mut all: Vec<EntryId> = (0..1_000).filter(|id| near(id) >= floor).collect();
            all.sort_by(|one, other| near(other).total_cmp(&near(one)));
            let found: Vec<f32> = index.nearest(&query, floor).map(|near| near.similarity).collect();
            let expected: Vec<f32> = all.iter().take(CACHE_CANDIDATES).map(near).collect();
            assert_eq!(found.len(), expected.len(), "at {floor}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
            }
        }
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
        let count = 2_500;
        let mut index = Index::with_scan(2_000);
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
