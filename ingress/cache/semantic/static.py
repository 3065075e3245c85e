"""Vectors of texts without a model: each token has one, a text is their mean.

Distilled once from an encoder (`prepare`), so that what is near there is near here; good enough to say that nothing
comparable is kept, which is the answer to most questions, for some 40 µs instead of 5 ms. Never good enough to say that
two questions mean the same.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Vector = npt.NDArray[np.float32]

FORMAT: Final = 1
MAX_TOKENS: Final = 256
WORDS: Final = 16_384  # that are remembered with their tokens
_AT_SPACES: Final = frozenset({"BertPreTokenizer", "Whitespace"})


class NotPrepared(OSError):
    """There are no static vectors, or not whole ones. The message says how to make them."""


class About(msgspec.Struct, frozen=True):
    """What the vectors were made from.

    Attributes:
        encoder: digest of its weights: vectors of another encoder are others.
    """

    format: int
    encoder: str
    vocabulary: int
    dimensions: int


class StaticVectors:
    """The vectors in a directory: `about.json`, `vectors.npy` (float16, mapped) and the encoder's `tokenizer.json`.

    Raises:
        NotPrepared: see there.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self.about = msgspec.json.decode((directory / "about.json").read_bytes(), type=About)
            # Mapped all the same; as a plain array its rows are taken in half the time.
            self._table = np.load(directory / "vectors.npy", mmap_mode="r").view(np.ndarray)
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # `tokenizers` raises bare exceptions
            raise NotPrepared(f"{directory}: {error}; make them with: headrace cache prepare") from None
        shape = (self.about.vocabulary, self.about.dimensions)
        if self.about.format != FORMAT or self._table.shape != shape or self._table.dtype != np.float16:
            raise NotPrepared(f"{directory} is of another release; make them anew: headrace cache prepare")
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._part = lru_cache(maxsize=WORDS)(self._ids)
        self._by_words = type(self._tokenizer.pre_tokenizer).__name__ in _AT_SPACES

    @property
    def dimensions(self) -> int:
        """Of a vector."""
        return self.about.dimensions

    def tokens(self, text: str) -> npt.NDArray[np.float32]:
        """A vector for each token, in order; lengths say how much a token counts. [tokens, dimensions]"""
        if self._by_words:  # what stands between spaces is the same wherever it stands, and mostly seen before
            ids = [id for part in text.split(" ") if part for id in self._part(part)][:MAX_TOKENS]
        else:
            ids = list(self._ids(text))
        rows: npt.NDArray[np.float32] = self._table[ids].astype(np.float32)
        return rows

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def vector(self, text: str) -> Vector:
        """Of length 1, or all zeros where there is nothing in the text. [dimensions]"""
        return mean(self.tokens(text))


def mean(tokens: npt.NDArray[np.float32]) -> Vector:
    """Of the tokens' vectors, with length 1."""
    total: Vector = tokens.sum(axis=0, dtype=np.float32)
    length = np.float32(np.sqrt(total @ total))
    return total / length if length > 0 else total


def nearest(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> tuple[float, float]:
    """How near each token of one text comes to its nearest of the other, weighed by how much it counts: the worst of
    those that count, and the mean. Both directions, the worse of them."""
    if not len(left) or not len(right):
        return 0.0, 0.0
    left_weights, right_weights = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    cosines = (left @ right.T) / np.maximum(left_weights[:, None] * right_weights[None, :], 1e-9)
    worst, average = 1.0, 1.0
    for best, weights in ((cosines.max(1), left_weights), (cosines.max(0), right_weights)):
        counts = weights >= np.median(weights)
        worst = min(worst, float(best[counts].min()))
        average = min(average, float((best * weights).sum() / max(float(weights.sum()), 1e-9)))
    return worst, average
