//! What a part's head and the body's Content-Type say: parameters in quoted or plain form (RFC 9110 §5.6.6, RFC 7578 §4.2).
//!
//! Invariants: a parameter that two parsers could read differently (twice, escaped, extended) is refused where it matters.

use super::MultipartError;
use crate::limits::MULTIPART_BOUNDARY_BYTES_MAX;

/// Which field a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    No,
    Model,
    Stream,
    Count,
}

impl Wanted {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::No => "",
            Self::Model => "model",
            Self::Stream => "stream",
            Self::Count => "n",
        }
    }
}

/// The boundary of a `multipart/form-data` Content-Type (RFC 2046 §5.1.1).
pub(super) fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    let (kind, rest) = content_type.split_at(memchr::memchr(b';', content_type)?);
    if !kind.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data") {
        return None;
    }
    let mut boundary = None;
    for parameter in Parameters(rest) {
        let (name, value) = parameter?;
        if name.eq_ignore_ascii_case(b"boundary") && boundary.replace(value).is_some() {
            return None;
        }
    }
    let boundary = boundary?;
    let sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(byte);
    let bounded = (1..=MULTIPART_BOUNDARY_BYTES_MAX).contains(&boundary.len());
    (bounded && boundary.iter().all(sound) && !boundary.ends_with(b" ")).then_some(boundary)
}

/// Which field the head of a part (its final empty line included) names.
pub(super) fn wanted(head: &[u8]) -> Result<Wanted, MultipartError> {
    let mut disposition = None;
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].strip_suffix(b"\r").ok_or(MultipartError::PartHead)?;
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        // A folded line begins with white space, which no name does.
        let colon = memchr::memchr(b':', line).ok_or(MultipartError::PartHead)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let sound = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
        if !sound || value.iter().any(|&byte| byte < b' ' && byte != b'\t') {
            return Err(MultipartError::PartHead);
        }
        if name.eq_ignore_ascii_case(b"content-disposition") && disposition.replace(value).is_some() {
            return Err(MultipartError::PartHead);
        }
    }
    field(disposition.ok_or(MultipartError::PartHead)?)
}

fn field(disposition: &[u8]) -> Result<Wanted, MultipartError> {
    let kind_end = memchr::memchr(b';', disposition).ok_or(MultipartError::PartHead)?;
    let (kind, rest) = disposition.split_at(kind_end);
    if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
        return Err(MultipartError::PartHead);
    }
    let (mut field, mut is_file) = (None, false);
    for parameter in Parameters(rest) {
        let (name, value) = parameter.ok_or(MultipartError::PartHead)?;
        if name.eq_ignore_ascii_case(b"name") {
            // `name="mo\del"` is `model` to some parsers and not to others.
            if value.contains(&b'\\') || field.replace(value).is_some() {
                return Err(MultipartError::PartHead);
            }
        } else if name.eq_ignore_ascii_case(b"name*") {
            return Err(MultipartError::PartHead);
        } else if name.eq_ignore_ascii_case(b"filename") || name.eq_ignore_ascii_case(b"filename*") {
            is_file = true;
        }
    }
    let wanted = match field.ok_or(MultipartError::PartHead)? {
        b"model" => Wanted::Model,
        b"stream" => Wanted::Stream,
        b"n" => Wanted::Count,
        _ => Wanted::No,
    };
    if is_file && wanted != Wanted::No {
        return Err(MultipartError::Value(wanted.name()));
    }
    Ok(wanted)
}

/// `; name=value` and `; name="value"`, one after the other. A quoted value is given as it stands between its quotes. `None`
/// for something else, after which nothing more comes.
struct Parameters<'a>(&'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.0.trim_ascii_start();
        while let [b';', after @ ..] = rest {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return None;
        }
        // A parameter is separated from the one before by a semicolon.
        let separated = self.0.trim_ascii_start().starts_with(b";");
        self.0 = b"";
        let Some(equals) = memchr::memchr(b'=', rest).filter(|_| separated) else {
            return Some(None);
        };
        let (name, rest) = (&rest[..equals], &rest[equals + 1..]);
        if name.is_empty()
            || !name
                .iter()
                .all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*'))
        {
            return Some(None);
        }
        let (value, after) = match rest {
            [b'"', quoted @ ..] => {
                let mut end = 0;
                loop {
                    match quoted.get(end) {
                        Some(b'"') => break,
                        Some(b'\\') => end += 2,
                        Some(_) => end += 1,
                        None => return Some(None),
                    }
                }
                (&quoted[..end], &quoted[end + 1..])
            }
            _ => {
                let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
                (rest[..end].trim_ascii(), &rest[end..])
            }
        };
        self.0 = after;
        Some(Some((name, value)))
    }
}
