//! `sluice spend`: what was spent, by whom or on what.
//!
//! Invariants: CSV and JSON are the gateway's own, byte for byte; sums are by the hour, so times are rounded to whole hours.
//! Deliberately absent: single requests.

use serde_json::Value;

use super::client::{Client, segment};
use super::table::table;
use super::words;

/// What to report.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to add up by.
    #[arg(long, value_parser = ["key", "team", "customer", "model", "provider", "tag"])]
    by: String,
    /// A month, such as 2026-11; the current one, if nothing is said.
    #[arg(long, value_name = "YYYY-MM", conflicts_with_all = ["since", "until"])]
    month: Option<String>,
    /// From then on: 2026-11-01, or 7d ago.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Up to, and without, then; now, if nothing is said.
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// As CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out; what to print.
///
/// # Errors
/// In words.
pub fn run(args: &Args, client: &Client) -> Result<String, String> {
    let now_s = words::now_s();
    let mut path = format!("/spend?by={}", args.by);
    if let Some(month) = &args.month {
        path.push_str(&format!("&month={}", segment(month)));
    }
    let moment = |text: &Option<String>| text.as_deref().map(|text| words::moment_s(text, now_s, false)).transpose();
    if let Some(from_s) = moment(&args.since)? {
        path.push_str(&format!("&from_s={from_s}"));
    }
    if let Some(to_s) = moment(&args.until)? {
        path.push_str(&format!("&to_s={to_s}"));
    } else if args.since.is_some() {
        path.push_str(&format!("&to_s={}", now_s + 1));
    }
    if args.csv {
        return client.send("GET", &format!("{path}&format=csv"), None);
    }
    let rows = client.get(&path)?;
    if args.json {
        return Ok(super::owner::pretty(&rows));
    }
    let rows = rows.as_array().cloned().unwrap_or_default();
    let line = |row: &Value| {
        let number = |name: &str| row[name].to_string();
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        vec![
            text("name"),
            number("requests"),
            number("input_tokens"),
            number("cached_tokens"),
            number("output_tokens"),
            text("cost_usd"),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let by = args.by.to_uppercase();
    Ok(table(&[&by, "REQUESTS", "INPUT", "CACHED", "OUTPUT", "USD"], &lines))
}
