//! The promise: no two requests that differ in tenant, context, model, parameter, history, attachment, code, number or negation ever
//! share an answer, whatever the text, at the most permissive rules that can be configured.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::lookup::SIMILARITY_FLOOR;
use super::*;

/// A request, by what may make a difference.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    tenant: String,
    context: Vec<Option<String>>,
    model: String,
    parameters: [Option<u8>; 6],
    history: Vec<String>,
    attachment: Vec<u8>,
    subject: u8,
    code: (char, u16, char),
    number: u16,
    unit: u8,
    negated: bool,
    /// Said politely, which changes the request and nothing that is asked.
    polite: bool,
}

const SUBJECTS: [&str; 5] = [
    "whether the cap of housing {code} on the conveyor is closed within {number}",
    "that the label on variant {code} sits straight to {number}",
    "if part no. {code} shows a scratch of {number}",
    "what a customer of {code} should be told about a delay of {number}",
    "how article {code} was packed for a journey of {number}",
];
const UNITS: [&str; 6] = ["mm", "cm", "kg", "hours", "bar", "%"];

impl Asked {
    fn text(&self) -> String {
        let code = format!("{}{}-{}", self.code.0, self.code.1, self.code.2);
        let number = format!("{} {}", self.number, UNITS[usize::from(self.unit) % UNITS.len()]);
        let subject = SUBJECTS[usize::from(self.subject) % SUBJECTS.len()];
        let verb = if self.negated { "do not report" } else { "report" };
        let please = if self.polite { "Hello, please " } else { "" };
        format!(
            "{please}{verb} {}.",
            subject.replace("{code}", &code).replace("{number}", &number)
        )
    }

    fn body(&self) -> String {
        let mut messages: Vec<Value> = vec![json!({"role": "system", "content": "Inspect."})];
        for (at, turn) in self.history.iter().enumerate() {
            let role = if at % 2 == 0 { "user" } else { "assistant" };
            messages.push(json!({"role": role, "content": turn}));
        }
        // Four characters a triple: every byte string is another base64 text.
        let data: String = self.attachment.iter().map(|byte| format!("{byte:04}")).collect();
        let mut parts = vec![json!({"type": "text", "text": self.text()})];
        if !self.attachment.is_empty() {
            let url = format!("data:image/png;base64,{data}");
            parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
        }
        messages.push(json!({"role": "user", "content": parts}));
        let mut body = json!({"model": self.model, "messages": messages});
        let names = [
            "temperature",
            "top_p",
            "max_tokens",
            "seed",
            "presence_penalty",
            "frequency_penalty",
        ];
        for (name, value) in names.iter().zip(self.parameters) {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        body.to_string()
    }

    fn query(&self) -> Query {
        let context: Vec<(&str, Option<&str>)> = ["variant", "camera"]
            .into_iter()
            .zip(self.context.iter().map(Option::as_deref))
            .collect();
        prepared(&self.body(), &self.tenant, &context, 0)
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let scope = (
        "[ab]{0,2}",
        prop::collection::vec(prop::option::of("[ab]{0,2}"), 2),
        "[mn]{1,2}",
    );
    let rest = (
        prop::array::uniform6(prop::option::of(0..2_u8)),
        prop::collection::vec("[xy\\\\\"]{0,3}", 0..3),
        prop::collection::vec(0..3_u8, 0..4),
    );
    let text = (
        any::<u8>(),
        (prop::char::range('A', 'C'), 1..30_u16, prop::char::range('A', 'C')),
        1..30_u16,
        0..6_u8,
        any::<bool>(),
        any::<bool>(),
    );
    (scope, rest, text).prop_map(|((tenant, context, model), (parameters, history, attachment), text)| {
        let (subject, code, number, unit, negated, polite) = text;
        Asked {
            tenant,
            context,
            model,
            parameters,
            history,
            attachment,
            subject,
            code,
            number,
            unit,
            negated,
            polite,
        }
    })
}

/// Takes over one to all of what may make a difference from another request.
fn mixed(one: &Asked, other: &Asked, which: u16) -> Asked {
    let mut mixed = one.clone();
    let take = |bit: u32| which >> bit & 1 == 1;
    if take(0) {
        mixed.tenant.clone_from(&other.tenant);
    }
    if take(1) {
        mixed.context.clone_from(&other.context);
    }
    if take(2) {
        mixed.model.clone_from(&other.model);
    }
    if take(3) {
        mixed.parameters = other.parameters;
    }
    if take(4) {
        mixed.history.clone_from(&other.history);
    }
    if take(5) {
        mixed.attachment.clone_from(&other.attachment);
    }
    if take(6) {
        mixed.code = other.code;
    }
    if take(7) {
        (mixed.number, mixed.unit) = (other.number, other.unit);
    }
    if take(8) {
        mixed.negated = other.negated;
    }
    if take(9) {
        mixed.subject = other.subject;
    }
    mixed.polite = other.polite;
    mixed
}

/// The most permissive rules there are.
fn permissive() -> Rules {
    Rules {
        similarity: SIMILARITY_FLOOR,
        level: Level::G1,
        ..rules()
    }
}

/// Which parts to take over: mostly one of them.
fn which() -> impl Strategy<Value = u16> {
    prop_oneof![3 => (0..9_u32).prop_map(|bit| 1 << bit), 1 => 0..1024_u16]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 700, ..ProptestConfig::default() })]

    #[test]
    fn requests_that_differ_never_share_an_answer((one, other, which) in (asked(), asked(), which())) {
        let changed = mixed(&one, &other, which);
        let mut cache = cache();
        cache.insert(entry(one.query(), "one", NOW), NOW);
        let outcome = look(&mut cache, &mut changed.query(), &permissive());
        let subject_aside = |asked: &Asked| Asked { subject: 0, polite: false, ..asked.clone() };
        let may_share = subject_aside(&changed) == subject_aside(&one);
        let same = may_share && changed.subject == one.subject;
        match outcome {
            Outcome::Hit(hit) => prop_assert!(may_share, "{:?} {:?}\n{}\n{}", hit.by, hit.pair, one.body(), changed.body()),
            Outcome::Shadow(_) => prop_assert!(false, "nothing is in shadow here"),
            Outcome::Miss(_) => prop_assert!(!same, "missed itself: {}", changed.body()),
        }
    }

    #[test]
    fn a_request_hits_itself_however_it_is_written(one in asked()) {
        let mut cache = cache();
        cache.insert(entry(one.query(), "one", NOW), NOW);
        let value: Value = serde_json::from_str(&one.body()).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let context: Vec<(&str, Option<&str>)> = ["variant", "camera"].into_iter().zip(one.context.iter().map(Option::as_deref)).collect();
        let mut again = prepared(&pretty, &one.tenant, &context, 0);
        let hit = look(&mut cache, &mut again, &permissive());
        let exact = matches!(hit, Outcome::Hit(Hit { by: By::Exact, .. }));
        prop_assert!(exact);
    }
}
