"""From token ids to vectors and from vectors to logits. The vocabulary is shared out among the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.layers.linear import Product
from workers.models.interface import Collectives


class Embedding:
    """Looks token ids up.

    Args:
        weight: [ids of this rank, hidden].
        first: the first of them.
        collectives: the ranks; each brings zeros for ids that it does not hold.
        whole: this rank has all ids.
        scale: multiplies the vectors, rounded to their dtype, as the models were trained.
    """

    def __init__(
        self, weight: Tensor, first: int, collectives: Collectives, *, whole: bool, scale: float = 1.0
    ) -> None:
        self._weight, self._first, self._collectives, self._whole = weight, first, collectives, whole
        self._scale = torch.tensor(scale, dtype=weight.dtype).item()

    def __call__(self, ids: Tensor) -> Tensor:
        """[tokens] int64 to [tokens, hidden]."""
        found = self._looked_up(ids)
        return found if self._scale == 1.0 else found.mul_(self._scale)

    def _looked_up(self, ids: Tensor) -> Tensor:
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
        scale: multiplies the logits.
        cap: their soft limit, `cap * tanh(logit / cap)`; 0 is none.
    """

    def __init__(
        self, linear: Product, sizes: Sequence[int], collectives: Collectives, *, scale: float = 1.0, cap: float = 0.0
    ) -> None:
        self._linear, self._sizes, self._collectives = linear, sizes, collectives
        self._scale, self._cap = scale, cap

    def __call__(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] to float32 [rows, vocabulary], on every rank."""
        logits = self._linear(hidden).float()
        if self._scale != 1.0:
            logits *= self._scale
        if self._cap:
            logits = logits.div_(self._cap).tanh_().mul_(self._cap)
        return self._collectives.all_gather_last(logits, self._sizes)
