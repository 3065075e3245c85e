"""Budgets of thinking in a whole stack, with a real model and marks of our own: closed in time, and at the same place
whoever dies on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

REASONING = '[model.reasoning]\ntags = ["<think>", "</think>"]\nclosing = "\\nThat is enough.\\n</think>\\n\\n"\n'
BUDGET = 24
SAID = [
    {"role": "user", "content": "Which is larger, 17 or 23?"},
    {"role": "assistant", "content": "<think>\n"},  # the model goes on with the thought
]
DIGITS = {"structured_outputs": {"regex": "[0-9]{2}"}}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(SMOLLM2 + REASONING) as stack:
        until(lambda: stack.replicas_ready() == 1, 120, "a replica")
        yield stack


def body(**more: Any) -> dict[str, Any]:
    return {
        "model": "smollm2", "messages": SAID, "continue_final_message": True, "max_tokens": 120, "temperature": 0.8,
        "seed": 3, "thinking_token_budget": BUDGET, "min_tokens": 2 * BUDGET, "cache": {"no-store": True}, **more,
    }  # fmt: skip


def thought_of(stack: Stack, victim: str = "", **more: Any) -> tuple[str, str, dict[str, Any]]:
    """Thought, answer and what they took, of a stream in the middle of which a process is killed."""
    thought = said = ""
    usage: dict[str, Any] = {}
    asked = body(stream=True, stream_options={"include_usage": True}, **more)
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=asked, timeout=240) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                thought += choice["delta"].get("reasoning_content") or ""
                said += choice["delta"].get("content") or ""
            if len(thought) > 30 and victim:
                stack.kill(victim)
                victim = ""
    assert not victim, "the thought was over before anything could be killed"
    return thought, said, usage["completion_tokens_details"]


def test_a_thought_is_closed_in_time_whoever_dies(stack: Stack) -> None:
    thought, said, spent = thought_of(stack)
    assert thought.endswith("That is enough.\n")
    assert said
    told = {"model": "smollm2", "prompt": "\nThat is enough.\n</think>\n\n"}
    closing = httpx.post(f"{stack.url}/tokenize", json=told).json()["count"]
    reasoned = spent["reasoning_tokens"]
    assert BUDGET < reasoned <= BUDGET + 4 + closing
    for victim in ("worker@smollm2.0.0", "scheduler@smollm2"):
        assert thought_of(stack, victim) == (thought, said, spent)
        until(lambda: stack.replicas_ready() == 1, 120, "a replica")


def test_an_answer_follows_its_grammar_after_the_thought(stack: Stack) -> None:
    reply = httpx.post(f"{stack.url}/v1/chat/completions", json=body(**DIGITS, logprobs=True), timeout=240)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["reasoning_content"].endswith("That is enough.\n")
    assert choice["message"]["content"].isdigit()
    assert all(token["logprob"] <= 0 for token in choice["logprobs"]["content"])
