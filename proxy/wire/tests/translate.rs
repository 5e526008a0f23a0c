//! Runs the golden translations in `tests/golden/translate`: adding a case touches no code.
//!
//! A case is a folder. `request.D.json`, `response.D.json`, `stream.D.txt` and `error.D.json` are what a client or a provider of
//! the dialect D sends; beside each stand the results for every dialect E, `request.D-to-E.json` and so on. Streams are text:
//! server-sent events as they are, Converse events one a line (`name payload`; exceptions begin with `!`), a last line
//! `(cut)` where the connection breaks. `UPDATE_GOLDEN=1` rewrites the results, which must then be read before they are
//! committed. Invariants, for every case besides its files: a stream may arrive in pieces of any size; a request that went
//! to another dialect without a note, and back, says the same. Deliberately absent: traffic of others; every case is made up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_wire::chat::{Notes, Out, StreamEnd, ToolIdRule};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::{ApiError, Code};
use sluice_wire::eventstream;
use sluice_wire::provider::{self, ErrorHead, Ingress, Quirks, Reply, Target, ThinkingStyle, Transcoder};

const REPLY: Reply<'static> = Reply {
    model: "reply-model",
    id: "reply-1",
    created: 1_700_000_000,
    include_usage: true,
};
/// (case, path, why): what comes back in another form that says the same.
const FORMS: &[(&str, &str, &str)] = &[
    (
        "reasoning-off",
        "/thinking",
        "Bedrock's models do not think unless asked",
    ),
    (
        "reasoning-off",
        "/reasoning_effort",
        "Bedrock's models do not think unless asked",
    ),
    (
        "documents",
        "/messages/0/content/0",
        "Bedrock takes fewer characters in a document's name",
    ),
    (
        "structured-output",
        "/response_format/json_schema/name",
        "only OpenAI and Bedrock name a schema, and OpenAI must",
    ),
    (
        "tool-calls-out-of-shape",
        "/messages/1/tool_calls",
        "what is no JSON object is wrapped into one",
    ),
    ("tools", "/messages/2/content/1/toolResult", "JSON becomes its text"),
    (
        "bedrock-tool-results",
        "/messages/2/content/0/toolResult",
        "JSON becomes its text",
    ),
    ("tools", "/parallel_tool_calls", "true is what everyone does unasked"),
];
const CUT: &str = "(cut)\n";

#[test]
fn golden_translations_are_as_expected() {
    let mut run = Run {
        update: std::env::var_os("UPDATE_GOLDEN").is_some(),
        failures: Vec::new(),
        inputs: 0,
    };
    for case in entries(&root()).iter().filter(|path| path.is_dir()) {
        for file in entries(case) {
            let name = file
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            let Some((kind, rest)) = name.split_once('.') else {
                continue;
            };
            let Some(from) = rest.split_once('.').and_then(|(dialect, _)| dialect_named(dialect)) else {
                continue;
            };
            run.inputs += 1;
            for to in Dialect::ALL {
                let text = fs::read_to_string(&file).unwrap();
                let result = match kind {
                    "request" => run.request(&name, from, to, &text),
                    "response" => response(from, to, &text),
                    "stream" => stream(from, to, &text),
                    "error" => error(from, to, &text),
                    _ => panic!("{name}: a case holds requests, responses, streams and errors"),
                };
                let extension = if kind == "stream" { "txt" } else { "json" };
                let expected = case.join(format!("{kind}.{}-to-{}.{extension}", from.as_str(), to.as_str()));
                run.compare(&expected, &result);
            }
        }
    }
    assert!(run.inputs > 20, "the golden cases are missing");
    assert!(run.failures.is_empty(), "{}", run.failures.join("\n"));
}

#[test]
fn the_documented_table_of_losses_is_the_one_in_force() {
    let (path, table) = (root().join("losses.md"), sluice_wire::chat::losses_markdown());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &table).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), table);
}

#[test]
fn a_request_that_loses_nothing_on_the_way_says_the_same_when_it_comes_back() {
    let (mut trips, mut failures) = (0, Vec::new());
    for file in inputs("request") {
        let from = dialect_of(&file);
        let body = fs::read(&file).unwrap();
        let Ok((direct, _)) = translate(from, from, &body) else {
            continue;
        };
        for via in Dialect::ALL {
            let Ok((there, notes)) = translate(from, via, &body) else {
                continue;
            };
            let (back, notes_back) = translate(via, from, &there).unwrap();
            if !notes.list().is_empty() || !notes_back.list().is_empty() {
                continue;
            }
            trips += 1;
            let (direct, back) = (leaves(&direct), leaves(&back));
            let case = file
                .parent()
                .and_then(|case| case.file_name())
                .and_then(|case| case.to_str())
                .unwrap_or_default();
            for (path, value) in &direct {
                let excused = FORMS.iter().any(|(of, at, _)| *of == case && path.starts_with(at));
                if back.get(path) != Some(value) && !excused {
                    failures.push(format!(
                        "{case}: {from:?} by way of {via:?}: {path} {value} became {:?}",
                        back.get(path)
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(trips > 60, "{trips}");
}

#[test]
fn an_answer_comes_back_from_every_dialect_with_the_same_usage_and_finish() {
    for file in inputs("response") {
        let from = dialect_of(&file);
        let body = fs::read(&file).unwrap();
        let first = provider::parse_response(from, &body).unwrap();
        for via in Dialect::ALL {
            let mut out = Out::default();
            provider::write_response(via, &first, &REPLY, &mut out);
            let second = provider::parse_response(via, &out.buf).unwrap();
            let totals = |usage: Option<sluice_wire::chat::Usage>| {
                let usage = usage.unwrap_or_default();
                (
                    usage.input_total(),
                    usage.cache_read,
                    usage.cache_write_total(),
                    usage.output,
                )
            };
            assert_eq!(
                totals(first.usage),
                totals(second.usage),
                "{} by way of {via:?}",
                file.display()
            );
            // OpenAI's words for it are fewer: what it can say must survive two trips through it.
            let mut again = Out::default();
            provider::write_response(via, &second, &REPLY, &mut again);
            let third = provider::parse_response(via, &again.buf).unwrap();
            assert_eq!(
                second.choices[0].finish,
                third.choices[0].finish,
                "{} by way of {via:?}",
                file.display()
            );
        }
    }
}

#[test]
fn a_stream_says_the_same_in_pieces_of_any_size() {
    for file in inputs("stream") {
        let from = dialect_of(&file);
        let (bytes, cut) = stream_bytes(from, &fs::read_to_string(&file).unwrap());
        let whole = transcode(from, Dialect::OpenAi, &[&bytes], cut);
        for split in 0..=bytes.len().min(4000) {
            let (left, right) = bytes.split_at(split);
            assert_eq!(
                transcode(from, Dialect::OpenAi, &[left, right], cut),
                whole,
                "{} at {split}",
                file.display()
            );
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(
            transcode(from, Dialect::OpenAi, &single, cut),
            whole,
            "{}",
            file.display()
        );
    }
}

struct Run {
    update: bool,
    failures: Vec<String>,
    inputs: u32,
}

impl Run {
    fn compare(&mut self, expected: &Path, result: &str) {
        if self.update {
            fs::write(expected, result).unwrap();
        } else if fs::read_to_string(expected).ok().as_deref() != Some(result) {
            self.failures.push(format!(
                "{} is not what the translation gives:\n{result}",
                expected.display()
            ));
        }
    }

    fn request(&mut self, name: &str, from: Dialect, to: Dialect, text: &str) -> String {
        let result = match translate(from, to, text.as_bytes()) {
            Ok((body, notes)) => {
                let body = serde_json::from_slice::<Value>(&body)
                    .unwrap_or_else(|error| panic!("{name} to {to:?}: {error}\n{}", String::from_utf8_lossy(&body)));
                json!({"notes": notes.header_value(), "body": body})
            }
            Err(error) => json!({"status": error.status(), "param": error.param, "error": error.message}),
        };
        pretty(&result)
    }
}

fn translate(from: Dialect, to: Dialect, body: &[u8]) -> Result<(Vec<u8>, Notes), ApiError> {
    let ingress = Ingress {
        path_model: Some("path-model"),
        path_stream: false,
    };
    let request = provider::parse_request(from, body, &ingress)?;
    // Every model here thinks with a budget unless its name says otherwise; every vendor takes reasoning back.
    let thinking = if request.model.as_json().contains("adaptive") {
        ThinkingStyle::Adaptive
    } else {
        ThinkingStyle::Budget
    };
    let tool_ids = ToolIdRule::Word40;
    let quirks = Quirks {
        thinking,
        tool_ids,
        reasoning: true,
        cache_control: true,
        ..Quirks::default()
    };
    let target = Target {
        model: "anthropic.claude-target",
        max_tokens_default: 4096,
        quirks,
    };
    let (mut out, mut notes) = (Out::default(), Notes::default());
    out.begin(body);
    provider::write_request(to, &request, &target, &mut out, &mut notes)?;
    let whole = out.collect(body);
    assert_eq!(whole.len(), out.total_len());
    Ok((whole, notes))
}

fn response(from: Dialect, to: Dialect, text: &str) -> String {
    let body = text.as_bytes();
    match provider::parse_response(from, body) {
        Ok(response) => {
            let mut out = Out::default();
            out.begin(body);
            provider::write_response(to, &response, &REPLY, &mut out);
            pretty(&serde_json::from_slice(&out.collect(body)).unwrap())
        }
        Err(error) => pretty(&json!({"status": error.status(), "error": error.message})),
    }
}

/// `{"status", "retry_after_s", "error_type", "body" | "text"}`
fn error(from: Dialect, to: Dialect, text: &str) -> String {
    let given: Value = serde_json::from_str(text).unwrap();
    let head = ErrorHead {
        status: given["status"].as_u64().unwrap() as u16,
        retry_after_s: given["retry_after_s"].as_u64().map(|seconds| seconds as u32),
        error_type: given["error_type"].as_str(),
    };
    let body = given["text"]
        .as_str()
        .map_or_else(|| given["body"].to_string(), str::to_owned);
    let error = provider::parse_error(from, &head, body.as_bytes());
    let mut out = Out::default();
    provider::write_error(to, &error, &mut out);
    pretty(&json!({
        "kind": format!("{:?}", error.kind),
        "fault": format!("{:?}", error.fault()),
        "retry": format!("{:?}", error.retry()),
        "retry_after_s": error.retry_after_s,
        "client_status": error.client_status(),
        "client_body": serde_json::from_slice::<Value>(&out.buf).unwrap(),
    }))
}

fn stream(from: Dialect, to: Dialect, text: &str) -> String {
    let (bytes, cut) = stream_bytes(from, text);
    let (bytes, end) = transcode(from, to, &[&bytes], cut);
    let shown = match to {
        Dialect::Bedrock => show_frames(&bytes),
        _ => String::from_utf8(bytes).unwrap(),
    };
    format!("{shown}({end})\n")
}

/// The stream for a client, and how it ended, what it cost and how many events were skipped.
fn transcode(from: Dialect, to: Dialect, pieces: &[&[u8]], cut: bool) -> (Vec<u8>, String) {
    let mut transcoder = Transcoder::new(from, to, &REPLY);
    let mut out = Out::default();
    out.begin(&[]);
    let refused = pieces.iter().find_map(|piece| transcoder.push(piece, &mut out).err());
    let end = if refused.is_some() {
        StreamEnd::Interrupted
    } else {
        transcoder.finish(&mut out)
    };
    assert!(
        !cut || end != StreamEnd::Complete,
        "a stream that is cut must not look complete"
    );
    if end == StreamEnd::Interrupted {
        transcoder.interrupt(
            &ApiError::new(Code::UpstreamStreamInterrupted, "The stream was cut."),
            &mut out,
        );
    }
    let usage = transcoder.usage().map_or("no usage".into(), |u| {
        format!(
            "input {} + {} read + {} written, output {} of which {:?} reasoning",
            u.input,
            u.cache_read,
            u.cache_write_total(),
            u.output,
            u.reasoning
        )
    });
    (out.buf, format!("{end:?}; {usage}; {} skipped", transcoder.malformed()))
}

fn stream_bytes(dialect: Dialect, text: &str) -> (Vec<u8>, bool) {
    let (text, cut) = text.strip_suffix(CUT).map_or((text, false), |text| (text, true));
    if dialect != Dialect::Bedrock {
        return (text.as_bytes().to_vec(), cut);
    }
    let mut bytes = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (name, payload) = line.split_once(' ').unwrap();
        let open = match name.strip_prefix('!') {
            Some(exception) => eventstream::begin_exception(exception, &mut bytes),
            None => eventstream::begin_event(name, &mut bytes),
        };
        bytes.extend_from_slice(payload.as_bytes());
        open.finish(&mut bytes).unwrap();
    }
    (bytes, cut)
}

fn show_frames(mut bytes: &[u8]) -> String {
    let mut decoder = eventstream::Decoder::new();
    let mut shown = String::new();
    while let Some(message) = decoder.next_message(&mut bytes).unwrap() {
        let payload: Value = serde_json::from_slice(message.payload).unwrap();
        if message.event_type.is_empty() {
            shown.push('!');
        }
        shown.push_str(&format!("{}{} {payload}\n", message.event_type, message.exception_type));
    }
    decoder.finish().unwrap();
    shown
}

/// What a request says: every value by its path, whatever the order of keys. White space in JSON inside a string says
/// nothing.
fn leaves(body: &[u8]) -> BTreeMap<String, Value> {
    fn walk(path: String, value: &Value, leaves: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) => map
                .iter()
                .for_each(|(key, value)| walk(format!("{path}/{key}"), value, leaves)),
            Value::Array(list) => {
                list.iter()
                    .enumerate()
                    .for_each(|(index, value)| walk(format!("{path}/{index}"), value, leaves));
            }
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(inner @ Value::Object(_)) => walk(format!("{path}/json"), &inner, leaves),
                _ => drop(leaves.insert(path, value.clone())),
            },
            other => drop(leaves.insert(path, other.clone())),
        }
    }
    let mut map = BTreeMap::new();
    walk(String::new(), &serde_json::from_slice(body).unwrap(), &mut map);
    map
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/translate")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries
}

/// The files of all cases that a client or a provider sends.
fn inputs(kind: &str) -> Vec<PathBuf> {
    let is_input = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut words = name.split('.');
        words.next() == Some(kind) && words.next().is_some_and(|word| dialect_named(word).is_some())
    };
    entries(&root())
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|case| entries(case))
        .filter(is_input)
        .collect()
}

fn dialect_of(file: &Path) -> Dialect {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    dialect_named(name.split('.').nth(1).unwrap_or_default()).unwrap()
}

fn dialect_named(word: &str) -> Option<Dialect> {
    Dialect::ALL.into_iter().find(|dialect| dialect.as_str() == word)
}
