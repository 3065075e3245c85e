"""Embeddings: our encoder beside sentence-transformers, in one process, on the same weights, texts and threads.

    python -m benchmarks.embeddings [--model catalog:all-minilm-l6-v2] [--threads 2] [--dtype float32] [--cpu-time]

Texts per second, the best of some rounds that alternate, so that a busy moment hits neither alone. Theirs fills a
batch up to its longest text (texts are sorted by length first, as `SentenceTransformer.encode` does); ours computes a
flat list of tokens. Tokenising is in neither. "mixed" draws lengths as of chat messages: log-normal, median 20 tokens,
at most 200. The last column is the smallest cosine between both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch

from bus.catalogue import locate
from workers.encoding.encoder import Encoder
from workers.encoding.weights import load_weights
from workers.models.architecture import DTYPES

LENGTHS: Final = (8, 32, 128, 256)
BATCHES: Final = (1, 8, 32)
MIXED: Final = 96  # texts

Rows = list[list[int]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="catalog:all-minilm-l6-v2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="ours; theirs is float32")
    parser.add_argument(
        "--cpu-time", action="store_true", help="of one thread, instead of the clock: for a busy machine"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="for each number")
    given = parser.parse_args()
    threads = 1 if given.cpu_time else given.threads
    torch.set_num_threads(threads)
    clock = time.thread_time if given.cpu_time else time.perf_counter

    from sentence_transformers import SentenceTransformer

    path = locate(given.model)
    theirs = SentenceTransformer(str(path), device="cpu")
    encoder = Encoder(load_weights(path, DTYPES[given.dtype]))
    generator = np.random.default_rng(11)
    print(f"{path.name}, {given.dtype} beside float32, {threads} threads; texts per second")
    print(f"{'length':>8} {'batch':>6} {'ours':>9} {'theirs':>9} {'ratio':>6} {'cosine':>11}")
    cases = [(str(length), batch, _rows(generator, [length] * batch)) for length in LENGTHS for batch in BATCHES]
    lengths = np.clip(generator.lognormal(np.log(20), 0.9, MIXED), 3, 200).astype(int).tolist()
    cases.append(("mixed", MIXED, _rows(generator, lengths)))
    for name, batch, rows in cases:
        ours, other = _race(partial(_ours, encoder, rows), partial(_theirs, theirs, rows), given.seconds, clock)
        cosine = float((_ours(encoder, rows) * _theirs(theirs, rows)).sum(axis=1).min())
        print(f"{name:>8} {batch:>6} {batch / ours:>9.0f} {batch / other:>9.0f} {other / ours:>6.2f} {cosine:>11.7f}")


def _rows(generator: np.random.Generator, lengths: Sequence[int]) -> Rows:
    return [[101, *generator.integers(1_000, 20_000, length - 2).tolist(), 102] for length in lengths]


def _ours(encoder: Encoder, rows: Rows) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """One step of all of them."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
    ids = torch.tensor([token for row in order for token in rows[row]])
    with torch.inference_mode():
        found = encoder(ids, torch.zeros_like(ids), [len(rows[row]) for row in order]).numpy()
    vectors = np.empty_like(found)
    vectors[order] = found
    return vectors


def _theirs(model: object, rows: Rows, at_once: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """As `SentenceTransformer.encode` does it after tokenising: by length, in batches of 32, each filled up."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
    vectors: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with torch.inference_mode():
        for begin in range(0, len(rows), at_once):
            batch = order[begin : begin + at_once]
            longest = len(rows[batch[0]])
            ids = torch.tensor([rows[row] + [0] * (longest - len(rows[row])) for row in batch])
            mask = torch.tensor([[1] * len(rows[row]) + [0] * (longest - len(rows[row])) for row in batch])
            found = model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]  # type: ignore[operator]
            for row, vector in zip(batch, found, strict=True):
                vectors[row] = vector
    return torch.stack(vectors).numpy()


def _race(
    first: Callable[[], object], second: Callable[[], object], seconds: float, clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds by `clock` of the fastest run of each, in turns."""
    best = [float("inf"), float("inf")]
    first(), second()
    until = time.perf_counter() + 2 * seconds
    while time.perf_counter() < until:
        for index, run in enumerate((first, second)):
            began = clock()
            run()
            best[index] = min(best[index], clock() - began)
    return best[0], best[1]


if __name__ == "__main__":
    main()
