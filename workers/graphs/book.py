"""Which decode steps are played from a graph, and when a graph is recorded. Pure.

Graphs are recorded for sizes that steps really have, after serving has begun: a start waits for none of them, and what
nobody needs costs no memory. A step of any other number of rows is filled up to the next size.

    wanted WANTED times ──► rehearsed: computed in the graph's own buffers, so that every kernel is there ──► recorded
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

WANTED: Final = 3  # a size that comes by now and then is computed as it comes
_FINE: Final = 128  # sizes go up by 8 until here, then by 16
GRAPH_BYTES: Final = 32 << 20  # of one: vLLM reports 26 MiB (issue 22897)
MOST_BYTES: Final = 1 << 30


class Way(Enum):
    """How a step is computed."""

    COMPUTE = "as it comes"
    REHEARSE = "in a graph's buffers, without the graph"
    RECORD = "record a graph, then play it"
    PLAY = "play a graph"


class Choice(NamedTuple):
    """The way of one step, and of how many rows the graph is."""

    way: Way
    size: int = 0


def sizes_up_to(rows: int) -> tuple[int, ...]:
    """Sizes of graphs for steps of up to `rows` rows: 1, 2, 4, 8, 16, 24 ... 128, 144 ..., and `rows` itself."""
    ladder = [1, 2, 4, *range(8, _FINE, 8), *range(_FINE, rows + 16, 16)]
    return (*(size for size in ladder if size < rows), rows)


def room_for(sizes: tuple[int, ...]) -> int:
    """Bytes that are kept for graphs before KV takes the rest."""
    return min(MOST_BYTES, len(sizes) * GRAPH_BYTES)


@dataclass
class Book:
    """What is recorded, and what it took.

    Args:
        sizes: of graphs, ascending.
        room_bytes: for all of them; when it is used up, no more are recorded.
    """

    sizes: tuple[int, ...]
    room_bytes: int
    used_bytes: int = 0
    recorded: set[int] = field(default_factory=set)
    _wanted: dict[int, int] = field(default_factory=dict)
    _rehearsed: set[int] = field(default_factory=set)
    _given_up: set[int] = field(default_factory=set)

    def choose(self, rows: int) -> Choice:
        """For a step of `rows` rows of one token each."""
        size = next((size for size in self.sizes if size >= rows), 0)
        if not size or not rows:
            return Choice(Way.COMPUTE)
        if size in self.recorded:
            return Choice(Way.PLAY, size)
        if size not in self._given_up and self.used_bytes < self.room_bytes:
            self._wanted[size] = self._wanted.get(size, 0) + 1
            if size in self._rehearsed:
                return Choice(Way.RECORD, size)
            if self._wanted[size] > WANTED:
                return Choice(Way.REHEARSE, size)
        # Twice the rows cost a decode step little: it reads the same weights.
        larger = min((other for other in self.recorded if size < other <= 2 * size), default=0)
        return Choice(Way.PLAY, larger) if larger else Choice(Way.COMPUTE)

    def rehearsed(self, size: int) -> None:
        """A step was computed in the graph's buffers."""
        self._rehearsed.add(size)

    def keep(self, size: int, took_bytes: int) -> None:
        """A graph was recorded."""
        self.recorded.add(size)
        self.used_bytes += took_bytes

    def give_up(self, size: int) -> None:
        """It cannot be recorded; nobody tries again."""
        self._given_up.add(size)
