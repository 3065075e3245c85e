"""Processes of two releases on one host: whether they can talk, and what is said where they cannot.

An upgrade restarts one process after the other, so for a while both releases run. Each hello names the release and the
protocols that it knows (`bus.wire`). What does not fit is refused with both named, and is a *trouble* of both processes
for as long as it goes on: `headrace status` shows it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bus.build import BUILD
from bus.names import VISITORS
from bus.wire import PROTOCOLS, Protocols

_FORGOTTEN_NS: Final = 10_000_000_000  # whoever is refused asks again every two seconds
_MOST: Final = 16


class Speaker(NamedTuple):
    """One side of a conversation."""

    name: str
    build: str
    protocols: Protocols


def ourselves(name: str) -> Speaker:
    """This process."""
    return Speaker(name, BUILD, PROTOCOLS)


def disagreement(listener: Speaker, caller: Speaker) -> str:
    """Why they cannot talk, and what to do. For two that have no protocol in common."""
    older, newer = sorted((listener, caller), key=lambda speaker: speaker.protocols.newest)
    if caller.name.partition("@")[0] in VISITORS:
        todo = f"use headrace {listener.build} to talk to it"
    else:
        todo = f"restart {older.name} with headrace {newer.build}: headrace restart {older.name}"
    return (
        f"no protocol in common: {caller.name} (headrace {caller.build}) knows {caller.protocols}, "
        f"{listener.name} (headrace {listener.build}) knows {listener.protocols}; {todo}"
    )


class Troubles:
    """What keeps a process from talking to another, by who that is, newest text each; forgotten when it is over."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[int, str]] = {}

    def say(self, who: str, text: str, now_ns: int) -> bool:
        """There is trouble. True where it is new."""
        self._forget(now_ns)
        known = self._said.get(who)
        if known is not None or len(self._said) < _MOST:
            self._said[who] = now_ns, text
        return known is None or known[1] != text

    def over(self, who: str) -> None:
        """There is none any more. Idempotent."""
        self._said.pop(who, None)

    def texts(self, now_ns: int) -> tuple[str, ...]:
        """What there is now."""
        self._forget(now_ns)
        return tuple(text for _, text in self._said.values())

    def _forget(self, now_ns: int) -> None:
        self._said = {who: said for who, said in self._said.items() if now_ns - said[0] < _FORGOTTEN_NS}
