"""What goes wrong with a provider of any dialect reaches an application as its own SDK's exceptions, or not at all."""

import pytest

from clients import CLIENTS, Image, Turn
from test_dialects import ARGUMENTS, ASK, PNG, TARGETS, WEATHER, both_ways, put, quoted

SECRETS = ("sk-provider-", "127.0.0.1")


# What the simulator reports inside a stream, as each provider is known to.
REPORTED = {
    "openai": (500, "The server had an error"),
    "anthropic": (503, "Overloaded"),
    "bedrock": (429, "Too many tokens"),
}


@pytest.fixture(params=list(CLIENTS))
def client(request, sdks):
    return sdks[request.param]


@pytest.fixture(params=list(TARGETS))
def target(request):
    return request.param


def alone(client, target, fault, script):
    """A model of a provider that only this client meets with this fault."""
    return f"{target}-{client.name}-{fault}/{TARGETS[target].split('/', 1)[1]}+{script}"


def refused(client, status, streamed, model):
    with pytest.raises(client.errors[status]) as caught:
        put(client, streamed, model, ASK)
    assert type(caught.value) is client.errors[status]
    error = client.refused(caught.value)
    assert error.status == status
    assert error.message
    assert not any(secret in str(caught.value) for secret in SECRETS)
    return error


@both_ways
@pytest.mark.parametrize("status", [400, 404])
def test_a_request_that_the_provider_refuses(client, target, streamed, status):
    script = f"status={status},message=" + quoted("No such thing, \"Grüße\"")
    error = refused(client, status, streamed, alone(client, target, "refused", script))
    assert "No such thing, \"Grüße\"" in error.message, "the provider's own words"


@both_ways
def test_a_rate_limit_says_when_to_come_back(client, target, streamed):
    error = refused(client, 429, streamed, alone(client, target, "limited", "status=429,retry_after=7"))
    assert error.retry_after == "7"


@both_ways
@pytest.mark.parametrize(
    ("target", "status", "seen"),
    [
        *((target, status, status) for target in TARGETS for status in (500, 503)),
        # Anthropic's word for an overload, and of those who copy it; Bedrock has none of its own for it.
        ("anthropic", 529, 503),
        ("openai", 529, 503),
    ],
)
def test_a_failing_provider(client, target, streamed, status, seen):
    refused(client, seen, streamed, alone(client, target, "failing", f"status={status}"))


@both_ways
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_gateways_own_key(client, target, streamed, status):
    refused(client, 502, streamed, alone(client, target, "unauthorized", f"status={status}"))


def test_a_provider_that_resets_the_connection(client, target):
    refused(client, 502, False, alone(client, target, "resetting", "reset=before_head"))
    refused(client, 502, True, alone(client, target, "resetting", "reset=mid_stream:0"))


def test_an_error_inside_a_stream_before_its_first_token(client, target):
    status, words = REPORTED[target]
    error = refused(client, status, True, alone(client, target, "reporting", "error_event=0"))
    assert words in error.message, "the provider's own words"


@pytest.mark.parametrize("fault", ["close=mid_stream:6", "reset=mid_stream:6", "stall=mid_stream:6", "error_event=6,tps=50"])
def test_a_stream_that_breaks_does_not_look_complete(client, target, fault):
    seen = []
    with pytest.raises(client.interrupted) as caught:
        client.stream(alone(client, target, "cut", fault), ASK, seen=seen)
    assert len(seen) > 2, "what came before is delivered"
    assert not client.looks_complete(seen)
    assert not any(secret in str(caught.value) for secret in SECRETS)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_an_unknown_provider_is_named(sdks, name):
    """Not with Bedrock: its own names of models hold slashes, so that an unknown prefix is a part of the name."""
    client = sdks[name]
    error = refused(client, 404, False, "nobody/knows-this")
    assert "nobody/knows-this" in error.message


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "streamed"])
@pytest.mark.parametrize("first", ["status=429", "status=500", "status=503", "reset=before_head", "stall=before_head"])
def test_the_chain_from_openai_over_anthropic_to_bedrock(client, streamed, first, gateway_of_three, simulator):
    script = "tool=1,tool_args=" + quoted('{"city": "Zürich \\"ZH\\"", "days": 3}')
    with simulator.rules(
        {"match": {"model": "gpt-4o-mini*"}, "do": first},
        {"match": {"model": "claude-sonnet-4-6"}, "do": "status=500"},
        {"match": {"model": "anthropic.claude-3-5-haiku"}, "do": script},
    ):
        turns = [Turn("user", ["What is the weather here?", Image(PNG + bytes(3000))])]
        answer = put(client, streamed, "openai/gpt-4o-mini", turns, tools=[WEATHER], system="Be brief.")
    assert answer.stop == "tool"
    assert [(call.name, call.arguments) for call in answer.calls] == [("get_weather", ARGUMENTS)]
    assert answer.headers["x-sluice-provider"] == "bedrock"
    assert answer.headers["x-sluice-model"] == "anthropic.claude-3-5-haiku"
    assert answer.headers["x-sluice-attempts"] == "3"
    assert answer.headers["x-sluice-fallback-reason"].startswith("upstream_")
    assert answer.input_tokens > 4000 / 4
    assert [attempt["model"] for attempt in simulator.attempts()[-3:]] == [
        "gpt-4o-mini",
        "claude-sonnet-4-6",
        "anthropic.claude-3-5-haiku",
    ]


@both_ways
def test_the_chain_exhausted_tells_why(client, streamed, simulator):
    with simulator.rules(
        {"match": {"model": "gpt-4o-mini*"}, "do": "status=429,retry_after=9"},
        {"match": {"model": "claude-sonnet-4-6"}, "do": "status=429,retry_after=5"},
        {"match": {"model": "anthropic.claude-3-5-haiku"}, "do": "status=429,retry_after=30"},
    ):
        error = refused(client, 429, streamed, "openai/gpt-4o-mini")
    assert error.retry_after == "5"
