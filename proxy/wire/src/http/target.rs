//! Splits a request target into path, query and authority, and checks hosts (RFC 9112 §3.2, RFC 3986 §3.2).
//!
//! Invariants: an absolute URI's authority wins over the Host field, which must be sound all the same; HTTP/1.1 has exactly one
//! Host. Deliberately absent: percent-decoding and dot segments (targets are compared and forwarded as they are).

use super::head::{HeadError, RequestHead};
use super::{Method, Span, Version};

/// Fills `path`, `query` and `authority` of a head whose `method`, `version` and `target` are set.
pub(super) fn split(head: &mut RequestHead, buf: &[u8], host: Option<Span>) -> Result<(), HeadError> {
    let target = head.target.of(buf);
    if target.iter().fold(false, |bad, &byte| {
        bad | (byte == b'#') | (byte >= 0x7f) | (byte <= b' ')
    }) {
        return Err(HeadError::TargetInvalid);
    }
    match host {
        Some(host) => check_host(host.of(buf))?,
        None if head.version == Version::Http11 => return Err(HeadError::HostMissing),
        None => {}
    }
    head.authority = host.unwrap_or_default();
    let start = usize::from(head.target.start);
    let end = usize::from(head.target.end);
    let mut path_start = start;
    if target[0] != b'/' {
        if target == b"*" && head.method == Method::Options {
            (head.path, head.query) = (head.target, Span::new(end, end));
            return Ok(());
        }
        let scheme = scheme_bytes(target).ok_or(HeadError::TargetForm)?;
        let authority = target[scheme..]
            .split(|byte| matches!(byte, b'/' | b'?'))
            .next()
            .unwrap_or_default();
        check_host(authority)?;
        path_start = start + scheme + authority.len();
        head.authority = Span::new(start + scheme, path_start);
    }
    let rest = &buf[path_start..end];
    let path_end = path_start + memchr::memchr(b'?', rest).unwrap_or(rest.len());
    head.path = Span::new(path_start, path_end);
    head.query = Span::new((path_end + 1).min(end), end);
    Ok(())
}

/// Bytes of `http://` or `https://` at the start.
fn scheme_bytes(target: &[u8]) -> Option<usize> {
    [b"http://".as_slice(), b"https://"]
        .into_iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(<[u8]>::len)
}

/// Checks `host [":" port]`: a registered name or IPv4 address, or an IPv6 address in brackets. User information is refused
/// (RFC 9110 §4.2.4), and so is the comma, which elsewhere separates two values.
fn check_host(host: &[u8]) -> Result<(), HeadError> {
    let (sound, port) = match host {
        [b'[', rest @ ..] => {
            let Some(close) = memchr::memchr(b']', rest) else {
                return Err(HeadError::HostInvalid);
            };
            let sound = close >= 2
                && rest[..close]
                    .iter()
                    .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
            (sound, &rest[close + 1..])
        }
        _ => {
            let name = host
                .iter()
                .position(|&byte| !HOST_BYTES[usize::from(byte)])
                .unwrap_or(host.len());
            (name > 0, &host[name..])
        }
    };
    let port_sound = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if sound && port_sound {
        Ok(())
    } else {
        Err(HeadError::HostInvalid)
    }
}

/// Bytes of a registered name (RFC 3986 §3.2.2), the comma excepted.
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let letter = byte as u8;
        table[byte] = letter.is_ascii_alphanumeric()
            || matches!(
                letter,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
            );
        byte += 1;
    }
    table
};
