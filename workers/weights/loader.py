"""Every rule between a weight file and the tensors that a rank computes with.

Names, the row order of q and k in llama GGUFs, tied heads, fusing q, k and v and gate and up, cutting for tensor
parallel: all of it is here. A tensor that is missing, misshapen or that nobody asked for is an error, because a model
that lacks a bias or ties the wrong head still answers, nearly right.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from workers.weights.names import IGNORED_SUFFIXES, NAMES
from workers.weights.sharding import Shard
from workers.weights.source import TensorSource, WeightsError

if TYPE_CHECKING:
    from workers.models.config import Architecture

# Families whose GGUF converter permutes the rows of q and k.
_PERMUTED_IN_GGUF: Final = frozenset({"llama"})


class Weights:
    """One rank's weights of a dense decoder, read on demand. Ask for each part once, then call `finish`.

    Args:
        source: the files.
        architecture: of the model in them.
        shard: this rank's part.
        dtype: of the tensors.
        progress: is told the fraction that is loaded, from 0 to 1.
    """

    def __init__(
        self,
        source: TensorSource,
        architecture: Architecture,
        shard: Shard,
        dtype: torch.dtype,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.architecture, self.shard, self.dtype = architecture, shard, dtype
        self._source, self._progress = source, progress
        self._names = NAMES[architecture.format]
        self._left = set(source.names())
        self._numbers = sum(prod(source.shape(name)) for name in self._left)
        self._taken = 0

    def embedding(self) -> Tensor:
        """[vocabulary of this rank, hidden]."""
        return self._vocabulary("embedding")

    def head(self, embedding: Tensor) -> Tensor:
        """[vocabulary of this rank, hidden]; `embedding` itself where the two are tied."""
        if not self.architecture.tied:
            return self._vocabulary("head")
        self._left.discard(self._names["head"])
        return embedding

    def final_norm(self) -> Tensor:
        """[hidden]."""
        return self._take(self._names["final_norm"], (self.architecture.hidden,))

    def norm(self, part: str, layer: int) -> Tensor:
        """[hidden]; `part` is "attention_norm" or "mlp_norm"."""
        return self._take(self._names[part].format(layer), (self.architecture.hidden,))

    def qkv(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """Weight [(heads + 2 * kv_heads) * head_dim, hidden] and, where the model has one, bias; rows are q, k, v."""
        a, shard = self.architecture, self.shard
        parts = (("q", a.heads, shard.heads), ("k", a.kv_heads, shard.kv_heads), ("v", a.kv_heads, shard.kv_heads))
        weights, biases = [], []
        for part, heads, mine in parts:
            name = self._names[part].format(layer)
            rows = slice(mine.start * a.head_dim, mine.stop * a.head_dim)
            weight = self._take(f"{name}.weight", (heads * a.head_dim, a.hidden), rows)
            weights.append(weight if part == "v" else self._unpermuted(weight))
            if a.qkv_bias:
                bias = self._take(f"{name}.bias", (heads * a.head_dim,), rows)
                biases.append(bias if part == "v" else self._unpermuted(bias))
        return torch.cat(weights), torch.cat(biases) if biases else None

    def attention_out(self, layer: int) -> Tensor:
        """[hidden, heads * head_dim]."""
        a, mine = self.architecture, self.shard.heads
        columns = slice(mine.start * a.head_dim, mine.stop * a.head_dim)
        shape = (a.hidden, a.heads * a.head_dim)
        return self._take(self._names["attention_out"].format(layer), shape, columns=columns)

    def gate_up(self, layer: int) -> Tensor:
        """[2 * intermediate, hidden]: gate, then up."""
        shape, rows = (self.architecture.intermediate, self.architecture.hidden), _slice(self.shard.intermediate)
        return torch.cat([self._take(self._names[part].format(layer), shape, rows) for part in ("gate", "up")])

    def down(self, layer: int) -> Tensor:
        """[hidden, intermediate]."""
        shape = (self.architecture.hidden, self.architecture.intermediate)
        return self._take(self._names["down"].format(layer), shape, columns=_slice(self.shard.intermediate))

    def rope_factors(self) -> Tensor | None:
        """[head_dim / 2] float32, of models whose file carries them."""
        if self.architecture.rope.kind != "file":
            return None
        name = self._names["rope_factors"]
        return self._take(name, (self.architecture.head_dim // 2,), dtype=torch.float32)

    def finish(self) -> None:
        """Check that nothing is left over.

        Raises:
            WeightsError: a tensor of the file has no place in the model.
        """
        left = sorted(name for name in self._left if not name.endswith(IGNORED_SUFFIXES))
        if left:
            family = self.architecture.name
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise WeightsError(self._source.path, f"not a tensor of {family}{more}", left[0])
        if self._progress is not None:
            self._progress(1.0)

    def _vocabulary(self, part: str) -> Tensor:
        shape = (self.architecture.vocabulary, self.architecture.hidden)
        return self._take(self._names[part], shape, _slice(self.shard.vocabulary))

    def _unpermuted(self, rows: Tensor) -> Tensor:
        """Rows of q or k in the order that rotates the first half of a head against the second.

        llama.cpp rotates neighbours and stores, per head, row d of the first half and row d of the second in turn.
        """
        a = self.architecture
        if a.format != "gguf" or a.name not in _PERMUTED_IN_GGUF:
            return rows
        return rows.view(-1, a.head_dim // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    def _take(
        self,
        name: str,
        shape: tuple[int, ...],
        rows: slice | None = None,
        columns: slice | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        found = self._source.shape(name)
        if found != shape:
            raise WeightsError(self._source.path, f"has shape {list(found)}, expected {list(shape)}", name)
        self._left.discard(name)
        tensor = self._source.load(name, dtype or self.dtype, rows, columns)
        self._taken += prod(shape)
        if self._progress is not None:
            self._progress(min(1.0, self._taken / self._numbers))
        return tensor


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
