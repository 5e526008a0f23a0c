//! Whole messages out of chunks, for the raw closed loop: answers on one side, requests on the other.
//!
//! Sans-IO. Invariants: what comes in one chunk is never copied; only a head that is split is kept until it is whole. The
//! result does not depend on how the bytes were split.

use super::exchange::Failure;
use super::scan::BodyScan;
use crate::h1::{self, BadHead, ChunkScan, Framing};

/// A complete and right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// All its bytes.
    pub bytes: u64,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// The peer ends the connection.
    pub close: bool,
}

/// An answer on its way in; starts anew after each whole one.
#[derive(Debug, Default)]
pub struct Answer {
    split_head: Vec<u8>,
    body: Option<(BodyScan, bool)>,
    bytes: u64,
}

impl Answer {
    /// Takes the next bytes; the answer's figures once it is whole.
    ///
    /// # Errors
    /// The kind of failure; bytes behind the answer's end are one.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Whole>, Failure> {
        self.bytes += bytes.len() as u64;
        let Some((scan, close)) = &mut self.body else {
            return self.begin(bytes);
        };
        if !scan.push(bytes)? {
            return Ok(None);
        }
        scan.verdict()?;
        let whole = Whole {
            bytes: self.bytes,
            body_bytes: scan.bytes(),
            close: *close,
        };
        (self.body, self.bytes) = (None, 0);
        Ok(Some(whole))
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<Option<Whole>, Failure> {
        let mut split = std::mem::take(&mut self.split_head);
        let text = if split.is_empty() {
            bytes
        } else {
            split.extend_from_slice(bytes);
            &split
        };
        let Some(head) = h1::response_head(text).map_err(|_| Failure::Head)? else {
            self.split_head = if split.is_empty() { bytes.to_vec() } else { split };
            return Ok(None);
        };
        if head.status != 200 {
            return Err(Failure::Status(head.status));
        }
        // Only a failing subject answers without framing: the closed loop counts that as an answer without an end.
        if head.framing == Framing::UntilClose {
            return Err(Failure::Truncated);
        }
        self.body = Some((BodyScan::new(&head, false), head.close));
        // The head's bytes have been counted; `push` counts what it is given.
        let rest = &text[head.len..];
        self.bytes -= rest.len() as u64;
        self.push(rest)
    }
}

/// A request on its way in; starts anew after each whole one.
#[derive(Debug, Default)]
pub struct Incoming {
    split_head: Vec<u8>,
    rest: Option<Rest>,
}

#[derive(Debug)]
enum Rest {
    Bytes(u64),
    Chunks(ChunkScan),
}

impl Incoming {
    /// Takes the next bytes; true when they complete a request.
    ///
    /// # Errors
    /// [`BadHead`] for what is no request, and for a second one before the first was answered: nobody here pipelines.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, BadHead> {
        if self.rest.is_some() {
            return self.body(bytes);
        }
        let mut split = std::mem::take(&mut self.split_head);
        let text = if split.is_empty() {
            bytes
        } else {
            split.extend_from_slice(bytes);
            &split
        };
        let Some(head) = h1::request_head(text)? else {
            self.split_head = if split.is_empty() { bytes.to_vec() } else { split };
            return Ok(false);
        };
        self.rest = Some(match head.framing {
            Framing::Length(length) => Rest::Bytes(length),
            Framing::Chunked => Rest::Chunks(ChunkScan::new()),
            Framing::UntilClose => return Err(BadHead),
        });
        self.body(&text[head.len..])
    }

    fn body(&mut self, bytes: &[u8]) -> Result<bool, BadHead> {
        let complete = match &mut self.rest {
            None => return Ok(false),
            Some(Rest::Bytes(left)) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(BadHead)?;
                *left == 0
            }
            Some(Rest::Chunks(scan)) => {
                if scan.push(bytes, |_| {})? < bytes.len() {
                    return Err(BadHead);
                }
                scan.is_done()
            }
        };
        if complete {
            self.rest = None;
        }
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

    #[test]
    fn answers_are_whole_whatever_the_split_and_again_after_each() {
        let whole = Whole {
            bytes: ANSWER.len() as u64,
            body_bytes: 7,
            close: false,
        };
        let mut answer = Answer::default();
        for split in 1..ANSWER.len() {
            assert_eq!(answer.push(&ANSWER[..split]), Ok(None), "split at {split}");
            assert_eq!(answer.push(&ANSWER[split..]), Ok(Some(whole)), "split at {split}");
        }
        assert_eq!(answer.push(ANSWER), Ok(Some(whole)));
    }

    #[test]
    fn wrong_answers_are_failures() {
        let failure = |text: &[u8]| Answer::default().push(text).expect_err("wrong");
        assert_eq!(
            failure(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"),
            Failure::Status(503)
        );
        assert_eq!(failure(&[ANSWER, b"x"].concat()), Failure::Framing);
        assert_eq!(
            failure(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\noops"),
            Failure::Body
        );
        assert_eq!(failure(b"HTTP/1.1 200 OK\r\n\r\n"), Failure::Truncated);
    }

    #[test]
    fn requests_are_whole_whatever_the_split() {
        for text in [REQUEST, CHUNKED] {
            let mut incoming = Incoming::default();
            for split in 1..text.len() {
                assert_eq!(incoming.push(&text[..split]), Ok(false), "split at {split}");
                assert_eq!(incoming.push(&text[split..]), Ok(true), "split at {split}");
            }
        }
        assert_eq!(Incoming::default().push(&[REQUEST, b"x"].concat()), Err(BadHead));
    }
}
