//! `sluice status`: is it well? One screen: load, times, errors, what is left alone, budgets near their end, cache, kernel.
//!
//! Invariants: asks the admin interface and nothing else; rates and times are those of the moment between two looks; a list that is
//! cut says how much more there is. Deliberately absent: history, which Prometheus has.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::latency::fetch;
use crate::control;

/// Rows that a list shows.
const ROWS: usize = 8;
/// From what part of it on a budget is near its end.
const NEAR_END: f64 = 0.8;

/// The flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The running gateway's configuration file, for the address of its admin interface.
    #[arg(long, short, value_name = "FILE", default_value = "config/sluice.yaml")]
    config: PathBuf,
    /// That address, instead of the file's.
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Go on until interrupted.
    #[arg(long)]
    watch: bool,
    /// What the gateway says, as JSON, since its start.
    #[arg(long)]
    json: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Shows it.
///
/// # Errors
/// When the admin interface does not answer.
pub fn run(args: &Args) -> Result<()> {
    let admin = match args.admin {
        Some(admin) => admin,
        None => control::load(&args.config).map_err(|why| anyhow!(why))?.server.admin.0,
    };
    let mut out = std::io::stdout();
    let mut before = fetch(admin, "/admin/status")?;
    if args.json && !args.watch {
        writeln!(out, "{}", super::owner::pretty(&before).trim_end())?;
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_secs(args.every));
        let now = fetch(admin, "/admin/status")?;
        let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if args.json {
            writeln!(out, "{now}")?;
        } else {
            if args.watch && out.is_terminal() {
                // To the upper left corner, with what was there gone.
                write!(out, "\x1b[H\x1b[2J")?;
            }
            write!(out, "{}", screen(&before, &now, colours))?;
        }
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        before = now;
    }
}

/// The difference between two looks.
struct Between<'a> {
    before: &'a Value,
    now: &'a Value,
    seconds: f64,
}

impl Between<'_> {
    fn count(&self, name: &str) -> f64 {
        let of = |page: &Value| page["counts"][name].as_u64().unwrap_or(0);
        of(self.now).saturating_sub(of(self.before)) as f64
    }

    fn rate(&self, name: &str) -> f64 {
        self.count(name) / self.seconds
    }

    /// A count as a part of the requests that ended.
    fn share(&self, names: &[&str]) -> f64 {
        let requests = self.count("forwarded") + self.count("from_cache") + self.count("refused");
        let of: f64 = names.iter().map(|name| self.count(name)).sum();
        if requests > 0.0 { of / requests } else { 0.0 }
    }

    /// The bound, in microseconds, below which the given share of the times is; `None` without any.
    fn quantile(&self, name: &str, share: f64) -> Option<u64> {
        let list = |page: &Value, what: &str| -> Vec<u64> {
            let all = page["times"][name][what].as_array().into_iter().flatten();
            all.filter_map(Value::as_u64).collect()
        };
        let (now, before) = (list(self.now, "counts"), list(self.before, "counts"));
        let counts: Vec<u64> = now
            .iter()
            .zip(&before)
            .map(|(now, before)| now.saturating_sub(*before))
            .collect();
        let bounds = list(self.now, "bounds_us");
        let total: u64 = counts.iter().sum();
        let rank = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        bounds.get(found).or(bounds.last()).copied()
    }
}

/// The whole screen.
fn screen(before: &Value, now: &Value, colours: bool) -> String {
    let between = |name: &str| now[name].as_u64().unwrap_or(0) as f64 - before[name].as_u64().unwrap_or(0) as f64;
    let at = Between {
        before,
        now,
        seconds: (between("now_ms") / 1000.0).max(0.001),
    };
    let paint = Paint(colours);
    let mut text = String::new();
    head(&mut text, now, &paint);
    load(&mut text, &at, &paint);
    trouble(&mut text, now, &paint);
    budgets(&mut text, now, &paint);
    below(&mut text, now, &paint);
    text
}

// Writing to a string cannot fail, so what it returns is dropped throughout.

fn head(text: &mut String, now: &Value, paint: &Paint) {
    let number = |name: &str| now[name].as_u64().unwrap_or(0);
    let configuration = &now["configuration"];
    let wrong = ["breakers", "keys"]
        .iter()
        .any(|name| now[*name].as_array().is_some_and(|list| !list.is_empty()));
    let refused = !configuration["last_refusal"].is_null();
    let state = if configuration["draining"] == true {
        paint.warn("draining")
    } else if now["store"]["failing"] == true {
        paint.bad("the store fails")
    } else if wrong || refused {
        paint.warn("serving, with trouble")
    } else {
        paint.good("well")
    };
    let _ = writeln!(
        text,
        "sluice {}  {state}   up {}   {} cores   configuration {} ({})",
        now["version"].as_str().unwrap_or_default(),
        shown_s(number("uptime_s")),
        number("cores"),
        configuration["generation"],
        configuration["hash"]
            .as_str()
            .and_then(|hash| hash.get(..8))
            .unwrap_or("-"),
    );
    if let Some(why) = configuration["last_refusal"].as_str() {
        let first = why.lines().next().unwrap_or_default();
        let _ = writeln!(text, "  {} {first}", paint.bad("the file was refused:"));
    }
}

fn load(text: &mut String, at: &Between<'_>, paint: &Paint) {
    let number = |name: &str| at.now[name].as_u64().unwrap_or(0);
    let (errors, fallbacks) = (at.share(&["responses_5xx", "interrupted"]), at.share(&["fallbacks"]));
    let _ = writeln!(
        text,
        "\n  requests  {:>9.1}/s   under way {:<6} connections {:<6} pooled {}",
        at.rate("requests"),
        number("in_flight"),
        number("connections"),
        number("pooled")
    );
    let _ = writeln!(
        text,
        "  errors    {}   fallbacks {}   retries {:.1}/s   refused {}   clients gone {}",
        paint.judge(percent(errors), errors > 0.0, errors > 0.01),
        paint.judge(percent(fallbacks), fallbacks > 0.0, fallbacks > 0.05),
        at.rate("retries"),
        percent(at.share(&["refused"])),
        percent(at.share(&["clients_gone"])),
    );
    let _ = writeln!(text, "\n  {:<18}{:>10}{:>10}", "time", "p50", "p99");
    for (name, label) in [
        ("added", "added by sluice"),
        ("upstream", "provider"),
        ("total", "whole request"),
        ("lag", "event loop lag"),
    ] {
        let shown = |share| {
            at.quantile(name, share)
                .map_or_else(|| "-".to_owned(), |us| format!("≤{}", shown_us(us)))
        };
        let _ = writeln!(text, "  {label:<18}{:>10}{:>10}", shown(0.5), shown(0.99));
    }
    let threads = |page: &Value| -> Vec<(String, u64)> {
        let all = page["threads"].as_array().into_iter().flatten();
        all.filter_map(|thread| Some((thread["thread"].as_str()?.to_owned(), thread["cpu_ns"].as_u64()?)))
            .collect()
    };
    let used: Vec<String> = threads(at.now)
        .into_iter()
        .zip(threads(at.before))
        .map(|((name, now), (_, before))| {
            let share = now.saturating_sub(before) as f64 / 1e9 / at.seconds;
            paint.judge(format!("{name} {:.0} %", share * 100.0), share > 0.7, share > 0.9)
        })
        .collect();
    let _ = writeln!(text, "  processor  {}", used.join("   "));
}

fn trouble(text: &mut String, now: &Value, paint: &Paint) {
    let empty = Vec::new();
    let list = |name: &str| now[name].as_array().unwrap_or(&empty);
    let (breakers, keys) = (list("breakers"), list("keys"));
    let known = now["targets"].as_u64().unwrap_or(0);
    let _ = match breakers.len() {
        0 => writeln!(text, "\n  targets   {} ({known} known)", paint.good("none left alone")),
        count => writeln!(
            text,
            "\n  targets   {} of {known}",
            paint.bad(&format!("{count} left alone"))
        ),
    };
    for breaker in breakers.iter().take(ROWS) {
        let how = if breaker["probing"] == true {
            "a probe is under way"
        } else {
            "probes only"
        };
        let _ = writeln!(text, "    {:<40} {how}", breaker["target"].as_str().unwrap_or_default());
    }
    more(text, breakers.len());
    let _ = match keys.len() {
        0 => writeln!(text, "  keys      {}", paint.good("all usable")),
        count => writeln!(text, "  keys      {}", paint.warn(&format!("{count} not usable"))),
    };
    for key in keys.iter().take(ROWS) {
        let field = |name: &str| key[name].as_str().unwrap_or_default();
        let left = shown_s(key["left_s"].as_u64().unwrap_or(0));
        let (state, then) = match field("state") {
            "refused" => (paint.bad("refused by the provider"), "next probe in"),
            _ => (paint.warn("resting after a 429"), "for"),
        };
        let name = format!("{}/{}", field("provider"), field("key"));
        let _ = writeln!(text, "    {name:<40} {state}, {then} {left}");
    }
    more(text, keys.len());
}

fn budgets(text: &mut String, now: &Value, paint: &Paint) {
    let known = now["budgets_known"].as_u64().unwrap_or(0);
    if known == 0 {
        return;
    }
    let near = |budget: &&Value| share_of(budget) >= NEAR_END;
    let all = now["budgets"].as_array().into_iter().flatten();
    let near: Vec<&Value> = all.filter(near).collect();
    let _ = match near.len() {
        0 => writeln!(text, "  budgets   {} ({known} in all)", paint.good("none near its end")),
        count => writeln!(
            text,
            "  budgets   {} of {known}",
            paint.warn(&format!("{count} near their end"))
        ),
    };
    for budget in near.iter().take(ROWS) {
        let share = share_of(budget);
        let filled = (share.min(1.0) * 20.0).round() as usize;
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(20 - filled));
        let usd = |name: &str| budget[name].as_u64().unwrap_or(0) as f64 / 1e9;
        let _ = writeln!(
            text,
            "    {:<24} {} {:>4.0} %  {:.2} of {:.2} USD per {}",
            budget["owner"].as_str().unwrap_or_default(),
            paint.judge(bar, true, share >= 1.0),
            share * 100.0,
            usd("spent_nano_usd"),
            usd("limit_nano_usd"),
            budget["window"].as_str().unwrap_or_default(),
        );
    }
    more(text, near.len());
}

fn below(text: &mut String, now: &Value, paint: &Paint) {
    let cache = &now["cache"];
    let of = |name: &str| cache[name].as_u64().unwrap_or(0);
    let _ = if cache.is_null() {
        writeln!(text, "  cache     off")
    } else {
        let hits = of("hits") + of("in_flight") + of("semantic");
        let share = hits as f64 / (hits + of("misses")).max(1) as f64;
        let off = match of("switched_off") {
            0 => String::new(),
            count => format!(
                "   {}",
                paint.bad(&format!("{count} routes' matches by meaning are switched off"))
            ),
        };
        writeln!(
            text,
            "  cache     {} hits since the start ({hits}, by meaning {})   {} entries   saved {:.2} USD{off}",
            percent(share),
            of("semantic"),
            of("entries"),
            of("saved_nano_usd") as f64 / 1e9
        )
    };
    let tiers = now["kernel"].as_array().into_iter().flatten().map(|tier| {
        let name = tier["tier"].as_str().unwrap_or_default();
        match tier["reason"].as_str() {
            None => paint.good(name),
            Some(why) => format!("{name} off ({why})"),
        }
    });
    let _ = writeln!(text, "  kernel    {}", tiers.collect::<Vec<_>>().join("   "));
    let store = &now["store"];
    if !store.is_null() {
        let waiting = store["waiting"].as_u64().unwrap_or(0);
        let lost = store["lost"].as_u64().unwrap_or(0);
        let state = if store["failing"] == true {
            paint.bad("cannot be written")
        } else {
            paint.good("written")
        };
        let _ = writeln!(text, "  store     {state}   {waiting} entries waiting   {lost} lost");
    }
    let dropped = now["counts"]["log_dropped"].as_u64().unwrap_or(0);
    if dropped > 0 {
        let _ = writeln!(
            text,
            "  log       {}",
            paint.warn(&format!("{dropped} records dropped since the start"))
        );
    }
}

fn share_of(budget: &Value) -> f64 {
    let of = |name: &str| budget[name].as_u64().unwrap_or(0) as f64;
    of("spent_nano_usd") / of("limit_nano_usd").max(1.0)
}

fn more(text: &mut String, count: usize) {
    if count > ROWS {
        let _ = writeln!(text, "    … and {} more", count - ROWS);
    }
}

fn percent(share: f64) -> String {
    match share {
        share if share > 0.0 && share < 0.001 => "<0.1 %".to_owned(),
        share => format!("{:.1} %", share * 100.0),
    }
}

fn shown_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us as f64 / 1e3),
        _ => format!("{} s", us as f64 / 1e6),
    }
}

fn shown_s(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Colours, where they are wanted.
struct Paint(bool);

impl Paint {
    fn of(&self, colour: u8, text: &str) -> String {
        if self.0 {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn good(&self, text: &str) -> String {
        self.of(32, text)
    }

    fn warn(&self, text: &str) -> String {
        self.of(33, text)
    }

    fn bad(&self, text: &str) -> String {
        self.of(31, text)
    }

    fn judge(&self, text: String, is_worth_a_look: bool, is_bad: bool) -> String {
        match (is_worth_a_look, is_bad) {
            (_, true) => self.bad(&text),
            (true, false) => self.warn(&text),
            (false, false) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(now_ms: u64, requests: u64) -> Value {
        json!({
            "version": "1", "uptime_s": 3_700, "now_ms": now_ms, "cores": 2, "in_flight": 3, "connections": 4, "pooled": 5,
            "counts": {"requests": requests, "forwarded": requests, "fallbacks": requests / 10, "responses_5xx": 0},
            "times": {"added": {"bounds_us": [25, 50], "counts": [requests, 1, 0]}},
            "threads": [{"thread": "core-0", "cpu_ns": now_ms * 500_000}],
            "targets": 2, "breakers": [{"target": "openai/gpt-4o", "probing": false}],
            "keys": [{"provider": "openai", "key": "A", "state": "resting", "left_s": 61}],
            "budgets": [{"owner": "station-14", "window": "day", "limit_nano_usd": 10_000_000_000_u64, "spent_nano_usd": 9_000_000_000_u64}],
            "budgets_known": 7, "cache": null, "store": null,
            "kernel": [{"tier": "steering", "reason": "the kernel is too old"}],
            "configuration": {"generation": 1, "hash": "0123456789abcdef", "last_refusal": null, "draining": false},
        })
    }

    #[test]
    fn one_screen_says_what_happened_between_two_looks_and_what_is_not_well() {
        let text = screen(&look(1_000, 100), &look(3_000, 300), false);
        for part in [
            "serving, with trouble   up 1 h 1 min   2 cores   configuration 1 (01234567)",
            "requests      100.0/s   under way 3      connections 4      pooled 5",
            "fallbacks 10.0 %",
            "added by sluice       ≤25 µs    ≤25 µs",
            "core-0 50 %",
            "1 left alone of 2\n    openai/gpt-4o                            probes only",
            "resting after a 429, for 1 min 1 s",
            "██████████████████░░   90 %  9.00 of 10.00 USD per day",
            "cache     off",
            "steering off (the kernel is too old)",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(
            text.lines().count() < 30 && text.lines().all(|line| line.chars().count() < 110),
            "{text}"
        );
    }
}
