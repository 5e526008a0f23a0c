//! [`Parts`]: what is to be sent, in order: text that we write ourselves and chunks that pass through.
//!
//! Invariants: a chunk larger than [`COALESCE_BYTES_MAX`] is never copied; everything smaller is, because one contiguous
//! send costs less than a second operation. Deliberately absent: `writev` (measured no faster here than this scheme, and
//! io_uring refuses it on a non-blocking socket whose buffer is full).

use std::ops::Range;

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

    /// The text that [`Piece::Text`] refers to.
    pub(crate) fn text_ref(&self) -> &[u8] {
        &self.text
    }

    /// The text vector, lent to the kernel; to be given back by [`Parts::restore_text`].
    pub(crate) fn take_text(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }

    /// Gives the text vector back.
    pub(crate) fn restore_text(&mut self, text: Vec<u8>) {
        self.text = text;
    }
}
