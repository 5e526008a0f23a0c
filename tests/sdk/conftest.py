"""What the suites share: one simulator and one gateway for all of them, and a client for each SDK.

A suite is `test_SDK_*.py`; another SDK needs a client fixture here and its pinned version in requirements.txt. Every kind
of fault has a provider of its own, so that what the gateway learns from one test changes nothing in another.
"""

import openai
import pytest

from harness import Gateway, Simulator, closed_port

FAULTY = ["limited", "unauthorized", "failing", "unavailable", "overloaded", "resetting", "redirecting", "garbled", "cut"]


@pytest.fixture(scope="session")
def simulator():
    program = Simulator()
    yield program
    program.stop()


@pytest.fixture(scope="session")
def gateway(simulator, tmp_path_factory):
    def provider(url=f"{simulator.url}/v1", **more):
        return {"vendor": "openai", "base_url": url, "keys": [{"env": "SDK_KEY"}], **more}

    configuration = {
        "providers": {
            "openai": provider(models=["gpt-4o-mini"]),
            "refusing": provider(f"http://127.0.0.1:{closed_port()}/v1"),
            "silent": provider(timeouts={"first_byte": "300ms", "first_token": "300ms"}),
            "keyless": {"vendor": "openai", "base_url": simulator.url, "keys": [{"env": "SDK_KEY_THAT_IS_NOT_SET"}]},
            **{name: provider() for name in FAULTY},
        },
        "routes": [
            {"models": ["unavailable/with-fallback+status=503"], "fallbacks": ["openai/gpt-4o-mini"]},
        ],
        "limits": {"body_bytes": "1MiB", "in_flight_body_bytes": "8MiB"},
        "log": {"format": "json", "requests": {"output": str(tmp_path_factory.mktemp("log") / "requests.log")}},
    }
    program = Gateway(tmp_path_factory.mktemp("gateway"), configuration, {"SDK_KEY": "sk-sdk-tests"})
    yield program
    assert program.stop() == 0, "the gateway did not drain"


@pytest.fixture(scope="session")
def openai_client(gateway):
    """The OpenAI SDK as an application would set it up, without retries of its own."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-application", max_retries=0, timeout=20) as client:
        yield client
