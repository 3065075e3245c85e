"""A real llama.cpp server as an upstream, where one is given: `HEADRACE_LLAMA_SERVER` is the path of `llama-server`.

It serves the file that the stack serves itself, so what it breaks off can be gone on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from stack import SMOLLM2, Stack, free_port, running, until

from bus.catalogue import locate

SERVER = os.environ.get("HEADRACE_LLAMA_SERVER", "")
pytestmark = [
    pytest.mark.system,
    pytest.mark.model,
    pytest.mark.skipif(not SERVER, reason="HEADRACE_LLAMA_SERVER names no llama-server of llama.cpp"),
]

CONTEXT = 1024  # of the server: shorter than that of the same model here
UPSTREAM = """
[[upstream]]
name = "{name}"
base_url = "http://127.0.0.1:{port}/v1"
failures = 2
failures_of = 4
open_s = 1.0
open_most_s = 1.0
{models}
"""
MODEL = """
[[upstream.model]]
name = "{name}"
served = "whatever"
context_tokens = 8192
capabilities = ["json", "seed", "penalties", "sampling", "logprobs", "tools"]
input = 1.0
output = 2.0
{more}
"""
ROUTE = """
[[route]]
name = "auto"
fallbacks = ["smollm2"]
pin_s = 0.0
[[route.target]]
model = "far"
"""
ASK = [{"role": "user", "content": "Name three colours and say why."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}  # fmt: skip


class Llama:
    """A server of one file."""

    def __init__(self, file: Path, log: Path) -> None:
        self.port, self._file, self._log = free_port(), file, log
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """... and wait until it answers."""
        limits = ("-c", str(CONTEXT), "-np", "1", "-t", "1")
        command = [SERVER, "-m", str(self._file), "--port", str(self.port), "--jinja", *limits]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._healthy, 120, f"llama-server: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        return False


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    server = Llama(locate("catalog:smollm2-135m-instruct"), tmp_path_factory.mktemp("llama") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """Of a model whose template knows tools."""
    server = Llama(locate("catalog:qwen2.5-coder-0.5b-instruct"), tmp_path_factory.mktemp("caller") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def stack(llama: Llama, caller: Llama) -> Iterator[Stack]:
    models = MODEL.format(name="far", more='tokenizer = "smollm2"\ncontinue_with = "smollm2"')
    models += MODEL.format(name="bare", more="")
    tables = UPSTREAM.format(name="llama", port=llama.port, models=models) + ROUTE
    tables += UPSTREAM.format(name="qwen", port=caller.port, models=MODEL.format(name="calls", more=""))
    with running(SMOLLM2 + tables, arena="256MiB") as started:
        until(lambda: started.replicas_ready() == 1, 60, "the model of this host is ready")
        yield started


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="k", max_retries=0, timeout=240) as made:
        yield made


def post(stack: Stack, **body: Any) -> httpx.Response:
    body = {"messages": ASK, "temperature": 0, "max_tokens": 24, **body}
    return httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=240)


def directly(llama: Llama, **body: Any) -> dict[str, Any]:
    body = {"messages": ASK, "temperature": 0, "max_tokens": 24, **body}
    told: dict[str, Any] = httpx.post(f"{llama.url}/v1/chat/completions", json=body, timeout=240).json()
    return told


def test_an_answer_and_its_account_are_what_it_gives(stack: Stack, llama: Llama) -> None:
    there, through = directly(llama), post(stack, model="auto")
    assert through.headers["x-headrace-target"] == "far"
    found = through.json()
    assert found["choices"][0]["message"]["content"] == there["choices"][0]["message"]["content"]
    assert found["choices"][0]["finish_reason"] == there["choices"][0]["finish_reason"] == "length"
    for count in ("prompt_tokens", "completion_tokens"):
        assert found["usage"][count] == there["usage"][count]
    assert "estimated" not in found["usage"]


def test_the_ledger_has_it_at_its_price(stack: Stack) -> None:
    def row() -> dict[str, Any]:
        told = json.loads(stack.headrace("usage", "--by", "model", "--json", "--since", "1h").stdout)
        return next((row for row in told["rows"] if row["group"] == "bare"), {"requests": 0, "charged_nano": 0})

    before = row()
    usage = post(stack, model="bare").json()["usage"]
    until(lambda: row()["requests"] > before["requests"], 60, "the ledger")
    cost = 1000 * usage["prompt_tokens"] + 2000 * usage["completion_tokens"]
    assert row()["charged_nano"] - before["charged_nano"] == pytest.approx(cost, abs=2)


def test_streams_on_every_surface(stack: Stack, client: openai.OpenAI, llama: Llama) -> None:
    expected = directly(llama)["choices"][0]["message"]["content"]
    asked: dict[str, Any] = {"model": "far", "temperature": 0}
    chunks = list(client.chat.completions.create(
        messages=ASK, max_tokens=24, stream=True, stream_options={"include_usage": True}, **asked
    ))  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert len(chunks) > 10
    assert chunks[-1].usage.completion_tokens == 24
    with client.responses.stream(input=ASK[0]["content"], max_output_tokens=24, **asked) as heard:
        assert "".join(event.delta for event in heard if event.type == "response.output_text.delta") == expected
    with (
        anthropic.Anthropic(base_url=stack.url, api_key="k", max_retries=0, timeout=240) as claude,
        claude.messages.stream(
            model="far",
            messages=ASK,  # type: ignore[arg-type]
            max_tokens=24,
            extra_body={"temperature": 0},
        ) as events,
    ):
        assert events.get_final_text() == expected


def test_log_probabilities_and_several_answers(stack: Stack, client: openai.OpenAI) -> None:
    told = client.chat.completions.create(
        model="far", messages=ASK, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3  # type: ignore[arg-type]
    ).choices[0].logprobs  # fmt: skip
    assert told is not None
    assert told.content is not None
    assert [len(token.top_logprobs) for token in told.content] == [3] * 4
    reply = post(stack, model="far", n=2, best_of=3, seed=5, temperature=1.2, max_tokens=8)
    assert reply.status_code == 200, reply.text
    assert len({choice["message"]["content"] for choice in reply.json()["choices"]}) == 2
    usage = reply.json()["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["completion_tokens_details"]["unchosen_tokens"] == 8
    shared = post(stack, model="far", n=2, seed=5, temperature=1.2, max_total_tokens=9).json()
    assert shared["usage"]["completion_tokens"] <= 9


def test_an_answer_fits_its_schema(stack: Stack) -> None:
    schema = {
        "type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": False,
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    reply = post(stack, model="far", response_format=wanted, max_tokens=120, temperature=0.7, seed=3)
    choice = reply.json()["choices"][0]
    if choice["finish_reason"] == "stop":
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    else:  # white space between the tokens of JSON has no end in its grammar
        assert choice["message"]["content"].lstrip().startswith("{")


def test_a_tool_is_called_or_the_answer_is_none(stack: Stack) -> None:
    """Of this model's template some releases read no calls: what is required does not come then, and they say nothing
    of it."""
    asked: dict[str, Any] = {
        "model": "calls", "messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": [TOOL],
        "tool_choice": "required", "max_tokens": 60,
    }  # fmt: skip
    reply = post(stack, **asked)
    if reply.status_code == 502:
        assert "calls none" in reply.json()["error"]["message"]
        return
    (call,) = reply.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert "Paris" in json.loads(call["function"]["arguments"])["place"]


def test_what_it_refuses_is_told_and_what_is_too_long_for_it_is_answered_here(stack: Stack) -> None:
    nonsense = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    refused = post(stack, model="bare", response_format=nonsense)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "upstream_refused")
    long = [{"role": "user", "content": "word " * (CONTEXT + 200)}]
    too_long = post(stack, model="bare", messages=long)
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
    here = post(stack, model="auto", messages=long, max_tokens=4)
    assert (here.status_code, here.headers["x-headrace-target"]) == (200, "smollm2")


def test_killed_in_the_middle_it_is_gone_on_with_and_asked_again_when_it_is_back(stack: Stack, llama: Llama) -> None:
    before, ended = _until_killed(stack, llama, "far")
    assert ended["choices"][0]["finish_reason"] in ("stop", "length")
    assert before
    assert post(stack, model="auto").headers["x-headrace-target"] == "smollm2"
    llama.start()
    until(lambda: post(stack, model="auto").headers["x-headrace-target"] == "far", 60, "it is asked again")
    _, ended = _until_killed(stack, llama, "bare")
    assert ended["error"]["code"] == "upstream_failed"
    llama.start()


def _until_killed(stack: Stack, llama: Llama, model: str) -> tuple[str, dict[str, Any]]:
    """What was told before it died, and the last event but the account."""
    body = {"model": model, "messages": ASK, "temperature": 0, "max_tokens": 60, "stream": True}
    before, last = "", {}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, timeout=240) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            last = json.loads(line[6:])
            told = "".join(choice["delta"].get("content") or "" for choice in last.get("choices", ()))
            if told and not before:
                before = told
                llama.kill()
    return before, last
