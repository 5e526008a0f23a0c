//! The OpenAPI description of the administration (OpenAPI 3.1).
//!
//! Invariants: one table of operations; a test asks for each of them. Deliberately absent: the shape of every answer.

use axum::Json;
use serde_json::{Map, Value, json};

/// Method, path below `/admin/v1`, what it does, members of its body (a `?` behind what may be left out).
pub const OPERATIONS: &[(&str, &str, &str, &str)] = &[
    (
        "get",
        "/{kind}",
        "List customers, teams or keys, with their budgets and limits",
        "",
    ),
    (
        "post",
        "/{kind}",
        "Add a customer, a team or a key; a key's secret, and its pair for AWS SDKs, are in this answer only",
        "name customer? team? expires_s? models? providers? budgets?",
    ),
    (
        "get",
        "/{kind}/{name}",
        "Show a customer, a team or a key, with its budgets and limits",
        "",
    ),
    (
        "patch",
        "/{kind}/{name}",
        "Enable, disable, or change what may be used and, of a key, until when, and whether bodies are logged",
        "disabled? models? providers? expires_s? log_bodies?",
    ),
    (
        "delete",
        "/{kind}/{name}",
        "Delete it; what it has spent stays in the ledger",
        "",
    ),
    (
        "post",
        "/{kind}/{name}/budgets",
        "Add a budget in dollars",
        "limit window soft? provider? model?",
    ),
    (
        "post",
        "/{kind}/{name}/limits",
        "Add a rate limit; each gateway that shares the store counts for itself",
        "unit window? most provider? model?",
    ),
    (
        "post",
        "/keys/{name}/rotate",
        "Give a key a new secret; the old one holds for a while",
        "overlap_s? expires_s?",
    ),
    (
        "patch",
        "/budgets/{id}",
        "Change a budget's limit, or from what spending on to warn",
        "limit? soft?",
    ),
    ("delete", "/budgets/{id}", "Delete a budget", ""),
    (
        "post",
        "/budgets/{id}/top-up",
        "Allow more in the current period",
        "amount",
    ),
    (
        "post",
        "/budgets/{id}/reset",
        "Forget what was spent in the current period",
        "",
    ),
    ("delete", "/limits/{id}", "Delete a rate limit", ""),
    (
        "get",
        "/spend",
        "Report what was spent, by key, team, customer, model, provider or tag",
        "",
    ),
    (
        "get",
        "/requests",
        "List single requests, by virtual key, time and status",
        "",
    ),
    ("get", "/audit", "List the latest changes", ""),
    ("get", "/openapi.json", "This description", ""),
];

/// The description.
pub async fn document() -> Json<Value> {
    let mut paths: Map<String, Value> = Map::new();
    for (method, path, summary, members) in OPERATIONS {
        let mut operation = json!({
            "summary": summary,
            "parameters": parameters(path),
            "responses": {
                "2XX": {"description": "Done"},
                "400": {"description": "The request contradicts itself or what is stored"},
                "401": {"description": "The administrator's credential is missing or wrong"},
                "404": {"description": "There is no such thing"},
            },
        });
        if !members.is_empty() {
            operation["requestBody"] = body(members);
        }
        let entry = paths.entry(format!("/admin/v1{path}")).or_insert_with(|| json!({}));
        entry[*method] = operation;
    }
    Json(json!({
        "openapi": "3.1.0",
        "info": {"title": "Sluice administration", "version": env!("CARGO_PKG_VERSION")},
        "security": [{"admin": []}],
        "components": {"securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }))
}

fn body(members: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for member in members.split(' ') {
        let name = member.trim_end_matches('?');
        if name == member {
            required.push(name);
        }
        let schema = match name {
            "models" | "providers" => json!({"type": "array", "items": {"type": "string"}}),
            "budgets" => json!({"type": "array", "items": {"type": "object"}}),
            "disabled" | "log_bodies" => json!({"type": "boolean"}),
            "most" | "expires_s" | "overlap_s" => json!({"type": "integer", "minimum": 0}),
            "soft" => {
                json!({"type": "string", "description": "Decimal dollars; none, where it is changed, to warn no more"})
            }
            "limit" | "amount" => json!({"type": "string", "description": "Decimal dollars"}),
            _ => json!({"type": "string"}),
        };
        properties.insert(name.to_owned(), schema);
    }
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

fn parameters(path: &str) -> Value {
    let named = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> = named
        .map(|name| {
            let schema = match name {
                "kind" => json!({"type": "string", "enum": ["customers", "teams", "keys"]}),
                "id" => json!({"type": "integer"}),
                _ => json!({"type": "string"}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    if path == "/spend" {
        for (name, about) in [
            ("by", "key, team, customer, model, provider or tag"),
            ("month", "YYYY-MM; the current one if nothing is said"),
            ("from_s", "seconds since the epoch, in whole hours"),
            ("to_s", "seconds since the epoch, in whole hours"),
            ("format", "json or csv"),
        ] {
            all.push(
                json!({"name": name, "in": "query", "required": name == "by", "description": about,
                "schema": {"type": "string"}}),
            );
        }
    }
    if path == "/audit" {
        all.push(
            json!({"name": "lines", "in": "query", "required": false, "description": "how many at most, up to 1000",
            "schema": {"type": "integer", "minimum": 1}}),
        );
    }
    Value::from(all)
}
