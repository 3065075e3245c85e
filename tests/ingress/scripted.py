"""A scheduler that follows a script, behind a real socket: in the test's own process, or as a process to be killed.

`python scripted.py RUN EPOCH` runs one that gives three tokens of each answer and then no more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from tiny_tokenizer import VOCABULARY

from bus.identity import Visitor
from bus.loop import Loop, PollLoop
from bus.messages.requests import Abort, Accepted, Deltas, Finished, FinishReason, ModelFacts, Submit, ToScheduler
from bus.names import REQUESTS_DOOR
from bus.packed import pack_u32, pack_u64, unpack_u32
from bus.server import Server

FACTS = ModelFacts("m", bytes(16), 4, 64, VOCABULARY, 1, 1)
Answer = Callable[["Scheduler", Submit], None]


class Host(Visitor):
    """Enough of a process for its endpoints."""

    def __init__(self, name: str, loop: Loop, run: Path, epoch: int = 1) -> None:
        role = name.partition("@")[0]
        super().__init__(role, loop, run)
        self.name, self.epoch = name, epoch

    def progressed(self, units: int = 1) -> None:
        pass


def accept(scheduler: Scheduler, submit: Submit) -> None:
    scheduler.say(Accepted(submit.request, 0))


def echo(scheduler: Scheduler, submit: Submit) -> None:
    """Accept, and answer with the prompt, one token at a time, from where the ingress is."""
    accept(scheduler, submit)
    prompt = unpack_u32(submit.prompt).tolist()
    for at in range(len(unpack_u32(submit.emitted)), len(prompt)):
        last = at == len(prompt) - 1
        scheduler.deltas(submit.request, at, prompt[at : at + 1], "length" if last else None)


class Scheduler:
    """One incarnation: remembers what it is told, and answers each submit as the test says."""

    def __init__(self, loop: Loop, run: Path, answer: Answer = echo, epoch: int = 1) -> None:
        self.told: list[msgspec.Struct] = []
        self.answer = answer
        host = Host("scheduler@m", loop, run, epoch)
        self.server: Server[Any] = Server(
            host, REQUESTS_DOOR, "requests", ToScheduler, roles={"ingress"},
            on_message=lambda _, message: self._hear(message),
            on_join=lambda peer: self.server.send(peer, FACTS),
        )  # fmt: skip

    def _hear(self, message: msgspec.Struct) -> None:
        self.told.append(message)
        if isinstance(message, Submit):
            self.answer(self, message)

    def say(self, message: msgspec.Struct) -> None:
        for peer in tuple(self.server.peers.values()):
            self.server.send(peer, message)

    def deltas(self, request: int, start: int, tokens: list[int], end: FinishReason | None = None) -> None:
        finished = (Finished(request, end, start + len(tokens), 0, 0),) if end else ()
        packed = pack_u64([request]), pack_u32([start]), pack_u32([len(tokens)]), pack_u32(tokens)
        self.say(Deltas(1, *packed, finished=finished))

    def aborts(self) -> list[str]:
        return [message.reason for message in self.told if isinstance(message, Abort)]


def three_more(scheduler: Scheduler, submit: Submit) -> None:
    """Accept, and give three tokens of the prompt, from where the ingress is."""
    accept(scheduler, submit)
    known = len(unpack_u32(submit.emitted))
    scheduler.deltas(submit.request, known, unpack_u32(submit.prompt).tolist()[known : known + 3])


if __name__ == "__main__":
    loop = PollLoop()
    Scheduler(loop, Path(sys.argv[1]), three_more, int(sys.argv[2]))
    while True:
        loop.turn(1.0)
