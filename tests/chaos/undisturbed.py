"""What every entry of the catalogue is answered when nothing dies: computed once, kept in a file.

The file is good for one catalogue, one model (and what computes it) and one state of the code; with another it is made
again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Final

import msgspec
from stack import Stack

from bus.catalogue import entry_named
from chaos.answer import Answer
from chaos.catalogue import Entry, digest
from chaos.http_door import HttpDoor
from chaos.outcome import Outcome, Request

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / ".cache" / "chaos"
_CODE: Final = ("bus", "ingress", "scheduler", "workers", "kv")
_AT_ONCE: Final = 16

Answers = dict[str, Answer]


class Disturbed(RuntimeError):
    """A request failed though nobody was struck."""


async def undisturbed(stack: Stack, entries: list[Entry], numerics: str) -> Answers:
    """The answers by name of the entry, from the file or from the stack. `numerics`: what computes them."""
    kept = KEPT / f"{state(entries)}-{numerics}.json"
    if kept.is_file():
        return msgspec.json.decode(kept.read_bytes(), type=Answers)
    answers = await ask(stack, entries)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(msgspec.json.encode(answers))
    return answers


async def ask(stack: Stack, entries: list[Entry], at_once: int = _AT_ONCE) -> Answers:
    """The answers to these entries, so many at a time, each in one piece.

    Raises:
        Disturbed: one was not answered.
    """
    door, places = HttpDoor(stack.url), asyncio.Semaphore(at_once)

    async def one(number: int, entry: Entry) -> Answer:
        outcome = Outcome(Request(number, entry.name, "http", stream=False), time.monotonic())
        async with places:
            await door.make(outcome.request, entry, outcome)
        if not outcome.complete:
            raise Disturbed(f"{entry.name}: {outcome.error}")
        return outcome.answer

    try:
        found = await asyncio.gather(*(one(number, entry) for number, entry in enumerate(entries)))
    finally:
        await door.close()
    return {entry.name: answer for entry, answer in zip(entries, found, strict=True)}


def state(entries: list[Entry]) -> str:
    """Digest of catalogue, model and code."""
    state = hashlib.blake2b(digest(entries).encode(), digest_size=8)
    state.update(entry_named("smollm2-135m-instruct").sha256.encode())
    for folder in _CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()
