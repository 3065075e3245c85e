"""Pages behind windows: which layers still read them, and how their share of several blocks lies in one page, a fold.

A fold of a model whose layers 5 and 11 of 12 see everything, so of six blocks:

    layer of the page   0  1 | 2  3 | 4  5 | ...
    what it holds       5 11 | 5 11 | 5 11 | ...      of the first block, of the second, ...

When a block is folded, and when its own page goes, is the scheduler's to say (`scheduler.core.windows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.pages import scales_of


@dataclass(frozen=True, slots=True)
class Folding:
    """How a model's pages are folded.

    Attributes:
        window: most tokens that a layer with a window sees.
        blocks: that a fold holds; 0 where every layer has a window, and nothing is left to keep.
        layers: those without one.
    """

    window: int
    blocks: int
    layers: tuple[int, ...]

    @classmethod
    def of(cls, windows: Sequence[int]) -> Folding | None:
        """None where it frees nothing: no windows, or more than half of the layers see everything."""
        layers = tuple(layer for layer, window in enumerate(windows) if not window)
        blocks = len(windows) // len(layers) if layers else 0
        if not any(windows) or blocks == 1:
            return None
        return cls(max(windows), blocks, layers)

    def places(self, folds: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Where the layers without a window find the blocks of a sequence.

        Args:
            folds: cells, [folds] int64.
            table: cells of the blocks, [blocks] int64. Those that are folded are not looked at.

        Returns:
            Cells, and for each the layer of the page at which its own begin; -1 is a whole page. Both [blocks] int64.
        """
        folded = len(folds) * self.blocks
        begins = (torch.arange(self.blocks) * len(self.layers)).repeat(len(folds))
        whole = torch.full((len(table) - folded,), -1)
        return torch.cat([folds.repeat_interleave(self.blocks), table[folded:]]), torch.cat([begins, whole])

    def fold(self, pages: Tensor, cells: Tensor, target: int) -> None:
        """Copy what the layers without a window have of some blocks into another cell. All of it is final.

        Args:
            pages: [cells, layers, 2, kv heads, page tokens, dim].
            cells: of the blocks, int64 [blocks].
            target: a cell that nobody reads yet.
        """
        upto = self.blocks * len(self.layers)
        layers = torch.tensor(self.layers)
        of = (scales_of(pages), pages) if pages.dtype == torch.int8 else (pages,)
        for kept in of:
            kept[target, :upto] = kept[cells[:, None], layers].flatten(0, 1)
