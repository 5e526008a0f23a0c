//! A value inside a JSON document, by its place (JSON pointer, RFC 6901).
//!
//! Invariants: one pass, nothing is copied but a string with escapes; a place that stands twice is an error, because two readers could
//! take different ones. Deliberately absent: a tree.

use std::borrow::Cow;

use crate::chat::{JsonError, Kind, Reader};

/// The value at `pointer` (such as `/metadata/variant`): the characters of a string, the JSON text of anything else. `None` if
/// there is none, or it is null.
///
/// # Errors
/// When the document is no JSON, or a key on the way stands twice.
pub fn pointed<'a>(document: &'a [u8], pointer: &str) -> Result<Option<Cow<'a, str>>, JsonError> {
    let mut reader = Reader::new(document)?;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let found = match reader.kind()? {
            Kind::Object => member(&mut reader, &step)?,
            Kind::Array => element(&mut reader, &step)?,
            _ => None,
        };
        match found {
            Some(inner) => reader = inner,
            None => return Ok(None),
        }
    }
    Ok(match reader.kind()? {
        Kind::Null => None,
        Kind::String => Some(reader.word()?),
        _ => Some(reader.raw()?.0),
    })
}

fn member<'a>(reader: &mut Reader<'a>, name: &str) -> Result<Option<Reader<'a>>, JsonError> {
    let mut found = None;
    reader.object("an object")?;
    while let Some(key) = reader.key()? {
        if key == name {
            if found.is_some() {
                return Err(JsonError::Expected("each key once"));
            }
            found = Some(reader.clone());
        }
        reader.skip()?;
    }
    Ok(found)
}

fn element<'a>(reader: &mut Reader<'a>, index: &str) -> Result<Option<Reader<'a>>, JsonError> {
    let Ok(index) = index.parse::<usize>() else {
        return Ok(None);
    };
    reader.array("an array")?;
    let mut at = 0;
    while reader.item()? {
        if at == index {
            return Ok(Some(reader.clone()));
        }
        reader.skip()?;
        at += 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_and_what_is_ambiguous_is_refused() {
        let document = br#"{"a":{"b":["x",{"c/d":"v\u0041","n":12}],"z":null},"twice":1,"twice":2}"#;
        for (pointer, value) in [
            ("/a/b/0", Some("x")),
            ("/a/b/1/c~1d", Some("vA")),
            ("/a/b/1/n", Some("12")),
            ("/a/b/1", Some(r#"{"c/d":"v\u0041","n":12}"#)),
            ("/a/b/2", None),
            ("/a/z", None),
            ("/a/b/0/x", None),
            ("/b", None),
        ] {
            assert_eq!(pointed(document, pointer).unwrap().as_deref(), value, "{pointer}");
        }
        assert!(pointed(document, "/twice").is_err());
        assert!(pointed(b"{", "/a").is_err());
    }
}
