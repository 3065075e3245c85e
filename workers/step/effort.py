"""The least that a step has to read and to compute on one rank, from the model's shapes. Pure.

Weights are counted once a step, however many tokens it has; KV once for each row that attends to it. What the caches
save or what is read twice is not in it: achieved over this is what "model bandwidth utilisation" means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bus.messages.steps import KvShape, StepPlan
from bus.packed import unpack_u32
from workers.weights.prepared import Prepared

CODES_UP_TO_BITS = 8


class Step(NamedTuple):
    """Of one step.

    Attributes:
        read: bytes, of weights and KV.
        operations: multiplications and additions by type of number.
    """

    read: float
    operations: Mapping[str, float]


class Effort(NamedTuple):
    """What a rank's share takes.

    Attributes:
        layers_bytes, head_bytes: of weights; the head's only where a token is drawn.
        layers_operations: for each token; `head_operations` for each row that draws, `pair_operations` for each token
            and token of context that it attends to.
        kv_bytes: of a token.
        products, attention: in which numbers these are computed.
    """

    layers_bytes: int
    head_bytes: int
    layers_operations: int
    head_operations: int
    pair_operations: int
    kv_bytes: int
    products: str
    attention: str

    def of(self, plan: StepPlan, drafted: int = 0) -> Step:
        """What a step takes, with so many draft tokens in its rows; these see about as much context as others do."""
        starts: npt.NDArray[np.int64] = unpack_u32(plan.starts).astype(np.int64)
        counts: npt.NDArray[np.int64] = unpack_u32(plan.counts).astype(np.int64)
        tokens, drawn = int(counts.sum()) + drafted, plan.samples.count(1) + drafted
        context = int((starts + counts).sum())
        pairs = float((counts * (starts + 0.5 * (counts + 1))).sum()) + drafted * context / max(1, len(counts))
        products = tokens * self.layers_operations + drawn * self.head_operations
        attention = pairs * self.pair_operations
        operations = {self.products: float(products)}
        operations[self.attention] = operations.get(self.attention, 0.0) + attention
        read = self.layers_bytes + (self.head_bytes if drawn else 0) + context * self.kv_bytes
        return Step(float(read), operations)


def effort_of(weights: Prepared, kv: KvShape, attends_in: str) -> Effort:
    """Of loaded weights. `attends_in`: the numbers of attention, as `workers.engine.Engine` has it."""
    a, shard, tensors = weights.architecture, weights.shard, weights.tensors
    head = "head" if any(name.partition(".")[0] == "head" for name in tensors) else "embedding"

    def size(belongs: str) -> int:
        return sum(tensor.nbytes for name, tensor in tensors.items() if name.partition(".")[0] == belongs)

    heads, kv_heads, width = len(shard.heads), len(shard.kv_heads), a.head_dim
    matrices = a.hidden * (width * (2 * heads + 2 * kv_heads) + 3 * len(shard.intermediate))
    kv_token = kv.page_bytes // kv.page_tokens // kv.kv_heads * kv_heads
    if weights.kernels is None:
        products = str(weights.dtype).removeprefix("torch.")
    else:
        bits = int(tensors["0.gate.form"][0]) if "0.gate.form" in tensors else 32
        products = "int8" if bits <= CODES_UP_TO_BITS else "float32"
    return Effort(
        sum(size(str(layer)) for layer in range(a.layers)), size(head), 2 * a.layers * matrices,
        2 * a.hidden * len(shard.vocabulary), 4 * a.layers * heads * width, kv_token, products, attends_in,
    )  # fmt: skip
