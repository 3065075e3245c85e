"""A warm standby takes the place of a worker that dies: every token is the one that it would have been."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

SEEDED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "seed": 77, "repetition_penalty": 1.1}
RELEASES = str(Path(__file__).parents[1] / "releases")
PROMPTS = ["Once upon a time", "The three laws of robotics are", "def fibonacci(n):", "In the year 2050,"]


def answer(stack: Stack, prompt: str) -> list[int]:
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": 64, "ignore_eos": True, "return_token_ids": True}
    reply = httpx.post(f"{stack.url}/v1/completions", json={**body, **SEEDED}, timeout=240)
    assert reply.status_code == 200, reply.text
    ids: list[int] = reply.json()["choices"][0]["token_ids"]
    assert len(ids) == 64
    return ids


def all_ready(stack: Stack) -> bool:
    return all(process["state"] == "ready" for process in stack.status()["processes"])


def pids(stack: Stack, role: str) -> list[int]:
    found = sorted((p["name"], int(p["pid"])) for p in stack.status()["processes"] if p["role"] == role)
    return [pid for _, pid in found]


def kill_while_answering(stack: Stack, expected: list[list[int]], victim: int) -> None:
    """A worker dies in the middle of four answers; who serves afterwards are the standbys of before."""
    until(lambda: all_ready(stack), 120, "everything is ready, standbys too")
    heirs = pids(stack, "standby")
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = [pool.submit(answer, stack, prompt) for prompt in PROMPTS]
        until(lambda: stack.status()["models"][0]["running"] > 0 or all(a.done() for a in answers), 30, "work")
        os.kill(victim, signal.SIGKILL)
        assert [each.result() for each in answers] == expected
    until(lambda: pids(stack, "worker") == heirs, 60, "the supervisor knows who serves")


def test_standbys_take_over_again_and_again_and_without_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", RELEASES)
    with running(SMOLLM2 + "standby = 1\n") as stack:
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            expected = list(pool.map(lambda prompt: answer(stack, prompt), PROMPTS))
        for _ in range(2):
            kill_while_answering(stack, expected, stack.pid("worker@smollm2.0.0"))

        until(lambda: all_ready(stack), 120, "the next standby")
        heir, before = stack.pid("standby@smollm2.0.0"), stack.pid("worker@smollm2.0.0")
        shared = [line for line in Path(f"/proc/{heir}/maps").read_text().splitlines() if ".weights" in line]
        assert shared
        assert all(" r--s " in line for line in shared), "weights are mapped, not copied"
        stack.headrace("restart", "worker@smollm2.0.0")
        until(lambda: stack.pid("worker@smollm2.0.0") == heir, 60, "a restart is a hand-over too")
        assert before != heir

        until(lambda: all_ready(stack), 120, "the next standby")
        heir = stack.pid("standby@smollm2.0.0")
        stack.kill("supervisor@host")
        stack.kill("worker@smollm2.0.0")
        assert answer(stack, PROMPTS[0]) == expected[0], "the kernel needs no supervisor to hand the name over"
        stack.headrace("up", "--detach", "-c", str(stack.config), timeout=120)
        assert stack.pid("worker@smollm2.0.0") == heir, "adopted under its new name"
        until(lambda: all_ready(stack), 120, "and a standby beside it")

        # An upgrade: the one that takes over must be of the new release by then, in spite of having waited.
        for name in (each["name"] for each in stack.status()["processes"]):
            (stack.run / f"{name}.release").write_text('{"build": "9.9.9", "protocols": [1, 2]}')
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            answers = [pool.submit(answer, stack, prompt) for prompt in PROMPTS]
            rolled = json.loads(stack.headrace("restart", "--all", "--json", timeout=240).stdout)
            assert [each.result() for each in answers] == expected
        steps = [done["name"] for done in rolled["restarted"]]
        assert steps.index("standby@smollm2.0.0") + 1 == steps.index("worker@smollm2.0.0")
        assert {each["build"] for each in stack.status()["processes"] if each["role"] != "standby"} == {"9.9.9"}


@pytest.mark.slow
def test_the_standbys_of_a_group_take_over_together() -> None:
    with running(SMOLLM2 + "tensor_parallel = 2\nstandby = 1\n") as stack:
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            expected = list(pool.map(lambda prompt: answer(stack, prompt), PROMPTS))
        kill_while_answering(stack, expected, stack.pid("worker@smollm2.0.1"))
