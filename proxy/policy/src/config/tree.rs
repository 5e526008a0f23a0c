//! YAML as a tree whose every node knows its line and column.
//!
//! Invariants: depth, size, aliases and nodes are bounded by `limits.rs` and the parser's budget; repeated keys are kept, so
//! that they can be reported with both positions. Deliberately absent: any knowledge of what the keys mean.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Spanned, UserMessageFormatter};
use sluice_wire::limits;

use super::check::Mistakes;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    pub const START: Position = Position { line: 1, column: 1 };

    fn from_location(location: serde_saphyr::Location) -> Self {
        let at_least_one = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        Self {
            line: at_least_one(location.line()),
            column: at_least_one(location.column()),
        }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    position: Position,
    pub value: Value,
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub position: Position,
    pub value: Node,
}

/// What YAML's core schema makes of a text.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One step from a node to a node within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl Node {
    pub fn position(&self) -> Position {
        self.position
    }

    /// The position of what `path` leads to, or of the last step that exists; a mapping's entry is where its key is, a
    /// scalar where it begins itself.
    pub fn find(&self, path: &[Step]) -> Position {
        let (mut node, mut position) = (self, self.position);
        for step in path {
            match (step, &node.value) {
                (Step::Key(key), Value::Mapping(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else {
                        break;
                    };
                    node = &entry.value;
                    position = match node.value {
                        Value::List(_) | Value::Mapping(_) | Value::Null => entry.position,
                        _ => node.position,
                    };
                }
                (Step::Index(index), Value::List(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    node = item;
                    position = item.position;
                }
                _ => break,
            }
        }
        position
    }

    /// The position of the key that `path` ends with, even if its value has one of its own.
    pub fn find_key(&self, path: &[Step]) -> Position {
        let Some((Step::Key(last), parents)) = path.split_last() else {
            return self.find(path);
        };
        let mut node = self;
        for step in parents {
            node = match (step, &node.value) {
                (Step::Key(key), Value::Mapping(entries)) => match entries.iter().find(|entry| entry.key == *key) {
                    Some(entry) => &entry.value,
                    None => return self.find(path),
                },
                (Step::Index(index), Value::List(items)) if *index < items.len() => &items[*index],
                _ => return self.find(path),
            };
        }
        match &node.value {
            Value::Mapping(entries) => entries
                .iter()
                .find(|entry| entry.key == *last)
                .map(|entry| entry.position),
            _ => None,
        }
        .unwrap_or_else(|| self.find(path))
    }
}

/// Reads one YAML document; on failure the mistake is added and nothing returned. An empty document is an empty mapping.
pub(crate) fn parse(text: &str, mistakes: &mut Mistakes) -> Option<Node> {
    if text.len() > limits::CONFIG_BYTES_MAX {
        let message = format!("the file is larger than {} bytes", limits::CONFIG_BYTES_MAX);
        mistakes.add(Position::START, String::new(), message);
        return None;
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::CONFIG_DEPTH_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Option<Node>>(text, options) {
        Ok(Some(node)) => Some(node),
        Ok(None) => Some(Node {
            position: Position::START,
            value: Value::Mapping(Vec::new()),
        }),
        Err(error) => {
            let position = error.location().map_or(Position::START, Position::from_location);
            mistakes.add(position, String::new(), format!("not valid YAML: {}", describe(&error)));
            None
        }
    }
}

/// The parser's message without the position that it ends with; ours stands before it.
fn describe(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().render_with_formatter(&UserMessageFormatter);
    let first_line = text.lines().next().unwrap_or_default();
    first_line.split(" at line ").next().unwrap_or_default().to_owned()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            position: Position::from_location(spanned.referenced),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // What JSON has no number for (infinity) is no number that any key accepts.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| Value::Text(value.to_string()), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Node>()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut mapping = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let position = Position::from_location(key.referenced);
            mapping.push(Entry {
                key: key.value,
                position,
                value: entries.next_value()?,
            });
        }
        Ok(Value::Mapping(mapping))
    }
}
