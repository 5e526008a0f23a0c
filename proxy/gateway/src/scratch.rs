//! [`Scratch`]: the working memory of one request, leased from the core and given back, so that the steady path allocates
//! nothing and an idle connection holds nothing.
//!
//! Invariants: cleared before reuse; what an unusual request made large is cut back; [`Asked`] is written while the request
//! is read and only read afterwards, so that it can be borrowed for as long as the request lives.
//! Deliberately absent: meaning. Each field belongs to the module named beside it.

use sluice_wire::chat::{Notes, Out};
use sluice_wire::http::head::{RequestHead, ResponseHead};
use sluice_wire::json::TopKeys;
use sluice_wire::multipart::Multipart;
use sluice_wire::watch::StreamWatch;

use crate::buffer::Chunk;
use crate::exchange::Payment;
use crate::parts::Parts;
use crate::transcript::Tape;

/// Pieces of bodies kept in the vectors below; more are dropped with their memory.
const PIECES_KEPT: usize = 64;

/// Memory of a translation that is kept, in bytes.
const TRANSLATION_BYTES_KEPT: usize = 64 * 1024;

/// The working memory of one request.
#[derive(Default)]
pub struct Scratch {
    /// What the client asked.
    pub asked: Asked,
    /// What is under way.
    pub work: Work,
}

/// What the client asked.
#[derive(Default)]
pub struct Asked {
    /// The request's head (`connection.rs`).
    pub head: RequestHead,
    /// The bytes that the head's spans refer to.
    pub head_bytes: Chunk,
    /// What the body's top level says (`intake.rs`).
    pub keys: TopKeys,
    /// The same for multipart bodies.
    pub form: Option<Box<Multipart>>,
    /// The body, in the buffers it arrived in.
    pub body: Vec<Chunk>,
}

/// What is under way.
#[derive(Default)]
pub struct Work {
    /// Payload ranges of the piece at hand.
    pub spans: Vec<(u32, u32)>,
    /// The head of the provider's answer (`attempt.rs`).
    pub response: ResponseHead,
    /// The provider's answer while it is collected, or the part of an event that is held back (`relay.rs`).
    pub answer: Vec<Chunk>,
    /// What the events of a stream say.
    pub events: StreamWatch,
    /// The message under construction, to either side.
    pub parts: Parts,
    /// The request's body in one piece, once a target of another dialect needs it (`attempt/request.rs`).
    pub whole: Chunk,
    /// A translation under construction.
    pub out: Out,
    /// The beginning of the answer, if a target is to go on with it (`exchange/resume.rs`).
    pub beginning: Option<Box<str>>,
    /// What the translation of the request lost.
    pub notes: Notes,
    /// Where the body of the client's answer is written down, if it may be given again (`exchange/cached.rs`) or is logged.
    pub tape: Option<Tape>,
    /// What it costs whom (`exchange/payment.rs`).
    pub payment: Payment,
}

impl Work {
    /// Writes the translation of `source` down, if anybody wants it; how many bytes it has.
    pub fn write_down(&self, source: &[u8]) -> u64 {
        if let Some(tape) = &self.tape {
            self.out.parts(source).for_each(|piece| tape.push(piece));
        }
        self.out.total_len() as u64
    }
}

impl Scratch {
    /// Forgets the request and keeps the memory.
    pub fn clear(&mut self) {
        let Self { asked, work } = self;
        asked.head_bytes = Chunk::empty();
        asked.form = None;
        asked.body.clear();
        asked.body.shrink_to(PIECES_KEPT);
        work.spans.clear();
        work.spans.shrink_to(PIECES_KEPT);
        work.answer.clear();
        work.answer.shrink_to(PIECES_KEPT);
        work.parts.clear();
        work.whole = Chunk::empty();
        work.out.begin(&[]);
        work.out.buf.shrink_to(TRANSLATION_BYTES_KEPT);
        work.notes.clear();
        work.beginning = None;
        work.tape = None;
        work.payment.clear();
    }
}
