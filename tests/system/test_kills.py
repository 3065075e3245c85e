"""kill -9 in the middle of answers: every accepted request completes, and its text is the one it would have been."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
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


@pytest.mark.parametrize("parameters", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_changes_no_token(stack: Stack, victim: str, parameters: dict[str, Any]) -> None:
    until(lambda: stack.replicas_ready() == 1, 60, "a replica")
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        expected = list(pool.map(lambda prompt: answer(stack, parameters, prompt), PROMPTS))
        before = stack.pid(victim)
        running = [pool.submit(answer, stack, parameters, prompt) for prompt in PROMPTS]
        until(lambda: stack.status()["models"][0]["running"] > 0 or all(r.done() for r in running), 30, "work")
        assert stack.kill(victim) == before
        assert [request.result() for request in running] == expected
    until(lambda: stack.pid(victim) not in (0, before), 60, "the process is back")


def test_random_kills_under_load(stack: Stack, request: pytest.FixtureRequest) -> None:
    """Any process, two at a time now and then, while answers are under way. `make test-chaos` does it more often."""
    random = Random(7)
    rounds = request.config.getoption("--count-kills")
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        for _ in range(rounds):
            expected = list(pool.map(lambda prompt: answer(stack, SEEDED, prompt, 40), PROMPTS))
            running = [pool.submit(answer, stack, SEEDED, prompt, 40) for prompt in PROMPTS]
            time.sleep(random.uniform(0.0, 1.5))
            victims = random.sample(VICTIMS, random.choice([1, 1, 2]))
            for victim in victims:
                stack.kill(victim)
            assert [request.result() for request in running] == expected, victims
            until(lambda: all(stack.pid(victim) for victim in VICTIMS), 60, "everybody is back")
            until(lambda: stack.replicas_ready() == 1, 60, "a replica")


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
    until(lambda: stack.pages_at_rest().get("pinned", 1.0) == 0.0, 20, "no page is pinned")
    until(lambda: stack.pages_at_rest().get("quarantined", 1.0) == 0.0, 20, "no page is in quarantine")
