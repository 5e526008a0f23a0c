//! OpenAI chat completions and legacy completions: bodies, stream chunks, errors.
//!
//! Shapes follow recorded traffic: the role chunk first, a finish chunk, the usage chunk with empty `choices` when
//! `stream_options.include_usage` asks for it, `[DONE]`. Reasoning tokens count in the usage but are not shown, as at OpenAI;
//! with the control `reasoning` they also appear as `reasoning_content`, as at the compatible vendors.

use crate::sim::answer::{Answer, Block, Event, Finish};
use crate::sim::text::{Id, Json, put};

/// Appends a chat completion.
pub fn unary(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"id\":\"chatcmpl-",
        id(answer),
        "\",\"object\":\"chat.completion\",\"created\":",
        answer.created
    );
    put!(out, ",\"model\":\"", Json(&answer.model), "\",\"choices\":[");
    for choice in 0..answer.n {
        put!(
            out,
            if choice > 0 { "," } else { "" },
            "{\"index\":",
            choice,
            ",\"message\":{\"role\":\"assistant\",\"content\":"
        );
        let refused = answer.finish == Finish::Refusal;
        if answer.text == 0 && !answer.calls.is_empty() || refused {
            put!(out, "null");
        } else {
            put!(out, "\"");
            answer.put_text(out);
            put!(out, "\"");
        }
        if answer.reasoning > 0 {
            put!(out, ",\"reasoning_content\":\"");
            (0..answer.reasoning).for_each(|index| answer.put_thought(index, out));
            put!(out, "\"");
        }
        if !answer.calls.is_empty() {
            put_calls(answer, out);
        }
        put!(
            out,
            if refused {
                ",\"refusal\":\"I'm sorry, I can't help with that.\""
            } else {
                ",\"refusal\":null"
            },
            ",\"annotations\":[]}"
        );
        put!(out, ",\"logprobs\":null,\"finish_reason\":\"", finish(answer), "\"}");
    }
    put!(out, "],\"usage\":");
    usage(answer, out);
    put!(
        out,
        ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_51db84afab\"}"
    );
}

/// Appends one chunk (for each choice) of a streamed chat completion.
pub fn event(answer: &Answer<'_>, event: Event, out: &mut Vec<u8>) {
    match event {
        Event::Start => each(answer, out, |_, out| {
            let content = if answer.text == 0 && !answer.calls.is_empty() {
                "null"
            } else {
                "\"\""
            };
            put!(
                out,
                "{\"role\":\"assistant\",\"content\":",
                content,
                ",\"refusal\":null}"
            );
        }),
        Event::Think(index) => each(answer, out, |_, out| {
            put!(out, "{\"reasoning_content\":\"");
            answer.put_thought(index, out);
            put!(out, "\"}");
        }),
        Event::Text(index) => each(answer, out, |_, out| {
            put!(
                out,
                if answer.finish == Finish::Refusal {
                    "{\"refusal\":\""
                } else {
                    "{\"content\":\""
                }
            );
            answer.put_token(index, out);
            put!(out, "\"}");
        }),
        Event::Open(Block::Tool(call)) => each(answer, out, |_, out| {
            put!(
                out,
                "{\"tool_calls\":[{\"index\":",
                call,
                ",\"id\":\"call_",
                call_id(answer, call),
                "\",\"type\":\"function\",\"function\":{\"name\":\""
            );
            put!(
                out,
                Json(&answer.calls[call as usize].name),
                "\",\"arguments\":\"\"}}]}"
            );
        }),
        Event::Args { call, piece } => each(answer, out, |_, out| {
            put!(
                out,
                "{\"tool_calls\":[{\"index\":",
                call,
                ",\"function\":{\"arguments\":\"",
                Json(answer.args(call, piece)),
                "\"}}]}"
            );
        }),
        Event::Finish => finish_chunks(answer, out),
        Event::Usage if answer.usage_chunk => {
            chunk_head(answer, "chat.completion.chunk", out);
            put!(out, "[],\"usage\":");
            usage(answer, out);
            put!(out, "}\n\n");
        }
        Event::Done => put!(out, "data: [DONE]\n\n"),
        Event::Error => stream_error(answer, out),
        _ => {}
    }
}

/// Appends a legacy completion.
pub fn unary_completion(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"id\":\"cmpl-",
        id(answer),
        "\",\"object\":\"text_completion\",\"created\":",
        answer.created
    );
    put!(out, ",\"model\":\"", Json(&answer.model), "\",\"choices\":[");
    for choice in 0..answer.n {
        put!(out, if choice > 0 { "," } else { "" }, "{\"text\":\"");
        answer.put_text(out);
        put!(
            out,
            "\",\"index\":",
            choice,
            ",\"logprobs\":null,\"finish_reason\":\"",
            finish(answer),
            "\"}"
        );
    }
    put!(out, "],\"usage\":");
    usage(answer, out);
    put!(out, "}");
}

/// Appends one chunk of a streamed legacy completion.
pub fn event_completion(answer: &Answer<'_>, event: Event, out: &mut Vec<u8>) {
    match event {
        Event::Text(index) => {
            for choice in 0..answer.n {
                completion_head(answer, out);
                put!(out, "[{\"text\":\"");
                answer.put_token(index, out);
                put!(
                    out,
                    "\",\"index\":",
                    choice,
                    ",\"logprobs\":null,\"finish_reason\":null}]"
                );
                chunk_tail(answer, out);
            }
        }
        Event::Finish => {
            for choice in 0..answer.n {
                completion_head(answer, out);
                put!(
                    out,
                    "[{\"text\":\"\",\"index\":",
                    choice,
                    ",\"logprobs\":null,\"finish_reason\":\"",
                    finish(answer),
                    "\"}]"
                );
                chunk_tail(answer, out);
            }
        }
        Event::Usage if answer.usage_chunk => {
            completion_head(answer, out);
            put!(out, "[],\"usage\":");
            usage(answer, out);
            put!(out, "}\n\n");
        }
        Event::Done => put!(out, "data: [DONE]\n\n"),
        Event::Error => stream_error(answer, out),
        _ => {}
    }
}

/// Appends an error body.
pub fn error(status: u16, code: Option<&str>, message: &str, out: &mut Vec<u8>) {
    let (kind, usual) = match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        403 => ("invalid_request_error", Some("unsupported_country_region_territory")),
        404 => ("invalid_request_error", Some("model_not_found")),
        402 => ("insufficient_quota", Some("insufficient_quota")),
        429 => ("requests", Some("rate_limit_exceeded")),
        400..500 => ("invalid_request_error", None),
        503 => ("service_unavailable_error", None),
        _ => ("server_error", None),
    };
    put!(
        out,
        "{\"error\":{\"message\":\"",
        Json(message),
        "\",\"type\":\"",
        kind,
        "\",\"param\":null,\"code\":"
    );
    match code.or(usual) {
        Some(code) => put!(out, "\"", Json(code), "\"}}"),
        None => put!(out, "null}}"),
    }
}

/// Appends the usage object.
pub fn usage(answer: &Answer<'_>, out: &mut Vec<u8>) {
    let output = answer.output();
    put!(
        out,
        "{\"prompt_tokens\":",
        answer.input,
        ",\"completion_tokens\":",
        output,
        ",\"total_tokens\":"
    );
    put!(
        out,
        u64::from(answer.input) + u64::from(output),
        ",\"prompt_tokens_details\":{\"cached_tokens\":",
        answer.cached
    );
    put!(
        out,
        ",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":",
        answer.reasoning * answer.n
    );
    put!(
        out,
        ",\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}"
    );
}

/// The identifier of tool call `call`, without its prefix.
#[must_use]
pub fn call_id(answer: &Answer<'_>, call: u32) -> Id {
    Id {
        seq: answer.seq.wrapping_mul(97).wrapping_add(u64::from(call) + 1),
        len: 24,
    }
}

fn put_calls(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(out, ",\"tool_calls\":[");
    for (index, call) in (0u32..).zip(&answer.calls) {
        put!(
            out,
            if index > 0 { "," } else { "" },
            "{\"id\":\"call_",
            call_id(answer, index),
            "\",\"type\":\"function\",\"function\":{\"name\":\""
        );
        put!(out, Json(&call.name), "\",\"arguments\":\"", Json(&call.args), "\"}}");
    }
    put!(out, "]");
}

/// One chunk per choice, whose delta `delta` appends.
fn each(answer: &Answer<'_>, out: &mut Vec<u8>, delta: impl Fn(u32, &mut Vec<u8>)) {
    for choice in 0..answer.n {
        chunk_head(answer, "chat.completion.chunk", out);
        put!(out, "[{\"index\":", choice, ",\"delta\":");
        delta(choice, out);
        put!(out, ",\"logprobs\":null,\"finish_reason\":null}]");
        chunk_tail(answer, out);
    }
}

fn finish_chunks(answer: &Answer<'_>, out: &mut Vec<u8>) {
    for choice in 0..answer.n {
        chunk_head(answer, "chat.completion.chunk", out);
        put!(
            out,
            "[{\"index\":",
            choice,
            ",\"delta\":{},\"logprobs\":null,\"finish_reason\":\"",
            finish(answer),
            "\"}]"
        );
        chunk_tail(answer, out);
    }
}

fn chunk_head(answer: &Answer<'_>, object: &str, out: &mut Vec<u8>) {
    put!(
        out,
        "data: {\"id\":\"chatcmpl-",
        id(answer),
        "\",\"object\":\"",
        object,
        "\",\"created\":",
        answer.created,
        ",\"model\":\""
    );
    put!(
        out,
        Json(&answer.model),
        "\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_51db84afab\",\"choices\":"
    );
}

fn completion_head(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        "data: {\"id\":\"cmpl-",
        id(answer),
        "\",\"object\":\"text_completion\",\"created\":",
        answer.created,
        ",\"model\":\""
    );
    put!(out, Json(&answer.model), "\",\"choices\":");
}

fn chunk_tail(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put!(
        out,
        if answer.usage_chunk {
            ",\"usage\":null}\n\n"
        } else {
            "}\n\n"
        }
    );
}

fn stream_error(answer: &Answer<'_>, out: &mut Vec<u8>) {
    let script = answer.behaviour.as_deref();
    put!(out, "data: ");
    let message = script
        .and_then(|b| b.message.as_deref())
        .unwrap_or("The server had an error while processing your request.");
    error(500, script.and_then(|b| b.error_code.as_deref()), message, out);
    put!(out, "\n\n");
}

fn id(answer: &Answer<'_>) -> Id {
    Id {
        seq: answer.seq,
        len: 29,
    }
}

fn finish<'a>(answer: &'a Answer<'_>) -> &'a str {
    if let Some(finish) = answer.behaviour.as_ref().and_then(|b| b.finish.as_deref()) {
        return finish;
    }
    match answer.finish {
        Finish::Stop | Finish::Refusal => "stop",
        Finish::Length => "length",
        Finish::Tools => "tool_calls",
    }
}
