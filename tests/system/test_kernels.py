"""A quantised file computed with on its own bits, as is the default: no crash and no neighbour changes one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack import SMOLLM2, running, until
from test_kills import GREEDY, PROMPTS, SEEDED, VICTIMS, answer

TOKENS = 200
pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.kernels]


@pytest.mark.slow
def test_kills_and_neighbours_change_no_token() -> None:
    """Alone first; then all at once, while every process is killed in turn."""
    with running(SMOLLM2.replace('dtype = "float32"\n', "deterministic = true\n")) as stack:
        alone = [answer(stack, parameters, prompt, TOKENS) for parameters in (GREEDY, SEEDED) for prompt in PROMPTS]
        for victim in VICTIMS:
            with ThreadPoolExecutor(2 * len(PROMPTS)) as pool:
                together = [
                    pool.submit(answer, stack, parameters, prompt, TOKENS)
                    for parameters in (GREEDY, SEEDED)
                    for prompt in PROMPTS
                ]
                time.sleep(0.5)
                assert not all(each.done() for each in together), "the answers are too short for this machine"
                stack.kill(victim)
                assert [each.result() for each in together] == alone, victim
            until(lambda: stack.replicas_ready() == 1, 60, "a replica")
