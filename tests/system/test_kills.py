"""kill -9 in the middle of answers, one victim at a time: every accepted request completes, and its text is the one it
would have been. Victims at random, two at once and in recovery from the last, are `tests/chaos`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from stack import Stack, until

pytestmark = [pytest.mark.system, pytest.mark.model]

GREEDY: dict[str, Any] = {"temperature": 0}
SEEDED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "seed": 1234, "repetition_penalty": 1.1}


def answer(stack: Stack, parameters: dict[str, Any], prompt: str, tokens: int = 80) -> list[int]:
    """The token ids of one streamed answer; fails on anything but a complete one."""
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True}
    reply = httpx.post(f"{stack.url}/v1/completions", json={**body, **parameters}, timeout=240)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    assert choice["finish_reason"] == "length"
    ids: list[int] = choice["token_ids"]
    assert len(ids) == tokens
    return ids


VICTIMS = ["worker@smollm2.0.0", "scheduler@smollm2", "kv@host", "metrics@host"]
PROMPTS = ["Once upon a time", "The three laws of robotics are", "def fibonacci(n):", "In the year 2050,"]
REQUESTS = [(parameters, prompt) for parameters in (GREEDY, SEEDED) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        yield pool


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, pool: ThreadPoolExecutor) -> list[list[int]]:
    """The answers while nobody dies."""
    return list(pool.map(lambda request: answer(stack, *request), REQUESTS))


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_changes_no_token(
    stack: Stack, pool: ThreadPoolExecutor, undisturbed: list[list[int]], victim: str
) -> None:
    until(lambda: stack.replicas_ready() == 1, 60, "a replica")
    before = stack.pid(victim)
    running = [pool.submit(answer, stack, *request) for request in REQUESTS]
    until(lambda: stack.status()["models"][0]["running"] > 0 or all(r.done() for r in running), 30, "work")
    assert stack.kill(victim) == before
    assert [request.result() for request in running] == undisturbed
    until(lambda: stack.pid(victim) not in (0, before), 60, "the process is back")


def test_the_supervisor_dies_and_the_next_one_adopts(stack: Stack) -> None:
    """Nothing else is restarted by it, and the request under way does not notice."""
    processes = {process["name"]: process["pid"] for process in stack.status()["processes"]}
    result: list[list[int]] = []
    request = threading.Thread(target=lambda: result.append(answer(stack, GREEDY, PROMPTS[0])))
    request.start()
    time.sleep(0.5)
    stack.kill("supervisor@host")
    stack.headrace("up", "--detach", "-c", str(stack.config), timeout=120)
    request.join(timeout=120)
    assert len(result) == 1
    after = {process["name"]: process["pid"] for process in stack.status()["processes"]}
    assert {name for name in processes if processes[name] != after[name]} <= {"supervisor@host"}


def test_nothing_leaks(stack: Stack) -> None:
    """After all of it every page is free or cached but for the few that the scheduler holds ready."""
    until(lambda: stack.status()["models"][0]["running"] == 0, 20, "nothing runs")
    until(stack.nothing_is_held, 20, "no page is pinned or in quarantine")
