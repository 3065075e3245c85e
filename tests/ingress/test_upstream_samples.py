"""Several samples, and budgets of tokens, where the model is an upstream's: every sample is a call of its own there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, answer, staged, until
from hypothesis import given
from hypothesis import strategies as st
from test_takeover import kill
from upstream_stage import Upstream

from ingress.api.validate import chat_request
from ingress.samples.asked import samples_of, shares

pytestmark = pytest.mark.system

ABLE = 'capabilities = ["seed", "logprobs"]'
ROUTE = '[[route]]\nname = "{0}-or-m"\nfallbacks = ["m"]\npin_s = 0.0\n[[route.target]]\nmodel = "{0}"\n'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def stage(upstream: Upstream) -> Iterator[Stage]:
    tables = upstream.table("samples", model=ABLE)
    tables += upstream.table("slow", model=ABLE) + upstream.table("endless")
    tables += upstream.table("samples", model='capabilities = ["seed"]', name="dumb")
    tables += ROUTE.format("samples") + ROUTE.format("dumb")
    with staged(2, settings="resume_grace_s = 600.0", tables=tables) as stage:
        yield stage
        assert "Traceback" not in stage.logs()


def chat(stage: Stage, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Say something."}], **more}
    return httpx.post(f"{stage.url}/v1/chat/completions", json=body, timeout=60)


def texts(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [choice["message"]["content"] for choice in reply.json()["choices"]]


def said(seed: int, tokens: int = 12) -> str:
    return "".join(f"s{seed}.{at} " for at in range(tokens))


def test_each_choice_has_its_own_seed(stage: Stage, upstream: Upstream) -> None:
    before = len(upstream.calls.get("samples", ()))
    reply = chat(stage, "samples", n=3, seed=5)
    assert texts(reply) == [said(5), said(6), said(7)]
    assert sorted(call["seed"] for call in upstream.calls["samples"][before:]) == [5, 6, 7]
    assert not any("logprobs" in call or "n" in call for call in upstream.calls["samples"][before:])
    assert reply.json()["usage"]["completion_tokens"] == 36


def test_the_lowest_and_the_highest_seed_are_passed_on_as_they_are(stage: Stage, upstream: Upstream) -> None:
    for seed in (-(2**63), -1, 2**63 - 1):
        texts(chat(stage, "samples", seed=seed))
        assert upstream.calls["samples"][-1]["seed"] == seed


def test_best_of_is_the_most_probable(stage: Stage, upstream: Upstream) -> None:
    before = len(upstream.calls.get("samples", ()))
    reply = chat(stage, "samples", seed=1, best_of=4, n=2)
    assert texts(reply) == [said(3), said(1)]
    assert all(choice["logprobs"] is None for choice in reply.json()["choices"])
    usage = reply.json()["usage"]
    assert usage["completion_tokens"] == 48
    assert usage["completion_tokens_details"]["unchosen_tokens"] == 24
    calls = upstream.calls["samples"][before:]
    assert [call["logprobs"] for call in calls] == [True] * 4
    assert not any("top_logprobs" in call or "best_of" in call for call in calls)


def test_best_of_needs_log_probabilities_or_a_judge(stage: Stage) -> None:
    refused = chat(stage, "dumb", best_of=2)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "best_of")
    assert texts(chat(stage, "dumb", seed=1, best_of=2, best_of_scorer="m")) == [said(1)]  # all judged alike: the first
    here = chat(stage, "dumb-or-m", seed=0, best_of=2, max_tokens=6)
    assert (texts(here), here.headers["x-headrace-target"]) == ([answer(0, 6)], "m")


def test_log_probabilities_that_do_not_come_are_an_error(stage: Stage) -> None:
    reply = chat(stage, "slow", best_of=2)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_failed")
    assert "best_of" in reply.json()["error"]["message"]


def test_beams_are_refused_by_name_or_searched_for_here(stage: Stage) -> None:
    asked = {"use_beam_search": True, "beam_width": 2, "max_tokens": 4}
    refused = chat(stage, "samples", **asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "use_beam_search")
    assert chat(stage, "samples-or-m", **asked).headers["x-headrace-target"] == "m"


def test_all_samples_together_have_what_they_may_have(stage: Stage, upstream: Upstream) -> None:
    before = len(upstream.calls.get("samples", ()))
    reply = chat(stage, "samples", seed=1, n=3, max_total_tokens=10)
    assert texts(reply) == [said(1, 4), said(2, 3), said(3, 3)]
    assert sorted(call["max_tokens"] for call in upstream.calls["samples"][before:]) == [3, 3, 4]
    ends = {(choice["finish_reason"], choice["stop_reason"]) for choice in reply.json()["choices"]}
    assert ends == {("length", "max_total_tokens")}
    assert (reply.json()["usage"]["completion_tokens"], reply.json()["usage"]["max_total_tokens"]) == (10, 10)
    shorter = chat(stage, "samples", seed=1, n=3, max_total_tokens=90, max_tokens=2).json()["choices"]
    assert {(choice["finish_reason"], choice["stop_reason"]) for choice in shorter} == {("length", None)}
    too_few = chat(stage, "samples", n=3, max_total_tokens=2)
    assert (too_few.status_code, too_few.json()["error"]["param"]) == (400, "max_total_tokens")
    assert chat(stage, "samples-or-m", n=3, max_total_tokens=2).headers["x-headrace-target"] == "m"


def test_an_upstream_that_does_not_keep_to_the_limit_is_cut_off(stage: Stage) -> None:
    reply = chat(stage, "endless", max_tokens=5)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "upstream_failed")  # it had begun
    assert "longer" in reply.json()["error"]["message"]


@pytest.mark.slow
def test_with_a_key_the_best_is_found_again_when_its_ingress_has_died(stage: Stage, upstream: Upstream) -> None:
    asked = {"model": "samples", "messages": [{"role": "user", "content": "Say."}], "seed": 1, "best_of": 4, "n": 2}
    headers = {"Idempotency-Key": "again", "connection": "close"}
    url = f"{stage.url}/v1/chat/completions"
    upstream.pause.clear()
    before = len(upstream.calls.get("samples", ()))
    thread = threading.Thread(target=_lost, args=(url, asked, headers))
    thread.start()
    try:
        until(lambda: len(upstream.calls.get("samples", ())) >= before + 4, stage.logs)
        until(lambda: len(_homes(stage)) == 1, stage.logs)
        (victim,) = _homes(stage)
        kill(stage, victim)
        stage.processes[victim] = stage.start(victim)
        thread.join(20)
        assert not thread.is_alive(), "its connection was lost"
    finally:
        upstream.pause.set()
    stage.wait()
    again = httpx.post(url, json=asked, headers=headers, timeout=60)
    assert texts(again) == [said(3), said(1)]
    assert again.json()["usage"]["completion_tokens"] == 48
    assert len(upstream.calls["samples"]) == before + 8, "all were asked for again, and once"


def _homes(stage: Stage) -> list[int]:
    return [at for at in range(2) if any(stage.run.glob(f"streams/ingress@{at}.*/*"))]


def _lost(url: str, asked: dict[str, Any], headers: dict[str, str]) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(url, json=asked, headers=headers, timeout=60)


@given(st.integers(1, 16), st.none() | st.integers(1, 16), st.none() | st.integers(1, 500))
def test_shares_are_all_there_is(n: int, more: int | None, total: int | None) -> None:
    asked: dict[str, Any] = {"n": n, "best_of": n + more if more else None, "max_total_tokens": total}
    told = ", ".join(f'"{name}": {value}' for name, value in asked.items() if value)
    request = chat_request(f'{{"model": "m", "messages": [{{"role": "user", "content": ""}}], {told}}}'.encode())
    found = shares(request)
    assert len(found) == samples_of(request)
    if total is None:
        assert set(found) == {None}
    else:
        counts = [each for each in found if each is not None]
        assert sum(counts) == total
        assert max(counts) - min(counts) <= 1
