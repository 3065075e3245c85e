"""How much a text reads like an attempt to give the model other instructions: a score, and a weak one.

Logistic regression on TF-IDF of words and pairs of words (`data/README.md`). It knows the wording it was trained on;
text that is put another way, or in another language, passes. Use it as a signal among others, never as a boundary.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final, NamedTuple

from ingress.guards.invisible import without

_WORD: Final = re.compile(r"\b\w\w+\b")


class _Weights(NamedTuple):
    intercept: float
    terms: dict[str, tuple[float, float]]  # inverse document frequency, and weight


@cache
def _weights() -> _Weights:
    packed = (files("ingress.guards") / "data" / "injection.tsv.gz").read_bytes()
    first, *rows = gzip.decompress(packed).decode().split("\n")
    terms = {}
    for row in rows:
        term, frequency, weight = row.split("\t")
        terms[term] = (float(frequency), float(weight))
    return _Weights(float(first), terms)


def load() -> None:
    """Read the weights now, instead of with the first text."""
    _weights()


def score(text: str) -> float:
    """From 0 to 1."""
    intercept, terms = _weights()
    words = _WORD.findall(without(text).lower())
    counts = Counter(words)
    counts.update(map(" ".join, pairwise(words)))
    length = product = 0.0
    for term, count in counts.items():
        if (known := terms.get(term)) is not None:
            value = count * known[0]
            length += value * value
            product += value * known[1]
    return 1 / (1 + math.exp(-intercept - (product / math.sqrt(length) if length else 0.0)))
