"""A batch beside people, and a batch alone: what the first costs the second, and what the second gets done.

    python -m benchmarks.batch --url http://127.0.0.1:8080 --model smollm2 [--lines 288] [--seconds 20]

Four numbers, on a stack that runs (`[cache] exact = false`, or answers are not computed):

- people: `--people` clients, one question after another, with streamed answers; TTFT and time per further token, with
  nothing else and with a batch beside them, in turns, so that a busy moment hits neither alone;
- alone: tokens a second of the same lines as a batch on an idle stack, and as so many calls at once by a client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from cli.batch.api import Api
from cli.batch.follow import OVER

CHAT: Final = "/v1/chat/completions"
ROUNDS: Final = 2
ANSWER_TOKENS: Final = 48


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--lines", type=int, default=288, help="of a batch that is alone")
    parser.add_argument("--at-once", type=int, default=72, help="calls of the client that is compared with it")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round with people")
    given = parser.parse_args()
    api = Api(given.url, "")

    measured: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    tokens_beside, seconds_beside = 0, 0.0
    begun, before = 0.0, 0
    for _ in range(ROUNDS):
        for beside in (False, True):
            batch = _start(api, given.model, 2000) if beside else ""
            if beside:
                _until_answering(api, batch)
                begun, before = time.perf_counter(), api.batch(batch).usage.output_tokens
            measured[beside] += asyncio.run(_people(given.url, given.model, given.people, given.seconds))
            if beside:
                tokens_beside += api.batch(batch).usage.output_tokens - before
                seconds_beside += time.perf_counter() - begun
                api.cancel(batch)
                _ended(api, batch)
    for beside, times in measured.items():
        ttft, tpot = zip(*times, strict=True)
        what = "with a batch beside them" if beside else "with nothing else"
        print(f"people {what}: {len(times)} answers, TTFT {_spread(ttft)} ms, per token {_spread(tpot)} ms")
    print(f"batch beside people: {tokens_beside / seconds_beside:.0f} tokens/s")

    for _ in range(ROUNDS):
        begun = time.perf_counter()
        batch = _start(api, given.model, given.lines)
        tokens = _ended(api, batch)
        print(f"batch alone: {tokens / (time.perf_counter() - begun):.0f} tokens/s, from upload to results")
        begun = time.perf_counter()
        tokens = asyncio.run(_direct(given.url, given.model, given.lines, given.at_once))
        print(f"client with {given.at_once} calls at once: {tokens / (time.perf_counter() - begun):.0f} tokens/s")


def _body(model: str, number: int) -> dict[str, Any]:
    text = f"Write a few sentences about the number {number}."
    return {
        "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True, "temperature": 0,
    }  # fmt: skip


def _start(api: Api, model: str, lines: int) -> str:
    rows = [
        json.dumps({"custom_id": str(n), "method": "POST", "url": CHAT, "body": _body(model, n)}) for n in range(lines)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lines.jsonl")
        path.write_text("\n".join(rows))
        file = api.upload(path, time.time_ns().__format__("032x"), lambda _: None)
    return api.create(file.id, CHAT, "24h", time.time_ns().__format__("032x")).id


def _until_answering(api: Api, batch: str) -> None:
    while not api.batch(batch).request_counts.completed:
        time.sleep(0.05)


def _ended(api: Api, batch: str) -> int:
    """Tokens that were answered."""
    while (found := api.batch(batch)).status not in OVER:
        time.sleep(0.05)
    return found.usage.output_tokens


async def _people(url: str, model: str, people: int, seconds: float) -> list[tuple[float, float]]:
    """(TTFT, seconds per further token) of each answer."""
    until = time.perf_counter() + seconds
    found: list[tuple[float, float]] = []

    async def person(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            while time.perf_counter() < until:
                number += 1000
                found.append(await _streamed(client, _body(model, number)))

    await asyncio.gather(*(person(10_000 + number) for number in range(people)))
    return found


async def _streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[float, float]:
    begun = time.perf_counter()
    times: list[float] = []
    async with client.stream("POST", CHAT, json={**body, "stream": True}) as answer:
        async for row in answer.aiter_lines():
            if row.startswith("data: {") and json.loads(row[6:])["choices"][0]["delta"].get("content"):
                times.append(time.perf_counter())
    return times[0] - begun, (times[-1] - times[0]) / max(1, ANSWER_TOKENS - 1)


async def _direct(url: str, model: str, lines: int, at_once: int) -> int:
    """The same lines, asked for by a client; tokens."""
    numbers, tokens = iter(range(lines)), 0

    async def worker() -> None:
        nonlocal tokens
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
            for number in numbers:
                answer = (await client.post(CHAT, json=_body(model, number))).json()
                tokens += answer["usage"]["completion_tokens"]

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return tokens


def _spread(seconds: Sequence[float]) -> str:
    """Median and p95, in ms."""
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 2] * 1e3:.0f} (p95 {ordered[int(len(ordered) * 0.95)] * 1e3:.0f})"


if __name__ == "__main__":
    main()
