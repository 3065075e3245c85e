"""Structured output by a real model: what finishes validates, whoever dies on the way, and hostile schemas cost nobody
else anything."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import psutil
import pytest
from stack import SMOLLM2_KERNELS, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

# No bounds that a model of this size would not respect by itself within the tokens that it has.
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "quick"]}, "minItems": 1, "maxItems": 3},
        "born": {"type": "string", "format": "date"},
        "home": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["city", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "born", "home"],
    "additionalProperties": False,
}
RECURSIVE: dict[str, Any] = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 99},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}
GREEDY: dict[str, Any] = {"temperature": 0}
DRAWN: dict[str, Any] = {"temperature": 1.3, "seed": 7, "min_p": 0.01, "repetition_penalty": 1.1, "top_p": 0.95}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(SMOLLM2_KERNELS, ingresses=2) as stack:
        until(lambda: stack.replicas_ready() == 1, 120, "a replica")
        yield stack


def chat(stack: Stack, schema: dict[str, Any] | None, **parameters: Any) -> dict[str, Any]:
    """The one choice of a chat about a person."""
    said = [{"role": "user", "content": "Describe a person as JSON."}]
    body: dict[str, Any] = {"model": "smollm2", "messages": said, "max_tokens": 400, **parameters}
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    reply = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def complete(stack: Stack, prompt: str, **parameters: Any) -> dict[str, Any]:
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": 60, **parameters}
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def validated(choice: dict[str, Any], schema: dict[str, Any]) -> Any:
    assert choice["finish_reason"] == "stop", choice
    value = json.loads(choice["message"]["content"])
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    return value


@pytest.mark.parametrize("manner", [GREEDY, DRAWN])
@pytest.mark.parametrize("schema", [PERSON, RECURSIVE], ids=["person", "recursive"])
def test_an_answer_that_finishes_validates(stack: Stack, schema: dict[str, Any], manner: dict[str, Any]) -> None:
    choice = chat(stack, schema, **manner)
    if choice["finish_reason"] != "length":
        validated(choice, schema)
    elif schema is PERSON:
        pytest.fail(f"it has no room to be so long: {choice}")


def test_any_object(stack: Stack) -> None:
    choice = chat(stack, None, response_format={"type": "json_object"}, temperature=0, max_tokens=300)
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)
    assert choice["message"]["content"].startswith("{")


def test_choices_expressions_and_grammars_on_completions(stack: Stack) -> None:
    colour = complete(stack, "The sky is", guided_choice=["red", "blue", "green"], temperature=1.5, seed=1)
    assert (colour["text"], colour["finish_reason"]) in [(text, "stop") for text in ("red", "blue", "green")]
    number = complete(stack, "My number is", structured_outputs={"regex": r"[0-9]{3}-[0-9]{4}/x"}, temperature=1.5)
    assert re.fullmatch(r"[0-9]{3}-[0-9]{4}/x", number["text"])
    for written in ('start: SIGN ("1" | "2")\nSIGN: /[+-]/', 'root ::= sign ("1" | "2")\nsign ::= [+-]\n'):
        assert re.fullmatch("[+-][12]", complete(stack, "It is", guided_grammar=written, temperature=1.5)["text"])


def test_log_probabilities_are_of_what_could_be_drawn(stack: Stack) -> None:
    choice = complete(stack, "Yes or no?", guided_choice=["yes", "no"], temperature=0, logprobs=5)
    for chosen, top in zip(choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"], strict=True):
        assert chosen <= 0
        assert 1 <= len(top) <= 5


def slowly(*values: str) -> list[Any]:
    """What `test_matrix` does with a small model too."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("victim", ["worker@smollm2.0.0", *slowly("scheduler@smollm2", "ingress@0", "ingress@1")])
@pytest.mark.parametrize("manner", [pytest.param(GREEDY, marks=pytest.mark.slow), DRAWN])
def test_a_kill_in_the_middle_changes_nothing(stack: Stack, manner: dict[str, Any], victim: str) -> None:
    """The bytes of an answer with a grammar, when a process dies in its middle: those of one that was left alone."""
    whole = chat(stack, PERSON, **manner)
    until(lambda: stack.replicas_ready() == 1 and bool(stack.pid(victim)), 120, "a whole stack")
    assert stream_with_a_kill(stack, manner, victim) == whole["message"]["content"]
    until(lambda: stack.replicas_ready() == 1 and bool(stack.pid(victim)), 120, "a whole stack")


def stream_with_a_kill(stack: Stack, manner: dict[str, Any], victim: str) -> str:
    """The text of a stream whose reader comes back, by the last event that it has seen, to whoever has it then."""
    said = [{"role": "user", "content": "Describe a person as JSON."}]
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": PERSON}}
    body = {"model": "smollm2", "messages": said, "max_tokens": 400, "stream": True, "response_format": form, **manner}
    headers = {"x-resumable": "true"}
    text, last, method, path = "", "", "POST", "/v1/chat/completions"
    for _ in range(200):
        try:
            with httpx.stream(method, f"{stack.url}{path}", json=body if method == "POST" else None, headers=headers,
                              timeout=240) as reply:  # fmt: skip
                if reply.status_code != 200:
                    until(lambda: stack.replicas_ready() == 1, 60, "a replica")
                    continue
                for line in reply.iter_lines():
                    if line.startswith("id: "):
                        last = line[4:]
                    elif line == "data: [DONE]":
                        return text
                    elif line.startswith("data: "):
                        event = json.loads(line[6:])
                        assert "error" not in event, event
                        text += event["choices"][0]["delta"].get("content") or "" if event["choices"] else ""
                        if len(text) > 20 and victim:
                            stack.kill(victim)
                            victim = ""
        except httpx.HTTPError:
            pass
        if last:
            method, path = "GET", f"/v1/streams/{last.rpartition(':')[0]}"
            headers = {"last-event-id": last}
    raise AssertionError(f"no end after {text!r}")


def tried_by(stack: Stack) -> list[psutil.Process]:
    """The processes in which grammars are tried."""
    ingresses = [psutil.Process(stack.pid(f"ingress@{index}")) for index in range(2)]
    return [
        child for ingress in ingresses for child in ingress.children() if "ingress.grammar.tried" in child.cmdline()
    ]


def test_a_killed_trial_is_begun_again(stack: Stack) -> None:
    chat(stack, {"type": "integer"}, temperature=0)
    for process in tried_by(stack):
        os.kill(process.pid, signal.SIGKILL)
    validated(chat(stack, {"type": "integer", "maximum": 12, "minimum": 0}, temperature=0), {"type": "integer"})


HOSTILE = {
    "deep": '{"anyOf":[' * 3000 + "{}" + "]}" * 3000,
    "wide": json.dumps({"enum": [f"word {index}" * 20 for index in range(4000)]}),
    "counted": json.dumps({"type": "string", "pattern": "^((a{1,500}){1,500}){1,500}$"}),
    "nested": json.dumps({"type": "string", "pattern": "^(" * 40 + "a" + ")*" * 40 + "$"}),
    "itself": json.dumps({"$ref": "#"}),
    "contradicts": json.dumps({"type": "integer", "minimum": 5, "maximum": 3}),
    "many": json.dumps({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}}),
    "items": json.dumps({"type": "array", "items": {"type": "string"}, "minItems": 1 << 30}),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_schemas_are_refused_or_harmless(stack: Stack, name: str) -> None:
    """Whatever becomes of the request, its neighbour's answer is the one that it would be."""
    before = [stack.pid(f"ingress@{index}") for index in range(2)] + [stack.pid("worker@smollm2.0.0")]
    alone = complete(stack, "Once upon a time", temperature=0, max_tokens=20)["text"]
    schema = HOSTILE[name]
    body = (
        '{"model":"smollm2","max_tokens":20,"temperature":0,"messages":[{"role":"user","content":"Go."}],'
        f'"response_format":{{"type":"json_schema","json_schema":{{"name":"x","schema":{schema}}}}}}}'
    )
    with ThreadPoolExecutor(2) as pool:
        hostile = pool.submit(httpx.post, f"{stack.url}/v1/chat/completions", content=body, timeout=240)
        beside = pool.submit(complete, stack, "Once upon a time", temperature=0, max_tokens=20)
        assert beside.result()["text"] == alone
        reply = hostile.result()
    assert reply.status_code in (200, 400, 500), reply.text
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]
    assert before == [stack.pid(f"ingress@{index}") for index in range(2)] + [stack.pid("worker@smollm2.0.0")]
