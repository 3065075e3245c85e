"""From token ids to vectors and from vectors to logits. The vocabulary is shared out among the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from workers.layers.linear import Linear
from workers.models.interface import Collectives


class Embedding:
    """Looks token ids up.

    Args:
        weight: [ids of this rank, hidden].
        first: the first of them.
        collectives: the ranks; each brings zeros for ids that it does not hold.
    """

    def __init__(self, weight: Tensor, first: int, collectives: Collectives, *, whole: bool) -> None:
        self._weight, self._first, self._collectives, self._whole = weight, first, collectives, whole

    def __call__(self, ids: Tensor) -> Tensor:
        """[tokens] int64 to [tokens, hidden]."""
        if self._whole:
            return F.embedding(ids, self._weight)
        local = ids - self._first
        elsewhere = (local < 0) | (local >= len(self._weight))
        found = F.embedding(local.masked_fill(elsewhere, 0), self._weight)
        return self._collectives.all_reduce(found.masked_fill_(elsewhere[:, None], 0))


class Head:
    """The output head.

    Args:
        linear: to the logits of this rank's ids.
        sizes: ids of every rank, in order.
        collectives: the ranks.
    """

    def __init__(self, linear: Linear, sizes: Sequence[int], collectives: Collectives) -> None:
        self._linear, self._sizes, self._collectives = linear, sizes, collectives

    def __call__(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] to float32 [rows, vocabulary], on every rank."""
        return self._collectives.all_gather_last(self._linear(hidden).float(), self._sizes)
