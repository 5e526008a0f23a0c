"""Errors reach an application as the OpenAI SDK's own exceptions, each with the code, and never with a secret."""

import time

import openai
import pytest

from harness import closed_port

MESSAGES = [{"role": "user", "content": "Say hello."}]
SECRET = "sk-sdk-tests"


def ask(client, model, script="", **more):
    headers = {"x-sim": script} if script else {}
    return client.chat.completions.create(model=model, messages=MESSAGES, extra_headers=headers, **more)


def refused(client, expected, status, code, model, script="", **more):
    """Asks, and gives the exception after looking at what every one has in common."""
    with pytest.raises(expected) as caught:
        ask(client, model, script, **more)
    error = caught.value
    assert type(error) is expected
    assert (error.status_code, error.code) == (status, code)
    assert error.request_id
    assert error.body["message"]
    assert SECRET not in str(error) and "127.0.0.1" not in str(error)
    return error


def test_a_wrong_parameter_is_a_bad_request(openai_client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(openai_client, "openai/gpt-4o-mini", "status=400,code=invalid_value,message=No%20such%20value")
    assert caught.value.code == "invalid_value"
    assert "No such value" in caught.value.message


def test_a_body_that_is_no_json_is_a_bad_request(openai_client):
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.post("/chat/completions", content=b"{\"model\": ", cast_to=object)
    assert caught.value.code == "invalid_body"


def test_a_request_without_a_model_is_a_bad_request(openai_client):
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.post("/chat/completions", body={"messages": MESSAGES}, cast_to=object)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "model")


def test_an_unknown_path_is_not_found(openai_client):
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.post("/no/such/thing", body={}, cast_to=object)
    assert caught.value.code == "unknown_path"


def test_a_model_that_the_provider_does_not_know_is_not_found(openai_client):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(openai_client, "openai/gpt-99", "status=404,code=model_not_found")
    assert caught.value.code == "model_not_found"


def test_a_request_that_the_provider_cannot_process_is_unprocessable(openai_client):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(openai_client, "openai/gpt-4o-mini", "status=422")
    assert caught.value.status_code == 422


def test_a_body_over_the_limit_is_refused_with_413(openai_client):
    messages = [{"role": "user", "content": "x" * 2_000_000}]
    with pytest.raises(openai.APIStatusError) as caught:
        openai_client.chat.completions.create(model="openai/gpt-4o-mini", messages=messages)
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


def test_a_rate_limit_says_when_to_come_back(openai_client):
    with pytest.raises(openai.RateLimitError) as caught:
        ask(openai_client, "limited/gpt-4o-mini", "status=429,retry_after=3")
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_refusal_of_the_gateways_own_key_is_no_authentication_error(openai_client):
    error = refused(
        openai_client, openai.InternalServerError, 502, "upstream_auth", "unauthorized/gpt-4o-mini", "status=401"
    )
    assert error.type == "server_error"


@pytest.mark.parametrize(
    ("provider", "status"), [("failing", 500), ("unavailable", 503), ("overloaded", 529)]
)
def test_a_failing_provider_is_an_internal_server_error(openai_client, provider, status):
    with pytest.raises(openai.InternalServerError) as caught:
        ask(openai_client, f"{provider}/gpt-4o-mini", f"status={status}")
    assert caught.value.status_code == (503 if status == 529 else status)


def test_a_provider_that_fails_is_replaced_by_the_fallback(openai_client):
    assert ask(openai_client, "unavailable/with-fallback+status=503").choices[0].message.content


def test_a_provider_that_refuses_connections(openai_client):
    refused(openai_client, openai.InternalServerError, 502, "upstream_connect_failed", "refusing/gpt-4o-mini")


def test_a_provider_that_resets_the_connection(openai_client):
    refused(
        openai_client, openai.InternalServerError, 502, "upstream_reset", "resetting/gpt-4o-mini", "reset=before_head"
    )


def test_a_redirect_is_not_followed(openai_client):
    refused(
        openai_client,
        openai.InternalServerError,
        502,
        "upstream_protocol_error",
        "redirecting/gpt-4o-mini",
        "status=307,location=http://192.0.2.1/",
    )


def test_an_answer_that_is_no_http(openai_client):
    refused(
        openai_client,
        openai.InternalServerError,
        502,
        "upstream_protocol_error",
        "garbled/gpt-4o-mini",
        "malformed=status_line",
    )


def test_a_silent_provider(openai_client):
    begun = time.monotonic()
    refused(
        openai_client,
        openai.InternalServerError,
        504,
        "upstream_timeout",
        "silent/gpt-4o-mini",
        "stall=before_head",
    )
    assert time.monotonic() - begun < 5


def test_a_provider_without_a_usable_key(openai_client):
    refused(openai_client, openai.InternalServerError, 503, "no_provider_available", "keyless/gpt-4o-mini")


def test_the_gateway_answers_shortly_before_the_application_gives_up(openai_client):
    # The SDK says how long it waits; a twentieth of that is the answer's time to arrive.
    started = time.monotonic()
    refused(
        openai_client,
        openai.InternalServerError,
        504,
        "upstream_timeout",
        "openai/gpt-4o-mini",
        "latency_ms=20000",
        timeout=5,
    )
    assert time.monotonic() - started < 5
    assert ask(openai_client, "openai/gpt-4o-mini").choices


def test_the_applications_own_time_limit(openai_client):
    # Here the gateway is told of a longer limit than the one that the SDK keeps.
    headers = {"x-sim": "latency_ms=20000", "x-stainless-read-timeout": "600"}
    with pytest.raises(openai.APITimeoutError):
        openai_client.chat.completions.create(
            model="openai/gpt-4o-mini", messages=MESSAGES, extra_headers=headers, timeout=0.3
        )
    assert ask(openai_client, "openai/gpt-4o-mini").choices


def test_a_stream_that_is_cut_does_not_look_complete(openai_client):
    received = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in ask(openai_client, "cut/gpt-4o-mini", "close=mid_stream:6", stream=True):
            received.append(chunk)
    assert caught.value.code == "upstream_stream_interrupted"
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert received, "what came before the cut is delivered"
    assert all(choice.finish_reason is None for chunk in received for choice in chunk.choices)


def test_a_gateway_that_is_not_there():
    with openai.OpenAI(base_url=f"http://127.0.0.1:{closed_port()}/v1", api_key="sk-x", max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            ask(client, "openai/gpt-4o-mini")


def test_the_sdk_retries_what_may_pass(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-x", max_retries=2) as client:
        answer = ask(client, "openai/gpt-4o-mini", "status=500,times=1,tag=retried")
    assert answer.choices
