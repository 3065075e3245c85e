"""More than one worker: replicas and tensor-parallel ranks through the whole stack, and what their deaths change."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

REFERENCE = Path(__file__).parents[1] / "workers" / "reference"
QWEN = SMOLLM2.replace("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct").replace('"smollm2"', '"qwen"')


def golden(name: str, count: int) -> list[dict[str, Any]]:
    """Short prompts of a reference with the tokens that transformers gives."""
    prompts = json.loads((REFERENCE / f"{name}.json").read_text())["prompts"]
    return [prompt for prompt in prompts if len(prompt["ids"]) < 200][:count]


def complete(stack: Stack, model: str, prompt: dict[str, Any], tokens: int) -> list[int]:
    reply = httpx.post(
        f"{stack.url}/v1/completions",
        json={"model": model, "prompt": prompt["ids"], "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
              "return_token_ids": True},
        timeout=240,
    )  # fmt: skip
    assert reply.status_code == 200, reply.text
    ids: list[int] = reply.json()["choices"][0]["token_ids"]
    return ids


def kill_while_answering(stack: Stack, model: str, victim: str, prompts: list[dict[str, Any]]) -> None:
    """All prompts at once, the victim dies in the middle; the tokens are the reference's."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = [pool.submit(complete, stack, model, prompt, 48) for prompt in prompts]
        until(lambda: stack.status()["models"][0]["running"] > 0, 30, "work")
        stack.kill(victim)
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.result() == prompt["tokens"][:48], prompt["name"]


@pytest.mark.slow
def test_two_ranks_and_the_death_of_one() -> None:
    """SmolLM2's three KV heads, uneven on two ranks. The group restarts as one."""
    with running(SMOLLM2 + "tensor_parallel = 2\n") as stack:
        before = {name: stack.pid(name) for name in ("worker@smollm2.0.0", "worker@smollm2.0.1")}
        kill_while_answering(stack, "smollm2", "worker@smollm2.0.1", golden("smollm2", 4))
        until(lambda: stack.replicas_ready() == 1, 60, "the group is back")
        assert all(stack.pid(name) != pid for name, pid in before.items())


def test_two_replicas_and_the_death_of_one() -> None:
    """The other replica takes over at once, from the pages in the arena."""
    with running(SMOLLM2 + "replicas = 2\n") as stack:
        kill_while_answering(stack, "smollm2", "worker@smollm2.1.0", golden("smollm2", 6))
        until(lambda: stack.replicas_ready() == 2, 60, "both are back")


@pytest.mark.slow
def test_the_larger_model_answers_like_its_reference() -> None:
    """Qwen2.5-Coder-0.5B with its own output head; cold, then with a warm prefix."""
    with running(QWEN, arena="512MiB") as stack:
        prompts = golden("qwen05b", 2)
        for _ in range(2):
            for prompt in prompts:
                assert complete(stack, "qwen", prompt, 32) == prompt["tokens"][:32], prompt["name"]
