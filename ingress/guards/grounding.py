"""What an answer says that its context does not: numbers, names, quotations and citations that are nowhere in it, and
the sentence that is least like any of it. An annotation for whoever reads the answer: a true sentence may be put in
other words, and a false one may have only words of the context.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

_NUMBER: Final = re.compile(r"(?<![\w.])[0-9]+(?:[.,][0-9]+)*(?!\w)")
# Capitalised words, not at the beginning of a sentence.
_ENTITY: Final = re.compile(r"(?<=[a-z,;:] )(?:[A-Z][\w'-]+)(?: [A-Z][\w'-]+)*")
_QUOTE: Final = re.compile(r"[\"“«]([^\"“”«»]{12,400})[\"”»]")
_CITATION: Final = re.compile(r"\[([0-9]{1,3})\]")
_SENTENCE: Final = re.compile(r"[^.!?\n]+[.!?]?")
_WORD: Final = re.compile(r"\w{3,}")
_MAX: Final = 200_000  # characters of context that are looked at, and of the answer


class Grounds(NamedTuple):
    """How many of each are not in the context, and the least similarity of a sentence to it, from 0 to 1."""

    numbers: int
    entities: int
    quotes: int
    citations: int
    similarity: float

    @property
    def missing(self) -> int:
        """Of all kinds."""
        return self.numbers + self.entities + self.quotes + self.citations

    def __str__(self) -> str:
        found = [f"{name}:{value}" for name, value in self._asdict().items() if value and name != "similarity"]
        return " ".join([*found, f"similarity:{self.similarity:.2f}"])


def compare(answer: str, context: Sequence[str]) -> Grounds:
    """An answer with the texts it should rest on. Without any, nothing is missing."""
    given = "\n".join(context)[:_MAX]
    answer = answer[:_MAX]
    if not given.strip():
        return Grounds(0, 0, 0, 0, 1.0)
    numbers = {_plain(number) for number in _NUMBER.findall(given)}
    folded = _folded(given)
    cited = set(_CITATION.findall(given)) or {str(index + 1) for index in range(len(context))}
    text = _CITATION.sub("", answer)
    return Grounds(
        sum(_plain(number) not in numbers for number in set(_NUMBER.findall(text))),
        sum(_folded(entity) not in folded for entity in set(_ENTITY.findall(text))),
        sum(_folded(quote) not in folded for quote in set(_QUOTE.findall(text))),
        len(set(_CITATION.findall(answer)) - cited),
        _similarity(text, given),
    )


def _plain(number: str) -> str:
    """Without separators of thousands, and zeros that say nothing."""
    number = re.sub(r"[,](?=[0-9]{3}(?:\D|$))", "", number).replace(",", ".")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _similarity(answer: str, context: str) -> float:
    """Of the answer's least similar sentence, the cosine of its words with the most similar sentence of the context."""
    given = [Counter(_WORD.findall(sentence.casefold())) for sentence in _SENTENCE.findall(context)][:2000]
    least = 1.0
    for sentence in _SENTENCE.findall(answer)[:200]:
        words = Counter(_WORD.findall(sentence.casefold()))
        if sum(words.values()) >= 4:
            least = min(least, max((_cosine(words, other) for other in given), default=0.0))
    return least


def _cosine(left: Counter[str], right: Counter[str]) -> float:
    if len(right) < len(left):
        left, right = right, left
    product = sum(count * right[word] for word, count in left.items() if word in right)
    if not product:
        return 0.0
    return product / math.sqrt(sum(n * n for n in left.values()) * sum(n * n for n in right.values()))
