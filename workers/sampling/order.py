"""A total order of the tokens of a row: larger logit first, then smaller id. Stateless. What cannot be drawn, at minus
infinity, has no order.

Top-k leaves open which of two equal logits it takes, and answers differently for different k; a token must not depend
on that. Equal logits are common: a model that computes in bfloat16 has few different ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def best_first(logits: Tensor, count: int) -> Tensor:
    """Ids of each row's `count` first tokens, in order: int64 [rows, count], or fewer where no row has more that can be
    drawn. A row that has fewer ends with ids of one that cannot. logits: float32 [rows, vocabulary]."""
    if count >= logits.shape[-1]:
        return logits.sort(dim=-1, descending=True, stable=True).indices
    # The count-th best value is certain, whichever of its equals top-k took: everything from it up holds the answer.
    least = logits.topk(count, dim=-1).values[:, -1:]
    enough = (logits >= least) & (logits > -torch.inf)  # a grammar rules out nearly all, which are not to be sorted
    rows, ids = enough.nonzero(as_tuple=True)  # ids go up within a row, which the stable sort keeps among equals
    per_row = enough.sum(-1)
    at = torch.arange(len(rows), device=logits.device) - (per_row.cumsum(0) - per_row)[rows]
    width = int(per_row.max())
    # Only cut rows have room left over: of the others every one has `count`.
    kept_ids = logits.argmin(-1, keepdim=True).repeat(1, width)
    kept = torch.full((len(logits), width), -torch.inf, device=logits.device)
    kept_ids[rows, at], kept[rows, at] = ids, logits[rows, ids]
    return kept_ids.gather(-1, kept.sort(dim=-1, descending=True, stable=True).indices[:, :count])
