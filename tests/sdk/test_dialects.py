"""One matrix: every scenario, through each vendor's SDK, to a provider of each dialect."""

import base64
import json

import pytest

from clients import CLIENTS, Anthropic, Bedrock, Call, Image, OpenAI, Result, Tool, Turn

TARGETS = {
    "openai": "openai/gpt-4o",
    "anthropic": "anthropic/claude-sonnet-4-6",
    "bedrock": "bedrock/anthropic.claude-3-5-haiku",
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ASK = [Turn("user", ["Say hello. Grüße, 世界 \U0001f30d"])]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "The weather of a place.", CITY)
CLOCK = Tool("get_time", "The time at a place.", CITY)
ARGUMENTS = {"city": "Zürich \"ZH\"", "days": 3}

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["unary", "streamed"])


@pytest.fixture(params=list(CLIENTS))
def client(request, sdks):
    return sdks[request.param]


@pytest.fixture(params=list(TARGETS))
def target(request):
    return request.param


def quoted(text):
    """A value for the simulator's script, whatever it holds."""
    return "".join(f"%{byte:02x}" for byte in text.encode())


def model(target, script=""):
    return TARGETS[target] + ("+" + script if script else "")


def put(client, streamed, model, turns, **more):
    return (client.stream if streamed else client.ask)(model, turns, **more)


@both_ways
def test_text(client, target, streamed, simulator):
    answer = put(client, streamed, model(target, "say=" + quoted("Grüße, \"世界\" \U0001f30d\n")), ASK)
    assert answer.text == "Grüße, \"世界\" \U0001f30d\n"
    assert answer.stop == "stop"
    charged = simulator.last_attempt()
    assert (answer.input_tokens, answer.output_tokens) == (charged["input_tokens"], charged["output_tokens"])
    assert answer.input_tokens > 0 and answer.output_tokens > 0
    assert answer.headers["x-sluice-provider"] == target
    assert answer.headers["x-sluice-model"].startswith(TARGETS[target].split("/", 1)[1])
    assert answer.headers["x-sluice-attempts"] == "1"
    assert answer.headers["x-request-id"]


def test_a_stream_brings_the_text_of_a_unary_answer_in_pieces(client, target):
    unary, streamed = client.ask(model(target), ASK), client.stream(model(target), ASK)
    assert streamed.text == unary.text != ""
    assert streamed.pieces > 10, "it is streamed, not collected"
    assert streamed.output_tokens == unary.output_tokens


def test_events_cut_anywhere_are_put_together(client, target):
    whole = client.stream(model(target, "unicode=1"), ASK)
    assert client.stream(model(target, "unicode=1,write_bytes=7"), ASK).text == whole.text != ""


@both_ways
def test_instructions_and_earlier_turns(client, target, streamed):
    brief = put(client, streamed, model(target), [Turn("user", ["Hello"])])
    turns = [
        Turn("user", ["What is the capital of Switzerland?" * 50]),
        Turn("assistant", ["Bern." * 100]),
        Turn("user", ["And of Austria?", "Answer in one word."]),
    ]
    long = put(client, streamed, model(target), turns, system="Be brief. " * 100)
    assert long.text
    # The simulator counts a token for four bytes of the request: nothing of it has been left behind.
    assert long.input_tokens - brief.input_tokens > (35 * 50 + 5 * 100 + 10 * 100) / 4


@both_ways
def test_an_image(client, target, streamed):
    padded = Image(PNG + bytes(12_000))
    answer = put(client, streamed, model(target), [Turn("user", ["What is in this picture?", padded])])
    assert answer.text
    assert answer.input_tokens > len(base64.b64encode(padded.data)) / 4, "the image arrives whole"


@both_ways
@pytest.mark.parametrize("count", [1, 2])
def test_a_tool_is_called(client, target, streamed, count):
    script = f"tool={count},tool_args=" + quoted(json.dumps(ARGUMENTS))
    answer = put(client, streamed, model(target, script), ASK, tools=[WEATHER, CLOCK], force=True)
    assert answer.stop == "tool"
    assert len({call.id for call in answer.calls}) == count
    assert [call.name for call in answer.calls] == ["get_weather", "get_time"][:count]
    assert all(call.arguments == ARGUMENTS for call in answer.calls)
    if streamed:
        assert answer.pieces > 3 * count, "the arguments come in pieces"


@both_ways
def test_a_tool_without_arguments_is_called(client, target, streamed):
    answer = put(client, streamed, model(target, "tool=1,tool_args={}"), ASK, tools=[WEATHER])
    assert [(call.name, call.arguments) for call in answer.calls] == [("get_weather", {})]


@both_ways
def test_the_result_of_a_tool_is_taken(client, target, streamed):
    script = "tool=2,tool_args=" + quoted(json.dumps(ARGUMENTS))
    first = put(client, streamed, model(target, script), ASK, tools=[WEATHER, CLOCK])
    results = [Result(call.id, "sunny " * 200) for call in first.calls]
    turns = [*ASK, Turn("assistant", list(first.calls)), Turn("user", results)]
    second = put(client, streamed, model(target), turns, tools=[WEATHER, CLOCK])
    assert second.text and second.stop == "stop" and not second.calls
    assert second.input_tokens - first.input_tokens > 2 * 1200 / 4


def test_calls_go_on_with_another_provider(client, target):
    """Ids of one provider's calls are taken by the next one: what a fallback in the middle of a conversation needs."""
    for other in TARGETS:
        first = client.ask(model(other, "tool=1"), ASK, tools=[WEATHER])
        [call] = first.calls
        turns = [*ASK, Turn("assistant", [Call(call.id, call.name, call.arguments)]), Turn("user", [Result(call.id, "sunny")])]
        assert client.ask(model(target), turns, tools=[WEATHER]).text


@both_ways
def test_structured_output(client, target, streamed):
    script = "say=" + quoted(json.dumps(ARGUMENTS))
    answer = put(client, streamed, model(target, script), ASK, schema=CITY)
    assert json.loads(answer.text) == ARGUMENTS


@both_ways
def test_a_limit_of_tokens(client, target, streamed):
    answer = put(client, streamed, model(target), ASK, limit=4)
    assert (answer.stop, answer.output_tokens) == ("length", 4)


@both_ways
def test_stop_sequences_are_taken(client, target, streamed):
    assert put(client, streamed, model(target), ASK, stop=["\n\nHuman:", "END"]).stop == "stop"


WORDS = {
    "openai": {"stop": "stop", "length": "length", "content_filter": "filtered"},
    "anthropic": {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "filtered"},
    "bedrock": {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "content_filtered": "filtered",
        "guardrail_intervened": "filtered",
    },
}


@both_ways
@pytest.mark.parametrize(("target", "word"), [(target, word) for target in WORDS for word in WORDS[target]])
def test_why_an_answer_ended(client, target, word, streamed):
    assert put(client, streamed, model(target, f"finish={word}"), ASK).stop == WORDS[target][word]


BASES = [
    (OpenAI, "/v1"),
    (OpenAI, "/openai/v1"),
    (Anthropic, ""),
    (Anthropic, "/anthropic"),
    (Bedrock, ""),
    (Bedrock, "/bedrock"),
]


@pytest.mark.parametrize(("kind", "path"), BASES)
def test_every_base_url(gateway_of_three, target, kind, path):
    client = kind(gateway_of_three.url, path=path)
    for streamed in (False, True):
        answer = put(client, streamed, model(target), ASK)
        assert answer.text and answer.headers["x-sluice-provider"] == target
    client.close()


@pytest.mark.parametrize(("kind", "path"), BASES)
def test_every_base_url_over_tls(gateway_over_tls, target, kind, path):
    gateway, authorities = gateway_over_tls
    # boto3 sends a bearer token over TLS alone.
    more = {"bearer": True} if kind is Bedrock else {}
    client = kind(gateway.url, path=path, authorities=authorities, **more)
    for streamed in (False, True):
        answer = put(client, streamed, model(target), ASK)
        assert answer.text and answer.headers["x-sluice-provider"] == target
    client.close()
