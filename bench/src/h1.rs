//! The little HTTP/1.1 that the instruments share: one parsed head, and a chunked-body scanner.
//!
//! Sans-IO. Invariant: a scanner fed the same bytes in any split reports the same data and the same end. It is no
//! reference parser: it trusts the loopback peers that a measurement consists of, and refuses what it does not know.

/// Most header fields of a head that the instruments read.
pub const HEADERS_MAX: usize = 64;

/// Longest head that the instruments wait for the end of, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `content-length`, in bytes; 0 when no body was announced.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// A response without either: it ends with the connection.
    UntilClose,
}

/// What an instrument needs of a request or response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, the empty line included.
    pub len: usize,
    /// Status code; 0 in a request.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// The sender said `connection: close`.
    pub close: bool,
}

/// Bytes that are not an HTTP/1.1 head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHead;

impl std::fmt::Display for BadHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not an HTTP/1.1 head")
    }
}

impl std::error::Error for BadHead {}

/// Reads a response head at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// [`BadHead`] when no continuation of `bytes` can become one.
pub fn response_head(bytes: &[u8]) -> Result<Option<Head>, BadHead> {
    let Some((len, line, fields)) = split_head(bytes)? else {
        return Ok(None);
    };
    let code = line
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .ok_or(BadHead)?;
    let digits = std::str::from_utf8(code).map_err(|_| BadHead)?;
    let status: u16 = digits.parse().map_err(|_| BadHead)?;
    let (framing, close) = scan_fields(fields)?;
    let bodiless = status < 200 || status == 204 || status == 304;
    let framing = if bodiless {
        Framing::Length(0)
    } else {
        framing.unwrap_or(Framing::UntilClose)
    };
    Ok(Some(Head {
        len,
        status,
        framing,
        close,
    }))
}

/// Reads a request head at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// [`BadHead`] when no continuation of `bytes` can become one.
pub fn request_head(bytes: &[u8]) -> Result<Option<Head>, BadHead> {
    let Some((len, line, fields)) = split_head(bytes)? else {
        return Ok(None);
    };
    if !line.ends_with(b" HTTP/1.1") {
        return Err(BadHead);
    }
    let (framing, close) = scan_fields(fields)?;
    Ok(Some(Head {
        len,
        status: 0,
        framing: framing.unwrap_or(Framing::Length(0)),
        close,
    }))
}

/// A whole head: its length, its first line, and its other lines.
type SplitHead<'a> = (usize, &'a [u8], &'a [u8]);

fn split_head(bytes: &[u8]) -> Result<Option<SplitHead<'_>>, BadHead> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX {
            Err(BadHead)
        } else {
            Ok(None)
        };
    };
    let line = memchr::memchr(b'\r', &bytes[..end + 1]).ok_or(BadHead)?;
    Ok(Some((end + 4, &bytes[..line], &bytes[line..end])))
}

/// What [`framing`] finds in parsed fields, found in raw lines that each begin with a line end. Only names that matter are
/// looked at: the load side must cost less than what it measures.
fn scan_fields(mut lines: &[u8]) -> Result<(Option<Framing>, bool), BadHead> {
    let (mut found, mut close) = (None, false);
    while let Some(line) = lines.strip_prefix(b"\r\n") {
        let end = memchr::memchr(b'\r', line).unwrap_or(line.len());
        if matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            let colon = memchr::memchr(b':', &line[..end]).ok_or(BadHead)?;
            let field = httparse::Header {
                name: std::str::from_utf8(&line[..colon]).map_err(|_| BadHead)?,
                value: line[colon + 1..end].trim_ascii(),
            };
            let (framing, closes) = framing(&[field])?;
            found = framing.or(found);
            close |= closes;
        }
        lines = &line[end..];
    }
    Ok((found, close))
}

/// The framing the fields announce, if any, and whether they end the connection.
///
/// # Errors
/// [`BadHead`] for a length that is no number and for a transfer coding other than `chunked`.
pub fn framing(fields: &[httparse::Header<'_>]) -> Result<(Option<Framing>, bool), BadHead> {
    let (mut framing, mut close) = (None, false);
    for field in fields {
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let text = std::str::from_utf8(field.value).map_err(|_| BadHead)?;
                framing = Some(Framing::Length(text.parse().map_err(|_| BadHead)?));
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                if !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead);
                }
                framing = Some(Framing::Chunked);
            }
            10 if field.name.eq_ignore_ascii_case("connection") => {
                close |= field.value.eq_ignore_ascii_case(b"close");
            }
            _ => {}
        }
    }
    Ok((framing, close))
}

/// Where a [`ChunkScan`] stands in the chunked grammar (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the hexadecimal size.
    Size,
    /// After the size: an extension or the CR.
    Extension,
    /// In chunk data.
    Data,
    /// In the CR LF that follows chunk data.
    DataEnd,
    /// At the start of a trailer line, which may be the final empty one.
    TrailerStart,
    /// Inside a trailer line.
    Trailer,
    /// Behind the final empty line.
    Done,
}

/// A push scanner over a chunked body: finds the data and the end, changes nothing.
#[derive(Debug, Clone)]
pub struct ChunkScan {
    at: At,
    left: u64,
    digits: u8,
}

impl Default for ChunkScan {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkScan {
    /// A scanner at the start of a body.
    #[must_use]
    pub fn new() -> Self {
        Self {
            at: At::Size,
            left: 0,
            digits: 0,
        }
    }

    /// True once the final empty line has been seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Scans `bytes`, hands each run of chunk data to `data`, and returns how many bytes belong to this body.
    ///
    /// # Errors
    /// [`BadHead`] for a chunk size that is not one to fifteen hexadecimal digits, or data not followed by a line end.
    pub fn push(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadHead> {
        let mut at = 0;
        while at < bytes.len() && self.at != At::Done {
            let rest = &bytes[at..];
            match self.at {
                At::Data => {
                    let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                    data(&rest[..take]);
                    self.left -= take as u64;
                    at += take;
                    if self.left == 0 {
                        self.at = At::DataEnd;
                    }
                }
                At::Size => {
                    self.size_byte(rest[0])?;
                    at += 1;
                }
                At::Extension | At::DataEnd | At::TrailerStart | At::Trailer => at += self.line(rest)?,
                At::Done => {}
            }
        }
        Ok(at)
    }

    fn size_byte(&mut self, byte: u8) -> Result<(), BadHead> {
        match (char::from(byte).to_digit(16), byte) {
            (Some(digit), _) if self.digits < 15 => {
                self.left = self.left << 4 | u64::from(digit);
                self.digits += 1;
                Ok(())
            }
            (None, b';' | b'\r' | b' ') if self.digits > 0 => {
                self.at = At::Extension;
                Ok(())
            }
            _ => Err(BadHead),
        }
    }

    /// Consumes up to and including the next line feed, and decides what stands behind it.
    fn line(&mut self, rest: &[u8]) -> Result<usize, BadHead> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            if self.at == At::DataEnd && rest != b"\r" {
                return Err(BadHead);
            }
            if self.at == At::TrailerStart && rest != b"\r" {
                self.at = At::Trailer;
            }
            return Ok(rest.len());
        };
        let empty = rest[..end].is_empty() || &rest[..end] == b"\r";
        self.at = match self.at {
            At::Extension if self.left > 0 => At::Data,
            At::Extension | At::Trailer => At::TrailerStart,
            At::DataEnd if !empty => return Err(BadHead),
            At::DataEnd => At::Size,
            At::TrailerStart if empty => At::Done,
            At::TrailerStart => At::TrailerStart,
            other => other,
        };
        if self.at == At::Size {
            (self.left, self.digits) = (0, 0);
        }
        Ok(end + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"5;ext=1\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nx-trailer: 1\r\n\r\n";

    #[test]
    fn chunked_data_is_found_whatever_the_split() {
        for split in 0..=BODY.len() {
            let (mut scan, mut seen) = (ChunkScan::new(), Vec::new());
            for part in [&BODY[..split], &BODY[split..]] {
                let used = scan
                    .push(part, |data| seen.extend_from_slice(data))
                    .expect("well formed");
                assert_eq!(used, part.len(), "split at {split}");
            }
            assert!(scan.is_done(), "split at {split}");
            assert_eq!(seen, b"hello world", "split at {split}");
        }
    }

    #[test]
    fn chunked_scan_stops_at_the_end_of_its_body() {
        let mut two = BODY.to_vec();
        two.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        let mut scan = ChunkScan::new();
        assert_eq!(scan.push(&two, |_| {}), Ok(BODY.len()));
        assert!(scan.is_done());
    }

    #[test]
    fn chunked_scan_refuses_what_is_not_chunked() {
        for bad in [&b"\r\n"[..], b"xyz\r\n", b"1\r\nab\r\n", b"1234567890abcdef0\r\n"] {
            assert_eq!(ChunkScan::new().push(bad, |_| {}), Err(BadHead), "{bad:?}");
        }
    }

    #[test]
    fn heads_give_length_status_and_framing() {
        let text = b"HTTP/1.1 429 Too Many\r\nContent-Length: 12\r\nConnection: close\r\n\r\nrest";
        let head = response_head(text).expect("a head").expect("complete");
        assert_eq!(
            (head.len, head.status, head.framing, head.close),
            (text.len() - 4, 429, Framing::Length(12), true)
        );
        assert_eq!(response_head(&text[..20]), Ok(None));
        assert_eq!(response_head(b"HTTP/1.1 2x0 OK\r\n\r\n"), Err(BadHead));
        let bare = response_head(b"HTTP/1.1 200 OK\r\n\r\n")
            .expect("a head")
            .expect("complete");
        assert_eq!((bare.len, bare.framing, bare.close), (19, Framing::UntilClose, false));
        let request = request_head(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").expect("a head");
        assert_eq!(request.expect("complete").framing, Framing::Chunked);
    }
}
