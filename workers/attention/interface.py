"""What a model needs of attention. A back end is planned once a step and then called once a layer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from workers.models.interface import Batch


class Attention(Protocol):
    """One rank's attention."""

    def plan(self, batch: Batch, pages: Tensor) -> None:
        """Prepare a step: everything that is the same for all layers.

        Args:
            batch: where the tokens belong.
            pages: [cells, layers, 2, kv heads of all ranks, page tokens, head dim].
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
