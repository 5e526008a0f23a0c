//! [`Redactor`]: what of a body may be logged.
//!
//! Invariants: a body is read as JSON, or as server-sent events of JSON, and written anew as far as it was understood; what is
//! neither is not logged at all. Values at the places that the rules name are replaced, whatever they are; secrets, e-mail
//! addresses, and long runs of data (images) always. A body that is cut short is treated alike up to the cut, where the last,
//! incomplete text is left out: a rule never fails because the end is missing. Deliberately absent: expressions over text; they
//! cost more than they promise.

use sluice_wire::limits::REDACT_DEPTH_MAX;

/// What is replaced.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    places: Vec<Vec<Box<str>>>,
    members: Vec<Box<str>>,
    keep_emails: bool,
}

/// Instead of a value that a rule names.
const HIDDEN: &str = "\"[redacted]\"";
/// Beginnings of secrets; each is followed by at least [`SECRET_BYTES_MIN`] more characters.
const SECRETS: [&[u8]; 9] = [
    b"sk-", b"sk_", b"pk_", b"ghp_", b"xoxb-", b"xoxp-", b"AKIA", b"ASIA", b"eyJ",
];
const SECRET_BYTES_MIN: usize = 12;
/// Characters without a space from which on a text is data, not language.
const DATA_BYTES_MIN: usize = 256;

impl Redactor {
    /// Rules are places, `/messages/*/content` (RFC 6901, with `*` for any member or item), or names of members, anywhere.
    pub fn new(rules: &[String], keep_emails: bool) -> Self {
        let mut redactor = Self {
            keep_emails,
            ..Self::default()
        };
        for rule in rules {
            match rule.strip_prefix('/') {
                Some(place) => redactor.places.push(
                    place
                        .split('/')
                        .map(|step| step.replace("~1", "/").replace("~0", "~").into())
                        .collect(),
                ),
                None => redactor.members.push(rule.as_str().into()),
            }
        }
        redactor
    }

    /// What may be logged of `body`; `None` if it is neither JSON nor events. Whether the end was there is the caller's to say.
    pub fn apply(&self, body: &[u8]) -> Option<String> {
        let mut out = Vec::with_capacity(body.len() + 64);
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace())?;
        if matches!(first, b'{' | b'[') {
            match self.document(body, &mut out) {
                Ok(()) | Err(Stop::Cut) => {}
                Err(Stop::Wrong) => return None,
            }
        } else {
            self.events(body, &mut out)?;
        }
        String::from_utf8(out).ok()
    }

    fn events(&self, body: &[u8], out: &mut Vec<u8>) -> Option<()> {
        const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
        for line in body.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let known = FIELDS.iter().find(|field| line.starts_with(field));
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start) else {
                match (known, line.is_empty()) {
                    // Names of events are the provider's; comments and the like say nothing.
                    (Some(field), _) if **field == *b"event:" => out.extend_from_slice(line),
                    (Some(_), _) | (None, true) => {}
                    // The last line may be cut within its field's name.
                    (None, false) if !out.is_empty() => {}
                    (None, false) => return None,
                }
                if line.starts_with(b"event:") {
                    out.push(b'\n');
                }
                continue;
            };
            out.extend_from_slice(b"data: ");
            match data.first() {
                Some(b'{' | b'[') if data != b"[DONE]" => {
                    let from = out.len();
                    if let Err(Stop::Wrong) = self.document(data, out) {
                        out.truncate(from);
                        out.extend_from_slice(HIDDEN.as_bytes());
                    }
                }
                _ if data == b"[DONE]" => out.extend_from_slice(data),
                _ => out.extend_from_slice(HIDDEN.as_bytes()),
            }
            out.push(b'\n');
        }
        Some(())
    }

    fn document(&self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Stop> {
        let mut walk = Walk {
            rules: self,
            input,
            at: 0,
            out,
            path: Vec::new(),
            muted: false,
        };
        walk.value()?;
        walk.space();
        if walk.at < input.len() {
            return Err(Stop::Wrong);
        }
        Ok(())
    }

    fn hides(&self, path: &[Step<'_>]) -> bool {
        let is = |step: &Step<'_>, wanted: &str| match step {
            Step::Item(number) => wanted == "*" || wanted.parse() == Ok(*number),
            Step::Member(name) => wanted == "*" || wanted.as_bytes() == *name,
        };
        let at = |place: &Vec<Box<str>>| {
            place.len() == path.len() && path.iter().zip(place).all(|(step, wanted)| is(step, wanted))
        };
        let named = |name: &[u8]| {
            self.members
                .iter()
                .any(|member| member.as_bytes().eq_ignore_ascii_case(name))
        };
        self.places.iter().any(at) || matches!(path.last(), Some(Step::Member(name)) if named(name))
    }
}

/// Why a walk ends early.
enum Stop {
    /// There is no more.
    Cut,
    /// It is no JSON.
    Wrong,
}

/// A step into a document: a member, by its name as it stands there, or an item.
enum Step<'a> {
    Member(&'a [u8]),
    Item(usize),
}

/// A walk through a document that writes what may be seen of it.
struct Walk<'a> {
    rules: &'a Redactor,
    input: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    path: Vec<Step<'a>>,
    muted: bool,
}

impl<'a> Walk<'a> {
    fn write(&mut self, bytes: &[u8]) {
        if !self.muted {
            self.out.extend_from_slice(bytes);
        }
    }

    fn space(&mut self) {
        let rest = &self.input[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }

    fn next(&mut self) -> Result<u8, Stop> {
        self.space();
        let byte = *self.input.get(self.at).ok_or(Stop::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    fn value(&mut self) -> Result<(), Stop> {
        if self.path.len() > REDACT_DEPTH_MAX {
            return Err(Stop::Wrong);
        }
        if !self.muted && !self.path.is_empty() && self.rules.hides(&self.path) {
            self.out.extend_from_slice(HIDDEN.as_bytes());
            self.muted = true;
            let end = self.value();
            self.muted = false;
            return end;
        }
        match self.next()? {
            b'{' => self.members(b'}'),
            b'[' => self.members(b']'),
            b'"' => {
                let text = self.text()?;
                self.show(text);
                Ok(())
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                let rest = &self.input[self.at - 1..];
                let is_in = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                let word = &rest[..rest.iter().take_while(is_in).count()];
                self.at += word.len() - 1;
                self.write(word);
                Ok(())
            }
            _ => Err(Stop::Wrong),
        }
    }

    /// What is between the brackets of an object or an array.
    fn members(&mut self, close: u8) -> Result<(), Stop> {
        self.write(if close == b'}' { b"{" } else { b"[" });
        for number in 0.. {
            let mut byte = self.next()?;
            if byte == close && number == 0 {
                break;
            }
            if number > 0 {
                match byte {
                    b',' => self.write(b","),
                    _ if byte == close => break,
                    _ => return Err(Stop::Wrong),
                }
            }
            if close == b'}' {
                if number > 0 {
                    byte = self.next()?;
                }
                if byte != b'"' {
                    return Err(Stop::Wrong);
                }
                let name = self.text()?;
                if self.next()? != b':' {
                    return Err(Stop::Wrong);
                }
                self.show(name);
                self.write(b":");
                self.path.push(Step::Member(name));
            } else {
                self.at -= usize::from(number == 0);
                self.path.push(Step::Item(number));
            }
            self.value()?;
            self.path.pop();
        }
        self.write(&[close]);
        Ok(())
    }

    /// A string as it stands there, without its quotation marks; the first is behind us.
    fn text(&mut self) -> Result<&'a [u8], Stop> {
        let input = self.input;
        let from = self.at;
        loop {
            let rest = &input[self.at..];
            let ends = |byte: &u8| matches!(byte, b'"' | b'\\');
            let found = rest.iter().position(ends).ok_or(Stop::Cut)?;
            self.at += found + 1;
            if rest[found] == b'"' {
                return Ok(&input[from..self.at - 1]);
            }
            if self.at >= input.len() {
                return Err(Stop::Cut);
            }
            self.at += 1;
        }
    }

    fn show(&mut self, raw: &[u8]) {
        if self.muted {
            return;
        }
        self.out.push(b'"');
        scrub(raw, self.rules.keep_emails, self.out);
        self.out.push(b'"');
    }
}

/// Writes a string without secrets, addresses and data.
fn scrub(raw: &[u8], keep_emails: bool, out: &mut Vec<u8>) {
    if raw.starts_with(b"data:") {
        return note(out, "data", raw.len());
    }
    let is_word =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'@' | b'+' | b'-' | b'/' | b'=');
    let mut at = 0;
    while at < raw.len() {
        let rest = &raw[at..];
        if rest[0] == b'\\' {
            // An escape belongs to no word.
            let length = if rest.get(1) == Some(&b'u') { 6 } else { 2 }.min(rest.len());
            out.extend_from_slice(&rest[..length]);
            at += length;
            continue;
        }
        let length = rest.iter().take_while(|byte| is_word(**byte)).count();
        if length == 0 {
            out.push(rest[0]);
            at += 1;
            continue;
        }
        word(&rest[..length], keep_emails, out);
        at += length;
    }
}

fn word(word: &[u8], keep_emails: bool, out: &mut Vec<u8>) {
    if word.len() >= DATA_BYTES_MIN {
        return note(out, "data", word.len());
    }
    let secret_at = |at: usize| {
        let fresh = at == 0 || !word[at - 1].is_ascii_alphanumeric();
        let begins =
            |prefix: &&[u8]| word[at..].starts_with(prefix) && word.len() - at >= prefix.len() + SECRET_BYTES_MIN;
        fresh && SECRETS.iter().any(begins)
    };
    if let Some(at) = (0..word.len()).find(|at| secret_at(*at)) {
        out.extend_from_slice(&word[..at]);
        return out.extend_from_slice(b"[secret]");
    }
    let is_address = word
        .iter()
        .position(|byte| *byte == b'@')
        .is_some_and(|at| at > 0 && at + 1 < word.len());
    if is_address && !keep_emails {
        return out.extend_from_slice(b"[e-mail]");
    }
    out.extend_from_slice(word);
}

fn note(out: &mut Vec<u8>, what: &str, bytes: usize) {
    out.extend_from_slice(format!("[{bytes} bytes of {what}]").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rules: &[&str], body: &str) -> Option<String> {
        let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        Redactor::new(&rules, false).apply(body.as_bytes())
    }

    #[test]
    fn what_no_rule_names_stands_as_it_was() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"Hi \"you\" é \u00e9"}],"n":[1,-2.5e3,true,null],"o":{},"a":[]}"#;
        assert_eq!(shown(&[], body).unwrap(), body);
        assert_eq!(shown(&[], " { \"a\" : [ 1 , 2 ] } ").unwrap(), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn places_and_names_are_replaced_whatever_stands_there() {
        let body = r#"{"messages":[{"role":"user","content":"x"},{"content":[{"text":"y"}]}],"user":"u","meta":{"Password":{"a":1}}}"#;
        assert_eq!(
            shown(&["/messages/*/content", "/user", "password"], body).unwrap(),
            r#"{"messages":[{"role":"user","content":"[redacted]"},{"content":"[redacted]"}],"user":"[redacted]","meta":{"Password":"[redacted]"}}"#
        );
        assert_eq!(
            shown(&["/a/1"], r#"{"a":["x","y"]}"#).unwrap(),
            r#"{"a":["x","[redacted]"]}"#
        );
    }

    #[test]
    fn secrets_addresses_and_data_never_pass() {
        let image = "A".repeat(300);
        let body = format!(
            r#"{{"a":"use sk-proj-0123456789abcdef now","b":"mail\njohn.doe@example.org, ok?","c":"data:image/png;base64,AAAA","d":"{image}","e":"key=AKIAABCDEFGHIJKLMNOP"}}"#
        );
        assert_eq!(
            shown(&[], &body).unwrap(),
            r#"{"a":"use [secret] now","b":"mail\n[e-mail], ok?","c":"[26 bytes of data]","d":"[300 bytes of data]","e":"key=[secret]"}"#
        );
        let kept = Redactor::new(&[], true).apply(br#"{"a":"x@y.z"}"#).unwrap();
        assert_eq!(kept, r#"{"a":"x@y.z"}"#);
    }

    #[test]
    fn a_cut_body_is_redacted_up_to_the_cut_wherever_that_is() {
        let body = r#"{"messages":[{"content":"the secret text"}],"password":"hidden","k":"sk-0123456789abcdef0123"}"#;
        let whole = shown(&["/messages/*/content", "password"], body).unwrap();
        for at in 1..body.len() {
            let cut = shown(&["/messages/*/content", "password"], &body[..at]).unwrap();
            assert!(whole.starts_with(&cut), "{at}: {cut}");
            for never in ["secret text", "hidden", "sk-0"] {
                assert!(!cut.contains(never), "{at}: {cut}");
            }
        }
    }

    #[test]
    fn events_are_redacted_one_by_one() {
        let body = "event: x\ndata: {\"delta\":{\"content\":\"y\"},\"id\":1}\n\n: ping\ndata: [DONE]\n\ndata: half {\n";
        assert_eq!(
            shown(&["content"], body).unwrap(),
            "event: x\ndata: {\"delta\":{\"content\":\"[redacted]\"},\"id\":1}\ndata: [DONE]\ndata: \"[redacted]\"\n"
        );
    }

    #[test]
    fn what_is_no_json_is_not_logged() {
        for body in [
            "",
            "  ",
            "plain text",
            "--boundary\r\nContent-Disposition: form-data",
            "{\"a\" 1}",
            "{}x",
            "{a:1}",
        ] {
            assert_eq!(shown(&[], body), None, "{body}");
        }
        let deep = "[".repeat(10_000);
        assert_eq!(shown(&[], &deep), None);
    }
}
