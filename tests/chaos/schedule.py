"""Who is struck when, and how: drawn from a seed, endless, without a process in sight.

Roles come from a shuffled deck, so that a short run strikes all of them. Some blows follow at once, so that they fall
into the recovery from the one before; some wait until tokens have flowed again, however long that takes on this
machine, so that there is something to lose; some come when they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final, Literal

import msgspec

How = Literal["kill", "stall", "hang"]
When = Literal["at once", "flow", "whenever"]

# How often each role is in the deck. Workers and schedulers hold the requests; the others are fewer or matter less.
_DECK: Final = {"worker": 4, "scheduler": 3, "kv": 3, "ingress": 2, "metrics": 1, "supervisor": 1, "standby": 1}
# Who is found by its progress when it hangs, in time for a test; others are asked by the supervisor for 30 s.
_FOUND_SOON: Final = frozenset({"worker"})
_PAIR: Final = 0.2
_STALL: Final = 0.1
_HANG: Final = 0.04
_AT_ONCE: Final = 0.25
_FLOW: Final = 0.5
_MOST_EVENTS: Final = 160


class Blow(msgspec.Struct, frozen=True):
    """One moment of the schedule.

    Attributes:
        when: "flow" waits until so many events have reached clients since the blow before; then, and with the others
            since that blow, `after_s` pass.
        victims: names of processes, one or two of different roles.
        how: SIGKILL; SIGSTOP, and SIGCONT after `for_s`; SIGSTOP until somebody finds and replaces it.
        then_s: how long a killed supervisor stays away.
    """

    when: When
    events: int
    after_s: float
    victims: tuple[str, ...]
    how: How = "kill"
    for_s: float = 0.0
    then_s: float = 0.0


def schedule(names: Mapping[str, Sequence[str]], seed: int, mean_s: float) -> Iterator[Blow]:
    """Blows without end.

    Args:
        names: processes by role; roles that are left out are spared.
        mean_s: mean of `after_s` of blows that come when they come.
    """
    draw = Random(seed)
    roles = _roles(names, draw)
    while True:
        role = next(roles)
        victims: tuple[str, ...] = (draw.choice(names[role]),)
        if draw.random() < _PAIR:
            other = next(roles)
            victims += (draw.choice(names[other]),) if other != role else ()
        how = _how(draw, role, len(victims))
        when, events, after_s = _when(draw, mean_s)
        for_s, then_s = round(draw.uniform(0.1, 2.0), 3), round(draw.uniform(0.0, 1.5), 3)
        yield Blow(when, events, after_s, victims, how, for_s, then_s)


def _roles(names: Mapping[str, Sequence[str]], draw: Random) -> Iterator[str]:
    deck = [role for role, count in _DECK.items() if names.get(role) for _ in range(count)]
    while True:
        yield from draw.sample(deck, len(deck))


def _when(draw: Random, mean_s: float) -> tuple[When, int, float]:
    roll, events = draw.random(), draw.randint(1, _MOST_EVENTS)
    if roll < _AT_ONCE:
        return "at once", 0, round(draw.uniform(0.0, 0.8), 3)
    if roll < _AT_ONCE + _FLOW:
        return "flow", events, round(draw.uniform(0.0, 0.2), 3)
    return "whenever", 0, round(draw.expovariate(1 / mean_s), 3)


def _how(draw: Random, role: str, victims: int) -> How:
    roll = draw.random()
    if victims == 1 and roll < _HANG and role in _FOUND_SOON:
        return "hang"
    return "stall" if victims == 1 and roll < _HANG + _STALL else "kill"
