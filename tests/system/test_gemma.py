"""A GGUF file with SentencePiece's vocabulary and sliding windows behind real processes: text in, transformers' greedy
tokens out, alone and together, also where the worker dies."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack import Stack, running, until

from bus.catalogue import ModelMissing, locate

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.slow]

MODEL = """
[[model]]
name = "gemma"
source = "catalog:gemma-3-270m"
dtype = "float32"
slots = 8
step_tokens = 256
"""
REFERENCE = Path(__file__).parent.parent / "workers" / "reference" / "gemma3.json"
NAMES = ("text_mixed", "text_rust", "text_long")


@pytest.fixture(scope="module")
def prompts() -> list[dict[str, Any]]:
    try:
        locate("catalog:gemma-3-270m")
    except ModelMissing as missing:
        pytest.skip(str(missing))
    found = {prompt["name"]: prompt for prompt in json.loads(REFERENCE.read_text("utf-8"))["prompts"]}
    assert len(found["text_long"]["ids"]) > 512, "a prompt beyond the window"
    return [found[name] for name in NAMES]


def answer(stack: Stack, prompt: dict[str, Any]) -> tuple[list[int], str, int]:
    body = {"model": "gemma", "prompt": prompt["text"], "temperature": 0, "max_tokens": 48, "ignore_eos": True,
            "return_token_ids": True}  # fmt: skip
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    return told["choices"][0]["token_ids"], told["choices"][0]["text"], told["usage"]["prompt_tokens"]


@pytest.mark.timeout(600)
def test_text_in_transformers_tokens_out(prompts: list[dict[str, Any]]) -> None:
    with running(MODEL) as stack:
        until(lambda: stack.replicas_ready() == 1, 120, "a replica")
        expected = [(prompt["tokens"][:48], len(prompt["ids"])) for prompt in prompts]
        alone = [answer(stack, prompt) for prompt in prompts]
        assert [(tokens, count) for tokens, _, count in alone] == expected
        for prompt, (tokens, text, _) in zip(prompts, alone, strict=True):
            body = {"model": "gemma", "tokens": tokens}
            whole = httpx.post(f"{stack.url}/detokenize", json=body, timeout=60).json()["prompt"]
            assert whole == text, prompt["name"]
        with ThreadPoolExecutor(len(prompts)) as pool:
            together = [pool.submit(answer, stack, prompt) for prompt in prompts]
            stack.kill("worker@gemma.0.0")
            assert [each.result() for each in together] == alone
