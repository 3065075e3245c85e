"""Pages of int8 on a running stack: a kill, neighbours and a prefix from the cache change no token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack import SMOLLM2, running, until
from test_disk import BLOCKS, PROMPT, ask
from test_kills import GREEDY, PROMPTS, SEEDED, answer

WORKER = "worker@smollm2.0.0"
REQUESTS = [(GREEDY, PROMPTS[0]), (SEEDED, PROMPTS[1])]
pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.kernels]


def test_a_kill_and_the_cache_change_no_token() -> None:
    with running(SMOLLM2.replace('dtype = "float32"\n', 'kv_dtype = "int8"\n')) as stack:
        alone = [answer(stack, *request, 120) for request in REQUESTS]
        computed, cached = ask(stack, PROMPT)
        assert cached == 0
        with ThreadPoolExecutor(len(REQUESTS)) as pool:
            together = [pool.submit(answer, stack, *request, 120) for request in REQUESTS]
            time.sleep(0.3)
            assert not all(each.done() for each in together), "the answers are too short for this machine"
            stack.kill(WORKER)
            assert [each.result() for each in together] == alone
        until(lambda: stack.replicas_ready() == 1, 60, "a replica")
        again, cached = ask(stack, PROMPT)  # by the next worker, from the pages that the dead one wrote
        assert again == computed
        assert cached == 16 * (BLOCKS - 1)
