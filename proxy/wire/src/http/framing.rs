//! What the header fields say together: body framing, connection reuse and expectations (RFC 9112 §6 and §9.3).
//!
//! Invariants: Content-Length is one decimal number in one field, Transfer-Encoding is exactly `chunked` in one field, and
//! they never stand together. Deliberately absent: other transfer codings, which nothing here could decode.

use httparse::Header;

use super::field::Present;
use super::head::{HeadError, check_crlf};
use super::{Field, FieldId, Framing, Span, Version};
use crate::limits::HEADER_FIELDS_MAX;

/// What one pass over the fields found.
#[derive(Default)]
pub(super) struct Summary {
    length: Option<u64>,
    chunked: Option<()>,
    close: bool,
    persist: bool,
    /// The fields that there are, but for those without an identity.
    pub(super) present: Present,
    /// The Host field's value.
    pub(super) host: Option<Span>,
    pub(super) expect_continue: bool,
    pub(super) expect_other: bool,
    /// A `Connection` field names other fields.
    names_fields: bool,
    /// Options of all `Connection` fields.
    options: usize,
}

impl Summary {
    /// Whether the connection stays open (RFC 9112 §9.3).
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.persist)
    }

    /// Whether a `Connection` field names other fields.
    pub(super) fn names_fields(&self) -> bool {
        self.names_fields
    }

    /// Takes in a field whose value is `value`, at `span`.
    #[inline]
    pub(super) fn add(&mut self, id: FieldId, span: Span, value: &[u8]) -> Result<(), HeadError> {
        self.present.add(id);
        match id {
            FieldId::Host => once(&mut self.host, span, HeadError::HostRepeated)?,
            FieldId::ContentLength => once(&mut self.length, decimal(value)?, HeadError::LengthRepeated)?,
            FieldId::TransferEncoding if value.eq_ignore_ascii_case(b"chunked") => {
                once(&mut self.chunked, (), HeadError::CodingRepeated)?;
            }
            FieldId::TransferEncoding => return Err(HeadError::CodingUnknown),
            FieldId::Connection => connection(value, self)?,
            FieldId::Expect if value.eq_ignore_ascii_case(b"100-continue") => self.expect_continue = true,
            FieldId::Expect => self.expect_other = true,
            _ => {}
        }
        Ok(())
    }
}

/// Fills `fields` from what httparse found, and sums up what they say. All names and values are slices of `buf`, which holds
/// at least `head_bytes` bytes.
pub(super) fn collect(
    fields: &mut Vec<Field>,
    buf: &[u8],
    headers: &[Header<'_>],
    head_bytes: usize,
) -> Result<Summary, HeadError> {
    fields.clear();
    let origin = buf.as_ptr() as usize;
    let mut summary = Summary::default();
    check_crlf(buf, head_bytes)?;
    for (index, header) in headers.iter().enumerate() {
        let start = header.name.as_ptr() as usize - origin;
        let value = header.value.as_ptr() as usize - origin;
        let end = headers
            .get(index + 1)
            .map_or(head_bytes - 2, |next| next.name.as_ptr() as usize - origin);
        check_crlf(buf, end)?;
        let id = FieldId::of(header.name.as_bytes());
        let field = Field {
            line: Span::new(start, end),
            name: Span::new(start, start + header.name.len()),
            value: Span::new(value, value + header.value.len()),
            id,
            hop: id.is_hop_by_hop(),
        };
        fields.push(field);
        if id != FieldId::Other {
            summary.add(id, field.value, header.value)?;
        }
    }
    if summary.names_fields {
        mark_named(fields, buf);
    }
    Ok(summary)
}

/// The framing of a request's body (RFC 9112 §6.3).
pub(super) fn of_request(summary: &Summary, version: Version) -> Result<Framing, HeadError> {
    Ok(declared(summary, version)?.unwrap_or(Framing::Empty))
}

/// The framing of a response's body (RFC 9112 §6.3). What the fields say must be sound even where there is no body.
pub(super) fn of_response(
    summary: &Summary,
    version: Version,
    status: u16,
    to_head: bool,
) -> Result<Framing, HeadError> {
    let declared = declared(summary, version)?;
    if to_head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::Empty);
    }
    Ok(declared.unwrap_or(Framing::UntilClose))
}

fn declared(summary: &Summary, version: Version) -> Result<Option<Framing>, HeadError> {
    match (summary.length, summary.chunked.is_some()) {
        (Some(_), true) => Err(HeadError::LengthAndChunked),
        (None, true) if version == Version::Http10 => Err(HeadError::CodingInHttp10),
        (None, true) => Ok(Some(Framing::Chunked)),
        (Some(length), false) => Ok(Some(Framing::Length(length))),
        (None, false) => Ok(None),
    }
}

/// Sets what may stand only once.
fn once<T>(slot: &mut Option<T>, value: T, repeated: HeadError) -> Result<(), HeadError> {
    if slot.replace(value).is_some() {
        Err(repeated)
    } else {
        Ok(())
    }
}

/// A number of 1 to 19 digits and nothing else, which 64 bits hold.
fn decimal(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || value.len() > 19 {
        return Err(HeadError::LengthInvalid);
    }
    value.iter().try_fold(0, |number: u64, digit| match digit {
        b'0'..=b'9' => Ok(number * 10 + u64::from(digit - b'0')),
        _ => Err(HeadError::LengthInvalid),
    })
}

fn connection(value: &[u8], summary: &mut Summary) -> Result<(), HeadError> {
    // What nearly every client says.
    if value == b"keep-alive" && summary.options == 0 {
        summary.options = 1;
        summary.persist = true;
        return Ok(());
    }
    for option in options(value) {
        summary.options += 1;
        if summary.options > HEADER_FIELDS_MAX {
            return Err(HeadError::TooManyFields);
        }
        if option.eq_ignore_ascii_case(b"keep-alive") {
            summary.persist = true;
        } else if option.eq_ignore_ascii_case(b"close") {
            summary.close = true;
        } else if option.eq_ignore_ascii_case(b"host") || option.eq_ignore_ascii_case(b"content-length") {
            return Err(HeadError::ConnectionNamesFraming);
        } else {
            summary.names_fields = true;
        }
    }
    Ok(())
}

/// Marks the fields that `Connection` names as hop-by-hop. There are at most as many options as
/// fields, which bounds the product.
#[cold]
fn mark_named(fields: &mut [Field], buf: &[u8]) {
    for index in 0..fields.len() {
        if fields[index].id != FieldId::Connection {
            continue;
        }
        for option in options(fields[index].value.of(buf)) {
            for field in fields.iter_mut() {
                field.hop |= field.name.len() == option.len() && field.name.of(buf).eq_ignore_ascii_case(option);
            }
        }
    }
}

/// The elements of a comma-separated list that are not empty.
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}
