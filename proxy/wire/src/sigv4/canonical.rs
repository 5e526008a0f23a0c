//! The canonical request of Signature Version 4.
//!
//! Invariants: every function appends to a buffer of the caller and fails on nothing; the output is at most three times
//! the input plus what [`super::Request`]'s slices repeat. Deliberately absent: the string to sign and the keys ([`super`]).

use std::cmp::Ordering;

use super::Request;

/// Compares two header names as the canonical order does: in lower case, byte by byte.
pub(super) fn compare_names(a: &str, b: &str) -> Ordering {
    a.bytes()
        .map(|byte| byte.to_ascii_lowercase())
        .cmp(b.bytes().map(|byte| byte.to_ascii_lowercase()))
}

/// Method, canonical path and canonical query, each with its line feed.
pub(super) fn put_request_line(request: &Request<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method.as_bytes());
    out.push(b'\n');
    put_path(request.path, out);
    out.push(b'\n');
    put_query(request.query, out);
    out.push(b'\n');
}

/// `name:value` lines; fields of one name that follow each other are joined by a comma.
pub(super) fn put_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, out: &mut Vec<u8>) {
    let mut last: Option<&str> = None;
    for (name, value) in headers {
        if last.is_some_and(|last| last.eq_ignore_ascii_case(name)) {
            out.pop();
            out.push(b',');
        } else {
            out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
            out.push(b':');
        }
        put_trimmed(value, out);
        out.push(b'\n');
        last = Some(name);
    }
}

/// The `SignedHeaders` list of names that are already in order.
pub(super) fn put_names<'a>(names: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
    let mut last: Option<&str> = None;
    for name in names {
        if last.is_some_and(|last| last.eq_ignore_ascii_case(name)) {
            continue;
        }
        if last.is_some() {
            out.push(b';');
        }
        out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        last = Some(name);
    }
}

/// Without blanks at the ends, and with runs of blanks inside made one.
fn put_trimmed(value: &[u8], out: &mut Vec<u8>) {
    let mut blank = false;
    for &byte in value.trim_ascii() {
        if byte == b' ' {
            blank = true;
            continue;
        }
        if std::mem::take(&mut blank) {
            out.push(b' ');
        }
        out.push(byte);
    }
}

/// Dot segments and empty segments are removed, and then each segment is encoded *again*: every service but S3 signs the
/// encoding of the path that is on the wire, so that `%3A` becomes `%253A`.
fn put_path(path: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                let parent = out[start..].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                out.truncate(start + parent);
            }
            _ => {
                out.push(b'/');
                segment.bytes().for_each(|byte| put_encoded(byte, out));
            }
        }
    }
    if out.len() == start || path.ends_with('/') {
        out.push(b'/');
    }
}

/// Parameters sorted by encoded name, then value. What is already encoded on the wire stays as it is.
fn put_query(query: &str, out: &mut Vec<u8>) {
    if query.is_empty() {
        return;
    }
    let encode = |text: &str| {
        let mut encoded = Vec::with_capacity(text.len());
        for byte in text.bytes() {
            if byte == b'%' {
                encoded.push(byte)
            } else {
                put_encoded(byte, &mut encoded)
            }
        }
        encoded
    };
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort();
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// One byte, percent-encoded unless RFC 3986 §2.3 calls it unreserved.
fn put_encoded(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
        _ => out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    }
}
