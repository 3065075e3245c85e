"""Prompt lookup: what followed the last tokens when they were there before, in the prompt or in the answer.

Code that is edited, text that is quoted and lists that go on repeat themselves (Saxena, Prompt Lookup Decoding, 2023).
The longest suffix that occurred before is found by narrowing: places that end in the last token, of these the ones with
the same token before it, and so on. That is a few passes over the ids of one sequence, the first of them the longest;
no index is built, kept or lost.

Two ways to go on from there:

| `"lookup"` | as it went on where the longest suffix was last (n-gram)                                                |
| `"suffix"` | as it went on most often, token by token, while that is likely (the walk down a suffix tree of          |
|            | SuffixDecoding, https://arxiv.org/abs/2411.04975, over this sequence alone)                             |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from workers.speculative.interface import Ints

Tokens = npt.NDArray[np.int32]

SHORTEST: Final = 2  # a suffix of one token says nothing: what follows a comma follows it anywhere
LONGEST: Final = 32  # longer ones tell no more, and each token costs a pass
PER_MATCHED: Final = 4  # drafts for each token of the suffix: a short one is more often chance
LIKELY: Final = 0.3  # a continuation's share of the places, multiplied along the way, below which "suffix" stops


class Match(NamedTuple):
    """Where the end of a sequence was before.

    Attributes:
        after: places right behind the earlier occurrences, ascending.
        length: tokens that agree there, at most `LONGEST`.
    """

    after: npt.NDArray[np.intp]
    length: int


def longest_match(tokens: Tokens) -> Match:
    """The longest suffix of `tokens` that occurs earlier in it. tokens: int32 [n]."""
    last = len(tokens) - 1
    after = np.flatnonzero(tokens[:last] == tokens[last]) + 1 if last > 0 else np.zeros(0, np.intp)
    length = min(len(after), 1)
    while len(after) and length < LONGEST:
        reaching = after[after > length]
        longer = reaching[tokens[reaching - length - 1] == tokens[last - length]]
        if not len(longer):
            break
        after, length = longer, length + 1
    return Match(after, length)


def continuation(tokens: Tokens, most: int) -> Ints:
    """As it went on where the longest suffix was last: at most `most` ids. tokens: int32 [n]."""
    match = longest_match(tokens)
    if match.length < SHORTEST:
        return np.zeros(0, np.int64)
    most = min(most, PER_MATCHED * match.length)
    # The last place may be so near the end that little follows it; what follows repeats with that distance.
    after = int(match.after[-1])
    following = tokens[after : after + most]
    return np.resize(following, most).astype(np.int64)


def likeliest(tokens: Tokens, most: int) -> Ints:
    """As it went on most often where the longest suffix was, while that is likely: at most `most` ids."""
    match = longest_match(tokens)
    if match.length < SHORTEST:
        return np.zeros(0, np.int64)
    found: list[int] = []
    places, share = match.after, 1.0
    while len(found) < min(most, PER_MATCHED * match.length) and len(places := places[places < len(tokens)]):
        following = tokens[places]
        ids, last, counts = np.unique(following[::-1], return_index=True, return_counts=True)
        best = np.lexsort((last, -counts))[0]  # of equals the one that was last
        share *= float(counts[best]) / len(places)
        if share < LIKELY:
            break
        found.append(int(ids[best]))
        places = places[following == ids[best]] + 1
    return np.array(found, np.int64)


class Lookup:
    """Implements `workers.speculative.interface.Proposer`.

    Args:
        tokens: the ids of a slot, int32 [length].
        follow: how to go on: `continuation` or `likeliest`.
    """

    def __init__(self, tokens: Callable[[int], Tokens], follow: Callable[[Tokens, int], Ints] = continuation) -> None:
        self._tokens, self._follow = tokens, follow
        self.behind_ns = 0

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        return [
            self._follow(self._tokens(slot), limit)
            for slot, limit in zip(slots.tolist(), most.tolist(), strict=True)
        ]  # fmt: skip
