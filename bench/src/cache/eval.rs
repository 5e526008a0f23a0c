//! How good: every pair of a file of labelled pairs goes through the whole decision of the cache.
//!
//! Invariants: a pair's first text is asked and its answer stored, then the second is asked, in a tenant of their own; the
//! cache's own verdict counts, nothing else. Evidence is not asked for, so that each pair stands for itself; in production it
//! comes on top. Deliberately absent: any choice of pairs besides `--part`, with which a part can be kept back while rules are
//! worked on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;
use sluice_policy::cache::evidence::upper_bound;
use sluice_policy::cache::guard::Level;
use sluice_policy::cache::{Cache, Controls, Limits, Mode, Outcome, Query, Rules};

use super::{HOUR_MS, NOW_MS, answer, body, brain, prepare};

/// Prints, for each category of labelled pairs, how many share an answer.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Lines of JSON: `a`, `b`, `label` (1: may share an answer), `cat`.
    pairs: PathBuf,
    /// Lowest cosine.
    #[arg(long, default_value_t = 0.85)]
    similarity: f32,
    /// Leave out the rule about small edits.
    #[arg(long)]
    g1: bool,
    /// Only pairs whose line, counted from 0, leaves this remainder: `K/N`.
    #[arg(long, value_parser = part)]
    part: Option<(usize, usize)>,
    /// Also print the pairs that were decided wrongly, with the guard's reason.
    #[arg(long)]
    show: bool,
    /// Exit with an error if a pair that may not share an answer did, in a category whose name begins so; may be repeated.
    #[arg(long)]
    forbid: Vec<String>,
}

#[derive(Debug, Default)]
struct Row {
    may_share: bool,
    pairs: u64,
    hits: u64,
}

/// Runs the program.
///
/// # Errors
/// When the file cannot be read, is not of the form, or `--forbid` is broken.
pub fn run(args: &Args) -> Result<()> {
    let text = std::fs::read_to_string(&args.pairs).with_context(|| format!("read {}", args.pairs.display()))?;
    let brain = brain();
    let rules = Rules {
        mode: Mode::On,
        similarity: args.similarity,
        level: if args.g1 { Level::G1 } else { Level::G2 },
        agreements: 0,
        ..Rules::default()
    };
    let mut query = Query::default();
    let mut table: BTreeMap<String, Row> = BTreeMap::new();
    for (line, text) in text.lines().enumerate() {
        if args.part.is_some_and(|(part, of)| line % of != part) {
            continue;
        }
        let pair: Value = serde_json::from_str(text).with_context(|| format!("line {}", line + 1))?;
        let field = |name: &str| {
            pair[name]
                .as_str()
                .with_context(|| format!("line {}: no {name}", line + 1))
        };
        let (one, other, category) = (field("a")?, field("b")?, field("cat")?);
        let may_share = pair["label"] == 1;
        // Like every test of a pair, it needs a cache of its own, so that no third text answers.
        let mut cache = Cache::new(Limits {
            entries: 16,
            bytes: 1 << 20,
        });
        prepare(&mut query, &brain, &body(one), "plant")?;
        let ticket = query.ticket(&brain).context("a prepared request has a ticket")?;
        cache.insert(ticket.entry(answer(), "gpt-4o-mini", &[], HOUR_MS, NOW_MS), NOW_MS);
        prepare(&mut query, &brain, &body(other), "plant")?;
        let outcome = cache.lookup(&mut query, &brain, &rules, &Controls::default(), NOW_MS, 0);
        let hit = matches!(outcome, Outcome::Hit(_));
        if args.show && hit != may_share {
            let explained = brain.explain(one, other, rules.level);
            println!(
                "{category} {:.3} {:?}\n    {one}\n    {other}",
                explained.similarity, explained.verdict
            );
        }
        let row = table.entry(category.to_owned()).or_default();
        ensure!(
            row.pairs == 0 || row.may_share == may_share,
            "{category} holds pairs of both labels"
        );
        row.may_share = may_share;
        row.pairs += 1;
        row.hits += u64::from(hit);
    }
    print(&table);
    let broken: Vec<&str> = table
        .iter()
        .filter(|(name, row)| !row.may_share && row.hits > 0 && args.forbid.iter().any(|start| name.starts_with(start)))
        .map(|(name, _)| name.as_str())
        .collect();
    ensure!(broken.is_empty(), "false hits in {}", broken.join(", "));
    Ok(())
}

fn print(table: &BTreeMap<String, Row>) {
    let share = |row: &Row| 100.0 * row.hits as f64 / row.pairs as f64;
    println!(
        "{:<20} {:>6} {:>6} {:>8}",
        "may share an answer", "pairs", "hits", "recall"
    );
    for (name, row) in table.iter().filter(|(_, row)| row.may_share) {
        println!("{name:<20} {:>6} {:>6} {:>6.1} %", row.pairs, row.hits, share(row));
    }
    println!(
        "\n{:<20} {:>6} {:>6} {:>8} {:>12}",
        "may not", "pairs", "hits", "false", "95 % bound"
    );
    let mut families: BTreeMap<&str, Row> = BTreeMap::new();
    for (name, row) in table.iter().filter(|(_, row)| !row.may_share) {
        false_hits(name, row);
        let family = families.entry(name.split('_').next().unwrap_or(name)).or_default();
        family.pairs += row.pairs;
        family.hits += row.hits;
    }
    println!();
    for (name, row) in &families {
        false_hits(&format!("all of {name}"), row);
    }
}

fn false_hits(name: &str, row: &Row) {
    let bound = 100.0 * upper_bound(row.hits, row.pairs);
    let share = 100.0 * row.hits as f64 / row.pairs as f64;
    println!(
        "{name:<20} {:>6} {:>6} {share:>6.2} % {bound:>10.2} %",
        row.pairs, row.hits
    );
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let (part, of) = text.split_once('/').ok_or("it is written K/N")?;
    let number = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
    let (part, of) = (number(part)?, number(of)?);
    if part < of {
        Ok((part, of))
    } else {
        Err("K is below N".to_owned())
    }
}
