//! The echo: a JSON description of exactly what arrived.
//!
//! This is how tests prove byte-exact forwarding and which credential was used; nothing is hidden or normalised.

use crate::sim::digest;
use crate::sim::http::Request;
use crate::sim::text::{Json, put};

/// A body up to this size is repeated in base64.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Appends the description of `request`.
pub fn describe(request: &Request<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"object\":\"sim.echo\",\"method\":\"",
        Json(request.method),
        "\",\"target\":\"",
        Json(request.target),
        "\",\"headers\":["
    );
    for (index, header) in request.headers.iter().enumerate() {
        let value = String::from_utf8_lossy(header.value);
        put!(
            out,
            if index > 0 { "," } else { "" },
            "[\"",
            Json(header.name),
            "\",\"",
            Json(&value),
            "\"]"
        );
    }
    put!(
        out,
        "],\"head_bytes\":",
        request.head_bytes as u64,
        ",\"chunked\":",
        if request.chunked { "true" } else { "false" }
    );
    put!(
        out,
        ",\"body_bytes\":",
        request.body.len() as u64,
        ",\"body_crc32\":\"",
        format!("{:08x}", digest::crc32(request.body)).as_str()
    );
    put!(
        out,
        "\",\"body_sha256\":\"",
        digest::sha256_hex(request.body).as_str(),
        "\""
    );
    if request.body.len() <= BODY_BYTES_MAX {
        put!(out, ",\"body_base64\":\"", digest::base64(request.body).as_str(), "\"");
    }
    put!(out, "}");
}
