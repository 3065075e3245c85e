"""One set of numbers over traffic of every kind: answers, headers, ledger, budget, limits, `/metrics`, and the question
that the screen asks are about the same requests, to the token and to the billionth."""

from __future__ import annotations

import json
import re
import time
from collections import Counter as Count
from typing import Any

import httpx
import pytest
from api_stage import until
from counter import Counter, counter

from bus.messages.usage import GetUsage, UsageReply
from cli.control import Caller
from cli.observer import ask as observe

MILLION = 1_000_000


def cost(rows: list[dict[str, Any]]) -> int:
    """Of ledger rows, at the prices of `counter`: billionths."""
    return sum(
        1000 * ((row["prompt_tokens"] - row["cached_tokens"]) * 1000 + row["cached_tokens"] * 100)
        + 1000 * row["generated_tokens"] * 3000
        for row in rows
        if row["outcome"] not in ("cached", "rejected")
    )


def hang_up(desk: Counter, key: str) -> None:
    """Read some events of a slow stream, and go."""
    body = {"model": "m", "prompt": "x", "max_tokens": 400, "priority": 20, "stream": True}
    with desk.stage.visits.stream("POST", "/v1/completions", json=body, headers=_headers(key)) as stream:
        for number, _ in enumerate(stream.iter_lines()):
            if number > 6:
                return


def _headers(key: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", "connection": "close", **more}


def kill_under(desk: Counter, key: str) -> dict[str, Any]:
    """A stream whose ingress dies in the middle, to its end at the other one; its usage."""
    body = {"model": "m", "prompt": "x", "max_tokens": 60, "seed": 0, "priority": 30, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    headers = _headers(key, **{"x-resumable": "true"})
    with desk.stage.visits.stream("POST", "/v1/completions", json=body, headers=headers) as stream:
        response = stream.headers["x-request-id"]
        for number, _ in enumerate(stream.iter_lines()):
            if number > 8:
                break
        owner = next(
            index for index in (0, 1)
            if any(response in path.name for path in desk.stage.run.rglob("*") if f"ingress@{index}" in str(path))
        )  # fmt: skip
        desk.stage.processes[owner].kill()
    desk.stage.processes[owner].wait()
    rest = desk.stage.visits.get(f"/v1/streams/{response}", headers={**headers, "last-event-id": "0"})
    events = [json.loads(line[6:]) for line in rest.text.splitlines() if line.startswith("data: {")]
    usage: dict[str, Any] = events[-1]["usage"]
    return usage


@pytest.mark.timeout(300)
def test_one_set_of_numbers() -> None:
    with counter() as desk:
        id, key = desk.key("--project", "mixed/traffic")
        desk.headrace("keys", "limits", id, "requests=100", "total_tokens=1M", "--window", "744h")
        desk.headrace("keys", "budget", id, "1000", "--per", "total")
        whole = [desk.ask(key, tokens=n, prompt=f"question {n}", temperature=1.0) for n in range(1, 6)]
        told = [each.json()["usage"] for each in whole]
        # From the cache: the first of three is not.
        same: dict[str, Any] = {"tokens": 7, "prompt": "the same", "temperature": 0.0}
        told.append(desk.ask(key, **same).json()["usage"])
        hits = [desk.ask(key, **same)]
        while hits[-1].headers["x-cache"] != "exact":  # the other ingress is told within a moment
            hits.append(desk.ask(key, **same))
        kept = sum(each.headers["x-cache"] == "exact" for each in hits)
        told += [each.json()["usage"] for each in hits if each.headers["x-cache"] != "exact"]
        hang_up(desk, key)
        told.append(kill_under(desk, key))

        def rows() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = desk.asked("usage", "--by", "request", "--since", "1h", "--key", id)["rows"]
            return found

        ended = len(told) + kept + 1
        until(lambda: len(rows()) == ended)
        # Turned away: the limit is what was used.
        desk.headrace("keys", "limits", id, f"requests={ended}", "--window", "744h")
        until(lambda: desk.ask(key, temperature=1.0, prompt="too much").status_code == 429)
        until(lambda: any(row["outcome"] == "rejected" for row in rows()))

        ledger = rows()
        outcomes = Count(row["outcome"] for row in ledger)
        assert outcomes["cached"] == kept
        assert outcomes["client"] == 1, "who hung up"
        assert outcomes["length"] + outcomes["stop"] == len(told)
        finished = [row for row in ledger if row["outcome"] in ("length", "stop")]
        for field, name in (("prompt_tokens", "prompt_tokens"), ("generated_tokens", "completion_tokens")):
            assert sum(row[field] for row in finished) == sum(each[name] for each in told), field
        charged = sum(row["charged_nano"] for row in ledger)
        assert charged == cost(ledger)
        until(lambda: desk.allowance(id, "money")["held"] == 0)
        assert desk.allowance(id, "money")["spent"] == charged

        # The screen asks the same question, by model.
        with Caller(desk.stage.run) as caller:
            screen = observe(caller, GetUsage(0, int(time.time()) - 3600, "model", key=id), UsageReply)
        served = [row for row in ledger if row["outcome"] != "rejected"]
        assert screen.total.requests == len(served)
        assert screen.total.charged_nano == charged
        assert screen.total.cached == kept
        assert screen.total.rejected == outcomes["rejected"]
        assert screen.total.generated_tokens == sum(row["generated_tokens"] for row in served)
        text = httpx.get(f"{desk.stage.url}/metrics").text
        hits_told = sum(map(float, re.findall(r'headrace_cache_requests_total{[^}]*result="exact"} (\S+)', text)))
        assert hits_told <= kept, "a dead ingress tells nothing any more"
        # What is left of a limit, there and in the header: what was not used of it. What flows in is 100 a second.
        until(lambda: desk.allowance(id, "total_tokens")["held"] == 0)
        used = sum(row["prompt_tokens"] + row["generated_tokens"] for row in served if row["outcome"] != "cached")
        left = desk.allowance(id, "total_tokens")["left"]
        ahead = MILLION // 20  # that an ingress holds, twice as much at the most: it is gone with the dead one
        assert MILLION - used - 2 * ahead <= left < MILLION
        last = desk.ask(key, temperature=1.0)
        assert last.status_code == 429
        assert int(last.headers["x-ratelimit-remaining-requests"]) == 0
        assert int(last.headers["x-ratelimit-limit-requests"]) == ended
