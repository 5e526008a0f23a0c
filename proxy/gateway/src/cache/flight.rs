//! An answer on its way to the client that asked first, written down as it passes: to be kept, and for those who ask the same
//! meanwhile.
//!
//! ```text
//!  Quiet ── push ──► Streaming ── land(Some) ──► Landed(entry)
//!    └───────────────────┴─────── land(None) ──► Failed
//! ```
//! Invariants: a follower reads what was written in order, from the first byte, at its own pace; what fails is never read to a
//! good end; no more than [`CACHE_ANSWER_BYTES_MAX`] is written down, beyond that it fails. The one who asked first may leave:
//! as long as somebody follows, its request goes on. Deliberately absent: who leads (`sluice_policy::cache::flight`).

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sluice_policy::cache::entry::Entry;
use sluice_wire::limits::CACHE_ANSWER_BYTES_MAX;

/// An answer that is being written down.
pub struct Flight {
    tape: RefCell<Tape>,
    form: (bool, bool),
}

#[derive(Default)]
struct Tape {
    bytes: Vec<u8>,
    phase: Phase,
    /// Those who wait for more, by place.
    followers: Vec<Option<Waker>>,
    free: Vec<usize>,
    leader: Option<Waker>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Quiet,
    Streaming,
    Landed(Arc<Entry>),
    Failed,
}

/// What a follower finds.
pub enum Read {
    /// The next bytes of a stream, from where it was.
    More(Vec<u8>),
    /// The whole answer.
    Landed(Arc<Entry>),
    /// Nothing will come, or nothing more.
    Failed,
}

impl Flight {
    /// For a request that asks for a stream, and for one that says what was used, or not.
    pub fn new(form: (bool, bool)) -> Self {
        Self {
            tape: RefCell::default(),
            form,
        }
    }

    /// Whether a request of that form gets the very same bytes, as they come.
    pub fn streams_to(&self, form: (bool, bool)) -> bool {
        form.0 && form == self.form
    }

    /// The head of a streamed answer has left.
    pub fn begin(&self) {
        let mut tape = self.tape.borrow_mut();
        if matches!(tape.phase, Phase::Quiet) {
            tape.phase = Phase::Streaming;
        }
    }

    /// Writes down what the client gets of the body.
    pub fn push(&self, bytes: &[u8]) {
        let mut tape = self.tape.borrow_mut();
        if matches!(tape.phase, Phase::Landed(_) | Phase::Failed) {
            return;
        }
        if tape.bytes.len() + bytes.len() > CACHE_ANSWER_BYTES_MAX {
            tape.phase = Phase::Failed;
            tape.bytes = Vec::new();
        } else {
            tape.bytes.extend_from_slice(bytes);
        }
        tape.wake();
    }

    /// What was written down, if anything may come of it.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut tape = self.tape.borrow_mut();
        match tape.phase {
            Phase::Quiet | Phase::Streaming if !tape.bytes.is_empty() => Some(std::mem::take(&mut tape.bytes)),
            _ => None,
        }
    }

    /// The end: with the answer, or without.
    pub fn land(&self, entry: Option<Arc<Entry>>) {
        let mut tape = self.tape.borrow_mut();
        if !matches!(tape.phase, Phase::Landed(_) | Phase::Failed) {
            tape.phase = entry.map_or(Phase::Failed, Phase::Landed);
        }
        tape.wake();
    }

    /// Whether anybody waits for it.
    pub fn is_followed(&self) -> bool {
        let tape = self.tape.borrow();
        tape.followers.len() > tape.free.len()
    }

    /// Whether the one who asked first has left and the request still has somebody to go on for; if so its task is woken once
    /// that changes.
    pub fn carries_on(&self, leader: Option<&Waker>) -> bool {
        if !self.is_followed() {
            return false;
        }
        self.tape.borrow_mut().leader = leader.cloned();
        true
    }

    /// A place to wait from.
    pub fn follow(&self) -> usize {
        let mut tape = self.tape.borrow_mut();
        tape.free.pop().unwrap_or_else(|| {
            tape.followers.push(None);
            tape.followers.len() - 1
        })
    }

    /// Gives the place back.
    pub fn leave(&self, place: usize) {
        let mut tape = self.tape.borrow_mut();
        tape.followers[place] = None;
        tape.free.push(place);
        if tape.followers.len() == tape.free.len()
            && let Some(leader) = tape.leader.take()
        {
            leader.wake();
        }
    }

    /// What there is from byte `from` on; `whole`: only the whole answer will do.
    pub fn poll_read(&self, place: usize, from: usize, whole: bool, context: &Context<'_>) -> Poll<Read> {
        let mut tape = self.tape.borrow_mut();
        match &tape.phase {
            Phase::Landed(entry) => return Poll::Ready(Read::Landed(entry.clone())),
            Phase::Failed => return Poll::Ready(Read::Failed),
            Phase::Streaming if !whole && tape.bytes.len() > from => {
                return Poll::Ready(Read::More(tape.bytes[from..].to_vec()));
            }
            Phase::Quiet | Phase::Streaming => {}
        }
        tape.followers[place] = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Tape {
    fn wake(&mut self) {
        self.followers.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flight: &Flight, place: usize, from: usize, whole: bool) -> Poll<Read> {
        flight.poll_read(place, from, whole, &Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_follower_reads_on_from_where_it_was_and_a_failure_is_no_end() {
        let flight = Flight::new((true, false));
        let place = flight.follow();
        assert!(read(&flight, place, 0, false).is_pending());
        flight.begin();
        flight.push(b"abc");
        assert!(matches!(read(&flight, place, 1, false), Poll::Ready(Read::More(more)) if more == b"bc"));
        assert!(read(&flight, place, 3, false).is_pending() && read(&flight, place, 0, true).is_pending());
        flight.land(None);
        flight.push(b"d");
        assert!(matches!(read(&flight, place, 0, false), Poll::Ready(Read::Failed)));
        assert!(flight.take().is_none());
    }

    #[test]
    fn a_request_goes_on_as_long_as_somebody_follows() {
        let flight = Flight::new((true, false));
        assert!(!flight.carries_on(None));
        let (one, two) = (flight.follow(), flight.follow());
        flight.leave(one);
        assert!(flight.carries_on(None));
        flight.leave(two);
        assert!(!flight.is_followed() && !flight.carries_on(None));
        assert_eq!(flight.follow(), two, "places are used again");
    }

    #[test]
    fn what_is_too_large_fails() {
        let flight = Flight::new((true, false));
        flight.push(&vec![0; CACHE_ANSWER_BYTES_MAX]);
        flight.push(b"x");
        assert!(flight.take().is_none());
    }
}
