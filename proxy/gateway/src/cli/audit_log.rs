//! `sluice audit-log`: who has changed what.
//!
//! Invariants: the newest line comes first. Deliberately absent: requests, which are in the ledger.

use serde_json::Value;

use super::client::Client;
use super::table::table;
use super::words;

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Lines at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    lines: u32,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out; what to print.
///
/// # Errors
/// In words.
pub fn run(args: &Args, client: &Client) -> Result<String, String> {
    let rows = client.get(&format!("/audit?lines={}", args.lines))?;
    if args.json {
        return Ok(super::owner::pretty(&rows));
    }
    let rows = rows.as_array().cloned().unwrap_or_default();
    let line = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let when = words::shown_time(row["unix_s"].as_u64().unwrap_or(0));
        vec![when, text("actor"), text("action"), text("subject"), text("detail")]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    Ok(table(&["WHEN (UTC)", "WHO", "DID", "TO", "HOW"], &lines))
}
