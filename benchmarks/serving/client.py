"""A streaming client of an OpenAI-compatible server that costs little: blocking sockets, one thread a stream.

It counts events as they come and tokens as the server says at the end: where a server puts two tokens into one event,
each event counts as that many.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


class Failed(Exception):
    """A server did not answer as it should. The message is what it said."""


@dataclass
class Answer:
    """One streamed answer.

    Attributes:
        asked: when, seconds of CLOCK_MONOTONIC.
        events: when each piece of it came.
        tokens: that it has, as the server counts.
    """

    asked: float = 0.0
    events: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.events[0] - self.asked

    @property
    def tpot_s(self) -> float:
        """Seconds a token, after the first."""
        return (self.events[-1] - self.events[0]) / max(1, self.tokens - 1)


def ask(url: str, model: str, prompt: list[int] | str, tokens: int) -> Answer:
    """Stream one greedy answer of exactly `tokens` tokens.

    Raises:
        Failed: the server refuses, or breaks off.
    """
    body: dict[str, Any] = {
        "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=600)
    answer = Answer(time.monotonic())
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise Failed(f"{url}: {reply.status} {reply.read(2000).decode(errors='replace')}")
        for line in reply:
            if line.startswith(b"data: {"):
                _take(answer, line)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{url}: {error}") from error
    finally:
        connection.close()
    if not answer.events or not answer.tokens:
        raise Failed(f"{url}: an answer without tokens")
    return answer


def _take(answer: Answer, line: bytes) -> None:
    now = time.monotonic()
    event = json.loads(line[6:])
    if error := event.get("error"):
        raise Failed(str(error))
    if event.get("choices") and (event["choices"][0].get("text") or not answer.events):
        answer.events.append(now)
    if usage := event.get("usage"):
        answer.tokens = usage["completion_tokens"]


def together(tasks: list[Callable[[], Answer]]) -> list[Answer]:
    """All at once, each in a thread of its own; answers in the order of the tasks.

    Raises:
        Failed: one of them did.
    """
    answers: list[Answer | None] = [None] * len(tasks)
    failures: list[Failed] = []

    def work(index: int) -> None:
        try:
            answers[index] = tasks[index]()
        except Failed as failed:
            failures.append(failed)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [answer for answer in answers if answer is not None]
