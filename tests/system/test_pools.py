"""A prefill worker and a decode worker: the answers are those of one worker, also when either dies in their middle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

KERNELS = SMOLLM2.replace('dtype = "float32"\n', "deterministic = true\n")
DECODE, PREFILL = "worker@smollm2.0.0", "worker@smollm2.1.0"
PROMPTS = [[2 + (7 * position + 31 * salt) % 4000 for position in range(900)] for salt in range(3)]
REQUESTS: list[dict[str, Any]] = [
    {"prompt": PROMPTS[0], "temperature": 0},
    {"prompt": PROMPTS[1], "temperature": 0.9, "seed": 5, "repetition_penalty": 1.1},
    {"prompt": PROMPTS[2], "temperature": 0.8, "seed": 6, "n": 2},
    {"prompt": "Short ones are computed where they are decoded.", "temperature": 0},
]


def answer(stack: Stack, request: dict[str, Any], salt: str) -> list[list[int]]:
    """The token ids of each choice. `salt` keeps prompts from being found in the cache."""
    body = {"model": "smollm2", "max_tokens": 60, "ignore_eos": True, "return_token_ids": True, "cache_salt": salt}
    reply = httpx.post(f"{stack.url}/v1/completions", json=body | request, timeout=240)
    assert reply.status_code == 200, reply.text
    return [choice["token_ids"] for choice in reply.json()["choices"]]


@pytest.fixture(scope="module")
def undisturbed() -> list[list[list[int]]]:
    """By one worker."""
    with running(KERNELS) as stack:
        return [answer(stack, request, "one") for request in REQUESTS]


@pytest.fixture(scope="module")
def pools() -> Iterator[Stack]:
    with running(KERNELS + "[model.pools]\nprefill = 1\ndecode = 1\n") as stack:
        until(lambda: stack.replicas_ready() == 2, 60, "both workers")
        yield stack


def test_two_pools_answer_as_one_worker_does(pools: Stack, undisturbed: list[list[list[int]]]) -> None:
    assert [answer(pools, request, "a") for request in REQUESTS] == undisturbed
    details = {process["name"]: process["detail"] for process in pools.status()["processes"]}
    assert details[DECODE].startswith("decodes")
    assert details[PREFILL].startswith("prefills")


def in_use(stack: Stack, worker: str) -> int:
    """Slots of a worker with a request in them."""
    detail = next(process["detail"] for process in stack.status()["processes"] if process["name"] == worker)
    found = re.search(r"(\d+) of \d+ slots", detail)
    return int(found[1]) if found else 0


def kill_while_answering(stack: Stack, victim: str, expected: list[list[list[int]]]) -> None:
    """A worker dies with requests in it; every answer is what it would have been."""
    with ThreadPoolExecutor(len(REQUESTS)) as clients:
        answers: list[Future[list[list[int]]]] = [
            clients.submit(answer, stack, request, victim) for request in REQUESTS
        ]
        until(lambda: in_use(stack, victim) > 0 or any(a.done() for a in answers), 30, "work")
        assert not all(a.done() for a in answers)
        assert stack.kill(victim) != 0
        assert [done.result() for done in answers] == expected


@pytest.mark.slow
@pytest.mark.parametrize("victim", [PREFILL, DECODE])
def test_either_may_die(pools: Stack, undisturbed: list[list[list[int]]], victim: str) -> None:
    until(lambda: pools.replicas_ready() == 2, 60, "both workers")
    before = pools.pid(victim)
    kill_while_answering(pools, victim, undisturbed)
    until(lambda: pools.pid(victim) not in (0, before), 60, "the process is back")
    until(pools.nothing_is_held, 20, "no page is pinned or in quarantine")


@pytest.mark.slow
def test_a_standby_takes_over_in_either_pool(undisturbed: list[list[list[int]]]) -> None:
    with running(KERNELS + "standby = 1\n[model.pools]\nprefill = 1\ndecode = 1\n") as stack:
        for victim in (PREFILL, DECODE):
            until(lambda: stack.replicas_ready() == 2 and standing_by(stack) == 2, 120, "both pools and their standbys")
            heirs = {stack.pid(standby(PREFILL)), stack.pid(standby(DECODE))}
            kill_while_answering(stack, victim, undisturbed)
            assert stack.pid(victim) in heirs
            details = {process["name"]: process["detail"] for process in stack.status()["processes"]}
            assert details[DECODE].startswith("decodes")
            assert details[PREFILL].startswith("prefills")


def standby(worker: str) -> str:
    """The process that waits to take the place of a worker."""
    return worker.replace("worker@", "standby@")


def standing_by(stack: Stack) -> int:
    """How many standbys could take over."""
    return sum(p["role"] == "standby" and p["state"] == "ready" for p in stack.status()["processes"])
