//! Translates recorded provider traffic into every dialect and prints what fails: `recorded FILE [OUT]`.
//!
//! FILE is one JSON object a line: `dialect` (`openai_chat`, `anthropic_messages`, `bedrock_converse`; others are passed
//! over), `request` {`path`, `body`}, `response` {`status`, `body` | `body_text` | `body_b64`}. OUT gets every translation, one
//! JSON object a line, for a check by the vendors' own client libraries. Deliberately absent: the traffic itself.

use std::io::{BufRead, BufReader, BufWriter, Write};

use serde_json::{Value, json};
use sluice_wire::chat::{Notes, Out, StreamEnd};
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, ErrorHead, Ingress, Quirks, Reply, Target, Transcoder};

const REPLY: Reply<'static> = Reply {
    model: "model",
    id: "answer-1",
    created: 1,
    include_usage: true,
};

struct Run {
    failures: u32,
    checked: u32,
    losses: std::collections::BTreeMap<String, u32>,
    out: Option<BufWriter<std::fs::File>>,
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().expect("usage: recorded FILE [OUT]");
    let out = arguments
        .next()
        .map(std::fs::File::create)
        .transpose()?
        .map(BufWriter::new);
    let mut run = Run {
        failures: 0,
        checked: 0,
        losses: Default::default(),
        out,
    };
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        let dialect = match line["dialect"].as_str() {
            Some("openai_chat") => Dialect::OpenAi,
            Some("anthropic_messages") => Dialect::Anthropic,
            Some("bedrock_converse") => Dialect::Bedrock,
            _ => continue,
        };
        run.request(dialect, &line);
        run.response(dialect, &line);
    }
    println!("losses: {:#?}", run.losses);
    println!("{} translations, {} failures", run.checked, run.failures);
    drop(run.out.take());
    std::process::exit(i32::from(run.failures > 0));
}

impl Run {
    fn fail(&mut self, line: &Value, what: &str) {
        self.failures += 1;
        println!("{} {}: {what}", line["id"], line["dialect"]);
    }

    fn emit(&mut self, line: &Value, kind: &str, to: Dialect, bytes: &[u8]) {
        self.checked += 1;
        if let Some(out) = &mut self.out {
            let text = String::from_utf8_lossy(bytes);
            let hex: String = if to == Dialect::Bedrock {
                bytes.iter().map(|b| format!("{b:02x}")).collect()
            } else {
                String::new()
            };
            let entry = json!({"id": line["id"], "from": line["dialect"], "kind": kind, "to": to.as_str(), "text": text, "hex": hex});
            writeln!(out, "{entry}").expect("the output file is writable");
        }
    }

    fn request(&mut self, from: Dialect, line: &Value) {
        let body = serde_json::to_vec(&line["request"]["body"]).expect("JSON that was read can be written");
        let path = line["request"]["path"].as_str().unwrap_or_default();
        let model = path.split('/').nth(2);
        let ingress = Ingress {
            path_model: model,
            path_stream: path.ends_with("-stream"),
        };
        let request = match provider::parse_request(from, &body, &ingress) {
            Ok(request) => request,
            Err(error) => return self.fail(line, &format!("request: {error:?}")),
        };
        for to in Dialect::ALL {
            let target = Target {
                model: "target-model",
                max_tokens_default: 4096,
                quirks: Quirks::default(),
            };
            let (mut out, mut notes) = (Out::default(), Notes::default());
            out.begin(&body);
            let result = provider::write_request(to, &request, &target, &mut out, &mut notes);
            for note in notes.list() {
                *self
                    .losses
                    .entry(format!("{to:?} {} {}", note.name, note.loss.as_str()))
                    .or_default() += 1;
            }
            match result {
                Err(error) => {
                    *self
                        .losses
                        .entry(format!("{to:?} REFUSED {}", error.message))
                        .or_default() += 1
                }
                Ok(()) => {
                    let bytes = out.collect(&body);
                    if let Err(error) = serde_json::from_slice::<Value>(&bytes) {
                        self.fail(
                            line,
                            &format!(
                                "request to {to:?} is no JSON: {error}\n{}",
                                String::from_utf8_lossy(&bytes)
                            ),
                        );
                    }
                    self.emit(line, "request", to, &bytes);
                }
            }
        }
    }

    fn response(&mut self, from: Dialect, line: &Value) {
        let response = &line["response"];
        let status = response["status"].as_u64().unwrap_or(0) as u16;
        let stream = response["body_text"].as_str().map(|text| text.as_bytes().to_vec());
        let stream = stream.or_else(|| response["body_b64"].as_str().map(base64));
        match stream {
            Some(stream) if status == 200 => self.stream(from, line, &stream),
            Some(body) => self.error(from, line, status, &body),
            None => {
                let body = serde_json::to_vec(&response["body"]).expect("JSON that was read can be written");
                if status == 200 {
                    self.unary(from, line, &body)
                } else {
                    self.error(from, line, status, &body)
                }
            }
        }
    }

    fn error(&mut self, from: Dialect, line: &Value, status: u16, body: &[u8]) {
        let error = provider::parse_error(
            from,
            &ErrorHead {
                status,
                ..ErrorHead::default()
            },
            body,
        );
        println!(
            "{} error {status}: {:?} {:?} {}",
            line["id"], error.kind, error.code, error.message
        );
        for to in Dialect::ALL {
            let mut out = Out::default();
            provider::write_error(to, &error, &mut out);
            self.emit(line, "error", to, &out.buf);
        }
    }

    fn unary(&mut self, from: Dialect, line: &Value, body: &[u8]) {
        let response = match provider::parse_response(from, body) {
            Ok(response) => response,
            Err(error) => return self.fail(line, &format!("response: {error:?}")),
        };
        for to in Dialect::ALL {
            let mut out = Out::default();
            out.begin(body);
            provider::write_response(to, &response, &REPLY, &mut out);
            let bytes = out.collect(body);
            match serde_json::from_slice::<Value>(&bytes) {
                Err(error) => self.fail(
                    line,
                    &format!("response to {to:?}: {error}\n{}", String::from_utf8_lossy(&bytes)),
                ),
                Ok(_) => {
                    // Whatever is written can be read again, and costs the same.
                    let again =
                        provider::parse_response(to, &bytes).map(|again| again.usage.map(|usage| usage.total()));
                    if again != Ok(response.usage.map(|usage| usage.total()))
                        && (to != Dialect::Anthropic || again.is_err())
                    {
                        self.fail(
                            line,
                            &format!("response to {to:?} read again: {again:?} {:?}", response.usage),
                        );
                    }
                }
            }
            self.emit(line, "response", to, &bytes);
        }
    }

    fn stream(&mut self, from: Dialect, line: &Value, bytes: &[u8]) {
        for to in Dialect::ALL {
            let (mut transcoder, mut out) = (Transcoder::new(from, to, &REPLY), Out::default());
            let mut pieces = bytes.chunks(1000);
            if let Some(error) = pieces.find_map(|piece| transcoder.push(piece, &mut out).err()) {
                self.fail(line, &format!("stream to {to:?}: {error:?}"));
                continue;
            }
            let end = transcoder.finish(&mut out);
            // An error that the provider reported inside its stream is an error for the client too.
            let reported = end == StreamEnd::Failed && transcoder.error().is_some();
            if end != StreamEnd::Complete && !reported || transcoder.malformed() > 0 {
                self.fail(
                    line,
                    &format!(
                        "stream to {to:?}: {end:?} {:?}, {} malformed",
                        transcoder.error(),
                        transcoder.malformed()
                    ),
                );
            }
            self.emit(line, "stream", to, &out.buf);
        }
    }
}

/// Bytes of base64 (RFC 4648 §4).
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for six in text.bytes().filter_map(value) {
        bits = bits << 6 | six;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
