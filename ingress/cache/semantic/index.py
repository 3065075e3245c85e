"""The nearest questions of a partition: rows of a matrix up to some thousands, a graph above. In memory, made of the
store's rows as they are needed; no I/O here.

A matrix of 1,024 rows takes 0.03 ms to go through, one of 4,096 half a millisecond, and most partitions have a handful.
`usearch` (the extra `cache`) keeps larger ones at 0.07 ms, for 0.1 ms a row that is added; without it a partition holds
`MOST_FLAT` questions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

FLAT: Final = 1024
MOST_FLAT: Final = 2048  # of a partition, without a graph
MOST: Final = 65_536  # of a partition, with a graph
MAX_PARTITIONS: Final = 256
MOST_IN_ALL: Final = 4 * MOST  # of all partitions
_GROWTH: Final = 64
# How far the graph looks around: half of usearch's own, for half of the time; what that misses is in the tests.
_LOOK_ADDING: Final = 64
_LOOK_SEARCHING: Final = 32

try:
    from usearch.index import Index
except ImportError:
    _Graph: Any = None
else:
    _Graph = Index


class Near(NamedTuple):
    """A question that is near: its place in the partition, and the cosine of the static vectors."""

    place: int
    cosine: float


class Partition:
    """The questions of one partition, by place.

    Args:
        after: rows with an id up to this are not wanted in it.

    Attributes:
        newest: id of the newest row that was looked at.
        ids, keys, texts, vectors: of each place; the vectors are the encoder's, as bytes.
    """

    def __init__(self, dimensions: int, after: int = 0) -> None:
        self.newest = after
        self.ids: list[int] = []
        self.keys: list[bytes] = []
        self.texts: list[str] = []
        self.vectors: list[bytes] = []
        self._dimensions = dimensions
        self._rows = np.zeros((_GROWTH, dimensions), np.float32)
        self._places: dict[bytes, int] = {}  # of keys that are not gone
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def limit(self) -> int:
        """How many questions it can hold."""
        return MOST_FLAT if _Graph is None else MOST

    @property
    def worn(self) -> bool:
        """Whether it is full, or most of it is gone: `Partitions.renew` it."""
        return len(self.keys) >= self.limit or len(self.keys) > max(FLAT, 2 * len(self._places))

    def add(self, id: int, key: bytes, text: str, gate: Vector, vector: bytes) -> None:
        """One more; nothing where it is in, or there is no room."""
        self.newest = max(self.newest, id)
        place = len(self.keys)
        if place >= self.limit or key in self._places:
            return
        if place == len(self._rows):
            grown = np.zeros((min(2 * place, self.limit), self._dimensions), np.float32)
            grown[:place] = self._rows
            self._rows = grown
        self._rows[place] = gate
        self._places[key] = place
        self.ids.append(id)
        self.keys.append(key)
        self.texts.append(text)
        self.vectors.append(vector)
        if self._graph is not None:
            self._graph.add(place, gate)
        elif place + 1 > FLAT and _Graph is not None:
            self._graph = _Graph(
                ndim=self._dimensions, metric="ip", dtype="i8", expansion_add=_LOOK_ADDING,
                expansion_search=_LOOK_SEARCHING,
            )  # fmt: skip
            self._graph.add(np.arange(place + 1), self._rows[: place + 1])

    def remove(self, key: bytes) -> None:
        """Its answer is kept no longer."""
        if (place := self._places.pop(key, None)) is not None:
            self._rows[place] = 0
            if self._graph is not None:
                self._graph.remove(place)

    def nearest(self, gate: Vector, least: float, most: int) -> Sequence[Near]:
        """Up to `most` whose cosine is at least `least`, the nearest first."""
        count = len(self.keys)
        if not count:
            return ()
        if self._graph is not None:
            places = self._graph.search(gate, most).keys.tolist()
            cosines = (self._rows[places] @ gate).tolist()
            found = [Near(place, cosine) for place, cosine in zip(places, cosines, strict=True) if cosine >= least]
            return sorted(found, key=lambda near: -near.cosine)
        all_cosines = self._rows[:count] @ gate
        best: list[Near] = []
        while len(best) < most:  # most questions are near nothing: one look
            place = int(all_cosines.argmax())
            if (cosine := float(all_cosines[place])) < least:
                break
            best.append(Near(place, cosine))
            all_cosines[place] = -np.inf
        return best


class Partitions:
    """The partitions that were looked at lately."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._known: OrderedDict[bytes, Partition] = OrderedDict()

    def of(self, part: bytes) -> Partition:
        """The partition of that key; a new one is empty."""
        if (found := self._known.get(part)) is None:
            found = self._known[part] = Partition(self._dimensions)
            if len(self._known) > MAX_PARTITIONS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(part)
        return found

    def bound(self) -> None:
        """Let go of those that nobody asks for, while there are too many questions."""
        held = sum(len(partition.keys) for partition in self._known.values())
        while held > MOST_IN_ALL:
            held -= len(self._known.popitem(last=False)[1].keys)

    def renew(self, part: bytes) -> None:
        """Begin a worn partition anew: without what is gone, and where it was full, without the older half."""
        worn = self._known[part]
        after = worn.ids[len(worn.ids) // 2] if 2 * len(worn) > worn.limit else 0
        self._known[part] = Partition(self._dimensions, after)
