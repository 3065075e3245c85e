"""Drafts on a real stack: they are made, told, and change no token, through the death of the worker as well."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from stack import SMOLLM2_KERNELS, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.kernels]

SONG = "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.\n"
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.7, "seed": 7, "top_p": 0.9},
    {"temperature": 0, "repetition_penalty": 1.05, "logprobs": 2},
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(SMOLLM2_KERNELS) as started:
        until(lambda: started.replicas_ready() == 1, 60, "a replica")
        yield started


def answer(stack: Stack, kind: dict[str, Any]) -> dict[str, Any]:
    body = {
        "model": "smollm2", "prompt": SONG * 3, "max_tokens": 150, "ignore_eos": True, "return_token_ids": True,
        "include_timing": True,
    }  # fmt: skip
    reply = httpx.post(f"{stack.url}/v1/completions", json=body | kind, timeout=240)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


def counted(stack: Stack) -> tuple[float, float]:
    """Drafted and accepted tokens as one reading has them."""
    lines = httpx.get(f"{stack.url}/metrics", timeout=30).text.splitlines()
    drafted, accepted = (
        sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"headrace_{name}_total{{"))
        for name in ("draft_tokens", "accepted_draft_tokens")
    )
    return drafted, accepted


def test_drafts_are_made_and_told_and_a_death_changes_no_token(stack: Stack) -> None:
    with ThreadPoolExecutor(len(KINDS)) as pool:
        alone = [answer(stack, kind) for kind in KINDS]
        timing = alone[0]["headrace"]
        assert 0 < timing["accepted_draft_tokens"] <= timing["draft_tokens"]
        assert timing["steps"] == timing["chunks"] + timing["tokens"] - 1 - timing["accepted_draft_tokens"]
        until(lambda: counted(stack)[1] >= timing["accepted_draft_tokens"], 20, "the counters")
        drafted, accepted = counted(stack)
        assert drafted >= accepted

        running = [pool.submit(answer, stack, kind) for kind in KINDS]
        until(lambda: stack.status()["models"][0]["running"] > 0 or all(r.done() for r in running), 30, "work")
        stack.kill("worker@smollm2.0.0")
        for before, after in zip(alone, [request.result() for request in running], strict=True):
            assert after["choices"][0]["token_ids"] == before["choices"][0]["token_ids"]
            assert after["choices"][0]["logprobs"] == before["choices"][0]["logprobs"]
