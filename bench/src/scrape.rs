//! How long a scrape of a large gateway takes, how large the page is, and whether requests notice.
//!
//! Invariants: each virtual key has made a request and each model has been asked before anything is measured; turns with and without
//! scrapes alternate, on one gateway, under one load; the serving thread has a core of its own, and scraper, control thread, load and
//! provider share the other (with `--prefix "chrt --fifo 1"` the load comes first there, as it would on a machine of its own). Scrapes
//! come much more often than Prometheus' own, so that what they do stands out of what the machine does. Deliberately absent: what counting costs, which `cargo xtask bench difference
//! uncounted` measures.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

use crate::accounts::{Gateway, Load, Programs, ask, median};

/// Measures what scrapes cost.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    #[command(flatten)]
    programs: Programs,
    /// Virtual keys, each with a budget and a limit.
    #[arg(long, default_value_t = 10_000)]
    keys: u32,
    /// Models.
    #[arg(long, default_value_t = 100)]
    models: u32,
    /// Requests a second, at their own pace; without it each of the connections asks as soon as it has its answer.
    #[arg(long)]
    rate: Option<f64>,
    /// Turns of each kind.
    #[arg(long, default_value_t = 20)]
    turns: usize,
    /// Length of a turn, in seconds.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Time between two scrapes, in seconds.
    #[arg(long, default_value_t = 0.5)]
    interval: f64,
}

/// Scrapes whose duration is told.
const SCRAPES: usize = 40;
/// Time between two scrapes as Prometheus is configured to make them (`config/prometheus.yaml`), in seconds.
const USUAL_S: f64 = 15.0;
/// Requests of each model before anything is measured.
const REQUESTS_OF_MODEL: u32 = 20;

/// Runs the program.
///
/// # Errors
/// When something cannot be started, or a request fails.
pub fn run(args: &Args) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("sluice-scrape-cost-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(args, &folder);
    let _ = fs::remove_dir_all(&folder);
    measured
}

fn measure(args: &Args, folder: &Path) -> Result<()> {
    let store = folder.join("sluice.db");
    let filled = Command::new(&args.programs.stock)
        .arg(&store)
        .args([&args.keys.to_string(), "0"])
        .status()?;
    ensure!(filled.success(), "the store cannot be filled");
    let mut flags = vec![
        ("--model", "openai/model-0".to_owned()),
        ("--connections", "64".to_owned()),
        ("--duration", args.seconds.to_string()),
        ("--warmup", "0.2".to_owned()),
        ("--virtual-keys", args.keys.to_string()),
    ];
    let provider = match args.rate {
        Some(rate) => {
            flags.push(("--rate", rate.to_string()));
            "--with-simulator"
        }
        None => "--with-responder",
    };
    let mut load = Load::start(&args.programs.load, &args.programs.prefix, provider, &flags)?;
    let prices = folder.join("prices.yaml");
    fs::write(
        &prices,
        "- source: bench\n  date: 2026-11-23\n  prices:\n    \"*/model-*\": {input: 1, output: 4, input_max: 100000, output_max: 1000}\n",
    )?;
    let models: Vec<String> = (0..args.models).map(|number| format!("model-{number}")).collect();
    let config = json!({
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "cores": 1},
        "providers": {"openai": {
            "base_url": format!("http://{}/v1", load.provider), "keys": [{"env": "KEY"}], "models": models,
        }},
        "accounts": {
            "store": store.display().to_string(), "admin_credential": {"env": "KEY"}, "prices": prices.display().to_string(),
        },
        "upstream": {"idle_connections": 2048},
        "log": {"requests": {"output": folder.join("requests.log").display().to_string()}, "format": "json"},
    });
    let file = folder.join("gateway.yaml");
    fs::write(&file, config.to_string())?;
    let gateway = Gateway::start(&args.programs.gateway, &file)?;
    ask_models(&gateway, &models)?;
    // Until all keys but a few have been used.
    let mut asked = 0.0;
    while asked < f64::from(args.keys) * 4.0 {
        let summary = load.run(gateway.address)?;
        asked += summary["requests"].as_f64().unwrap_or(1.0);
    }
    scrapes(&gateway)?;
    latencies(args, &gateway, &mut load)
}

fn scrapes(gateway: &Gateway) -> Result<()> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        let page = ask(gateway.admin, "/metrics")?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        bytes = page.len();
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let own = ask(gateway.admin, "/metrics")?;
    let made = own
        .lines()
        .find_map(|line| line.strip_prefix("sluice_last_scrape_seconds "));
    println!(
        "A scrape: {bytes} bytes; median {:.1} ms, worst of {SCRAPES} {worst:.1} ms (of it making the page: {} s)\n",
        median(times),
        made.unwrap_or("?"),
    );
    Ok(())
}

fn latencies(args: &Args, gateway: &Gateway, load: &mut Load) -> Result<()> {
    let mut turns: [Vec<Value>; 2] = Default::default();
    for turn in 0..=args.turns {
        // Who goes first changes.
        for side in [turn % 2, 1 - turn % 2] {
            let summary = if side == 1 {
                beside_scrapes(gateway, args.interval, || load.run(gateway.address))?
            } else {
                load.run(gateway.address)?
            };
            // The first turn warms up.
            if turn > 0 {
                turns[side].push(summary["latency_us"].clone());
            }
        }
    }
    let of = |side: usize, name: &str| -> Vec<f64> {
        let values = turns[side].iter().filter_map(|latency| latency[name].as_f64());
        values.collect()
    };
    println!("| µs | p50 | p99 |\n|---|---|---|");
    for (side, name) in [(0, "without scrapes"), (1, "with scrapes")] {
        println!(
            "| {name} | {:.1} | {:.1} |",
            median(of(side, "p50")),
            median(of(side, "p99"))
        );
    }
    let mut pairs: Vec<f64> = of(1, "p99")
        .iter()
        .zip(of(0, "p99"))
        .map(|(with, without)| (with / without - 1.0) * 100.0)
        .collect();
    pairs.sort_by(f64::total_cmp);
    // Ranks between which a median lies with 95 % confidence, whatever the distribution (normal approximation).
    let (count, reach) = (pairs.len() as f64, 0.98 * (pairs.len() as f64).sqrt());
    let rank = |at: f64| pairs.get(at.max(0.0) as usize).or(pairs.last()).copied().unwrap_or(0.0);
    let (low, high) = (rank(count / 2.0 - reach), rank(count / 2.0 + reach));
    let (middle, times) = (median(pairs.clone()), USUAL_S / args.interval);
    println!(
        "\np99 with scrapes beside p99 without, {} pairs of turns of {} s, scraped every {} s: median {middle:+.2} %, 95 % confidence \
         {low:+.2} to {high:+.2} %.\nScraped every {USUAL_S} s, {times:.0} times fewer requests meet a scrape: {:+.3} %, {:+.3} to {:+.3} %",
        pairs.len(),
        args.seconds,
        args.interval,
        middle / times,
        low / times,
        high / times
    );
    Ok(())
}

/// Scrapes while something else is done.
fn beside_scrapes<T>(gateway: &Gateway, interval_s: f64, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    let admin = gateway.admin;
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| -> Result<()> {
            // The first falls into the turn, not before it.
            let mut due = Instant::now() + Duration::from_millis(300);
            while !over.load(Ordering::Relaxed) {
                if Instant::now() >= due {
                    ask(admin, "/metrics")?;
                    due += Duration::from_secs_f64(interval_s);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        scraper.join().map_err(|_| anyhow::anyhow!("the scraper panicked"))??;
        done
    })
}

/// Asks each model a few times, with the first key, whose bits are all 0.
fn ask_models(gateway: &Gateway, models: &[String]) -> Result<()> {
    let mut stream = TcpStream::connect(gateway.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let key = "A".repeat(43);
    for model in models
        .iter()
        .flat_map(|model| (0..REQUESTS_OF_MODEL).map(move |_| model))
    {
        let body =
            json!({"model": format!("openai/{model}"), "messages": [{"role": "user", "content": "hello"}]}).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer sk-sluice-{key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // In one piece: a second one would wait for the acknowledgement of the first.
        stream.write_all((head + &body).as_bytes())?;
        let (mut length, mut line) = (0, String::new());
        reader.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{model}: {line}");
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let field = line.trim_end().to_ascii_lowercase();
            if field.is_empty() {
                break;
            }
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().context("a length")?;
            }
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
