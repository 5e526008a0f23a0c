//! [`Board`]: a bounded table of labelled numbers that one core writes and anyone reads.
//!
//! Invariants: a row, once there, stays, so that its place can be remembered; only making a row takes memory; the first row is
//! everybody's who has none of his own. Deliberately absent: finding a row by its label on the way of a request (the core
//! remembers places by a hash of its own), and what a label may be (never a client's free text; see `labels` below).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_wire::limits::BOARD_CHUNK;

/// What [`Board::add`] gives when there is no room, and what a row stands for that has no name: the first.
pub const OTHER: usize = 0;

type Chunk<L, T> = Box<[OnceLock<(L, T)>]>;

/// Rows of one core.
#[derive(Debug)]
pub struct Board<L, T> {
    chunks: Box<[OnceLock<Chunk<L, T>>]>,
    len: AtomicUsize,
    most: usize,
}

impl<L, T: Default> Board<L, T> {
    /// A board of at most `most` rows, of which the first is `other`'s.
    pub fn new(most: usize, other: L) -> Self {
        let board = Self {
            chunks: (0..most.div_ceil(BOARD_CHUNK)).map(|_| OnceLock::new()).collect(),
            len: AtomicUsize::new(0),
            most,
        };
        board.add(other);
        board
    }

    /// Adds a row and says where; [`OTHER`] if there is no room. Only the owning core may call this.
    pub fn add(&self, label: L) -> usize {
        let at = self.len.load(Ordering::Relaxed);
        if at >= self.most {
            return OTHER;
        }
        let chunk = self.chunks[at / BOARD_CHUNK].get_or_init(|| (0..BOARD_CHUNK).map(|_| OnceLock::new()).collect());
        chunk[at % BOARD_CHUNK].get_or_init(|| (label, T::default()));
        self.len.store(at + 1, Ordering::Release);
        at
    }

    /// The place of the row with that label, which is added if there is none. Looks at all rows: for boards that are small, and
    /// for labels that many share, of whatever made them (a client that invents names gets one row, not all of them).
    pub fn share(&self, label: L) -> usize
    where
        L: PartialEq,
    {
        let found = self.rows().position(|(other, _)| *other == label);
        found.unwrap_or_else(|| self.add(label))
    }

    /// The numbers at a place that [`Board::add`] gave.
    pub fn row(&self, at: usize) -> Option<&T> {
        let (_, row) = self.chunks.get(at / BOARD_CHUNK)?.get()?.get(at % BOARD_CHUNK)?.get()?;
        Some(row)
    }

    /// All rows there are.
    pub fn rows(&self) -> impl Iterator<Item = &(L, T)> {
        let len = self.len.load(Ordering::Acquire);
        self.chunks
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|chunk| chunk.iter().filter_map(OnceLock::get))
            .take(len)
    }
}

/// Where a core finds the rows of its board, by 64 bits that stand for a label.
#[derive(Debug, Default)]
pub struct Places(HashMap<u64, usize, BuildHasherDefault<Spread>>);

impl Places {
    /// The place of `tag`; what has none yet asks `make`, and is remembered as long as there is room.
    pub fn find(&mut self, tag: u64, make: impl FnOnce() -> usize) -> usize {
        if let Some(at) = self.0.get(&tag) {
            return *at;
        }
        let at = make();
        if self.0.len() < sluice_wire::limits::BOARD_PLACES {
            self.0.insert(tag, at);
        }
        at
    }
}

/// Tags are hashes or small numbers already; one multiplication spreads both.
#[derive(Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Counter;

    #[test]
    fn what_finds_no_room_is_counted_as_other() {
        let board: Board<String, Counter> = Board::new(3, "other".into());
        let places: Vec<usize> = (0..4).map(|name| board.add(format!("{name}"))).collect();
        assert_eq!(places, [1, 2, OTHER, OTHER]);
        places.iter().for_each(|at| board.row(*at).unwrap().add(1));
        let rows: Vec<(&str, u64)> = board
            .rows()
            .map(|(label, count)| (label.as_str(), count.get()))
            .collect();
        assert_eq!(rows, [("other", 2), ("0", 1), ("1", 1)]);
        assert!(board.row(3).is_none());
    }

    #[test]
    fn a_label_that_many_share_has_one_row() {
        let board: Board<&str, Counter> = Board::new(3, "other");
        assert_eq!([board.share("a"), board.share("a"), board.share("b")], [1, 1, 2]);
        assert_eq!(board.share("c"), OTHER);
    }

    #[test]
    fn rows_beyond_one_chunk_are_found() {
        let board: Board<usize, Counter> = Board::new(3 * BOARD_CHUNK, 0);
        for number in 1..2 * BOARD_CHUNK {
            assert_eq!(board.add(number), number);
        }
        assert!(board.rows().map(|(label, _)| *label).eq(0..2 * BOARD_CHUNK));
    }

    #[test]
    fn a_place_is_made_once() {
        let mut places = Places::default();
        assert_eq!(places.find(7, || 3), 3);
        assert_eq!(places.find(7, || unreachable!("it is known")), 3);
    }
}
