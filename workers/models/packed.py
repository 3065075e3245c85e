"""A dense decoder on packed weights: llama's wiring, and qwen2's biases, run by the kernels in one call a step.

What does not fit the kernels is told by `misfit`; torch's operators serve it then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from workers.kernels import library as c
from workers.kernels.pack import MATRICES, Kernels, packed
from workers.lora.adapter import Adapter
from workers.lora.layers import grouped
from workers.models.architecture import Architecture
from workers.models.interface import Batch, Collectives
from workers.models.rope import inverse_frequencies
from workers.weights.sharding import Shard

_MAX_HIDDEN: Final = 16_384  # native/decoder.cpp keeps a normed token on the stack
_MAX_HEAD_DIM: Final = 256

# What an architecture may have and native/decoder.cpp has not.
_BESIDE_LLAMA: Final[Mapping[str, Callable[[Architecture], object]]] = {
    "experts": lambda a: a.experts,
    "windows": lambda a: any(a.windows),
    "norms of q and k": lambda a: a.qk_norm,
    "norms after attention and MLP": lambda a: a.post_norms,
    "activation": lambda a: a.activation != "silu",
    "rope over a part of a head": lambda a: a.rope.rotated or a.rope.magnitude != 1,
    "multipliers": lambda a: (
        a.query_scale or (a.embedding_scale, a.residual_scale, a.logit_scale) != (1.0, 1.0, 1.0)
    ),
    "soft caps": lambda a: a.score_cap or a.logit_cap,
}  # fmt: skip


class Misfit(ValueError):
    """The kernels cannot compute this model. The message says which of its sizes they do not take."""


def misfit(architecture: Architecture, shard: Shard) -> str:
    """Why the kernels cannot run this rank's share; empty where they can."""
    a = architecture
    if lacking := [what for what, there in _BESIDE_LLAMA.items() if there(a)]:
        return f"{a.name}'s {', '.join(lacking)}"
    if a.head_dim % 16 or a.head_dim > _MAX_HEAD_DIM or len(shard.heads) * a.head_dim % 32:
        return f"{len(shard.heads)} heads of {a.head_dim} (multiples of 16 up to {_MAX_HEAD_DIM}, together of 32, fit)"
    if a.hidden % 32 or a.hidden > _MAX_HIDDEN:
        return f"a hidden size of {a.hidden} (multiples of 32 up to {_MAX_HIDDEN} fit)"
    if shard.intermediate.start % 32 or len(shard.intermediate) % 32:
        return f"an MLP of {a.intermediate} cut for {shard.ranks} ranks (multiples of 32 fit)"
    return ""


class PackedDecoder:
    """Implements `workers.models.interface.Model`.

    Args:
        tensors: of `workers.weights.packed.prepare_packed`, for the same architecture and shard. They may lie in a file
            that other processes have mapped too.
        collectives: the ranks.
        kernels: that compute.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        architecture: Architecture,
        shard: Shard,
        collectives: Collectives,
        kernels: Kernels,
    ) -> None:
        self.architecture, self.device, self.dtype = architecture, torch.device("cpu"), torch.float32
        self._shard, self._collectives = shard, collectives
        a, frequencies = (
            architecture,
            inverse_frequencies(architecture.rope, architecture.head_dim, tensors.get("rope_factors")),
        )
        self._kept = (tensors, frequencies)  # what the structs point to
        layers = (c.Layer * a.layers)(*(_layer(tensors, index) for index in range(a.layers)))
        head = "head" if "head.form" in tensors else "embedding"
        self._model = c.Model(
            a.layers, a.hidden, len(shard.heads), len(shard.kv_heads), a.head_dim, len(shard.intermediate),
            len(shard.vocabulary), shard.vocabulary.start, a.rms_eps, 0, c.pointer(frequencies),
            c.pointer(tensors["final_norm"]), c.matrix(packed(tensors, "embedding")), c.matrix(packed(tensors, head)),
            layers,
        )  # fmt: skip
        self._logits = torch.empty(0, len(shard.vocabulary))
        self._native = c.Native(
            kernels.library, self._model, kernels.threads, self._all_reduce if shard.ranks > 1 else None
        )

    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        hidden = torch.empty(len(ids), self.architecture.hidden)
        starts = np.fromiter(batch.row_starts, np.int64)
        context = np.fromiter(batch.row_context, np.int64)
        tables = torch.cat(batch.block_tables) if len(batch.block_tables) > 1 else batch.block_tables[0]
        table_starts = np.fromiter(itertools.accumulate(map(len, batch.block_tables), initial=0), np.int64)
        cell, layer, value, kv_head = (stride * pages.element_size() for stride in pages.stride()[:4])
        adapted, count, _kept = _adapted(batch.adapters, batch.row_starts)
        self._native.forward(
            c.Batch(
                len(ids), len(context), ids.data_ptr(), batch.positions.data_ptr(), batch.page_of.data_ptr(),
                batch.offset_of.data_ptr(), starts.ctypes.data, context.ctypes.data, tables.data_ptr(),
                table_starts.ctypes.data, pages.data_ptr() + self._shard.kv_heads.start * kv_head, cell, layer, value,
                kv_head, pages.shape[4], c.NUMBERS[pages.dtype], adapted, count,
            ),
            hidden,
        )  # fmt: skip
        return hidden

    def logits(self, hidden: Tensor, adapters: Sequence[Adapter | None] = ()) -> Tensor:
        # Kept from step to step: the kernel would clear megabytes for each.
        if len(self._logits) < len(hidden):
            self._logits = torch.empty(len(hidden), len(self._shard.vocabulary))
        out = self._logits[: len(hidden)]
        adapted, count, _kept = _adapted(adapters)
        self._native.logits(hidden.contiguous(), out, adapted, count)
        return self._collectives.all_gather_last(out, self._shard.vocabulary_sizes)

    def spent_ns(self) -> dict[str, int]:
        return self._native.spent_ns()

    def _all_reduce(self, data: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        mine = torch.from_numpy(data)
        total = self._collectives.all_reduce(mine)
        if total is not mine:
            mine.copy_(total)


def _adapted(adapters: Sequence[Adapter | None], starts: Sequence[int] | None = None) -> tuple[object, int, object]:
    """What the kernels are told of adapters: `c.Adapted`, how many, and what must outlive the call."""
    if not any(adapters):
        return None, 0, None
    groups = grouped(adapters, starts)
    found = (c.Adapted * len(groups))()
    for each, group in zip(found, groups, strict=True):
        assert group.adapter.lows is not None
        each.low, each.tokens, each.count = group.adapter.lows.table, group.tokens.ctypes.data, len(group.tokens)
    return found, len(groups), groups


def _layer(tensors: Mapping[str, Tensor], layer: int) -> c.Layer:
    norms = (c.pointer(tensors[f"{layer}.{part}"]) for part in ("attention_norm", "mlp_norm"))
    return c.Layer(*norms, *(c.matrix(packed(tensors, f"{layer}.{name}")) for name in MATRICES))
