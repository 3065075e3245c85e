"""Products of a mixture of experts: each row with the weight of its expert, all experts in one launch.

Rows are the choices of tokens, `tokens * chosen` of them. They are sorted by expert on the device, and each expert's
are filled up to whole blocks, so that a block has one weight (MegaBlocks, arXiv:2211.15841). How many blocks there are
is bounded by numbers that the host knows: nothing waits, and a graph serves any choice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import operand
from workers.kernels.triton.tuning import Tuning


class Blocks(NamedTuple):
    """Rows by expert.

    Attributes:
        rows: int32 [blocks * rows of a block], -1 where a block is filled up.
        expert_of: int32 [blocks], -1 for blocks that are not needed.
    """

    rows: Tensor
    expert_of: Tensor


def align(experts_of: Tensor, experts: int, block: int) -> Blocks:
    """Sort rows by expert, in order within each.

    Args:
        experts_of: int64 [rows]; rows of an expert that is not in [0, experts) are left out.
        experts: how many there are here.
        block: rows of a block.
    """
    count, device = len(experts_of), experts_of.device
    blocks = count // block + min(count, experts)
    mine = torch.where((experts_of >= 0) & (experts_of < experts), experts_of, experts)
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=device).scatter_add_(0, mine, torch.ones_like(mine))
    filled = (counts + block - 1) // block * block
    # Nobody's rows go behind the last block, into one place that is not looked at.
    ends = filled[:experts].cumsum(0)
    starts = torch.cat([ends - filled[:experts], torch.full((1,), blocks * block, device=device)])
    order = mine.argsort(stable=True)
    sorted_experts = mine[order]
    within = torch.arange(count, device=device) - (counts.cumsum(0) - counts)[sorted_experts]
    place = torch.where(sorted_experts < experts, starts[sorted_experts] + within, blocks * block)
    rows = torch.full((blocks * block + 1,), -1, dtype=torch.int32, device=device)
    rows.scatter_(0, place, order.to(torch.int32))
    expert_of = torch.searchsorted(ends, torch.arange(blocks, device=device) * block, right=True)
    return Blocks(rows[:-1], torch.where(expert_of < experts, expert_of, -1).to(torch.int32))


def grouped(x: Tensor, weight: Tensor, blocks: Blocks, rows: int, tuning: Tuning) -> Tensor:
    """`x[row] @ weight[expert of the row].T`.

    Args:
        x: [rows or fewer, inputs]: where there are fewer, so many rows in a row share one.
        weight: [experts, outputs, inputs], contiguous.
        blocks: of `align`, with blocks as `Tuning.grouped_for` has them.
        rows: of the result.
        tuning: of the GPU.

    Returns:
        [rows, outputs] in x's dtype; zeros for rows that are in no block.
    """
    experts, outputs, inputs = weight.shape
    out = torch.zeros(rows, outputs, dtype=x.dtype, device=x.device)
    entry = tuning.grouped_for(rows // experts)
    count = len(blocks.expert_of)
    launch(
        _grouped,
        (count, triton.cdiv(outputs, entry.columns)),
        warps=entry.warps,
        stages=entry.stages if x.element_size() <= 2 else 1,  # float32 takes twice the memory
        x=x,
        weight=weight,
        out=out,
        rows=blocks.rows,
        expert_of=blocks.expert_of,
        outputs=outputs,
        inputs=inputs,
        SHARED_BY=rows // max(1, len(x)),
        ROWS=len(blocks.rows) // max(1, count),
        COLUMNS=entry.columns,
        INNER=entry.inner,
    )
    return out


def reference(x: Tensor, weight: Tensor, experts_of: Tensor) -> Tensor:
    """The same with torch: [rows, outputs]."""
    rows = len(experts_of)
    out = torch.zeros(rows, weight.shape[1], dtype=x.dtype, device=x.device)
    for row, expert in enumerate(experts_of.tolist()):
        if 0 <= expert < len(weight):
            out[row] = (x[row * len(x) // rows].float() @ weight[expert].float().T).to(x.dtype)
    return out


@triton.jit
def _grouped(
    x, weight, out, rows, expert_of, outputs, inputs,
    SHARED_BY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program per block of rows and of columns."""
    block = tl.program_id(0)
    expert = tl.load(expert_of + block)
    if expert >= 0:
        row = tl.load(rows + block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        there = row >= 0
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        mine = x + (row // SHARED_BY)[:, None] * inputs
        of_expert = weight + expert.to(tl.int64) * outputs * inputs + column.to(tl.int64)[None, :] * inputs
        dtype: tl.constexpr = x.dtype.element_ty
        total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for begin in range(0, inputs, INNER):
            at = begin + tl.arange(0, INNER)
            left = tl.load(mine + at[None, :], mask=there[:, None] & (at < inputs)[None, :], other=0.0)
            right = tl.load(
                of_expert + at[:, None], mask=(at < inputs)[:, None] & (column < outputs)[None, :], other=0.0
            )
            total = tl.dot(operand(left, dtype), operand(right, dtype), total, input_precision="ieee")
        to = out + row[:, None] * outputs + column[None, :]
        tl.store(to, total.to(dtype), mask=there[:, None] & (column < outputs)[None, :])
