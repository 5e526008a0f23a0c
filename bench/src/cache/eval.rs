//! How good: every pair of a file of labelled pairs goes through the whole decision of the cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::Value;
use sluice_policy::cache::embed::{Model, Scratch};
use sluice_policy::cache::guard::{Guard, Level, Reading};

/// Prints, for each category, how many pairs share an answer.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Lines of JSON: `a`, `b`, `label` (1: may share an answer), `cat`.
    pairs: PathBuf,
    /// Lowest cosine.
    #[arg(long, default_value_t = 0.85)]
    threshold: f32,
    /// Without the rule about small edits.
    #[arg(long)]
    g1: bool,
    #[arg(long)]
    show: Option<String>,
    #[arg(long)]
    only: Option<String>,
    #[arg(long)]
    dev: bool,
}

/// Runs the program.
pub fn run(args: &Args) -> Result<()> {
    let text = std::fs::read_to_string(&args.pairs).context("read pairs")?;
    let (model, guard) = (Model::builtin(), Guard::builtin());
    let mut scratch = Scratch::default();
    let (mut one, mut other) = (Reading::default(), Reading::default());
    let mut table: BTreeMap<String, (u32, u32, u32)> = BTreeMap::new();
    for (n, line) in text.lines().enumerate() {
        let pair: Value = serde_json::from_str(line)?;
        if args.dev && n % 2 == 1 { continue; }
        let field = |name: &str| pair[name].as_str().unwrap_or_default();
        let (a, b, cat) = (field("a"), field("b"), field("cat"));
        let label = pair["label"].as_u64().unwrap_or(0) as u32;
        let cosine = model.embed(a, &mut scratch).cosine(&model.embed(b, &mut scratch));
        guard.read(a, &mut one);
        guard.read(b, &mut other);
        let level = if args.g1 { Level::G1 } else { Level::G2 };
        let verdict = if a == b { Ok(()) } else { guard.compare(&one, &other, level) };
        let hit = verdict.is_ok() && cosine >= args.threshold;
        let row = table.entry(cat.to_owned()).or_insert((label, 0, 0));
        row.1 += 1;
        row.2 += u32::from(hit);
        let show = match args.show.as_deref() {
            Some("hits") => hit,
            Some("guard") => verdict.is_ok(),
            Some("false") => hit && label == 0,
            Some("missed") => !hit && label == 1,
            _ => false,
        };
        if show && args.only.as_ref().is_none_or(|only| cat.contains(only.as_str())) {
            println!("{cat} {cosine:.3} {verdict:?}\n   {a}\n   {b}");
        }
    }
    for (cat, (label, n, hits)) in table {
        println!("{cat:20} {label} {n:5} {hits:5} {:6.2} %", f64::from(hits) * 100.0 / f64::from(n));
    }
    Ok(())
}
