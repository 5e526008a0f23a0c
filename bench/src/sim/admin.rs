//! The simulator's own pages: rules, bill, attempts, reset.

use crate::sim::bill::Filter;
use crate::sim::digest;
use crate::sim::http::Request;
use crate::sim::route::{Reply, Vendor};
use crate::sim::server::Worker;
use crate::sim::text::put;

/// Answers a request about the simulator itself; `None` for every other.
pub fn answer(request: &Request<'_>, path: &str, worker: &Worker, body: &mut Vec<u8>) -> Option<Reply> {
    if path == "/health" {
        put!(body, "{\"status\":\"ok\"}");
        return Some(Reply::json(200, Vendor::Plain));
    }
    let page = path.strip_prefix("/sim/")?;
    let shared = &*worker.shared;
    let status = match (request.method, page) {
        ("GET", "bill") => {
            body.extend_from_slice(shared.bill.lock().to_json().as_bytes());
            200
        }
        ("GET", "attempts") => {
            body.extend_from_slice(shared.bill.lock().attempts_json(&filter(request.query())).as_bytes());
            200
        }
        ("POST", "reset") => {
            shared.scripts.reset();
            shared.bill.lock().reset();
            shared.files.lock().reset();
            put!(body, "{\"ok\":true}");
            200
        }
        ("POST", "rules") => match shared.scripts.replace(request.body) {
            Ok(count) => {
                put!(body, "{\"ok\":true,\"rules\":", count as u64, "}");
                200
            }
            Err(wrong) => {
                put!(
                    body,
                    "{\"ok\":false,\"error\":",
                    serde_json::Value::from(wrong).to_string().as_str(),
                    "}"
                );
                400
            }
        },
        ("GET", "rules") => {
            let matches: Vec<String> = shared.scripts.matches().iter().map(u64::to_string).collect();
            put!(body, "{\"matches\":[", matches.join(",").as_str(), "]}");
            200
        }
        _ => {
            put!(body, "{\"ok\":false,\"error\":\"no such page\"}");
            404
        }
    };
    Some(Reply::json(status, Vendor::Plain))
}

fn filter(query: &str) -> Filter {
    let mut filter = Filter::default();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "model" => filter.model = Some(digest::percent_decode(value)),
            "key" => filter.key = Some(digest::percent_decode(value)),
            "since" => filter.since = value.parse().unwrap_or(0),
            "limit" => filter.limit = value.parse().ok(),
            _ => {}
        }
    }
    filter
}
