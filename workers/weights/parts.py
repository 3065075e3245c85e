"""Every rule between a weight file and the parts of a dense decoder that a rank computes with. No bytes are read here.

Names, the row order of q and k in llama GGUFs, tied heads, cutting for tensor parallel: all of it is here. A tensor
that is missing, misshapen or that nobody asked for is an error, because a model that lacks a bias or ties the wrong
head still answers, nearly right.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

from workers.weights.names import IGNORED_SUFFIXES, NAMES
from workers.weights.sharding import Shard
from workers.weights.source import TensorSource, WeightsError

if TYPE_CHECKING:
    from workers.models.config import Architecture

# Families whose GGUF converter permutes the rows of q and k.
_PERMUTED_IN_GGUF: Final = frozenset({"llama"})


class Part(NamedTuple):
    """What a rank needs of one tensor of the file.

    Attributes:
        rows, columns: of the tensor as it is in the file; None is all.
        permuted: per head, rows alternate between the first and the second half, as llama.cpp rotates neighbours.
    """

    name: str
    shape: tuple[int, ...]
    rows: slice | None = None
    columns: slice | None = None
    permuted: bool = False


class Qkv(NamedTuple):
    """One of q, k and v: its weight [heads * head_dim, hidden] and, where the model has one, its bias."""

    weight: Part
    bias: Part | None


class Parts:
    """One rank's parts of a dense decoder. `use` each once, then call `finish`.

    Args:
        source: the files.
        architecture: of the model in them.
        shard: this rank's share.
        progress: is told the fraction that is in use, from 0 to 1.
    """

    def __init__(
        self,
        source: TensorSource,
        architecture: Architecture,
        shard: Shard,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.source, self.architecture, self.shard = source, architecture, shard
        self._progress = progress
        self._names = NAMES[architecture.format]
        self._left = set(source.names())
        self._numbers = sum(prod(source.shape(name)) for name in self._left)
        self._used = 0

    def embedding(self) -> Part:
        """[vocabulary of this rank, hidden]."""
        return self._vocabulary("embedding")

    def head(self) -> Part | None:
        """[vocabulary of this rank, hidden]; None where it is the embedding."""
        if not self.architecture.tied:
            return self._vocabulary("head")
        self._left.discard(self._names["head"])
        return None

    def final_norm(self) -> Part:
        """[hidden]."""
        return Part(self._names["final_norm"], (self.architecture.hidden,))

    def norm(self, part: str, layer: int) -> Part:
        """[hidden]; `part` is "attention_norm" or "mlp_norm"."""
        return Part(self._names[part].format(layer), (self.architecture.hidden,))

    def qkv(self, layer: int) -> tuple[Qkv, Qkv, Qkv]:
        """q, k and v of this rank's heads."""
        a, shard = self.architecture, self.shard
        of = (("q", a.heads, shard.heads), ("k", a.kv_heads, shard.kv_heads), ("v", a.kv_heads, shard.kv_heads))
        q, k, v = (self._heads(self._names[part].format(layer), part, heads, mine) for part, heads, mine in of)
        return q, k, v

    def attention_out(self, layer: int) -> Part:
        """[hidden, heads * head_dim]."""
        a, mine = self.architecture, self.shard.heads
        columns = slice(mine.start * a.head_dim, mine.stop * a.head_dim)
        return Part(self._names["attention_out"].format(layer), (a.hidden, a.heads * a.head_dim), columns=columns)

    def gate_up(self, layer: int) -> tuple[Part, Part]:
        """[intermediate, hidden] each."""
        shape, rows = (self.architecture.intermediate, self.architecture.hidden), _slice(self.shard.intermediate)
        gate, up = (Part(self._names[part].format(layer), shape, rows) for part in ("gate", "up"))
        return gate, up

    def down(self, layer: int) -> Part:
        """[hidden, intermediate]."""
        shape = (self.architecture.hidden, self.architecture.intermediate)
        return Part(self._names["down"].format(layer), shape, columns=_slice(self.shard.intermediate))

    def rope_factors(self) -> Part | None:
        """[head_dim / 2], of models whose file carries them."""
        if self.architecture.rope.kind != "file":
            return None
        return Part(self._names["rope_factors"], (self.architecture.head_dim // 2,))

    def use(self, part: Part) -> None:
        """A part is being read.

        Raises:
            WeightsError: it is missing or has another shape.
        """
        found = self.source.shape(part.name)
        if found != part.shape:
            raise WeightsError(self.source.path, f"has shape {list(found)}, expected {list(part.shape)}", part.name)
        self._left.discard(part.name)
        self._used += prod(part.shape)
        if self._progress is not None:
            self._progress(min(1.0, self._used / self._numbers))

    def finish(self) -> None:
        """Check that nothing is left over.

        Raises:
            WeightsError: a tensor of the file has no place in the model.
        """
        left = sorted(name for name in self._left if not name.endswith(IGNORED_SUFFIXES))
        if left:
            family = self.architecture.name
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise WeightsError(self.source.path, f"not a tensor of {family}{more}", left[0])
        if self._progress is not None:
            self._progress(1.0)

    def _heads(self, name: str, part: str, heads: int, mine: range) -> Qkv:
        a = self.architecture
        rows = slice(mine.start * a.head_dim, mine.stop * a.head_dim)
        permuted = part != "v" and a.format == "gguf" and a.name in _PERMUTED_IN_GGUF
        weight = Part(f"{name}.weight", (heads * a.head_dim, a.hidden), rows, permuted=permuted)
        bias = Part(f"{name}.bias", (heads * a.head_dim,), rows, permuted=permuted) if a.qkv_bias else None
        return Qkv(weight, bias)

    def _vocabulary(self, part: str) -> Part:
        shape = (self.architecture.vocabulary, self.architecture.hidden)
        return Part(self._names[part], shape, _slice(self.shard.vocabulary))


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
