//! Metrics: their two forms, a real Prometheus with the shipped rules, the dashboard, and that counters add up whatever happens.

#[path = "metrics/books.rs"]
mod books;
#[path = "metrics/journal.rs"]
mod journal;
#[path = "metrics/mix.rs"]
mod mix;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_tests::prometheus::{self, Prometheus, promtool};
use sluice_tests::traffic::Traffic;
use sluice_tests::{Client, Gateway, Request, Setup, Sim, Value, json, wait};

/// How many seconds of an operator's day pass in one second of the test.
const SCALE: u64 = 60;

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    std::fs::read_to_string(path).expect("a file of the project")
}

/// `openai`, whose every model falls back to `backup/spare`, on two cores.
fn backed(one: &Sim, two: &Sim) -> Gateway {
    Setup::new()
        .provider("openai", &one.base_url(), &["sk-one"])
        .provider("backup", &two.base_url(), &["sk-two"])
        .route(&["openai/*"], &["backup/spare"])
        .cores(2)
        .start()
}

fn page(gateway: &Gateway, accept: &str) -> (String, String) {
    let request = Request::get("/metrics")
        .field("Accept", accept)
        .field("Connection", "close");
    let answer = Client::connect(gateway.admin).ask(&request);
    assert_eq!(answer.status, 200, "{answer:?}");
    (
        answer.field("content-type").unwrap_or_default().to_owned(),
        answer.text(),
    )
}

/// Something of everything: successes, streams, fallbacks, refusals.
fn mixed(gateway: &Gateway) {
    for model in ["openai/a", "openai/b+status=500", "openai/c+status=429", "backup/spare"] {
        assert_eq!(gateway.ask(&Request::chat(model)).status, 200, "{model}");
        assert_eq!(gateway.ask(&Request::stream(model)).status, 200, "{model}");
    }
    assert_eq!(gateway.ask(&Request::get("/nowhere")).status, 404);
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page() {
    if !prometheus::is_installed() {
        return;
    }
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two);
    mixed(&gateway);
    let (kind, text) = page(&gateway, "*/*");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let checked = promtool(&["check", "metrics"], &text, Path::new("/"));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[test]
fn both_forms_say_the_same() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two);
    mixed(&gateway);
    let (kind, open) = page(&gateway, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n"));
    let (_, plain) = page(&gateway, "text/plain");
    let samples = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
            .collect()
    };
    assert_eq!(samples(&open), samples(&plain));
    // A counter is named without `_total` where its type is said, and with it where its value is.
    assert!(open.contains("# TYPE sluice_requests counter\nsluice_requests_total{"));
    assert!(plain.contains("# TYPE sluice_requests_total counter\nsluice_requests_total{"));
    assert!(open.contains("# UNIT sluice_request_duration_seconds seconds\n"));
}

#[test]
fn pairs_of_targets_and_their_reasons_are_counted() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = backed(&one, &two);
    mixed(&gateway);
    let (_, text) = page(&gateway, "*/*");
    for reason in ["upstream_error", "upstream_rate_limited"] {
        let pair = format!(
            "sluice_fallbacks_by_pair_total{{from=\"openai/other\",to=\"backup/spare\",reason=\"{reason}\"}} 2\n"
        );
        assert!(text.contains(&pair), "{pair}{text}");
    }
    let operation = "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"backup\",gen_ai_request_model=\"spare\"} 6\n";
    assert!(text.contains(operation), "{text}");
}

#[test]
fn tokens_are_counted_without_accounts_if_asked_for() {
    for is_on in [true, false] {
        let sim = Sim::start();
        let gateway = Setup::with(&sim.base_url()).set("/metrics/tokens", is_on).start();
        assert_eq!(gateway.ask(&Request::chat("openai/a")).status, 200);
        let counted = json!({"model": "openai/a", "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "Hello"}]});
        let stream = Request::post("/v1/chat/completions", counted.to_string());
        assert_eq!(gateway.ask(&stream).status, 200);
        gateway.expect_metric("sluice_connections", 0);
        let (_, text) = page(&gateway, "*/*");
        let sum = |start: &str| -> u64 {
            let samples = text.lines().filter(|line| line.starts_with(start));
            let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
            values.sum()
        };
        let total = &sim.bill()["total"];
        for kind in ["input", "output"] {
            let billed = total[format!("{kind}_tokens")].as_u64().expect("a number");
            let ours = sum(&format!(
                "sluice_target_tokens_total{{provider=\"openai\",model=\"other\",kind=\"{kind}\"}}"
            ));
            assert_eq!(ours, if is_on { billed } else { 0 }, "{kind}: {text}");
        }
        let answers = if is_on { 4 } else { 0 };
        assert_eq!(sum("gen_ai_client_token_usage_count{"), answers, "two of each kind");
        let between = sum("sluice_request_between_tokens_seconds_count");
        assert_eq!(between, u64::from(is_on));
    }
}

#[test]
fn the_shipped_rules_pass_their_tests() {
    if !prometheus::is_installed() {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    for words in [
        ["test", "rules", "alerts.test.yaml"],
        ["check", "config", "prometheus.yaml"],
    ] {
        let ran = promtool(&words, "", &directory);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{words:?}: {said}");
    }
}

/// The metrics that a text of queries names.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c));
    let metrics = words.filter(|word| {
        ["sluice_", "gen_ai_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    // Labels of OpenTelemetry's begin like its metrics.
    let metrics = metrics.filter(|word| !word.ends_with("_name") && !word.ends_with("_model"));
    metrics
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

#[test]
fn dashboard_and_rules_name_metrics_that_exist() {
    let reference = shipped("METRICS.md");
    let exists = |name: &str| reference.contains(&format!("| `{name}` |"));
    let dashboard: Value = shipped("dashboard.json").parse().expect("JSON");
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels");
    assert!(panels.len() > 20);
    for panel in panels {
        let targets = panel["targets"].as_array().expect("a panel has queries");
        for query in targets.iter().map(|target| target["expr"].as_str().expect("a query")) {
            let metrics = named(query);
            assert!(!metrics.is_empty(), "{query}");
            for name in metrics {
                assert!(exists(&name), "{}: there is no metric {name}", panel["title"]);
            }
        }
    }
    for name in named(&shipped("alerts.yaml"))
        .iter()
        .chain(&named(&shipped("alerts.test.yaml")))
    {
        assert!(exists(name), "alerts.yaml: there is no metric {name}");
    }
}

/// A text with every time in it, such as `[2m]` or `15s`, divided by the scale; in milliseconds.
fn scaled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        out.push_str(before);
        let length = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let (digits, after) = number.split_at(length);
        let unit_s = match after.as_bytes() {
            [b's', next, ..] | [b'm', next, ..] if next.is_ascii_alphanumeric() => None,
            [b's', ..] => Some(1),
            [b'm', ..] => Some(60),
            _ => None,
        };
        let starts_a_word = before
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
        match unit_s.filter(|_| starts_a_word) {
            Some(unit_s) => {
                let value: u64 = digits.parse().expect("digits");
                out.push_str(&format!("{}ms", value * unit_s * 1000 / SCALE));
                rest = &after[1..];
            }
            None => {
                out.push_str(digits);
                rest = after;
            }
        }
    }
    out + rest
}

#[test]
fn an_outage_of_22_minutes_fires_the_alert_within_two_scrapes_and_nobody_notices() {
    if !prometheus::is_installed() {
        return;
    }
    let (one, two) = (Sim::start(), Sim::start());
    let pace = json!([{"do": "latency_ms=20"}]);
    one.rules(&pace);
    two.rules(&pace);
    let gateway = backed(&one, &two);
    let target = gateway.admin.to_string();
    let config = scaled(&shipped("prometheus.yaml")).replace("127.0.0.1:9091", &target);
    let interval = Duration::from_millis(15_000 / SCALE);
    let server = Prometheus::start(&config, &scaled(&shipped("alerts.yaml")));
    let traffic = Traffic::start(&gateway, 8, "openai/main");
    // Two windows of the rule: what came before the outage is known.
    wait::until("prometheus has seen steady traffic", || {
        let seen = server.value("sum(count_over_time(sluice_requests_forwarded_total{core=\"0\"}[4s]))")?;
        (seen >= 14.0).then_some(())
    });
    assert_eq!(server.firing_since("SluiceFallbacks"), None, "nothing has happened yet");
    one.rules(&json!([{"do": "status=429"}]));
    let begun = Instant::now();
    wait::until("the alert fires", || server.firing_since("SluiceFallbacks"));
    let took = begun.elapsed();
    println!(
        "the alert fired after {took:?}: {:.1} scrape intervals",
        took.as_secs_f64() / interval.as_secs_f64()
    );
    // A scrape may just have been, and so may an evaluation; the rest is for the first fallbacks and this test to be scheduled.
    assert!(took <= 2 * interval + Duration::from_millis(250), "{took:?}");
    // It goes on firing for as long as the outage does.
    let outage = Duration::from_secs(22 * 60 / SCALE);
    let mut silent = 0;
    while begun.elapsed() < outage {
        traffic.pass(50);
        silent += usize::from(server.firing_since("SluiceFallbacks").is_none());
    }
    assert_eq!(silent, 0, "the alert stopped during the outage");
    one.rules(&pace);
    // The provider is well again, and the operator says so: else the key would rest for as long as its last refusals deserved.
    assert_eq!(gateway.admin_post("/admin/forget", &json!({})).status, 200);
    wait::until("the alert ends", || {
        server.firing_since("SluiceFallbacks").is_none().then_some(())
    });
    traffic.stop().expect_no_failure("clients during the outage");
}
