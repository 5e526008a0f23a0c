//! Receive buffers that a core leases out and gets back: [`Buffers`] (the core's stock), [`Block`] (one buffer to be
//! written to) and [`Chunk`] (bytes that arrived, shared and never changed again).
//!
//! Invariants: a block is written only while nobody else refers to it; what has arrived is immutable; a buffer returns to the
//! stock of its core when its last chunk is dropped, and the stock is bounded, so memory follows the load down again.
//! Everything here stays on one thread (`Rc`). Deliberately absent: growth of a buffer, and any copy.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use sluice_wire::limits::{RECV_LARGE_BYTES, RECV_LARGE_FREE_MAX, RECV_SMALL_BYTES, RECV_SMALL_FREE_MAX};

/// How large a buffer a read should be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// [`RECV_SMALL_BYTES`]: what a waiting connection holds.
    Small,
    /// [`RECV_LARGE_BYTES`]: for a connection in the middle of something large.
    Large,
}

/// The stock of free buffers of one core.
#[derive(Clone)]
pub struct Buffers(Rc<Stock>);

struct Stock {
    small: RefCell<Vec<Rc<Memory>>>,
    large: RefCell<Vec<Rc<Memory>>>,
    leased_bytes: Cell<usize>,
}

/// One allocation. Only [`Block`] hands out its address for writing.
struct Memory {
    bytes: Box<[Cell<u8>]>,
    home: Buffers,
}

/// A buffer that is being filled.
pub struct Block {
    memory: Option<Rc<Memory>>,
    filled: usize,
}

/// Bytes that arrived: a cheap, shareable view into a leased buffer.
pub struct Chunk {
    memory: Option<Rc<Memory>>,
    start: u32,
    end: u32,
}

/// A block has no room for what should be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Buffers {
    /// An empty stock.
    pub fn new() -> Self {
        Self(Rc::new(Stock {
            small: RefCell::new(Vec::new()),
            large: RefCell::new(Vec::new()),
            leased_bytes: Cell::new(0),
        }))
    }

    /// Takes a buffer from the stock, or makes one.
    pub fn lease(&self, size: Size) -> Block {
        let (free, bytes) = match size {
            Size::Small => (&self.0.small, RECV_SMALL_BYTES),
            Size::Large => (&self.0.large, RECV_LARGE_BYTES),
        };
        let memory = free.borrow_mut().pop();
        self.block(memory, bytes)
    }

    /// Everything in `chunks` in one piece of memory: a copy, unless it is one chunk already.
    pub fn gather(&self, chunks: &[Chunk]) -> Chunk {
        if let [only] = chunks {
            return only.clone();
        }
        let bytes = chunks.iter().map(|chunk| chunk.len()).sum();
        let mut block = match bytes {
            0 => return Chunk::empty(),
            1..=RECV_SMALL_BYTES => self.lease(Size::Small),
            bytes if bytes <= RECV_LARGE_BYTES => self.lease(Size::Large),
            bytes => self.block(None, bytes),
        };
        for chunk in chunks {
            block.append(chunk).expect("the block was made for all chunks");
        }
        block.into_chunk()
    }

    fn block(&self, memory: Option<Rc<Memory>>, bytes: usize) -> Block {
        self.0.leased_bytes.set(self.0.leased_bytes.get() + bytes);
        let memory = memory.unwrap_or_else(|| {
            // SAFETY: all-zero bytes are valid `Cell<u8>`s.
            let bytes = unsafe { Box::<[Cell<u8>]>::new_zeroed_slice(bytes).assume_init() };
            Rc::new(Memory {
                bytes,
                home: self.clone(),
            })
        });
        Block {
            memory: Some(memory),
            filled: 0,
        }
    }

    /// Bytes of all buffers that are leased out now.
    pub fn leased_bytes(&self) -> usize {
        self.0.leased_bytes.get()
    }

    fn give_back(&self, memory: Rc<Memory>) {
        let bytes = memory.bytes.len();
        self.0.leased_bytes.set(self.0.leased_bytes.get() - bytes);
        let (free, most) = match bytes {
            RECV_SMALL_BYTES => (&self.0.small, RECV_SMALL_FREE_MAX),
            RECV_LARGE_BYTES => (&self.0.large, RECV_LARGE_FREE_MAX),
            _ => return,
        };
        let mut free = free.borrow_mut();
        if free.len() < most {
            free.push(memory);
        }
    }
}

impl Block {
    /// What has been read, as a chunk; an empty one if nothing was.
    pub fn into_chunk(mut self) -> Chunk {
        let end = u32::try_from(self.filled).unwrap_or(0);
        Chunk {
            memory: self.memory.take(),
            start: 0,
            end,
        }
    }

    /// True if the read left no room: more is probably waiting.
    pub fn is_full(&self) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|memory| self.filled == memory.bytes.len())
    }

    /// Copies `bytes` behind what the block holds.
    ///
    /// # Errors
    /// If there is no room; nothing is copied then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        self.fill(|free| {
            free.get_mut(..bytes.len()).ok_or(NoRoom)?.copy_from_slice(bytes);
            Ok(bytes.len())
        })
        .map(drop)
    }

    /// What has been read so far.
    pub fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| {
            let cells = &memory.bytes[..self.filled];
            // SAFETY: `Cell<u8>` has the layout of `u8`; writing to the memory takes `&mut self`.
            unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
        })
    }

    /// Fills the block through `read`, which gets the free space and says how much of it was used.
    ///
    /// # Errors
    /// Those of `read`; the block is then unchanged.
    pub fn fill<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        let from = self.filled;
        let memory = self
            .memory
            .as_mut()
            .and_then(Rc::get_mut)
            .expect("a block is the only owner of its memory");
        let free = &mut memory.bytes[from..];
        // SAFETY: `Cell<u8>` has the layout of `u8`, and `&mut` proves that nobody else sees these cells.
        let free = unsafe { std::slice::from_raw_parts_mut(free.as_mut_ptr().cast::<u8>(), free.len()) };
        let used = read(free)?;
        assert!(used <= free.len(), "a read reported more than the buffer holds");
        self.filled += used;
        Ok(used)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        give_back_last(&mut self.memory);
    }
}

impl Chunk {
    /// A chunk of nothing.
    pub fn empty() -> Self {
        Self {
            memory: None,
            start: 0,
            end: 0,
        }
    }

    /// The part from `from` to `to` (relative to this chunk), sharing the same buffer.
    ///
    /// # Panics
    /// If the range is not within the chunk.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        assert!(
            from <= to && to <= self.len(),
            "slice {from}..{to} of a chunk of {} bytes",
            self.len()
        );
        let base = self.start as usize;
        // Both fit: they are at most `end`, which is a u32.
        Self {
            memory: self.memory.clone(),
            start: (base + from) as u32,
            end: (base + to) as u32,
        }
    }

    /// Drops the first `count` bytes from view.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.len(),
            "advance {count} in a chunk of {} bytes",
            self.len()
        );
        self.start += count as u32;
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::empty()
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            start: self.start,
            end: self.end,
        }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        // Most that are dropped are empty.
        if self.memory.is_some() {
            give_back_last(&mut self.memory);
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Some(memory) => {
                let cells = &memory.bytes[self.start as usize..self.end as usize];
                // SAFETY: `Cell<u8>` has the layout of `u8`; no block refers to this memory any more, so nobody writes to it.
                unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
            }
            None => &[],
        }
    }
}

/// Returns the buffer to its core's stock if this was the last reference to it.
fn give_back_last(memory: &mut Option<Rc<Memory>>) {
    if let Some(memory) = memory.take()
        && Rc::strong_count(&memory) == 1
    {
        let home = memory.home.clone();
        home.give_back(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &Buffers, text: &[u8]) -> Chunk {
        let mut block = buffers.lease(Size::Small);
        block
            .fill::<()>(|free| {
                free[..text.len()].copy_from_slice(text);
                Ok(text.len())
            })
            .unwrap();
        block.into_chunk()
    }

    #[test]
    fn a_buffer_returns_when_its_last_chunk_is_dropped_and_is_used_again() {
        let buffers = Buffers::new();
        let chunk = filled(&buffers, b"hello world");
        let address = chunk.as_ptr();
        let tail = chunk.slice(6, 11);
        drop(chunk);
        assert_eq!(&*tail, b"world");
        assert_eq!(buffers.leased_bytes(), RECV_SMALL_BYTES);
        drop(tail);
        assert_eq!(buffers.leased_bytes(), 0);
        assert_eq!(filled(&buffers, b"again").as_ptr(), address);
    }

    #[test]
    fn gathering_copies_only_what_is_in_pieces() {
        let buffers = Buffers::new();
        let (first, second) = (filled(&buffers, b"hello "), filled(&buffers, b"world"));
        assert_eq!(&*buffers.gather(&[first.clone(), second]), b"hello world");
        assert_eq!(buffers.gather(std::slice::from_ref(&first)).as_ptr(), first.as_ptr());
        assert!(buffers.gather(&[]).is_empty());
    }

    #[test]
    fn the_stock_is_bounded() {
        let buffers = Buffers::new();
        let many: Vec<_> = (0..RECV_LARGE_FREE_MAX + 3)
            .map(|_| buffers.lease(Size::Large))
            .collect();
        drop(many);
        assert_eq!(buffers.0.large.borrow().len(), RECV_LARGE_FREE_MAX);
        assert_eq!(buffers.leased_bytes(), 0);
    }

    #[test]
    fn slices_and_advances_show_the_same_bytes() {
        let buffers = Buffers::new();
        let mut chunk = filled(&buffers, b"0123456789");
        chunk.advance(3);
        assert_eq!(&*chunk, b"3456789");
        assert_eq!(&*chunk.slice(2, 4), b"56");
        assert!(chunk.slice(7, 7).is_empty());
    }
}
