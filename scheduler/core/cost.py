"""How long a step takes: a linear model fitted while serving. Pure.

    time = a + b * tokens + c * pairs        pairs = sum over rows of (tokens x context they attend to)

Recursive least squares with forgetting (Ljung, System Identification, 11.2), in plain floats: three unknowns are too
few for numpy to win. Used to size prefill chunks and to tell a hung step from a long one.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

# Features are scaled to be of order one, or the covariance loses its digits.
_TOKENS: Final = 1e-2
_PAIRS: Final = 1e-5
_FORGET: Final = 0.998  # remembers about 500 steps
_TRUSTED_AFTER: Final = 8


class CostModel:
    """Predicts step times in nanoseconds from what it has seen; predicts nothing before it has seen enough."""

    __slots__ = ("_covariance", "_seen", "_weights")

    def __init__(self) -> None:
        self._weights = [0.0, 0.0, 0.0]
        self._covariance = [[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, 0.0, 1e4]]
        self._seen = 0

    @property
    def trusted(self) -> bool:
        """Whether enough steps were seen to decide by."""
        return self._seen >= _TRUSTED_AFTER

    def observe(self, tokens: int, pairs: float, ns: int) -> None:
        """Learn from a step that computed `tokens` tokens over `pairs` token-context pairs in `ns`."""
        x = (1.0, tokens * _TOKENS, pairs * _PAIRS)
        seen_ms = ns / 1e6
        if self.trusted:
            # A page fault storm or a busy neighbour is not the model's fault: it may pull, not topple.
            seen_ms = min(seen_ms, 4.0 * max(1.0, self.predict_ns(tokens, pairs) / 1e6))
        p = self._covariance
        px = [row[0] * x[0] + row[1] * x[1] + row[2] * x[2] for row in p]
        gain_base = _FORGET + x[0] * px[0] + x[1] * px[1] + x[2] * px[2]
        error = seen_ms - sum(w * v for w, v in zip(self._weights, x, strict=True))
        for i in range(3):
            gain = px[i] / gain_base
            self._weights[i] += gain * error
            row = p[i]
            for j in range(3):
                # Without the ceiling, directions that nothing excites (no prefill for an hour) grow without bound.
                row[j] = (row[j] - gain * px[j]) / _FORGET
        if max(p[0][0], p[1][1], p[2][2]) > 1e6:
            self._covariance = [[v * 0.01 for v in row] for row in p]
        self._seen += 1

    def predict_ns(self, tokens: int, pairs: float) -> float:
        """Expected time; 0 before enough was seen."""
        if not self.trusted:
            return 0.0
        a, b, c = self.rates()
        return a + b * tokens + c * pairs

    def chunk_within(self, target_ns: float, tokens: int, pairs: float, start: int) -> int | None:
        """Most prefill tokens from position `start` that keep a step of `tokens` and `pairs` under `target_ns`.

        None where the model does not know yet, or where nothing it knows limits the chunk.
        """
        if not self.trusted:
            return None
        a, b, c = self.rates()
        left = target_ns - a - b * tokens - c * pairs
        linear = b + c * start
        if left <= 0:
            return 0
        if linear <= 0 and c <= 0:
            return None
        if c <= 0:
            return int(left / linear)
        # c/2 n^2 + linear n = left: a chunk attends to what is before it and, on average, to half of itself.
        return int((-linear + sqrt(linear * linear + 2 * c * left)) / c)

    def rates(self) -> tuple[float, float, float]:
        """Nanoseconds of a step whatever is in it, of a token, and of a token-context pair."""
        a, b, c = self._weights
        return max(a, 0.0) * 1e6, max(b, 0.0) * _TOKENS * 1e6, max(c, 0.0) * _PAIRS * 1e6
