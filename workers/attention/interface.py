"""What a model needs of attention. A back end is planned once a step and then called once a layer.

| protocol              | for                                                   | implemented by            |
|-----------------------|-------------------------------------------------------|---------------------------|
| `Attention`           | any step                                              | `paged` (torch), `triton` |
| `RotatingAttention`   | rotation and writing KV in one kernel before it       | `triton`                  |
| `CapturableAttention` | steps that a CUDA graph plays back                    | `triton`                  |
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from workers.models.interface import Batch


class HeadNorms(NamedTuple):
    """RMSNorm over each head of queries and keys, before rotation (Qwen3). Weights are [head_dim]."""

    query: Tensor
    key: Tensor
    eps: float


def own_heads(pages: Tensor, kv_heads: range) -> Tensor:
    """A rank's heads of pages, [cells, layers, 2, kv heads of this rank, page tokens, head dim].

    Args:
        pages: with the heads of all ranks, as in the arena, or with this rank's alone, as in its device's memory.
        kv_heads: this rank's.
    """
    return pages if pages.shape[3] == len(kv_heads) else pages[:, :, :, kv_heads.start : kv_heads.stop]


class Attention(Protocol):
    """One rank's attention."""

    def plan(self, batch: Batch, pages: Tensor) -> None:
        """Prepare a step: everything that is the same for all layers.

        Args:
            batch: where the tokens belong.
            pages: [cells, layers, 2, kv heads, page tokens, head dim]; see `own_heads`.
        """
        ...

    def forward(self, query: Tensor, kv: Tensor, layer: int) -> Tensor:
        """Write the step's K and V into the pages, then attend, causally.

        Args:
            query: [tokens, heads, head_dim], rotated.
            kv: [tokens, 2, kv_heads, head_dim], K rotated; converted to the pages' dtype.
            layer: which.

        Returns:
            [tokens, heads, head_dim] in the query's dtype.
        """
        ...


class RotatingAttention(Attention, Protocol):
    """Attention that takes queries and keys as the products leave them."""

    def rotate_and_forward(
        self, qkv: Tensor, angles: tuple[Tensor, Tensor], layer: int, norms: HeadNorms | None = None
    ) -> Tensor:
        """`forward` of what `norms` and rotation make of queries and keys.

        Args:
            qkv: [tokens, heads + 2 * kv_heads, head_dim], queries first; queries and keys are changed in place.
            angles: cosines and sines, float32 [tokens, rotated / 2], of the first `rotated` numbers of a head.
            layer: which.
            norms: for models that have them.
        """
        ...


class CapturableAttention(Attention, Protocol):
    """Attention whose steps a CUDA graph can play back: what differs between two steps is read from the device."""

    def capture(self, rows: int, pages: Tensor) -> None:
        """Prepare a step of `rows` rows of one token each, for a graph that is being recorded.

        Until the next `plan` or `capture`, `forward` reads and writes nothing but its arguments, `pages`, and buffers
        that live as long as this object. Nothing waits for the device.
        """
        ...

    def replay(self, rows: int, batch: Batch) -> bool:
        """Fill the buffers of the graph of `rows` rows for a step of at most as many, before the graph is launched.

        Rows that are missing become dummies: one token, in the cell that was named for them.

        Returns:
            False where this graph cannot serve the step: more rows or tokens, or more KV than there is room for. It is
            to be planned instead; nothing has changed.
        """
        ...
