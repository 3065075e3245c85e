"""How far answers under way may go: what each has reserved of tokens to come, and how much more its budgets still have.
Pure.

A call reserves a guess of its answer. One that turns out longer reserves more as it is drawn, so that a budget is not
overspent by what is being generated, and others see at once what is left. A rate gives more even where it has none:
what was taken too much is paid back by what flows in. Money does not come back, so an answer that its budget has
nothing left for ends where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bus.prices import Price
from ingress.gate.leases import Bucket, Want

MORE: Final = 256  # tokens that are reserved at a time
AHEAD: Final = 64  # tokens before what is reserved ends, at which more is looked for: half a second of a fast model

_OF_OUTPUT: Final = frozenset({"output_tokens", "total_tokens", "money"})


class Running:
    """One answer.

    Attributes:
        output: tokens of it that are reserved.
        asking: more of its budget is being asked for; `asked`: that was done since anything came of it.
    """

    __slots__ = ("_buckets", "_input", "_most", "_price", "asked", "asking", "output")

    def __init__(self, buckets: Sequence[Bucket], price: Price, input: int, most: int, output: int) -> None:
        self._buckets = tuple(bucket for bucket in buckets if bucket.allowance.dimension in _OF_OUTPUT)
        self._price, self._input, self._most = price, input, most
        self.output = output
        self.asking = self.asked = False

    @property
    def limited(self) -> bool:
        """Whether it can come to its end before its longest answer does."""
        return bool(self._buckets) and self.output < self._most

    @property
    def look_at(self) -> int:
        """After how many tokens to look for more."""
        return max(1, self.output - AHEAD)

    def enough(self, drawn: int) -> int:
        """How many tokens it should have reserved by now."""
        return min(self._most, max(self.output, drawn + MORE))

    def wants(self, output: int) -> list[Want]:
        """What is to be reserved so that it has so many tokens."""
        tokens = output - self.output
        cost = self._cost(output) - self._cost(self.output)
        return [(bucket, cost if bucket.allowance.dimension == "money" else tokens) for bucket in self._buckets]

    def affordable(self) -> int:
        """How many tokens it could have reserved by what is left here of its budgets."""
        left = [bucket.balance for bucket in self._buckets if bucket.allowance.dimension == "money"]
        if not left or not self._price.output:
            return self._most
        # The inverse of the cost, and one less: that is rounded.
        more = min(left) * 1_000_000 // self._price.output - 1
        return min(self._most, self.output + max(0, more))

    def _cost(self, output: int) -> int:
        return self._price.cost(self._input, 0, output) if output else 0
