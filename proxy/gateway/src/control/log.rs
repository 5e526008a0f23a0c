//! The request log: one line per request, JSON or text, formatted and written here, away from the cores.
//!
//! Invariants: never a body, never a key's secret; one line is one JSON object; failed requests are always written, others
//! by the sampled share; a log that cannot be written never stops a request. Deliberately absent: when a file is replaced (`log/file.rs`).

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use sluice_policy::config::LogRequests;
use sluice_wire::error::write_utf8;

use self::file::{LogFile, Rotation};
use crate::record::{Outcome, Paid, Record};
use crate::reply::hex;

mod file;

/// Bytes gathered before they are written.
const FLUSH_BYTES: usize = 64 * 1024;

/// Where lines go and how they look.
pub struct RequestLog {
    output: Output,
    json: bool,
    /// A record is sampled if the upper half of its id is below this.
    sampled_below: u64,
    lines: Vec<u8>,
    day: (u64, [u8; 10]),
    names: Names,
}

/// The members that say what was asked of whom; rendered anew only if they differ from those of the line before.
#[derive(Default)]
struct Names {
    texts: [Vec<u8>; 5],
    rendered: Vec<u8>,
}

impl Names {
    fn of(&mut self, record: &Record) -> &[u8] {
        const KEYS: [&[u8]; 5] = [
            b",\"method\":",
            b",\"path\":",
            b",\"model\":",
            b",\"provider\":",
            b",\"key\":",
        ];
        let texts = [
            record.method.as_bytes(),
            record.path.as_bytes(),
            record.model.as_bytes(),
            record.provider.as_bytes(),
            record.key.as_bytes(),
        ];
        if self.texts != texts {
            self.rendered.clear();
            for ((kept, text), key) in self.texts.iter_mut().zip(texts).zip(KEYS) {
                kept.clear();
                kept.extend_from_slice(text);
                text_member(&mut self.rendered, key, text);
            }
        }
        &self.rendered
    }
}

enum Output {
    Stdout,
    File(LogFile),
}

impl RequestLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened for append.
    pub fn open(settings: &LogRequests, json: bool) -> io::Result<Self> {
        let rotation = Rotation {
            size: settings.rotate.size.map(|size| size.0),
            age: settings
                .rotate
                .age_hours
                .map(|hours| Duration::from_secs(u64::from(hours) * 3600)),
            keep: settings.rotate.keep,
        };
        let output = match settings.output.as_str() {
            "stdout" => Output::Stdout,
            path => Output::File(LogFile::open(Path::new(path), rotation)?),
        };
        // The product is at most 2^64; the cast saturates.
        let sampled_below = (settings.sample.clamp(0.0, 1.0) * 2f64.powi(64)) as u64;
        Ok(Self {
            output,
            json,
            sampled_below,
            lines: Vec::with_capacity(FLUSH_BYTES),
            day: (u64::MAX, [b' '; 10]),
            names: Names::default(),
        })
    }

    /// Adds the line of one request, with what it cost whom if anybody is charged for it.
    pub fn add(&mut self, record: &Record, paid: Option<&Paid>) {
        let failed = record.outcome != Outcome::Done || record.status >= 400;
        let sampled = self.sampled_below == u64::MAX || ((record.id >> 64) as u64) < self.sampled_below;
        if !failed && !sampled {
            return;
        }
        if self.json {
            self.json_line(record, paid)
        } else {
            self.text_line(record, paid)
        }
        if self.lines.len() >= FLUSH_BYTES {
            self.flush();
        }
    }

    /// Goes on with whatever file has the log's name now, after somebody else has renamed the one before.
    pub fn reopen(&mut self) {
        self.flush();
        if let Output::File(file) = &mut self.output
            && let Err(error) = file.reopen()
        {
            tracing::warn!(%error, "the request log cannot be opened anew");
        }
    }

    /// Writes what has been gathered.
    pub fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let written = match &mut self.output {
            Output::Stdout => io::stdout().lock().write_all(&self.lines),
            Output::File(file) => file.write(&self.lines),
        };
        if let Err(error) = written {
            tracing::warn!(%error, lost_bytes = self.lines.len(), "the request log cannot be written");
        }
        self.lines.clear();
    }

    fn json_line(&mut self, record: &Record, paid: Option<&Paid>) {
        self.lines.extend_from_slice(b"{\"ts\":\"");
        self.timestamp(record.unix_us);
        let out = &mut self.lines;
        out.extend_from_slice(b"\",\"level\":\"info\",\"msg\":\"request\",\"id\":\"");
        out.extend_from_slice(&hex(record.id));
        out.push(b'"');
        out.extend_from_slice(self.names.of(record));
        number_member(out, b",\"status\":", u64::from(record.status));
        match record.outcome {
            Outcome::Done => out.extend_from_slice(b",\"outcome\":\"ok\""),
            other => text_member(out, b",\"outcome\":", outcome_text(other).as_bytes()),
        }
        if let Some(reason) = record.reason {
            text_member(out, b",\"fallback_reason\":", reason.as_str().as_bytes());
        }
        if !record.given_up.as_bytes().is_empty() {
            text_member(out, b",\"given_up_provider\":", record.given_up.as_bytes());
            text_member(out, b",\"given_up_key\":", record.given_up_key.as_bytes());
        }
        if let Some(cache) = record.cache {
            text_member(out, b",\"cache\":", cache.as_str().as_bytes());
        }
        flag_member(out, b",\"stream\":", record.stream);
        flag_member(out, b",\"fallback\":", record.fallback);
        if record.resumed {
            flag_member(out, b",\"resumed\":", true);
        }
        number_member(out, b",\"attempts\":", u64::from(record.attempts));
        number_member(out, b",\"bytes_in\":", record.bytes_in);
        number_member(out, b",\"bytes_out\":", record.bytes_out);
        number_member(out, b",\"received_us\":", u64::from(record.received_us));
        number_member(out, b",\"upstream_us\":", u64::from(record.upstream_us));
        number_member(out, b",\"first_byte_us\":", u64::from(record.first_byte_us));
        number_member(out, b",\"total_us\":", u64::from(record.total_us));
        number_member(out, b",\"core\":", u64::from(record.core));
        if let Some(paid) = paid {
            paid_members(out, paid);
        }
        if let Some(client) = record.client {
            out.extend_from_slice(b",\"client\":\"");
            address(out, client);
            out.push(b'"');
        }
        out.extend_from_slice(b"}\n");
    }

    fn text_line(&mut self, record: &Record, paid: Option<&Paid>) {
        self.timestamp(record.unix_us);
        let dash = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        // Writing to a vector cannot fail.
        let _ = writeln!(
            self.lines,
            " {} {} {} {} {} -> {}/{} attempts={} in={} out={} upstream={}us total={}us{}{}{}{} id={}",
            record.status,
            outcome_text(record.outcome),
            record.method.as_str(),
            record.path.as_str(),
            // Escaped: a client's text must not steer the reader's terminal.
            dash(record.model.as_str()).escape_debug(),
            dash(record.provider.as_str()),
            dash(record.key.as_str()),
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
            paid.map_or_else(String::new, paid_text),
            String::from_utf8_lossy(&hex(record.id)),
        );
    }

    /// RFC 3339 in UTC with microseconds; the date is worked out once a day.
    fn timestamp(&mut self, unix_us: u64) {
        let seconds = unix_us / 1_000_000;
        let day = seconds / 86_400;
        if self.day.0 != day {
            self.day = (day, date(day));
        }
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let mut text = *b"T00:00:00.000000Z";
        digits(&mut text[1..3], hour);
        digits(&mut text[4..6], minute);
        digits(&mut text[7..9], second);
        digits(&mut text[10..16], unix_us % 1_000_000);
        self.lines.extend_from_slice(&self.day.1);
        self.lines.extend_from_slice(&text);
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Who was charged what.
fn paid_members(out: &mut Vec<u8>, paid: &Paid) {
    text_member(out, b",\"virtual_key\":", paid.key.as_bytes());
    text_member(out, b",\"tenant\":", paid.tenant.as_bytes());
    number_member(out, b",\"input_tokens\":", paid.input);
    number_member(out, b",\"cached_tokens\":", paid.cached);
    number_member(out, b",\"output_tokens\":", paid.output);
    text_member(out, b",\"cost_usd\":", paid.cost.to_string().as_bytes());
    flag_member(out, b",\"priced\":", paid.priced);
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

fn flag_member(out: &mut Vec<u8>, name: &[u8], value: bool) {
    out.extend_from_slice(name);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// An IP address; the common form without the detours of `fmt`.
fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `YYYY-MM-DD` of a day since the epoch, in the proleptic Gregorian calendar.
fn date(day: u64) -> [u8; 10] {
    // Days since 0000-03-01; a leap day is then the last day of its year.
    let days = day + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = *b"0000-00-00";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day_of_month);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Label;
    use sluice_policy::meter::Reason;
    use sluice_wire::error::Code;

    fn record() -> Record {
        Record {
            unix_us: 1_763_824_170_000_042,
            id: 7 << 64 | 9,
            core: 1,
            status: 200,
            attempts: 2,
            fallback: true,
            stream: false,
            paid: false,
            cache: None,
            outcome: Outcome::Done,
            method: Label::new("POST"),
            path: Label::new("/v1/chat/completions"),
            model: Label::new("evil\"\n\u{1b}[31m"),
            provider: Label::new("openai"),
            key: Label::new("PRIMARY"),
            resumed: false,
            given_up: Label::EMPTY,
            given_up_key: Label::EMPTY,
            reason: Some(Reason::Failed(Code::UpstreamTimeout)),
            client: Some([127, 0, 0, 1].into()),
            bytes_in: 1700,
            bytes_out: 700,
            received_us: 1,
            first_byte_us: 2,
            total_us: 3,
            upstream_us: 1,
            queued_us: 0,
        }
    }

    fn line(json: bool, sample: f64, record: &Record) -> String {
        let settings = LogRequests {
            sample,
            ..LogRequests::default()
        };
        let mut log = RequestLog::open(&settings, json).unwrap();
        log.add(record, None);
        String::from_utf8(std::mem::take(&mut log.lines)).unwrap()
    }

    #[test]
    fn a_json_line_is_one_object_whatever_the_client_sent() {
        let text = line(true, 1.0, &record());
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["ts"], "2025-11-22T15:09:30.000042Z");
        assert_eq!(value["model"], "evil\"\n\u{1b}[31m");
        assert_eq!(value["fallback_reason"], "upstream_timeout");
        assert_eq!(value["attempts"], 2);
    }

    #[test]
    fn a_line_names_what_its_own_request_was_about() {
        let mut log = RequestLog::open(&LogRequests::default(), true).unwrap();
        let other = Record {
            model: Label::new("other"),
            key: Label::EMPTY,
            ..record()
        };
        for record in [&record(), &record(), &other, &record()] {
            log.add(record, None);
        }
        let lines: Vec<serde_json::Value> = String::from_utf8(std::mem::take(&mut log.lines))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[2]["model"], "other");
        assert!(lines[2].get("key").is_none());
        for at in [0, 1, 3] {
            assert_eq!(lines[at]["model"], "evil\"\n\u{1b}[31m");
            assert_eq!(lines[at]["key"], "PRIMARY");
        }
    }

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

    #[test]
    fn sampling_drops_successes_and_keeps_failures() {
        assert!(line(true, 0.0, &record()).is_empty());
        assert!(
            !line(
                true,
                0.0,
                &Record {
                    status: 502,
                    ..record()
                }
            )
            .is_empty()
        );
        assert!(
            !line(
                true,
                0.0,
                &Record {
                    outcome: Outcome::ClientGone,
                    ..record()
                }
            )
            .is_empty()
        );
        assert!(
            line(
                true,
                0.5,
                &Record {
                    id: u128::MAX,
                    ..record()
                }
            )
            .is_empty()
        );
        assert!(!line(true, 0.5, &record()).is_empty());
    }

    #[test]
    fn a_text_line_holds_what_a_person_looks_for() {
        let text = line(
            false,
            1.0,
            &Record {
                model: Label::new("openai/gpt-4o-mini"),
                ..record()
            },
        );
        assert!(
            text.contains("200 ok POST /v1/chat/completions openai/gpt-4o-mini -> openai/PRIMARY"),
            "{text}"
        );
        assert!(text.contains("fallback=upstream_timeout"), "{text}");
    }
}
