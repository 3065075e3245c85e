"""Routes and upstreams under keys and budgets: who may be asked, and every attempt reserved and settled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import until
from counter import Counter, counter
from upstream_stage import SAID, Upstream

pytestmark = pytest.mark.system

HASTY = "first_token_s = 2.0\nbetween_tokens_s = 2.0\nfailures = 100\nfailures_of = 100"
ROUTES = """
[[route]]
name = "auto"
fallbacks = ["garbage-first", "ok"]
pin_s = 0.0
[[route.target]]
model = "500"
[[route]]
name = "hopeless"
fallbacks = ["429"]
pin_s = 0.0
[[route.target]]
model = "500"
[[route]]
name = "careful"
pin_s = 0.0
[route.cascade]
first = "refuses"
then = "ok"
checks = ["refusal"]
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def desk(upstream: Upstream) -> Iterator[Counter]:
    tables = "".join(upstream.table(mode, HASTY) for mode in ("ok", "500", "429", "garbage-first", "refuses"))
    tables += upstream.table("endless", HASTY) + upstream.table("cuts", f"{HASTY}", model='continue_with = "m"')
    with counter(1, tables=tables + ROUTES) as desk:
        yield desk


def chat(desk: Counter, key: str, model: str, max_tokens: int | None = 40) -> httpx.Response:
    body = {
        "model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": max_tokens,
        "priority": 3,  # milliseconds for each token of a model of this host
    }  # fmt: skip
    return desk.stage.visits.post(
        "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60
    )


def rows(desk: Counter, id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = desk.asked("usage", "--by", "request", "--since", "1h", "--key", id)["rows"]
    return found


def asked(upstream: Upstream) -> dict[str, int]:
    return {mode: len(calls) for mode, calls in upstream.calls.items()}


def test_a_key_is_served_by_the_models_it_may_use_and_by_no_other(desk: Counter, upstream: Upstream) -> None:
    before = asked(upstream)
    for models in (["ok"], ["auto"], ["auto", "m"]):
        _, key = desk.key(*(word for model in models for word in ("--models", model)))
        reply = chat(desk, key, "auto")
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (403, "model_not_allowed"), (models, reply.text)
        assert "garbage-first" not in reply.text  # nor are the names of those told
    assert asked(upstream) == before, "nobody was asked"
    _, key = desk.key("--models", "auto", "--models", "ok")
    reply = chat(desk, key, "auto")
    assert reply.headers["x-headrace-route"] == "auto; by=fallback; attempt=1"
    assert asked(upstream) == before | {"ok": before.get("ok", 0) + 1}


def test_each_attempt_is_reserved_and_settled_once(desk: Counter) -> None:
    id, key = desk.key("--project", "fall/backs")
    # One at once: an attempt that kept its place would have the next one refused.
    desk.headrace("keys", "limits", id, "requests=100", "total_tokens=1M", "--window", "744h")
    desk.headrace("keys", "limits", id, "concurrency=1")
    desk.headrace("keys", "budget", id, "1000", "--per", "total")
    reply = chat(desk, key, "auto")
    assert reply.json()["choices"][0]["message"]["content"] == SAID
    assert reply.headers["x-headrace-route"] == "auto; by=fallback; attempt=3"
    assert chat(desk, key, "hopeless").json()["error"]["code"] == "upstream_overloaded"
    reply = chat(desk, key, "careful")
    assert reply.headers["x-headrace-route"] == "careful; by=cascaded; attempt=2"

    until(lambda: len(rows(desk, id)) == 7)
    ledger = {(row["model"], row["outcome"]): row for row in rows(desk, id)}
    assert sorted(ledger) == sorted([
        ("500", "error"), ("garbage-first", "error"), ("429", "error"), ("ok", "stop"), ("refuses", "stop"),
    ])  # fmt: skip
    assert len({row["group"] for row in rows(desk, id)}) == 7
    for (_, outcome), row in ledger.items():
        tokens = row["prompt_tokens"], row["cached_tokens"], row["generated_tokens"]
        assert tokens == ((0, 0, 0) if outcome == "error" else (9, 4, 8))
        assert row["charged_nano"] == (0 if outcome == "error" else 1000 * (5 * 1000 + 4 * 100 + 8 * 3000))
    charged = sum(row["charged_nano"] for row in rows(desk, id))
    until(lambda: all(desk.allowance(id, each)["held"] == 0 for each in ("money", "concurrency", "requests")))
    assert desk.allowance(id, "money")["spent"] == charged
    assert desk.allowance(id, "requests")["left"] == 100 - 7
    assert desk.allowance(id, "total_tokens")["left"] >= 1_000_000 - 3 * 17


def test_a_budget_that_is_used_up_is_no_reason_to_ask_another_model(desk: Counter, upstream: Upstream) -> None:
    id, key = desk.key("--project", "used/up")
    desk.headrace("keys", "budget", id, "0.000001", "--per", "total")
    before = asked(upstream)
    reply = chat(desk, key, "auto")
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "insufficient_quota")
    assert reply.headers["x-should-retry"] == "false"
    assert asked(upstream) == before
    until(lambda: [row["outcome"] for row in rows(desk, id)] == ["rejected"])


@pytest.mark.parametrize("model", ["endless", "cuts"])
def test_an_answer_from_elsewhere_ends_where_its_budget_does(desk: Counter, model: str) -> None:
    """Also where a model of this host goes on with it: that draws 770 tokens, if it may."""
    id, key = desk.key("--project", f"out/{model}")
    desk.headrace("keys", "budget", id, "1.8", "--per", "total")  # of 600 tokens
    choice = chat(desk, key, model, None).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "budget")
    until(lambda: "length" in {row["outcome"] for row in rows(desk, id)})
    until(lambda: desk.allowance(id, "money")["held"] == 0)
    charged = sum(row["charged_nano"] for row in rows(desk, id))
    assert desk.allowance(id, "money")["spent"] == charged
    assert 0.9 * 1.8e9 < charged < 2 * 1.8e9, (
        "it goes on while the accounts process is asked, for half a second at most"
    )
