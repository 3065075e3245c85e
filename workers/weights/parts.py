"""Every rule between a weight file and the parts of a decoder that a rank computes with. No bytes are read here.

Row order of q and k in llama GGUFs, parts that share a tensor, stacked experts, tied heads, cutting for tensor
parallel: all of it is here, and names are a family's `Layout`. A tensor that is missing, misshapen or that nobody asked
for is an error, because a model that lacks a bias or ties the wrong head still answers, nearly right.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from workers.weights.names import IGNORED_SUFFIXES, Layout
from workers.weights.sharding import Shard
from workers.weights.source import TensorSource, WeightsError

if TYPE_CHECKING:
    from workers.models.architecture import Architecture


class Part(NamedTuple):
    """What a rank needs of one tensor of the file.

    Attributes:
        rows, columns: of the tensor as it is in the file; None is all.
        permuted: per head, rows alternate between the first and the second half, as llama.cpp rotates neighbours.
        at: of the first dimension, where the tensor has a matrix for each expert; rows and columns are that one's.
        offset: added to what the file has.
    """

    name: str
    shape: tuple[int, ...]
    rows: slice | None = None
    columns: slice | None = None
    permuted: bool = False
    at: int | None = None
    offset: float = 0.0


class Qkv(NamedTuple):
    """One of q, k and v: its weight [heads * head_dim, hidden] and, where the model has one, its bias."""

    weight: Part
    bias: Part | None


class Parts:
    """One rank's parts of a decoder. `use` each once, then call `finish`.

    Args:
        source: the files.
        architecture: of the model in them.
        shard: this rank's share.
        layout: of the family in these files.
        progress: is told the fraction that is in use, from 0 to 1.
    """

    def __init__(
        self,
        source: TensorSource,
        architecture: Architecture,
        shard: Shard,
        layout: Layout,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.source, self.architecture, self.shard = source, architecture, shard
        self._progress = progress
        self._names, self._permuted = layout
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
        return self._norm(self._names["final_norm"], self.architecture.hidden)

    def norm(self, part: str, layer: int) -> Part:
        """[hidden]; `part` is "attention_norm", "mlp_norm", or either with "post_" before it."""
        return self._norm(self._names[part].format(layer), self.architecture.hidden)

    def qk_norms(self, layer: int) -> tuple[Part, Part]:
        """[head_dim] each."""
        q, k = (
            self._norm(self._names[part].format(layer), self.architecture.head_dim) for part in ("q_norm", "k_norm")
        )
        return q, k

    def qkv(self, layer: int) -> tuple[Qkv, Qkv, Qkv]:
        """q, k and v of this rank's heads."""
        a, shard = self.architecture, self.shard
        of = (("q", a.heads, shard.heads), ("k", a.kv_heads, shard.kv_heads), ("v", a.kv_heads, shard.kv_heads))
        together, before = self._names.get("qkv"), 0
        found: list[Qkv] = []
        for part, heads, mine in of:
            name = (together or self._names[part]).format(layer)
            rows = slice((before + mine.start) * a.head_dim, (before + mine.stop) * a.head_dim)
            found.append(self._heads(name, part, a.heads + 2 * a.kv_heads if together else heads, rows))
            before += heads if together else 0
        q, k, v = found
        return q, k, v

    def attention_out(self, layer: int) -> Part:
        """[hidden, heads * head_dim]."""
        a, mine = self.architecture, self.shard.heads
        columns = slice(mine.start * a.head_dim, mine.stop * a.head_dim)
        return Part(self._names["attention_out"].format(layer), (a.hidden, a.heads * a.head_dim), columns=columns)

    def gate_up(self, layer: int) -> tuple[Part, Part]:
        """[intermediate, hidden] each."""
        a, mine = self.architecture, self.shard.intermediate
        if together := self._names.get("gate_up"):
            name, shape = together.format(layer), (2 * a.intermediate, a.hidden)
            up_rows = slice(a.intermediate + mine.start, a.intermediate + mine.stop)
            return Part(name, shape, _slice(mine)), Part(name, shape, up_rows)
        shape = (a.intermediate, a.hidden)
        gate, up = (Part(self._names[part].format(layer), shape, _slice(mine)) for part in ("gate", "up"))
        return gate, up

    def down(self, layer: int) -> Part:
        """[hidden, intermediate]."""
        shape = (self.architecture.hidden, self.architecture.intermediate)
        return Part(self._names["down"].format(layer), shape, columns=_slice(self.shard.intermediate))

    def router(self, layer: int) -> Part:
        """[experts, hidden], on every rank."""
        a = self.architecture
        assert a.experts is not None
        return Part(self._names["router"].format(layer), (a.experts.count, a.hidden))

    def expert(self, layer: int, expert: int) -> tuple[Part, Part, Part]:
        """gate and up, [intermediate, hidden], and down, [hidden, intermediate]. Whole: ranks share experts out."""
        a = self.architecture
        assert a.experts is not None
        inner, outer = a.experts.intermediate, a.hidden
        gate, up, down = (
            self._of_expert(self._names[part].format(layer, expert=expert), shape, expert)
            for part, shape in (
                ("expert_gate", (inner, outer)), ("expert_up", (inner, outer)), ("expert_down", (outer, inner)),
            )
        )  # fmt: skip
        return gate, up, down

    def leave(self, part: Part) -> None:
        """A part is another rank's."""
        self._left.discard(part.name)

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
        if part.name in self._left:  # several parts may share a tensor
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

    def _norm(self, name: str, width: int) -> Part:
        a = self.architecture
        return Part(name, (width,), offset=1.0 if a.norm_offset else 0.0)

    def _of_expert(self, name: str, shape: tuple[int, int], expert: int) -> Part:
        experts = self.architecture.experts
        if experts is not None and name.endswith("_exps.weight"):
            return Part(name, (experts.count, *shape), at=expert)
        return Part(name, shape)

    def _heads(self, name: str, part: str, heads: int, rows: slice) -> Qkv:
        a = self.architecture
        permuted = part != "v" and self._permuted
        weight = Part(f"{name}.weight", (heads * a.head_dim, a.hidden), rows, permuted=permuted)
        bias = Part(f"{name}.bias", (heads * a.head_dim,), rows, permuted=permuted) if a.qkv_bias else None
        return Qkv(weight, bias)

    def _vocabulary(self, part: str) -> Part:
        shape = (self.architecture.vocabulary, self.architecture.hidden)
        return Part(self._names[part], shape, _slice(self.shard.vocabulary))


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
