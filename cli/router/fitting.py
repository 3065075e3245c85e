"""Logistic regression, and how well its score tells prompts apart that it has not seen. Pure.

The area under the ROC curve has a confidence interval by placements (DeLong, DeLong and Clarke-Pearson, Biometrics
1988). Folds keep sets of questions together where they are named: of questions of one exam others are easily
recognised, which says nothing of how hard a question of another one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FOLDS: Final = 5
RIDGE: Final = 1.0
STEPS: Final = 50
TOLERANCE: Final = 1e-8
Z95: Final = 1.959964


class Fit(NamedTuple):
    """Weights for features less their mean, by their scale."""

    mean: Floats
    scale: Floats
    weights: Floats
    bias: float

    def scores(self, features: Floats) -> Floats:
        """Log odds."""
        found: Floats = (features - self.mean) / self.scale @ self.weights + self.bias
        return found


class Area(NamedTuple):
    """Under the ROC curve, with 95 % confidence."""

    value: float
    low: float
    high: float


def fit(features: Floats, labels: Bools) -> Fit:
    """By Newton's method, with a ridge on all weights but the bias."""
    mean = features.mean(axis=0)
    spread = features.std(axis=0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    rows = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
    penalty = np.full(rows.shape[1], RIDGE)
    penalty[-1] = 0.0
    weights = np.zeros(rows.shape[1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
        gradient = rows.T @ (labels - chance) - penalty * weights
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < TOLERANCE:
            break
    return Fit(mean, scale, weights[:-1], float(weights[-1]))


def unseen(features: Floats, labels: Bools, sets: Sequence[str], seed: int = 0) -> Floats:
    """The score of each row by a fit that has not seen it, nor its set where there are enough of them."""
    folds = _folds(len(labels), sets, seed)
    scores = np.zeros(len(labels))
    for fold in range(FOLDS):
        out = folds == fold
        if out.any() and len(set(labels[~out].tolist())) == 2:
            scores[out] = fit(features[~out], labels[~out]).scores(features[out])
    return scores


def area(scores: Floats, labels: Bools) -> Area:
    """How well scores tell the two kinds of labels apart: 0.5 is not at all."""
    good, bad = scores[labels], scores[~labels]
    if not len(good) or not len(bad):
        return Area(0.5, 0.0, 1.0)
    wins = (good[:, None] > bad[None, :]) + 0.5 * (good[:, None] == bad[None, :])
    of_good, of_bad = wins.mean(axis=1), wins.mean(axis=0)
    value = float(of_good.mean())
    variance = (of_good.var(ddof=1) if len(good) > 1 else 0.25) / len(good)
    variance += (of_bad.var(ddof=1) if len(bad) > 1 else 0.25) / len(bad)
    half = Z95 * float(np.sqrt(variance))
    return Area(value, max(0.0, value - half), min(1.0, value + half))


class Point(NamedTuple):
    """Of the curve of cost against quality: with this share of calls at the large model, the share of right answers."""

    large_share: float
    right: float


def curve(scores: Floats, small_right: Bools, large_right: Bools) -> list[Point]:
    """From all calls at the small model to all at the large one, the lowest scores first, in steps of a tenth."""
    order = np.argsort(scores, kind="stable")
    points = []
    for tenth in range(11):
        count = len(order) * tenth // 10
        right = large_right[order[:count]].sum() + small_right[order[count:]].sum()
        points.append(Point(tenth / 10, float(right) / len(order)))
    return points


def gain(points: Sequence[Point]) -> float:
    """How much of the distance between the two models a curve wins on average, over all shares (RouteLLM's APGR): 0.5
    is what a coin does."""
    least, most = points[0].right, points[-1].right
    if most == least:
        return 0.5
    parts = [(point.right - least) / (most - least) for point in points]
    return float(np.trapezoid(parts, dx=0.1))


def _folds(count: int, sets: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    draw = np.random.default_rng(seed)
    names = sorted(set(sets))
    if len(names) < 2 * FOLDS:
        return draw.permutation(count) % FOLDS
    # Large sets first, each into the fold that has least.
    sizes = {name: sets.count(name) for name in names}
    held, fold_of = [0] * FOLDS, {}
    for name in sorted(names, key=lambda name: (-sizes[name], name)):
        fold = held.index(min(held))
        fold_of[name], held[fold] = fold, held[fold] + sizes[name]
    return np.array([fold_of[name] for name in sets])
