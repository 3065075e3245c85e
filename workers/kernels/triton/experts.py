"""Products of a mixture of experts: each row with the weight of its expert, all experts in one launch.

Rows are the choices of tokens, `tokens * chosen` of them. They are sorted by expert on the device, and each expert's
are filled up to whole blocks, so that a block has one weight (MegaBlocks, arXiv:2211.15841). How many blocks there are
is bounded by numbers that the host knows: nothing waits, and a graph serves any choice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow
from workers.kernels.triton.product import form_of, numbers_of, turn
from workers.kernels.triton.tuning import Tuning
from workers.weights.quantised.weight import QuantisedWeight, span_of


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


def grouped(x: Tensor, weight: Tensor | QuantisedWeight, blocks: Blocks, rows: int, tuning: Tuning) -> Tensor:
    """`x[row] @ weight[expert of the row].T`.

    Args:
        x: [rows or fewer, inputs]: where there are fewer, so many rows in a row share one.
        weight: [experts, outputs, inputs], contiguous; quantised, the same in front of each of its tensors. Its inputs
            stay floats here.
        blocks: of `align`, with blocks as `Tuning.grouped_for` has them.
        rows: of the result.
        tuning: of the GPU.

    Returns:
        [rows, outputs] in x's dtype; zeros for rows that are in no block.
    """
    numbers = weight if isinstance(weight, Tensor) else numbers_of(weight, x.dtype)
    experts, outputs, _ = numbers.shape
    inputs = x.shape[1]
    out = torch.zeros(rows, outputs, dtype=x.dtype, device=x.device)
    entry = tuning.grouped_for(rows // experts)
    count = len(blocks.expert_of)
    inner, of_weight = _described(weight, x.dtype, inputs, entry.inner)
    launch(
        _grouped,
        (count, triton.cdiv(outputs, entry.columns)),
        warps=entry.warps,
        stages=entry.stages if x.element_size() <= 2 else 1,  # float32 takes twice the memory
        x=x,
        weight=numbers,
        out=out,
        rows=blocks.rows,
        expert_of=blocks.expert_of,
        outputs=outputs,
        inputs=inputs,
        EVEN=inputs % inner == 0,
        SHARED_BY=rows // max(1, len(x)),
        ROWS=len(blocks.rows) // max(1, count),
        COLUMNS=entry.columns,
        INNER=inner,
        **of_weight,
    )
    return out


def _described(
    weight: Tensor | QuantisedWeight, dtype: torch.dtype, inputs: int, inner: int
) -> tuple[int, dict[str, Any]]:
    """Inputs of a step of up to `inner`, and what the kernel is told of how the weight is quantised."""
    if isinstance(weight, Tensor):
        return inner, {"scales": None, "mins": None, "groups": 1, "GROUP": inputs, "GROUPED": False, "SCALE_ROWS": 1,
                       "FORM": "as it is"}  # fmt: skip
    groups = weight.scales.shape[2]
    if weight.four_bits:
        inner = span_of(weight.group)
    elif groups > 1:
        inner = math.gcd(inner, weight.group)
    return inner, {
        "scales": weight.scales,
        "mins": weight.mins,
        "groups": groups,
        "GROUP": weight.group,
        "GROUPED": groups > 1 or weight.mins is not None,
        "SCALE_ROWS": -(-weight.numbers.shape[1] // weight.scales.shape[1]),
        "FORM": form_of(weight, dtype),
    }


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
    x, weight, scales, mins, out, rows, expert_of, outputs, inputs, groups,
    GROUP: tl.constexpr, GROUPED: tl.constexpr, SCALE_ROWS: tl.constexpr, FORM: tl.constexpr, EVEN: tl.constexpr,
    SHARED_BY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program per block of rows and of columns. Of quantised weights see `product`."""
    block = tl.program_id(0)
    expert = tl.load(expert_of + block)
    if expert >= 0:
        row = tl.load(rows + block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        there = row >= 0
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        used = column < outputs
        WIDTH: tl.constexpr = INNER // 2 if FORM == "int4" else INNER
        at = tl.arange(0, WIDTH)
        mine = x + (row // SHARED_BY)[:, None] * inputs + at[None, :]
        row_width = inputs // 2 if FORM == "int4" else inputs
        first = expert.to(tl.int64) * outputs
        of_expert = weight + (first + column)[None, :] * row_width + at[:, None]
        total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        scale_at = (expert.to(tl.int64) * tl.cdiv(outputs, SCALE_ROWS) + column // SCALE_ROWS) * groups
        for step in range(tl.cdiv(inputs, INNER)):
            fresh, amount = turn(
                mine, of_expert, step, at, there, used, inputs, None if GROUPED else total, mins, FORM, EVEN, INNER
            )
            if GROUPED:
                group = step * INNER // GROUP
                total += fresh * tl.load(scales + scale_at + group, mask=used, other=0.0).to(tl.float32)[None, :]
                if mins is not None:
                    least = tl.load(mins + (first + column) * groups + group, mask=used, other=0.0).to(tl.float32)
                    total += amount[:, None] * least[None, :]
            else:
                total = fresh
        if scales is not None and not GROUPED:
            total *= tl.load(scales + scale_at, mask=used, other=0.0).to(tl.float32)[None, :]
        to = out + row[:, None] * outputs + column[None, :]
        tl.store(to, narrow(total, out.dtype.element_ty), mask=there[:, None] & used[None, :])
