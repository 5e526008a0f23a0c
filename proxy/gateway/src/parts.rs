//! [`Parts`]: what is to be sent, in order: text that we write ourselves and chunks that pass through.
//!
//! Invariants: a chunk larger than [`COALESCE_BYTES_MAX`] is never copied; everything smaller is, because a contiguous send
//! costs the kernel less than a vectored one. Deliberately absent: sending.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

use crate::buffer::Chunk;

/// Largest chunk that is copied behind the text before it rather than sent by an operation of its own, in bytes.
pub const COALESCE_BYTES_MAX: usize = 8 * 1024;

/// A message under construction; reused, so that it allocates only while it grows to its working size.
#[derive(Default)]
pub struct Parts {
    text: Vec<u8>,
    pieces: Vec<Piece>,
    /// Where the text that is not yet a piece begins.
    open: usize,
    chunk_bytes: usize,
}

/// One contiguous piece of a message.
pub enum Piece {
    /// A range of the text.
    Text(Range<usize>),
    /// Bytes in the buffer that they arrived in.
    Chunk(Chunk),
    /// Bytes that other cores may send as well.
    Shared(Bytes),
}

impl Piece {
    /// Its bytes; `text` is that of the message.
    pub(crate) fn bytes<'p>(&'p self, text: &'p [u8]) -> &'p [u8] {
        match self {
            Self::Text(range) => &text[range.clone()],
            Self::Chunk(chunk) => chunk,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Parts {
    /// The text so far, to be appended to.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Appends a chunk: small ones by copying, large ones by reference.
    pub fn chunk(&mut self, chunk: Chunk) {
        if chunk.len() <= COALESCE_BYTES_MAX {
            self.text.extend_from_slice(&chunk);
        } else {
            self.chunk_uncopied(chunk);
        }
    }

    /// Appends a chunk by reference, whatever its size.
    pub fn chunk_uncopied(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.seal();
        self.chunk_bytes += chunk.len();
        self.pieces.push(Piece::Chunk(chunk));
    }

    /// Appends bytes that several cores share: few by copying, many by reference.
    pub fn shared(&mut self, bytes: Bytes) {
        if bytes.len() <= COALESCE_BYTES_MAX {
            self.text.extend_from_slice(&bytes);
        } else {
            self.seal();
            self.chunk_bytes += bytes.len();
            self.pieces.push(Piece::Shared(bytes));
        }
    }

    /// True if writing to it needs no allocation to begin with.
    pub fn has_memory(&self) -> bool {
        self.text.capacity() > 0
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.text.len() + self.chunk_bytes
    }

    /// True if there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything and keeps the memory, unless an unusual message made it large.
    pub fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 64 * 1024;
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.pieces.clear();
        self.open = 0;
        self.chunk_bytes = 0;
    }

    /// Number of pieces, after sealing.
    pub fn seal(&mut self) -> usize {
        if self.open < self.text.len() {
            self.pieces.push(Piece::Text(self.open..self.text.len()));
            self.open = self.text.len();
        }
        self.pieces.len()
    }

    /// The piece at `index`, once sealed.
    pub(crate) fn piece(&self, index: usize) -> &Piece {
        &self.pieces[index]
    }

    /// The sealed message, if it is one piece.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [only] => Some(only.bytes(&self.text)),
            _ => None,
        }
    }

    /// The text that [`Piece::Text`] refers to.
    pub(crate) fn text_ref(&self) -> &[u8] {
        &self.text
    }

    /// What is left of the sealed message from byte `from` on, as far as it fits `slices`.
    pub(crate) fn slices<'a, 'b>(&'a self, from: usize, slices: &'b mut [IoSlice<'a>]) -> &'b [IoSlice<'a>] {
        let mut skip = from;
        let mut count = 0;
        for piece in &self.pieces {
            let Some(slot) = slices.get_mut(count) else { break };
            let bytes = piece.bytes(&self.text);
            match bytes.get(skip..) {
                Some(left) if !left.is_empty() => {
                    *slot = IoSlice::new(left);
                    count += 1;
                    skip = 0;
                }
                _ => skip -= bytes.len(),
            }
        }
        &slices[..count]
    }
}
