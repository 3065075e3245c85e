"""Drafts of a model that only rank 0 of a group has: the others are told, as they are told what was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from workers.group import Group
from workers.speculative.interface import Ints, Proposer

_NONE = -1


class OfFirstRank:
    """Implements `workers.speculative.interface.Proposer` on every rank.

    Args:
        proposer: rank 0's; the other ranks have none.
    """

    def __init__(self, group: Group, proposer: Proposer | None) -> None:
        self._group, self._proposer = group, proposer
        self.behind_ns = 0

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        table = torch.full((len(slots), int(most.max())), _NONE, dtype=torch.int64)
        if self._proposer is not None:
            for row, tokens in enumerate(self._proposer.propose(slots, most)):
                table[row, : len(tokens)] = torch.from_numpy(tokens)
            self.behind_ns = self._proposer.behind_ns
        told = self._group.share(table).numpy()
        return [np.ascontiguousarray(row[row != _NONE]) for row in told]
