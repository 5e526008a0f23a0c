//! The size of a page, and how long it takes.

use std::time::{Duration, Instant};

use super::*;

const CORES: usize = 4;
const KEYS: usize = 10_000;
const MODELS: usize = 100;

/// Cores that have seen every key and every model, and failures of each.
fn busy() -> Vec<Arc<CoreMeter>> {
    let meters: Vec<Arc<CoreMeter>> = (0..CORES).map(|_| Arc::default()).collect();
    for meter in &meters {
        for number in 0..KEYS {
            let at = meter
                .boards
                .callers
                .add(format!("customer-of-some-length-station-{number}").into());
            let row = meter.boards.callers.row(at).unwrap();
            row.requests.add(number as u64 + 1);
            row.cost.add(1_234_567);
        }
        for number in 0..MODELS {
            let at = meter.boards.targets.add(TargetLabel {
                provider: "a-provider".into(),
                model: format!("a-model-with-a-long-name-2026-11-{number:03}").into(),
                operation: "chat",
            });
            let row = meter.boards.targets.row(at).unwrap();
            row.attempts.add(9);
            row.failed.add(sluice_wire::error::Code::UpstreamTimeout);
            for histogram in [
                &row.duration,
                &row.failure_duration,
                &row.input_tokens,
                &row.output_tokens,
                &row.first_token,
                &row.per_token,
            ] {
                histogram.observe(123_456_789);
            }
        }
    }
    meters
}

#[test]
fn ten_thousand_keys_and_a_hundred_models_fit_a_page_and_a_moment() {
    let meters = busy();
    let begun = Instant::now();
    let mut page = Page::new(Format::OpenMetrics);
    cores(&mut page, &meters);
    times(&mut page, &meters);
    targets(&mut page, &meters);
    fallbacks(&mut page, &meters);
    callers(&mut page, &meters);
    let text = page.finish();
    let took = begun.elapsed();
    println!("{} bytes in {took:?}", text.len());
    assert!(text.len() < 2_000_000, "{} bytes", text.len());
    // An unoptimized program is not what is promised.
    assert!(cfg!(debug_assertions) || took < Duration::from_millis(50), "{took:?}");
    let shown = text
        .lines()
        .filter(|line| line.starts_with("sluice_virtual_key_requests_total{"));
    assert_eq!(shown.count(), METRICS_TOP + 1);
    let sum: u64 = text
        .lines()
        .filter(|line| line.starts_with("sluice_virtual_key_requests_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(
        sum,
        (CORES * KEYS * (KEYS + 1) / 2) as u64,
        "what is not shown is in `other`"
    );
}
