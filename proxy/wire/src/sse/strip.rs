//! Takes the event that says nothing but what a stream has used out of OpenAI's chat completion chunks, for a client that has
//! not asked for it (`stream_options.include_usage`).
//!
//! Invariants: every other event stays as it is, whatever ends its lines; an event that holds anything for the client
//! stays. Deliberately absent: events that are cut; whoever calls waits for their end.

use memchr::memmem;

/// Removes from whole events those that hold nothing but usage
/// (<https://platform.openai.com/docs/api-reference/chat-streaming>: `choices` is empty, `usage` is an object).
pub fn remove_usage(events: &mut Vec<u8>) {
    let (mut from, mut kept) = (0, 0);
    while from < events.len() {
        let to = from + event_len(&events[from..]);
        if !is_usage_alone(&events[from..to]) {
            events.copy_within(from..to, kept);
            kept += to - from;
        }
        from = to;
    }
    events.truncate(kept);
}

/// Bytes of the first event, with the empty line behind it; of all if there is none.
fn event_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = memchr::memchr2(b'\n', b'\r', &bytes[at..]) {
        let crlf = bytes[at + length..].starts_with(b"\r\n");
        at += length + 1 + usize::from(crlf);
        if length == 0 {
            return at;
        }
    }
    bytes.len()
}

fn is_usage_alone(event: &[u8]) -> bool {
    let no_choices = value_of(event, b"\"choices\"").is_some_and(|value| {
        let inside = value.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
        inside.is_some_and(|inside| inside.starts_with(b"]"))
    });
    no_choices && value_of(event, b"\"usage\"").is_some_and(|value| value.starts_with(b"{"))
}

/// What comes behind the first such key. A text that quotes it has a backslash before its last quote, and does not match.
fn value_of<'a>(event: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &event[memmem::find(event, key)? + key.len()..];
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    Some(rest.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(events: &str) -> String {
        let mut out = events.as_bytes().to_vec();
        remove_usage(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_of_usage_alone_goes_and_its_neighbours_stay() {
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let finish = format!("data: {{\"choices\":[{{\"finish_reason\":\"stop\"}}],\"usage\":null}}{end}");
            let usage = format!("data: {{\"choices\" : [ ],\"usage\":{{\"prompt_tokens\":1}}}}{end}");
            let done = format!("data: [DONE]{end}");
            assert_eq!(stripped(&format!("{finish}{usage}{done}")), format!("{finish}{done}"));
            assert_eq!(stripped(&usage), "");
        }
    }

    #[test]
    fn what_holds_anything_for_the_client_stays() {
        for event in [
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"text\":\"\\\"usage\\\":{\"}\n\n",
            ": a comment\n\n",
            "data: [DONE]\n\n",
            "event: x\ndata: 1",
            "",
        ] {
            assert_eq!(stripped(event), event);
        }
    }
}
