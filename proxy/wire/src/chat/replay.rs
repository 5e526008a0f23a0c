//! A whole answer as the events of a stream, and the events of a stream as a whole answer: for answers that are given again to a
//! client that asks for the other form.
//!
//! Invariants: both ways keep every character of what the model said, the finish reason and what was used; what has no place in
//! the other form is refused rather than left out. Deliberately absent: tool calls and parts of one dialect alone, which are
//! refused; log probabilities, which no dialect has in both forms alike.

use crate::chat::{ChatEvent, ChatResponse, Choice, Content, Delta, Finish, Open, Part, Text, Usage};

/// Gives the events of a stream that says what `response` says. `false`: it cannot be said so, and what was given is of no use.
pub fn play(response: &ChatResponse<'_>, sink: &mut dyn FnMut(ChatEvent<'_>)) -> bool {
    let unsayable = |choice: &Choice<'_>| choice.logprobs.is_some() || choice.finish.is_none();
    if response.choices.iter().any(unsayable) || !response.extras.is_empty() {
        return false;
    }
    sink(ChatEvent::Start {
        id: response.id.borrowed(),
        model: response.model.borrowed(),
        created: response.created,
        fingerprint: response.fingerprint.as_ref().map(Text::borrowed),
        service_tier: response.service_tier.as_ref().map(Text::borrowed),
    });
    for choice in &response.choices {
        for (part, content) in choice.parts.iter().enumerate() {
            if !play_part(choice.index, part as u32, &content.content, sink) {
                return false;
            }
        }
    }
    for choice in &response.choices {
        let Some(finish) = choice.finish else { continue };
        sink(ChatEvent::Finish {
            choice: choice.index,
            finish,
            stop_sequence: choice.stop_sequence.as_ref().map(Text::borrowed),
        });
    }
    if let Some(latency_ms) = response.latency_ms {
        sink(ChatEvent::Latency(latency_ms));
    }
    if let Some(usage) = response.usage {
        sink(ChatEvent::Usage(usage));
    }
    sink(ChatEvent::End);
    true
}

fn play_part(choice: u32, part: u32, content: &Content<'_>, sink: &mut dyn FnMut(ChatEvent<'_>)) -> bool {
    let (open, deltas) = match content {
        Content::Text { text, citations } if citations.is_empty() => (Open::Text, vec![Delta::Text(text.borrowed())]),
        Content::Refusal(text) => (Open::Refusal, vec![Delta::Text(text.borrowed())]),
        Content::Thinking { text, signature } => {
            let mut deltas = vec![Delta::Thinking(text.borrowed())];
            deltas.extend(
                signature
                    .as_ref()
                    .map(|signature| Delta::Signature(signature.borrowed())),
            );
            (Open::Thinking, deltas)
        }
        Content::RedactedThinking(text) => (Open::RedactedThinking(text.borrowed()), Vec::new()),
        _ => return false,
    };
    sink(ChatEvent::Open { choice, part, open });
    for delta in deltas {
        sink(ChatEvent::Delta { choice, part, delta });
    }
    sink(ChatEvent::Close { choice, part });
    true
}

/// What the events of a stream say so far, in one piece.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    response: ChatResponse<'static>,
    /// Nothing may be missing from what is given again.
    unsayable: bool,
    complete: bool,
}

impl Gathered {
    /// Takes the next event.
    pub fn push(&mut self, event: &ChatEvent<'_>) {
        match event {
            ChatEvent::Start {
                id,
                model,
                created,
                fingerprint,
                service_tier,
            } => {
                self.response.id = id.clone().into_owned();
                self.response.model = model.clone().into_owned();
                self.response.created = *created;
                self.response.fingerprint = fingerprint.clone().map(Text::into_owned);
                self.response.service_tier = service_tier.clone().map(Text::into_owned);
            }
            ChatEvent::Open { choice, open, .. } => self.open(*choice, open),
            ChatEvent::Delta { choice, part, delta } => self.delta(*choice, *part, delta),
            ChatEvent::Finish {
                choice,
                finish,
                stop_sequence,
            } => {
                let choice = self.choice(*choice);
                choice.finish = Some(*finish);
                choice.stop_sequence = stop_sequence.clone().map(Text::into_owned);
            }
            ChatEvent::Usage(usage) => self.response.usage = Some(*usage),
            ChatEvent::Latency(latency_ms) => self.response.latency_ms = Some(*latency_ms),
            ChatEvent::Close { .. } | ChatEvent::Ping => {}
            ChatEvent::Error(_) => self.unsayable = true,
            ChatEvent::End => self.complete = true,
        }
    }

    /// The answer. `None` if the stream is not complete, or says what a whole answer cannot.
    pub fn response(&self) -> Option<&ChatResponse<'static>> {
        let sayable = self.complete && !self.unsayable && !self.response.choices.is_empty();
        sayable.then_some(&self.response)
    }

    /// What was used, as far as the stream has said.
    pub fn usage(&self) -> Option<Usage> {
        self.response.usage
    }

    fn choice(&mut self, index: u32) -> &mut Choice<'static> {
        let choices = &mut self.response.choices;
        let at = choices
            .iter()
            .position(|choice| choice.index == index)
            .unwrap_or_else(|| {
                choices.push(Choice {
                    index,
                    parts: Vec::new(),
                    finish: None,
                    stop_sequence: None,
                    logprobs: None,
                });
                choices.len() - 1
            });
        &mut choices[at]
    }

    fn open(&mut self, choice: u32, open: &Open<'_>) {
        let content = match open {
            Open::Text => Content::text(Text::default()),
            Open::Refusal => Content::Refusal(Text::default()),
            Open::Thinking => Content::Thinking {
                text: Text::default(),
                signature: None,
            },
            Open::RedactedThinking(text) => Content::RedactedThinking(text.clone().into_owned()),
            Open::ToolCall { .. } | Open::Other(..) => {
                self.unsayable = true;
                Content::text(Text::default())
            }
        };
        self.choice(choice).parts.push(Part::from(content));
    }

    fn delta(&mut self, choice: u32, part: u32, delta: &Delta<'_>) {
        let append = |to: &mut Text<'static>, more: &Text<'_>| {
            *to = std::mem::take(to).joined(more.clone().into_owned());
        };
        let content = self
            .choice(choice)
            .parts
            .get_mut(part as usize)
            .map(|part| &mut part.content);
        match (content, delta) {
            (Some(Content::Text { text, .. } | Content::Refusal(text)), Delta::Text(more))
            | (Some(Content::Thinking { text, .. }), Delta::Thinking(more)) => append(text, more),
            (Some(Content::Thinking { signature, .. }), Delta::Signature(more)) => {
                append(signature.get_or_insert_default(), more);
            }
            _ => self.unsayable = true,
        }
    }
}

impl ChatResponse<'_> {
    /// All that the model said to the user, for comparison: texts and refusals of all choices, in order.
    pub fn said(&self) -> String {
        let parts = self.choices.iter().flat_map(|choice| &choice.parts);
        let texts = parts.filter_map(|part| match &part.content {
            Content::Text { text, .. } | Content::Refusal(text) => Some(text.decode().into_owned()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Whether every choice ended well, or for want of tokens where that counts as well.
    pub fn ended_well(&self, truncated_too: bool) -> bool {
        let well = |choice: &Choice<'_>| match choice.finish {
            Some(Finish::Stop | Finish::StopSequence) => true,
            Some(Finish::Length | Finish::ContextFull) => truncated_too,
            _ => false,
        };
        !self.choices.is_empty() && self.choices.iter().all(well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Out;
    use crate::dialect::Dialect;
    use crate::provider::{self, Reply, StreamDecoder, StreamEncoder};

    const REPLY: Reply<'static> = Reply {
        model: "m",
        id: "i",
        created: 1,
        include_usage: true,
    };

    fn whole(response: &ChatResponse<'_>, dialect: Dialect) -> Vec<u8> {
        let mut out = Out::default();
        provider::write_response(dialect, response, &REPLY, &mut out);
        out.buf
    }

    const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":9,"model":"m","choices":[{"index":0,"message":
        {"role":"assistant","content":"a \"b\" \u00e9"},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;

    #[test]
    fn what_is_played_is_gathered_in_every_dialect() {
        let response = provider::parse_response(Dialect::OpenAi, ANSWER.as_bytes()).unwrap();
        for dialect in Dialect::ALL {
            let body = whole(&response, dialect);
            let response = provider::parse_response(dialect, &body).unwrap();
            let (mut encoder, mut out) = (StreamEncoder::new(dialect, &REPLY), Out::default());
            assert!(play(&response, &mut |event| encoder.push(&event, &mut out)));
            let (mut decoder, mut gathered) = (StreamDecoder::new(dialect), Gathered::default());
            decoder.push(&out.buf, &mut |event| gathered.push(&event)).unwrap();
            decoder.finish(&mut |event| gathered.push(&event));
            let again = gathered.response().unwrap();
            assert_eq!(again.said(), "a \"b\" é", "{dialect:?}");
            assert!(again.ended_well(false));
            assert_eq!(again.usage.map(|usage| usage.total()), Some(7), "{dialect:?}");
            let said = |body: &[u8]| provider::parse_response(dialect, body).unwrap().said();
            assert_eq!(said(&whole(again, dialect)), said(&body));
        }
    }

    #[test]
    fn what_the_other_form_cannot_say_is_refused() {
        let call = ANSWER.replace(
            "\"content\":\"a \\\"b\\\" \\u00e9\"",
            r#""tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]"#,
        );
        assert!(call.contains("tool_calls"));
        let response = provider::parse_response(Dialect::OpenAi, call.as_bytes()).unwrap();
        assert!(!play(&response, &mut |_| {}) && !response.ended_well(true));
        let cut = ANSWER.replace("\"stop\"", "\"length\"");
        let response = provider::parse_response(Dialect::OpenAi, cut.as_bytes()).unwrap();
        assert!(!response.ended_well(false) && response.ended_well(true));
        let mut gathered = Gathered::default();
        assert!(play(&response, &mut |event| {
            if !matches!(event, ChatEvent::End) {
                gathered.push(&event);
            }
        }));
        assert!(gathered.response().is_none(), "a stream without its end is no answer");
    }
}
