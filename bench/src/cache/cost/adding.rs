//! What adding to the cache does to requests that are answered from it: their latency beside requests that are stored, and beside the
//! same requests that have nothing to do with the cache.
//!
//! Invariants: both kinds of company come at the same pace through the same gateway, in turns, and differ in one header field alone;
//! everything stored falls into one bucket, which grows. Deliberately absent: CPU time, which the rest of the program measures.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::{Args, Connection, FRESH, TEXT};

/// Connections whose latency is measured, and the pause between two requests of one.
const MEASURED: usize = 4;
const PAUSE: Duration = Duration::from_millis(1);
/// Connections beside them, and how many requests each sends in a second.
const COMPANY: usize = 4;
const PER_SECOND: u32 = 400;

/// Measures and prints it.
///
/// # Errors
/// When a request ends otherwise than it must.
pub(super) fn run(address: SocketAddr, args: &Args) -> Result<()> {
    Connection::open(address)?.ask(&hit(), "")?;
    let mut kinds = [(false, histogram()?), (true, histogram()?)];
    let mut stored = 0;
    for _ in 0..args.turns {
        for (adds, latency) in &mut kinds {
            let until = Instant::now() + Duration::from_secs_f64(args.seconds);
            stored += turn(address, *adds, until, latency)?;
        }
    }
    println!("| beside requests that are | requests | p50 µs | p90 µs | p99 µs |");
    println!("|--------------------------|---|---|---|---|");
    for (adds, latency) in &kinds {
        let name = if *adds { "stored" } else { "passed by" };
        let at = |share| latency.value_at_quantile(share) as f64 / 1_000.0;
        println!(
            "| {name:<24} | {} | {:.0} | {:.0} | {:.0} |",
            latency.len(),
            at(0.5),
            at(0.9),
            at(0.99)
        );
    }
    let [passed, added] = kinds.map(|(_, latency)| latency.value_at_quantile(0.99) as f64);
    println!(
        "\n{stored} answers stored; p99 moved by {:+.1} %.",
        100.0 * (added / passed - 1.0)
    );
    Ok(())
}

fn hit() -> String {
    format!("{TEXT} 7")
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?)
}

/// One turn; how many answers were stored.
fn turn(address: SocketAddr, adds: bool, until: Instant, latency: &mut Histogram<u64>) -> Result<u64> {
    std::thread::scope(|scope| {
        let company: Vec<_> = (0..COMPANY)
            .map(|_| scope.spawn(move || keep_company(address, adds, until)))
            .collect();
        let measured: Vec<_> = (0..MEASURED)
            .map(|_| scope.spawn(move || measure(address, until)))
            .collect();
        for thread in measured {
            latency.add(thread.join().expect("a client does not panic")?)?;
        }
        company
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"))
            .sum()
    })
}

fn measure(address: SocketAddr, until: Instant) -> Result<Histogram<u64>> {
    let (mut connection, mut latency) = (Connection::open(address)?, histogram()?);
    while Instant::now() < until {
        let begun = Instant::now();
        let seen = connection.ask(&hit(), "")?;
        latency.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        ensure!(seen.as_deref() == Some("hit"), "the cache says {seen:?}");
        std::thread::sleep(PAUSE);
    }
    Ok(latency)
}

fn keep_company(address: SocketAddr, adds: bool, until: Instant) -> Result<u64> {
    let mut connection = Connection::open(address)?;
    let (field, expected) = if adds {
        ("", "miss")
    } else {
        ("x-sluice-cache: off\r\n", "bypass")
    };
    let (begun, mut sent) = (Instant::now(), 0_u32);
    while Instant::now() < until {
        let text = format!("{TEXT} {}", FRESH.fetch_add(1, Ordering::Relaxed));
        let seen = connection.ask(&text, field)?;
        ensure!(seen.as_deref() == Some(expected), "the cache says {seen:?}");
        sent += 1;
        // At an even pace, however long the answers take.
        std::thread::sleep(
            (begun + sent * Duration::from_secs(1) / PER_SECOND).saturating_duration_since(Instant::now()),
        );
    }
    Ok(if adds { u64::from(sent) } else { 0 })
}
