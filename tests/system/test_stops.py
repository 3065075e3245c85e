"""Processes that are alive and do nothing (SIGSTOP): found by their lack of progress, and replaced."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from stack import Stack, until

pytestmark = [pytest.mark.system, pytest.mark.model]

PROMPTS = ["Once upon a time", "The three laws of robotics are", "def fibonacci(n):"]


def answer(stack: Stack, prompt: str, tokens: int = 80) -> list[int]:
    body: dict[str, Any] = {
        "model": "smollm2", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True,
        "temperature": 0.9, "seed": 99,
    }  # fmt: skip
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    ids: list[int] = reply.json()["choices"][0]["token_ids"]
    return ids


def stop_in_mid_answer(stack: Stack, victim: str) -> float:
    """All answers are what they would have been. Returns how long the slowest took, in seconds."""
    until(lambda: stack.replicas_ready() == 1, 60, "a replica")
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        expected = list(pool.map(lambda prompt: answer(stack, prompt), PROMPTS))
        began = time.monotonic()
        running = [pool.submit(answer, stack, prompt) for prompt in PROMPTS]
        until(lambda: stack.status()["models"][0]["running"] > 0 or all(r.done() for r in running), 30, "work")
        before = stack.kill(victim, signal.SIGSTOP)
        assert [request.result() for request in running] == expected
    took = time.monotonic() - began
    until(lambda: stack.pid(victim) not in (0, before), 60, "another process has its place")
    return took


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(stack: Stack) -> None:
    stop_in_mid_answer(stack, "worker@smollm2.0.0")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["scheduler@smollm2", "kv@host"])
def test_the_supervisor_replaces_the_others(stack: Stack, victim: str) -> None:
    stop_in_mid_answer(stack, victim)
