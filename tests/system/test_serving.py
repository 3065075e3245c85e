"""The first main job: a stack is started, and people talk to it over HTTP, over ZeroMQ and from the command line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from stack import Stack, until

from headrace_client import Client

pytestmark = [pytest.mark.system, pytest.mark.model]

GOLDEN = json.loads((Path(__file__).parents[1] / "workers" / "reference" / "smollm2.json").read_text())["prompts"]


def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_status_and_readiness(stack: Stack) -> None:
    status = json.loads(stack.headrace("status", "--json").stdout)
    states = {process["name"]: process["state"] for process in status["processes"]}
    for name in ("kv@host", "metrics@host", "ingress@0", "ingress@1", "scheduler@smollm2", "worker@smollm2.0.0"):
        assert states[name] == "ready"
    assert status["models"][0]["name"] == "smollm2"
    assert status["models"][0]["state"] == "ready"
    assert httpx.get(f"{stack.url}/health").status_code == 200
    assert httpx.get(f"{stack.url}/ready").status_code == 200


def test_the_curl_line_of_the_readme(stack: Stack) -> None:
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions",
        json={"model": "smollm2", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert len(message["content"]) > 5
    assert answer.json()["usage"]["completion_tokens"] > 1


def test_the_official_openai_package_streams_a_chat(stack: Stack) -> None:
    stream = client(stack).chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Name three colours."}],
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, reasons = "", None, []
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert len(text) > 5
    assert usage is not None
    assert len(reasons) == 1


@pytest.mark.parametrize("concurrency", [1, 8])
def test_greedy_tokens_equal_the_reference_through_the_whole_stack(stack: Stack, concurrency: int) -> None:
    """Alone and in a batch of eight; the second time the prefix is warm."""

    def complete(prompt: dict[str, list[int]]) -> list[int]:
        answer = httpx.post(
            f"{stack.url}/v1/completions",
            json={"model": "smollm2", "prompt": prompt["ids"], "temperature": 0, "max_tokens": 24, "ignore_eos": True,
                  "return_token_ids": True},
            timeout=240,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        tokens: list[int] = answer.json()["choices"][0]["token_ids"]
        return tokens

    prompts = [prompt for prompt in GOLDEN if len(prompt["ids"]) < 400][:8]
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(complete, prompts))
    for prompt, tokens in zip(prompts, answers, strict=True):
        assert tokens == prompt["tokens"][:24], prompt["name"]


def test_headrace_chat_answers(stack: Stack) -> None:
    done = stack.headrace("chat", "smollm2", "What is the capital of France?", "--temperature", "0")
    assert "Paris" in done.stdout


def test_the_python_client_streams_over_zeromq(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_RUN", str(stack.run))
    with Client() as zmq_client:
        pieces = [piece.text for piece in zmq_client.chat("Say hello.", model="smollm2", stream=True, temperature=0)]
    assert len(pieces) > 1
    assert "".join(pieces).strip()


def test_a_client_that_goes_away_frees_its_slot(stack: Stack) -> None:
    with httpx.stream(
        "POST",
        f"{stack.url}/v1/completions",
        json={"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True},
        timeout=60,
    ) as stream:
        next(stream.iter_lines())
    until(lambda: stack.status()["models"][0]["running"] == 0, 10, "the abandoned request is aborted")


def test_at_rest_every_page_is_free_or_cached(stack: Stack) -> None:
    until(lambda: stack.status()["models"][0]["running"] == 0, 10, "nothing runs")
    until(stack.nothing_is_held, 10, "no page is pinned")
