"""Answers that are kept and found by what a question means, the whole way on real processes: prepared, watched in
shadow, calibrated, switched on; with MiniLM as the stack serves it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

CACHE = """
encoder = "minilm"

[[cache.namespace]]
name = "faq"
models = ["smollm2"]
semantic = "shadow"
budget = 0.45
audit = 1e-9
"""
MODELS = f"""{SMOLLM2}
[[model]]
name = "minilm"
source = "catalog:all-minilm-l6-v2"
"""
# Of the public pairs: questions that mean the same, and questions that look so.
PAIRS = [
    ("How do I share my screen in a video call?", "um so how do i share my screen in a video call"),
    ("What is the notice period to end my tenancy?", "Hi! What is the notice period to end my tenancy? Cheers"),
    ("Why is my water pressure low in the shower?", "In the shower, why is my water pressure low?"),
    ("Do you charge a call-out fee for emergency plumbing?", "Do you charge a call-out fee for emergancy plumbing?"),
]
TRAPS = [
    ("Is the clinic open on Sundays?", "Is the clinic closed on Sundays?"),
    ("How do I pay by card in Lisbon?", "How do I pay by card in Madrid?"),
    ("Can I bring 2 bags on the plane?", "Can I bring 3 bags on the plane?"),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(MODELS, ingresses=2, cache=CACHE) as started:
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


def space(stack: Stack) -> dict[str, Any]:
    told = json.loads(stack.headrace("cache", "status", "--json").stdout)
    found: dict[str, Any] = next(one for one in told["spaces"] if one["name"] == "faq")
    return found


def compared(stack: Stack) -> int:
    return int(json.loads(stack.headrace("cache", "report", "faq", "--json").stdout)["observations"])


def switch(stack: Stack, semantic: str) -> None:
    text = stack.config.read_text()
    stack.config.write_text(text.replace('semantic = "shadow"', f'semantic = "{semantic}"'))
    stack.headrace("restart", "--all", timeout=240)
    until(lambda: stack.replicas_ready() == 2, 90, "both models are ready again")


def ask_until(stack: Stack, text: str, cache: str) -> Said:
    """An answer is found at once by its words, and by its meaning when its vector is made."""
    until_s = time.monotonic() + 15
    while (said := ask(stack, text, max_tokens=2)).cache != cache and time.monotonic() < until_s:
        stack.headrace("cache", "flush", "faq")  # else it would be found by its words from now on
        time.sleep(0.2)
    return said


def test_from_nothing_to_answers_by_meaning(stack: Stack) -> None:
    # Nothing is prepared: exact, and status says what to do. Also the very first call is kept.
    assert ask(stack, "What is kept first of all?").cache == "miss"
    until(lambda: ask(stack, "What is kept first of all?").cache == "exact", 10, "the first call is kept")
    assert space(stack)["state"] == "off: no encoder, or not prepared (headrace cache prepare)"
    assert "30522 vectors" in stack.headrace("cache", "prepare", "-c", str(stack.config), timeout=240).stdout
    until(lambda: space(stack)["state"] == "shadow", 15, "the vectors are found without a restart")
    time.sleep(2.5)  # at the other ingress too

    # Shadow serves nothing, and compares.
    for known, _ in PAIRS + TRAPS:
        assert ask(stack, known).cache == "miss"
    time.sleep(1.5)
    for _, asked in PAIRS + TRAPS:
        assert ask(stack, asked).cache == "miss"
    until(lambda: compared(stack) >= len(PAIRS), 20, "what would have been served was compared")
    report = json.loads(stack.headrace("cache", "report", "faq", "--json").stdout)
    assert {pair["asked"] for pair in report["pairs"]} == {asked for _, asked in PAIRS}, "and no trap"
    assert all(pair["agree"] and pair["kind"] == "shadow" for pair in report["pairs"])
    assert "shadow" in stack.headrace("cache", "report", "faq").stdout

    # A budget that little was seen for allows nothing; one that it is enough for does.
    refused = stack.headrace("cache", "calibrate", "faq", "--budget", "0.02", check=False)
    assert (refused.returncode, "133 without a wrong one" in refused.stderr) == (1, True)
    stack.headrace("cache", "calibrate", "faq", "--reason", "a test")
    assert (space(stack)["state"], space(stack)["bound"] < 0.45) == ("shadow", True)
    assert ask(stack, "Can I please share my screen in a video call, and how?").cache == "miss"

    # On.
    switch(stack, "on")
    assert space(stack)["state"] == "on"
    stack.headrace("cache", "flush", "faq")
    answers = {known: ask(stack, known) for known, _ in PAIRS + TRAPS}
    assert {said.cache for said in answers.values()} == {"miss"}
    time.sleep(1.5)
    for known, asked in PAIRS:
        said = ask(stack, asked)
        assert (said.cache, said.text) == ("semantic", answers[known].text), asked
        assert 0.6 <= said.similarity <= 1
    for _, asked in TRAPS:
        assert ask(stack, asked).cache == "miss", asked
    # Another history is another question; a stream is the same answer; every surface takes part.
    assert ask(stack, PAIRS[0][1], system="Be long.").cache == "miss"
    streamed = ask(stack, PAIRS[0][1], stream=True)
    assert (streamed.cache, "[DONE]" in streamed.text) == ("semantic", True)
    response = httpx.post(
        f"{stack.url}/v1/responses",
        json={"model": "smollm2", "instructions": "Be brief.", "input": PAIRS[0][1], "temperature": 0,
              "max_output_tokens": 2, "store": False},
        timeout=60,
    )  # fmt: skip
    assert response.headers["x-cache"] == "miss", "it is matched with none of another bias"
    counts = space(stack)["counts"]
    assert counts["semantic"] == len(PAIRS) + 1
    text = httpx.get(f"{stack.url}/metrics").text
    assert 'result="semantic"' in text


def test_nobody_waits_for_an_encoder_that_is_stuck(stack: Stack) -> None:
    """Runs after the one before. Its scheduler is stopped: alive, and silent."""
    pid = stack.pid("scheduler@minilm")
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        said = ask(stack, "So how do I share my screen in a video call please")
        assert (said.cache, time.monotonic() - begun < 10) == ("miss", True), "an upper bound far above its deadline"
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: ask(stack, f"Hello, how do I share my screen in a video call? {time.monotonic_ns() % 1000 * '!'}"
                      ).cache == "semantic", 30, "it is asked again")  # fmt: skip


def test_calibrate_off_holds_at_every_ingress(stack: Stack) -> None:
    stack.headrace("cache", "calibrate", "faq", "--off", "--reason", "a test")
    until(lambda: space(stack)["state"] == "off: a test", 10, "it is off")
    time.sleep(1.5)
    for end in ("!", "!!", "?!"):
        assert ask(stack, f"um so how do i share my screen in a video call{end}").cache == "miss"


def test_static_vectors_are_of_the_served_encoder(stack: Stack) -> None:
    about = json.loads((Path(stack.environment["HEADRACE_STATE"]) / "cache-static" / "about.json").read_text())
    assert (about["vocabulary"], about["dimensions"]) == (30522, 256)
