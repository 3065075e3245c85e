"""Whether two questions have the same answer: a small forest over how they differ. Pure; arrays that were trained
offline (`benchmarks/train_verifier.py`), with no more than numpy to run them.

Its score is a logit, and no probability of anything in particular: what a threshold means in a namespace is measured
there (`calibration`).
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ingress.cache.semantic.features import NAMES

LEAST_COSINE: Final = 0.6  # below it nothing is the same, whatever the forest says


class Forest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Trees of one depth, complete: node `i` has children `2i + 1` and `2i + 2`; a value up to its threshold goes left.

    Attributes:
        names: of the features it was trained on, in order.
        feature, threshold: of inner nodes. [trees, 2^depth - 1]
        leaf: logits to add. [trees, 2^depth]
        threshold_5: score that 5 % of the traps pass that it was not trained on; the default to begin with.
        encoder: digest of the weights whose cosines it was trained with.
    """

    names: tuple[str, ...]
    bias: float
    feature: list[list[int]]
    threshold: list[list[float]]
    leaf: list[list[float]]
    threshold_5: float = 0.0
    encoder: str = ""


class _Arrays(NamedTuple):
    feature: npt.NDArray[np.intp]
    threshold: npt.NDArray[np.float32]
    leaf: npt.NDArray[np.float32]


class Verifier:
    """A forest, ready to judge.

    Raises:
        ValueError: it was trained on other features than there are.
    """

    def __init__(self, forest: Forest) -> None:
        if forest.names != NAMES:
            raise ValueError(f"the verifier was trained on {forest.names}, and the features are {NAMES}")
        self.forest = forest
        self._arrays = _Arrays(
            np.array(forest.feature, np.intp), np.array(forest.threshold, np.float32), np.array(forest.leaf, np.float32)
        )
        self._trees = np.arange(len(forest.feature))
        self._inner = self._arrays.feature.shape[1]

    def score(self, row: npt.NDArray[np.float32]) -> float:
        """Of one pair: above the threshold they have the same answer."""
        feature, threshold, leaf = self._arrays
        at = np.zeros(len(self._trees), np.intp)
        while at[0] < self._inner:
            right = row[feature[self._trees, at]] > threshold[self._trees, at]
            at = 2 * at + 1 + right
        return self.forest.bias + float(leaf[self._trees, at - self._inner].sum())


@lru_cache(maxsize=1)
def shipped() -> Verifier:
    """The one that comes with this release."""
    data = resources.files(__package__).joinpath("verifier.json").read_bytes()
    return Verifier(msgspec.json.decode(data, type=Forest))
