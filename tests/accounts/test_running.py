"""Answers that outgrow what was reserved for them: a budget is not overspent by what is being generated, and whoever
asks is told, on every surface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from api_stage import until
from counter import Counter, counter
from hypothesis import given

from bus.messages.accounts import Allowance, Grant
from bus.prices import Price
from headrace_client import Client
from ingress.gate.leases import Actual, Leases
from ingress.gate.running import AHEAD, MORE, Running

TEXT = "word " * 300  # 1,500 tokens: each is a byte here
OUTPUT = 3000  # millionths of a unit a token, see `counter`
MONEY = Allowance(1, "key", "k", "money", 10**15, 0, "total")
RATE = Allowance(2, "key", "k", "output_tokens", 1000, 60)


@given(
    st.integers(0, 10**12), st.integers(1, 10**10), st.integers(0, 5000), st.integers(1, 4000), st.integers(1, 600),
    st.lists(st.integers(1, 60), max_size=80),
)  # fmt: skip
def test_no_more_is_drawn_than_was_leased(
    leased: int, output_price: int, input: int, most: int, guess: int, steps: list[int]
) -> None:
    """Whatever is leased, and however the answer comes: what it has cost when it is cut is within the lease, but for
    what the last step brought."""
    leases = Leases(0.05)
    bucket, rate = leases.bucket(MONEY), leases.bucket(RATE)
    price = Price(output_price // 3, output_price // 30, output_price)
    output = min(most, guess)
    leases.granted([Grant(1, leased, 0)], 0)
    if price.cost(input, 0, output) > leased:
        return  # it is not taken
    running = Running((bucket, rate), price, input, most, output)
    leases.take([(7, ((bucket, price.cost(input, 0, output)), (rate, output)))], 0)
    drawn = cut = 0
    for step in steps:
        drawn = min(most, drawn + step)
        while not cut and running.limited and drawn >= running.look_at:
            target = running.enough(drawn)
            if bucket.balance < dict(running.wants(target))[bucket]:
                target = running.affordable()
            if target <= drawn:
                cut = drawn
                break
            if target <= running.output:
                break
            leases.extend(7, running.wants(target), 0)
            running.output = target
            assert bucket.balance >= 0, "no more than there is"
            assert rate.reserved == target
        if cut or drawn == most:
            break
    if not cut:
        assert drawn <= running.output or running.output == most or drawn < running.look_at
    cost = price.cost(input, 0, drawn)
    assert cost <= leased + price.cost(0, 0, max(steps, default=0) + 2)
    leases.settle(7, Actual(input, drawn, cost))
    assert bucket.reserved == rate.reserved == 0
    assert bucket.balance == leased - cost
    assert rate.used == drawn


def test_what_is_asked_for_is_ahead_of_what_is_needed() -> None:
    running = Running((Leases(0.05).bucket(MONEY),), Price(1, 1, 1), 10, 5000, 512)
    assert running.look_at == 512 - AHEAD
    assert running.enough(448) == 448 + MORE
    assert running.enough(4999) == 5000
    assert not Running((), Price(1, 1, 1), 10, 5000, 512).limited
    assert not Running((Leases(0.05).bucket(MONEY),), Price(1, 1, 1), 10, 100, 100).limited


# --- on real processes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk() -> Iterator[Counter]:
    with counter(1, text=TEXT) as desk:
        yield desk


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def chat(desk: Counter, key: str) -> tuple[str, tuple[Any, ...]]:
    choice = post(desk, key, "/v1/chat/completions", messages=[{"role": "user", "content": "x"}])["choices"][0]
    return choice["message"]["content"], (choice["finish_reason"], choice["stop_reason"])


def chat_stream(desk: Counter, key: str) -> tuple[str, tuple[Any, ...]]:
    chunks = events(post(desk, key, "/v1/chat/completions", messages=[{"role": "user", "content": "x"}], stream=True))
    choices = [chunk["choices"][0] for chunk in chunks]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, (choices[-1]["finish_reason"], choices[-1]["stop_reason"])


def completion(desk: Counter, key: str) -> tuple[str, tuple[Any, ...]]:
    choice = post(desk, key, "/v1/completions", prompt="x", max_tokens=1900)["choices"][0]
    return choice["text"], (choice["finish_reason"], choice["stop_reason"])


def response(desk: Counter, key: str) -> tuple[str, tuple[Any, ...]]:
    told = post(desk, key, "/v1/responses", input="x")
    return told["output"][0]["content"][0]["text"], (told["status"], told["incomplete_details"]["reason"])


def message(desk: Counter, key: str) -> tuple[str, tuple[Any, ...]]:
    told = post(desk, key, "/v1/messages", messages=[{"role": "user", "content": "x"}], max_tokens=1900)
    return told["content"][0]["text"], (told["stop_reason"], told["stop_sequence"])


def zeromq(desk: Counter, key: str) -> tuple[str, tuple[Any, ...]]:
    with Client(run=desk.stage.run, api_key=key, timeout=60) as client:
        answer = client.chat("x", "m", priority=1)
    return answer.text, (answer.finish_reason, answer.choices[0].stop_reason)


def post(desk: Counter, key: str, path: str, **body: Any) -> Any:
    answer = desk.stage.visits.post(
        path, json={"model": "m", "priority": 1, **body},
        headers={"authorization": f"Bearer {key}", "anthropic-version": "2023-06-01"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return answer.text if body.get("stream") else answer.json()


CUT = ("length", "budget")


@pytest.mark.parametrize(
    ("ask", "ends"),
    [
        (chat, CUT), (chat_stream, CUT), (completion, CUT), (zeromq, CUT),
        (response, ("incomplete", "max_output_tokens")), (message, ("max_tokens", None)),
    ],
)  # fmt: skip
def test_an_answer_ends_where_its_budget_does(desk: Counter, ask: Any, ends: tuple[Any, ...]) -> None:
    id, key = desk.key()
    amount = 700 * OUTPUT * 1000  # billionths
    desk.headrace("keys", "budget", id, f"{amount / 1e9:.6f}", "--per", "total")
    text, end = ask(desk, key)
    assert end == ends
    assert TEXT.startswith(text)
    assert len(text) < 700
    until(lambda: desk.allowance(id, "money")["held"] == 0)
    spent = desk.allowance(id, "money")["spent"]
    assert amount - 40 * OUTPUT * 1000 <= spent <= amount, "all of it and no more; a step is a token here"
    rows = lambda: desk.asked("usage", "--by", "key", "--since", "1h", "--key", id)["rows"]  # noqa: E731
    until(lambda: bool(rows()))
    (row,) = rows()
    assert (row["charged_nano"], row["failed"]) == (spent, 0)
    assert desk.ask(key).json()["error"]["code"] == "insufficient_quota"


def test_with_a_budget_it_goes_on_to_its_end(desk: Counter) -> None:
    """And a rate ends nothing: what it used too much is paid back."""
    id, key = desk.key()
    desk.headrace("keys", "budget", id, "1000", "--per", "total")
    desk.headrace("keys", "limits", id, "output_tokens=1000", "--window", "24h")
    text, end = chat(desk, key)
    assert (text, end) == (TEXT, ("stop", None))
    until(lambda: desk.allowance(id, "money")["held"] == 0)
    refused = desk.ask(key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
