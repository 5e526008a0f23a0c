//! `sluice status`: is it well? One screen: load, times, errors, what is left alone, budgets near their end, cache, kernel.
//!
//! Invariants: asks the admin interface and nothing else; rates and times are those of the moment between two looks; no line is
//! longer than 80 characters but for what others have named, and in a terminal the lists are as long as it has room for; a list
//! that is cut says how much more there is; no name steers the terminal. Deliberately absent: history, which Prometheus has.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::client::{Place, page};
use super::latency::map;

/// Rows that a list shows at most.
const ROWS: usize = 8;
/// From what part of it on a budget is near its end.
const NEAR_END: f64 = 0.8;
/// Length of a budget's bar.
const BAR: usize = 12;
/// From what share of errors on it is not well.
const ERRORS_BAD: f64 = 0.01;

/// The flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
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
    let url = args.place.url().map_err(|why| anyhow!(why))?;
    let look = || page(&url, "/admin/status").map_err(|why| anyhow!(why));
    let mut out = std::io::stdout();
    let mut before = look()?;
    if args.json && !args.watch {
        writeln!(out, "{}", super::owner::pretty(&before).trim_end())?;
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_secs(args.every));
        let now = match look() {
            Ok(now) => now,
            // A gateway that is started again is what somebody may be watching for.
            Err(why) if args.watch => {
                eprintln!("{why}");
                continue;
            }
            Err(why) => return Err(why),
        };
        let terminal = out.is_terminal();
        if args.json {
            writeln!(out, "{now}")?;
        } else {
            let colours = terminal && std::env::var_os("NO_COLOR").is_none();
            let height = terminal.then(map::rows).flatten().unwrap_or(usize::MAX);
            let text = fitting(&before, &now, colours, height);
            if args.watch && terminal {
                // Over what was there, without a moment of darkness.
                let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
                write!(out, "\x1b[H{}\x1b[J", lines.trim_end_matches('\n'))?;
            } else {
                write!(out, "{text}")?;
            }
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

    /// Answers that failed, and streams that were cut, as a part of the requests that ended.
    fn errors(&self) -> f64 {
        self.share(&["responses_5xx", "interrupted"])
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

/// The whole screen, with lists as long as so many rows allow.
fn fitting(before: &Value, now: &Value, colours: bool, height: usize) -> String {
    let all = (0..=ROWS).rev().map(|rows| screen(before, now, colours, rows));
    // One row is for the prompt.
    let fits = |text: &String| text.lines().count() < height;
    let mut last = String::new();
    for text in all {
        last = text;
        if fits(&last) {
            break;
        }
    }
    last
}

/// The whole screen, with lists of at most so many rows.
fn screen(before: &Value, now: &Value, colours: bool, rows: usize) -> String {
    let between = |name: &str| now[name].as_u64().unwrap_or(0) as f64 - before[name].as_u64().unwrap_or(0) as f64;
    let at = Between {
        before,
        now,
        seconds: (between("now_ms") / 1000.0).max(0.001),
    };
    let paint = Paint(colours);
    let mut text = String::new();
    head(&mut text, &at, &paint);
    load(&mut text, &at, &paint);
    trouble(&mut text, now, &paint, rows);
    budgets(&mut text, now, &paint, rows);
    below(&mut text, now, &paint);
    text
}

// Writing to a string cannot fail, so what it returns is dropped throughout.

fn head(text: &mut String, at: &Between<'_>, paint: &Paint) {
    let now = at.now;
    let configuration = &now["configuration"];
    let some = |name: &str| now[name].as_array().is_some_and(|list| !list.is_empty());
    let refused = !configuration["last_refusal"].is_null();
    let cache_off = now["cache"]["switched_off"].as_u64() > Some(0);
    let state = if configuration["draining"] == true {
        paint.warn("draining")
    } else if now["store"]["failing"] == true {
        paint.bad("the store fails")
    } else if some("breakers") || some("keys") || refused || cache_off || at.errors() > ERRORS_BAD {
        paint.warn("serving, with trouble")
    } else {
        paint.good("well")
    };
    let _ = writeln!(
        text,
        "sluice {}  {state}   up {}   config {} ({})",
        now["version"].as_str().unwrap_or_default(),
        shown_s(now["uptime_s"].as_u64().unwrap_or(0)),
        configuration["generation"],
        configuration["hash"]
            .as_str()
            .and_then(|hash| hash.get(..8))
            .unwrap_or("-"),
    );
    if let Some(why) = configuration["last_refusal"].as_str() {
        let first = why.lines().next().unwrap_or_default();
        let _ = writeln!(text, "  {} {}", paint.bad("the file was refused:"), clean(first));
    }
}

fn load(text: &mut String, at: &Between<'_>, paint: &Paint) {
    let number = |name: &str| at.now[name].as_u64().unwrap_or(0);
    let (errors, fallbacks) = (at.errors(), at.share(&["fallbacks"]));
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
        "  errors    {}     fallbacks {}   retries {:.1}/s",
        paint.judge(format!("{:>9}", percent(errors)), errors > 0.0, errors > ERRORS_BAD),
        paint.judge(percent(fallbacks), fallbacks > 0.0, fallbacks > 0.05),
        at.rate("retries"),
    );
    let _ = writeln!(
        text,
        "  refused   {:>9}     clients gone {}   spent {:.2} USD/h",
        percent(at.share(&["refused"])),
        percent(at.share(&["clients_gone"])),
        at.rate("spent_nano_usd") * 3_600.0 / 1e9,
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
    let _ = writeln!(text, "  {} cores   {}", number("cores"), used.join("   "));
}

fn trouble(text: &mut String, now: &Value, paint: &Paint, rows: usize) {
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
    for breaker in breakers.iter().take(rows) {
        let how = if breaker["probing"] == true {
            "a probe is under way"
        } else {
            "probes only"
        };
        let _ = writeln!(
            text,
            "    {:<40} {how}",
            clean(breaker["target"].as_str().unwrap_or_default())
        );
    }
    more(text, breakers.len(), rows);
    let _ = match keys.len() {
        0 => writeln!(text, "  keys      {}", paint.good("all usable")),
        count => writeln!(text, "  keys      {}", paint.warn(&format!("{count} not usable"))),
    };
    for key in keys.iter().take(rows) {
        let field = |name: &str| key[name].as_str().unwrap_or_default();
        let left = shown_s(key["left_s"].as_u64().unwrap_or(0));
        let (state, then) = match field("state") {
            "refused" => (paint.bad("refused"), "; next probe in"),
            _ => (paint.warn("resting after a 429"), ", for"),
        };
        let name = clean(&format!("{}/{}", field("provider"), field("key")));
        let _ = writeln!(text, "    {name:<38} {state}{then} {left}");
    }
    more(text, keys.len(), rows);
}

fn budgets(text: &mut String, now: &Value, paint: &Paint, rows: usize) {
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
    for budget in near.iter().take(rows) {
        let share = share_of(budget);
        let filled = (share.min(1.0) * BAR as f64).round() as usize;
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
        let usd = |name: &str| budget[name].as_u64().unwrap_or(0) as f64 / 1e9;
        let _ = writeln!(
            text,
            "    {:<20} {} {:>4.0} %  {:.2} of {:.2} USD/{}",
            clean(budget["owner"].as_str().unwrap_or_default()),
            paint.judge(bar, true, share >= 1.0),
            share * 100.0,
            usd("spent_nano_usd"),
            usd("limit_nano_usd"),
            budget["window"].as_str().unwrap_or_default(),
        );
    }
    more(text, near.len(), rows);
}

fn below(text: &mut String, now: &Value, paint: &Paint) {
    let cache = &now["cache"];
    let of = |name: &str| cache[name].as_u64().unwrap_or(0);
    let _ = if cache.is_null() {
        writeln!(text, "  cache     off")
    } else {
        let (semantic, hits) = (of("semantic"), of("hits") + of("in_flight") + of("semantic"));
        let asked = (hits + of("misses")).max(1) as f64;
        let _ = writeln!(
            text,
            "  cache     {} hits since the start ({} by meaning)   saved {:.2} USD",
            percent(hits as f64 / asked),
            percent(semantic as f64 / asked),
            of("saved_nano_usd") as f64 / 1e9
        );
        match of("switched_off") {
            0 => Ok(()),
            count => writeln!(
                text,
                "    {}",
                paint.bad(&format!(
                    "matches by meaning are switched off: {count} routes of tenants"
                ))
            ),
        }
    };
    let name = |tier: &Value| tier["tier"].as_str().unwrap_or_default().to_owned();
    let reason = |tier: &Value| tier["reason"].as_str().map(clean);
    let (off, on): (Vec<&Value>, Vec<&Value>) =
        (now["kernel"].as_array().into_iter().flatten()).partition(|tier| reason(tier).is_some());
    let on: Vec<String> = on.into_iter().map(|tier| paint.good(&name(tier))).collect();
    let _ = writeln!(
        text,
        "  kernel    {}",
        if on.is_empty() {
            "none of its parts".to_owned()
        } else {
            on.join("   ")
        }
    );
    for tier in off {
        let _ = writeln!(text, "    {} is off: {}", name(tier), reason(tier).unwrap_or_default());
    }
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

fn more(text: &mut String, count: usize, rows: usize) {
    // Without any rows, the heading has said how many.
    if count > rows && rows > 0 {
        let _ = writeln!(text, "    … and {} more", count - rows);
    }
}

/// A name without what would steer the terminal.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
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
mod tests;
