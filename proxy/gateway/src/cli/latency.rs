//! `sluice latency`: where time goes, as a table and, over time, as a heat-map: what the kernel measured beside what the gateway
//! itself did.
//!
//! Invariants: asks the admin interface and nothing else, so it needs no privilege and touches no request. Deliberately absent:
//! Prometheus (`/metrics` has the same histograms).

pub(super) mod map;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::client::{Place, page};

/// Looks that a heat-map shows.
const ROUNDS: usize = 60;
/// Least width of names.
const NAME_WIDTH: usize = 16;
/// Histograms of a heat-map: what is shown first where there is not room for all.
const MAPPED: [&str; 5] = ["first_byte", "ready_wait", "accept_queue", "connect", "last_byte"];

/// The flags of `latency`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Go on until interrupted, with heat-maps over the last 60 looks, as many as the terminal has room for.
    #[arg(long)]
    watch: bool,
    /// Only the heat-maps of this histogram.
    #[arg(long, value_name = "WHAT", value_parser = MAPPED)]
    of: Option<String>,
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Counts of one histogram by bucket.
type Buckets = BTreeMap<u64, u64>;
/// Counts of every histogram that is mapped: its place in [`MAPPED`], whose it is, and its buckets.
type Counts = BTreeMap<(usize, String), Buckets>;

/// Shows it.
///
/// # Errors
/// When the admin interface does not answer.
pub fn run(args: &Args) -> Result<()> {
    let url = args.place.url().map_err(|why| anyhow!(why))?;
    let mut out = std::io::stdout();
    let terminal = out.is_terminal();
    let mut history: Vec<Counts> = Vec::new();
    let mut before: Option<Counts> = None;
    loop {
        let page = page(&url, "/admin/latency").map_err(|why| anyhow!(why))?;
        let now = counted(&page, args.of.as_deref());
        let mut text = table(&page);
        match &before {
            // All since the start: in a map over time it would outshine what follows.
            None => text.push_str(&map::spread(&now, terminal)),
            Some(before) => {
                history.push(difference(&now, before));
                history.drain(..history.len().saturating_sub(ROUNDS));
                let room = terminal.then(map::rows).flatten().unwrap_or(usize::MAX);
                let room = room.saturating_sub(text.lines().count() + 1);
                text.push_str(&map::over_time(&history, room, terminal));
            }
        }
        before = Some(now);
        if args.watch && terminal {
            // Over what was there, without a moment of darkness.
            let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
            write!(out, "\x1b[H{}\x1b[J", lines.trim_end_matches('\n'))?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(args.every));
    }
}

/// Both tables.
fn table(page: &Value) -> String {
    let mut text = String::new();
    let empty = Vec::new();
    let slots = page["slots"].as_array().unwrap_or(&empty);
    // Writing to a string cannot fail.
    let _ = match page["accounting"].as_str() {
        Some("on") => match page["measured_share"].as_f64() {
            Some(share) if share < 1.0 => writeln!(
                text,
                "what the kernel saw, per socket; the machine is busy: exchanges are measured {:.0} % of the time",
                share * 100.0
            ),
            _ => writeln!(text, "what the kernel saw, per socket"),
        },
        why => writeln!(
            text,
            "the kernel measures nothing: {}",
            why.unwrap_or("no reason is known")
        ),
    };
    let width = width_of(slots);
    if !slots.is_empty() {
        let _ = writeln!(
            text,
            "{:<9} {:<width$} {:<15}{:>10}{:>10}{:>10}{:>10}",
            "role", "name", "what", "count", "p50", "p90", "p99"
        );
    }
    for slot in slots {
        // Whose it is stands in the first of its lines.
        let mut whose = ["role", "name"].map(|key| slot[key].as_str().unwrap_or_default());
        for (what, histogram) in slot["histograms"].as_object().into_iter().flatten() {
            if histogram["count"].as_u64().unwrap_or(0) == 0 {
                continue;
            }
            let shown = |quantile: &str| value(what, histogram[quantile].as_u64().unwrap_or(0));
            let [role, name] = std::mem::take(&mut whose);
            let _ = writeln!(
                text,
                "{role:<9} {name:<width$} {:<15}{:>10}{:>10}{:>10}{:>10}",
                what,
                histogram["count"].as_u64().unwrap_or(0),
                shown("p50"),
                shown("p90"),
                shown("p99"),
            );
        }
    }
    text.push('\n');
    text.push_str(&where_time_goes(page, slots));
    text
}

/// For each provider one line that tells a slow provider from a slow network and from a slow gateway: medians.
fn where_time_goes(page: &Value, slots: &[Value]) -> String {
    let mut text = String::new();
    let empty = Vec::new();
    let providers = page["providers"].as_array().unwrap_or(&empty);
    let width = width_of(providers);
    let (cpu, requests) = (
        page["cpu_us"].as_u64().unwrap_or(0),
        page["requests"].as_u64().unwrap_or(0),
    );
    let _ = writeln!(
        text,
        "where did the time go? medians; the process takes {} of processor time per request",
        shown_us(cpu / requests.max(1))
    );
    let _ = writeln!(
        text,
        "{:<width$} {:>9} │{:>9}{:>9}{:>9}{:>9} │{:>9}{:>9} │{:>9}{:>9}{:>9}",
        "provider", "requests", "client", "queue", "we", "provider", "accept", "unread", "connect", "rtt", "answers"
    );
    let of_role = |role: &str, name: Option<&str>, what: &str| {
        let fits = |slot: &&Value| {
            let own = slot["name"].as_str().unwrap_or_default();
            slot["role"] == role && name.is_none_or(|name| own.split('+').any(|part| part == name))
        };
        let slot = slots.iter().find(fits)?;
        let histogram = &slot["histograms"][what];
        (histogram["count"].as_u64()? > 0).then(|| histogram["p50"].as_u64())?
    };
    let shown = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), shown_us);
    for provider in providers {
        let name = provider["name"].as_str().unwrap_or_default();
        let own = |what: &str| shown(provider[what]["p50"].as_u64());
        let upstream = |what| shown(of_role("upstream", Some(name), what));
        let _ = writeln!(
            text,
            "{:<width$} {:>9} │{:>9}{:>9}{:>9}{:>9} │{:>9}{:>9} │{:>9}{:>9}{:>9}",
            name,
            provider["total"]["count"].as_u64().unwrap_or(0),
            own("receiving"),
            own("queue"),
            own("gateway"),
            own("upstream_first_byte"),
            shown(of_role("listener", None, "accept_queue")),
            upstream("ready_wait"),
            upstream("connect"),
            upstream("handshake_rtt"),
            upstream("first_byte"),
        );
    }
    text.push_str(
        "  client: its request arrives · queue: it waits for a place at a limited provider · we: the gateway itself\n  \
         provider: until its first byte is read, by the gateway's clock; answers: until it is there, by the kernel's\n  \
         accept, unread: waiting outside the program · connect, rtt: the network\n  \
         provider slow: `answers` is large · network slow: `connect`, `rtt` · we are slow: `we`, `accept`, `unread`\n",
    );
    text
}

/// The width of the longest name.
fn width_of(named: &[Value]) -> usize {
    let names = named.iter().filter_map(|one| one["name"].as_str());
    names.map(|name| name.chars().count()).fold(NAME_WIDTH, usize::max)
}

/// Counts of every histogram that a heat-map shows.
fn counted(page: &Value, only: Option<&str>) -> Counts {
    let mut all = Counts::new();
    for slot in page["slots"].as_array().into_iter().flatten() {
        for (place, what) in MAPPED.into_iter().enumerate() {
            let pairs = slot["histograms"][what]["buckets"].as_array().into_iter().flatten();
            let buckets: Buckets = pairs
                .filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?)))
                .collect();
            if !buckets.is_empty() && only.is_none_or(|only| only == what) {
                let of = |key: &str| slot[key].as_str().unwrap_or_default();
                all.insert((place, format!("{} {}", of("role"), of("name"))), buckets);
            }
        }
    }
    all
}

/// What has been added since.
fn difference(now: &Counts, before: &Counts) -> Counts {
    let none = Buckets::new();
    let since = |(name, buckets): (&(usize, String), &Buckets)| {
        let before = before.get(name).unwrap_or(&none);
        let added = |(&bound, &count): (&u64, &u64)| {
            let added = count.saturating_sub(before.get(&bound).copied().unwrap_or(0));
            (added > 0).then_some((bound, added))
        };
        (name.clone(), buckets.iter().filter_map(added).collect())
    };
    now.iter().map(since).collect()
}

/// A value of a histogram in its unit.
fn value(what: &str, value: u64) -> String {
    match what {
        "retransmits" => value.to_string(),
        "bytes_sent" | "bytes_received" => match value {
            0..10_000 => format!("{value}B"),
            10_000..10_000_000 => format!("{}kB", value / 1000),
            _ => format!("{}MB", value / 1_000_000),
        },
        _ => shown_us(value),
    }
}

/// A time with three digits or fewer before its unit.
fn shown_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..10_000 => format!("{:.1}ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{}ms", us / 1000),
        1_000_000..100_000_000 => format!("{:.1}s", us as f64 / 1e6),
        _ => format!("{}s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_added_since_is_counted() {
        let name = (0, "a".to_owned());
        let of = |count| Counts::from([(name.clone(), Buckets::from([(8, count), (16, 5)]))]);
        assert_eq!(difference(&of(7), &of(5))[&name], Buckets::from([(8, 2)]));
    }

    #[test]
    fn times_keep_to_a_few_digits() {
        for (us, shown) in [
            (0, "0us"),
            (999, "999us"),
            (1_500, "1.5ms"),
            (25_000, "25ms"),
            (1_000_000, "1.0s"),
        ] {
            assert_eq!(shown_us(us), shown);
        }
    }
}
