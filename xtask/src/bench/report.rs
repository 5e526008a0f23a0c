//! A measurement in words and figures: the table on the terminal, `summary.md` and `results.json`.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::judge::Verdict;
use super::machine::Machine;
use super::measure::Sample;
use super::scenario::Per;
use super::subject::Name;
use super::{Args, Outcome};

/// Prints a scenario as a table.
pub fn print_scenario(outcome: &Outcome) {
    println!("\n{}: {}", outcome.scenario.name, outcome.scenario.what);
    let table = table(outcome);
    let widths: Vec<usize> = (0..table[0].len())
        .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &table {
        let cells = row.iter().zip(&widths).enumerate().map(|(index, (cell, width))| {
            if index == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  "));
    }
}

/// Prints the budget.
pub fn print_verdicts(verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    println!("\nbudget");
    for verdict in verdicts {
        let mark = if verdict.is_kept() { "kept  " } else { "MISSED" };
        let Verdict {
            what,
            measured,
            limit,
            unit,
        } = verdict;
        println!("  {mark}  {what}: {measured:.2} {unit} (at most {limit:.2})");
    }
}

fn subjects(outcome: &Outcome) -> Vec<Name> {
    let in_order = outcome.scenario.subjects.iter().copied();
    in_order.filter(|name| outcome.of(*name).next().is_some()).collect()
}

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

fn table(outcome: &Outcome) -> Vec<Vec<String>> {
    if outcome.scenario.is_search() {
        rates_table(outcome)
    } else {
        load_table(outcome)
    }
}

fn load_heads(outcome: &Outcome) -> Vec<String> {
    let stream = outcome.scenario.is_stream();
    let unit = if outcome.scenario.per == Per::Chunk {
        "chunk"
    } else {
        "req"
    };
    let mut heads = vec![
        "subject".to_owned(),
        format!("CPU µs/{unit}"),
        "of it user".to_owned(),
        "×L4".to_owned(),
        "×nginx".to_owned(),
        "×HAProxy".to_owned(),
        (if stream { "chunks/s" } else { "req/s" }).to_owned(),
        "p50 µs".to_owned(),
        "p99 µs".to_owned(),
        "p99.9 µs".to_owned(),
        "added p50".to_owned(),
        "added p99".to_owned(),
        "RSS MB idle/load/after".to_owned(),
        "busy % own/load".to_owned(),
        "load µs".to_owned(),
        "noise %".to_owned(),
        "failures".to_owned(),
    ];
    if stream {
        heads.extend(["late p99 µs".to_owned(), "coalesced %".to_owned()]);
    }
    heads
}

fn load_table(outcome: &Outcome) -> Vec<Vec<String>> {
    let stream = outcome.scenario.is_stream();
    let mut rows = vec![load_heads(outcome)];
    // Of a stream, what a user waits for is its first token.
    let times = if stream { "first_token_us" } else { "latency_us" };
    for name in subjects(outcome) {
        let median = |path: &[&str]| outcome.median(name, |sample| sample.number(path));
        let proxied = name != Name::Direct;
        let cpu = |value: fn(&Sample) -> f64| {
            if proxied {
                outcome.median(name, |s| Some(value(s)))
            } else {
                None
            }
        };
        let ratio = |other| if proxied { outcome.cpu_ratio(name, other) } else { None };
        let added = |q| {
            if proxied {
                outcome.added(name, Name::Direct, &[times, q])
            } else {
                None
            }
        };
        let percent = |share: fn(&Sample) -> f64| outcome.median(name, |sample| Some(100.0 * share(sample)));
        let per_second = outcome.median(name, |sample| {
            let count = sample.number(&[if stream { "chunks" } else { "requests" }])?;
            Some(count / sample.number(&["seconds"])?)
        });
        let mut row = vec![
            name.to_string(),
            figure(cpu(|sample| sample.cpu_us), 2),
            figure(cpu(|sample| sample.cpu_user_us), 2),
            figure(ratio(Name::L4), 2),
            figure(ratio(Name::Nginx), 2),
            figure(ratio(Name::Haproxy), 2),
            figure(per_second, 0),
            figure(median(&[times, "p50"]), 1),
            figure(median(&[times, "p99"]), 1),
            figure(median(&[times, "p999"]), 1),
            figure(added("p50"), 1),
            figure(added("p99"), 1),
            if proxied {
                memory(outcome, name)
            } else {
                figure(None, 0)
            },
            format!(
                "{}/{}",
                figure(percent(|s| s.core_own), 0),
                figure(percent(|s| s.load_core_own), 0)
            ),
            figure(outcome.median(name, |sample| Some(sample.load_cpu_us)), 2),
            figure(cpu(|sample| 100.0 * sample.core_others), 1),
            outcome.failures(name).to_string(),
        ];
        if stream {
            let share = |s: &Sample| Some(100.0 * s.number(&["chunks_coalesced"])? / s.number(&["chunks"])?);
            row.extend([
                figure(median(&["chunk_late_us", "p99"]), 0),
                figure(outcome.median(name, share), 2),
            ]);
        }
        rows.push(row);
    }
    rows
}

fn memory(outcome: &Outcome, name: Name) -> String {
    let largest = |value: fn(&Sample) -> u64| outcome.of(name).map(value).max().unwrap_or(0) as f64 / 1e6;
    let (idle, load, after) = (
        largest(|s| s.rss_idle),
        largest(|s| s.rss_load),
        largest(|s| s.rss_after),
    );
    format!("{idle:.1}/{load:.1}/{after:.1}")
}

/// The highest rate a sample's search found for one limit.
fn rate_within(sample: &Sample, limit: f64) -> Option<f64> {
    let limits = sample.load.get("limits")?.as_array()?;
    limits
        .iter()
        .find(|entry| entry["p99_limit_us"].as_f64() == Some(limit))?["rate"]
        .as_f64()
}

fn rates_table(outcome: &Outcome) -> Vec<Vec<String>> {
    let heads = [
        "subject",
        "p99 ≤ 1 ms",
        "p99 ≤ 5 ms",
        "p99 ≤ 10 ms",
        "unbounded",
        "failures",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for name in subjects(outcome) {
        let within = |limit| figure(outcome.median(name, |sample| rate_within(sample, limit)), 0);
        let unbounded = outcome.median(name, |sample| sample.number(&["closed_loop_rps"]));
        let failures = outcome.failures(name).to_string();
        rows.push(vec![
            name.to_string(),
            within(1e3),
            within(5e3),
            within(1e4),
            figure(unbounded, 0),
            failures,
        ]);
    }
    rows
}

/// The record for people.
#[must_use]
pub fn markdown(machine: &Machine, args: &Args, outcomes: &[Outcome], verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# Load measurement of {}\n\n{}, {} cores, kernel {}, {}, {}; revision {}; `{}`.\n\n\
         The process under test has core {} with all its threads, generator and upstream share core {}. Up to {} rounds of \
         {} s, subjects interleaved; figures are medians, ratios medians of the ratio within a round. Latency counts \
         from when a request was due. `direct` has no subject in between. Busy: the share of its core that the subject used, \
         and the load; load µs: what generator and upstream cost together; noise: the share of the core under test that \
         others used.\n",
        machine.date,
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.congestion_control,
        machine.rustc,
        machine.revision,
        machine.command,
        args.proxy_cpu,
        args.load_cpu,
        args.rounds(),
        args.seconds(),
    );
    if !verdicts.is_empty() {
        text.push_str("## Budget\n\n| | measured | at most | |\n|---|---:|---:|---|\n");
        for verdict in verdicts {
            let mark = if verdict.is_kept() { "kept" } else { "**missed**" };
            let Verdict {
                what,
                measured,
                limit,
                unit,
            } = verdict;
            let _ = writeln!(text, "| {what} | {measured:.2} {unit} | {limit:.2} {unit} | {mark} |");
        }
    }
    for outcome in outcomes {
        let _ = writeln!(text, "\n## {}: {}\n", outcome.scenario.name, outcome.scenario.what);
        for (index, row) in table(outcome).iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|---|{}", "---:|".repeat(row.len() - 1));
            }
        }
        for (name, _) in super::plot::of(outcome) {
            let _ = writeln!(text, "\n![{name}]({name})");
        }
    }
    text
}

/// The record for programs: everything measured, sample by sample.
///
/// # Errors
/// When something measured is not a JSON number.
pub fn json(machine: &Machine, args: &Args, outcomes: &[Outcome], verdicts: &[Verdict]) -> Result<String> {
    let scenarios = outcomes.iter().map(|outcome| {
        Ok(json!({
            "name": outcome.scenario.name,
            "what": outcome.scenario.what,
            "flags": outcome.scenario.flags,
            "script": outcome.scenario.script,
            "samples": serde_json::to_value(&outcome.samples)?,
        }))
    });
    let record = json!({
        "machine": serde_json::to_value(machine)?,
        "rounds": args.rounds(),
        "seconds": args.seconds(),
        "profile": args.profile,
        "proxy_cpu": args.proxy_cpu,
        "load_cpu": args.load_cpu,
        "budget": serde_json::to_value(verdicts)?,
        "scenarios": scenarios.collect::<Result<Vec<Value>>>()?,
    });
    Ok(serde_json::to_string_pretty(&record)? + "\n")
}
