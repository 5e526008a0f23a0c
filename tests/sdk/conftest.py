"""What the suites share: one simulator, a gateway for the OpenAI suite, and one with three providers for the matrix.

A suite is `test_SDK_*.py`, or `test_dialects*.py` for what every SDK must see alike; another SDK needs a class in
clients.py and its pinned version in requirements.txt. Every kind of fault has a provider of its own, so that what the
gateway learns from one test changes nothing in another.
"""

import openai
import pytest
import trustme

from clients import CLIENTS
from harness import Gateway, Simulator, closed_port

FAULTY = ["limited", "unauthorized", "failing", "unavailable", "overloaded", "resetting", "redirecting", "garbled", "cut"]
DIALECT_FAULTS = ["refused", "limited", "failing", "unauthorized", "resetting", "reporting", "cut"]


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


def of_three(simulator, folder, name, **more):
    """The providers and the route of config/sluice.yaml, and its providers again for each client and fault."""
    bases = {"openai": f"{simulator.url}/v1", "anthropic": simulator.url, "bedrock": simulator.url}

    def provider(vendor, **more):
        region = {"region": "eu-central-1"} if vendor == "bedrock" else {}
        keys = [{"env": f"SDK_{vendor.upper()}_KEY", **region}]
        return {"vendor": vendor, "base_url": bases[vendor], "keys": keys, **more}

    configuration = {
        "providers": {
            **{vendor: provider(vendor) for vendor in bases},
            **{
                f"{vendor}-{client}-{fault}": provider(vendor, timeouts={"stream_idle": "300ms"})
                for vendor in bases
                for client in CLIENTS
                for fault in DIALECT_FAULTS
            },
        },
        "routes": [
            {
                "models": ["openai/gpt-4o-mini*"],
                "fallbacks": ["anthropic/claude-sonnet-4-6", "bedrock/anthropic.claude-3-5-haiku"],
                "timeouts": {"first_byte": "500ms"},
            }
        ],
        "log": {"format": "json", "requests": {"output": str(folder.mktemp("log") / "requests.log")}},
        **more,
    }
    keys = {f"SDK_{vendor.upper()}_KEY": f"sk-provider-{vendor}" for vendor in bases}
    return Gateway(folder.mktemp(name), configuration, keys)


@pytest.fixture(scope="session")
def gateway_of_three(simulator, tmp_path_factory):
    """The gateway of the matrix, over plain HTTP. It retries nothing, so that attempts can be counted."""
    program = of_three(simulator, tmp_path_factory, "three", retries={"per_request": 0})
    yield program
    assert program.stop() == 0, "the gateway did not drain"


@pytest.fixture(scope="session")
def gateway_over_tls(simulator, tmp_path_factory):
    """The same over TLS, and the file of the authorities that its certificate comes from."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authorities.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "server.pem", append=True)
    tls = {"cert": str(folder / "server.pem"), "key": str(folder / "server.key")}
    program = of_three(simulator, tmp_path_factory, "tls", server={"tls": tls})
    yield program, str(folder / "authorities.pem")
    assert program.stop() == 0, "the gateway did not drain"


@pytest.fixture(autouse=True)
def forgetful(request):
    """What a gateway has learnt from one test changes nothing in the next."""
    names = [name for name in ("gateway", "gateway_of_three", "gateway_over_tls") if name in request.fixturenames]
    programs = [request.getfixturevalue(name) for name in names]
    yield
    for program in programs:
        (program[0] if isinstance(program, tuple) else program).forget()


@pytest.fixture(scope="session")
def sdks(gateway_of_three):
    """Each vendor's SDK, without retries of its own."""
    clients = {name: kind(gateway_of_three.url) for name, kind in CLIENTS.items()}
    yield clients
    for client in clients.values():
        client.close()
