//! Why two requests would, or would not, share an answer: in words, for an operator.
//!
//! Invariants: says what the lookup would do with these very requests, by the same code; names what differs and never shows its
//! value. Deliberately absent: experience with templates, which only a running cache has.

use sluice_wire::chat::ChatRequest;

use super::key::{Bypass, Canonical, Eligible, Scope};
use super::lookup::{Mode, Rules};
use super::{Brain, Explanation, SIMILARITY_FLOOR};

/// Whether two requests share an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Sharing {
    /// They are one request.
    Exact,
    /// They mean the same. Whether the one's answer is served to the other depends on experience (`agreements`).
    Meaning(Explanation),
    /// They do not.
    Apart(Why),
}

/// Why not.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// The first, or the second, is not cached at all.
    Bypass(u8, Bypass),
    /// They differ in something that must be equal, in order.
    Differ(Vec<&'static str>),
    /// The route does not match by meaning, or these cannot be (an empty text, or a long one).
    ExactOnly,
    /// They would be compared by meaning, but nobody says how similar they are.
    NoVector,
    /// Their last texts do not mean the same, or are not similar enough.
    Meaning(Explanation),
}

impl Brain {
    /// Says of two requests of one scope whether they would share an answer under these rules. `similarity` is asked about their last
    /// texts if it comes to that.
    pub fn sharing(
        &self,
        one: (&ChatRequest<'_>, &Scope<'_>),
        other: (&ChatRequest<'_>, &Scope<'_>),
        eligible: &Eligible,
        rules: &Rules,
        similarity: impl FnOnce(&str, &str) -> Option<f32>,
    ) -> Sharing {
        let (mut mine, mut theirs) = (Canonical::default(), Canonical::default());
        for (at, canonical, (request, scope)) in [(1, &mut mine, one), (2, &mut theirs, other)] {
            if let Err(bypass) = canonical.read(request, scope, eligible, &self.secret) {
                return Sharing::Apart(Why::Bypass(at, bypass));
            }
        }
        if mine.exact(&self.secret) == theirs.exact(&self.secret) {
            return Sharing::Exact;
        }
        let mut differ = differences(mine.frame(), theirs.frame());
        if mine.images() != theirs.images() {
            differ.push("the bytes of an image");
        }
        if !differ.is_empty() {
            return Sharing::Apart(Why::Differ(differ));
        }
        if rules.mode == Mode::Off || !mine.is_semantic() || !theirs.is_semantic() {
            return Sharing::Apart(Why::ExactOnly);
        }
        let Some(similarity) = similarity(mine.text(), theirs.text()) else {
            return Sharing::Apart(Why::NoVector);
        };
        let explanation = self.explain_at(similarity, mine.text(), theirs.text(), rules.level);
        let near = explanation.similarity >= rules.similarity.max(SIMILARITY_FLOOR);
        if near && explanation.verdict.is_ok() {
            Sharing::Meaning(explanation)
        } else {
            Sharing::Apart(Why::Meaning(explanation))
        }
    }
}

/// What differs between two canonical forms, each named once.
fn differences(one: &[u8], other: &[u8]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    let (mut one, mut other) = (pieces(one), pieces(other));
    loop {
        let name = match (one.next(), other.next()) {
            (None, None) => return names,
            (Some(mine), Some(theirs)) if mine == theirs => continue,
            (Some((mine, _)), Some((theirs, _))) if mine == theirs => name_of(mine),
            // From here on they are of different forms.
            (Some((tag, _)), _) | (None, Some((tag, _))) => {
                let name = name_of(tag);
                if !names.contains(&name) {
                    names.push(name);
                }
                return names;
            }
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// The pieces of a canonical form: a tag and a value, `None` for one that is missing.
fn pieces(mut frame: &[u8]) -> impl Iterator<Item = (u8, Option<&[u8]>)> {
    std::iter::from_fn(move || {
        let (&tag, rest) = frame.split_first()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let len = u64::from_le_bytes(*len);
        if len == u64::MAX {
            frame = rest;
            return Some((tag, None));
        }
        let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        frame = rest;
        Some((tag, Some(value)))
    })
}

fn name_of(tag: u8) -> &'static str {
    match tag {
        b'T' => "the tenant",
        b'R' => "the route",
        b'D' => "the dialect",
        b'E' => "the epoch",
        b'C' | b'n' | b'v' => "a context key",
        b'm' => "the model",
        b'F' => "the response format",
        b'M' | b'r' | b'p' => "the number or roles of messages",
        b'1'..=b'9' | b'a'..=b'l' => "a parameter",
        b't' | b'q' => "an earlier message or the system prompt",
        _ => "an attachment or another part of the conversation",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Secret;
    use sluice_wire::dialect::Dialect;
    use sluice_wire::provider::{Ingress, parse_request};

    fn sharing(one: &str, other: &str, variants: [&str; 2]) -> Sharing {
        let brain = Brain::new(Secret::new([1; 32]));
        let parse = |body| parse_request(Dialect::OpenAi, body, &Ingress::default()).unwrap();
        let (one, other) = (parse(one.as_bytes()), parse(other.as_bytes()));
        let context = variants.map(|variant| [("variant", Some(variant))]);
        let scope = |at: usize| Scope {
            tenant: "t",
            route: "r",
            dialect: Dialect::OpenAi,
            context: &context[at],
            epoch: 0,
        };
        let rules = Rules {
            mode: Mode::On,
            ..Rules::default()
        };
        let own = |one: &str, other: &str| Some(brain.similarity(one, other));
        brain.sharing(
            (&one, &scope(0)),
            (&other, &scope(1)),
            &Eligible::default(),
            &rules,
            own,
        )
    }

    fn body(system: &str, text: &str, more: &str) -> String {
        format!(
            r#"{{"model":"m","messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{text}"}}]{more}}}"#
        )
    }

    #[test]
    fn what_differs_is_named() {
        let base = body("s", "What is the torque of bolt 7?", "");
        assert_eq!(sharing(&base, &base, ["B", "B"]), Sharing::Exact);
        for (other, variant, name) in [
            (base.clone(), "C", "a context key"),
            (base.replace("\"m\"", "\"n\""), "B", "the model"),
            (
                body("t", "What is the torque of bolt 7?", ""),
                "B",
                "an earlier message or the system prompt",
            ),
            (
                body("s", "What is the torque of bolt 7?", ",\"top_p\":0.5"),
                "B",
                "a parameter",
            ),
        ] {
            assert_eq!(
                sharing(&base, &other, ["B", variant]),
                Sharing::Apart(Why::Differ(vec![name])),
                "{other}"
            );
        }
        let tools = body("s", "x", r#","tool_choice":"auto""#);
        assert_eq!(
            sharing(&base, &tools, ["B", "B"]),
            Sharing::Apart(Why::Bypass(2, Bypass::Tools))
        );
    }

    #[test]
    fn meaning_is_explained_by_similarity_and_by_the_guard() {
        let one = body("s", "How do I reset the torque controller on line 3?", "");
        let same = body("s", "How can I reset the torque controller on line 3?", "");
        let other = body("s", "How do I reset the torque controller on line 4?", "");
        assert!(matches!(sharing(&one, &same, ["B", "B"]), Sharing::Meaning(_)));
        let Sharing::Apart(Why::Meaning(why)) = sharing(&one, &other, ["B", "B"]) else {
            panic!("lines 3 and 4 are not one");
        };
        assert!(why.verdict.is_err());
    }
}
