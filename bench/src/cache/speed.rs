//! How fast: CPU time of this thread for each step of a lookup.
//!
//! Invariants: time is the thread's CPU time, the median of several runs over texts that differ; what is timed is what the gateway
//! calls. Deliberately absent: threads, sockets and wall time.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sluice_policy::cache::embed::{Model, Scratch};
use sluice_policy::cache::guard::{Guard, Reading};
use sluice_policy::cache::{Brain, By, Cache, Controls, Limits, Mode, Outcome, Query, Rules};

use super::{HOUR_MS, NOW_MS, answer, body, brain, prepare};

/// Times the steps of a lookup.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Entries in the one large bucket.
    #[arg(long, default_value_t = 10_000)]
    entries: usize,
    /// Core to run on.
    #[arg(long)]
    cpu: Option<usize>,
}

/// Runs of each step, of which the median is shown.
const RUNS: usize = 15;
const PER_RUN: usize = 200;

/// Runs the program.
///
/// # Errors
/// When a lookup does not end as it must.
pub fn run(args: &Args) -> Result<()> {
    if let Some(cpu) = args.cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    }
    embedding()?;
    lookups(args.entries)
}

fn embedding() -> Result<()> {
    let model = Model::builtin();
    let mut scratch = Scratch::default();
    for tokens in [60, 1_000] {
        let texts: Vec<String> = (0..64).map(|seed| text_of(&model, tokens, seed)).collect();
        let mut at = 0;
        let nanos = median(|| {
            at = (at + 1) % texts.len();
            black_box(model.embed(black_box(&texts[at]), &mut scratch));
        });
        let bytes: usize = texts.iter().map(String::len).sum::<usize>() / texts.len();
        row(&format!("embed, {tokens} tokens ({bytes} bytes)"), nanos);
        ensure!(
            scratch.pieces().len().abs_diff(tokens) <= tokens / 10,
            "{} tokens",
            scratch.pieces().len()
        );
    }
    Ok(())
}

fn lookups(entries: usize) -> Result<()> {
    let (brain, model) = (brain(), Model::builtin());
    let rules = Rules {
        mode: Mode::On,
        agreements: 0,
        audit_per_million: 0,
        ..Rules::default()
    };
    let mut query = Query::default();
    let mut cache = Cache::new(Limits {
        entries: 1 << 20,
        bytes: 1 << 32,
    });
    // One signature, so that all entries lie in one bucket.
    let texts: Vec<String> = (0..entries as u64).map(|seed| text_of(&model, 60, seed)).collect();
    let mut adds = Vec::with_capacity(entries);
    for text in &texts {
        prepare(&mut query, &brain, &body(text), "plant")?;
        let ticket = query.ticket(&brain).context("a ticket")?;
        let entry = ticket.entry(answer(), "gpt-4o-mini", &[], HOUR_MS, NOW_MS);
        let before = cpu_nanos();
        cache.insert(entry, NOW_MS);
        adds.push(cpu_nanos() - before);
    }
    adds.sort_unstable();
    row(
        &format!("add, at up to {entries} entries: median"),
        adds[adds.len() / 2] as f64,
    );
    row("    99th percentile", adds[adds.len() * 99 / 100] as f64);
    let size = cache.size();
    println!("{:<58} {:>9}", "    buckets", size.buckets);
    println!(
        "{:<58} {:>9}",
        "    bytes of index an entry",
        size.index_bytes / entries.max(1)
    );
    let bodies = |texts: &[String]| texts.iter().map(|text| body(text)).collect::<Vec<_>>();
    let stored = bodies(&texts[..64]);
    // The same words with another filler: not the same request, and yet nearest and acceptable.
    let near: Vec<Vec<u8>> = texts[..64]
        .iter()
        .map(|text| body(&format!("Please, {text}")))
        .collect();
    let far: Vec<Vec<u8>> = (0..64)
        .map(|seed| body(&text_of(&model, 60, 1_000_000 + seed)))
        .collect();
    let long: Vec<Vec<u8>> = (0..64).map(|seed| body(&text_of(&model, 1_000, seed))).collect();
    for (name, bodies, expected) in [
        ("exact hit, parsing included", &stored, Some(By::Exact)),
        ("hit by meaning, parsing included", &near, Some(By::Meaning)),
        ("miss in the large bucket, 60 tokens", &far, None),
    ] {
        let mut at = 0;
        let mut wrong = 0_usize;
        let nanos = median(|| {
            at = (at + 1) % bodies.len();
            if prepare(&mut query, &brain, &bodies[at], "plant").is_err() {
                wrong += 1;
            }
            let outcome = cache.lookup(&mut query, &brain, &rules, &Controls::default(), NOW_MS, 0);
            wrong += usize::from(found(&outcome) != expected);
        });
        row(name, nanos);
        let allowed = if expected == Some(By::Meaning) {
            RUNS * PER_RUN / 10
        } else {
            0
        };
        ensure!(
            wrong <= allowed,
            "{name}: {wrong} of {} ended otherwise",
            RUNS * PER_RUN
        );
    }
    for (tokens, bodies) in [("60", &far), ("1,000", &long)] {
        without_bucket(tokens, bodies, &brain, &rules);
    }
    Ok(())
}

/// What a miss adds where nothing like it was ever asked, and what of it is parsing, canonical form and exact key.
fn without_bucket(tokens: &str, bodies: &[Vec<u8>], brain: &Brain, rules: &Rules) {
    let mut query = Query::default();
    let mut cache = Cache::new(Limits {
        entries: 16,
        bytes: 1 << 20,
    });
    for (name, looks) in [
        ("parse and take up", false),
        ("miss without a bucket, parsing included", true),
    ] {
        let mut at = 0;
        let nanos = median(|| {
            at = (at + 1) % bodies.len();
            let _ = black_box(prepare(&mut query, brain, &bodies[at], "plant"));
            if looks {
                black_box(cache.lookup(&mut query, brain, rules, &Controls::default(), NOW_MS, 0));
            }
        });
        row(&format!("{name}, {tokens} tokens"), nanos);
    }
}

fn found(outcome: &Outcome) -> Option<By> {
    match outcome {
        Outcome::Hit(hit) => Some(hit.by),
        _ => None,
    }
}

/// A text of about so many tokens, without anything that a signature would hold.
fn text_of(model: &Model, tokens: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let mut text = String::from("Explain");
    let mut words = 1;
    while words < tokens {
        // Whole words of the vocabulary, of lower-case letters alone; as in any text, a few of them most of the time. The
        // vocabulary is ordered by how often they occur.
        let rank = 9.8 * next(1 << 20) as f64 / f64::from(1 << 20);
        let piece = model.vocabulary().piece((1_996.0 + rank.exp()) as u16);
        if piece.is_empty() || !piece.bytes().all(|byte| byte.is_ascii_lowercase()) || is_meant(piece) {
            continue;
        }
        text.push(' ');
        text.push_str(piece);
        words += 1;
    }
    text
}

/// Whether a signature would hold the word, so that texts with and without it stand in different buckets.
fn is_meant(word: &str) -> bool {
    let mut reading = Reading::default();
    let mut without = Reading::default();
    GUARD.with(|guard| {
        guard.read(&format!("Explain {word} house"), &mut reading);
        guard.read("Explain the house", &mut without);
    });
    reading.signature() != without.signature()
}

thread_local! {
    static GUARD: Guard = Guard::builtin();
}

/// Median of the CPU time of one call, in nanoseconds.
fn median(mut call: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let before = cpu_nanos();
            (0..PER_RUN).for_each(|_| call());
            (cpu_nanos() - before) as f64 / PER_RUN as f64
        })
        .collect();
    runs.sort_unstable_by(f64::total_cmp);
    runs[RUNS / 2]
}

fn row(name: &str, nanos: f64) {
    println!("{name:<58} {:>6.2} µs", nanos / 1_000.0);
}

fn cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call, which writes to nothing else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the kernel has had this clock since 2.6");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
