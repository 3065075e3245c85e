"""The parts of a rank's model as tensors of one dtype: what torch's operators compute with."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from workers.weights.parts import Part, Parts
from workers.weights.quantised.weight import Online, QuantisedWeight, Unfit, joined, of_floats

log = logging.getLogger(__name__)

Form = Literal["file"] | Online
"""Of matrices for a GPU's kernels: as a quantised file has them, or floats rounded at load."""

Weight = Tensor | QuantisedWeight


class Weights:
    """One rank's weights of a decoder, read on demand. Ask for each part once.

    Args:
        parts: which there are.
        dtype: of the tensors.
        form: of matrices that are multiplied with; None is `dtype`.
    """

    def __init__(self, parts: Parts, dtype: torch.dtype, form: Form | None = None) -> None:
        self.architecture, self.shard, self.dtype = parts.architecture, parts.shard, dtype
        self._parts, self._form = parts, form
        self._as_floats: Counter[str] = Counter()  # matrices that are not quantised, by the reason

    def finish(self) -> None:
        """Check that nothing is left over, see `Parts.finish`, and tell of what could not have its form."""
        self._parts.finish()
        for reason, count in self._as_floats.items():
            kind = str(self.dtype).removeprefix("torch.")
            log.warning("%s: %d matrices are dequantised to %s: %s", self._parts.source.path.name, count, kind, reason)

    def embedding(self) -> Tensor:
        """[vocabulary of this rank, hidden]."""
        return self._read(self._parts.embedding())

    def head(self, embedding: Tensor) -> Tensor:
        """[vocabulary of this rank, hidden]; `embedding` itself where the two are tied."""
        head = self._parts.head()
        return embedding if head is None else self._read(head)

    def final_norm(self) -> Tensor:
        """[hidden]; like all norms in `dtype`, or in float32 where the architecture has `norm_offset`."""
        return self._norm(self._parts.final_norm())

    def norm(self, part: str, layer: int) -> Tensor:
        """[hidden]; `part` as in `Parts.norm`."""
        return self._norm(self._parts.norm(part, layer))

    def qk_norms(self, layer: int) -> tuple[Tensor, Tensor]:
        """[head_dim] each."""
        q, k = map(self._norm, self._parts.qk_norms(layer))
        return q, k

    def qkv(self, layer: int) -> tuple[Weight, Tensor | None]:
        """Weight [(heads + 2 * kv_heads) * head_dim, hidden] and, where the model has one, bias; rows are q, k, v."""
        parts = self._parts.qkv(layer)
        biases = [self._read(part.bias) for part in parts if part.bias is not None]
        return self._matrix([part.weight for part in parts]), torch.cat(biases) if biases else None

    def attention_out(self, layer: int) -> Weight:
        """[hidden, heads * head_dim]."""
        return self._matrix([self._parts.attention_out(layer)])

    def gate_up(self, layer: int) -> Weight:
        """[2 * intermediate, hidden]: gate, then up."""
        return self._matrix(self._parts.gate_up(layer))

    def down(self, layer: int) -> Weight:
        """[hidden, intermediate]."""
        return self._matrix([self._parts.down(layer)])

    def router(self, layer: int) -> Tensor:
        """[experts, hidden]."""
        return self._read(self._parts.router(layer))

    def expert(self, layer: int, expert: int) -> tuple[Weight, Weight] | None:
        """[2 * intermediate, hidden]: gate, then up; and [hidden, intermediate]. None where another rank has it."""
        parts = self._parts.expert(layer, expert)
        if expert not in self.shard.experts:
            for part in parts:
                self._parts.leave(part)
            return None
        return self._matrix(parts[:2]), self._matrix(parts[2:])

    def rope_factors(self) -> Tensor | None:
        """[head_dim / 2] float32, of models whose file carries them."""
        part = self._parts.rope_factors()
        return None if part is None else self._read(part, torch.float32)

    def _norm(self, part: Part) -> Tensor:
        # One added in bfloat16 would lose most of what the file says.
        return self._read(part, torch.float32 if self.architecture.norm_offset else None)

    def _matrix(self, parts: Sequence[Part]) -> Weight:
        """Parts that read the same inputs, one below the other."""
        if self._form is not None:
            try:
                quantised = [self._quantised(part) for part in parts]
            except Unfit as problem:
                self._as_floats[str(problem)] += 1
            else:
                if all(quantised):
                    return joined([each for each in quantised if each is not None])
        return torch.cat([self._read(part) for part in parts])

    def _quantised(self, part: Part) -> QuantisedWeight | None:
        rows: slice | Tensor | None = part.rows
        if part.permuted:
            mine = range(*(part.rows or slice(None)).indices(part.shape[0]))
            rows = unpermuted(len(mine), self.architecture.head_dim) + mine.start
        self._parts.use(part)
        found = self._parts.source.quantised(part.name, rows, part.columns, part.at)
        if found is None and self._form is not None and self._form != "file":
            found = of_floats(self._read(part, torch.float32), self._form)
        return found

    def _read(self, part: Part, dtype: torch.dtype | None = None) -> Tensor:
        return read(self._parts, part, dtype or self.dtype)


def read(parts: Parts, part: Part, dtype: torch.dtype) -> Tensor:
    """A part as a tensor, its rows in the order that is computed with."""
    parts.use(part)
    tensor = parts.source.load(part.name, dtype, part.rows, part.columns, part.at)
    if part.offset:
        tensor += part.offset
    return tensor[unpermuted(len(tensor), parts.architecture.head_dim)] if part.permuted else tensor


def unpermuted(rows: int, head_dim: int) -> Tensor:
    """The order in which to take so many permuted rows, so that the first half of a head rotates against the second.

    llama.cpp rotates neighbours and stores, per head, row d of the first half and row d of the second in turn.
    """
    return torch.arange(rows).view(-1, head_dim // 2, 2).transpose(1, 2).reshape(-1)
