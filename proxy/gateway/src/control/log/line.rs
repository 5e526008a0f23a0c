//! [`Lines`]: the line of one request, as JSON or as text.
//!
//! Invariants: one line is one JSON object, whatever a client sent; what is alike in most lines (the second, who asked whom,
//! what became of it) is rendered once and copied, because a line is made for every request. Deliberately absent: which requests are logged, and
//! where to (`log.rs`).

use std::io::Write;
use std::net::IpAddr;

use sluice_policy::meter::Reason;
use sluice_policy::redact::Redactor;
use sluice_wire::calendar;
use sluice_wire::error::write_utf8;

use crate::control::roster::Named;
use crate::record::{CacheUse, Extra, Fate, Outcome, Paid, Record, Try};
use crate::reply::hex;

/// What is rendered once.
pub struct Lines {
    /// A second since the epoch, and its text.
    second: (u64, [u8; 20]),
    client: (Option<IpAddr>, Vec<u8>),
    /// What became of a request, and its members.
    result: (Option<Became>, Vec<u8>),
    redactor: Redactor,
}

/// What became of a request.
#[derive(PartialEq, Eq)]
struct Became {
    status: u16,
    outcome: Outcome,
    reason: Option<Reason>,
    cache: Option<CacheUse>,
    stream: bool,
    fallback: bool,
    resumed: bool,
    attempts: u8,
}

impl Became {
    fn of(record: &Record) -> Self {
        Self {
            status: record.status,
            outcome: record.outcome,
            reason: record.reason,
            cache: record.cache,
            stream: record.stream,
            fallback: record.fallback,
            resumed: record.resumed,
            attempts: record.attempts,
        }
    }

    /// Its members, each with a comma before it.
    fn write(&self, out: &mut Vec<u8>) {
        number_member(out, b",\"status\":", u64::from(self.status));
        text_member(out, b",\"outcome\":", outcome_text(self.outcome).as_bytes());
        if let Some(reason) = self.reason {
            text_member(out, b",\"fallback_reason\":", reason.as_str().as_bytes());
        }
        if let Some(cache) = self.cache {
            text_member(out, b",\"cache\":", cache.as_str().as_bytes());
        }
        out.extend_from_slice(match (self.stream, self.fallback) {
            (false, false) => b",\"stream\":false,\"fallback\":false",
            (false, true) => b",\"stream\":false,\"fallback\":true",
            (true, false) => b",\"stream\":true,\"fallback\":false",
            (true, true) => b",\"stream\":true,\"fallback\":true",
        });
        if self.resumed {
            out.extend_from_slice(b",\"resumed\":true");
        }
        number_member(out, b",\"attempts\":", u64::from(self.attempts));
    }
}

impl Lines {
    /// Lines with bodies, where there are any, as far as the redactor lets them through.
    pub fn new(redactor: Redactor) -> Self {
        Self {
            second: (u64::MAX, [b' '; 20]),
            client: (None, Vec::new()),
            result: (None, Vec::new()),
            redactor,
        }
    }

    /// The line as one JSON object.
    pub fn json(
        &mut self,
        out: &mut Vec<u8>,
        (record, named): (&Record, &Named),
        paid: Option<&Paid>,
        extra: Option<&Extra>,
    ) {
        out.extend_from_slice(b"{\"ts\":\"");
        self.timestamp(out, record.unix_us);
        out.extend_from_slice(b"\",\"level\":\"info\",\"msg\":\"request\",\"id\":\"");
        out.extend_from_slice(&hex(record.id));
        out.push(b'"');
        out.extend_from_slice(&named.members);
        let became = Became::of(record);
        if self.result.0.as_ref() != Some(&became) {
            self.result.1.clear();
            became.write(&mut self.result.1);
            self.result.0 = Some(became);
        }
        out.extend_from_slice(&self.result.1);
        number_member(out, b",\"bytes_in\":", record.bytes_in);
        number_member(out, b",\"bytes_out\":", record.bytes_out);
        if record.received_us == 0 {
            out.extend_from_slice(b",\"received_us\":0");
        } else {
            number_member(out, b",\"received_us\":", u64::from(record.received_us));
        }
        if record.queued_us > 0 {
            number_member(out, b",\"queued_us\":", u64::from(record.queued_us));
        }
        number_member(out, b",\"upstream_us\":", u64::from(record.upstream_us));
        number_member(out, b",\"first_byte_us\":", u64::from(record.first_byte_us));
        number_member(out, b",\"total_us\":", u64::from(record.total_us));
        if let Some(extra) = extra
            && !extra.tries.is_empty()
        {
            out.extend_from_slice(b",\"tries\":");
            tries(out, &extra.tries);
        }
        if let Some(paid) = paid {
            paid_members(out, paid);
        }
        if let Some(bodies) = extra.and_then(|extra| extra.bodies.as_ref()) {
            self.body(out, "request_body", &bodies.request);
            self.body(out, "answer_body", &bodies.answer);
        }
        if let Some(client) = record.client {
            if self.client.0 != record.client {
                self.client.1.clear();
                // Writing to a vector cannot fail.
                let _ = write!(self.client.1, ",\"client\":\"{client}\"");
                self.client.0 = record.client;
            }
            out.extend_from_slice(&self.client.1);
        }
        out.extend_from_slice(b"}\n");
    }

    /// The line as a person reads it.
    pub fn text(
        &mut self,
        out: &mut Vec<u8>,
        (record, named): (&Record, &Named),
        paid: Option<&Paid>,
        extra: Option<&Extra>,
    ) {
        let names = &named.names;
        self.timestamp(out, record.unix_us);
        let dash = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        // Writing to a vector cannot fail.
        let _ = writeln!(
            out,
            " {} {} {} {} {} -> {}/{} attempts={} in={} out={} upstream={}us total={}us{}{}{}{}{} id={}",
            record.status,
            outcome_text(record.outcome),
            names.method(),
            names.path(),
            // Escaped: a client's text must not steer the reader's terminal.
            dash(names.model()).escape_debug(),
            dash(names.provider()),
            dash(names.key()),
            record.attempts,
            record.bytes_in,
            record.bytes_out,
            record.upstream_us,
            record.total_us,
            if record.stream { " stream" } else { "" },
            record
                .cache
                .map_or_else(String::new, |cache| format!(" cache={}", cache.as_str())),
            record
                .reason
                .map_or_else(String::new, |reason| format!(" fallback={}", reason.as_str())),
            extra.map_or_else(String::new, |extra| extra.tries.iter().map(try_text).collect()),
            paid.map_or_else(String::new, paid_text),
            String::from_utf8_lossy(&hex(record.id)),
        );
    }

    /// What may be seen of a body, and whether it goes on beyond that.
    fn body(&self, out: &mut Vec<u8>, name: &str, (bytes, is_cut): &(Vec<u8>, bool)) {
        if bytes.is_empty() {
            return;
        }
        let named = |what: &str| format!(",\"{name}{what}\":").into_bytes();
        match self.redactor.apply(bytes) {
            Some(text) => text_member(out, &named(""), text.as_bytes()),
            None => text_member(out, &named(""), b"[not JSON]"),
        }
        if *is_cut {
            out.extend_from_slice(&named("_cut"));
            out.extend_from_slice(b"true");
        }
    }

    /// RFC 3339 in UTC with microseconds; a second is rendered once.
    fn timestamp(&mut self, out: &mut Vec<u8>, unix_us: u64) {
        let seconds = unix_us / 1_000_000;
        if self.second.0 != seconds {
            let mut text = *b"0000-00-00T00:00:00.";
            text[..10].copy_from_slice(&date(seconds / 86_400));
            digits(&mut text[11..13], seconds / 3600 % 24);
            digits(&mut text[14..16], seconds / 60 % 60);
            digits(&mut text[17..19], seconds % 60);
            self.second = (seconds, text);
        }
        out.extend_from_slice(&self.second.1);
        let micros = (unix_us % 1_000_000) as u32;
        let mut text = *b"000000Z";
        for (place, pair) in [(0, micros / 10_000), (2, micros / 100 % 100), (4, micros % 100)] {
            text[place..place + 2].copy_from_slice(&PAIRS[pair as usize]);
        }
        out.extend_from_slice(&text);
    }
}

/// The numbers below a hundred in two digits.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Attempts as a JSON array.
pub fn tries(out: &mut Vec<u8>, tries: &[Try]) {
    let mut open: &[u8] = b"[{\"provider\":";
    for one in tries {
        out.extend_from_slice(open);
        open = b",{\"provider\":";
        write_utf8(one.provider.as_bytes(), out);
        text_member(out, b",\"model\":", one.model.as_bytes());
        text_member(out, b",\"key\":", one.key.as_bytes());
        text_member(out, b",\"result\":", one.fate.as_str().as_bytes());
        if let Fate::PassedOver(_) = one.fate {
            out.extend_from_slice(b",\"asked\":false");
        }
        if one.status > 0 {
            number_member(out, b",\"status\":", u64::from(one.status));
        }
        number_member(out, b",\"at_us\":", u64::from(one.begun_us));
        number_member(out, b",\"took_us\":", u64::from(one.took_us));
        out.push(b'}');
    }
    out.extend_from_slice(if tries.is_empty() { b"[]" } else { b"]" });
}

fn try_text(one: &Try) -> String {
    let (provider, result) = (one.provider.as_str(), one.fate.as_str());
    format!(" {provider}:{result}:{}us", one.took_us)
}

/// Who was charged what.
fn paid_members(out: &mut Vec<u8>, paid: &Paid) {
    text_member(out, b",\"virtual_key\":", paid.key.as_bytes());
    text_member(out, b",\"tenant\":", paid.tenant.as_bytes());
    number_member(out, b",\"input_tokens\":", paid.input);
    number_member(out, b",\"cached_tokens\":", paid.cached);
    number_member(out, b",\"output_tokens\":", paid.output);
    text_member(out, b",\"cost_usd\":", paid.cost.to_string().as_bytes());
    out.extend_from_slice(if paid.priced {
        b",\"priced\":true"
    } else {
        b",\"priced\":false"
    });
    let mut open: &[u8] = b",\"tags\":{";
    for (name, value) in paid.tags.iter() {
        out.extend_from_slice(open);
        open = b",";
        write_utf8(name.as_bytes(), out);
        out.push(b':');
        write_utf8(value.as_bytes(), out);
    }
    if open == b"," {
        out.push(b'}');
    }
}

fn paid_text(paid: &Paid) -> String {
    let key = if paid.key.as_bytes().is_empty() {
        "-"
    } else {
        paid.key.as_str()
    };
    format!(" key={key} cost={}", paid.cost)
}

/// How a request ended, in a word.
pub fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "ok",
        Outcome::Refused(code) => code.as_str(),
        Outcome::ClientGone => "client_gone",
        Outcome::Interrupted => "stream_interrupted",
    }
}

/// A text that is not empty, behind its name; the name comes with its punctuation, so that it is one copy.
fn text_member(out: &mut Vec<u8>, name: &[u8], utf8: &[u8]) {
    if !utf8.is_empty() {
        out.extend_from_slice(name);
        write_utf8(utf8, out);
    }
}

fn number_member(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `YYYY-MM-DD` of a day since the epoch, in the proleptic Gregorian calendar.
fn date(day: u64) -> [u8; 10] {
    let (year, month, day_of_month) = calendar::civil(day);
    let mut text = *b"0000-00-00";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day_of_month);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (day, text) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_514, "2026-03-02"),
        ] {
            assert_eq!(date(day), text.as_bytes(), "{text}");
        }
    }
}
