"""A virtual key as AWS SDKs take it: an access key id and a secret, with which boto3 signs what it asks the gateway for."""

import json
import urllib.request

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from harness import Gateway

CREDENTIAL = "an-administrators-credential"


@pytest.fixture(scope="module")
def keeper(simulator, tmp_path_factory):
    """A gateway that issues keys, before a provider that is not Bedrock."""
    folder = tmp_path_factory.mktemp("keys")
    configuration = {
        "providers": {"openai": {"base_url": f"{simulator.url}/v1", "keys": [{"env": "SDK_KEY"}]}},
        "accounts": {
            "store": str(folder / "sluice.db"),
            "admin_credential": {"env": "ADMIN"},
            "aws_pairs_secret": {"env": "PAIRS"},
        },
        "log": {"format": "json", "requests": {"output": str(folder / "requests.log")}},
    }
    environment = {"SDK_KEY": "sk-sdk-tests", "ADMIN": CREDENTIAL, "PAIRS": "0123456789abcdef" * 2}
    program = Gateway(folder, configuration, environment)
    yield program
    assert program.stop() == 0, "the gateway did not drain"


@pytest.fixture(scope="module")
def pair(keeper):
    made = admin(keeper, "/keys", {"name": "boto", "budgets": [{"limit": "1", "window": "day"}]})
    return made["aws"]


def admin(gateway, path, body=None):
    fields = {"Authorization": f"Bearer {CREDENTIAL}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{gateway.admin_url}/admin/v1{path}", data, fields)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def client(gateway, pair, path=""):
    return boto3.client(
        "bedrock-runtime",
        region_name="eu-central-1",
        endpoint_url=f"{gateway.url}{path}",
        aws_access_key_id=pair["access_key_id"],
        aws_secret_access_key=pair["secret_access_key"],
        config=Config(retries={"total_max_attempts": 1}),
    )


QUESTION = {
    "modelId": "openai/gpt-4o-mini",
    "messages": [{"role": "user", "content": [{"text": "Hello, world? Grüße & 'quotes'"}]}],
    "inferenceConfig": {"maxTokens": 50},
}


@pytest.mark.parametrize("path", ["", "/bedrock"])
def test_signed_requests_are_answered_and_charged(keeper, pair, path):
    bedrock = client(keeper, pair, path)
    answer = bedrock.converse(**QUESTION)
    assert answer["output"]["message"]["content"][0]["text"]
    events = list(bedrock.converse_stream(**QUESTION)["stream"])
    assert any("metadata" in event for event in events)
    spent = admin(keeper, "/keys/boto")["budgets"][0]
    assert float(spent["spent"]) + float(spent["leased"]) > 0


def test_what_is_signed_otherwise_is_refused(keeper, pair):
    for wrong in ({"secret_access_key": "x" * 43}, {"access_key_id": "SLCEAAAAAAAAAAAAAAAA"}):
        with pytest.raises(ClientError) as refused:
            client(keeper, {**pair, **wrong}).converse(**QUESTION)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 401
        assert pair["secret_access_key"] not in str(refused.value)
