"""Sending a load at its pace, and writing down what happened to each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cli.bench.http import HttpFailed, request
from cli.bench.load import Job

_TIMEOUT_S: Final = 600.0


class Outcome(msgspec.Struct):
    """One request. Times are seconds since the run began.

    Attributes:
        problem: empty where the answer was complete.
        arrivals: of each event that brought tokens.
    """

    prompt_tokens: int
    wanted_tokens: int
    sent_s: float
    status: int = 0
    problem: str = ""
    output_tokens: int = 0
    arrivals: list[float] = []
    ended_s: float = 0.0


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


async def models_of(base: str, token: str) -> list[str]:
    """Names of the models that an endpoint lists.

    Raises:
        HttpFailed: it does not answer as one of its kind does.
    """
    status, body = await request("GET", f"{base}/models", token=token)
    if status != 200:
        raise HttpFailed(f"{base}/models: status {status}")
    try:
        return [str(model["id"]) for model in msgspec.json.decode(body)["data"]]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise HttpFailed(f"{base}/models: not a list of models: {error}") from None


async def run(
    base: str, model: str, jobs: Sequence[Job], *, concurrency: int, token: str
) -> tuple[list[Outcome], float]:
    """Send all jobs; returns what happened to each, and how long it all took, in seconds.

    Args:
        concurrency: at most so many at a time; 0 leaves the pace to the jobs' own times (open loop).
    """
    began = time.monotonic()
    gate = asyncio.Semaphore(concurrency or len(jobs))
    due = 0.0

    async def one(job: Job, due: float) -> Outcome:
        if not concurrency:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
        async with gate:
            return await _send(base, model, job, began, token)

    tasks = []
    for job in jobs:
        due += job.after_s
        tasks.append(asyncio.create_task(one(job, due)))
    outcomes = await asyncio.gather(*tasks)
    return list(outcomes), time.monotonic() - began


async def _send(base: str, model: str, job: Job, began: float, token: str) -> Outcome:
    body = msgspec.json.encode(
        {
            "model": model, "prompt": job.prompt, "max_tokens": job.output_tokens, "temperature": 0.0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }
    )  # fmt: skip
    outcome = Outcome(len(job.prompt), job.output_tokens, time.monotonic() - began)
    ended = False

    def on_event(data: bytes, at: float) -> None:
        nonlocal ended
        if data == b"[DONE]":
            ended = True
            return
        chunk = _CHUNK.decode(data)
        if chunk.error is not None:
            outcome.problem = f"error in the stream: {str(chunk.error)[:200]}"
        if chunk.usage is not None:
            outcome.output_tokens = chunk.usage.completion_tokens
        # The last event may bring nothing but the reason, and an event may be half a character: only text counts.
        if any(choice.text for choice in chunk.choices):
            outcome.arrivals.append(at - began)

    try:
        async with asyncio.timeout(_TIMEOUT_S):
            outcome.status, rest = await request("POST", f"{base}/completions", body, token=token, on_event=on_event)
    except (HttpFailed, TimeoutError, msgspec.DecodeError) as error:
        outcome.problem = str(error) or "timed out"
    else:
        if outcome.status != 200:
            outcome.problem = f"status {outcome.status}: {rest[:200].decode(errors='replace')}"
        elif not outcome.problem and not (ended and outcome.arrivals):
            outcome.problem = "the stream ended without an answer"
    outcome.ended_s = time.monotonic() - began
    # Endpoints that do not tell usage are counted by events: one token each, or nearly.
    outcome.output_tokens = outcome.output_tokens or len(outcome.arrivals)
    return outcome
