"""Makes the static vectors from an encoder: each token through it alone, the main directions of what comes out, weighed
by how rare the token is. A program of its own: `python -m ingress.cache.semantic.prepare ENCODER DIRECTORY`.

After https://github.com/MinishLab/model2vec (the idea). A token's id stands in for its rank by frequency, as
vocabularies of WordPiece are sorted by that.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ingress.cache.semantic.minilm import Encoder
from ingress.cache.semantic.static import FORMAT, About, StaticVectors

DIMENSIONS: Final = 256
BATCH: Final = 1024


def distil(encoder: Encoder, dimensions: int = DIMENSIONS) -> npt.NDArray[np.float16]:
    """A vector for each token of the vocabulary. [vocabulary, dimensions]"""
    first, last = encoder.tokenizer.token_to_id("[CLS]"), encoder.tokenizer.token_to_id("[SEP]")
    assert first is not None
    assert last is not None
    rows = [
        encoder.embed_ids([(first, token, last) for token in range(start, min(start + BATCH, encoder.vocabulary))])
        for start in range(0, encoder.vocabulary, BATCH)
    ]
    vectors = np.concatenate(rows).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    reduced = vectors @ directions[:, ::-1][:, :dimensions]
    weights = np.log1p(np.arange(1, len(reduced) + 1))
    reduced *= (weights / weights.max())[:, None]
    for special in ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"):
        if (token := encoder.tokenizer.token_to_id(special)) is not None:
            reduced[token] = 0
    small: npt.NDArray[np.float16] = reduced.astype(np.float16)
    return small


def prepare(encoder: Path, directory: Path) -> About:
    """Make them; whole or not at all.

    Raises:
        OSError, ValueError: the encoder cannot be read, or the directory not be written.
    """
    loaded = Encoder(encoder)
    vectors = distil(loaded)
    about = About(FORMAT, loaded.digest, *vectors.shape)
    fresh = directory.with_name(f"{directory.name}.{os.getpid()}")
    fresh.mkdir(mode=0o700, parents=True)
    try:
        np.save(fresh / "vectors.npy", vectors)
        shutil.copy(encoder / "tokenizer.json", fresh / "tokenizer.json")
        (fresh / "about.json").write_bytes(msgspec.json.encode(about))
        StaticVectors(fresh)
        if directory.exists():
            directory.rename(fresh / "before")
        fresh.rename(directory)
        shutil.rmtree(directory / "before", ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return about


def main() -> int:
    """The program."""
    if len(sys.argv) != 3:
        print("usage: python -m ingress.cache.semantic.prepare ENCODER DIRECTORY", file=sys.stderr)
        return 2
    try:
        about = prepare(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot make static vectors: {error}", file=sys.stderr)
        return 1
    print(f"{about.vocabulary} vectors of {about.dimensions} dimensions in {sys.argv[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
