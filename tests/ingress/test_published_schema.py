"""Every answer, chunk and event is what OpenAI's published document says, and every parameter in it is known by name.

`openai_schema/schemas.json` is a trimmed copy (`trim.py` there) of github.com/openai/openai-openapi, MIT licence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from api_stage import Stage, staged

from bus.messages.requests import Refused
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_completion import CompletionRequest
from ingress.api.schema_responses import ResponsesRequest

pytestmark = pytest.mark.system

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "openai_schema" / "schemas.json").read_text())
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 0, "max_tokens": 12}
# Beside what the document has, under names of the field. `store` is in its example, and OpenAI says it.
OURS = {
    "headrace",
    "store",
    "stop_reason",
    "token_ids",
    "prompt_token_ids",
    "prompt_logprobs",
    "max_model_len",
    "ready",
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


@lru_cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/schemas/{name}", "schemas": PUBLISHED["schemas"]})


def check(name: str, value: dict[str, Any]) -> dict[str, Any]:
    validator(name).validate(value)
    assert set(value) <= properties(PUBLISHED["schemas"][name]) | OURS
    return value


def properties(schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        return properties(PUBLISHED["schemas"][schema["$ref"].rpartition("/")[2]])
    parts = [*schema.get("allOf", ()), *schema.get("anyOf", ())]
    return set(schema.get("properties", {})).union(*map(properties, parts))


def post(stage: Stage, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = httpx.post(stage.url + path, json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def events(stage: Stage, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx.stream("POST", stage.url + path, json={**body, "stream": True}, timeout=30) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(
    "more",
    [{}, {"n": 2, "logprobs": True, "top_logprobs": 3}, {"stop": "w"}, {"include_timing": True, "max_tokens": 3}],
)
def test_chat_completions(stage: Stage, more: dict[str, Any]) -> None:
    body = {**ASK, **more}
    check("CreateChatCompletionResponse", post(stage, "/v1/chat/completions", body))
    chunks = events(stage, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    for chunk in [*chunks, *events(stage, "/v1/chat/completions", body)]:
        check("CreateChatCompletionStreamResponse", chunk)
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


@pytest.mark.parametrize("more", [{}, {"n": 2, "logprobs": 3}, {"stop": "w"}])
def test_completions(stage: Stage, more: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": "hi", "seed": 0, "max_tokens": 12, **more}
    check("CreateCompletionResponse", post(stage, "/v1/completions", body))
    # The document has one shape for both and says itself that chunks share it; only `finish_reason` is then null.
    for chunk in events(stage, "/v1/completions", {**body, "stream_options": {"include_usage": True}}):
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check("CreateCompletionResponse", {key: value for key, value in chunk.items() if value is not None})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "store": False},
        {"stop": "w", "instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u"},
        {"max_output_tokens": 2000, "temperature": 0, "top_p": 0.5, "background": True},
    ],
)
def test_responses(stage: Stage, more: dict[str, Any]) -> None:
    body = {"model": "m", "input": "hi", "seed": 0, "max_output_tokens": 12, **more}
    made = check("Response", post(stage, "/v1/responses", body))
    told = [check("ResponseStreamEvent", event) for event in events(stage, "/v1/responses", body)]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    check("Response", told[-1]["response"])
    if made["store"]:
        check("Response", httpx.get(f"{stage.url}/v1/responses/{made['id']}").json())
        check("ResponseItemList", httpx.get(f"{stage.url}/v1/responses/{made['id']}/input_items").json())


def test_errors_and_models(stage: Stage) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        check("ErrorResponse", httpx.post(stage.url + path, json={"model": "m", "nonsense": 1}).json())
    check("ListModelsResponse", httpx.get(f"{stage.url}/v1/models").json())


def test_an_error_in_a_stream_of_events_is_an_event(stage: Stage) -> None:
    stage.player.refusal = Refused(0, "overloaded", "full", 1.0)
    try:
        reply = httpx.post(f"{stage.url}/v1/responses", json={"model": "m", "input": "hi", "stream": True})
    finally:
        stage.player.refusal = None
    assert reply.status_code == 429
    check("ErrorResponse", reply.json())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CreateChatCompletionRequest", ChatRequest),
        ("CreateCompletionRequest", CompletionRequest),
        ("CreateResponse", ResponsesRequest),
    ],
)
def test_every_published_parameter_is_known_by_name(name: str, kind: type[msgspec.Struct]) -> None:
    assert set(PUBLISHED["parameters"][name]) <= {field.encode_name for field in msgspec.structs.fields(kind)}
