"""How two questions differ, in numbers: what the verifier judges by, beside their cosine. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from ingress.cache.semantic.words import Words, alike, opposite, stem

NAMES: Final = (
    "cosine",
    "static_cosine",
    "numbers",  # that only one of them has
    "times",
    "negations",  # how many more one has
    "opposites",  # words of one whose contrary the other has
    "entities",
    "roles",
    "asks",
    "comparing",
    "alone_least",  # content words without a counterpart that is written alike: in the question that has fewer
    "alone_most",  # ... in the other
    "alone_difference",
    "shared",  # of content words, as a share
    "bigrams",  # shared pairs of neighbours, as a share
    "swapped",  # the same words in another order
    "typos",  # counterparts that are written alike and not the same
    "nearest",  # of leftover words: how near the other's words come, the worst
    "nearest_mean",
    "length",  # ratio of lengths
    "words",  # of the longer one
)
_ALIKE: Final = 0.74
_TYPO_LENGTH: Final = 4
_DIRECTIONS: Final = frozenset(
    ("from", "to", "into", "before", "after", "than", "over", "under", "by", "for", "with", "without")
)


def features(
    left: Words, right: Words, cosine: float, static_cosine: float, near: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """One row, in the order of `NAMES`. The order of the questions makes no difference.

    Args:
        cosine, static_cosine: of the encoder's vectors, and of the static ones.
        near: see `static.nearest`.
    """
    only_left, only_right, typos = leftovers(left, right)
    left_set, right_set = set(left.content), set(right.content)
    shared = len(left_set & right_set) / max(1, len(left_set | right_set))
    left_pairs, right_pairs = _bigrams(left.all), _bigrams(right.all)
    bigrams = len(left_pairs & right_pairs) / max(1, len(left_pairs | right_pairs))
    all_left, all_right = set(left.all) - set(right.all), set(right.all) - set(left.all)
    opposites = sum(any(opposite(one, other) for other in all_right) for one in all_left)
    swapped = float(sorted(left.content) == sorted(right.content) and left.content != right.content)
    return np.array(
        (
            cosine,
            static_cosine,
            len(left.numbers ^ right.numbers),
            len(left.times ^ right.times),
            abs(left.negations - right.negations),
            opposites,
            names_apart(left, right),
            len(left.roles ^ right.roles),
            len(left.asks ^ right.asks),
            len(left.comparing ^ right.comparing),
            min(len(only_left), len(only_right)),
            max(len(only_left), len(only_right)),
            abs(len(only_left) - len(only_right)),
            shared,
            bigrams,
            swapped,
            typos,
            near[0],
            near[1],
            min(len(left.all), len(right.all)) / max(1, len(left.all), len(right.all)),
            max(len(left.all), len(right.all)),
        ),
        np.float32,
    )


def leftovers(left: Words, right: Words) -> tuple[list[str], list[str], int]:
    """Content words of each that the other lacks, and how many pairs of them are the same word in another spelling."""
    only_left = [word for word in dict.fromkeys(left.content) if word not in right.content]
    only_right = [word for word in dict.fromkeys(right.content) if word not in left.content]
    typos = 0
    for word in tuple(only_left):
        if len(word) < _TYPO_LENGTH or word in left.entities:
            continue
        best = max(only_right, key=lambda other: alike(word, other), default="")
        if len(best) >= _TYPO_LENGTH and alike(word, best) >= _ALIKE and not opposite(word, best):
            only_left.remove(word)
            only_right.remove(best)
            typos += 1
    return only_left, only_right, typos


def broken(left: Words, right: Words) -> str:
    """Which guard says that the answers differ, whatever else the questions share; empty where none does."""
    if left.numbers != right.numbers:
        return "numbers"
    if left.times != right.times:
        return "times"
    if left.negations != right.negations:
        return "negations"
    if names_apart(left, right):
        return "entities"
    only_left, only_right = set(left.all) - set(right.all), set(right.all) - set(left.all)
    if any(opposite(one, other) for one in only_left for other in only_right):
        return "opposites"
    if sorted(left.content) == sorted(right.content) and _directed(left) != _directed(right):
        return "direction"
    return ""


def _directed(question: Words) -> set[tuple[str, str]]:
    """What goes where: `from` and `to` with the words that follow them."""
    found = set()
    direction = ""
    for word in question.all:
        if word in _DIRECTIONS:
            direction = word
        elif direction and stem(word) in question.content:
            found.add((direction, stem(word)))
            direction = ""
    return found


def names_apart(left: Words, right: Words) -> int:
    """Names that only one of them has, in whatever case the other is written."""
    return sum(name not in right.all and name not in right.entities for name in left.entities) + sum(
        name not in left.all and name not in left.entities for name in right.entities
    )


def _bigrams(row: tuple[str, ...]) -> set[tuple[str, str]]:
    return set(pairwise(row))
