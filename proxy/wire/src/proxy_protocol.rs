//! Reads the PROXY protocol header, versions 1 and 2, that a TCP load balancer writes before a client's first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Invariants: the header is parsed from what has arrived so far, and "incomplete" is not an error; a byte that cannot be
//! part of a header is one at once. Deliberately absent: TLVs (skipped), and whom to trust (the caller knows the peer).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::{PROXY_V1_BYTES_MAX, PROXY_V2_BYTES_MAX};

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD_BYTES: usize = 16;

/// The client's address and the one that it connected to; `None` for the load balancer's own connections (`LOCAL`,
/// `UNKNOWN`) and for transports other than TCP.
pub type Addresses = Option<(SocketAddr, SocketAddr)>;

/// Why a header is refused; the connection should be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyError {
    /// The connection does not begin with a PROXY protocol header.
    Missing,
    /// A version 1 line is malformed or longer than [`PROXY_V1_BYTES_MAX`].
    Line,
    /// A version 2 header has an unknown version or command, or is too short for its addresses.
    Binary,
    /// A version 2 header is longer than [`PROXY_V2_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the connection does not begin with a PROXY protocol header",
            Self::Line => "the PROXY protocol line is malformed",
            Self::Binary => "the binary PROXY protocol header is malformed",
            Self::TooLong => "the PROXY protocol header is too long",
        })
    }
}

impl std::error::Error for ProxyError {}

/// Parses the header at the start of `buf`, which holds all that has arrived: the header's length in bytes, after which the
/// client's own bytes begin, and its addresses; `None` if more must come.
///
/// # Errors
/// See [`ProxyError`].
pub fn parse(buf: &[u8]) -> Result<Option<(usize, Addresses)>, ProxyError> {
    if begins(buf, V1_START) {
        return if buf.len() < V1_START.len() {
            Ok(None)
        } else {
            parse_line(buf)
        };
    }
    if begins(buf, V2_START) {
        return if buf.len() < V2_HEAD_BYTES {
            early_binary(buf)
        } else {
            parse_binary(buf)
        };
    }
    Err(ProxyError::Missing)
}

/// Whether `buf` begins with `start`, as far as it goes.
fn begins(buf: &[u8], start: &[u8]) -> bool {
    let length = buf.len().min(start.len());
    buf[..length] == start[..length]
}

/// `PROXY TCP4|TCP6 source destination source-port destination-port CRLF`, or `PROXY UNKNOWN ... CRLF` (§2.1).
fn parse_line(buf: &[u8]) -> Result<Option<(usize, Addresses)>, ProxyError> {
    let window = &buf[..buf.len().min(PROXY_V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == PROXY_V1_BYTES_MAX {
            Err(ProxyError::Line)
        } else {
            Ok(None)
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(ProxyError::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Line)?;
    let mut words = line.split(' ').skip(1);
    let v6 = match words.next() {
        Some("TCP4") => false,
        Some("TCP6") => true,
        Some("UNKNOWN") => {
            return Ok(Some((end + 1, None)));
        }
        _ => return Err(ProxyError::Line),
    };
    let mut word = || words.next().ok_or(ProxyError::Line);
    let (source, destination) = (address(word()?, v6)?, address(word()?, v6)?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(ProxyError::Line);
    }
    let addresses = (
        SocketAddr::new(source, source_port),
        SocketAddr::new(destination, destination_port),
    );
    Ok(Some((end + 1, Some(addresses))))
}

fn address(word: &str, v6: bool) -> Result<IpAddr, ProxyError> {
    let address: IpAddr = word.parse().map_err(|_| ProxyError::Line)?;
    if address.is_ipv6() == v6 {
        Ok(address)
    } else {
        Err(ProxyError::Line)
    }
}

/// A decimal port without sign or leading zero.
fn port(word: &str) -> Result<u16, ProxyError> {
    if !word.bytes().all(|byte| byte.is_ascii_digit()) || word.len() > 1 && word.starts_with('0') {
        return Err(ProxyError::Line);
    }
    word.parse().map_err(|_| ProxyError::Line)
}

/// What can be said of a version 2 header whose first 16 bytes have not all come.
fn early_binary(buf: &[u8]) -> Result<Option<(usize, Addresses)>, ProxyError> {
    match buf.get(V2_START.len()) {
        Some(0x20 | 0x21) | None => Ok(None),
        Some(_) => Err(ProxyError::Binary),
    }
}

/// Version and command, family and protocol, length, addresses, TLVs (§2.2).
fn parse_binary(buf: &[u8]) -> Result<Option<(usize, Addresses)>, ProxyError> {
    let local = match buf[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Binary),
    };
    let length = usize::from(u16::from_be_bytes([buf[14], buf[15]]));
    let consumed = V2_HEAD_BYTES + length;
    if consumed > PROXY_V2_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(block) = buf.get(V2_HEAD_BYTES..consumed) else {
        return Ok(None);
    };
    let addresses = match (local, buf[13]) {
        (true, _) => None,
        (false, 0x11) => {
            let [s0, s1, s2, s3, d0, d1, d2, d3, ports @ ..] = block.first_chunk::<12>().ok_or(ProxyError::Binary)?;
            let (source, destination) = (Ipv4Addr::new(*s0, *s1, *s2, *s3), Ipv4Addr::new(*d0, *d1, *d2, *d3));
            Some(pair(source.into(), destination.into(), *ports))
        }
        (false, 0x21) => {
            let (source, rest) = block.split_first_chunk::<16>().ok_or(ProxyError::Binary)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::Binary)?;
            let ports = rest.first_chunk::<4>().ok_or(ProxyError::Binary)?;
            Some(pair(
                Ipv6Addr::from(*source).into(),
                Ipv6Addr::from(*destination).into(),
                *ports,
            ))
        }
        // Unspecified, UDP and UNIX sockets: the header is sound, the addresses are of no use here.
        (false, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => None,
        _ => return Err(ProxyError::Binary),
    };
    Ok(Some((consumed, addresses)))
}

fn pair(source: IpAddr, destination: IpAddr, [s0, s1, d0, d1]: [u8; 4]) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::split_growing;

    #[track_caller]
    fn whole(input: &[u8]) -> Result<Option<(usize, Addresses)>, ProxyError> {
        let outcome = split_growing(input, || (), |(), buf| parse(buf).transpose());
        outcome.transpose()
    }

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut header = V2_START.to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&(block.len() as u16).to_be_bytes());
        header.extend_from_slice(block);
        header
    }

    fn addresses(input: &[u8]) -> Option<(String, String)> {
        let (consumed, addresses) = whole(input).unwrap().unwrap();
        assert_eq!(consumed, input.len() - b"GET".len());
        addresses.map(|(source, destination)| (source.to_string(), destination.to_string()))
    }

    #[test]
    fn lines_give_their_addresses() {
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(
            addresses(b"PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\nGET"),
            pair("1.2.3.4:0", "5.6.7.8:65535")
        );
        assert_eq!(
            addresses(b"PROXY TCP6 ::1 2001:db8::1 1 443\r\nGET"),
            pair("[::1]:1", "[2001:db8::1]:443")
        );
        assert_eq!(addresses(b"PROXY UNKNOWN\r\nGET"), None);
        assert_eq!(addresses(b"PROXY UNKNOWN ffff::1 what ever 1\r\nGET"), None);
    }

    #[test]
    fn binary_headers_give_their_addresses_and_skip_extensions() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187, 0x03, 0, 1, 9];
        let expected = Some(("1.2.3.4:80".to_owned(), "5.6.7.8:443".to_owned()));
        assert_eq!(
            addresses(&[binary(0x21, 0x11, &v4).as_slice(), b"GET"].concat()),
            expected
        );
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        let expected = Some(("[::1]:3".to_owned(), "[::2]:4".to_owned()));
        assert_eq!(
            addresses(&[binary(0x21, 0x21, &v6).as_slice(), b"GET"].concat()),
            expected
        );
        assert_eq!(addresses(&[binary(0x20, 0x00, &[]).as_slice(), b"GET"].concat()), None);
        assert_eq!(addresses(&[binary(0x20, 0x11, &v4).as_slice(), b"GET"].concat()), None);
        assert_eq!(
            addresses(&[binary(0x21, 0x31, &[0; 216]).as_slice(), b"GET"].concat()),
            None
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let long_line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; PROXY_V1_BYTES_MAX]].concat();
        let cases: &[(ProxyError, &[u8])] = &[
            (ProxyError::Missing, b"GET / HTTP/1.1\r\n"),
            (ProxyError::Missing, b"PROXX"),
            (ProxyError::Missing, b"\r\n\r\n\0\r\nQUIT\r"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n"),
            (ProxyError::Line, b"PROXY TCP4 ::1 ::1 1 2\r\n"),
            (ProxyError::Line, b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n"),
            (ProxyError::Line, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n"),
            (ProxyError::Line, b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n"),
            (ProxyError::Line, b"PROXY UNKNOWN \xff\r\n"),
            (ProxyError::Line, &long_line),
            (ProxyError::Binary, &binary(0x11, 0x11, &[0; 12])),
            (ProxyError::Binary, &binary(0x22, 0x11, &[0; 12])),
            (ProxyError::Binary, &binary(0x21, 0x13, &[0; 12])),
            (ProxyError::Binary, &binary(0x21, 0x11, &[0; 11])),
            (ProxyError::Binary, &binary(0x21, 0x21, &[0; 35])),
            (ProxyError::TooLong, &binary(0x21, 0x11, &[0; 4097])),
        ];
        for &(rule, input) in cases {
            let outcome = if input.len() < 300 { whole(input) } else { parse(input) };
            assert_eq!(outcome, Err(rule), "{:?}", String::from_utf8_lossy(input));
        }
    }
}
