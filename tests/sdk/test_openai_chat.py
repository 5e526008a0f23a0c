"""Chat through the OpenAI SDK: unary, streamed, with tools; and the Responses API."""

import asyncio
import json

import openai
import pytest

MODEL = "openai/gpt-4o-mini"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello. Grüße, 世界 \U0001f30d"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def sim(script):
    """The header by which the simulator is told what to do."""
    return {"x-sim": script}


def test_chat_is_answered(openai_client):
    answer = openai_client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "gpt-4o-mini", "the provider is asked for its own name of the model"
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_bare_model_name_goes_to_the_provider_that_lists_it(openai_client):
    answer = openai_client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert answer.choices[0].message.content


def test_what_the_application_says_is_what_is_answered(openai_client):
    text = "Grüße aus \"Zürich\"\n\t世界 \U0001f30d"
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
    body["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]
    script = "body=" + "".join(f"%{byte:02x}" for byte in json.dumps(body).encode())
    answer = openai_client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers=sim(script))
    assert answer.choices[0].message.content == text


def test_every_answer_has_a_request_id(openai_client):
    first = openai_client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    second = openai_client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert first.headers["x-request-id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_several_choices_and_a_limit(openai_client):
    answer = openai_client.chat.completions.create(model=MODEL, messages=MESSAGES, n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


def test_a_stream_brings_the_same_text_as_a_unary_answer(openai_client):
    unary = openai_client.chat.completions.create(model=MODEL, messages=MESSAGES)
    stream = openai_client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == unary.choices[0].message.content
    assert len(chunks) > 5, "it is streamed, not collected"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_its_usage_if_asked(openai_client):
    stream = openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_events_cut_anywhere_are_put_together(openai_client):
    stream = openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, extra_headers=sim("write_bytes=7,unicode=1")
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_a_stream_without_its_end_mark_still_ends(openai_client):
    stream = openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, extra_headers=sim("no_done=1")
    )
    assert list(stream)[-1].choices[0].finish_reason == "stop"


def test_a_stream_can_be_left_early(openai_client):
    with openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, extra_headers=sim("tokens=100000,tps=2000")
    ) as stream:
        for _, chunk in zip(range(3), stream):
            assert chunk.object == "chat.completion.chunk"
    assert openai_client.chat.completions.create(model=MODEL, messages=MESSAGES).choices


def test_the_sdk_assembles_a_stream(openai_client):
    with openai_client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_the_asynchronous_client_is_served_at_once(gateway):
    async def ask_together():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-application", max_retries=0) as client:
            asked = [client.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(20)]
            return await asyncio.gather(*asked)

    answers = asyncio.run(ask_together())
    assert len({answer.id for answer in answers}) == 20


def test_a_tool_is_called(openai_client):
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required", extra_headers=sim("tool=2")
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert len(choice.message.tool_calls) == 2
    for call in choice.message.tool_calls:
        assert call.id
        assert call.function.name == "get_weather"
        assert isinstance(json.loads(call.function.arguments), dict)


def test_the_result_of_a_tool_is_taken(openai_client):
    first = openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, extra_headers=sim("tool=1")
    )
    call = first.choices[0].message.tool_calls[0]
    messages = [*MESSAGES, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    second = openai_client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert second.choices[0].message.content


def test_a_tool_call_is_streamed_in_deltas(openai_client):
    stream = openai_client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, stream=True, extra_headers=sim("tool=1")
    )
    name, arguments, deltas, finish = "", "", 0, None
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
                deltas += bool(call.function.arguments)
    assert name == "get_weather"
    assert isinstance(json.loads(arguments), dict)
    assert deltas > 1, "the arguments come in pieces"
    assert finish == "tool_calls"


def test_unknown_parameters_reach_the_provider(openai_client):
    answer = openai_client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, extra_body={"x_vendor_extension": {"deep": [1, 2.50]}}, extra_headers={"x-sim-echo": "1"}
    )
    seen = answer.http_response.json()
    import base64

    body = json.loads(base64.b64decode(seen["body_base64"]))
    assert body["x_vendor_extension"] == {"deep": [1, 2.50]}
    assert body["model"] == "gpt-4o-mini"
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["authorization"] == "Bearer sk-sdk-tests", "the provider sees the gateway's key, not the application's"


def test_a_response_is_created(openai_client):
    answer = openai_client.responses.create(model=MODEL, input="Say hello.")
    assert answer.id.startswith("resp")
    assert answer.output_text
    assert answer.usage.total_tokens > 0


def test_a_response_is_streamed(openai_client):
    stream = openai_client.responses.create(model=MODEL, input="Say hello.", stream=True)
    events = list(stream)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


@pytest.mark.parametrize("kilobytes", [1, 100, 900])
def test_large_messages_pass(openai_client, kilobytes):
    messages = [{"role": "user", "content": "x" * 1024 * kilobytes}]
    answer = openai_client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.usage.prompt_tokens >= 256 * kilobytes
