//! HTTP/1.1 as a server needs it: request heads, body framing, response heads.
//!
//! Framing is strict (RFC 9112, section 6): a request that could be read in two ways is an error with a name, because the
//! simulator is also the judge of what the proxy sends. Absent on purpose: HTTP/2, content codings, trailers' values.

use std::mem::MaybeUninit;

/// Longest request head accepted, in bytes.
pub const HEAD_BYTES_MAX: usize = 256 << 10;
/// Longest request body accepted, in bytes.
pub const BODY_BYTES_MAX: usize = 256 << 20;
/// Most header fields accepted in one head.
pub const HEADERS_MAX: usize = 128;

/// A header array as `httparse` fills it.
pub type HeaderSlots<'b> = [MaybeUninit<httparse::Header<'b>>; HEADERS_MAX];

/// One complete request, borrowed from the receive buffer.
#[derive(Debug)]
pub struct Request<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Request target, as sent.
    pub target: &'a str,
    /// Header fields in the order in which they came.
    pub headers: &'a [httparse::Header<'a>],
    /// The body with its transfer coding removed.
    pub body: &'a [u8],
    /// Bytes the head took on the wire.
    pub head_bytes: usize,
    /// The body came chunked.
    pub chunked: bool,
}

impl<'a> Request<'a> {
    /// The first header called `name`, as bytes.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name))
            .map(|h| h.value)
    }

    /// The first header called `name`, if it is UTF-8.
    #[must_use]
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The query, empty when there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Exactly this many bytes follow the head.
    Length(usize),
    /// Chunked transfer coding.
    Chunked,
}

/// What the head says about the connection and the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Bytes of the head, the empty line included.
    pub head_bytes: usize,
    /// How the body is delimited.
    pub body: Body,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The connection may serve another request.
    pub keep_alive: bool,
}

impl Framing {
    /// Bytes of head and body together, as far as the head says.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self.body {
            Body::Length(length) => self.head_bytes + length,
            Body::Chunked => self.head_bytes,
        }
    }
}

/// Reads the framing from a parsed head; the error names what RFC 9112 forbids.
///
/// # Errors
/// A short name of the violation, which the bill records.
pub fn framing(request: &httparse::Request<'_, '_>, head_bytes: usize) -> Result<Framing, &'static str> {
    let http10 = request.version == Some(0);
    let mut framing = Framing {
        head_bytes,
        body: Body::Length(0),
        expects_continue: false,
        keep_alive: !http10,
    };
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for header in &*request.headers {
        let name = header.name;
        // Comparing lengths first keeps this loop cheap: most headers match none of them.
        match name.len() {
            14 if name.eq_ignore_ascii_case("content-length") => {
                let digits = std::str::from_utf8(header.value)
                    .ok()
                    .filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
                let value: usize = digits.and_then(|v| v.parse().ok()).ok_or("bad_content_length")?;
                if length.replace(value).is_some() {
                    return Err("two_content_lengths");
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if !header.value.eq_ignore_ascii_case(b"chunked") || chunked || http10 {
                    return Err("bad_transfer_encoding");
                }
                chunked = true;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                if header.value.eq_ignore_ascii_case(b"close") {
                    framing.keep_alive = false;
                } else if header.value.eq_ignore_ascii_case(b"keep-alive") {
                    framing.keep_alive = true;
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                framing.expects_continue = header.value.eq_ignore_ascii_case(b"100-continue")
            }
            4 if name.eq_ignore_ascii_case("host") => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 && !http10 {
        return Err("not_exactly_one_host");
    }
    framing.body = match (length, chunked) {
        (Some(_), true) => return Err("content_length_and_transfer_encoding"),
        (Some(length), false) if length > BODY_BYTES_MAX => return Err("body_too_large"),
        (length, false) => Body::Length(length.unwrap_or(0)),
        (None, true) => Body::Chunked,
    };
    Ok(framing)
}

/// A chunked body being received: what is decoded so far and how far the coded bytes are read.
#[derive(Debug, Default)]
pub struct Chunked {
    /// Offset of the first byte not yet decoded, from the start of the request.
    pub at: usize,
    /// The decoded body.
    pub body: Vec<u8>,
}

impl Chunked {
    /// Decodes as much of `request` (from its first head byte) as has arrived. `Some(end)` once the last chunk and the trailer
    /// section are complete, where `end` is the offset after them.
    ///
    /// # Errors
    /// A short name of the violation.
    pub fn push(&mut self, request: &[u8]) -> Result<Option<usize>, &'static str> {
        loop {
            let rest = &request[self.at.min(request.len())..];
            let (line, size) = match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((line, size))) => (line, usize::try_from(size).unwrap_or(usize::MAX)),
                Ok(httparse::Status::Partial) if rest.len() < 4096 => return Ok(None),
                _ => return Err("bad_chunk_size"),
            };
            if size == 0 {
                return trailer_end(&rest[line..]).map(|end| end.map(|end| self.at + line + end));
            }
            if size > BODY_BYTES_MAX - self.body.len() {
                return Err("body_too_large");
            }
            if rest.len() < line + size + 2 {
                return Ok(None);
            }
            if &rest[line + size..line + size + 2] != b"\r\n" {
                return Err("bad_chunk_end");
            }
            self.body.extend_from_slice(&rest[line..line + size]);
            self.at += line + size + 2;
        }
    }
}

/// The length of the trailer section that starts `rest`, with its final empty line.
fn trailer_end(rest: &[u8]) -> Result<Option<usize>, &'static str> {
    if rest.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    if let Some(at) = memchr::memmem::find(rest, b"\r\n\r\n") {
        return Ok(Some(at + 4));
    }
    if rest.len() > HEAD_BYTES_MAX {
        Err("trailers_too_large")
    } else {
        Ok(None)
    }
}

/// The reason phrase of `status`; `Status` for a code without one.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Payload Too Large",
        422 => "Unprocessable Entity",
        424 => "Failed Dependency",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Overloaded",
        _ => "Status",
    }
}

/// Appends `value` in decimal.
pub fn decimal(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `seconds` since the epoch as an IMF-fixdate (RFC 9110, section 5.6.7).
pub fn http_date(out: &mut Vec<u8>, seconds: u64) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let clock = seconds % 86_400;
    let text = format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    );
    out.extend_from_slice(text.as_bytes());
}

/// Year, month (1 to 12) and day of the `days`-th day after 1970-01-01, in the proleptic Gregorian calendar.
#[must_use]
pub fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is the last day of the year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Framing, &'static str> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(head.as_bytes()).expect("a head");
        framing(&request, status.unwrap())
    }

    #[test]
    fn ambiguous_framing_is_named() {
        let both = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(parse(both), Err("content_length_and_transfer_encoding"));
        let two = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n";
        assert_eq!(parse(two), Err("two_content_lengths"));
        assert_eq!(
            parse("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\n"),
            Err("bad_content_length")
        );
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err("not_exactly_one_host"));
    }

    #[test]
    fn chunked_bodies_decode_at_every_split() {
        let wire = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nt: 1\r\n\r\nNEXT";
        for split in 0..wire.len() {
            let mut chunked = Chunked::default();
            let first = chunked.push(&wire[..split]).expect("a prefix is no error");
            let end = first.or(chunked.push(wire).expect("the whole is valid"));
            assert_eq!(
                (end, &chunked.body[..]),
                (Some(wire.len() - 4), &b"hello!"[..]),
                "split at {split}"
            );
            if first.is_some() {
                assert!(split >= wire.len() - 4);
            }
        }
    }

    #[test]
    fn dates_are_imf_fixdates() {
        let mut out = Vec::new();
        http_date(&mut out, 784_111_777);
        assert_eq!(out, b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(civil(19_782), (2024, 2, 29));
    }
}
