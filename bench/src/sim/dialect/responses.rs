//! OpenAI responses: bodies and stream events, in their basic form.
//!
//! Text, function calls and usage; events carry `sequence_number` and there is no `[DONE]`. Absent on purpose: built-in tools,
//! stored responses, background mode.

use crate::sim::answer::{Answer, Block, Event, Finish};
use crate::sim::text::{HexId, Id, Json, put};

/// Appends a response object.
pub fn unary(answer: &Answer<'_>, out: &mut Vec<u8>) {
    response(answer, status(answer), true, out);
}

/// Appends one event (or the few that are always sent together) of a streamed response.
pub fn event(answer: &Answer<'_>, event: Event, sequence: &mut u32, out: &mut Vec<u8>) {
    match event {
        Event::Start => {
            for name in ["response.created", "response.in_progress"] {
                named(name, sequence, out, |out| {
                    put!(out, ",\"response\":");
                    response(answer, "in_progress", false, out);
                });
            }
        }
        Event::Open(Block::Text) => {
            item_event("response.output_item.added", answer, Block::Text, false, sequence, out);
            part_event("response.content_part.added", answer, false, sequence, out);
        }
        Event::Open(block @ Block::Tool(_)) => {
            item_event("response.output_item.added", answer, block, false, sequence, out)
        }
        Event::Text(index) => named("response.output_text.delta", sequence, out, |out| {
            place(answer, Block::Text, out);
            put!(out, ",\"content_index\":0,\"logprobs\":[],\"delta\":\"");
            answer.put_token(index, out);
            put!(out, "\"");
        }),
        Event::Args { call, piece } => named("response.function_call_arguments.delta", sequence, out, |out| {
            place(answer, Block::Tool(call), out);
            put!(out, ",\"delta\":\"", Json(answer.args(call, piece)), "\"");
        }),
        Event::Shut(Block::Text) => {
            named("response.output_text.done", sequence, out, |out| {
                place(answer, Block::Text, out);
                put!(out, ",\"content_index\":0,\"logprobs\":[],\"text\":\"");
                answer.put_text(out);
                put!(out, "\"");
            });
            part_event("response.content_part.done", answer, true, sequence, out);
            item_event("response.output_item.done", answer, Block::Text, true, sequence, out);
        }
        Event::Shut(block @ Block::Tool(call)) => {
            named("response.function_call_arguments.done", sequence, out, |out| {
                place(answer, block, out);
                put!(out, ",\"arguments\":\"", Json(&answer.calls[call as usize].args), "\"");
            });
            item_event("response.output_item.done", answer, block, true, sequence, out);
        }
        // `no_done` leaves out the terminal event, since the dialect has no `[DONE]`.
        Event::Done => {
            let name = if answer.finish == Finish::Length {
                "response.incomplete"
            } else {
                "response.completed"
            };
            named(name, sequence, out, |out| {
                put!(out, ",\"response\":");
                response(answer, status(answer), true, out);
            });
        }
        Event::Error => {
            let script = answer.behaviour.as_deref();
            let code = script.and_then(|b| b.error_code.as_deref()).unwrap_or("server_error");
            let message = script
                .and_then(|b| b.message.as_deref())
                .unwrap_or("The server had an error.");
            named("error", sequence, out, |out| {
                put!(
                    out,
                    ",\"code\":\"",
                    Json(code),
                    "\",\"message\":\"",
                    Json(message),
                    "\",\"param\":null"
                )
            });
        }
        _ => {}
    }
}

fn named(name: &str, sequence: &mut u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    put!(out, "event: ", name, "\ndata: {\"type\":\"", name, "\"");
    body(out);
    put!(out, ",\"sequence_number\":", *sequence, "}\n\n");
    *sequence += 1;
}

fn item_event(name: &str, answer: &Answer<'_>, block: Block, done: bool, sequence: &mut u32, out: &mut Vec<u8>) {
    named(name, sequence, out, |out| {
        put!(out, ",\"output_index\":", output_index(answer, block), ",\"item\":");
        item(answer, block, done, out);
    });
}

fn part_event(name: &str, answer: &Answer<'_>, done: bool, sequence: &mut u32, out: &mut Vec<u8>) {
    named(name, sequence, out, |out| {
        place(answer, Block::Text, out);
        put!(out, ",\"content_index\":0,\"part\":");
        part(answer, done, out);
    });
}

fn place(answer: &Answer<'_>, block: Block, out: &mut Vec<u8>) {
    put!(
        out,
        ",\"item_id\":\"",
        prefix(block),
        item_id(answer, block),
        "\",\"output_index\":",
        output_index(answer, block)
    );
}

fn response(answer: &Answer<'_>, status: &str, done: bool, out: &mut Vec<u8>) {
    put!(
        out,
        "{\"id\":\"resp_",
        HexId(Id {
            seq: answer.seq,
            len: 50
        }),
        "\",\"object\":\"response\",\"created_at\":",
        answer.created
    );
    put!(
        out,
        ",\"status\":\"",
        status,
        "\",\"background\":false,\"error\":null,\"incomplete_details\":"
    );
    put!(
        out,
        if done && answer.finish == Finish::Length {
            "{\"reason\":\"max_output_tokens\"}"
        } else {
            "null"
        }
    );
    put!(
        out,
        ",\"instructions\":null,\"max_output_tokens\":null,\"model\":\"",
        Json(&answer.model),
        "\",\"output\":["
    );
    if done {
        let mut comma = "";
        if answer.text > 0 || answer.calls.is_empty() {
            item(answer, Block::Text, true, out);
            comma = ",";
        }
        for index in 0..answer.calls.len() as u32 {
            put!(out, comma);
            item(answer, Block::Tool(index), true, out);
            comma = ",";
        }
    }
    put!(
        out,
        "],\"parallel_tool_calls\":true,\"previous_response_id\":null,\"reasoning\":{\"effort\":null,\"summary\":null},\"store\":true"
    );
    put!(
        out,
        ",\"temperature\":1.0,\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":1.0"
    );
    put!(out, ",\"truncation\":\"disabled\",\"usage\":");
    if done {
        let output = answer.output();
        put!(
            out,
            "{\"input_tokens\":",
            answer.input,
            ",\"input_tokens_details\":{\"cached_tokens\":",
            answer.cached,
            "},\"output_tokens\":"
        );
        put!(
            out,
            output,
            ",\"output_tokens_details\":{\"reasoning_tokens\":",
            answer.reasoning,
            "},\"total_tokens\":"
        );
        put!(out, u64::from(answer.input) + u64::from(output), "}");
    } else {
        put!(out, "null");
    }
    put!(out, ",\"user\":null,\"metadata\":{}}");
}

fn item(answer: &Answer<'_>, block: Block, done: bool, out: &mut Vec<u8>) {
    put!(out, "{\"id\":\"", prefix(block), item_id(answer, block));
    let state = if done { "completed" } else { "in_progress" };
    if let Block::Tool(index) = block {
        let call = &answer.calls[index as usize];
        put!(
            out,
            "\",\"type\":\"function_call\",\"status\":\"",
            state,
            "\",\"arguments\":\"",
            Json(if done { &call.args } else { "" })
        );
        put!(
            out,
            "\",\"call_id\":\"call_",
            super::openai::call_id(answer, index),
            "\",\"name\":\"",
            Json(&call.name),
            "\"}"
        );
        return;
    }
    put!(out, "\",\"type\":\"message\",\"status\":\"", state, "\",\"content\":[");
    if done {
        part(answer, true, out);
    }
    put!(out, "],\"role\":\"assistant\"}");
}

fn part(answer: &Answer<'_>, done: bool, out: &mut Vec<u8>) {
    if done && answer.finish == Finish::Refusal {
        put!(
            out,
            "{\"type\":\"refusal\",\"refusal\":\"I'm sorry, I can't help with that.\"}"
        );
        return;
    }
    put!(
        out,
        "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\""
    );
    if done {
        answer.put_text(out);
    }
    put!(out, "\"}");
}

fn prefix(block: Block) -> &'static str {
    if matches!(block, Block::Tool(_)) { "fc_" } else { "msg_" }
}

fn item_id(answer: &Answer<'_>, block: Block) -> HexId {
    let salt = if let Block::Tool(index) = block {
        u64::from(index) + 2
    } else {
        1
    };
    HexId(Id {
        seq: answer.seq.wrapping_mul(31).wrapping_add(salt),
        len: 50,
    })
}

fn output_index(answer: &Answer<'_>, block: Block) -> u32 {
    match block {
        Block::Tool(index) => u32::from(answer.text > 0) + index,
        _ => 0,
    }
}

fn status(answer: &Answer<'_>) -> &'static str {
    if answer.finish == Finish::Length {
        "incomplete"
    } else {
        "completed"
    }
}
