//! Changes to a body that is otherwise forwarded as it came: the model's name, the gateway's own member, the limit that a
//! budget sets, and the question what a stream has used.
//!
//! Invariants: a change is a range of the body, possibly empty, and what stands there instead; changes do not overlap; without
//! a reason there is none. Deliberately absent: bodies that are translated.

use sluice_policy::route::PlannedTarget;
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{string_bytes, write_string};
use sluice_wire::surface::{Endpoint, ModelField};

use crate::exchange::Context;

/// A change to a body.
pub struct Splice<'a> {
    /// The first byte that goes.
    pub start: u64,
    /// The byte behind the last one that goes.
    pub end: u64,
    with: With<'a>,
}

/// What stands in place of what went.
enum With<'a> {
    Nothing,
    /// A string of a form.
    Plain(&'a str),
    /// A string of JSON.
    Quoted(&'a str),
    /// A piece of JSON.
    Text(&'static str),
    /// A piece of JSON, a number, and another one.
    Number(&'static str, u64, &'static str),
}

impl Splice<'_> {
    /// Appends what stands in place of what went.
    pub fn write(&self, text: &mut Vec<u8>) {
        match self.with {
            With::Nothing => {}
            With::Plain(plain) => text.extend_from_slice(plain.as_bytes()),
            With::Quoted(plain) => write_string(plain, text),
            With::Text(json) => text.extend_from_slice(json.as_bytes()),
            With::Number(before, number, after) => {
                text.extend_from_slice(before.as_bytes());
                text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                text.extend_from_slice(after.as_bytes());
            }
        }
    }

    /// How many bytes [`Splice::write`] appends.
    pub fn written_bytes(&self) -> u64 {
        let bytes = match self.with {
            With::Nothing => 0,
            With::Plain(plain) => plain.len(),
            With::Quoted(plain) => string_bytes(plain),
            With::Text(json) => json.len(),
            With::Number(before, number, after) => {
                before.len() + itoa::Buffer::new().format(number).len() + after.len()
            }
        };
        bytes as u64
    }
}

/// Where the body must change for `model` to be asked for; `None` if it says so already.
pub fn model_of<'a>(context: &Context<'_>, model: &'a str) -> Option<Splice<'a>> {
    if matches!(context.endpoint.model_field(), ModelField::Absent | ModelField::Path) {
        return None;
    }
    let (located, with) = match &context.asked.form {
        Some(form) => (form.model()?, With::Plain(model)),
        None => (context.asked.keys.model()?, With::Quoted(model)),
    };
    let differs = located.as_str() != model;
    differs.then_some(Splice {
        start: located.start,
        end: located.end,
        with,
    })
}

/// The member `fallbacks`, which is for the gateway alone.
pub fn cut_of(context: &Context<'_>) -> Option<Splice<'static>> {
    if context.asked.form.is_some() {
        return None;
    }
    context.asked.keys.fallbacks_member().map(|member| Splice {
        start: member.start,
        end: member.end,
        with: With::Nothing,
    })
}

/// The output limit that a budget sets, in place of the client's, or where there was none.
pub fn clamp_of(context: &Context<'_>, target: &PlannedTarget<'_>, clamp: Option<u64>) -> Option<Splice<'static>> {
    let most = clamp?;
    let keys = &context.asked.keys;
    let said = [
        (keys.max_completion_tokens_range(), keys.max_completion_tokens()),
        (keys.max_tokens_range(), keys.max_tokens()),
    ];
    for (range, value) in said {
        let Some(range) = range else { continue };
        return Some(Splice {
            start: range.start,
            end: range.end,
            with: With::Number("", value.map_or(most, |value| value.min(most)), ""),
        });
    }
    let is_old = context.dialect != Dialect::OpenAi || target.provider.quirks.max_tokens;
    let name = if is_old {
        "\"max_tokens\":"
    } else {
        "\"max_completion_tokens\":"
    };
    Some(insert(context, With::Number(name, most, ",")))
}

/// Makes a stream say what it has used, if the client has not asked for that itself and somebody is charged for it.
pub fn usage_of(context: &Context<'_>, target: &PlannedTarget<'_>, is_billed: bool) -> Option<Splice<'static>> {
    if !is_billed || !asks_for_usage(context, target) {
        return None;
    }
    let keys = &context.asked.keys;
    if let Some(range) = keys.include_usage_range() {
        return Some(Splice {
            start: range.start,
            end: range.end,
            with: With::Text("true"),
        });
    }
    let Some(range) = keys.stream_options() else {
        return Some(insert(
            context,
            With::Text("\"stream_options\":{\"include_usage\":true},"),
        ));
    };
    let mut bytes = context.bytes(range);
    match bytes.next() {
        Some(b'{') => {
            let is_empty = bytes.find(|byte| !byte.is_ascii_whitespace()) == Some(b'}');
            let with = if is_empty {
                With::Text("\"include_usage\":true")
            } else {
                With::Text("\"include_usage\":true,")
            };
            let at = range.start + 1;
            Some(Splice {
                start: at,
                end: at,
                with,
            })
        }
        Some(b'n') => Some(Splice {
            start: range.start,
            end: range.end,
            with: With::Text("{\"include_usage\":true}"),
        }),
        // The provider has something to say about it.
        _ => None,
    }
}

/// Whether the gateway asks in the client's place what a stream has used, so that the client must not see the answer.
pub fn asks_for_usage(context: &Context<'_>, target: &PlannedTarget<'_>) -> bool {
    context.stream
        && matches!(context.endpoint, Endpoint::ChatCompletions | Endpoint::Completions)
        && target.provider.dialect == Dialect::OpenAi
        && !target.provider.quirks.no_stream_options
        && context.asked.keys.include_usage() != Some(true)
}

/// A member at the object's begin; there are others behind it, the model's name at least.
fn insert(context: &Context<'_>, with: With<'static>) -> Splice<'static> {
    let at = context.asked.keys.object_start();
    Splice {
        start: at,
        end: at,
        with,
    }
}
