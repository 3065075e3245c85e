"""Pages in device memory, written through to the arena: a worker that is killed loses nothing that was named.

The GPU is a stand-in: the worker computes on the CPU, and keeps its pages in memory of its own, as little as makes
requests wait for each other. Everything else is the real thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack import SMOLLM2, Stack, running, until
from test_kills import GREEDY, PROMPTS, SEEDED, answer

pytestmark = [pytest.mark.system, pytest.mark.model]

WORKER = "worker@smollm2.0.0"
LONG = "Rivers, mills and their wheels. " * 12
REQUESTS = [(GREEDY, LONG + PROMPTS[0]), (SEEDED, LONG + PROMPTS[1]), (GREEDY, PROMPTS[2]), (SEEDED, PROMPTS[3])]
PAGE_BYTES = 30 * 2 * 3 * 16 * 64 * 4
TOKENS = 40
PAGES = 18  # two of the long ones do not fit at once


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_TEST_DEVICE_MEMORY", str(PAGES * PAGE_BYTES))
        with running(SMOLLM2 + 'device = "cuda"\n') as stack:
            yield stack


def detail(stack: Stack) -> str:
    """What the worker says of itself in `headrace status`."""
    found = [process for process in stack.status()["processes"] if process["name"] == WORKER]
    return str(found[0].get("detail", "")) if found else ""


def test_a_killed_worker_finds_its_pages_in_the_arena(stack: Stack) -> None:
    """Given answers that the device memory has no room for at once, when the worker is killed amid them, then every
    token is the one that it would have been, and what was named is loaded and not computed again."""
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        undisturbed = list(pool.map(lambda request: answer(stack, *request, TOKENS), REQUESTS))
        assert f"of {PAGES * PAGE_BYTES / (1 << 30):.2f} GiB" in detail(stack)
        before = stack.pid(WORKER)
        again = [pool.submit(answer, stack, *request, TOKENS) for request in REQUESTS]
        until(lambda: stack.status()["models"][0]["running"] > 1 or all(r.done() for r in again), 30, "work")
        stack.kill(WORKER)
        assert [request.result() for request in again] == undisturbed
    until(lambda: stack.pid(WORKER) not in (0, before), 30, "the worker is back")
    loads = re.search(r"(\d+) pages loaded from the arena", detail(stack))
    assert loads is not None
    assert int(loads[1]) > 0
