//! `sluice latency`: where time goes, as a table and, over time, as a heat-map: what the kernel measured beside what the gateway
//! itself did.
//!
//! Invariants: asks the admin interface and nothing else, so it needs no privilege and touches no request. Deliberately absent:
//! Prometheus (`/metrics` has the same histograms).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::control;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// How long the admin interface may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rounds that a heat-map shows.
const ROUNDS: usize = 60;
/// From the lightest to the darkest, where there are no colours.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
/// The same in colours of the 256-colour palette.
const COLOURS: [u8; 6] = [17, 19, 27, 45, 220, 196];
/// Histograms of a heat-map, in the order in which a request meets them.
const MAPPED: [&str; 5] = ["accept_queue", "ready_wait", "connect", "first_byte", "last_byte"];

/// The flags of `latency`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The running gateway's configuration file, for the address of its admin interface.
    #[arg(long, short, value_name = "FILE", default_value = "config/sluice.yaml")]
    config: PathBuf,
    /// That address, instead of the file's.
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Go on until interrupted, with a heat-map of the last minute.
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Counts of one histogram by bucket.
type Buckets = BTreeMap<u64, u64>;

/// Shows it.
///
/// # Errors
/// When the admin interface does not answer.
pub fn run(args: &Args) -> Result<()> {
    let admin = match args.admin {
        Some(admin) => admin,
        None => {
            control::load(&args.config)
                .map_err(|mistakes| anyhow!(mistakes))?
                .server
                .admin
                .0
        }
    };
    let mut out = std::io::stdout();
    let mut history: Vec<BTreeMap<String, Buckets>> = Vec::new();
    let mut before: Option<BTreeMap<String, Buckets>> = None;
    loop {
        let page = fetch(admin, "/admin/latency")?;
        let now = counted(&page);
        let mut text = table(&page);
        let round = before
            .as_ref()
            .map_or_else(|| now.clone(), |before| difference(&now, before));
        before = Some(now);
        history.push(round);
        if history.len() > ROUNDS {
            history.remove(0);
        }
        text.push_str(&heat_map(&history, out.is_terminal()));
        if args.watch && out.is_terminal() {
            // To the upper left corner, with what was there gone.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        writeln!(out, "{text}")?;
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(args.every));
    }
}

/// A page of the admin interface, asked for with HTTP/1.0, so that it ends where the connection does.
///
/// # Errors
/// When the admin interface does not answer, or with something else.
pub(super) fn fetch(admin: SocketAddr, path: &str) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)
        .with_context(|| format!("no gateway's admin interface answers at {admin}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("the admin interface says: {}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).context("the answer is not understood")
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
    if !slots.is_empty() {
        let _ = writeln!(
            text,
            "{:<9}{:<24}{:<16}{:>10}{:>10}{:>10}{:>10}",
            "role", "name", "what", "count", "p50", "p90", "p99"
        );
    }
    for slot in slots {
        for (what, histogram) in slot["histograms"].as_object().into_iter().flatten() {
            if histogram["count"].as_u64().unwrap_or(0) == 0 {
                continue;
            }
            let shown = |quantile: &str| value(what, histogram[quantile].as_u64().unwrap_or(0));
            let _ = writeln!(
                text,
                "{:<9}{:<24}{:<16}{:>10}{:>10}{:>10}{:>10}",
                slot["role"].as_str().unwrap_or_default(),
                slot["name"].as_str().unwrap_or_default(),
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
    let (cpu, requests) = (
        page["cpu_us"].as_u64().unwrap_or(0),
        page["requests"].as_u64().unwrap_or(0),
    );
    let _ = writeln!(
        text,
        "where did the time go? (medians; processor time per request, the process as a whole: {})",
        shown_us(cpu / requests.max(1))
    );
    let _ = writeln!(
        text,
        "{:<24}{:>9} │{:>9}{:>9}{:>9}{:>9} │{:>9}{:>9} │{:>9}{:>9}{:>9}",
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
            "{:<24}{:>9} │{:>9}{:>9}{:>9}{:>9} │{:>9}{:>9} │{:>9}{:>9}{:>9}",
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
        "client: its request arrives · queue: it waits for a place at a limited provider · we: the gateway itself · provider: until its \
         first byte is read, all by the gateway's clock\naccept, unread: waiting outside the program · connect, rtt: the network · answers: until the first byte is there, by the \
         kernel's clock\nprovider slow: `answers` is large · network slow: `connect` and `rtt` are · we are slow: `we`, `accept` or \
         `unread` is\n",
    );
    text
}

/// Counts of every histogram that a heat-map shows.
fn counted(page: &Value) -> BTreeMap<String, Buckets> {
    let mut all = BTreeMap::new();
    for slot in page["slots"].as_array().into_iter().flatten() {
        for what in MAPPED {
            let pairs = slot["histograms"][what]["buckets"].as_array().into_iter().flatten();
            let buckets: Buckets = pairs
                .filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?)))
                .collect();
            if !buckets.is_empty() {
                let of = |key: &str| slot[key].as_str().unwrap_or_default();
                let name = format!("{} {} {what}", of("role"), of("name"));
                all.insert(name, buckets);
            }
        }
    }
    all
}

/// What has been added since.
fn difference(now: &BTreeMap<String, Buckets>, before: &BTreeMap<String, Buckets>) -> BTreeMap<String, Buckets> {
    let none = Buckets::new();
    let since = |(name, buckets): (&String, &Buckets)| {
        let before = before.get(name).unwrap_or(&none);
        let added = |(&bound, &count): (&u64, &u64)| {
            let added = count.saturating_sub(before.get(&bound).copied().unwrap_or(0));
            (added > 0).then_some((bound, added))
        };
        (name.clone(), buckets.iter().filter_map(added).collect())
    };
    now.iter().map(since).collect()
}

/// One map for each histogram: a column for each look, the newest at the right; a row for each power of two, the slowest above.
fn heat_map(history: &[BTreeMap<String, Buckets>], colours: bool) -> String {
    let mut text = String::new();
    let names: std::collections::BTreeSet<&String> = history.iter().flat_map(BTreeMap::keys).collect();
    for name in names {
        let columns: Vec<BTreeMap<u32, u64>> = history.iter().map(|round| octaves(round.get(name))).collect();
        let rows: Vec<u32> = columns.iter().flat_map(|column| column.keys().copied()).collect();
        let (Some(&low), Some(&high)) = (rows.iter().min(), rows.iter().max()) else {
            continue;
        };
        let most = columns
            .iter()
            .flat_map(|column| column.values().copied())
            .max()
            .unwrap_or(1);
        let _ = writeln!(text, "\n{name} (darkest: {most})");
        for octave in (low..=high).rev() {
            let _ = write!(text, "{:>9} ", shown_us(1 << octave));
            for column in &columns {
                text.push_str(&cell(column.get(&octave).copied().unwrap_or(0), most, colours));
            }
            text.push('\n');
        }
    }
    text
}

/// Counts by power of two.
fn octaves(buckets: Option<&Buckets>) -> BTreeMap<u32, u64> {
    let mut all = BTreeMap::new();
    for (&bound, &count) in buckets.into_iter().flatten() {
        *all.entry(bound.max(1).ilog2()).or_insert(0) += count;
    }
    all
}

/// A count as a shade: logarithmic, so that one in a thousand is still seen.
fn cell(count: u64, most: u64, colours: bool) -> String {
    let steps = if colours { COLOURS.len() } else { SHADES.len() - 1 };
    if count == 0 {
        return " ".into();
    }
    let share = (count as f64).ln_1p() / (most as f64).ln_1p();
    let step = ((share * steps as f64).ceil() as usize).clamp(1, steps);
    if colours {
        format!("\x1b[48;5;{}m \x1b[0m", COLOURS[step - 1])
    } else {
        SHADES[step].to_string()
    }
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
    fn a_map_has_a_row_for_each_power_of_two_and_a_column_for_each_look() {
        let round =
            |bound, count| BTreeMap::from([("upstream x first_byte".to_owned(), Buckets::from([(bound, count)]))]);
        let map = heat_map(&[round(1_024, 1), round(4_096, 100)], false);
        let lines: Vec<&str> = map.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[0], "upstream x first_byte (darkest: 100)");
        assert_eq!(lines[1..].len(), 3, "{map}");
        assert!(lines[1].ends_with(" █") && lines[3].contains('░'), "{map}");
    }

    #[test]
    fn only_what_was_added_since_is_counted() {
        let of = |count| BTreeMap::from([("a".to_owned(), Buckets::from([(8, count), (16, 5)]))]);
        assert_eq!(difference(&of(7), &of(5))["a"], Buckets::from([(8, 2)]));
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
