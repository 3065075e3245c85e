"""What the step executor and a model say to each other: `Batch` in, hidden states and logits out.

Here live only the shapes of that conversation; building a model is `workers.models.load`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.lora.adapter import Adapter
    from workers.models.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: a flat list of tokens, cut into rows (one row is one request's share).

    Attributes:
        positions: [tokens] int64, place of each token in its sequence.
        page_of: [tokens] int64, the cell that the token's KV is written to.
        offset_of: [tokens] int64, its place within the page.
        row_starts: first token of each row in the flat list, and the end: rows + 1 numbers.
        row_context: tokens of each row's sequence after this step (computed before, plus this step's).
        block_tables: per row [ceil(context / page_tokens)] int64, the cells of its pages in order.
        adapters: of each row; empty where no row has one.
        table: the same in one tensor, int64 [rows, pages of the longest]; what is behind a row's end means nothing.
            None where nobody has asked for it.
        folds: of each row, [folds] int64, the cells where layers without a window find its leading blocks
            (`workers.step.windows`); empty where no row has any.
    """

    positions: Tensor
    page_of: Tensor
    offset_of: Tensor
    row_starts: list[int]
    row_context: list[int]
    block_tables: list[Tensor]
    adapters: Sequence[Adapter | None] = ()
    table: Tensor | None = None
    folds: Sequence[Tensor] = ()


class Collectives(Protocol):
    """What the ranks of a tensor-parallel group do together. Every rank calls the same ones in the same order."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, same shape; may be computed in place and is the value to use."""
        ...

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        """`tensor` of all ranks in rank order along the last dimension; rank r brings `sizes[r]` columns."""
        ...


class _Single:
    """A group of one."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:  # noqa: ARG002
        return tensor


SINGLE: Collectives = _Single()


class Model(Protocol):
    """A rank's share of a model, ready to run. Built by `workers.models.load.load_model`."""

    @property
    def architecture(self) -> Architecture: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        """Compute one step; K and V of every token are written into `pages` in place.

        Args:
            ids: [tokens] int64.
            batch: where the tokens belong.
            pages: [cells, layers, 2, kv heads of all ranks, page tokens, head dim], any strides with the last
                three dimensions contiguous.

        Returns:
            [tokens, hidden] in the compute dtype, after the final norm; the same on every rank.
        """
        ...

    def logits(self, hidden: Tensor, adapters: Sequence[Adapter | None] = ()) -> Tensor:
        """[rows, hidden] to float32 [rows, vocabulary], the same on every rank. The next call may overwrite it.

        Args:
            adapters: of each row; empty where no row has one.
        """
        ...

    def spent_ns(self) -> Mapping[str, int]:
        """Time in each part of all steps so far, by name; empty where nobody measures it."""
        ...
