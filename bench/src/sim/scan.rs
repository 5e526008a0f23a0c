//! Finds the few request fields that decide an answer, without parsing the JSON around them.
//!
//! One forward pass over the top-level keys; strings are skipped with `memchr`, nested values by counting brackets. Field values
//! are spans of the request. What is absent on purpose: validation. A request that is not an object simply has no fields, and the
//! endpoint answers what the provider would.

use std::borrow::Cow;

/// The fields of a request body that the simulator acts on; everything else in the body is ignored.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    /// The body was one JSON object as far as the scan can tell.
    pub object: bool,
    /// `model`, unescaped.
    pub model: Option<Cow<'a, str>>,
    /// `stream` is `true`.
    pub stream: bool,
    /// `stream_options.include_usage` is `true`.
    pub include_usage: bool,
    /// The smallest of the token limits given, under any of their names.
    pub max_tokens: Option<u32>,
    /// `tools` or `toolConfig`, raw JSON, when given and not empty.
    pub tools: Option<&'a [u8]>,
    /// `tool_choice` demands a call (`required`, `any`, or a named tool).
    pub must_call: bool,
    /// `n`, the number of choices; 1 by default, at most 16.
    pub n: u32,
    /// `input` of embeddings, moderations and responses, raw JSON.
    pub input: Option<&'a [u8]>,
    /// `encoding_format` is `base64`.
    pub base64: bool,
    /// `dimensions` of an embedding.
    pub dimensions: Option<u32>,
    /// `messages`, raw JSON.
    pub messages: Option<&'a [u8]>,
    /// `thinking` is enabled or adaptive (Anthropic).
    pub thinking: bool,
}

/// Scans `body`.
#[must_use]
pub fn fields(body: &[u8]) -> Fields<'_> {
    let mut found = Fields {
        n: 1,
        ..Fields::default()
    };
    found.object = top_level(body, |key, value| take(&mut found, key, value)).is_some();
    found
}

fn take<'a>(found: &mut Fields<'a>, key: &[u8], value: &'a [u8]) {
    let has = |needle: &[u8]| memchr::memmem::find(value, needle).is_some();
    match key {
        b"model" => found.model = string(value),
        b"stream" => found.stream = value == b"true",
        b"stream_options" => {
            found.include_usage = after(value, b"\"include_usage\"").is_some_and(|v| v.starts_with(b"true"))
        }
        b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => limit(found, number(value)),
        b"inferenceConfig" => limit(found, after(value, b"\"maxTokens\"").and_then(number)),
        b"tools" if value.len() > 2 => found.tools = Some(value),
        b"toolConfig" => {
            found.tools = Some(value);
            found.must_call |= after(value, b"\"toolChoice\"")
                .is_some_and(|v| !v.starts_with(b"{\"auto\"") && !v.starts_with(b"{ \"auto\""));
        }
        b"tool_choice" => {
            found.must_call = has(b"\"required\"") || has(b"\"any\"") || has(b"\"function\"") || has(b"\"tool\"");
        }
        b"n" => found.n = number(value).unwrap_or(1).clamp(1, 16),
        b"input" => found.input = Some(value),
        b"encoding_format" => found.base64 = value == b"\"base64\"",
        b"dimensions" => found.dimensions = number(value),
        b"messages" => found.messages = Some(value),
        b"thinking" => found.thinking = has(b"\"enabled\"") || has(b"\"adaptive\""),
        _ => {}
    }
}

fn limit(found: &mut Fields<'_>, value: Option<u32>) {
    if let Some(value) = value {
        found.max_tokens = Some(found.max_tokens.map_or(value, |held| held.min(value)));
    }
}

/// What follows `key` and its colon inside `value`, wherever the key stands.
fn after<'a>(value: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = memchr::memmem::find(value, key)? + key.len();
    let colon = skip_space(value, at);
    (value.get(colon) == Some(&b':')).then(|| &value[skip_space(value, colon + 1)..])
}

fn number(value: &[u8]) -> Option<u32> {
    let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

/// The string that `value` spells, borrowed unless it holds an escape.
#[must_use]
pub fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_some() {
        return serde_json::from_slice::<String>(value).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// Calls `each(key, value)` for every member of the object that `body` is; keys as written, without quotes. `None` when the scan
/// meets something that cannot be an object.
pub fn top_level<'a>(body: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8])) -> Option<()> {
    let mut at = skip_space(body, 0);
    if body.get(at) != Some(&b'{') {
        return None;
    }
    at = skip_space(body, at + 1);
    if body.get(at) == Some(&b'}') {
        return Some(());
    }
    loop {
        if body.get(at) != Some(&b'"') {
            return None;
        }
        let key_end = string_end(body, at)?;
        let key = &body[at + 1..key_end - 1];
        at = skip_space(body, key_end);
        if body.get(at) != Some(&b':') {
            return None;
        }
        at = skip_space(body, at + 1);
        let end = value_end(body, at)?;
        each(key, &body[at..end]);
        at = skip_space(body, end);
        match body.get(at)? {
            b',' => at = skip_space(body, at + 1),
            b'}' => return Some(()),
            _ => return None,
        }
    }
}

fn skip_space(body: &[u8], mut at: usize) -> usize {
    while matches!(body.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The index after the closing quote of the string that opens at `at`.
fn string_end(body: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', body.get(at..)?)?;
        if body[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn value_end(body: &[u8], at: usize) -> Option<usize> {
    match body.get(at)? {
        b'"' => string_end(body, at),
        b'{' | b'[' => {
            let mut depth = 0u32;
            let mut at = at;
            loop {
                match body.get(at)? {
                    b'"' => {
                        at = string_end(body, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let rest = &body[at..];
            let len = rest
                .iter()
                .position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'));
            Some(at + len.filter(|len| *len > 0)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_top_level_fields_and_ignores_nested_ones() {
        let body = br#" {"messages":[{"role":"user","content":"\"model\": \"no\" }]"}],"stream" : true,
            "stream_options":{"include_usage": true},"model":"gpt-4o","max_tokens":9,"max_completion_tokens":7,"tools":[{"a":1}],"n":2} "#;
        let found = fields(body);
        assert!(found.object && found.stream && found.include_usage);
        assert_eq!(found.model.as_deref(), Some("gpt-4o"));
        assert_eq!(found.max_tokens, Some(7));
        assert_eq!(found.tools, Some(&br#"[{"a":1}]"#[..]));
        assert_eq!(found.n, 2);
        assert!(!found.must_call);
    }

    #[test]
    fn escaped_model_names_are_unescaped() {
        assert_eq!(fields(br#"{"model":"a\/b\u0041"}"#).model.as_deref(), Some("a/bA"));
    }

    #[test]
    fn truncated_bodies_yield_no_object_and_no_panic() {
        let body = br#"{"model":"gpt","a":{"b":[1,2,"x\"y"]},"stream":true}"#;
        assert!(fields(body).object);
        for end in 0..body.len() {
            assert!(!fields(&body[..end]).object, "prefix of {end} bytes");
        }
    }

    #[test]
    fn bedrock_limits_are_seen() {
        assert_eq!(fields(br#"{"inferenceConfig":{"maxTokens": 12}}"#).max_tokens, Some(12));
    }
}
