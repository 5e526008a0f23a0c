//! Heads as a reverse proxy passes them on: hop-by-hop fields left out, everything else as it came.
//!
//! Sans-IO, shared by the minimal proxies so that they differ in their runtime alone. Absent: `Connection` options
//! that name further fields, `Via`, and any validation beyond what the parser does.

use crate::h1::{self, BadHead, Framing, HEADERS_MAX};

/// A head in its new form, and how the body behind it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of the original head.
    pub len: usize,
    /// How the body ends.
    pub framing: Framing,
    /// The sender will not reuse the connection.
    pub close: bool,
}

fn is_hop_by_hop(name: &str) -> bool {
    match name.len() {
        2 => name.eq_ignore_ascii_case("te"),
        7 => name.eq_ignore_ascii_case("trailer") || name.eq_ignore_ascii_case("upgrade"),
        10 => name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive"),
        16 => name.eq_ignore_ascii_case("proxy-connection"),
        _ => false,
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the request head at the start of `bytes` to `out`, addressed to `host`; `None` while it is incomplete.
///
/// # Errors
/// [`BadHead`] when no continuation of `bytes` can become a head.
pub fn request(bytes: &[u8], host: &[u8], out: &mut Vec<u8>) -> Result<Option<Passed>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(len) = request.parse(bytes).map_err(|_| BadHead)? else {
        return Ok(None);
    };
    let (framing, close) = h1::framing(request.headers)?;
    for part in [
        request.method.unwrap_or_default(),
        " ",
        request.path.unwrap_or_default(),
        " HTTP/1.1\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    field(out, "host", host);
    for header in request.headers.iter() {
        if !is_hop_by_hop(header.name) && !header.name.eq_ignore_ascii_case("host") {
            field(out, header.name, header.value);
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(Some(Passed {
        len,
        framing: framing.unwrap_or(Framing::Length(0)),
        close,
    }))
}

/// Appends the response head at the start of `bytes` to `out`; `None` while it is incomplete.
///
/// # Errors
/// [`BadHead`] when no continuation of `bytes` can become a head.
pub fn response(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Passed>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(len) = response.parse(bytes).map_err(|_| BadHead)? else {
        return Ok(None);
    };
    let (framing, close) = h1::framing(response.headers)?;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(response.code.unwrap_or(502)).as_bytes());
    out.push(b' ');
    out.extend_from_slice(response.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for header in response.headers.iter().filter(|header| !is_hop_by_hop(header.name)) {
        field(out, header.name, header.value);
    }
    out.extend_from_slice(b"\r\n");
    Ok(Some(Passed {
        len,
        framing: framing.unwrap_or(Framing::UntilClose),
        close,
    }))
}

/// How much of a body is still to come.
#[derive(Debug, Clone)]
pub enum Left {
    /// So many bytes.
    Bytes(u64),
    /// Chunks until their end.
    Chunks(h1::ChunkScan),
    /// Everything until the connection ends.
    All,
}

impl Left {
    /// The body behind a head.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Bytes(length),
            Framing::Chunked => Self::Chunks(h1::ChunkScan::new()),
            Framing::UntilClose => Self::All,
        }
    }

    /// Takes `bytes` off the body and says how many of them belong to it.
    ///
    /// # Errors
    /// [`BadHead`] when chunks are malformed.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BadHead> {
        match self {
            Self::Bytes(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                Ok(take)
            }
            Self::Chunks(scan) => scan.push(bytes, |_| {}),
            Self::All => Ok(bytes.len()),
        }
    }

    /// True once nothing more belongs to the body.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Bytes(left) => *left == 0,
            Self::Chunks(scan) => scan.is_done(),
            Self::All => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_fields_are_left_out_and_the_host_replaced() {
        let mut out = Vec::new();
        let head = b"POST /v1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc";
        let passed = request(head, b"up:1", &mut out).expect("a head").expect("complete");
        assert_eq!((passed.len, passed.framing), (head.len() - 3, Framing::Length(3)));
        assert_eq!(
            out,
            b"POST /v1 HTTP/1.1\r\nhost: up:1\r\nX-A: b\r\nContent-Length: 3\r\n\r\n"
        );
        out.clear();
        assert_eq!(request(&head[..40], b"up:1", &mut out), Ok(None));
        assert!(out.is_empty());
    }

    #[test]
    fn a_body_is_taken_to_its_end_and_no_further() {
        let mut left = Left::new(Framing::Length(5));
        assert_eq!((left.take(b"abc"), left.is_done()), (Ok(3), false));
        assert_eq!((left.take(b"defg"), left.is_done()), (Ok(2), true));
        let mut left = Left::new(Framing::Chunked);
        assert_eq!((left.take(b"1\r\na\r\n0\r\n\r\nX"), left.is_done()), (Ok(11), true));
    }
}
