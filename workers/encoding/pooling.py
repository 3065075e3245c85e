"""From hidden states to one vector a row."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.encoding.architecture import Pooling


def pool(hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """[tokens, hidden] of rows one after the other to float32 [rows, hidden].

    Args:
        lengths: [rows] int64, of the rows.
    """
    ends = lengths.cumsum(0)
    if pooling == "cls":
        return hidden[ends - lengths].float()
    if pooling == "max":
        return torch.segment_reduce(hidden.float(), "max", lengths=lengths)
    total = torch.segment_reduce(hidden.float(), "sum", lengths=lengths)
    count = lengths[:, None].float()
    return total / (count if pooling == "mean" else count.sqrt())


def normalise(vectors: Tensor) -> Tensor:
    """Rows of length 1; one of zeros stays as it is."""
    return torch.nn.functional.normalize(vectors, dim=-1)
