//! What the screen says, and how much room it takes.

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
    let text = screen(&look(1_000, 100), &look(3_000, 300), false, ROWS);
    for part in [
        "serving, with trouble   up 1 h 1 min   config 1 (01234567)",
        "requests      100.0/s   under way 3      connections 4      pooled 5",
        "fallbacks 10.0 %",
        "added by sluice       ≤25 µs    ≤25 µs",
        "2 cores   core-0 50 %",
        "1 left alone of 2\n    openai/gpt-4o                            probes only",
        "resting after a 429, for 1 min 1 s",
        "███████████░   90 %  9.00 of 10.00 USD/day",
        "cache     off",
        "steering is off: the kernel is too old",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn lists_are_as_long_as_the_terminal_allows_and_names_do_not_steer_it() {
    let mut now = look(3_000, 300);
    let many = |one: &Value| -> Value { (0..20).map(|_| one.clone()).collect() };
    for name in ["breakers", "keys", "budgets"] {
        now[name] = many(&now[name][0]);
    }
    now["breakers"][0]["target"] = json!("openai/\u{1b}[2J");
    now["cache"] = json!({"hits": 90_000, "in_flight": 0, "semantic": 9_000, "misses": 1_000, "entries": 100_000,
        "saved_nano_usd": 123_450_000_000_u64, "switched_off": 2});
    now["store"] = json!({"failing": true, "waiting": 99_999, "lost": 1});
    now["counts"]["log_dropped"] = json!(7);
    for (height, rows) in [(24, 0), (30, 1), (34, 2), (50, 8), (usize::MAX, 8)] {
        let text = fitting(&look(1_000, 100), &now, false, height);
        assert!(text.lines().count() < height, "{height}:\n{text}");
        assert_eq!(text.matches("probes only").count(), rows, "{height}:\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("20 left alone of 2") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}

#[test]
fn errors_are_no_wellbeing() {
    let (mut before, mut now) = (look(1_000, 100), look(3_000, 300));
    for page in [&mut before, &mut now] {
        page["breakers"] = json!([]);
        page["keys"] = json!([]);
    }
    assert!(screen(&before, &now, false, ROWS).starts_with("sluice 1  well "));
    now["counts"]["responses_5xx"] = json!(3);
    assert!(screen(&before, &now, false, ROWS).starts_with("sluice 1  serving, with trouble "));
}
