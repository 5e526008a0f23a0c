//! The request log: one line per request, JSON or text, formatted and written here, away from the cores.
//!
//! Invariants: never a key's secret, and a body only of a virtual key that it is switched on for, redacted; one line is one JSON object; failed requests are always written, others
//! by the sampled share; a log that cannot be written never stops a request. Deliberately absent: when a file is replaced (`log/file.rs`).

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use sluice_policy::config::{LogBodies, LogRequests};
use sluice_policy::redact::Redactor;

use self::file::{LogFile, Rotation};
use self::line::Lines;
pub use self::line::{outcome_text, tries};
use super::roster::Named;
use crate::record::{Extra, Outcome, Paid, Record};

mod file;
mod line;

/// Bytes gathered before they are written.
const FLUSH_BYTES: usize = 64 * 1024;

/// Where lines go and how they look.
pub struct RequestLog {
    output: Output,
    json: bool,
    /// A record is sampled if the upper half of its id is below this.
    sampled_below: u64,
    lines: Vec<u8>,
    form: Lines,
}

enum Output {
    None,
    Stdout,
    File(LogFile),
}

impl RequestLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened for append.
    pub fn open(settings: &LogRequests, bodies: &LogBodies, json: bool) -> io::Result<Self> {
        let rotation = Rotation {
            size: settings.rotate.size.map(|size| size.0),
            age: settings
                .rotate
                .age_hours
                .map(|hours| Duration::from_secs(u64::from(hours) * 3600)),
            keep: settings.rotate.keep,
        };
        let output = match settings.output.as_str() {
            "none" => Output::None,
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
            form: Lines::new(Redactor::new(&bodies.redact, bodies.emails)),
        })
    }

    /// Adds the line of one request, with what it cost whom if anybody is charged for it, and what is out of the ordinary.
    pub fn add(&mut self, record: &Record, named: &Named, paid: Option<&Paid>, extra: Option<&Extra>) {
        if let Output::None = self.output {
            return;
        }
        let failed = record.outcome != Outcome::Done || record.status >= 400;
        let sampled = self.sampled_below == u64::MAX || ((record.id >> 64) as u64) < self.sampled_below;
        if !failed && !sampled {
            return;
        }
        if self.json {
            self.form.json(&mut self.lines, (record, named), paid, extra);
        } else {
            self.form.text(&mut self.lines, (record, named), paid, extra);
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
            Output::None => Ok(()),
            Output::Stdout => io::stdout().lock().write_all(&self.lines),
            Output::File(file) => file.write(&self.lines),
        };
        if let Err(error) = written {
            tracing::warn!(%error, lost_bytes = self.lines.len(), "the request log cannot be written");
        }
        self.lines.clear();
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::spent::Spent;
    use crate::record::Names;
    use sluice_policy::meter::Reason;
    use sluice_wire::error::Code;

    const EVIL: &str = "evil\"\n\u{1b}[31m";

    fn record() -> Record {
        Record {
            unix_us: 1_763_824_170_000_042,
            id: 7 << 64 | 9,
            status: 200,
            attempts: 2,
            fallback: true,
            stream: false,
            paid: false,
            extra: false,
            named: true,
            names: 0,
            cache: None,
            outcome: Outcome::Done,
            resumed: false,
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

    fn named(model: &str, key: &str) -> Named {
        let mut names = Names::of(b"POST", b"/v1/chat/completions");
        names.set_model(model);
        names.set_asked("openai", key);
        Named::of(1, names, &mut Spent::default())
    }

    fn line(json: bool, sample: f64, record: &Record) -> String {
        let settings = LogRequests {
            sample,
            ..LogRequests::default()
        };
        let mut log = RequestLog::open(&settings, &LogBodies::default(), json).unwrap();
        log.add(record, &named(EVIL, "PRIMARY"), None, None);
        String::from_utf8(std::mem::take(&mut log.lines)).unwrap()
    }

    #[test]
    fn a_json_line_is_one_object_whatever_the_client_sent() {
        let text = line(true, 1.0, &record());
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["ts"], "2025-11-22T15:09:30.000042Z");
        assert_eq!(value["model"], EVIL);
        assert_eq!(value["fallback_reason"], "upstream_timeout");
        assert_eq!(value["attempts"], 2);
    }

    #[test]
    fn a_line_names_what_its_own_request_was_about() {
        let mut log = RequestLog::open(&LogRequests::default(), &LogBodies::default(), true).unwrap();
        let (usual, other) = (named(EVIL, "PRIMARY"), named("other", ""));
        for named in [&usual, &usual, &other, &usual] {
            log.add(&record(), named, None, None);
        }
        let lines: Vec<serde_json::Value> = String::from_utf8(std::mem::take(&mut log.lines))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[2]["model"], "other");
        assert!(lines[2].get("key").is_none());
        for at in [0, 1, 3] {
            assert_eq!(lines[at]["model"], EVIL);
            assert_eq!(lines[at]["key"], "PRIMARY");
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
        let text = line(false, 1.0, &record());
        let asked = format!(
            "200 ok POST /v1/chat/completions {} -> openai/PRIMARY",
            EVIL.escape_debug()
        );
        assert!(text.contains(&asked), "{text}");
        assert!(text.contains("fallback=upstream_timeout"), "{text}");
    }
}
