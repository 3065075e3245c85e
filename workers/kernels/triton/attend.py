"""What both attention kernels do with a tile of keys: scores, mask, online softmax (arXiv:1805.02867)."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.numerics import LOG2E, operand, tanh


@dataclass(frozen=True, slots=True)
class Paged:
    """One layer's KV as kernels read it.

    Attributes:
        pages: [cells, 2, kv_heads, page tokens, head dim], the last three contiguous but for other ranks' heads.
        scales: float32 [2, kv_heads] that stored numbers are multiplied with; None where pages are not quantised.
    """

    pages: Tensor
    scales: Tensor | None

    @property
    def kv_heads(self) -> int:
        """Of this rank."""
        return self.pages.shape[2]

    @property
    def page_tokens(self) -> int:
        """Tokens of a page."""
        return self.pages.shape[3]

    @property
    def head_dim(self) -> int:
        """Numbers of a head."""
        return self.pages.shape[4]


@dataclass(frozen=True, slots=True)
class Shape:
    """What of attention is the same for all steps of a layer.

    Attributes:
        scale: of the scores, usually head_dim ** -0.5.
        window: keys that a query sees, itself among them; 0 for all.
        cap: scores are squeezed to (-cap, cap) by tanh (Gemma 2); 0 for no such thing.
    """

    scale: float
    window: int = 0
    cap: float = 0.0


@triton.jit
def tile_of_keys(
    accumulated, peak, total, query, position, valid, pages, table, start, end,
    cell_stride, kv_stride, kv_head, scale,
    WINDOW: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr,
    PAGE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Attend to keys [start, start + TILE) of one sequence, those from `end` on left out.

    query: [rows, BLOCK_D]; position, valid: [rows]; table: its block table; scale: of the scores, K's scale within.
    Without MASKED every row sees every key. Returns the running (accumulated, peak, total); peaks are in powers of two.
    """
    token = start + tl.arange(0, TILE)
    dim = tl.arange(0, BLOCK_D)
    # int64 before the multiplication: a pool has more numbers than 32 bits count.
    if PAGE % TILE == 0:
        cell = tl.load(table + start // PAGE).to(tl.int64)
        begin = pages + cell * cell_stride + kv_head * PAGE * DIM + (token % PAGE) * DIM
    else:
        cell = tl.load(table + token // PAGE, mask=token < end, other=0).to(tl.int64)
        begin = pages + cell * cell_stride + kv_head * PAGE * DIM + (token % PAGE) * DIM
    if MASKED:
        # What is behind the end of a sequence is whatever the page's former life left there, NaN too.
        inside = token < end
        if DIM != BLOCK_D:
            key = tl.load(begin[None, :] + dim[:, None], mask=inside[None, :] & (dim[:, None] < DIM), other=0.0)
        else:
            key = tl.load(begin[None, :] + dim[:, None], mask=inside[None, :], other=0.0)
    elif DIM != BLOCK_D:
        key = tl.load(begin[None, :] + dim[:, None], mask=dim[:, None] < DIM, other=0.0)
    else:
        key = tl.load(begin[None, :] + dim[:, None])
    score = tl.dot(query, operand(key, query.dtype)) * scale
    if CAP > 0:
        score = CAP * tanh(score / CAP)
    score = score * LOG2E
    if MASKED:
        seen = valid[:, None] & (token[None, :] <= position[:, None])
        if WINDOW > 0:
            seen = seen & (token[None, :] > position[:, None] - WINDOW)
        score = tl.where(seen, score, float("-inf"))
    higher = tl.maximum(peak, tl.max(score, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # rows that have seen no key yet
    weight = tl.exp2(score - base[:, None])
    fade = tl.exp2(peak - base)
    total = total * fade + tl.sum(weight, 1)
    value_at = begin + kv_stride
    if MASKED:
        inside = token < end
        if DIM != BLOCK_D:
            value = tl.load(value_at[:, None] + dim[None, :], mask=inside[:, None] & (dim[None, :] < DIM), other=0.0)
        else:
            value = tl.load(value_at[:, None] + dim[None, :], mask=inside[:, None], other=0.0)
    elif DIM != BLOCK_D:
        value = tl.load(value_at[:, None] + dim[None, :], mask=dim[None, :] < DIM, other=0.0)
    else:
        value = tl.load(value_at[:, None] + dim[None, :])
    accumulated = tl.dot(operand(weight, query.dtype), operand(value, query.dtype), accumulated * fade[:, None])
    return accumulated, higher, total
