//! From a request to an exchange: which endpoint, which key and model, which script, which answer; and response heads.
//!
//! Paths are matched by their ends, so that a base URL with a prefix (`/openai/v1`, `/api/v1`, `/anthropic`) works. Every request
//! but those under `/sim/` and `/health` is an attempt in the bill.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sim::answer::{Answer, Event};
use crate::sim::behaviour::{Behaviour, Malformed};
use crate::sim::bill::{AttemptId, Memo};
use crate::sim::dialect::{self, Dialect};
use crate::sim::http::{self, Request};
use crate::sim::scan::{self, Fields};
use crate::sim::script::{self, Asked};
use crate::sim::server::Worker;
use crate::sim::text::{HexId, Id, put};
use crate::sim::{admin, digest, echo, endpoints, monotonic_us, sigv4};

/// Whose headers a response carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Amazon Bedrock.
    Bedrock,
    /// The simulator's own pages.
    Plain,
}

/// An answer before its head is written; its body, when unary, is in the connection's scratch buffer.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Content type.
    pub content_type: Cow<'static, str>,
    /// Whose headers.
    pub vendor: Vendor,
    /// Input tokens to charge.
    pub input: u64,
    /// Output tokens of the whole answer.
    pub output: u64,
    /// The events, if it is a stream; boxed, because every unary answer moves this struct too.
    pub stream: Option<Box<Stream>>,
    /// Value of `x-amzn-errortype`, empty for none.
    pub error_type: &'static str,
}

/// A streamed answer.
#[derive(Debug)]
pub struct Stream {
    /// Its spelling.
    pub dialect: Dialect,
    /// What is said.
    pub answer: Answer<'static>,
    /// In which order.
    pub events: Vec<Event>,
}

/// One request being answered.
#[derive(Debug)]
pub struct Exchange {
    /// The answer.
    pub reply: Reply,
    /// The script, if any applies.
    pub behaviour: Option<Arc<Behaviour>>,
    /// The entry in the log, unless the request is about the simulator itself.
    pub attempt: Option<AttemptId>,
    /// When the request was complete, in monotonic microseconds.
    pub now_us: u64,
    /// The request's number.
    pub seq: u64,
    /// The connection stays open.
    pub keep_alive: bool,
    /// HEAD: no body follows the head.
    pub bodiless: bool,
}

/// How a response says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Content-Length.
    Exact(usize),
    /// Content-Length of the body that HEAD leaves out.
    Omitted(usize),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// Neither: the connection's end.
    UntilClose,
}

/// What an endpoint works with.
pub struct Call<'a> {
    /// The request.
    pub request: &'a Request<'a>,
    /// The fields of its body.
    pub fields: &'a Fields<'a>,
    /// The model's name without its script.
    pub model: &'a str,
    /// The script, if any.
    pub behaviour: Option<&'a Arc<Behaviour>>,
    /// The request's number.
    pub seq: u64,
    /// Wall clock, seconds since the epoch.
    pub seconds: u64,
    /// The thread's state.
    pub worker: &'a Worker,
}

impl Reply {
    /// A JSON reply.
    #[must_use]
    pub fn json(status: u16, vendor: Vendor) -> Self {
        Self {
            status,
            content_type: Cow::Borrowed("application/json"),
            vendor,
            input: 0,
            output: 0,
            stream: None,
            error_type: "",
        }
    }
}

impl Exchange {
    /// A healthy unary answer, which needs neither time nor faults.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.behaviour.is_none() && self.reply.stream.is_none()
    }

    /// Appends the response head.
    pub fn put_head(&self, worker: &Worker, length: Length, out: &mut Vec<u8>) {
        let reply = &self.reply;
        let script = self.behaviour.as_deref();
        if script.is_some_and(|b| b.malformed == Some(Malformed::StatusLine)) {
            put!(out, "HTP/1.1 2OO what\r\ndate: ");
        } else if reply.status == 200 {
            put!(out, "HTTP/1.1 200 OK\r\ndate: ");
        } else {
            put!(
                out,
                "HTTP/1.1 ",
                u32::from(reply.status),
                " ",
                http::reason(reply.status),
                "\r\ndate: "
            );
        }
        worker.date((worker.shared.epoch_us + self.now_us) / 1_000_000, out);
        put!(out, "\r\ncontent-type: ", &*reply.content_type);
        match length {
            Length::Exact(bytes) | Length::Omitted(bytes) => put!(out, "\r\ncontent-length: ", bytes as u64),
            Length::Chunked => put!(out, "\r\ntransfer-encoding: chunked"),
            Length::UntilClose => {}
        }
        if !self.keep_alive || length == Length::UntilClose {
            put!(out, "\r\nconnection: close");
        }
        self.put_vendor(script, out);
        if let Some(script) = script {
            put_scripted(script, length, out);
        }
        put!(out, "\r\n\r\n");
    }

    fn put_vendor(&self, script: Option<&Behaviour>, out: &mut Vec<u8>) {
        let requests = script.and_then(|b| b.remaining_requests).unwrap_or(9999);
        let tokens = script.and_then(|b| b.remaining_tokens).unwrap_or(1_999_500);
        match self.reply.vendor {
            Vendor::OpenAi => {
                put!(
                    out,
                    "\r\nx-request-id: req_",
                    HexId(Id { seq: self.seq, len: 32 }),
                    "\r\nopenai-organization: sim\r\nopenai-processing-ms: 251"
                );
                put!(
                    out,
                    "\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\nx-ratelimit-limit-tokens: 2000000"
                );
                put!(
                    out,
                    "\r\nx-ratelimit-remaining-requests: ",
                    requests,
                    "\r\nx-ratelimit-remaining-tokens: ",
                    tokens
                );
                put!(
                    out,
                    "\r\nx-ratelimit-reset-requests: 6ms\r\nx-ratelimit-reset-tokens: 15ms"
                );
            }
            Vendor::Anthropic => {
                put!(
                    out,
                    "\r\nrequest-id: req_01",
                    Id { seq: self.seq, len: 22 },
                    "\r\nanthropic-organization-id: sim"
                );
                put!(
                    out,
                    "\r\nanthropic-ratelimit-requests-limit: 10000\r\nanthropic-ratelimit-requests-remaining: ",
                    requests
                );
                put!(
                    out,
                    "\r\nanthropic-ratelimit-tokens-limit: 2000000\r\nanthropic-ratelimit-tokens-remaining: ",
                    tokens
                );
            }
            Vendor::Bedrock => {
                let id = |seq, len| HexId(Id { seq, len });
                put!(
                    out,
                    "\r\nx-amzn-requestid: ",
                    id(self.seq, 8),
                    "-",
                    id(self.seq ^ 1 << 40, 4),
                    "-4",
                    id(self.seq ^ 2 << 40, 3),
                    "-a"
                );
                put!(out, id(self.seq ^ 3 << 40, 3), "-", id(self.seq ^ 4 << 40, 12));
                if !self.reply.error_type.is_empty() {
                    put!(out, "\r\nx-amzn-errortype: ", self.reply.error_type);
                }
            }
            Vendor::Plain => {}
        }
    }
}

fn put_scripted(script: &Behaviour, length: Length, out: &mut Vec<u8>) {
    if let Some(after) = &script.retry_after {
        put!(out, "\r\nretry-after: ", after.as_str());
    }
    if let Some(after) = script.retry_after_ms {
        put!(out, "\r\nretry-after-ms: ", after);
    }
    if let Some(location) = &script.location {
        put!(out, "\r\nlocation: ", location.as_str());
    }
    for header in &script.headers {
        put!(out, "\r\n", header.as_str());
    }
    for index in 0..script.many_headers {
        put!(out, "\r\nx-sim-filler-", index as u64, ": filler");
    }
    if script.giant_header > 0 {
        put!(out, "\r\nx-sim-giant: ");
        out.resize(out.len() + script.giant_header, b'g');
    }
    match script.malformed {
        Some(Malformed::Header) => put!(out, "\r\nthis line has no colon"),
        Some(Malformed::Nul) => put!(out, "\r\nx-sim-nul: a\0b"),
        Some(Malformed::TwoLengths) => put!(out, "\r\ncontent-length: 1"),
        Some(Malformed::LengthAndChunked) if length == Length::Chunked => put!(out, "\r\ncontent-length: 5"),
        _ => {}
    }
}

/// Answers `request`; a unary body is appended to `body`.
pub fn answer(
    request: &Request<'_>,
    keep_alive: bool,
    worker: &Worker,
    memo: &mut Memo,
    connection: u32,
    body: &mut Vec<u8>,
) -> Exchange {
    let now_us = monotonic_us();
    let shared = &*worker.shared;
    let seq = shared.requests.fetch_add(1, Ordering::Relaxed);
    let bodiless = request.method == "HEAD";
    let path = request.path();
    if let Some(reply) = admin::answer(request, path, worker, body) {
        return Exchange {
            reply,
            behaviour: None,
            attempt: None,
            now_us,
            seq,
            keep_alive,
            bodiless,
        };
    }
    let found = endpoints::find(request.method, path);
    let fields = if found.is_some_and(|e| e.is_json()) {
        scan::fields(request.body)
    } else {
        Fields {
            n: 1,
            ..Fields::default()
        }
    };
    let in_path = found.and_then(|e| e.model(path));
    let full: &str = in_path.as_deref().or(fields.model.as_deref()).unwrap_or("-");
    let key = key(request);
    let mut bill = shared.bill.lock();
    let attempt = bill.begin(memo, (key, full, path), connection, now_us);
    drop(bill);
    let asked = Asked {
        control: request.header_str("x-sim"),
        model: full,
        key,
        path,
        now_us,
    };
    let seconds = (shared.epoch_us + now_us) / 1_000_000;
    let (reply, behaviour) = match shared.scripts.choose(asked) {
        Err(wrong) => (bad_script(&wrong, body), None),
        Ok(behaviour) => {
            let call = Call {
                request,
                fields: &fields,
                model: script::split(full).0,
                behaviour: behaviour.as_ref(),
                seq,
                seconds,
                worker,
            };
            (reply(&call, found, body), behaviour)
        }
    };
    let cut_before = behaviour.as_ref().is_some_and(|b| {
        b.cut
            .is_some_and(|cut| cut.place == crate::sim::behaviour::Place::BeforeHead)
    });
    let status = if cut_before { 0 } else { reply.status };
    shared.bill.lock().status(attempt, status, reply.stream.is_some());
    let keep_alive = keep_alive && !behaviour.as_ref().is_some_and(|b| b.close);
    Exchange {
        reply,
        behaviour,
        attempt: Some(attempt),
        now_us,
        seq,
        keep_alive,
        bodiless,
    }
}

fn reply(call: &Call<'_>, found: Option<endpoints::Endpoint>, body: &mut Vec<u8>) -> Reply {
    let dialect = found.map_or(Dialect::Chat, |e| e.dialect());
    let behaviour = call.behaviour.map(|b| &**b);
    if call.model == "echo" || behaviour.is_some_and(|b| b.echo) || call.request.header("x-sim-echo").is_some() {
        echo::describe(call.request, body);
        return Reply::json(200, vendor(dialect));
    }
    if let Some(b) = behaviour
        && (b.body.is_some() || !matches!(b.status, 0 | 200..300))
    {
        return scripted(b, dialect, body);
    }
    let Some(found) = found else {
        let message = format!("Unknown request URL: {} {}.", call.request.method, call.request.target);
        return error(dialect, 404, Some("unknown_url"), &message, body);
    };
    if let Some(refused) = authorize(call, dialect, body) {
        return refused;
    }
    let mut reply = endpoints::answer(found, call, body);
    if let Some(b) = behaviour {
        if b.status != 0 {
            reply.status = b.status;
        }
        if let Some(content_type) = &b.content_type {
            reply.content_type = Cow::Owned(content_type.clone());
        }
    }
    reply
}

fn authorize(call: &Call<'_>, dialect: Dialect, body: &mut Vec<u8>) -> Option<Reply> {
    let request = call.request;
    match dialect {
        Dialect::Anthropic if request.header("anthropic-version").is_none() => {
            Some(error(dialect, 400, None, "anthropic-version: header is required", body))
        }
        Dialect::Anthropic if request.header("x-api-key").is_none() && request.header("authorization").is_none() => {
            Some(error(dialect, 401, None, "x-api-key header is required", body))
        }
        Dialect::Bedrock => {
            let authorization = request.header_str("authorization").unwrap_or("");
            if authorization.starts_with("Bearer ") {
                return None;
            }
            let wrong = sigv4::verify(request, authorization, &call.worker.shared.aws_secrets, call.seconds).err()?;
            let mut reply = error(dialect, 403, None, wrong, body);
            reply.error_type = "InvalidSignatureException";
            Some(reply)
        }
        Dialect::Chat | Dialect::Completions | Dialect::Responses
            if request.header("authorization").is_none() && request.header("api-key").is_none() =>
        {
            Some(error(dialect, 401, None, "You didn't provide an API key.", body))
        }
        _ => None,
    }
}

/// A unary or streamed chat answer.
pub fn chat(call: &Call<'_>, dialect: Dialect, stream: bool, body: &mut Vec<u8>) -> Reply {
    let mut answer = Answer::new(
        call.model,
        call.fields,
        call.request.body.len(),
        call.behaviour,
        call.seq,
        call.seconds,
    );
    let (input, output) = (u64::from(answer.input), u64::from(answer.output()));
    let base = Reply {
        input,
        output,
        ..Reply::json(200, vendor(dialect))
    };
    if stream {
        let events = answer.events();
        let stream = Stream {
            dialect,
            answer: answer.into_owned(),
            events,
        };
        return Reply {
            content_type: Cow::Borrowed(dialect.stream_type()),
            stream: Some(Box::new(stream)),
            ..base
        };
    }
    dialect.unary(&answer, body);
    let wanted = call.behaviour.map_or(0, |b| b.bytes);
    if wanted > body.len() {
        answer.pad = wanted - body.len();
        body.clear();
        dialect.unary(&answer, body);
    }
    base
}

/// An error in the endpoint's dialect.
pub fn error(dialect: Dialect, status: u16, code: Option<&str>, message: &str, body: &mut Vec<u8>) -> Reply {
    body.clear();
    dialect.error(status, code, message, body);
    let error_type = if dialect == Dialect::Bedrock {
        dialect::bedrock::error_type(status)
    } else {
        ""
    };
    Reply {
        error_type,
        ..Reply::json(status, vendor(dialect))
    }
}

fn scripted(b: &Behaviour, dialect: Dialect, body: &mut Vec<u8>) -> Reply {
    let status = if b.status == 0 { 200 } else { b.status };
    let message = b.message.as_deref().unwrap_or_else(|| dialect::message(status));
    let mut reply = error(dialect, status, b.error_code.as_deref(), message, body);
    if let Some(bytes) = &b.body {
        body.clear();
        body.extend_from_slice(bytes);
    }
    if let Some(content_type) = &b.content_type {
        reply.content_type = Cow::Owned(content_type.clone());
    }
    reply
}

fn bad_script(wrong: &str, body: &mut Vec<u8>) -> Reply {
    error(
        Dialect::Chat,
        400,
        Some("sim_bad_script"),
        &format!("sluice-sim: {wrong}"),
        body,
    )
}

fn vendor(dialect: Dialect) -> Vendor {
    match dialect {
        Dialect::Anthropic => Vendor::Anthropic,
        Dialect::Bedrock => Vendor::Bedrock,
        _ => Vendor::OpenAi,
    }
}

/// The provider key of a request: bearer token, `x-api-key`, `api-key`, or the access key of an AWS signature; `-` for none.
fn key<'a>(request: &Request<'a>) -> &'a str {
    if let Some(value) = request.header_str("authorization") {
        if let Some(token) = value.strip_prefix("Bearer ") {
            return token;
        }
        if let Some(rest) = value.split_once("Credential=").map(|(_, rest)| rest) {
            return rest.split('/').next().unwrap_or("-");
        }
        return value;
    }
    request
        .header_str("x-api-key")
        .or_else(|| request.header_str("api-key"))
        .unwrap_or("-")
}

/// Percent-decoded path segment before the last.
#[must_use]
pub fn segment_before_last(path: &str) -> Option<String> {
    path.rsplit('/').nth(1).map(digest::percent_decode)
}
