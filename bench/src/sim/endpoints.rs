//! The endpoints beside chat: what each answers, in OpenAI's shapes.
//!
//! Basic on purpose: these prove that the proxy forwards bodies of every kind (JSON, multipart, binary) and bills them; their
//! contents carry no meaning beyond what is documented here.

use crate::sim::dialect::Dialect;
use crate::sim::files;
use crate::sim::route::{self, Call, Reply, Vendor};
use crate::sim::text::{Json, Put, mix, put};

/// One endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST …/chat/completions`.
    Chat,
    /// `POST …/completions`.
    Completions,
    /// `POST …/responses`.
    Responses,
    /// `POST …/messages`.
    Messages,
    /// `POST …/messages/count_tokens`.
    CountTokens,
    /// `POST /model/{id}/converse`.
    Converse,
    /// `POST /model/{id}/converse-stream`.
    ConverseStream,
    /// `POST …/embeddings`.
    Embeddings,
    /// `GET …/models`.
    Models,
    /// `GET …/models/{id}`.
    Model,
    /// `POST …/moderations`.
    Moderations,
    /// `POST …/images/*`.
    Images,
    /// `POST …/audio/transcriptions` and `…/audio/translations`.
    Transcriptions,
    /// `POST …/audio/speech`.
    Speech,
    /// `…/files` and below.
    Files,
    /// `…/batches` and below.
    Batches,
}

impl Endpoint {
    /// The dialect of its answers and errors.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            Self::Converse | Self::ConverseStream => Dialect::Bedrock,
            Self::Completions => Dialect::Completions,
            Self::Responses => Dialect::Responses,
            _ => Dialect::Chat,
        }
    }

    /// Its request body is JSON.
    #[must_use]
    pub fn is_json(self) -> bool {
        !matches!(self, Self::Transcriptions | Self::Files)
    }

    /// The model named by the path, percent-decoded.
    #[must_use]
    pub fn model(self, path: &str) -> Option<String> {
        match self {
            Self::Converse | Self::ConverseStream => route::segment_before_last(path),
            _ if path.starts_with("/v1/") => None,
            _ => {
                let rest = path.split_once("/deployments/")?.1;
                rest.split('/').next().map(crate::sim::digest::percent_decode)
            }
        }
    }
}

/// The endpoint at `path`, if there is one.
#[must_use]
pub fn find(method: &str, path: &str) -> Option<Endpoint> {
    let path = path.strip_suffix('/').unwrap_or(path);
    // First, because it is the one that load is made of.
    if method == "POST" && path.ends_with("/chat/completions") {
        return Some(Endpoint::Chat);
    }
    if path.contains("/files") {
        return Some(Endpoint::Files);
    }
    if path.contains("/batches") {
        return Some(Endpoint::Batches);
    }
    if method == "POST" {
        const ENDS: [(&str, Endpoint); 13] = [
            ("/completions", Endpoint::Completions),
            ("/responses", Endpoint::Responses),
            ("/messages", Endpoint::Messages),
            ("/messages/count_tokens", Endpoint::CountTokens),
            ("/converse", Endpoint::Converse),
            ("/converse-stream", Endpoint::ConverseStream),
            ("/embeddings", Endpoint::Embeddings),
            ("/moderations", Endpoint::Moderations),
            ("/images/generations", Endpoint::Images),
            ("/images/edits", Endpoint::Images),
            ("/audio/transcriptions", Endpoint::Transcriptions),
            ("/audio/translations", Endpoint::Transcriptions),
            ("/audio/speech", Endpoint::Speech),
        ];
        return ENDS
            .iter()
            .find(|(end, _)| path.ends_with(end))
            .map(|(_, endpoint)| *endpoint);
    }
    match method {
        "GET" | "HEAD" if path.ends_with("/models") => Some(Endpoint::Models),
        "GET" | "HEAD" if path.contains("/models/") => Some(Endpoint::Model),
        _ => None,
    }
}

/// Answers at `endpoint`.
pub fn answer(endpoint: Endpoint, call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let dialect = endpoint.dialect();
    let chat = matches!(dialect, Dialect::Chat) && endpoint == Endpoint::Chat || dialect != Dialect::Chat;
    if chat && !call.fields.object {
        return route::error(
            dialect,
            400,
            None,
            "We could not parse the JSON body of your request.",
            body,
        );
    }
    if chat && call.model == "-" {
        return route::error(dialect, 400, None, "you must provide a model parameter", body);
    }
    match endpoint {
        Endpoint::Chat | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => {
            route::chat(call, dialect, call.fields.stream, body)
        }
        Endpoint::Converse => route::chat(call, dialect, false, body),
        Endpoint::ConverseStream => route::chat(call, dialect, true, body),
        Endpoint::CountTokens => {
            put!(
                body,
                "{\"input_tokens\":",
                call.request.body.len().div_ceil(4) as u64,
                "}"
            );
            Reply::json(200, Vendor::Anthropic)
        }
        Endpoint::Embeddings => embeddings(call, body),
        Endpoint::Models => models(call, body),
        Endpoint::Model => {
            model(call.request.path().rsplit('/').next().unwrap_or(""), body);
            Reply::json(200, Vendor::OpenAi)
        }
        Endpoint::Moderations => moderations(call, body),
        Endpoint::Images => images(call, body),
        Endpoint::Transcriptions => transcription(call, body),
        Endpoint::Speech => {
            // Not audio, but every byte value in an order that a proxy cannot repair.
            let bytes = call.behaviour.map_or(0, |b| b.bytes);
            body.extend((0..if bytes == 0 { 4096 } else { bytes }).map(|at| (mix(at as u64) & 0xff) as u8));
            Reply {
                content_type: "audio/mpeg".into(),
                input: input(call),
                ..Reply::json(200, Vendor::OpenAi)
            }
        }
        Endpoint::Files => files::files(call, body),
        Endpoint::Batches => files::batches(call, body),
    }
}

fn input(call: &Call<'_>) -> u64 {
    call.behaviour
        .and_then(|b| b.input_tokens)
        .map_or(call.request.body.len().div_ceil(4) as u64, u64::from)
}

/// One vector per input; component `i` of vector `v` is `mix(v * 4096 + i)` scaled to ±1 over 65,536 steps.
fn embeddings(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let raw = call.fields.input.unwrap_or(b"\"\"");
    let value: serde_json::Value = serde_json::from_slice(raw).unwrap_or_default();
    let nested = value
        .as_array()
        .filter(|list| !list.first().is_some_and(serde_json::Value::is_number));
    let count = nested.map_or(1, Vec::len).min(2048);
    let dimensions = call.fields.dimensions.unwrap_or(1536).min(4096);
    let mut vector = Vec::new();
    put!(body, "{\"object\":\"list\",\"data\":[");
    for index in 0..count {
        put!(
            body,
            if index > 0 { "," } else { "" },
            "{\"object\":\"embedding\",\"index\":",
            index as u64,
            ",\"embedding\":"
        );
        let component = |at: u32| (mix(index as u64 * 4096 + u64::from(at)) & 0xffff) as f32 / 32768.0 - 1.0;
        if call.fields.base64 {
            vector.clear();
            (0..dimensions).for_each(|at| vector.extend_from_slice(&component(at).to_le_bytes()));
            put!(body, "\"", crate::sim::digest::base64(&vector).as_str(), "\"}");
        } else {
            for at in 0..dimensions {
                put!(body, if at > 0 { "," } else { "[" }, component(at).to_string().as_str());
            }
            put!(body, "]}");
        }
    }
    let input = input(call);
    put!(
        body,
        "],\"model\":\"",
        Json(call.model),
        "\",\"usage\":{\"prompt_tokens\":",
        input,
        ",\"total_tokens\":",
        input,
        "}}"
    );
    Reply {
        input,
        ..Reply::json(200, Vendor::OpenAi)
    }
}

fn models(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    if call.request.header("anthropic-version").is_some() {
        put!(
            body,
            "{\"data\":[{\"type\":\"model\",\"id\":\"claude-sonnet-4-6\",\"display_name\":\"Claude Sonnet 4.6\",\"created_at\":"
        );
        put!(
            body,
            "\"2026-02-17T00:00:00Z\"}],\"has_more\":false,\"first_id\":\"claude-sonnet-4-6\",\"last_id\":\"claude-sonnet-4-6\"}"
        );
        return Reply::json(200, Vendor::Anthropic);
    }
    put!(body, "{\"object\":\"list\",\"data\":[");
    for (index, name) in ["gpt-4o-mini", "gpt-4o", "gpt-4.1", "o4-mini", "text-embedding-3-small"]
        .iter()
        .enumerate()
    {
        put!(body, if index > 0 { "," } else { "" });
        model(name, body);
    }
    put!(body, "]}");
    Reply::json(200, Vendor::OpenAi)
}

fn model(name: &str, body: &mut Vec<u8>) {
    put!(
        body,
        "{\"id\":\"",
        Json(name),
        "\",\"object\":\"model\",\"created\":1721172741,\"owned_by\":\"system\"}"
    );
}

fn moderations(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let flagged = call
        .fields
        .input
        .is_some_and(|input| memchr::memmem::find(input, b"flagme").is_some());
    let word = if flagged { "true" } else { "false" };
    put!(
        body,
        "{\"id\":\"modr-",
        call.seq,
        "\",\"model\":\"",
        Json(call.model),
        "\",\"results\":[{\"flagged\":",
        word
    );
    put!(
        body,
        ",\"categories\":{\"violence\":",
        word,
        ",\"hate\":false},\"category_scores\":{\"violence\":"
    );
    put!(body, if flagged { "0.93" } else { "0.00002" }, ",\"hate\":0.00001}}]}");
    Reply::json(200, Vendor::OpenAi)
}

fn images(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let (input, output) = (input(call), 196 * u64::from(call.fields.n));
    // `bytes` sets the size of the base64 text, the way one megabyte answers are made.
    let wanted = call.behaviour.map_or(0, |b| b.bytes).max(64) / 4 * 4;
    put!(body, "{\"created\":", call.seconds, ",\"data\":[");
    for index in 0..call.fields.n {
        put!(body, if index > 0 { "," } else { "" }, "{\"b64_json\":\"iVBORw0KGgo");
        body.resize(body.len() + wanted - 11, b'A');
        put!(body, "\"}");
    }
    put!(
        body,
        "],\"usage\":{\"input_tokens\":",
        input,
        ",\"output_tokens\":",
        output,
        ",\"total_tokens\":",
        input + output
    );
    put!(
        body,
        ",\"input_tokens_details\":{\"text_tokens\":",
        input,
        ",\"image_tokens\":0}}}"
    );
    Reply {
        input,
        output,
        ..Reply::json(200, Vendor::OpenAi)
    }
}

/// Says what arrived: the file's name, size and checksums, so that a damaged upload shows.
fn transcription(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let parts = files::multipart(call.request).unwrap_or_default();
    let Some(file) = parts.iter().find(|part| part.name == "file") else {
        return route::error(
            Dialect::Chat,
            400,
            None,
            "[{'type': 'missing', 'loc': ('body', 'file'), 'msg': 'Field required'}]",
            body,
        );
    };
    put!(body, "{\"text\":\"when they look from here\",\"sim_file\":");
    files::describe(file.filename.as_deref().unwrap_or(""), file.data, body);
    for part in parts.iter().filter(|part| part.filename.is_none()) {
        put!(
            body,
            ",\"sim_field_",
            Json(&part.name),
            "\":\"",
            Json(&String::from_utf8_lossy(part.data)),
            "\""
        );
    }
    ",\"usage\":{\"type\":\"duration\",\"seconds\":3}}".put(body);
    Reply {
        input: call.request.body.len().div_ceil(4) as u64,
        output: 5,
        ..Reply::json(200, Vendor::OpenAi)
    }
}
