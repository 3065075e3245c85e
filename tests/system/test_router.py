"""One headrace behind another: what is served through it is what it serves, and whichever of the two loses a process,
an answer that was begun is completed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

BEFORE = """
[[upstream]]
name = "behind"
base_url = "{url}/v1"
first_token_s = 30.0
between_tokens_s = 5.0
failures = 2
open_s = 1.0
open_most_s = 1.0

[[upstream.model]]
name = "far"
served = "smollm2"
context_tokens = 2048
capabilities = ["seed", "sampling", "logprobs", "penalties"]
tokenizer = "smollm2"
input = 1.0
output = 2.0
continue_with = "smollm2"

[[route]]
name = "auto"
fallbacks = ["smollm2"]
pin_s = 0.0
[[route.target]]
model = "far"
"""
ASK = {"messages": [{"role": "user", "content": "Name three colours and say why."}], "temperature": 0, "max_tokens": 60}


@pytest.fixture(scope="module")
def behind() -> Iterator[Stack]:
    with running(SMOLLM2, arena="256MiB") as stack:
        yield stack


@pytest.fixture(scope="module")
def before(behind: Stack) -> Iterator[Stack]:
    with running(SMOLLM2 + BEFORE.format(url=behind.url), arena="256MiB") as stack:
        yield stack


def ask(stack: Stack, model: str) -> httpx.Response:
    reply = httpx.post(f"{stack.url}/v1/chat/completions", json={**ASK, "model": model}, timeout=240)
    assert reply.status_code == 200, reply.text
    return reply


def text_of(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def stream(stack: Stack, model: str) -> Iterator[dict[str, Any]]:
    body = {**ASK, "model": model, "stream": True}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, timeout=240) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


def said(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def test_an_answer_through_another_is_the_same(before: Stack, behind: Stack) -> None:
    here, there, through = ask(before, "smollm2"), ask(behind, "smollm2"), ask(before, "auto")
    assert text_of(here) == text_of(there) == text_of(through)
    assert through.headers["x-headrace-target"] == "far"
    usage, its = through.json()["usage"], there.json()["usage"]
    assert usage["prompt_tokens"] == its["prompt_tokens"]
    assert usage["completion_tokens"] == its["completion_tokens"]
    assert "estimated" not in usage


def test_several_answers_through_another_are_those_that_it_gives(before: Stack, behind: Stack) -> None:
    """Choice i draws with seed + i, here and there; which sample is the best is found out here."""

    def choices(stack: Stack, model: str, **more: Any) -> tuple[list[str], dict[str, Any]]:
        body = {**ASK, "model": model, "temperature": 1.0, "seed": 7, "max_tokens": 16, **more}
        reply = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=240)
        assert reply.status_code == 200, reply.text
        return [choice["message"]["content"] for choice in reply.json()["choices"]], reply.json()["usage"]

    for asked in ({"n": 3}, {"n": 1, "best_of": 4}, {"n": 2, "best_of": 3}):
        (there, its), (through, usage) = choices(behind, "smollm2", **asked), choices(before, "far", **asked)
        assert through == there
        assert len(set(through)) == asked["n"]
        assert usage["completion_tokens"] == its["completion_tokens"]
    told, usage = choices(before, "auto", n=3, max_total_tokens=10)
    assert usage["completion_tokens"] <= 10
    assert len(told) == 3
    refused = httpx.post(f"{before.url}/v1/chat/completions", json={**ASK, "model": "far", "use_beam_search": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "use_beam_search")


def test_the_ledger_has_the_attempt_once_at_its_price(before: Stack) -> None:
    def rows() -> dict[str, dict[str, float]]:
        told = json.loads(before.headrace("usage", "--by", "model", "--json", "--since", "1h").stdout)
        return {row["group"]: row for row in told["rows"]}

    earlier = rows().get("far", {"requests": 0, "prompt_tokens": 0, "charged_nano": 0})
    usage = ask(before, "far").json()["usage"]
    until(lambda: rows()["far"]["requests"] > earlier["requests"], 60, "the ledger")
    now = rows()["far"]
    assert now["requests"] == earlier["requests"] + 1
    assert now["prompt_tokens"] - earlier["prompt_tokens"] == usage["prompt_tokens"]
    cost = 1000 * usage["prompt_tokens"] + 2000 * usage["completion_tokens"]
    assert now["charged_nano"] - earlier["charged_nano"] == pytest.approx(cost, abs=2)


def test_the_metrics_are_those_of_the_page(before: Stack) -> None:
    ask(before, "auto")
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(headrace_(?:route|upstream)_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    said = {name.removesuffix("_total"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}

    def told() -> dict[str, Any]:
        text = httpx.get(f"{before.url}/metrics", timeout=60).text
        return {
            family.name: family
            for family in text_string_to_metric_families(text)
            if family.name.startswith(("headrace_route", "headrace_upstream"))
        }

    until(lambda: len(told()) >= 6, 60, "metrics of routes")
    for family in told().values():
        kind, labels = said[family.name]
        assert kind == family.type
        for sample in family.samples:
            assert sample.labels.keys() - {"le", "instance"} == labels, family.name


@pytest.mark.slow
def test_the_other_losing_its_worker_is_a_pause(before: Stack, behind: Stack) -> None:
    expected = text_of(ask(behind, "smollm2"))
    got, killed = "", False
    for event in stream(before, "far"):
        got += said(event)
        if got and not killed:
            killed = bool(behind.kill("worker@smollm2.0.0"))
    assert got == expected


def test_what_the_other_breaks_off_is_gone_on_with_here(before: Stack, behind: Stack) -> None:
    """Greedy, and of the same weights: text that is tokenised again is mostly the same tokens, so the whole is what
    either of the two says alone."""
    expected = text_of(ask(behind, "smollm2"))
    got, killed = "", False
    for event in stream(before, "auto"):
        assert "error" not in event, f"{event}\n{before.logs()}"
        got += said(event)
        if got and not killed:
            killed = bool(behind.kill("ingress@0"))
    assert got == expected
    until(lambda: behind.pid("ingress@0") != 0, 60, "the other is back")


def test_while_the_other_is_away_the_route_stays_at_home(before: Stack, behind: Stack) -> None:
    behind.headrace("drain", "ingress@0")
    try:
        until(lambda: ask(before, "auto").headers["x-headrace-target"] == "smollm2", 60, "the fallback")
    finally:
        behind.headrace("undrain", "ingress@0")
    until(lambda: ask(before, "auto").headers["x-headrace-target"] == "far", 60, "it is asked again")
