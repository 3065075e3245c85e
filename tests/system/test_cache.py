"""Answers that are kept and found by what a question means, the whole way on real processes: prepared, watched in
shadow, calibrated, switched on; with MiniLM as the stack serves it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from stack import SMOLLM2_KERNELS, Stack, running, until

from bus.messages.caching import CacheReport, CacheSpace, CacheStatus, GetCache, GetCacheReport
from cli.control import Caller

pytestmark = [pytest.mark.system, pytest.mark.model]

CACHE = """
encoder = "minilm"
encoder_wait_s = 20.0

[[cache.namespace]]
name = "faq"
models = ["smollm2"]
semantic = "on"
budget = 0.6
audit = 1e-9
"""
MODELS = f"""{SMOLLM2_KERNELS}
[[model]]
name = "minilm"
source = "catalog:all-minilm-l6-v2"
"""
# Of the public pairs: questions that mean the same, and questions that look so.
PAIRS = [
    ("How do I share my screen in a video call?", "um so how do i share my screen in a video call"),
    ("Why is my water pressure low in the shower?", "In the shower, why is my water pressure low?"),
]
TRAPS = [
    ("Is the clinic open on Sundays?", "Is the clinic closed on Sundays?"),
    ("Can I bring 2 bags on the plane?", "Can I bring 3 bags on the plane?"),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(MODELS, ingresses=1, cache=CACHE) as started:
        until(lambda: started.replicas_ready() == 2, 90, "both models are ready")
        yield started


class Said(NamedTuple):
    cache: str
    text: str
    similarity: float


def ask(stack: Stack, text: str, system: str = "Be brief.", **more: Any) -> Said:
    """One question. The bias makes every answer the same word, so that answers agree where questions do."""
    body = {
        "model": "smollm2", "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}],
        "temperature": 0, "max_tokens": 2, "logit_bias": {"28": 100}, **more,
    }  # fmt: skip
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    told = answer.json()["choices"][0]["message"]["content"] if "stream" not in more else answer.text
    return Said(answer.headers["x-cache"], told, float(answer.headers.get("x-cache-similarity", 0)))


def space(stack: Stack) -> CacheSpace:
    with Caller(stack.run) as caller:
        told = caller.ask("ingress@0", GetCache(0))
    assert isinstance(told, CacheStatus)
    return next(one for one in told.spaces if one.name == "faq")


def report(stack: Stack) -> CacheReport:
    with Caller(stack.run) as caller:
        told = caller.ask("ingress@0", GetCacheReport(0, "faq", 100))
    assert isinstance(told, CacheReport)
    return told


def found_by_meaning(stack: Stack) -> int:
    """How many answers can be, by now: they are written down a moment after the answer."""
    (path,) = (stack.run / "cache").glob("answers-*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM turns").fetchone()[0])


@pytest.mark.timeout(900)  # the vectors take half a minute of a core that has nothing else to do
def test_from_nothing_to_answers_by_meaning(stack: Stack) -> None:
    # Nothing is prepared: exact, and status says what to do. Also the very first call is kept.
    assert ask(stack, "What is kept first of all?").cache == "miss"
    assert ask(stack, "What is kept first of all?").cache == "exact"
    assert space(stack).state == "off: no encoder, or not prepared (headrace cache prepare)"
    assert "30522 vectors" in stack.headrace("cache", "prepare", "-c", str(stack.config), timeout=800).stdout
    until(lambda: space(stack).state == "shadow: not calibrated", 60, "the vectors are found without a restart")

    # Nothing is served by meaning yet, and what would be is compared.
    for known, _ in PAIRS + TRAPS:
        assert ask(stack, known).cache == "miss"
    until(lambda: found_by_meaning(stack) == len(PAIRS + TRAPS), 60, "the questions are kept")
    for _, asked in PAIRS + TRAPS:
        assert ask(stack, asked).cache == "miss"
    until(lambda: report(stack).observations >= len(PAIRS), 60, "what would have been served was compared")
    assert {pair.asked for pair in report(stack).pairs} == {asked for _, asked in PAIRS}, "and no trap"
    assert all(pair.agree and pair.kind == "shadow" for pair in report(stack).pairs)
    assert "would serve" in stack.headrace("cache", "report", "faq").stdout

    # A budget that too little was seen for allows nothing; one that it is enough for does.
    refused = stack.headrace("cache", "calibrate", "faq", "--budget", "0.02", check=False)
    assert (refused.returncode, "133 without a wrong one" in refused.stderr) == (1, True)
    stack.headrace("cache", "calibrate", "faq", "--reason", "a test")
    assert (space(stack).state, space(stack).bound < 0.6) == ("on", True)

    # Answers that were flushed are found neither by words nor by meaning; fresh ones are, by the vectors of before.
    stack.headrace("cache", "flush", "faq")
    answers = {known: ask(stack, known) for known, _ in PAIRS + TRAPS}
    assert {said.cache for said in answers.values()} == {"miss"}
    for known, asked in PAIRS:
        said = ask(stack, asked)
        assert (said.cache, said.text) == ("semantic", answers[known].text), asked
        assert 0.6 <= said.similarity <= 1
    for _, asked in TRAPS:
        assert ask(stack, asked).cache == "miss", asked
    # Another history is another question, and another manner another answer; a stream is the same one.
    assert ask(stack, PAIRS[0][1], system="Be long.").cache == "miss"
    assert ask(stack, PAIRS[0][1], max_tokens=3).cache == "miss"
    streamed = ask(stack, PAIRS[0][1], stream=True)
    assert (streamed.cache, "[DONE]" in streamed.text) == ("semantic", True)
    until(lambda: 'result="semantic"' in httpx.get(f"{stack.url}/metrics").text, 20, "the metrics process knows")


@pytest.mark.slow
def test_nobody_waits_long_for_an_encoder_that_is_stuck(stack: Stack) -> None:
    """Runs after the one before. Its scheduler is stopped: alive, and silent."""
    asked = "So how do I share my screen in a video call please"
    pid = stack.pid("scheduler@minilm")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert ask(stack, asked).cache == "miss", "after encoder_wait_s"
    finally:
        os.kill(pid, signal.SIGCONT)
    numbers = iter(range(1, 1000))

    def again() -> Said:
        """Few times a second: with some thirty marks it is no question in English any more."""
        time.sleep(0.5)
        return ask(stack, f"Hello, how do I share my screen in a video call{'!' * next(numbers)}")

    until(lambda: again().cache == "semantic", 60, "it is asked again")


def test_calibrate_off_holds_at_once(stack: Stack) -> None:
    """Runs after the ones before."""
    stack.headrace("cache", "calibrate", "faq", "--off", "--reason", "a test")
    assert space(stack).state == "off: a test"
    assert ask(stack, "Well, how do I share my screen in a video call?").cache == "miss"
