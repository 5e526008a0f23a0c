//! What a provider can do wrong, row by row: what the client sees, how often the provider was asked, how the attempt ended
//! there; unary and streamed, with and without a fallback, on one core and on several. A healthy request follows each.

use std::collections::{BTreeMap, BTreeSet};

use sluice_tests::origin::ClosedPort;
use sluice_tests::{Client, Gateway, Request, Response, Setup, Sim, Value, json};

/// How a request ends that has no other target.
#[derive(Clone, Copy, Debug)]
enum Alone {
    /// With this status and `error.code`.
    Error(u16, &'static str),
    /// With this status, and the provider's own words.
    Words(u16),
    /// With a whole, good answer.
    Good,
    /// As a stream that was cut: an error event, no end.
    Cut,
}

use Alone::{Cut, Error, Good, Words};

/// One kind of fault.
struct Row {
    /// The simulator's script.
    script: &'static str,
    unary: Option<Alone>,
    streamed: Option<Alone>,
    /// How often the provider is asked at least and at most for one request.
    attempts: (usize, usize),
    /// What its record says of each attempt.
    outcome: &'static str,
    /// Whether a fallback is asked.
    covered: bool,
}

const fn row(script: &'static str, both: Alone, attempts: (usize, usize), outcome: &'static str, covered: bool) -> Row {
    Row {
        script,
        unary: Some(both),
        streamed: Some(both),
        attempts,
        outcome,
        covered,
    }
}

const fn unary(script: &'static str, end: Alone, outcome: &'static str) -> Row {
    Row {
        streamed: None,
        ..row(script, end, (1, 1), outcome, true)
    }
}

const fn streamed(script: &'static str, end: Alone, outcome: &'static str, covered: bool) -> Row {
    Row {
        unary: None,
        ..row(script, end, (1, 1), outcome, covered)
    }
}

const RESET: Alone = Error(502, "upstream_reset");
const SILENT: Alone = Error(504, "upstream_timeout");
const NONSENSE: Alone = Error(502, "upstream_protocol_error");
const REFUSED: Alone = Error(502, "upstream_auth");

/// The connection is dropped, which the provider may notice before or after its last byte.
const DROPPED: &str = "complete or cancelled";

const ROWS: &[Row] = &[
    // Reset or end before the head of the answer; if the connection had been used before, it may have been closed for being
    // idle, and the request is sent once more.
    row("reset=before_head", RESET, (1, 2), "cut", true),
    row("close=before_head", RESET, (1, 2), "cut", true),
    row("reset=mid_head", RESET, (1, 1), "cut", true),
    row("close=mid_head:20", RESET, (1, 1), "cut", true),
    // No head in time: the silent one is not tried again.
    row("stall=before_head", SILENT, (1, 1), "stalled", true),
    row("stall=mid_head", SILENT, (1, 1), "stalled", true),
    row("latency_ms=30000", SILENT, (1, 1), "cancelled", true),
    // Head in time, first token late.
    streamed("first_token_ms=30000", SILENT, "cancelled", true),
    streamed("stall=mid_stream:0", SILENT, "stalled", true),
    // An undecodable unary body.
    unary("truncate=10", NONSENSE, "cut"),
    unary("close=mid_body", NONSENSE, "cut"),
    unary("reset=mid_body", RESET, "cut"),
    unary("stall=mid_body", SILENT, "stalled"),
    unary("chunked,malformed=chunk_size", NONSENSE, DROPPED),
    unary("malformed=json", NONSENSE, "complete"),
    // A stream that breaks after the first byte.
    streamed("close=mid_stream:3", Cut, "cut", false),
    streamed("reset=mid_stream:3", Cut, "cut", false),
    streamed("stall=mid_stream:3", Cut, "stalled", false),
    // Slowly, so that the good events are not in one piece with the bad one.
    streamed(
        "malformed=chunk_size,malformed_at=4,write_bytes=100,write_ms=30",
        Cut,
        DROPPED,
        false,
    ),
    // A stream without its mark, or with an event that is no JSON.
    streamed("no_done", Good, "complete", false),
    streamed("no_done,truncate=1", Good, "cut", false),
    streamed("malformed=event,malformed_at=3", Good, "complete", false),
    // Heads that no HTTP server sends.
    row("malformed=status_line", NONSENSE, (1, 1), DROPPED, true),
    row("malformed=header", NONSENSE, (1, 1), DROPPED, true),
    row("malformed=nul", NONSENSE, (1, 1), DROPPED, true),
    row("malformed=two_lengths", NONSENSE, (1, 1), DROPPED, true),
    row("malformed=length_and_chunked", NONSENSE, (1, 1), DROPPED, true),
    row("giant_header=40000", NONSENSE, (1, 1), DROPPED, true),
    row("many_headers=200", NONSENSE, (1, 1), DROPPED, true),
    row("interim=17", NONSENSE, (1, 1), DROPPED, true),
    // Bytes behind the answer.
    row("trailing=40", Good, (1, 1), "complete", false),
    // Verdicts.
    row("status=429,retry_after=7", Words(429), (1, 1), "complete", true),
    row("status=500", Words(500), (1, 3), "complete", true),
    row("status=502", Words(502), (1, 3), "complete", true),
    row("status=503", Words(503), (1, 3), "complete", true),
    row("status=504", Words(504), (1, 3), "complete", true),
    row("status=529", Words(503), (1, 3), "complete", true),
    row("status=400", Words(400), (1, 1), "complete", false),
    row("status=404", Words(404), (1, 1), "complete", false),
    row("status=413", Words(413), (1, 1), "complete", false),
    row("status=422", Words(422), (1, 1), "complete", false),
    row("status=401", REFUSED, (1, 1), "complete", true),
    row("status=402", REFUSED, (1, 1), "complete", true),
    row("status=403", REFUSED, (1, 1), "complete", true),
    row(
        "status=301,location=http://127.0.0.1:1/v1",
        NONSENSE,
        (1, 1),
        "complete",
        true,
    ),
    row("status=307,location=/elsewhere", NONSENSE, (1, 1), "complete", true),
];

/// Each row twice: what it expects of a unary request, and of a streamed one.
fn cases() -> impl Iterator<Item = (&'static Row, bool, Alone)> {
    ROWS.iter().flat_map(|row| {
        let of = move |end: Option<Alone>, stream| end.map(|end| (row, stream, end));
        of(row.unary, false).into_iter().chain(of(row.streamed, true))
    })
}

/// A model of the row's own, so that what is remembered of one does not touch another.
fn model(row: &Row, stream: bool) -> String {
    format!("a+{},tag={}", row.script, if stream { "s" } else { "u" })
}

/// The provider that a row is about: one with a key of its own, if what is wrong is about the key.
fn provider(row: &Row, stream: bool) -> String {
    let about_the_key = ["status=429", "status=401", "status=402", "status=403"];
    if about_the_key.iter().any(|fault| row.script.starts_with(fault)) {
        format!("sick{}_{stream}", &row.script["status=".len()..][..3])
    } else {
        "sick".into()
    }
}

fn request(row: &Row, stream: bool) -> Request {
    let name = format!("{}/{}", provider(row, stream), model(row, stream));
    if stream {
        Request::stream(&name)
    } else {
        Request::chat(&name)
    }
}

fn expect_good(what: &str, answer: &Response, stream: bool) {
    assert_eq!(answer.status, 200, "{what}: {answer:?}");
    assert!(answer.is_complete(), "{what}: {answer:?}");
    if stream {
        assert_eq!(
            answer.events().last().map(|last| &**last),
            Some("[DONE]"),
            "{what}: {answer:?}"
        );
    } else {
        assert_eq!(answer.json()["object"], "chat.completion", "{what}: {answer:?}");
    }
}

fn expect_end(row: &Row, stream: bool, end: Alone, answer: &Response) {
    let what = row.script;
    match end {
        Good => expect_good(what, answer, stream),
        Error(status, code) => {
            assert_eq!(
                (answer.status, &*answer.error_code()),
                (status, code),
                "{what}: {answer:?}"
            );
            assert!(
                !answer.text().contains("127.0.0.1"),
                "{what}: no address of a provider: {answer:?}"
            );
        }
        Words(status) => {
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            assert!(answer.json()["error"]["message"].is_string(), "{what}: {answer:?}");
            if what.contains("retry_after=7") {
                assert_eq!(answer.field("retry-after"), Some("7"), "{what}: {answer:?}");
            }
        }
        Cut => {
            assert!(
                !answer.is_complete() && !answer.text().contains("[DONE]"),
                "{what}: {answer:?}"
            );
            let errors = answer
                .events()
                .into_iter()
                .filter(|event| event.contains("upstream_stream_interrupted"));
            assert_eq!(errors.count(), 1, "{what}: {answer:?}");
        }
    }
}

/// Asks, and then asks for something healthy: over the same connection, unless the answer had to end it.
fn ask(gateway: &Gateway, request: &Request) -> Response {
    let mut client = gateway.client();
    client.send(request.bytes());
    let answer = client.response_or_cut();
    if !answer.is_complete() {
        client = gateway.client();
    }
    healthy(&mut client);
    answer
}

fn healthy(client: &mut Client) {
    for (request, stream) in [
        (Request::chat("healthy/b"), false),
        (Request::stream("healthy/b"), true),
    ] {
        expect_good("the healthy request afterwards", &client.ask(&request), stream);
    }
}

/// The provider's own record: what was asked of each model, and how it ended.
fn record(sim: &Sim) -> BTreeMap<String, Vec<Value>> {
    let mut record = BTreeMap::<String, Vec<Value>>::new();
    for attempt in sim.attempts() {
        let model = attempt["model"]
            .as_str()
            .expect("an attempt names its model")
            .to_owned();
        record.entry(model).or_default().push(attempt);
    }
    record
}

fn expect_record(sim: &Sim, row: &Row, stream: bool) {
    let record = record(sim);
    let attempts = record.get(&model(row, stream)).map_or(&[][..], |attempts| attempts);
    let (least, most) = row.attempts;
    assert!(
        (least..=most).contains(&attempts.len()),
        "{} (stream: {stream}): {} attempts",
        row.script,
        attempts.len()
    );
    for attempt in attempts {
        let outcome = attempt["outcome"].as_str().unwrap_or_default();
        assert!(
            !outcome.is_empty() && row.outcome.contains(outcome),
            "{}: {attempt}",
            row.script
        );
    }
}

/// All rows at once: most of them only wait.
fn each(sick: &Sim, act: impl Fn(&Row, bool, Alone) + Sync) {
    std::thread::scope(|scope| {
        for (row, stream, end) in cases() {
            let act = &act;
            scope.spawn(move || act(row, stream, end));
        }
    });
    // What a client has seen, the provider may learn a moment later.
    sluice_tests::wait::until("every attempt has ended", || {
        let attempts = sick.attempts();
        attempts
            .iter()
            .all(|attempt| attempt["outcome"] != "in_flight")
            .then_some(())
    });
    for (row, stream, _) in cases() {
        expect_record(sick, row, stream);
    }
    assert_eq!(sick.bill()["violations"], json!({}));
}

/// Adds a provider that is not waited for long; the healthy one is, because the machine may be busy.
fn impatient(setup: Setup, name: &str, base_url: &str) -> Setup {
    let limits = json!({"first_byte": "1500ms", "first_token": "1500ms", "stream_idle": "1500ms"});
    setup
        .provider(name, base_url, &["sk-one"])
        .set(&format!("/providers/{name}/timeouts"), limits)
}

/// The sick provider under all its names, and a healthy one.
fn providers(sick: &Sim, well: &Sim) -> Setup {
    let names: BTreeSet<String> = cases().map(|(row, stream, _)| provider(row, stream)).collect();
    let setup = Setup::new().provider("healthy", &well.base_url(), &["sk-well"]);
    names
        .iter()
        .fold(setup, |setup, name| impatient(setup, name, &sick.base_url()))
}

#[test]
fn each_fault_alone_is_what_the_contract_says() {
    for cores in [1, 3] {
        let (sick, well) = (Sim::start(), Sim::start());
        let gateway = providers(&sick, &well).cores(cores).start();
        each(&sick, |row, stream, end| {
            let answer = ask(&gateway, &request(row, stream));
            expect_end(row, stream, end, &answer);
        });
    }
}

#[test]
fn each_fault_that_another_target_can_make_good_is_made_good() {
    for cores in [1, 3] {
        let (sick, well) = (Sim::start(), Sim::start());
        let gateway = providers(&sick, &well)
            .route(&["*"], &["healthy/spare"])
            .cores(cores)
            .start();
        each(&sick, |row, stream, end| {
            let answer = ask(&gateway, &request(row, stream));
            if row.covered {
                expect_good(row.script, &answer, stream);
                assert_eq!(answer.field("x-sluice-provider"), Some("healthy"), "{}", row.script);
                assert!(answer.text().contains("\"spare\""), "{}: {answer:?}", row.script);
            } else {
                expect_end(row, stream, end, &answer);
                assert_ne!(answer.field("x-sluice-provider"), Some("healthy"), "{}", row.script);
            }
        });
        let spare = record(&well).remove("spare").unwrap_or_default().len();
        let covered = cases().filter(|(row, ..)| row.covered).count();
        assert_eq!(
            spare, covered,
            "the fallback is asked once for each request that needs it"
        );
    }
}

#[test]
fn a_provider_that_cannot_be_reached_is_named_or_replaced() {
    let (well, closed) = (Sim::start(), ClosedPort::new());
    let plain = well.base_url();
    let table = [
        (closed.base_url(), 502, "upstream_connect_failed"),
        ("http://provider.invalid/v1".to_owned(), 502, "upstream_dns"),
        (plain.replace("http://", "https://"), 502, "upstream_tls"),
    ];
    for cores in [1, 3] {
        for (base_url, status, code) in &table {
            let setup = |fallbacks: &[&str]| {
                let setup = Setup::new().provider("sick", base_url, &["sk-one"]).provider(
                    "healthy",
                    &well.base_url(),
                    &["sk-well"],
                );
                let setup = if fallbacks.is_empty() {
                    setup
                } else {
                    setup.route(&["sick/*"], fallbacks)
                };
                setup.cores(cores).start()
            };
            let (alone, covered) = (setup(&[]), setup(&["healthy/spare"]));
            for (request, stream) in [(Request::chat("sick/a"), false), (Request::stream("sick/a"), true)] {
                let answer = ask(&alone, &request);
                assert_eq!((answer.status, &*answer.error_code()), (*status, *code), "{answer:?}");
                let answer = ask(&covered, &request);
                expect_good(code, &answer, stream);
                assert_eq!(answer.field("x-sluice-fallback-reason"), Some(*code));
            }
        }
    }
}
