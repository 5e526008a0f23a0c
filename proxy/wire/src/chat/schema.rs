//! JSON schemas of tools, as Claude's providers want them.
//!
//! Invariant: a schema that says its type is written byte for byte. Deliberately absent: validation of schemas.

use crate::chat::{Out, Raw};

/// Appends the schema of a tool's arguments: OpenAI lets it be absent or say nothing of its type, Anthropic and Bedrock
/// demand `"type":"object"`.
pub fn write_object_schema(schema: Option<&Raw<'_>>, out: &mut Out) {
    match schema {
        Some(schema) if names_type(schema) => out.raw(schema),
        Some(schema) => {
            let rest = schema.as_json().trim_start_matches('{').trim_start();
            out.token(if rest.starts_with('}') {
                "{\"type\":\"object\""
            } else {
                "{\"type\":\"object\","
            })
            .token(rest)
        }
        None => out.token("{\"type\":\"object\",\"properties\":{}}"),
    };
}

/// Whether there is nothing to add: there is a type, or it is no object at all.
fn names_type(schema: &Raw<'_>) -> bool {
    let mut reader = schema.reader();
    if reader.object("an object").is_err() {
        return true;
    }
    while let Ok(Some(key)) = reader.key() {
        if key == "type" {
            return true;
        }
        if reader.skip().is_err() {
            break;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(schema: Option<&str>) -> String {
        let mut out = Out::default();
        write_object_schema(schema.map(|text| Raw::parse(text).unwrap()).as_ref(), &mut out);
        String::from_utf8(out.buf).unwrap()
    }

    #[test]
    fn a_type_is_added_only_where_there_is_none() {
        assert_eq!(
            written(Some("{\"a\":1, \"type\":\"object\"}")),
            "{\"a\":1, \"type\":\"object\"}"
        );
        assert_eq!(written(Some("{}")), "{\"type\":\"object\"}");
        assert_eq!(
            written(Some("{ \"properties\":{\"type\":{}}}")),
            "{\"type\":\"object\",\"properties\":{\"type\":{}}}"
        );
        assert_eq!(written(None), "{\"type\":\"object\",\"properties\":{}}");
    }
}
