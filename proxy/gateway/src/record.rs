//! [`Record`]: what one request was, for the log and for whatever is counted later. It crosses from a core to the control
//! thread by value, and refers to its [`Names`], which cross on their own.
//!
//! Invariants: plain data of bounded size, no reference into a request, never a key's secret; a record itself has no heap, and
//! what has some ([`Extra`]) exists only of requests that did not go the plain way, or whose key has its bodies logged.
//! Deliberately absent: formatting (the control thread's work).

use sluice_policy::keyring::Tags;
use sluice_policy::meter::Reason;
use sluice_policy::money::NanoUsd;
use sluice_wire::error::Code;
use sluice_wire::limits::{MODEL_LABEL_BYTES, TRIES_MAX};

use crate::transcript::Bodies;

pub use self::names::{Introduced, Names};
pub use self::reports::Reports;

mod names;
mod reports;

/// Text of at most `N` bytes, stored in place; longer text is cut at a character boundary.
#[derive(Clone, Copy)]
pub struct Label<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Label<N> {
    /// Nothing.
    pub const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// Stores as much of `text` as fits.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(N).min(usize::from(u8::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut label = Self::EMPTY;
        label.bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        label.len = end as u8;
        label
    }

    /// The text, which is UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer was delivered, whatever its status.
    Done,
    /// The gateway answered with an error of its own.
    Refused(Code),
    /// The client closed the connection first.
    ClientGone,
    /// The stream was cut after the first byte, and the client was told so.
    Interrupted,
}

/// What a request had to do with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// It was answered by the answer to the very same request, or waited for it.
    Hit,
    /// It was answered by the answer to one that means the same, or shows the same.
    Semantic,
    /// The provider answered.
    Miss,
    /// It is none of the cache's business.
    Bypass,
    /// The provider answered, and its answer was compared with the one that would have been served.
    Shadow,
}

impl CacheUse {
    /// As in `x-sluice-cache` and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Semantic => "semantic",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Shadow => "shadow",
        }
    }
}

/// The life of one request, from its first byte to its end. Times are microseconds.
///
/// One is written, and read again by another thread, for every request: it is a line and a half of memory.
#[derive(Clone, Copy)]
pub struct Record {
    /// Wall clock at the first byte, microseconds since the epoch.
    pub unix_us: u64,
    /// The request's id, as in `x-request-id`.
    pub id: u128,
    /// The status that the client saw; 0 if it saw none.
    pub status: u16,
    /// Attempts at providers, stale connections not counted.
    pub attempts: u8,
    /// True if another target than the first answered.
    pub fallback: bool,
    /// True if the answer was a stream.
    pub stream: bool,
    /// Whether a [`Paid`] goes with it, in a ring of its own: whoever is not charged does not pay for it either.
    pub paid: bool,
    /// Whether an [`Extra`] goes with it, likewise.
    pub extra: bool,
    /// Whether [`Names`] go with it, likewise: from now on they stand in the slot.
    pub named: bool,
    /// The slot of its names.
    pub names: u8,
    /// How it ended.
    pub outcome: Outcome,
    /// True if another target brought a stream to its end that was cut.
    pub resumed: bool,
    /// What it had to do with the cache, if its route has one.
    pub cache: Option<CacheUse>,
    /// Why the first target did not answer, if it did not.
    pub reason: Option<Reason>,
    /// The client's address.
    pub client: Option<std::net::IpAddr>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the first byte of the request until it was complete; 0 if it came in one piece.
    pub received_us: u32,
    /// From the first byte of the request until the first byte of the answer left.
    pub first_byte_us: u32,
    /// From the first byte of the request until the last byte of the answer left.
    pub total_us: u32,
    /// From the begin of sending to the provider that was asked last until its first byte.
    pub upstream_us: u32,
    /// Waited for places at providers whose concurrency is limited, all attempts together.
    pub queued_us: u32,
}

const _: () = assert!(size_of::<Record>() <= 96);

/// What became of an attempt at a provider, or of a target that was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client has its answer.
    Answered,
    /// It failed, for that reason.
    Failed(Code),
    /// Another target that was asked beside it began its answer sooner. It may charge for it all the same.
    GivenUp,
    /// The client left.
    Abandoned,
    /// It was not made: the target or its keys rest, or the caller may not use it or cannot pay for it.
    PassedOver(Code),
}

impl Fate {
    /// As in the log: `ok`, `given_up`, `client_gone`, or the code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Failed(code) | Self::PassedOver(code) => code.as_str(),
            Self::GivenUp => "given_up",
            Self::Abandoned => "client_gone",
        }
    }
}

/// One attempt at a provider, or a target that was passed over. Times are microseconds.
#[derive(Clone, Copy)]
pub struct Try {
    /// The provider.
    pub provider: Label<32>,
    /// The model, as it knows it.
    pub model: Label<MODEL_LABEL_BYTES>,
    /// The name of the key; empty if none was chosen.
    pub key: Label<32>,
    /// What became of it.
    pub fate: Fate,
    /// The status of its answer; 0 if there was none.
    pub status: u16,
    /// From the first byte of the request until it began.
    pub begun_us: u32,
    /// From then until its end; 0 if nothing was begun.
    pub took_us: u32,
}

/// What a request is remembered by beside its record, if it is out of the ordinary.
#[derive(Default)]
pub struct Extra {
    /// Its attempts, in the order in which they ended, if they are more than one that gave the answer. At most [`TRIES_MAX`].
    pub tries: Vec<Try>,
    /// Beginnings of its bodies, if its virtual key has them logged.
    pub bodies: Option<Bodies>,
}

impl Extra {
    /// Adds an attempt; beyond [`TRIES_MAX`] it takes the place of the last.
    pub fn note(&mut self, one: Try) {
        if self.tries.len() >= TRIES_MAX {
            self.tries.pop();
        }
        self.tries.push(one);
    }
}

/// Who a request was for, and what it cost: for the ledger, and for the log.
#[derive(Clone, Copy)]
pub struct Paid {
    /// The rows of its key, team and customer; 0 for none.
    pub scopes: [i64; 3],
    /// The virtual key's name.
    pub key: Label<64>,
    /// The name of the key's customer, else of its team.
    pub tenant: Label<64>,
    /// The model, as the provider knows it.
    pub model: Label<128>,
    /// Input tokens, cached ones included, as far as they were reported.
    pub input: u64,
    /// Input tokens that came from a prompt cache.
    pub cached: u64,
    /// Output tokens.
    pub output: u64,
    /// What it cost, over all attempts.
    pub cost: NanoUsd,
    /// Whether that is the price of what was used, not what was reserved in want of one.
    pub priced: bool,
    /// What it is for, as the client says.
    pub tags: Tags,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cuts_long_text_between_characters() {
        assert_eq!(Label::<4>::new("abé").as_str(), "abé");
        assert_eq!(Label::<3>::new("abé").as_str(), "ab");
        assert_eq!(Label::<8>::new("").as_str(), "");
    }
}
