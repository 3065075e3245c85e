"""A model that is asked too, and whose answers nobody sees: what it would have said, took and cost is written beside
what was served, for `headrace router report`.

Texts are not kept: how much the two answers have in common is, and what `bus.prompt_score` reads off the prompt. The
operator pays, so the attempt's row in the ledger is nobody's. Nobody waits: where too many are under way, or the files
are full, a call is not mirrored.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bus.prompt_score import features
from bus.shadow import Arm, Pair, shadow_file
from bus.telemetry import Telemetry
from ingress.streams import Piece, Stream

log = logging.getLogger(__name__)

MOST: Final = 8  # under way at once, in one ingress
PATIENCE_S: Final = 600.0
MAX_FILE: Final = 16 << 20  # bytes; then the file before it goes
COMPARED: Final = 16_384  # characters of an answer

Open = Callable[[], Awaitable[Sequence[Stream]]]
_WORD: Final = re.compile(r"\w+")


class Call(NamedTuple):
    """A call that is mirrored.

    Attributes:
        text: the newest message of a user.
        price: what an answer of a model costs, in billionths, by prompt, cached and generated tokens.
    """

    route: str
    served: str
    mirror: str
    text: str
    prompt_tokens: int
    price: Callable[[str, int, int, int], int]


class Mirror:
    """All mirrored calls of an ingress.

    Args:
        state: the state directory.
        process: whose file it is.
    """

    def __init__(self, state: Path, process: str, telemetry: Telemetry) -> None:
        self._path, self._telemetry = shadow_file(state, process), telemetry
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, call: Call, served: Stream, opens: Open) -> None:
        """Ask the mirror too. `served` is what the client is told, of which nothing was read yet."""
        if len(self._tasks) >= MOST:
            self._count(call, "skipped")
            return
        heard = _Heard()
        served.tap(heard.hear)
        task = asyncio.ensure_future(self._run(call, heard, opens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Ask nobody any more."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, call: Call, served: _Heard, opens: Open) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                mirrored = _Heard()
                (stream,) = await opens()
                try:
                    async for piece in stream:
                        mirrored.hear(piece)
                    await served.over.wait()
                except BaseException:
                    stream.abort("client")
                    raise
        except Exception as error:
            log.info("a call of %s could not be mirrored: %s", call.route, error or type(error).__name__)
            self._count(call, "failed")
            return
        if not (served.good and mirrored.good):
            self._count(call, "failed")
            return
        self._count(call, "compared")
        pair = Pair(
            at_s=int(time.time()), route=call.route, prompt_tokens=call.prompt_tokens, features=features(call.text),
            served=served.arm(call.served, call.price), mirror=mirrored.arm(call.mirror, call.price),
            likeness=likeness(served.text, mirrored.text),
        )  # fmt: skip
        await asyncio.to_thread(self._write, pair)

    def _write(self, pair: Pair) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._path.exists() and self._path.stat().st_size > MAX_FILE:
                self._path.replace(self._path.with_suffix(".before.jsonl"))
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(pair) + b"\n")
        except OSError as error:
            log.warning("what was mirrored cannot be written: %s", error)

    def _count(self, call: Call, outcome: str) -> None:
        self._telemetry.counter(
            "headrace_route_mirrored_total", "Calls that a mirror was asked too, by what came of it.",
            route=call.route, model=call.mirror, outcome=outcome,
        ).add()  # fmt: skip


class _Heard:
    """One answer, as far as it has come."""

    def __init__(self) -> None:
        self.text, self.good, self.over = "", False, asyncio.Event()
        self._begun_s = time.monotonic()
        self._first_s = self._last_s = 0.0
        self._usage = (0, 0, 0)

    def hear(self, piece: Piece) -> None:
        now_s = time.monotonic() - self._begun_s
        self._first_s, self._last_s = self._first_s or now_s, now_s
        if len(self.text) < COMPARED:
            self.text += piece.text
        if (finish := piece.finish) is not None:
            self.good = finish.reason not in ("error", "abort")
            usage = finish.usage
            self._usage = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            self.over.set()

    def arm(self, model: str, price: Callable[[str, int, int, int], int]) -> Arm:
        return Arm(
            model=model, tokens=self._usage[2], first_s=round(self._first_s, 3), total_s=round(self._last_s, 3),
            cost_nano=price(model, *self._usage),
        )  # fmt: skip


def likeness(one: str, other: str) -> float:
    """How much two answers have in common, from 0 to 1: words of both by words of either. Says nothing of which one is
    right."""
    words = [set(_WORD.findall(text.lower()[:COMPARED])) for text in (one, other)]
    if one.strip() == other.strip():
        return 1.0
    either = words[0] | words[1]
    return len(words[0] & words[1]) / len(either) if either else 0.0
