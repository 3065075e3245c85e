"""The tokens that all samples of a call may draw together: `max_total_tokens`. Pure.

One pool is shared by the generations of a call. Whoever takes the last token ends, and its conversation ends the
others: no token is delivered that the pool did not have. An ingress that takes the call over takes from it what was
told.
"""

from __future__ import annotations

from typing import Final

POOL: Final = "max_total_tokens"  # `stop_reason` of an answer that ended because its call's tokens were used up


class TokenPool:
    """What a call may still draw.

    Attributes:
        size: all of it.
        left: what of it is not taken.
    """

    __slots__ = ("left", "size")

    def __init__(self, size: int) -> None:
        self.size = self.left = size

    def take(self, tokens: int) -> int:
        """Take so many, or as many as there are; how many that is."""
        taken = min(tokens, self.left)
        self.left -= taken
        return taken
