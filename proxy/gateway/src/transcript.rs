//! [`Tape`]: where an answer is written down as it passes to its client: for the cache, and for the log of a key whose bodies are
//! logged.
//!
//! Invariants: without either there is no tape, and writing down is one branch; the copy for the log has a bound of its own, and
//! what is beyond it is left out; it never keeps an answer from its client. Deliberately absent: what the cache makes of it
//! (`cache/flight.rs`), and what of the copy may be logged (`control/log.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_wire::limits::LOG_BODIES_QUEUED_BYTES_MAX;

use crate::buffer::Chunk;
use crate::cache::flight::Flight;

/// Where an answer is written down.
#[derive(Default)]
pub struct Tape {
    flight: Option<Rc<Flight>>,
    copy: Option<RefCell<Part>>,
}

/// The beginning of a body.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    most: usize,
    is_cut: bool,
}

impl Part {
    fn push(&mut self, bytes: &[u8]) {
        let room = self.most - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Tape {
    /// One that copies so many bytes for the log.
    pub fn copying(most: usize) -> Self {
        let part = Part {
            most,
            ..Part::default()
        };
        Self {
            flight: None,
            copy: Some(RefCell::new(part)),
        }
    }

    /// Writes the answer down for others who ask the same, too.
    pub fn fly(&mut self, flight: Rc<Flight>) {
        self.flight = Some(flight);
    }

    /// The head of a streamed answer has left.
    pub fn begin(&self) {
        if let Some(flight) = &self.flight {
            flight.begin();
        }
    }

    /// Writes down what the client gets of the body.
    pub fn push(&self, bytes: &[u8]) {
        if let Some(flight) = &self.flight {
            flight.push(bytes);
        }
        self.keep(bytes);
    }

    /// The same for the log alone: of what the cache does not keep, or has.
    pub fn keep(&self, bytes: &[u8]) {
        if let Some(copy) = &self.copy {
            copy.borrow_mut().push(bytes);
        }
    }

    /// The bodies of a request that has ended, if they are to be logged; `None` also if too many wait for the log already.
    pub fn bodies(self, asked: &[Chunk], queued: &Arc<AtomicUsize>) -> Option<Result<Bodies, Full>> {
        let answer = self.copy?.into_inner();
        let mut request = Part {
            most: answer.most,
            ..Part::default()
        };
        asked.iter().for_each(|piece| request.push(piece));
        let bytes = request.bytes.len() + answer.bytes.len();
        if queued.load(Ordering::Relaxed) + bytes > LOG_BODIES_QUEUED_BYTES_MAX {
            return Some(Err(Full));
        }
        queued.fetch_add(bytes, Ordering::Relaxed);
        Some(Ok(Bodies {
            request: (request.bytes, request.is_cut),
            answer: (answer.bytes, answer.is_cut),
            queued: queued.clone(),
        }))
    }
}

/// Too many bodies wait for the log.
#[derive(Debug)]
pub struct Full;

/// The beginnings of a request's body and of its answer's, on their way to the log; each with whether it was cut.
#[derive(Debug)]
pub struct Bodies {
    /// What the client sent.
    pub request: (Vec<u8>, bool),
    /// What it got.
    pub answer: (Vec<u8>, bool),
    /// Bytes of this core that are on their way.
    queued: Arc<AtomicUsize>,
}

impl Drop for Bodies {
    fn drop(&mut self) {
        let bytes = self.request.0.len() + self.answer.0.len();
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_bound_is_cut_and_what_waits_is_counted() {
        let queued = Arc::default();
        let tape = Tape::copying(4);
        tape.push(b"ab");
        tape.keep(b"cde");
        let bodies = tape.bodies(&[], &queued).unwrap().unwrap();
        assert_eq!(bodies.answer, (b"abcd".to_vec(), true));
        assert_eq!(bodies.request, (Vec::new(), false));
        assert_eq!(queued.load(Ordering::Relaxed), 4);
        drop(bodies);
        assert_eq!(queued.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn too_many_that_wait_are_refused_and_without_a_copy_there_are_none() {
        let queued = Arc::new(AtomicUsize::new(LOG_BODIES_QUEUED_BYTES_MAX));
        let tape = Tape::copying(4);
        tape.push(b"ab");
        assert!(tape.bodies(&[], &queued).unwrap().is_err());
        assert_eq!(queued.load(Ordering::Relaxed), LOG_BODIES_QUEUED_BYTES_MAX);
        assert!(Tape::default().bodies(&[], &queued).is_none());
    }
}
