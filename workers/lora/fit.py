"""Which modules of a model an adapter may have matrices for, and what of them a rank computes with. Pure.

Names are those of transformers, whatever file the base was read from: adapters are made with PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from workers.kernels.pack import MATRICES
from workers.models.architecture import Architecture
from workers.models.families import FAMILIES
from workers.weights.names import layout
from workers.weights.sharding import Shard

HEAD: Final = "head"
HEAD_MODULE: Final = "lm_head"
PARTS: Final = (*MATRICES, HEAD)

Key = tuple[int, str]
"""Layer and part, one of `PARTS`; the head's layer is 0."""


class Piece(NamedTuple):
    """What a rank needs for one part of the model.

    Attributes:
        rows: of B.
        columns: of A.
    """

    key: Key
    rows: slice
    columns: slice


class Module(NamedTuple):
    """A linear layer that may be adapted: A is [rank, inputs], B is [outputs, rank]."""

    inputs: int
    outputs: int
    pieces: tuple[Piece, ...]


def modules(architecture: Architecture, shard: Shard) -> dict[str, Module]:
    """All of them, by name in transformers' model."""
    return dict(_modules(architecture, shard))


def _modules(a: Architecture, shard: Shard) -> Iterator[tuple[str, Module]]:
    family = FAMILIES[a.name]
    names = layout("safetensors", family.names.get("safetensors", {}), permuted=False).names
    for layer in range(a.layers):
        yield from _attention(a, shard, layer, names)
        if a.experts_of(layer) is None:
            yield from _mlp(a, shard, layer, names)
    mine = slice(shard.vocabulary.start, shard.vocabulary.stop)
    yield HEAD_MODULE, Module(a.hidden, a.vocabulary, (Piece((0, HEAD), mine, slice(None)),))


def _attention(a: Architecture, shard: Shard, layer: int, names: Mapping[str, str]) -> Iterator[tuple[str, Module]]:
    together, before = names.get("qkv"), 0
    pieces: list[Piece] = []
    for part, heads, mine in (
        ("q", a.heads, shard.heads), ("k", a.kv_heads, shard.kv_heads), ("v", a.kv_heads, shard.kv_heads),
    ):  # fmt: skip
        rows = slice((before + mine.start) * a.head_dim, (before + mine.stop) * a.head_dim)
        piece = Piece((layer, part), rows, slice(None))
        if together is None:
            yield names[part].format(layer), Module(a.hidden, heads * a.head_dim, (piece,))
        else:
            before += heads
            pieces.append(piece)
    if together is not None:
        yield together.format(layer), Module(a.hidden, before * a.head_dim, tuple(pieces))
    columns = slice(shard.heads.start * a.head_dim, shard.heads.stop * a.head_dim)
    out = Piece((layer, "out"), slice(None), columns)
    yield names["attention_out"].format(layer).removesuffix(".weight"), Module(a.heads * a.head_dim, a.hidden, (out,))


def _mlp(a: Architecture, shard: Shard, layer: int, names: Mapping[str, str]) -> Iterator[tuple[str, Module]]:
    mine, wide = shard.intermediate, a.intermediate
    gate = Piece((layer, "gate"), slice(mine.start, mine.stop), slice(None))
    up = Piece((layer, "up"), slice(mine.start, mine.stop), slice(None))
    if together := names.get("gate_up"):
        up = up._replace(rows=slice(wide + mine.start, wide + mine.stop))
        yield together.format(layer).removesuffix(".weight"), Module(a.hidden, 2 * wide, (gate, up))
    else:
        yield names["gate"].format(layer).removesuffix(".weight"), Module(a.hidden, wide, (gate,))
        yield names["up"].format(layer).removesuffix(".weight"), Module(a.hidden, wide, (up,))
    down = Piece((layer, "down"), slice(None), slice(mine.start, mine.stop))
    yield names["down"].format(layer).removesuffix(".weight"), Module(wide, a.hidden, (down,))
