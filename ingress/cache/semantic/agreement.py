"""Whether two answers say the same: the cached one, and the one that was generated all the same. Pure.

Strict on purpose: what is judged wrongly here makes a namespace look worse, never better.
"""

from __future__ import annotations

from typing import Final

from ingress.cache.semantic.features import names_apart
from ingress.cache.semantic.words import words

LEAST_COSINE: Final = 0.92
COMPARED: Final = 2000  # characters


def same_text(left: str, right: str) -> bool:
    """Whether they are the same but for white space and case."""
    return left.split() == right.split() or left.casefold().split() == right.casefold().split()


def agree(left: str, right: str, cosine: float) -> bool:
    """Whether they say the same. `cosine` is of the encoder's vectors of both."""
    if same_text(left, right):
        return True
    one, other = words(left[:COMPARED]), words(right[:COMPARED])
    if one.numbers != other.numbers or one.negations != other.negations or names_apart(one, other):
        return False
    return cosine >= LEAST_COSINE
