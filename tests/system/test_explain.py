"""Why was this request slow? Asked of a real stack that was made slow in ways that are known."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from stack import Stack, until

from headrace_client import Client

pytestmark = [pytest.mark.system, pytest.mark.model]

WORKER = "worker@smollm2.0.0"


def complete(stack: Stack, prompt: str, tokens: int, **more: object) -> dict[str, Any]:
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    reply = httpx.post(f"{stack.url}/v1/completions", json={**body, "include_timing": True, **more}, timeout=240)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def explained(stack: Stack, request: str) -> dict[str, Any]:
    """As `headrace explain --json` tells it, once its end is known."""
    told: list[dict[str, Any]] = []

    def known() -> bool:
        done = stack.headrace("explain", request, "--json", check=False)
        if done.returncode:
            return False
        told.append(json.loads(done.stdout))
        # Its ingress and its scheduler tell of the end, each in its own time.
        return any(event["kind"] == "told" for event in told[-1]["events"]) and " so far " not in told[-1]["verdict"]

    until(known, 20, "the request is known")
    return told[-1]


def adds_up(told: dict[str, Any]) -> bool:
    spans = told["spans"]
    return all(a["end_ns"] == b["begin_ns"] for a, b in pairwise(spans)) and (
        sum(span["end_ns"] - span["begin_ns"] for span in spans) == told["total_ns"]
    )


def test_an_answer_tells_where_its_time_went_and_explain_agrees(stack: Stack) -> None:
    answer = complete(stack, "Once upon a time", 20)
    timing = answer["headrace"]
    parts = timing["queue_ms"] + timing["prefill_ms"] + sum(timing["ingress"].values())
    assert parts <= timing["ttft_ms"] + timing["ingress"]["text_ms"]
    assert timing["ttft_ms"] + timing["decode_ms"] == pytest.approx(timing["total_ms"], abs=0.01)
    assert (timing["tokens"], timing["chunks"], timing["steps"]) == (20, 1, 20)
    assert (timing["preemptions"], timing["resumptions"]) == (0, 0)
    told = explained(stack, answer["id"])
    assert told["request"] == timing["request"]
    assert adds_up(told)
    assert {span["phase"] for span in told["spans"]} >= {"ingress", "prefill", "decode", "delivery"}
    assert explained(stack, timing["request"][-8:])["request"] == timing["request"]  # as screens show it
    assert told["verdict"] in stack.headrace("explain", answer["id"]).stdout


def test_streams_and_zeromq_tell_the_same(stack: Stack) -> None:
    """In the chunk that ends a choice; of several choices, each has its own."""
    body = {"model": "smollm2", "prompt": "One, two,", "max_tokens": 6, "ignore_eos": True, "n": 2, "seed": 1}
    ends: dict[int, dict[str, Any]] = {}
    streamed = {**body, "stream": True, "include_timing": True}
    with httpx.stream("POST", f"{stack.url}/v1/completions", json=streamed, timeout=120) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert ("headrace" in chunk) == (chunk["choices"][0]["finish_reason"] is not None)
                if "headrace" in chunk:
                    ends[chunk["choices"][0]["index"]] = chunk["headrace"]
    assert len({timing["request"] for timing in ends.values()}) == len(ends) == 2
    with Client(run=stack.run) as client:
        answer = client.complete("One, two,", max_tokens=6, ignore_eos=True, n=2, include_timing=True)
        assert answer.timing is not None
        assert [each["tokens"] for each in answer.timing["choices"]] == [6, 6]
        assert client.complete("One, two,", max_tokens=2).timing is None
        with client.chat("Count.", stream=True, max_tokens=3, include_timing=True) as stream:
            list(stream)
            assert stream.timing is not None
            assert stream.timing["tokens"] <= 3
    told = explained(stack, answer.id)
    assert set(told["choices"]) == {each["request"] for each in answer.timing["choices"]}


def test_a_second_prompt_says_what_it_found(stack: Stack) -> None:
    prompt = "The three laws of robotics are as follows. " * 12
    complete(stack, prompt, 4)
    again = complete(stack, prompt, 4)
    found = again["headrace"]["cached_tokens"]
    assert found["memory"] == again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert found["disk"] == 0
    hits = [span for span in explained(stack, again["id"])["spans"] if span["cause"] == "hit"]
    assert [f"{found['memory']:,} tokens in memory" in span["text"] for span in hits] == [True]


def test_a_queue_names_those_who_had_the_slots(stack: Stack) -> None:
    with ThreadPoolExecutor(24) as pool:  # 16 slots
        answers = list(pool.map(lambda n: complete(stack, f"Number {n}:", 24), range(24)))
    ids = {answer["headrace"]["request"] for answer in answers}
    last = max(answers, key=lambda answer: float(answer["headrace"]["queue_ms"]))
    assert last["headrace"]["held_ms"]["slots"] > 0.5 * last["headrace"]["queue_ms"]
    (held, *_) = [span for span in explained(stack, last["id"])["spans"] if span["cause"] == "slots"]
    assert set(held["requests"]) <= ids
    assert held["requests"]


def test_a_chunk_names_its_step_and_the_account_survives_the_death_of_its_worker(stack: Stack) -> None:
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(complete(stack, "In the year 2050,", 120)))
    asking.start()
    until(lambda: stack.status()["models"][0]["running"] > 0, 30, "it runs")
    stack.kill(WORKER)
    asking.join(timeout=200)
    (answer,) = answers
    timing = answer["headrace"]
    assert timing["tokens"] == 120
    assert timing["resumptions"] >= 1
    assert timing["ttft_ms"] + timing["decode_ms"] == pytest.approx(timing["total_ms"], abs=0.01)
    told = explained(stack, answer["id"])
    assert adds_up(told)
    lost = [span for span in told["spans"] if span["phase"] == "recovery"]
    assert lost[0]["cause"] == "worker-lost"
    assert WORKER in lost[0]["text"]
    chunks = [span for span in told["spans"] if span["cause"] == "chunk"]
    assert len(chunks) == timing["chunks"] >= 2
    assert all(span["step"] > 0 and f"step {span['step']}" in span["text"] for span in chunks)


def test_the_death_of_a_scheduler_is_told_and_accounted(stack: Stack) -> None:
    until(lambda: stack.replicas_ready() == 1, 60, "a replica")
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(complete(stack, "def fibonacci(n):", 120)))
    asking.start()
    until(lambda: stack.status()["models"][0]["running"] > 0, 30, "it runs")
    stack.kill("scheduler@smollm2")
    asking.join(timeout=200)
    (answer,) = answers
    timing = answer["headrace"]
    assert (timing["tokens"], timing["resumptions"]) == (120, 1)
    assert 0 < timing["recovery_ms"] < timing["total_ms"]
    told = explained(stack, answer["id"])
    assert adds_up(told)
    assert "scheduler-lost" in {span["cause"] for span in told["spans"]}


def test_every_answer_says_in_its_head_what_it_is_found_by(stack: Stack) -> None:
    """Whole, streamed, and also what the client itself called it."""
    for more in ({}, {"stream": True}):
        body = {"model": "smollm2", "prompt": "Once", "max_tokens": 3, "include_timing": True, **more}
        mine = f"client/{len(more)}"
        reply = httpx.post(f"{stack.url}/v1/completions", json=body, headers={"X-Client-Request-Id": mine}, timeout=240)
        assert reply.headers["x-client-request-id"] == mine
        told = explained(stack, reply.headers["x-request-id"])
        assert told["response"] == reply.headers["x-request-id"]
        assert explained(stack, mine)["request"] == told["request"]


def test_a_request_that_nobody_knows_and_an_id_that_is_none(stack: Stack) -> None:
    unknown = stack.headrace("explain", "chatcmpl-0000000000000001", check=False)
    assert (unknown.returncode, "nothing is known" in unknown.stderr) == (1, True)
    wrong = stack.headrace("explain", "two words", check=False)
    assert (wrong.returncode, "is no request id" in wrong.stderr) == (2, True)
