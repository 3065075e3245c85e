"""Live, ready and progressing are three things, and each is true: processes are stopped, and the endpoints say so.

Nothing is probed with a request: what is said comes from schedulers, who see processes and steps.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from stack import Stack, until

pytestmark = [pytest.mark.system, pytest.mark.model]

WORKER = "worker@smollm2.0.0"
SCHEDULER = "scheduler@smollm2"


def get(stack: Stack, path: str) -> tuple[int, Any]:
    reply = httpx.get(f"{stack.url}{path}", timeout=10)
    return reply.status_code, reply.json()


def says(stack: Stack, path: str, *words: str) -> bool:
    status, body = get(stack, path)
    return status == 503 and all(word in body["error"]["message"] for word in words)


def all_is_well(stack: Stack) -> bool:
    return [get(stack, path)[0] for path in ("/health", "/ready", "/progress")] == [200, 200, 200]


def said(stack: Stack) -> tuple[bool, bool, bool]:
    """Live, ready, progressing, as `headrace status` has them."""
    (model,) = stack.status()["models"]
    return model["live"], model["ready"], model["progressing"]


@contextmanager
def stopped(stack: Stack, name: str) -> Iterator[int]:
    pid = stack.kill(name, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if stack.pid(name) == pid:
            stack.kill(name, signal.SIGCONT)


def answer(stack: Stack, prompt: str, tokens: int, into: list[httpx.Response]) -> threading.Thread:
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    ask = threading.Thread(
        target=lambda: into.append(httpx.post(f"{stack.url}/v1/completions", json=body, timeout=240))
    )
    ask.start()
    return ask


def test_an_idle_stack_is_live_ready_and_progressing(stack: Stack) -> None:
    until(lambda: all_is_well(stack), 30, "all three")
    time.sleep(3)  # longer than anything that is judged by time
    assert all_is_well(stack)
    (model,) = stack.status()["models"]
    assert (model["live"], model["ready"], model["progressing"]) == (True, True, True)


def test_a_worker_that_is_stopped_while_idle_is_not_ready_and_says_why(stack: Stack) -> None:
    until(lambda: all_is_well(stack), 60, "all three")
    with stopped(stack, WORKER) as pid:
        until(lambda: says(stack, "/ready", "0 of 1 replicas", f"{WORKER} (pid {pid})", "SIGSTOP"), 10, "not ready")
        assert get(stack, "/health")[0] == 200
        assert get(stack, "/progress")[0] == 200  # nothing is in hand, so nothing stands still
        (model,) = stack.status()["models"]
        assert (model["live"], model["ready"], model["progressing"]) == (True, False, True)
        shown = stack.headrace("status").stdout
        assert "not ready (0 of 1 replicas" in shown
        assert f"{WORKER} is stopped by a signal" in shown
    until(lambda: all_is_well(stack), 60, "all three again")


def test_a_worker_that_is_stopped_in_a_step_stands_still_and_the_answer_completes(stack: Stack) -> None:
    until(lambda: all_is_well(stack), 60, "all three")
    answers: list[httpx.Response] = []
    asking = answer(stack, "Once upon a time", 150, answers)
    until(lambda: stack.status()["models"][0]["running"] > 0, 30, "it runs")
    with stopped(stack, WORKER):
        until(lambda: says(stack, "/progress", "smollm2", "SIGSTOP") or not stack.pid(WORKER), 20, "it stands still")
        until(lambda: says(stack, "/ready", "0 of 1 replicas"), 20, "not ready")
        asking.join(timeout=200)  # its scheduler ends the worker, and the next one goes on
    assert [reply.status_code for reply in answers] == [200]
    until(lambda: all_is_well(stack), 60, "all three again")


def test_a_long_prefill_is_no_standstill(stack: Stack) -> None:
    """Polled all the time while a long prompt is computed: never anything but well."""
    until(lambda: all_is_well(stack), 60, "all three")
    answers: list[httpx.Response] = []
    asking = answer(stack, " ".join(f"{number} bottles" for number in range(450)), 4, answers)
    polled = 0
    while asking.is_alive():
        assert all_is_well(stack), json.dumps(stack.status()["models"])
        polled += 1
        time.sleep(0.05)
    asking.join()
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["usage"]["prompt_tokens"] > 1200
    assert polled > 2


def test_a_scheduler_that_is_stopped_is_not_live(stack: Stack) -> None:
    until(lambda: all_is_well(stack), 60, "all three")
    with stopped(stack, SCHEDULER):
        # Two ingresses answer, and each misses the scheduler from its own last word of it on.
        until(lambda: says(stack, "/ready", SCHEDULER, "does not answer"), 15, "not ready")
        until(lambda: says(stack, "/progress", SCHEDULER, "does not answer"), 15, "not progressing")
        assert get(stack, "/health")[0] == 200
        until(lambda: said(stack) == (False, False, False), 15, "status says so")
    until(lambda: all_is_well(stack), 60, "all three again")
