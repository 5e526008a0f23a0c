//! The simulator's own books: what each key used of each model, and every attempt that arrived.
//!
//! This is the independent side of every budget and retry test, so it counts what the provider would charge for, not what was
//! delivered: an answer lost to a reset is billed, a stream is billed up to the last event written before its client left, an
//! error is not billed. An attempt is in the log from the moment its request is complete, so a silent provider's attempts show.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Attempts kept; older ones fall out of the ring.
pub const ATTEMPTS_MAX: usize = 100_000;
/// Distinct (key, model) rows; whatever comes after shares one row called `(other)`.
pub const ROWS_MAX: usize = 16_384;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Being answered now.
    InFlight,
    /// The whole response was written.
    Complete,
    /// The client left first.
    Cancelled,
    /// The script reset, closed or truncated it.
    Cut,
    /// The script stalled it until the client left.
    Stalled,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Cut => "cut",
            Self::Stalled => "stalled",
        }
    }
}

/// Names one attempt in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptId {
    number: u64,
    row: u32,
    epoch: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Monotonic time, in microseconds.
    pub now_us: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Input tokens charged.
    pub input_tokens: u64,
    /// Output tokens charged.
    pub output_tokens: u64,
    /// When the last byte was written, 0 if none was; monotonic microseconds.
    pub last_write_us: u64,
    /// Events of a stream that were written, 0 for a unary answer.
    pub events: u32,
}

#[derive(Debug, Default, Clone)]
struct Row {
    requests: u64,
    statuses: Vec<(u16, u64)>,
    input_tokens: u64,
    output_tokens: u64,
    cancelled: u64,
    in_flight: u64,
    in_flight_max: u64,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    time_us: u64,
    end_us: u64,
    last_write_us: u64,
    input_tokens: u64,
    output_tokens: u64,
    row: u32,
    connection: u32,
    events: u32,
    /// Attempts in flight when this one had arrived, itself included.
    beside: u32,
    status: u16,
    outcome: Outcome,
    path: u16,
    stream: bool,
}

/// All the books; callers hold the lock.
#[derive(Debug)]
pub struct Bill {
    names: Vec<(String, String)>,
    rows: Vec<Row>,
    by_name: HashMap<(String, String), u32>,
    paths: Vec<String>,
    ring: Vec<Attempt>,
    next: u64,
    epoch: u32,
    violations: HashMap<&'static str, u64>,
    in_flight: u64,
    in_flight_max: u64,
    /// TLS handshakes done in full.
    pub tls_full: u64,
    /// TLS handshakes resumed.
    pub tls_resumed: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
}

/// A (key, model) pair's row, remembered by a connection so that the next request need not look it up.
#[derive(Debug, Default)]
pub struct Memo {
    key: String,
    model: String,
    path: String,
    row: Option<(u32, u16)>,
}

/// Which attempts `GET /sim/attempts` shows.
#[derive(Debug, Default)]
pub struct Filter {
    /// Only of this model.
    pub model: Option<String>,
    /// Only of this key.
    pub key: Option<String>,
    /// Only with at least this number.
    pub since: u64,
    /// At most this many, the latest.
    pub limit: Option<usize>,
}

impl Default for Bill {
    fn default() -> Self {
        Self {
            names: vec![("(other)".to_owned(), "(other)".to_owned())],
            rows: vec![Row::default()],
            by_name: HashMap::new(),
            paths: vec!["(other)".to_owned()],
            ring: Vec::new(),
            next: 0,
            epoch: 0,
            violations: HashMap::new(),
            in_flight: 0,
            in_flight_max: 0,
            tls_full: 0,
            tls_resumed: 0,
            connections: 0,
            connections_open: 0,
        }
    }
}

impl Bill {
    /// Enters an attempt that has just arrived in full.
    pub fn begin(&mut self, memo: &mut Memo, who: (&str, &str, &str), connection: u32, now_us: u64) -> AttemptId {
        let (key, model, path) = who;
        let (row, path) = match memo.row {
            Some(held) if memo.key == key && memo.model == model && memo.path == path => held,
            _ => {
                let found = (self.row(key, model), self.path(path));
                *memo = Memo {
                    key: key.to_owned(),
                    model: model.to_owned(),
                    path: path.to_owned(),
                    row: Some(found),
                };
                found
            }
        };
        let entry = &mut self.rows[row as usize];
        entry.requests += 1;
        entry.in_flight += 1;
        entry.in_flight_max = entry.in_flight_max.max(entry.in_flight);
        self.in_flight += 1;
        self.in_flight_max = self.in_flight_max.max(self.in_flight);
        let attempt = Attempt {
            time_us: now_us,
            end_us: 0,
            last_write_us: 0,
            input_tokens: 0,
            output_tokens: 0,
            row,
            connection,
            events: 0,
            beside: self.in_flight as u32,
            status: 0,
            outcome: Outcome::InFlight,
            path,
            stream: false,
        };
        let number = self.next;
        self.next += 1;
        let at = (number % ATTEMPTS_MAX as u64) as usize;
        if at == self.ring.len() {
            self.ring.push(attempt);
        } else {
            self.ring[at] = attempt;
        }
        AttemptId {
            number,
            row,
            epoch: self.epoch,
        }
    }

    /// Notes the status chosen for an attempt (0 when no status line is sent) and whether it streams.
    pub fn status(&mut self, id: AttemptId, status: u16, stream: bool) {
        if id.epoch != self.epoch {
            return;
        }
        let statuses = &mut self.rows[id.row as usize].statuses;
        match statuses.iter_mut().find(|(held, _)| *held == status) {
            Some((_, count)) => *count += 1,
            None => statuses.push((status, 1)),
        }
        if let Some(attempt) = self.attempt(id) {
            (attempt.status, attempt.stream) = (status, stream);
        }
    }

    /// Closes an attempt and charges for it.
    pub fn end(&mut self, id: AttemptId, ending: Ending) {
        if id.epoch != self.epoch {
            return;
        }
        self.in_flight -= 1;
        let row = &mut self.rows[id.row as usize];
        row.in_flight -= 1;
        row.input_tokens += ending.input_tokens;
        row.output_tokens += ending.output_tokens;
        row.cancelled += u64::from(ending.outcome == Outcome::Cancelled);
        if let Some(attempt) = self.attempt(id) {
            attempt.end_us = ending.now_us;
            attempt.outcome = ending.outcome;
            attempt.last_write_us = ending.last_write_us;
            attempt.input_tokens = ending.input_tokens;
            attempt.output_tokens = ending.output_tokens;
            attempt.events = ending.events;
        }
    }

    /// Counts a request that HTTP forbids; the proxy under test must never send one.
    pub fn violation(&mut self, name: &'static str) {
        *self.violations.entry(name).or_default() += 1;
    }

    /// Forgets everything but the connections that are open. Attempts still in flight are not charged afterwards.
    pub fn reset(&mut self) {
        self.rows.iter_mut().for_each(|row| *row = Row::default());
        self.ring.clear();
        self.next = 0;
        self.epoch = self.epoch.wrapping_add(1);
        self.violations.clear();
        (self.in_flight, self.in_flight_max) = (0, 0);
        (self.tls_full, self.tls_resumed, self.connections) = (0, 0, 0);
    }

    /// The bill as JSON (SIM.md gives its shape).
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::from("{\"rows\":[");
        let mut total = Row::default();
        let mut first = true;
        for (row, (key, model)) in self.rows.iter().zip(&self.names).filter(|(row, _)| row.requests > 0) {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            let _ = write!(out, "{{\"key\":{},\"model\":{},", quoted(key), quoted(model));
            write_row(&mut out, row);
            out.push('}');
            add(&mut total, row);
        }
        total.in_flight_max = self.in_flight_max;
        out.push_str("],\"total\":{");
        write_row(&mut out, &total);
        let _ = write!(
            out,
            "}},\"connections\":{},\"connections_open\":{},\"tls_full\":{},\"tls_resumed\":{},\"violations\":{{",
            self.connections, self.connections_open, self.tls_full, self.tls_resumed
        );
        let violations: Vec<String> = self
            .violations
            .iter()
            .map(|(name, count)| format!("\"{name}\":{count}"))
            .collect();
        out.push_str(&violations.join(","));
        out.push_str("}}");
        out
    }

    /// The attempts that `filter` lets through, oldest first, as JSON.
    #[must_use]
    pub fn attempts_json(&self, filter: &Filter) -> String {
        let oldest = self.next.saturating_sub(ATTEMPTS_MAX as u64).max(filter.since);
        let wanted = (oldest..self.next).filter(|number| {
            let (key, model) = &self.names[self.ring[at(*number)].row as usize];
            filter.model.as_ref().is_none_or(|wanted| wanted == model)
                && filter.key.as_ref().is_none_or(|wanted| wanted == key)
        });
        let numbers: Vec<u64> = wanted.collect();
        let skip = numbers.len().saturating_sub(filter.limit.unwrap_or(usize::MAX));
        let mut out = format!("{{\"next\":{},\"attempts\":[", self.next);
        for (index, number) in numbers.iter().skip(skip).enumerate() {
            if index > 0 {
                out.push(',');
            }
            self.write_attempt(&mut out, *number);
        }
        out.push_str("]}");
        out
    }

    fn write_attempt(&self, out: &mut String, number: u64) {
        let attempt = &self.ring[at(number)];
        let (key, model) = &self.names[attempt.row as usize];
        let _ = write!(
            out,
            "{{\"number\":{number},\"time_us\":{},\"end_us\":{},\"last_write_us\":{},\"key\":{},\"model\":{},\"path\":{},\"connection\":{},\
             \"stream\":{},\"status\":{},\"outcome\":\"{}\",\"events\":{},\"in_flight\":{},\"input_tokens\":{},\"output_tokens\":{}}}",
            attempt.time_us,
            attempt.end_us,
            attempt.last_write_us,
            quoted(key),
            quoted(model),
            quoted(&self.paths[attempt.path as usize]),
            attempt.connection,
            attempt.stream,
            attempt.status,
            attempt.outcome.name(),
            attempt.events,
            attempt.beside,
            attempt.input_tokens,
            attempt.output_tokens
        );
    }

    fn attempt(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        let kept = id.number + ATTEMPTS_MAX as u64 >= self.next;
        kept.then(|| &mut self.ring[at(id.number)])
    }

    fn row(&mut self, key: &str, model: &str) -> u32 {
        let name = (key.to_owned(), model.to_owned());
        if let Some(row) = self.by_name.get(&name) {
            return *row;
        }
        if self.rows.len() > ROWS_MAX {
            return 0;
        }
        let row = self.rows.len() as u32;
        self.rows.push(Row::default());
        self.names.push(name.clone());
        self.by_name.insert(name, row);
        row
    }

    fn path(&mut self, path: &str) -> u16 {
        if let Some(found) = self.paths.iter().position(|held| held == path) {
            return found as u16;
        }
        if self.paths.len() >= 1024 || path.len() > 1024 {
            return 0;
        }
        self.paths.push(path.to_owned());
        (self.paths.len() - 1) as u16
    }
}

fn at(number: u64) -> usize {
    (number % ATTEMPTS_MAX as u64) as usize
}

fn add(total: &mut Row, row: &Row) {
    total.requests += row.requests;
    total.input_tokens += row.input_tokens;
    total.output_tokens += row.output_tokens;
    total.cancelled += row.cancelled;
    total.in_flight += row.in_flight;
    for (status, count) in &row.statuses {
        match total.statuses.iter_mut().find(|(held, _)| held == status) {
            Some((_, sum)) => *sum += count,
            None => total.statuses.push((*status, *count)),
        }
    }
}

fn write_row(out: &mut String, row: &Row) {
    let statuses: Vec<String> = row
        .statuses
        .iter()
        .map(|(status, count)| format!("\"{status}\":{count}"))
        .collect();
    let _ = write!(
        out,
        "\"requests\":{},\"statuses\":{{{}}},\"input_tokens\":{},\"output_tokens\":{},\"cancelled\":{},\"in_flight\":{},\"in_flight_max\":{}",
        row.requests,
        statuses.join(","),
        row.input_tokens,
        row.output_tokens,
        row.cancelled,
        row.in_flight,
        row.in_flight_max
    );
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(outcome: Outcome) -> Ending {
        Ending {
            now_us: 9,
            outcome,
            input_tokens: 3,
            output_tokens: 4,
            last_write_us: 8,
            events: 2,
        }
    }

    #[test]
    fn rows_add_up_per_key_and_model() {
        let (mut bill, mut memo) = (Bill::default(), Memo::default());
        for (key, model) in [("a", "m"), ("a", "m"), ("b", "m")] {
            let id = bill.begin(&mut memo, (key, model, "/p"), 1, 5);
            bill.status(id, 200, false);
            bill.end(id, end(Outcome::Complete));
        }
        let json: serde_json::Value = serde_json::from_str(&bill.to_json()).expect("JSON");
        assert_eq!(json["rows"][0]["output_tokens"], 8);
        assert_eq!(json["rows"][1]["key"], "b");
        assert_eq!(json["total"]["statuses"]["200"], 3);
        assert_eq!(json["total"]["input_tokens"], 9);
    }

    #[test]
    fn the_most_at_once_are_remembered_per_row_and_in_all() {
        let (mut bill, mut memo) = (Bill::default(), Memo::default());
        let ids: Vec<AttemptId> = ["a", "a", "b"]
            .iter()
            .map(|key| bill.begin(&mut memo, (key, "m", "/p"), 1, 5))
            .collect();
        ids.into_iter().for_each(|id| bill.end(id, end(Outcome::Cancelled)));
        let json: serde_json::Value = serde_json::from_str(&bill.to_json()).expect("JSON");
        assert_eq!(json["rows"][0]["in_flight_max"], 2);
        assert_eq!(json["rows"][1]["in_flight_max"], 1);
        assert_eq!(json["total"]["in_flight_max"], 3);
        assert_eq!(json["total"]["in_flight"], 0);
        let attempts = bill.attempts_json(&Filter::default());
        let json: serde_json::Value = serde_json::from_str(&attempts).expect("JSON");
        assert_eq!(json["attempts"][1]["in_flight"], 2);
        assert_eq!(json["attempts"][1]["events"], 2);
    }

    #[test]
    fn an_attempt_that_outlives_a_reset_is_not_charged() {
        let (mut bill, mut memo) = (Bill::default(), Memo::default());
        let id = bill.begin(&mut memo, ("a", "m", "/p"), 1, 5);
        bill.reset();
        bill.status(id, 200, false);
        bill.end(id, end(Outcome::Complete));
        let json: serde_json::Value = serde_json::from_str(&bill.to_json()).expect("JSON");
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(0));
    }

    #[test]
    fn the_ring_keeps_the_latest_attempts() {
        let (mut bill, mut memo) = (Bill::default(), Memo::default());
        let first = bill.begin(&mut memo, ("a", "m", "/p"), 1, 5);
        for _ in 0..ATTEMPTS_MAX {
            let id = bill.begin(&mut memo, ("a", "m", "/p"), 1, 5);
            bill.end(id, end(Outcome::Cancelled));
        }
        bill.end(first, end(Outcome::Complete));
        let filter = Filter {
            limit: Some(2),
            ..Filter::default()
        };
        let json: serde_json::Value = serde_json::from_str(&bill.attempts_json(&filter)).expect("JSON");
        assert_eq!(json["attempts"].as_array().map(Vec::len), Some(2));
        assert_eq!(json["attempts"][1]["number"], ATTEMPTS_MAX as u64);
        assert_eq!(json["attempts"][1]["outcome"], "cancelled");
    }
}
