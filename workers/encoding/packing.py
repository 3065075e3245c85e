"""Which rows' attention is computed together. Pure.

Products and norms see a flat list of tokens, so a row costs what it has. Only attention needs rows side by side: rows
of about one length are computed at once, the shorter ones filled up, and what that wastes is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

# A call costs about as much as attention over so many tokens: below, filling up is cheaper than another call.
SLACK: Final = 16
SHARE: Final = 8


class Group(NamedTuple):
    """Rows `first` .. `last - 1`, computed as if all had `length` tokens."""

    first: int
    last: int
    length: int


def groups(lengths: Sequence[int]) -> list[Group]:
    """Cut rows, which are in descending order of length, into groups of about one length.

    A row is filled up by at most `SLACK` tokens or an eighth of the longest one's.
    """
    found: list[Group] = []
    first = 0
    for row in range(1, len(lengths) + 1):
        longest = lengths[first]
        if row == len(lengths) or lengths[row] < longest - max(SLACK, longest // SHARE):
            found.append(Group(first, row, longest))
            first = row
    return found
