"""The three vendors' SDKs behind one face: a scenario is written once and runs through each of them.

Each client turns a conversation into its own SDK's arguments, and the SDK's own typed objects into an `Answer`. Nothing is
read leniently: what an SDK has parsed must also pass that SDK's own schema in strict mode (pydantic for OpenAI and
Anthropic, the service model for Bedrock), because the SDKs themselves let a missing or misspelt field pass in silence.
"""

import base64
import json
import os
import ssl
from dataclasses import dataclass, field

import anthropic
import boto3
import openai
import pydantic
from anthropic.types import Message, RawMessageStreamEvent
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from botocore.validate import ParamValidator
from openai.types.chat import ChatCompletion, ChatCompletionChunk

STREAM_EVENT = pydantic.TypeAdapter(RawMessageStreamEvent)


def trusting(authorities):
    """What an SDK built on httpx takes: a file of authorities, or the system's."""
    return ssl.create_default_context(cafile=authorities) if authorities else True


@dataclass
class Image:
    """A PNG."""

    data: bytes


@dataclass
class Call:
    """A call of a tool."""

    id: str
    name: str
    arguments: dict


@dataclass
class Result:
    """What a tool gave back."""

    id: str
    text: str


@dataclass
class Tool:
    """A tool that the model may call."""

    name: str
    description: str
    schema: dict


@dataclass
class Turn:
    """One message: strings, images, calls and results, in order."""

    role: str
    parts: list


@dataclass
class Answer:
    """What a model answered, in no dialect; `stop` is one of stop, length, tool, filtered."""

    text: str = ""
    calls: list = field(default_factory=list)
    stop: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    pieces: int = 0
    headers: dict = field(default_factory=dict)


@dataclass
class Refused:
    """What all SDKs' exceptions have in common."""

    status: int
    message: str
    retry_after: str | None


class OpenAI:
    """`openai`, chat completions."""

    name = "openai"
    errors = {
        400: openai.BadRequestError,
        404: openai.NotFoundError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
        502: openai.InternalServerError,
        503: openai.InternalServerError,
    }
    interrupted = openai.APIError

    def __init__(self, url, path="/v1", authorities=None):
        http = openai.DefaultHttpxClient(verify=trusting(authorities))
        self.sdk = openai.OpenAI(
            base_url=url + path, api_key="sk-application", max_retries=0, timeout=20, http_client=http
        )

    def close(self):
        self.sdk.close()

    def arguments(self, model, turns, system=None, tools=(), force=False, limit=None, stop=None, schema=None):
        messages = [{"role": "system", "content": system}] if system else []
        for turn in turns:
            messages += self._messages(turn)
        more = {}
        if tools:
            more["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
                }
                for tool in tools
            ]
        if force:
            more["tool_choice"] = "required"
        if limit:
            more["max_completion_tokens"] = limit
        if stop:
            more["stop"] = stop
        if schema:
            schema_format = {"name": "answer", "schema": schema, "strict": True}
            more["response_format"] = {"type": "json_schema", "json_schema": schema_format}
        return {"model": model, "messages": messages, **more}

    def _messages(self, turn):
        results = [
            {"role": "tool", "tool_call_id": part.id, "content": part.text}
            for part in turn.parts
            if isinstance(part, Result)
        ]
        calls = [
            {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": json.dumps(part.arguments)}}
            for part in turn.parts
            if isinstance(part, Call)
        ]
        content = []
        for part in turn.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            elif isinstance(part, Image):
                url = "data:image/png;base64," + base64.b64encode(part.data).decode()
                content.append({"type": "image_url", "image_url": {"url": url}})
        if not content and not calls:
            return results
        message = {"role": turn.role, "content": content or None}
        return [*results, {**message, "tool_calls": calls} if calls else message]

    def ask(self, model, turns, **more):
        raw = self.sdk.chat.completions.with_raw_response.create(**self.arguments(model, turns, **more))
        ChatCompletion.model_validate_json(raw.http_response.content, strict=True)
        completion = raw.parse()
        assert completion.object == "chat.completion" and completion.id and completion.created > 0
        assert len(completion.choices) == 1
        choice = completion.choices[0]
        assert choice.index == 0 and choice.message.role == "assistant"
        usage = completion.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        calls = [
            Call(call.id, call.function.name, json.loads(call.function.arguments))
            for call in choice.message.tool_calls or []
            if call.type == "function"
        ]
        return Answer(
            text=choice.message.content or "",
            calls=calls,
            stop=self._stop(choice.finish_reason),
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            headers=dict(raw.headers),
        )

    def stream(self, model, turns, seen=None, **more):
        arguments = self.arguments(model, turns, **more)
        answer, calls, ended, usage = Answer(), {}, False, None
        raw = self.sdk.chat.completions.with_raw_response.create(
            **arguments, stream=True, stream_options={"include_usage": True}
        )
        answer.headers = dict(raw.headers)
        ids = set()
        for chunk in raw.parse():
            ChatCompletionChunk.model_validate_json(chunk.to_json(indent=None), strict=True)
            assert chunk.object == "chat.completion.chunk"
            ids.add(chunk.id)
            assert usage is None, "nothing follows the usage"
            usage = chunk.usage
            for choice in chunk.choices:
                assert not ended, "nothing follows the finish reason"
                delta = choice.delta
                answer.text += delta.content or ""
                answer.pieces += bool(delta.content)
                for call in delta.tool_calls or []:
                    begun = calls.setdefault(call.index, ["", "", ""])
                    begun[0] = call.id or begun[0]
                    begun[1] += call.function.name or ""
                    begun[2] += call.function.arguments or ""
                    answer.pieces += bool(call.function.arguments)
                if choice.finish_reason:
                    ended, answer.stop = True, self._stop(choice.finish_reason)
            if seen is not None:
                seen.append(chunk)
        assert ended and usage and len(ids) == 1
        answer.calls = [Call(id, name, json.loads(arguments)) for id, name, arguments in calls.values()]
        answer.input_tokens, answer.output_tokens = usage.prompt_tokens, usage.completion_tokens
        return answer

    def looks_complete(self, seen):
        return any(choice.finish_reason for chunk in seen for choice in chunk.choices)

    def _stop(self, reason):
        return {"stop": "stop", "length": "length", "tool_calls": "tool", "content_filter": "filtered"}[reason]

    def refused(self, error):
        assert isinstance(error, openai.APIStatusError)
        assert error.type and error.request_id
        return Refused(error.status_code, error.body["message"], error.response.headers.get("retry-after"))


class Anthropic:
    """`anthropic`, messages."""

    name = "anthropic"
    errors = {
        400: anthropic.BadRequestError,
        404: anthropic.NotFoundError,
        429: anthropic.RateLimitError,
        500: anthropic.InternalServerError,
        502: anthropic.InternalServerError,
        503: anthropic.ServiceUnavailableError,
    }
    interrupted = anthropic.APIError

    def __init__(self, url, path="", authorities=None):
        http = anthropic.DefaultHttpxClient(verify=trusting(authorities))
        self.sdk = anthropic.Anthropic(
            base_url=url + path, api_key="sk-application", max_retries=0, timeout=20, http_client=http
        )

    def close(self):
        self.sdk.close()

    def arguments(self, model, turns, system=None, tools=(), force=False, limit=None, stop=None, schema=None):
        messages = [{"role": turn.role, "content": [self._block(part) for part in turn.parts]} for turn in turns]
        more = {}
        if system:
            more["system"] = system
        if tools:
            more["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in tools
            ]
        if force:
            more["tool_choice"] = {"type": "any"}
        if stop:
            more["stop_sequences"] = stop
        if schema:
            more["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return {"model": model, "messages": messages, "max_tokens": limit or 1000, **more}

    def _block(self, part):
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if isinstance(part, Image):
            data = base64.b64encode(part.data).decode()
            return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        if isinstance(part, Call):
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
        return {"type": "tool_result", "tool_use_id": part.id, "content": part.text}

    def ask(self, model, turns, **more):
        raw = self.sdk.messages.with_raw_response.create(**self.arguments(model, turns, **more))
        Message.model_validate_json(raw.http_response.content, strict=True)
        message = raw.parse()
        assert message._request_id
        return self._answer(message, raw.headers)

    def stream(self, model, turns, seen=None, **more):
        with self.sdk.messages.stream(**self.arguments(model, turns, **more)) as stream:
            pieces = 0
            for event in stream:
                # The helper adds events of its own to the wire's, and snapshots to these.
                if event.type in ("message_start", "message_delta", "content_block_start", "content_block_delta"):
                    STREAM_EVENT.validate_json(event.to_json(indent=None), strict=True)
                pieces += event.type == "content_block_delta"
                if seen is not None:
                    seen.append(event)
            answer = self._answer(stream.get_final_message(), stream.response.headers)
        answer.pieces = pieces
        return answer

    def looks_complete(self, seen):
        return any(event.type in ("message_delta", "message_stop") for event in seen)

    def _answer(self, message, headers):
        assert message.type == "message" and message.role == "assistant" and message.id
        words = {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "max_tokens": "length",
            "tool_use": "tool",
            "refusal": "filtered",
        }
        return Answer(
            text="".join(block.text for block in message.content if block.type == "text"),
            calls=[Call(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"],
            stop=words[message.stop_reason],
            input_tokens=message.usage.input_tokens,
            output_tokens=message.usage.output_tokens,
            headers=dict(headers),
        )

    def refused(self, error):
        assert isinstance(error, anthropic.APIStatusError)
        assert error.body["type"] == "error" and error.body["error"]["type"]
        assert error.request_id
        message = error.body["error"]["message"]
        return Refused(error.status_code, message, error.response.headers.get("retry-after"))


class Bedrock:
    """`boto3`, Converse."""

    name = "bedrock"
    interrupted = EventStreamError

    def __init__(self, url, path="", authorities=None, bearer=False):
        config = {"retries": {"total_max_attempts": 1}, "read_timeout": 20}
        credentials = {}
        if bearer:
            # Read again for every request, and sent over TLS alone. Explicit credentials, as below, come before it.
            os.environ["AWS_BEARER_TOKEN_BEDROCK"] = "sk-application"
        else:
            credentials = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "example"}
            config["signature_version"] = "v4"
        session = boto3.Session(region_name="eu-central-1", **credentials)
        self.sdk = session.client("bedrock-runtime", endpoint_url=url + path, verify=authorities, config=Config(**config))
        known = self.sdk.exceptions
        self.errors = {
            400: known.ValidationException,
            404: known.ResourceNotFoundException,
            429: known.ThrottlingException,
            500: known.InternalServerException,
            502: known.InternalServerException,
            503: known.ServiceUnavailableException,
        }
        self.model = self.sdk.meta.service_model

    def close(self):
        self.sdk.close()

    def arguments(self, model, turns, system=None, tools=(), force=False, limit=None, stop=None, schema=None):
        messages = [{"role": turn.role, "content": [self._block(part) for part in turn.parts]} for turn in turns]
        more = {}
        if system:
            more["system"] = [{"text": system}]
        if tools:
            specs = [
                {"name": tool.name, "description": tool.description, "inputSchema": {"json": tool.schema}}
                for tool in tools
            ]
            more["toolConfig"] = {"tools": [{"toolSpec": spec} for spec in specs]}
        if force:
            more["toolConfig"]["toolChoice"] = {"any": {}}
        if limit or stop:
            limits = {"maxTokens": limit, "stopSequences": stop}
            more["inferenceConfig"] = {name: value for name, value in limits.items() if value}
        if schema:
            structure = {"jsonSchema": {"name": "answer", "schema": json.dumps(schema)}}
            more["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
        return {"modelId": model, "messages": messages, **more}

    def _block(self, part):
        if isinstance(part, str):
            return {"text": part}
        if isinstance(part, Image):
            return {"image": {"format": "png", "source": {"bytes": part.data}}}
        if isinstance(part, Call):
            return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
        return {"toolResult": {"toolUseId": part.id, "content": [{"text": part.text}]}}

    def _check(self, value, shape):
        """The parser drops what it does not know and does not miss what is not there: required members, types, words."""
        report = ParamValidator().validate(value, shape)
        assert not report.has_errors(), report.generate_report()
        if reason := value.get("stopReason") or value.get("messageStop", {}).get("stopReason"):
            assert reason in self.model.shape_for("StopReason").enum

    def ask(self, model, turns, **more):
        output = self.sdk.converse(**self.arguments(model, turns, **more))
        metadata = output.pop("ResponseMetadata")
        assert metadata["RequestId"]
        self._check(output, self.model.operation_model("Converse").output_shape)
        message = output["output"]["message"]
        assert message["role"] == "assistant"
        used = [block["toolUse"] for block in message["content"] if "toolUse" in block]
        return self._answer(
            "".join(block.get("text", "") for block in message["content"]),
            [Call(call["toolUseId"], call["name"], call["input"]) for call in used],
            output["stopReason"],
            output["usage"],
            metadata,
        )

    def stream(self, model, turns, seen=None, **more):
        output = self.sdk.converse_stream(**self.arguments(model, turns, **more))
        shape = self.model.operation_model("ConverseStream").output_shape.members["stream"]
        text, pieces, reason, usage, calls, order = "", 0, None, None, {}, []
        for event in output["stream"]:
            [(kind, value)] = event.items()
            self._check(event, shape)
            order.append(kind)
            if kind == "contentBlockStart":
                use = value["start"]["toolUse"]
                calls[value["contentBlockIndex"]] = [use["toolUseId"], use["name"], ""]
            elif kind == "contentBlockDelta":
                pieces += 1
                text += value["delta"].get("text", "")
                if "toolUse" in value["delta"]:
                    calls[value["contentBlockIndex"]][2] += value["delta"]["toolUse"]["input"]
            elif kind == "messageStop":
                reason = value["stopReason"]
            elif kind == "metadata":
                usage = value["usage"]
            if seen is not None:
                seen.append(event)
        assert order[0] == "messageStart" and order[-2:] == ["messageStop", "metadata"]
        made = [Call(id, name, json.loads(arguments)) for id, name, arguments in calls.values()]
        answer = self._answer(text, made, reason, usage, output["ResponseMetadata"])
        answer.pieces = pieces
        return answer

    def looks_complete(self, seen):
        return any("messageStop" in event for event in seen)

    def _answer(self, text, calls, reason, usage, metadata):
        words = {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "max_tokens": "length",
            "tool_use": "tool",
            "content_filtered": "filtered",
            "guardrail_intervened": "filtered",
        }
        assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
        return Answer(
            text=text,
            calls=calls,
            stop=words[reason],
            input_tokens=usage["inputTokens"],
            output_tokens=usage["outputTokens"],
            headers=metadata["HTTPHeaders"],
        )

    def refused(self, error):
        assert isinstance(error, ClientError)
        metadata = error.response["ResponseMetadata"]
        assert metadata["RequestId"]
        headers = metadata["HTTPHeaders"]
        return Refused(metadata["HTTPStatusCode"], error.response["Error"]["Message"], headers.get("retry-after"))


CLIENTS = {"openai": OpenAI, "anthropic": Anthropic, "bedrock": Bedrock}
