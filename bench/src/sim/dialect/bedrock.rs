//! Amazon Bedrock Converse and ConverseStream: bodies, event-stream frames, errors.
//!
//! Frames are `application/vnd.amazon.eventstream`: prelude (total length, headers length, prelude CRC), headers of type string,
//! payload, message CRC; both CRCs are CRC-32. Every payload carries the padding field `p`, as the service's do. There is no
//! `contentBlockStart` for text or reasoning; usage comes only in `metadata`, after `messageStop`.

use crate::sim::answer::{Answer, Block, Event, Finish};
use crate::sim::digest::crc32;
use crate::sim::text::{Id, Json, mix, put};

/// The alphabet that `p` is cut from.
const PADDING: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Appends a Converse answer.
pub fn unary(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"metrics\":{\"latencyMs\":",
        latency(answer),
        "},\"output\":{\"message\":{\"content\":["
    );
    let mut comma = "";
    if answer.reasoning > 0 {
        put!(out, "{\"reasoningContent\":{\"reasoningText\":{\"text\":\"");
        (0..answer.reasoning).for_each(|index| answer.put_thought(index, out));
        put!(out, "\",\"signature\":\"c2ltdWxhdGVk\"}}}");
        comma = ",";
    }
    if answer.text > 0 || answer.calls.is_empty() {
        put!(out, comma, "{\"text\":\"");
        answer.put_text(out);
        put!(out, "\"}");
        comma = ",";
    }
    for (index, call) in (0u32..).zip(&answer.calls) {
        put!(
            out,
            comma,
            "{\"toolUse\":{\"toolUseId\":\"tooluse_",
            tool_id(answer, index),
            "\",\"name\":\"",
            Json(&call.name),
            "\",\"input\":"
        );
        put!(out, &*call.args, "}}");
        comma = ",";
    }
    put!(
        out,
        "],\"role\":\"assistant\"}},\"stopReason\":\"",
        stop_reason(answer),
        "\",\"usage\":"
    );
    usage(answer, out);
    put!(out, "}");
}

/// Appends one frame of a ConverseStream answer.
pub fn event(answer: &Answer<'_>, event: Event, out: &mut Vec<u8>) {
    let pad = padding(answer, event);
    match event {
        Event::Start => frame(out, "event", "messageStart", |out| {
            put!(out, "{\"p\":\"", pad, "\",\"role\":\"assistant\"}")
        }),
        Event::Open(Block::Tool(call)) => frame(out, "event", "contentBlockStart", |out| {
            put!(
                out,
                "{\"contentBlockIndex\":",
                block_index(answer, Block::Tool(call)),
                ",\"p\":\"",
                pad,
                "\",\"start\":{\"toolUse\":{\"name\":\""
            );
            put!(
                out,
                Json(&answer.calls[call as usize].name),
                "\",\"toolUseId\":\"tooluse_",
                tool_id(answer, call),
                "\"}}}"
            );
        }),
        Event::Think(index) => delta(answer, Block::Thinking, pad, out, |out| {
            put!(out, "{\"reasoningContent\":{\"text\":\"");
            answer.put_thought(index, out);
            put!(out, "\"}}");
        }),
        Event::Sign => delta(answer, Block::Thinking, pad, out, |out| {
            put!(out, "{\"reasoningContent\":{\"signature\":\"c2ltdWxhdGVk\"}}")
        }),
        Event::Text(index) => delta(answer, Block::Text, pad, out, |out| {
            put!(out, "{\"text\":\"");
            answer.put_token(index, out);
            put!(out, "\"}");
        }),
        Event::Args { call, piece } => delta(answer, Block::Tool(call), pad, out, |out| {
            put!(
                out,
                "{\"toolUse\":{\"input\":\"",
                Json(answer.args(call, piece)),
                "\"}}"
            );
        }),
        Event::Shut(block) => frame(out, "event", "contentBlockStop", |out| {
            put!(
                out,
                "{\"contentBlockIndex\":",
                block_index(answer, block),
                ",\"p\":\"",
                pad,
                "\"}"
            );
        }),
        Event::Finish | Event::Usage | Event::Error => closing(answer, event, pad, out),
        Event::Open(_) | Event::Ping | Event::Done => {}
    }
}

/// Appends an error body; its type travels in `x-amzn-errortype`.
pub fn error(message: &str, out: &mut Vec<u8>) {
    put!(out, "{\"message\":\"", Json(message), "\"}");
}

/// The value of `x-amzn-errortype` for `status`.
#[must_use]
pub fn error_type(status: u16) -> &'static str {
    match status {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        408 => "ModelTimeoutException",
        424 => "ModelErrorException",
        429 => "ThrottlingException",
        503 => "ServiceUnavailableException",
        400..500 => "ValidationException",
        _ => "InternalServerException",
    }
}

/// Appends a frame whose payload is cut-off JSON, or one whose message CRC is wrong.
pub fn garbage(bad_crc: bool, out: &mut Vec<u8>) {
    if bad_crc {
        frame(out, "event", "contentBlockDelta", |out| {
            put!(
                out,
                "{\"contentBlockIndex\":0,\"delta\":{\"text\":\"garbled\"},\"p\":\"ab\"}"
            )
        });
        if let Some(last) = out.last_mut() {
            *last ^= 0xff;
        }
    } else {
        frame(out, "event", "contentBlockDelta", |out| {
            put!(out, "{\"contentBlockIndex\":0,\"del")
        });
    }
}

/// Appends one frame: `kind` is `event` or `exception`, `name` the event's or exception's type, `payload` appends the body.
pub fn frame(out: &mut Vec<u8>, kind: &str, name: &str, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 12]);
    header(
        out,
        if kind == "exception" {
            ":exception-type"
        } else {
            ":event-type"
        },
        name,
    );
    header(out, ":content-type", "application/json");
    header(out, ":message-type", kind);
    let headers = (out.len() - start - 12) as u32;
    payload(out);
    let total = (out.len() - start + 4) as u32;
    out[start..start + 4].copy_from_slice(&total.to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&headers.to_be_bytes());
    let prelude = crc32(&out[start..start + 8]);
    out[start + 8..start + 12].copy_from_slice(&prelude.to_be_bytes());
    let message = crc32(&out[start..]);
    out.extend_from_slice(&message.to_be_bytes());
}

/// The frames that may end a stream.
fn closing(answer: &Answer<'_>, event: Event, pad: &str, out: &mut Vec<u8>) {
    match event {
        Event::Finish => frame(out, "event", "messageStop", |out| {
            put!(
                out,
                "{\"p\":\"",
                pad,
                "\",\"stopReason\":\"",
                stop_reason(answer),
                "\"}"
            );
        }),
        Event::Usage => frame(out, "event", "metadata", |out| {
            put!(
                out,
                "{\"metrics\":{\"latencyMs\":",
                latency(answer),
                "},\"p\":\"",
                pad,
                "\",\"usage\":"
            );
            usage(answer, out);
            put!(out, "}");
        }),
        Event::Error => {
            let script = answer.behaviour.as_deref();
            let name = script
                .and_then(|b| b.error_code.as_deref())
                .unwrap_or("throttlingException");
            let message = script
                .and_then(|b| b.message.as_deref())
                .unwrap_or("Too many tokens, please wait before trying again.");
            frame(out, "exception", name, |out| {
                put!(out, "{\"message\":\"", Json(message), "\"}")
            });
        }
        _ => {}
    }
}

fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    const STRING: u8 = 7;
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.push(STRING);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

fn delta(answer: &Answer<'_>, block: Block, pad: &str, out: &mut Vec<u8>, delta: impl FnOnce(&mut Vec<u8>)) {
    frame(out, "event", "contentBlockDelta", |out| {
        put!(
            out,
            "{\"contentBlockIndex\":",
            block_index(answer, block),
            ",\"delta\":"
        );
        delta(out);
        put!(out, ",\"p\":\"", pad, "\"}");
    });
}

fn usage(answer: &Answer<'_>, out: &mut Vec<u8>) {
    let output = answer.output();
    let fresh = answer.input - answer.cached;
    put!(
        out,
        "{\"inputTokens\":",
        fresh,
        ",\"outputTokens\":",
        output,
        ",\"serverToolUsage\":{},\"totalTokens\":"
    );
    put!(out, u64::from(answer.input) + u64::from(output));
    if answer.cached > 0 {
        put!(
            out,
            ",\"cacheReadInputTokenCount\":",
            answer.cached,
            ",\"cacheReadInputTokens\":",
            answer.cached
        );
        put!(out, ",\"cacheWriteInputTokenCount\":0,\"cacheWriteInputTokens\":0");
    }
    put!(out, "}");
}

fn block_index(answer: &Answer<'_>, block: Block) -> u32 {
    let thinking = u32::from(answer.reasoning > 0);
    match block {
        Block::Thinking => 0,
        Block::Text => thinking,
        Block::Tool(call) => thinking + u32::from(answer.text > 0) + call,
    }
}

/// A padding whose length varies from event to event, as the service's does.
fn padding(answer: &Answer<'_>, event: Event) -> &'static str {
    let salt = match event {
        Event::Text(index) | Event::Think(index) => u64::from(index),
        Event::Args { piece, .. } => u64::from(piece),
        _ => 3,
    };
    &PADDING[..(mix(answer.seq ^ salt << 20) % PADDING.len() as u64) as usize]
}

fn latency(answer: &Answer<'_>) -> u64 {
    answer.behaviour.as_ref().map_or(0, |b| b.latency_ms) + 251
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
        Finish::Refusal => "content_filtered",
    }
}
