//! `sluice log`: single requests, from the ledger of a running gateway or from a file of its request log.
//!
//! Invariants: JSON is one object a line, so that it can be piped; of the ledger the newest requests are shown, oldest first.
//! Deliberately absent: following a file, which `tail -f` does.

use std::io::BufRead;
use std::path::PathBuf;

use serde_json::Value;

use super::client::{Access, segment};
use super::table::table;
use super::words;

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// Of this virtual key.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// From then on: 1h ago, or 2026-11-01.
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    since: String,
    /// Up to, and without, then; now, if nothing is said.
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// ok, error, or a status such as 429.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Lines at most: the newest.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    lines: u32,
    /// As JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Read this file of the request log (JSON lines) instead of asking a gateway: works without accounts.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What `--status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Any,
    Ok,
    Error,
    Exactly(u16),
}

impl Status {
    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            None => Ok(Self::Any),
            Some("ok") => Ok(Self::Ok),
            Some("error") => Ok(Self::Error),
            Some(number) => number
                .parse()
                .map(Self::Exactly)
                .map_err(|_| format!("{number:?} is not a status: ok, error, or a number such as 429")),
        }
    }

    fn fits(self, line: &Value) -> bool {
        let status = line["status"].as_u64().unwrap_or(0);
        let failed = line["outcome"] != "ok" || status >= 400;
        match self {
            Self::Any => true,
            Self::Ok => !failed,
            Self::Error => failed,
            Self::Exactly(wanted) => status == u64::from(wanted),
        }
    }
}

/// Carries it out; what to print.
///
/// # Errors
/// In words.
pub fn run(args: &Args) -> Result<String, String> {
    let now_s = words::now_s();
    let status = Status::read(args.status.as_deref())?;
    let from_s = words::moment_s(&args.since, now_s, false)?;
    let to_s = match &args.until {
        Some(until) => words::moment_s(until, now_s, false)?,
        None => now_s + 1,
    };
    let mut rows = match &args.file {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            of_file(std::io::BufReader::new(file), args, status, (from_s, to_s))
        }
        None => of_ledger(args, status, (from_s, to_s))?,
    };
    let surplus = rows.len().saturating_sub(args.lines as usize);
    rows.drain(..surplus);
    if args.json {
        return Ok(rows.iter().map(|row| format!("{row}\n")).collect());
    }
    let text = |row: &Value, name: &str| match &row[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let line = |row: &Value| {
        let when = match row["unix_s"].as_u64() {
            Some(unix_s) => words::shown_time(unix_s),
            None => text(row, "ts"),
        };
        let tokens = format!("{}/{}", text(row, "input_tokens"), text(row, "output_tokens"));
        let ms = format!("{:.1}", row["total_us"].as_u64().unwrap_or(0) as f64 / 1e3);
        vec![
            when,
            text(row, "virtual_key"),
            target(row),
            text(row, "status"),
            text(row, "outcome"),
            text(row, "attempts"),
            tokens,
            text(row, "cost_usd"),
            ms,
            text(row, "id"),
            row["tries"].as_array().map_or_else(String::new, |tries| went(tries)),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let heading = [
        "WHEN (UTC)",
        "KEY",
        "TARGET",
        "STATUS",
        "OUTCOME",
        "TRIES",
        "TOKENS",
        "USD",
        "MS",
        "ID",
        "WENT",
    ];
    Ok(table(&heading, &lines))
}

/// Who was asked last, or would have been: what the row says, unless its attempts know better.
fn target(row: &Value) -> String {
    let mut tries = row["tries"].as_array().into_iter().flatten();
    let of = tries.rfind(|one| one["asked"] != false).unwrap_or(row);
    let text = |name: &str| of[name].as_str().unwrap_or_default();
    let (provider, model) = (text("provider"), text("model"));
    match (provider, model) {
        ("", "") => "-".to_owned(),
        ("", name) | (name, "") => name.to_owned(),
        // The request log has the model as the client named it.
        _ if model.strip_prefix(provider).is_some_and(|rest| rest.starts_with('/')) => model.to_owned(),
        _ => format!("{provider}/{model}"),
    }
}

/// Attempts in a line: who was asked, what became of it, and how long that took.
fn went(tries: &[Value]) -> String {
    let one = |one: &Value| {
        let text = |name: &str| one[name].as_str().unwrap_or_default();
        let ms = one["took_us"].as_u64().unwrap_or(0) as f64 / 1e3;
        match one["asked"].as_bool() {
            Some(false) => format!("{}: not asked ({})", text("provider"), text("result")),
            _ => format!("{}: {} {ms:.1} ms", text("provider"), text("result")),
        }
    };
    tries.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn of_ledger(args: &Args, status: Status, (from_s, to_s): (u64, u64)) -> Result<Vec<Value>, String> {
    let mut path = format!("/requests?from_s={from_s}&to_s={to_s}&lines={}", args.lines);
    if let Some(key) = &args.key {
        path.push_str(&format!("&key={}", segment(key)));
    }
    match status {
        Status::Any => {}
        Status::Ok => path.push_str("&status=ok"),
        Status::Error => path.push_str("&status=error"),
        Status::Exactly(number) => path.push_str(&format!("&status={number}")),
    }
    let why = |why| format!("{why}\nWithout accounts there is no ledger: read the request log's file with --file");
    let rows = args.access.client().and_then(|client| client.get(&path)).map_err(why)?;
    let mut rows = rows.as_array().cloned().unwrap_or_default();
    rows.reverse();
    Ok(rows)
}

fn of_file(file: impl BufRead, args: &Args, status: Status, (from_s, to_s): (u64, u64)) -> Vec<Value> {
    // Times of the log are of one form and in UTC, so they can be compared as they stand.
    let moment = |unix_s| words::shown_time(unix_s).replace(' ', "T");
    let (from, to) = (moment(from_s), moment(to_s));
    let most = args.lines as usize;
    let mut rows = std::collections::VecDeque::new();
    for line in file.lines().map_while(Result::ok) {
        let Ok(row) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let when = row["ts"].as_str().unwrap_or_default();
        let in_time = when >= from.as_str() && when < to.as_str();
        let is_theirs = args.key.as_ref().is_none_or(|key| row["virtual_key"] == **key);
        if row["msg"] == "request" && in_time && is_theirs && status.fits(&row) {
            rows.push_back(row);
            if rows.len() > most {
                rows.pop_front();
            }
        }
    }
    rows.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_target_is_who_was_asked_last() {
        let of = |text: &str| target(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"provider":"openai","model":"gpt-4o"}"#), "openai/gpt-4o");
        assert_eq!(of(r#"{"provider":"openai","model":"openai/gpt-4o"}"#), "openai/gpt-4o");
        assert_eq!(of(r#"{"model":"nobody/x"}"#), "nobody/x");
        assert_eq!(of(r#"{"status":413}"#), "-");
        let tries = r#"{"provider":"backup","model":"openai/gpt-4o","tries":[{"provider":"openai","model":"gpt-4o"},
            {"provider":"backup","model":"spare"},{"provider":"third","model":"x","asked":false}]}"#;
        assert_eq!(of(tries), "backup/spare");
    }

    #[test]
    fn a_file_is_filtered_by_key_time_and_status() {
        let line = |hour: u32, key: &str, status: u32, outcome: &str| {
            format!(
                "{{\"ts\":\"2026-11-22T{hour:02}:00:00.000001Z\",\"msg\":\"request\",\"virtual_key\":\"{key}\",\"status\":{status},\"outcome\":\"{outcome}\"}}\n"
            )
        };
        let text = [
            line(1, "station-14", 200, "ok"),
            line(2, "station-14", 429, "rate_limit_exceeded"),
            "no JSON\n".to_owned(),
            line(3, "station-15", 500, "ok"),
            line(4, "station-14", 200, "client_gone"),
            line(23, "station-14", 502, "upstream_error"),
        ]
        .concat();
        let found = |words: &[&str]| -> Vec<u64> {
            let args = Cli::parse_from([&["log"], words].concat()).args;
            let status = Status::read(args.status.as_deref()).unwrap();
            let day_s = words::moment_s("2026-11-22", 0, false).unwrap();
            let rows = of_file(text.as_bytes(), &args, status, (day_s, day_s + 12 * 3600));
            rows.iter().map(|row| row["status"].as_u64().unwrap()).collect()
        };
        assert_eq!(found(&[]), [200, 429, 500, 200]);
        assert_eq!(found(&["--key", "station-14", "--status", "error"]), [429, 200]);
        assert_eq!(found(&["--status", "ok"]), [200]);
        assert_eq!(found(&["--status", "429"]), [429]);
        assert_eq!(found(&["--lines", "1"]), [200]);
        assert!(Status::read(Some("bad")).is_err());
    }
}
