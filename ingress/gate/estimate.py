"""How many tokens an answer will probably have: 1.2 times the p95 of what a key got from a model lately. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

PAIRS: Final = 8192  # of key and model
ANSWERS: Final = 64  # remembered of each
FEW: Final = 8  # before there are so many, the guess is `FIRST_GUESS`
FIRST_GUESS: Final = 512
EVERY: Final = 8  # answers after which the guess is made anew


class _Seen:
    __slots__ = ("guess", "lengths", "since")

    def __init__(self) -> None:
        self.lengths: deque[int] = deque(maxlen=ANSWERS)
        self.guess, self.since = FIRST_GUESS, 0


class Estimates:
    """By key and model."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def output(self, key: str, model: str, most: int) -> int:
        """Tokens to reserve for an answer that has `most` at the most."""
        seen = self._seen.get((key, model))
        return min(most, FIRST_GUESS if seen is None else seen.guess)

    def ended(self, key: str, model: str, tokens: int) -> None:
        """An answer had so many."""
        seen = self._seen.get((key, model))
        if seen is None:
            seen = self._seen[key, model] = _Seen()
            if len(self._seen) > PAIRS:
                self._seen.popitem(last=False)
        seen.lengths.append(tokens)
        seen.since += 1
        if len(seen.lengths) >= FEW and seen.since >= EVERY:
            ordered = sorted(seen.lengths)
            seen.guess, seen.since = ordered[len(ordered) * 95 // 100] * 6 // 5 + 1, 0
