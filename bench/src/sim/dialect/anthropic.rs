//! Anthropic messages: bodies, stream events in their real order, errors.
//!
//! Event names and fields follow recorded traffic: usage in `message_start` (input) and, cumulative, in `message_delta` (output);
//! a `ping` after the first block opens; `signature_delta` at the end of a thinking block.

use crate::sim::answer::{Answer, Block, Event, Finish};
use crate::sim::text::{Id, Json, put};

const SIGNATURE: &str = "EusBClsIDRgCKkBzaW11bGF0ZWQtc2lnbmF0dXJlLW9mLWEtdGhpbmtpbmctYmxvY2stc2ltdWxhdGVk";

/// Appends a message.
pub fn unary(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"model\":\"",
        Json(&answer.model),
        "\",\"id\":\"msg_01",
        Id {
            seq: answer.seq,
            len: 22
        }
    );
    put!(out, "\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[");
    let mut comma = "";
    if answer.reasoning > 0 {
        put!(out, "{\"type\":\"thinking\",\"thinking\":\"");
        (0..answer.reasoning).for_each(|index| answer.put_thought(index, out));
        put!(out, "\",\"signature\":\"", SIGNATURE, "\"}");
        comma = ",";
    }
    if answer.text > 0 || answer.calls.is_empty() {
        put!(out, comma, "{\"type\":\"text\",\"text\":\"");
        answer.put_text(out);
        put!(out, "\"}");
        comma = ",";
    }
    for (index, call) in (0u32..).zip(&answer.calls) {
        put!(
            out,
            comma,
            "{\"type\":\"tool_use\",\"id\":\"toolu_01",
            tool_id(answer, index),
            "\",\"name\":\"",
            Json(&call.name)
        );
        put!(out, "\",\"input\":", &*call.args, "}");
        comma = ",";
    }
    put!(
        out,
        "],\"stop_reason\":\"",
        stop_reason(answer),
        "\",\"stop_sequence\":null,\"usage\":"
    );
    usage(answer, answer.output(), out);
    put!(out, "}");
}

/// Appends one event of a streamed message.
pub fn event(answer: &Answer<'_>, event: Event, out: &mut Vec<u8>) {
    match event {
        Event::Start => {
            put!(
                out,
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"",
                Json(&answer.model)
            );
            put!(
                out,
                "\",\"id\":\"msg_01",
                Id {
                    seq: answer.seq,
                    len: 22
                },
                "\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[]"
            );
            put!(out, ",\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
            usage(answer, 1, out);
            put!(out, "}}\n\n");
        }
        Event::Open(block) => open(answer, block, out),
        Event::Ping => put!(out, "event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        Event::Think(index) => delta(0, out, |out| {
            put!(out, "{\"type\":\"thinking_delta\",\"thinking\":\"");
            answer.put_thought(index, out);
            put!(out, "\"}");
        }),
        Event::Sign => delta(0, out, |out| {
            put!(out, "{\"type\":\"signature_delta\",\"signature\":\"", SIGNATURE, "\"}")
        }),
        Event::Text(index) => delta(block_index(answer, Block::Text), out, |out| {
            put!(out, "{\"type\":\"text_delta\",\"text\":\"");
            answer.put_token(index, out);
            put!(out, "\"}");
        }),
        Event::Args { call, piece } => delta(block_index(answer, Block::Tool(call)), out, |out| {
            put!(
                out,
                "{\"type\":\"input_json_delta\",\"partial_json\":\"",
                Json(answer.args(call, piece)),
                "\"}"
            );
        }),
        Event::Shut(block) => {
            put!(
                out,
                "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":",
                block_index(answer, block),
                "}\n\n"
            );
        }
        Event::Finish => message_delta(answer, out),
        Event::Usage => {}
        Event::Done => put!(out, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
        Event::Error => {
            let script = answer.behaviour.as_deref();
            put!(out, "event: error\ndata: ");
            let message = script.and_then(|b| b.message.as_deref()).unwrap_or("Overloaded");
            error(529, script.and_then(|b| b.error_code.as_deref()), message, out);
            put!(out, "\n\n");
        }
    }
}

/// Appends an error body.
pub fn error(status: u16, code: Option<&str>, message: &str, out: &mut Vec<u8>) {
    let usual = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    put!(
        out,
        "{\"type\":\"error\",\"error\":{\"type\":\"",
        Json(code.unwrap_or(usual)),
        "\",\"message\":\"",
        Json(message)
    );
    put!(out, "\"},\"request_id\":\"req_011CSimulated\"}");
}

fn message_delta(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"",
        stop_reason(answer)
    );
    put!(
        out,
        "\",\"stop_sequence\":null},\"usage\":{\"input_tokens\":",
        answer.input - answer.cached
    );
    put!(
        out,
        ",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":",
        answer.cached
    );
    put!(out, ",\"output_tokens\":", answer.output(), "}}\n\n");
}

fn open(answer: &Answer<'_>, block: Block, out: &mut Vec<u8>) {
    put!(
        out,
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":",
        block_index(answer, block)
    );
    match block {
        Block::Thinking => put!(
            out,
            ",\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n"
        ),
        Block::Text => put!(out, ",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"),
        Block::Tool(call) => {
            put!(
                out,
                ",\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_01",
                tool_id(answer, call),
                "\",\"name\":\""
            );
            put!(out, Json(&answer.calls[call as usize].name), "\",\"input\":{}}}\n\n");
        }
    }
}

fn delta(index: u32, out: &mut Vec<u8>, delta: impl FnOnce(&mut Vec<u8>)) {
    put!(
        out,
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        index,
        ",\"delta\":"
    );
    delta(out);
    put!(out, "}\n\n");
}

fn usage(answer: &Answer<'_>, output: u32, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"input_tokens\":",
        answer.input - answer.cached,
        ",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":"
    );
    put!(
        out,
        answer.cached,
        ",\"cache_creation\":{\"ephemeral_5m_input_tokens\":0,\"ephemeral_1h_input_tokens\":0},\"output_tokens\":"
    );
    put!(
        out,
        output,
        ",\"service_tier\":\"standard\",\"inference_geo\":\"global\"}"
    );
}

fn block_index(answer: &Answer<'_>, block: Block) -> u32 {
    let thinking = u32::from(answer.reasoning > 0);
    match block {
        Block::Thinking => 0,
        Block::Text => thinking,
        Block::Tool(call) => thinking + u32::from(answer.text > 0) + call,
    }
}

fn tool_id(answer: &Answer<'_>, call: u32) -> Id {
    Id {
        len: 22,
        ..super::openai::call_id(answer, call)
    }
}

fn stop_reason<'a>(answer: &'a Answer<'_>) -> &'a str {
    if let Some(finish) = answer.behaviour.as_ref().and_then(|b| b.finish.as_deref()) {
        return finish;
    }
    match answer.finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Tools => "tool_use",
        Finish::Refusal => "refusal",
    }
}
