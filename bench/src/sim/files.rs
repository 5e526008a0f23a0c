//! Uploaded files and batches, in memory and bounded, and the multipart reader they need.
//!
//! Batches complete at once; their output file is never made. The multipart reader takes what clients send (RFC 7578), not all
//! that MIME allows.

use std::collections::BTreeMap;

use crate::sim::dialect::Dialect;
use crate::sim::digest;
use crate::sim::http::Request;
use crate::sim::route::{self, Call, Reply, Vendor};
use crate::sim::text::{Json, put};

/// Most files held.
pub const FILES_MAX: usize = 1024;
/// Most bytes held in all files together.
pub const FILES_BYTES_MAX: usize = 512 << 20;
/// Most batches held.
const BATCHES_MAX: usize = 1024;

/// What has been uploaded.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
    batches: BTreeMap<String, String>,
    bytes: usize,
}

#[derive(Debug)]
struct File {
    name: String,
    purpose: String,
    created: u64,
    data: Vec<u8>,
}

/// One part of a multipart body.
#[derive(Debug)]
pub struct Part<'a> {
    /// Its field name.
    pub name: String,
    /// Its file name, when it is a file.
    pub filename: Option<String>,
    /// Its bytes.
    pub data: &'a [u8],
}

impl Files {
    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The parts of a `multipart/form-data` request; `None` when it is not one or is damaged.
#[must_use]
pub fn multipart<'a>(request: &Request<'a>) -> Option<Vec<Part<'a>>> {
    let content_type = request.header_str("content-type")?;
    let boundary = content_type
        .split_once("boundary=")?
        .1
        .split(';')
        .next()?
        .trim()
        .trim_matches('"');
    let delimiter = format!("\r\n--{boundary}");
    let finder = memchr::memmem::Finder::new(&delimiter);
    let mut rest = request.body.strip_prefix(&delimiter.as_bytes()[2..])?;
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n")?;
        let head_end = memchr::memmem::find(rest, b"\r\n\r\n")?;
        let (head, body) = (std::str::from_utf8(&rest[..head_end]).ok()?, &rest[head_end + 4..]);
        let end = finder.find(body)?;
        let disposition = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
        let attribute = |key: &str| {
            let (_, value) = disposition.split_once(&format!("; {key}=\""))?;
            value.split('"').next().map(str::to_owned)
        };
        parts.push(Part {
            name: attribute("name")?,
            filename: attribute("filename"),
            data: &body[..end],
        });
        rest = &body[end + delimiter.len()..];
    }
    Some(parts)
}

/// Appends a JSON object with the name, size and checksums of `data`.
pub fn describe(name: &str, data: &[u8], out: &mut Vec<u8>) {
    put!(
        out,
        "{\"filename\":\"",
        Json(name),
        "\",\"bytes\":",
        data.len() as u64,
        ",\"crc32\":\""
    );
    put!(
        out,
        format!("{:08x}", digest::crc32(data)).as_str(),
        "\",\"sha256\":\"",
        digest::sha256_hex(data).as_str(),
        "\"}"
    );
}

/// `/v1/files`: upload, list, get, content, delete.
pub fn files(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let path = call.request.path();
    let rest = path.split_once("/files").map_or("", |(_, rest)| rest).trim_matches('/');
    let mut held = call.worker.shared.files.lock();
    match (call.request.method, rest) {
        ("POST", "") => upload(&mut held, call, body),
        ("GET", "") => {
            put!(body, "{\"object\":\"list\",\"data\":[");
            for (index, (id, file)) in held.files.iter().enumerate() {
                put!(body, if index > 0 { "," } else { "" });
                put_file(id, file, body);
            }
            put!(body, "],\"has_more\":false}");
            Reply::json(200, Vendor::OpenAi)
        }
        ("DELETE", id) => match held.files.remove(id) {
            Some(file) => {
                held.bytes -= file.data.len();
                put!(body, "{\"id\":\"", Json(id), "\",\"object\":\"file\",\"deleted\":true}");
                Reply::json(200, Vendor::OpenAi)
            }
            None => missing(id, body),
        },
        (_, rest) => {
            let (id, content) = rest.strip_suffix("/content").map_or((rest, false), |id| (id, true));
            match held.files.get(id) {
                Some(file) if content => {
                    body.extend_from_slice(&file.data);
                    Reply {
                        content_type: "application/octet-stream".into(),
                        ..Reply::json(200, Vendor::OpenAi)
                    }
                }
                Some(file) => {
                    put_file(id, file, body);
                    Reply::json(200, Vendor::OpenAi)
                }
                None => missing(id, body),
            }
        }
    }
}

/// `/v1/batches`: create, list, get, cancel.
pub fn batches(call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let path = call.request.path();
    let rest = path
        .split_once("/batches")
        .map_or("", |(_, rest)| rest)
        .trim_matches('/');
    let mut held = call.worker.shared.files.lock();
    match (call.request.method, rest) {
        ("POST", "") => {
            let value: serde_json::Value = serde_json::from_slice(call.request.body).unwrap_or_default();
            let field = |name: &str| value[name].as_str().unwrap_or("").to_owned();
            let id = format!("batch_{:024x}", call.seq);
            let text = format!(
                "{{\"id\":\"{id}\",\"object\":\"batch\",\"endpoint\":{},\"errors\":null,\"input_file_id\":{},\"completion_window\":{},\
                 \"status\":\"completed\",\"created_at\":{},\"request_counts\":{{\"total\":0,\"completed\":0,\"failed\":0}},\"metadata\":null}}",
                serde_json::Value::from(field("endpoint")),
                serde_json::Value::from(field("input_file_id")),
                serde_json::Value::from(field("completion_window")),
                call.seconds
            );
            if held.batches.len() >= BATCHES_MAX {
                held.batches.pop_first();
            }
            body.extend_from_slice(text.as_bytes());
            held.batches.insert(id, text);
            Reply::json(200, Vendor::OpenAi)
        }
        ("GET", "") => {
            let all: Vec<&str> = held.batches.values().map(String::as_str).collect();
            put!(
                body,
                "{\"object\":\"list\",\"data\":[",
                all.join(",").as_str(),
                "],\"has_more\":false}"
            );
            Reply::json(200, Vendor::OpenAi)
        }
        (_, rest) => match held.batches.get(rest.trim_end_matches("/cancel")) {
            Some(text) => {
                body.extend_from_slice(text.as_bytes());
                Reply::json(200, Vendor::OpenAi)
            }
            None => missing(rest, body),
        },
    }
}

fn upload(held: &mut Files, call: &Call<'_>, body: &mut Vec<u8>) -> Reply {
    let parts = multipart(call.request).unwrap_or_default();
    let Some(part) = parts.iter().find(|part| part.name == "file") else {
        return route::error(Dialect::Chat, 400, None, "'file' is a required property", body);
    };
    if held.files.len() >= FILES_MAX || held.bytes + part.data.len() > FILES_BYTES_MAX {
        return route::error(Dialect::Chat, 413, None, "The simulator holds no more files.", body);
    }
    let purpose = parts.iter().find(|part| part.name == "purpose");
    let purpose = purpose.map_or_else(String::new, |part| String::from_utf8_lossy(part.data).into_owned());
    let name = part.filename.clone().unwrap_or_default();
    let id = format!("file-{:022x}", call.seq);
    let file = File {
        name,
        purpose,
        created: call.seconds,
        data: part.data.to_vec(),
    };
    put_file(&id, &file, body);
    held.bytes += file.data.len();
    held.files.insert(id, file);
    Reply::json(200, Vendor::OpenAi)
}

fn put_file(id: &str, file: &File, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"id\":\"",
        Json(id),
        "\",\"object\":\"file\",\"bytes\":",
        file.data.len() as u64,
        ",\"created_at\":",
        file.created
    );
    put!(
        out,
        ",\"filename\":\"",
        Json(&file.name),
        "\",\"purpose\":\"",
        Json(&file.purpose),
        "\",\"status\":\"processed\",\"sim_crc32\":\""
    );
    put!(out, format!("{:08x}", digest::crc32(&file.data)).as_str(), "\"}");
}

fn missing(id: &str, body: &mut Vec<u8>) -> Reply {
    route::error(Dialect::Chat, 404, None, &format!("No such object: {id}"), body)
}
