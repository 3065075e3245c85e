"""The nearest questions of a partition: rows of a matrix up to some thousands, a graph above. In memory, made of the
store's rows as they are needed; no I/O here.

A matrix of 2,048 rows takes 0.05 ms to go through, and most partitions have a handful. `usearch` (the extra `cache`)
keeps larger ones at that; without it a partition holds `MOST_FLAT` questions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

FLAT: Final = 2048
MOST_FLAT: Final = 4096  # of a partition, without a graph
MOST: Final = 65_536  # of a partition, with a graph
MAX_PARTITIONS: Final = 256
_GROWTH: Final = 64

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

    Attributes:
        newest: id of the newest row that is in.
        keys, texts, vectors: of each place; the vectors are the encoder's, as bytes.
    """

    def __init__(self, dimensions: int) -> None:
        self.newest = 0
        self.keys: list[bytes] = []
        self.texts: list[str] = []
        self.vectors: list[bytes] = []
        self._dimensions = dimensions
        self._rows = np.zeros((_GROWTH, dimensions), np.float32)
        self._gone: set[int] = set()
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self.keys) - len(self._gone)

    @property
    def limit(self) -> int:
        """How many questions it can hold."""
        return MOST_FLAT if _Graph is None else MOST

    def add(self, key: bytes, text: str, gate: Vector, vector: bytes) -> None:
        """One more. What is beyond the limit is left out: the store evicts what nobody uses."""
        place = len(self.keys)
        if place >= self.limit:
            return
        if place == len(self._rows):
            grown = np.zeros((min(2 * place, self.limit), self._dimensions), np.float32)
            grown[:place] = self._rows
            self._rows = grown
        self._rows[place] = gate
        self.keys.append(key)
        self.texts.append(text)
        self.vectors.append(vector)
        if self._graph is not None:
            self._graph.add(place, gate)
        elif place + 1 > FLAT and _Graph is not None:
            self._graph = _Graph(ndim=self._dimensions, metric="ip", dtype="i8")
            self._graph.add(np.arange(place + 1), self._rows[: place + 1])

    def remove(self, place: int) -> None:
        """Its answer is kept no longer."""
        if place not in self._gone:
            self._gone.add(place)
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
        places = np.flatnonzero(all_cosines >= least)
        if not len(places):
            return ()
        best = places[np.argsort(-all_cosines[places])[:most]]
        return [Near(int(place), float(all_cosines[place])) for place in best]


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
