//! Fallbacks that a request brings along: `x-sluice-fallbacks: a/b, c/d`, or the body's member `fallbacks: ["a/b", "c/d"]`.
//!
//! Invariants: a request that brings none costs a look at its header fields; names mean what they mean for `model`; neither
//! form is forwarded. Deliberately absent: which of them is tried (`route.rs`).

use sluice_policy::snapshot::{Snapshot, Target};
use sluice_wire::chat::Reader;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::http::FieldId;
use sluice_wire::json::Range;
use sluice_wire::limits::{FALLBACKS_MAX, MODEL_BYTES_MAX};

use crate::buffer::Chunk;
use crate::intake::Scan;
use crate::scratch::Asked;

/// Largest list that is read, in bytes.
const LIST_BYTES_MAX: u64 = (FALLBACKS_MAX * (MODEL_BYTES_MAX + 16)) as u64;

/// The fallbacks that the request brought, the header's before the body's.
///
/// # Errors
/// `invalid_parameter`: too many, or not a list of names; `model_not_found`: one that means no provider.
pub(super) fn read(snapshot: &Snapshot, asked: &Asked, dialect: Dialect, scan: Scan) -> Result<Vec<Target>, ApiError> {
    let mut found = Vec::new();
    if asked.head.field(FieldId::Sluice).is_some()
        && let Some(list) = asked.head.named(&asked.head_bytes, b"x-sluice-fallbacks")
    {
        let list = std::str::from_utf8(list).map_err(|_| wrong("it is not UTF-8"))?;
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            add(&mut found, snapshot, dialect, name)?;
        }
    }
    if let (Scan::Json, Some(range)) = (scan, asked.keys.fallbacks()) {
        let text = text_of(&asked.body, range)?;
        let syntax = |_| wrong("it is not an array of strings");
        let mut reader = Reader::new(&text).map_err(syntax)?;
        reader.array("fallbacks").map_err(syntax)?;
        while reader.item().map_err(syntax)? {
            let name = reader.word().map_err(syntax)?;
            add(&mut found, snapshot, dialect, &name)?;
        }
    }
    Ok(found)
}

fn add(found: &mut Vec<Target>, snapshot: &Snapshot, dialect: Dialect, name: &str) -> Result<(), ApiError> {
    if found.len() == FALLBACKS_MAX {
        return Err(wrong("it has more than 7 names"));
    }
    let resolved = snapshot
        .resolve_for(name, dialect)
        .map_err(|error| error.with_param("fallbacks"))?;
    found.push(Target {
        provider: resolved.provider,
        model: resolved.model.into(),
    });
    Ok(())
}

fn text_of(body: &[Chunk], range: Range) -> Result<Vec<u8>, ApiError> {
    if range.end - range.start > LIST_BYTES_MAX {
        return Err(wrong("it is too long"));
    }
    let mut text = Vec::new();
    let mut offset = 0;
    for chunk in body {
        let within = |at: u64| (at.clamp(offset, offset + chunk.len() as u64) - offset) as usize;
        text.extend_from_slice(&chunk[within(range.start)..within(range.end)]);
        offset += chunk.len() as u64;
    }
    Ok(text)
}

fn wrong(why: &str) -> ApiError {
    let message = format!("the list of fallbacks cannot be read: {why}; write up to 7 names of models");
    ApiError::new(Code::InvalidParameter, message).with_param("fallbacks")
}
