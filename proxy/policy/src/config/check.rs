//! Holds a YAML tree against the schema and says everything that does not fit, each with its position.
//!
//! Invariants: what passes here deserializes; what is wrong is named with its key, what was expected and, for a key or a word
//! from a closed set, the closest valid one. Deliberately absent: relations between keys (`meaning.rs`).

use serde_json::{Map, Value as Json};
use sluice_wire::limits;

use super::Mistake;
use super::tree::{Entry, Node, Position, Value};
use super::values::{KIND_KEYWORD, KINDS, Kind};

/// What has been found wrong so far.
pub(crate) struct Mistakes {
    file: String,
    found: Vec<Mistake>,
}

impl Mistakes {
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            found: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether something at, above or below `path` has been found wrong already.
    pub fn touch(&self, path: &str) -> bool {
        let within = |outer: &str, inner: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.found
            .iter()
            .any(|mistake| within(path, &mistake.path) || within(&mistake.path, path))
    }

    pub fn add(&mut self, position: Position, path: String, message: String) {
        if self.found.len() < limits::CONFIG_MISTAKES_MAX {
            let Position { line, column } = position;
            self.found.push(Mistake {
                file: self.file.clone(),
                line,
                column,
                path,
                message,
            });
        }
    }

    pub fn into_sorted(mut self) -> Vec<Mistake> {
        self.found.sort_by_key(|mistake| (mistake.line, mistake.column));
        self.found
    }
}

/// The tree as JSON, without what does not fit the schema.
pub(crate) fn check(root: &Node, schema: &Json, mistakes: &mut Mistakes) -> Json {
    let mut checker = Checker {
        definitions: &schema["$defs"],
        mistakes,
    };
    checker.node(root, schema, "", root.position()).unwrap_or(Json::Null)
}

/// The candidate closest to `word`, if it is close enough to have been meant.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word_lower = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word_lower, &candidate.to_ascii_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= 1 + candidate.len().max(word.len()) / 4 && *distance < candidate.len()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "X"?`, or nothing.
pub(crate) fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map_or_else(String::new, |candidate| format!("; did you mean \"{candidate}\"?"))
}

/// The path of `key` within `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

struct Checker<'a> {
    definitions: &'a Json,
    mistakes: &'a mut Mistakes,
}

impl<'a> Checker<'a> {
    /// `at` is where to point for a mistake about the node as a whole. `None`: it does not fit and has been reported.
    fn node(&mut self, node: &Node, schema: &'a Json, path: &str, at: Position) -> Option<Json> {
        let schema = self.select(node, schema);
        match (&node.value, type_of(schema)) {
            (Value::Mapping(entries), "object") => self.mapping(entries, schema, path, at),
            // `openai:` with nothing below it is a mapping in which everything is left out.
            (Value::Null, "object") => self.mapping(&[], schema, path, at),
            (Value::List(items), "array") => self.list(items, schema, path, at),
            (Value::Text(text), "string") => self.text(text, schema, path, node.position()),
            (Value::Number(number), "number" | "integer") => self.number(number, schema, path, node.position()),
            (Value::Bool(value), "boolean") => Some(Json::Bool(*value)),
            (value, _) => {
                let position = if matches!(value, Value::Null) {
                    at
                } else {
                    node.position()
                };
                let found = match value {
                    // Where a list or a mapping belongs, a text may be a secret in the wrong place: not repeated.
                    Value::Text(text) if !matches!(type_of(schema), "array" | "object") => format!("\"{text}\""),
                    value => found(value),
                };
                self.wrong(position, path, &expected(schema), &found)
            }
        }
    }

    /// Follows references; of several shapes, the one for this node's type.
    fn select(&self, node: &Node, schema: &'a Json) -> &'a Json {
        let mut schema = self.follow(schema);
        while let Some(shapes) = schema["anyOf"].as_array() {
            let shapes = || shapes.iter().map(|shape| self.follow(shape));
            let fits = |shape: &&Json| match type_of(shape) {
                "null" => false,
                "array" => matches!(node.value, Value::List(_)),
                "object" => matches!(node.value, Value::Mapping(_)),
                _ => !matches!(node.value, Value::List(_) | Value::Mapping(_)),
            };
            let Some(shape) = shapes()
                .find(fits)
                .or_else(|| shapes().find(|shape| type_of(shape) != "null"))
            else {
                return schema;
            };
            schema = shape;
        }
        schema
    }

    /// What a reference refers to.
    fn follow(&self, mut schema: &'a Json) -> &'a Json {
        while let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            schema = &self.definitions[name];
        }
        schema
    }

    fn mapping(&mut self, entries: &[Entry], schema: &'a Json, path: &str, at: Position) -> Option<Json> {
        let properties = schema["properties"].as_object();
        let open = schema["additionalProperties"]
            .as_object()
            .map(|_| &schema["additionalProperties"]);
        let mut out = Map::new();
        let mut whole = true;
        for (index, entry) in entries.iter().enumerate() {
            let path_entry = join(path, &entry.key);
            if let Some(first) = entries[..index].iter().find(|earlier| earlier.key == entry.key) {
                let place = if path.is_empty() {
                    String::new()
                } else {
                    format!(" in {path}")
                };
                let message = format!(
                    "key \"{}\" stands twice{place}, first in line {}",
                    entry.key, first.position.line
                );
                self.mistakes.add(entry.position, path_entry, message);
                continue;
            }
            let Some(schema_entry) = properties.and_then(|known| known.get(&entry.key)).or(open) else {
                self.unknown_key(entry, properties, path, path_entry);
                continue;
            };
            // Nothing after the colon: left out. A provider's name is a statement by itself.
            if open.is_none() && matches!(entry.value.value, Value::Null) {
                continue;
            }
            match self.node(&entry.value, schema_entry, &path_entry, entry.position) {
                Some(value) => drop(out.insert(entry.key.clone(), value)),
                None => whole = whole && open.is_none(),
            }
        }
        for required in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
        {
            let present = entries
                .iter()
                .any(|entry| entry.key == required && !matches!(entry.value.value, Value::Null));
            if !present {
                let description = properties
                    .and_then(|known| known[required]["description"].as_str())
                    .unwrap_or_default();
                let what = description.split([';', '.']).next().unwrap_or_default();
                let place = if path.is_empty() {
                    "the file".to_owned()
                } else {
                    path.to_owned()
                };
                let message = format!("key \"{required}\" is missing in {place}: {}", lower_first(what));
                self.mistakes.add(at, join(path, required), message);
            }
        }
        self.count(entries.len(), schema, ("minProperties", "maxProperties"), path, at)?;
        whole.then_some(Json::Object(out))
    }

    fn unknown_key(&mut self, entry: &Entry, properties: Option<&Map<String, Json>>, path: &str, path_entry: String) {
        let valid: Vec<&str> = properties
            .into_iter()
            .flat_map(|known| known.keys().map(String::as_str))
            .collect();
        let place = if path.is_empty() {
            String::new()
        } else {
            format!(" in {path}")
        };
        let hint = suggestion(&entry.key, valid.iter().copied());
        let end = if hint.is_empty() { "." } else { "" };
        let message = format!(
            "unknown key \"{}\"{place}{hint}{end} Valid keys: {}",
            entry.key,
            valid.join(", ")
        );
        self.mistakes.add(entry.position, path_entry, message);
    }

    fn list(&mut self, items: &[Node], schema: &'a Json, path: &str, at: Position) -> Option<Json> {
        let values: Vec<Option<Json>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.node(item, &schema["items"], &format!("{path}[{index}]"), item.position()))
            .collect();
        self.count(items.len(), schema, ("minItems", "maxItems"), path, at)?;
        // All or nothing: positions are found by index later.
        values.into_iter().collect::<Option<Vec<Json>>>().map(Json::Array)
    }

    fn count(&mut self, len: usize, schema: &Json, (min, max): (&str, &str), path: &str, at: Position) -> Option<()> {
        let len = len as u64;
        if schema[min].as_u64().is_some_and(|min| len < min) {
            return self.wrong(at, path, "at least one entry", "none").map(drop);
        }
        if let Some(max) = schema[max].as_u64().filter(|max| len > *max) {
            return self
                .wrong(at, path, &format!("at most {max} entries"), &len.to_string())
                .map(drop);
        }
        Some(())
    }

    fn text(&mut self, text: &str, schema: &Json, path: &str, position: Position) -> Option<Json> {
        let words = words(schema);
        if !words.is_empty() && !words.contains(&text) {
            let expected = format!("one of {}", words.join(", "));
            let message = format!(
                "{path}: expected {expected}, found \"{text}\"{}",
                suggestion(text, words)
            );
            self.mistakes.add(position, path.to_owned(), message);
            return None;
        }
        let len = text.chars().count() as u64;
        let (min, max) = (
            schema["minLength"].as_u64().unwrap_or(0),
            schema["maxLength"].as_u64().unwrap_or(u64::MAX),
        );
        if !(min..=max).contains(&len) {
            return self.wrong(position, path, &format!("{min} to {max} characters"), &len.to_string());
        }
        if let Some(kind) = kind_of(schema)
            && let Err(reason) = (kind.check)(text)
        {
            let message = format!("{path}: expected {}, found \"{text}\": {reason}", kind.expected);
            self.mistakes.add(position, path.to_owned(), message);
            return None;
        }
        Some(Json::String(text.to_owned()))
    }

    fn number(&mut self, number: &serde_json::Number, schema: &Json, path: &str, at: Position) -> Option<Json> {
        let value = number.as_f64().unwrap_or(f64::NAN);
        let whole = type_of(schema) != "integer" || number.is_u64() || number.is_i64();
        let min = schema["minimum"].as_f64().unwrap_or(f64::MIN);
        let max = schema["maximum"].as_f64().unwrap_or(f64::MAX);
        if whole && (min..=max).contains(&value) {
            return Some(Json::Number(number.clone()));
        }
        self.wrong(at, path, &expected(schema), &number.to_string())
    }

    fn wrong(&mut self, position: Position, path: &str, expected: &str, found: &str) -> Option<Json> {
        let place = if path.is_empty() {
            String::new()
        } else {
            format!("{path}: ")
        };
        self.mistakes.add(
            position,
            path.to_owned(),
            format!("{place}expected {expected}, found {found}"),
        );
        None
    }
}

/// The one type of a schema that is not null; empty if there is none.
fn type_of(schema: &Json) -> &str {
    match &schema["type"] {
        Json::String(name) => name,
        Json::Array(names) => names
            .iter()
            .filter_map(Json::as_str)
            .find(|name| *name != "null")
            .unwrap_or_default(),
        // An enumeration of documented words.
        _ if schema["oneOf"].is_array() => "string",
        // An optional enumeration or structure; its reference is followed when it is selected.
        _ => "",
    }
}

fn kind_of(schema: &Json) -> Option<&'static Kind> {
    let name = schema[KIND_KEYWORD].as_str()?;
    KINDS.iter().find(|kind| kind.name == name)
}

/// The words of a closed set, or nothing.
fn words(schema: &Json) -> Vec<&str> {
    let listed = schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
    let documented = schema["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|word| word["const"].as_str());
    listed.chain(documented).collect()
}

/// What to write, in words.
fn expected(schema: &Json) -> String {
    let number = |noun: &str| match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(min), Some(max)) => format!("{noun} from {min} to {max}"),
        _ => noun.to_owned(),
    };
    match type_of(schema) {
        "object" => "a mapping (key: value)".to_owned(),
        "array" => "a list".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => number("a whole number"),
        "number" => number("a number"),
        _ => match (kind_of(schema), words(schema)) {
            (Some(kind), _) => kind.expected.to_owned(),
            (None, words) if !words.is_empty() => format!("one of {}", words.join(", ")),
            _ => "a string".to_owned(),
        },
    }
}

/// What stands there, in words.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::Text(_) => "a string".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
