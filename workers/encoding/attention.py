"""Attention of every token of a row to all of its row, over a flat list of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.encoding.packing import groups


class _Part:
    """A group of rows in the flat list.

    Attributes:
        at: [rows, length] int64, each row's tokens, those that fill it up being its first one; None where all rows are
            equally long.
        mask: [rows, 1, 1, length] bool, which are tokens; None where all are.
        tokens: [tokens] int64, where the row's own tokens are among rows x length.
    """

    def __init__(self, first: int, lengths: Sequence[int], longest: int) -> None:
        self.rows, self.length = len(lengths), longest
        self.begin, self.end = first, first + sum(lengths)
        self.at: Tensor | None = None
        self.mask: Tensor | None = None
        self.tokens: Tensor | None = None
        if min(lengths) < longest:
            counts = np.asarray(lengths)
            starts = first + np.concatenate(([0], counts.cumsum()[:-1]))
            place = np.arange(longest)
            real = place < counts[:, None]
            self.at = torch.from_numpy(np.where(real, starts[:, None] + place, starts[:, None]))
            self.mask = torch.from_numpy(real)[:, None, None, :]
            self.tokens = torch.from_numpy(np.flatnonzero(real))


class Attention:
    """Of one step; every layer has the same rows.

    Args:
        lengths: of the rows, in descending order.
        heads: of attention.
        bias: [heads, longest, longest], added to the scores by distance; None where there is none.
    """

    def __init__(self, lengths: Sequence[int], heads: int, bias: Tensor | None = None) -> None:
        self._heads, self._bias = heads, bias
        self._parts: list[_Part] = []
        begin = 0
        for group in groups(lengths):
            part = _Part(begin, lengths[group.first : group.last], group.length)
            self._parts.append(part)
            begin = part.end

    def __call__(self, qkv: Tensor) -> Tensor:
        """[tokens, 3 * hidden], query, key and value beside each other, to [tokens, hidden]."""
        hidden = qkv.shape[1] // 3
        out = torch.empty((qkv.shape[0], hidden), dtype=qkv.dtype)
        for part in self._parts:
            own = qkv[part.begin : part.end] if part.at is None else qkv[part.at]
            shape = (part.rows, part.length, 3, self._heads, hidden // self._heads)
            query, key, value = own.view(shape).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, key, value, self._mask(part))
            flat = mixed.transpose(1, 2).reshape(part.rows * part.length, hidden)
            out[part.begin : part.end] = flat if part.tokens is None else flat[part.tokens]
        return out

    def _mask(self, part: _Part) -> Tensor | None:
        if self._bias is None:
            return part.mask
        bias = self._bias[None, :, : part.length, : part.length]
        return bias if part.mask is None else bias.masked_fill(~part.mask, -math.inf)


def distance_buckets(length: int, buckets: int, farthest: int = 128) -> Tensor:
    """[length, length] int64: which bucket the distance from a token to another falls into (Raffel et al. 2020, as in
    MPNet): half of them for each direction, of these half one token wide, the others by the logarithm up to
    `farthest`."""
    places = torch.arange(length)
    distance = places[:, None] - places[None, :]  # MPNet's sign: the other before this one is positive
    half = buckets // 2
    behind = (distance < 0).to(torch.int64) * half
    far = distance.abs()
    exact = half // 2
    large = exact + (torch.log(far.float().clamp(min=1) / exact) / math.log(farthest / exact) * (half - exact)).to(
        torch.int64
    )
    return behind + torch.where(far < exact, far, large.clamp(max=half - 1))
