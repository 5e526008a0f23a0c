"""Writes botocore.json: requests, and the Authorization header that botocore computes for each.

Run with any recent botocore: python3 tests/golden/sigv4/generate.py
"""

import datetime
import json
import pathlib
import unittest.mock

import botocore
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HOST = "bedrock-runtime.eu-central-1.amazonaws.com"
PROFILE = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fmi1dadi0g15f"
PAIR = {"access_key_id": "AKIDEXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
TEMPORARY = {"access_key_id": "ASIAEXAMPLE", "secret": "other+Secret/With=Signs", "token": "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaDGV1LWNlbnRyYWwtMQ=="}
JSON_BODY = '{"messages":[{"role":"user","content":[{"text":"Grüße \\"quoted\\""}]}]}'


def case(name, path, **more):
    base = {
        "name": name,
        "method": "POST",
        "host": HOST,
        "path": path,
        "query": "",
        "headers": [["Content-Type", "application/json"]],
        "body": JSON_BODY,
        "epoch_s": 1_440_938_160,
        "region": "eu-central-1",
        "service": "bedrock",
        **PAIR,
    }
    return {**base, **more}


CASES = [
    case("version suffix", "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"),
    case("stream", "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream"),
    case("unencoded colon", "/model/anthropic.claude-v2:1/converse"),
    case("profile ARN", f"/model/{PROFILE}/converse"),
    case("session token", f"/model/{PROFILE}/converse", **TEMPORARY),
    case("under a prefix", "/bedrock/model/amazon.nova-micro-v1%3A0/converse", host="127.0.0.1:8080"),
    case("no body, no content type", "/model/x/converse", body="", headers=[]),
    case("leap day, last second", "/model/x/converse", epoch_s=1_709_251_199),
    case("first second of a day", "/model/x/converse", epoch_s=1_709_251_200),
    case("another region", "/model/x/converse", region="us-gov-west-1"),
    case("dot and empty segments", "/a//b/./c/../d/"),
    case("root", "/"),
    case("only a parent", "/a/.."),
    case("space, tilde, plus, star", "/model/a%20b~c+d*e/converse"),
    case("query", "/model/x/converse", method="GET", body="", query="b=2&a=1&a=0&empty=&z=%2F%20"),
    case("query without value", "/model/x/converse", method="GET", body="", query="acl"),
    case("headers of any case and blanks", "/model/x/converse",
         headers=[["X-Amz-Target", "  Two   Blanks  "], ["amz-sdk-request", "attempt=1"], ["Content-TYPE", "application/json; charset=utf-8"]]),
    case("large body", "/model/x/converse", body_repeat=70_000, body="x"),
]


def sign(request):
    at = datetime.datetime.fromtimestamp(request["epoch_s"], datetime.timezone.utc)
    url = f"https://{request['host']}{request['path']}" + (f"?{request['query']}" if request["query"] else "")
    aws = AWSRequest(method=request["method"], url=url, data=request["body"].encode() * request.get("body_repeat", 1), headers={**dict(request["headers"]), "Host": request["host"]})
    auth = botocore.auth.SigV4Auth(
        Credentials(request["access_key_id"], request["secret"], request.get("token")), request["service"], request["region"])
    with unittest.mock.patch.object(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: at.replace(tzinfo=None)):
        auth.add_auth(aws)
    return {**request, "date": aws.headers["X-Amz-Date"], "authorization": aws.headers["Authorization"]}


if __name__ == "__main__":
    rows = ",\n".join(json.dumps(sign(request), ensure_ascii=False) for request in CASES)
    out = pathlib.Path(__file__).with_name("botocore.json")
    out.write_text(f'{{"source": "botocore {botocore.__version__}", "cases": [\n{rows}\n]}}\n', encoding="utf-8")
