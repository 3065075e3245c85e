"""Limits and budgets in front of real ingresses: under concurrency, over deaths, and the same numbers everywhere."""

from __future__ import annotations

import asyncio
from collections import Counter as Count
from collections.abc import Iterator

import httpx
import pytest
from api_stage import until
from counter import Counter, counter


@pytest.fixture(scope="module")
def desk() -> Iterator[Counter]:
    with counter() as desk:
        yield desk


def many(desk: Counter, key: str, count: int, **more: object) -> list[httpx.Response]:
    """At once, each on a connection of its own, so at either ingress."""

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=desk.stage.url, trust_env=False, timeout=60, limits=limits) as client:
            body = {"model": "m", "prompt": "x", "max_tokens": 4, "seed": 0, **more}
            headers = {"authorization": f"Bearer {key}", "connection": "close"}
            return await asyncio.gather(
                *(client.post("/v1/completions", json=body, headers=headers) for _ in range(count))
            )

    return asyncio.run(ask())


def test_not_one_more_than_the_limit(desk: Counter) -> None:
    id, key = desk.key()
    desk.headrace("keys", "limits", id, "requests=30", "--window", "24h")
    answers = many(desk, key, 60)
    assert Count(each.status_code for each in answers) == {200: 30, 429: 30}
    refused = next(each for each in answers if each.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after-ms"]) > 1000
    assert refused.headers["x-ratelimit-limit-requests"] == "30"
    desk.headrace("keys", "limits", id, "requests=none")
    until(lambda: desk.ask(key).status_code == 200)


def test_no_more_answers_at_once(desk: Counter) -> None:
    id, key = desk.key()
    desk.headrace("keys", "limits", id, "concurrency=3")
    slow = {"max_tokens": 40, "priority": 10}  # ten milliseconds a token
    answers = many(desk, key, 12, **slow)
    served = Count(each.status_code for each in answers)
    assert served[200] >= 3
    assert set(served) <= {200, 429}
    until(lambda: desk.allowance(id, "concurrency")["held"] == 0)
    assert desk.ask(key).status_code == 200


@pytest.mark.parametrize(
    "asked",
    [{"n": 4}, {"best_of": 4}, {"use_beam_search": True, "beam_width": 4}],
    ids=["choices", "samples", "beams"],
)
def test_every_sample_of_a_call_counts(desk: Counter, asked: dict[str, object]) -> None:
    """Before it begins, and in the end: with the ledger, to the token."""
    id, key = desk.key()
    desk.headrace("keys", "limits", id, "concurrency=3")
    refused = desk.ask(key, **asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_exceeds_limit")
    desk.headrace("keys", "limits", id, "concurrency=4")
    until(lambda: desk.ask(key, **asked).status_code == 200)
    usage = desk.ask(key, **asked).json()["usage"]
    until(lambda: desk.allowance(id, "concurrency")["held"] == 0)

    def ledger() -> list[dict[str, int]]:
        rows: list[dict[str, int]] = desk.asked("usage", "--by", "call", "--since", "1h", "--key", id)["rows"]
        return [row for row in rows if row["requests"]]

    until(lambda: len(ledger()) == 2)
    for row in ledger():
        assert row["generated_tokens"] == usage["completion_tokens"]
        assert row["prompt_tokens"] == usage["prompt_tokens"]
        assert row["requests"] == (1 if "beam_width" in asked else 4)


def test_a_budget_is_not_overspent_and_says_so(desk: Counter) -> None:
    """A request of one prompt token or so and four of output costs some 13,000 millionths; ten of them fit."""
    id, key = desk.key()
    one = desk.ask(desk.key()[1]).json()["usage"]  # with another key: this one's is not written yet
    price = one["prompt_tokens"] * 1000 + one["completion_tokens"] * 3000  # millionths of a unit
    desk.headrace("keys", "budget", id, f"{price * 10 / 1e6:.6f}", "--per", "day")
    answers = many(desk, key, 30, prompt="Hello!")
    assert 1 <= sum(each.status_code == 200 for each in answers) <= 10
    until(lambda: desk.allowance(id, "money")["held"] == 0)
    spent = desk.allowance(id, "money")["spent"]
    # What was leased to one ingress while the other was refused has been given back: the rest can be spent.
    more = [desk.ask(key) for _ in range(12)]
    assert more[-1].status_code == 429
    assert more[-1].headers["x-should-retry"] == "false"
    assert more[-1].json()["error"]["code"] == "insufficient_quota"
    until(lambda: desk.allowance(id, "money")["held"] == 0)
    account = desk.allowance(id, "money")
    assert spent <= account["spent"] <= account["amount"]


def test_what_never_fits_is_not_tried_again(desk: Counter) -> None:
    id, key = desk.key()
    desk.headrace("keys", "limits", id, "total_tokens=20")
    refused = desk.ask(key, prompt="a prompt of more than twenty tokens, since a token is a byte here")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (400, "false")
    assert refused.json()["error"]["code"] == "request_exceeds_limit"
    assert desk.ask(key, prompt="Hi", tokens=500).status_code == 200, "a guess is never more than there can be"
    assert desk.stage.player.submits[-1].max_tokens == 500, "and never what the client asked for"


def test_the_numbers_agree(desk: Counter) -> None:
    """Of answers, headers, the ledger, the budget, and the limit: to the token and to the billionth."""
    id, key = desk.key("--project", "agree/ment")
    desk.headrace("keys", "limits", id, "total_tokens=1M", "--window", "744h")
    desk.headrace("keys", "budget", id, "1000", "--per", "total")
    answers = [desk.ask(key, tokens=n, stream=False) for n in range(1, 9)]
    usage = [each.json()["usage"] for each in answers]
    prompt = sum(each["prompt_tokens"] for each in usage)
    cached = sum(each["prompt_tokens_details"]["cached_tokens"] for each in usage)
    output = sum(each["completion_tokens"] for each in usage)
    cost = ((prompt - cached) * 1000 + cached * 100 + output * 3000) * 1000  # billionths

    def ledger() -> dict[str, int]:
        rows = desk.asked("usage", "--by", "key", "--since", "1h", "--key", id)["rows"]
        return rows[0] if rows else {"requests": 0}

    until(lambda: ledger()["requests"] == len(answers))
    row = ledger()
    assert (row["prompt_tokens"], row["cached_tokens"], row["generated_tokens"]) == (prompt, cached, output)
    assert row["charged_nano"] == cost
    by_project = desk.asked("usage", "--by", "project", "--since", "1h", "--project", "agree")["rows"]
    assert [(each["group"], each["charged_nano"]) for each in by_project] == [("agree/ment", cost)]
    until(lambda: desk.allowance(id, "money")["held"] == 0)
    assert desk.allowance(id, "money")["spent"] == cost
    until(lambda: desk.allowance(id, "total_tokens")["held"] == 0)
    flows_in = 10  # of a million in a month, in less than half a minute
    left = desk.allowance(id, "total_tokens")["left"]
    assert 1_000_000 - prompt - output <= left <= 1_000_000 - prompt - output + flows_in * 10
    last = desk.ask(key, tokens=1)
    told = int(last.headers["x-ratelimit-remaining-tokens"])
    spent = prompt + output + last.json()["usage"]["total_tokens"]
    assert 1_000_000 - spent <= told <= 1_000_000 - spent + flows_in * 10


def test_who_was_turned_away_is_in_the_ledger(desk: Counter) -> None:
    id, key = desk.key()
    desk.headrace("keys", "limits", id, "requests=2", "--window", "24h")
    assert [desk.ask(key).status_code for _ in range(4)] == [200, 200, 429, 429]

    def row() -> dict[str, int]:
        rows = desk.asked("usage", "--by", "key", "--since", "1h", "--key", id)["rows"]
        return rows[0] if rows else {"requests": 0, "rejected": 0}

    until(lambda: (row()["requests"], row()["rejected"]) == (2, 2))


def test_the_accounts_process_dies(desk: Counter) -> None:
    """Keys and limits go on, money that is not leased does not; nothing is forgotten, and nothing is 401."""
    id, key = desk.key()
    _, fresh = desk.key("--project", "money/less")
    desk.headrace("keys", "limits", id, "requests=40", "--window", "24h")
    desk.headrace("keys", "budget", "money/less", "5")
    assert [desk.ask(key).status_code for _ in range(5)] == [200] * 5
    desk.kill("accounts@host")
    assert {desk.ask(key).status_code for _ in range(5)} == {200}
    broke = [desk.ask(fresh) for _ in range(4)]
    assert {each.status_code for each in broke} == {503}
    assert broke[0].json()["error"]["code"] == "accounts_unavailable"
    assert desk.ask("sk-k00000000000-x").status_code == 401
    desk.start("accounts@host")
    until(lambda: desk.ask(fresh).status_code == 200)
    done = 10 + 0
    answers = many(desk, key, 40)
    assert sum(each.status_code == 200 for each in answers) == 40 - done


def test_an_ingress_dies_and_its_answers_are_paid_once() -> None:
    """Its stream goes on at the other one, which settles it; a budget knows neither more nor less than the ledger."""
    with counter() as desk:
        id, key = desk.key()
        desk.headrace("keys", "budget", id, "1000", "--per", "total")
        body = {"model": "m", "prompt": "x", "max_tokens": 60, "seed": 0, "priority": 30, "stream": True}
        headers = {"authorization": f"Bearer {key}", "x-resumable": "true", "connection": "close"}
        seen: list[str] = []
        with desk.stage.visits.stream("POST", "/v1/completions", json=body, headers=headers) as stream:
            response = stream.headers["x-request-id"]
            for line in stream.iter_lines():
                seen.append(line)
                if len(seen) > 8:
                    break
            owner = next(
                index for index in (0, 1)
                if any(response in path.name for path in desk.stage.run.rglob("*") if f"ingress@{index}" in str(path))
            )  # fmt: skip
            desk.stage.processes[owner].kill()
        desk.stage.processes[owner].wait()
        rest = desk.stage.visits.get(f"/v1/streams/{response}", headers={**headers, "last-event-id": "0"})
        assert "[DONE]" in rest.text

        def row() -> dict[str, int]:
            rows = desk.asked("usage", "--by", "key", "--since", "1h", "--key", id)["rows"]
            return rows[0] if rows else {"requests": 0}

        until(lambda: row()["requests"] == 1)
        assert row()["generated_tokens"] == 60
        until(lambda: desk.allowance(id, "money")["spent"] == row()["charged_nano"] > 0)
