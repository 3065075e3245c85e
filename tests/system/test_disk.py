"""A host that reboots: every process ends, and the memory with all pages goes. What was on disk is found, and right."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

PROMPT = [1 + (7 * position) % 4000 for position in range(400)]
BLOCKS = 400 // 16


def ask(stack: Stack, prompt: list[int]) -> tuple[list[int], int]:
    """The token ids of an answer, and how many tokens of its prompt were not computed."""
    body: dict[str, Any] = {
        "model": "smollm2", "prompt": prompt, "max_tokens": 24, "seed": 7, "ignore_eos": True, "return_token_ids": True
    }  # fmt: skip
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    return answer["choices"][0]["token_ids"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_pages_outlive_the_host() -> None:
    with running(SMOLLM2, kv='disk = "256MiB"\n') as stack:
        computed, cached = ask(stack, PROMPT)
        assert cached == 0
        stack.headrace("down")
        assert sum(path.stat().st_size for path in (stack.home / "s" / "pages").glob("*.pages")) > 0
        stack.headrace("up", "--detach", "-c", str(stack.config), timeout=240)
        until(lambda: stack.replicas_ready() == 1, 60, "a replica")
        again, cached = ask(stack, PROMPT)
        assert again == computed
        assert cached == 16 * (BLOCKS - 1)  # the last block is computed, for its logits
        # What was sealed with another prompt's tokens behind it is found as far as they agree.
        _, cached = ask(stack, [*PROMPT[:160], 5, 6, 7])
        assert cached == 160
