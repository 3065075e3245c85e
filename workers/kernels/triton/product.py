"""Products with quantised weights: FP8 and INT8 with inputs of the same kind, and 4 or 8 bits with inputs in 16.

Weights stay as they are in memory and become operands in registers, exactly; scales multiply sums of one group, in
float32. So there is no rounding that the file's numbers have not had, but that of inputs where those are rounded too.

A row's sum is taken in an order that follows from the layer alone: steps of `inner` inputs, in splits of equally many
steps, added in order (Stream-K's fixed case, arXiv:2301.03598). Where a step has few rows, splits are programs of their
own, and `_sum` adds them; where it has many, one program computes all splits of its tile in the same order. So a row
has the same bits alone and in any company.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, operand
from workers.kernels.triton.tuning import Product, ProductKind, Tile, Tuning
from workers.weights.quantised.weight import QuantisedWeight, span_of

_MOST_SPLITS = 8
_LEAST_STEPS = 4  # of a split
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class Plan:
    """How a layer's product is computed; nothing of it follows from the step.

    Attributes:
        inner: inputs of a step.
        splits: of the inputs.
        table: of tiles.
    """

    inner: int
    splits: int
    table: Product

    def tile_for(self, rows: int) -> Tile:
        """Changes speed only."""
        return next(tile for tile in self.table.tiles if rows <= tile.up_to)


def kind_of(weight: QuantisedWeight, inputs_rounded: bool) -> ProductKind:
    """What the table calls it."""
    if inputs_rounded:
        return "fp8" if weight.numbers.dtype == FP8 else "int8"
    return "weight4" if weight.four_bits else "weight8"


def plan_of(weight: QuantisedWeight, inputs_rounded: bool, tuning: Tuning) -> Plan:
    """For one layer.

    Raises:
        NoTuning: the GPU's table has nothing for this kind.
    """
    table = tuning.product_for(kind_of(weight, inputs_rounded))
    inner = span_of(weight.group) if weight.four_bits else table.inner
    if weight.scales.shape[1] > 1:
        inner = math.gcd(inner, weight.group)
    steps = triton.cdiv(weight.inputs, inner)
    columns = triton.cdiv(weight.rows, table.tiles[0].columns)
    wanted = min(_MOST_SPLITS, steps // _LEAST_STEPS, table.programs // columns)
    return Plan(inner, 1 << max(0, wanted.bit_length() - 1), table)


def product(
    x: Tensor, x_scales: Tensor | None, weight: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype, plan: Plan
) -> Tensor:
    """`x @ weight.T + bias`.

    Args:
        x: [rows, inputs], floats; or FP8 or INT8, as the weight's numbers, with
        x_scales: float32 [rows, 1] or [rows, groups of the weight].
        weight: on the same device.
        bias: [outputs], or None.
        dtype: of the result.
        plan: of the weight.

    Returns:
        [rows, outputs].
    """
    rows, outputs, tile = len(x), weight.rows, plan.tile_for(len(x))
    out = torch.empty(rows, outputs, dtype=dtype, device=x.device)
    blocks = (triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.columns))
    shared_out = plan.splits > 1 and blocks[0] * blocks[1] < plan.table.programs
    exact = x.dtype == torch.int8
    to, groups = out, weight.scales.shape[1]
    if shared_out:
        to = torch.empty(plan.splits, rows, outputs, dtype=torch.int32 if exact else torch.float32, device=x.device)
    steps = triton.cdiv(weight.inputs, plan.inner)
    launch(
        _product,
        (*blocks, plan.splits if shared_out else 1),
        warps=tile.warps,
        stages=tile.stages if x.element_size() <= 2 else 1,  # float32 takes twice the memory
        x=x,
        x_scales=x_scales,
        weight=numbers_of(weight, x.dtype),
        scales=weight.scales,
        mins=weight.mins,
        bias=None if shared_out else bias,
        out=to,
        rows=rows,
        x_stride=x.stride(0),
        outputs=outputs,
        inputs=weight.inputs,
        groups=groups,
        GROUP=weight.group,
        GROUPED=groups > 1 or weight.mins is not None,
        X_SCALES=0 if x_scales is None else min(2, x_scales.shape[1]),
        SCALE_ROWS=-(-outputs // len(weight.scales)),
        FORM=form_of(weight, x.dtype),
        SHARED_OUT=shared_out,
        SPLITS=plan.splits,
        PER_SPLIT=triton.cdiv(steps, plan.splits),
        STEPS=steps,
        EVEN=weight.inputs % plan.inner == 0,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        INNER=plan.inner,
    )
    if shared_out:
        _finish(to, x_scales, weight, bias, out, plan.table.sum_block, grouped=groups > 1 or weight.mins is not None)
    return out


def form_of(weight: QuantisedWeight, dtype: torch.dtype) -> str:
    """How numbers become operands beside inputs of a dtype."""
    if weight.four_bits:
        return "int4"
    return "fp8 bits" if weight.numbers.dtype == FP8 != dtype else "as it is"


def numbers_of(weight: QuantisedWeight, dtype: torch.dtype) -> Tensor:
    """As a kernel takes them: FP8 that becomes wider as plain bytes, which every GPU has."""
    return weight.numbers.view(torch.int8) if form_of(weight, dtype) == "fp8 bits" else weight.numbers


def finished(
    sums: Tensor, x_scales: Tensor, weight: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype, plan: Plan
) -> Tensor:
    """A product of integers that another library summed, int32 [rows, outputs], scaled as `product` does."""
    out = torch.empty(sums.shape, dtype=dtype, device=sums.device)
    _finish(sums[None], x_scales, weight, bias, out, plan.table.sum_block, grouped=False)
    return out


def reference(x: Tensor, x_scales: Tensor | None, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
    """`product` with torch, float64."""
    inputs = x.double()
    if x_scales is not None:
        inputs = inputs * x_scales.double().repeat_interleave(weight.group, 1)[:, : inputs.shape[1]]
    found = inputs @ weight.weights().double().T
    return found if bias is None else found + bias.double()


def _finish(
    parts: Tensor, x_scales: Tensor | None, weight: QuantisedWeight, bias: Tensor | None, out: Tensor, block: int,
    *, grouped: bool,
) -> None:  # fmt: skip
    splits, rows, outputs = parts.shape
    launch(
        _sum,
        (rows, triton.cdiv(outputs, block)),
        parts=parts,
        x_scales=x_scales,
        scales=weight.scales,
        bias=bias,
        out=out,
        rows=rows,
        outputs=outputs,
        GROUPED=grouped,
        X_SCALES=0 if x_scales is None else min(2, x_scales.shape[1]),
        SPLITS=splits,
        BLOCK=block,
    )


@triton.jit
def _small(numbers, FORM: tl.constexpr, like: tl.constexpr):
    """Numbers of 8 bits as an operand, exactly."""
    if FORM == "fp8 bits":
        # Sign, exponent and mantissa in the places of float32's, 120 powers of two too small.
        wide = numbers.to(tl.int32)
        bits = ((wide & 0x80) << 24) | ((wide & 0x7F) << 20)
        return operand(bits.to(tl.float32, bitcast=True) * 1.329227995784916e36, like)
    if numbers.dtype == tl.int8:
        # Added to the bits of 1.5 * 2 ** 23: conversions of integers are slow, and take a stack on Blackwell.
        bits = numbers.to(tl.int32) + 0x4B400000
        return operand(bits.to(tl.float32, bitcast=True) - 12582912.0, like)
    return operand(numbers, like)


@triton.jit
def turn(
    x_at, weight_at, step, at, mine, there, inputs, sums, mins,
    FORM: tl.constexpr, EVEN: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """A step of `INNER` inputs: products, added to `sums` where there are any, and what each row's inputs add up to,
    which mins multiply."""
    like: tl.constexpr = x_at.dtype.element_ty
    WIDTH: tl.constexpr = INNER // 2 if FORM == "int4" else INNER
    k = step * INNER
    amount = 0.0
    if EVEN:
        left = tl.load(x_at + k, mask=mine[:, None], other=0.0)
        right = tl.load(weight_at + step * WIDTH, mask=there[None, :], other=0.0)
    else:
        inside = k + at < inputs
        left = tl.load(x_at + k, mask=mine[:, None] & inside[None, :], other=0.0)
        right = tl.load(weight_at + step * WIDTH, mask=there[None, :] & inside[:, None], other=0.0)
    if like == tl.int8:
        fresh = tl.dot(left, right, sums, out_dtype=tl.int32)
    elif FORM == "int4":
        further = tl.load(x_at + k + WIDTH, mask=mine[:, None], other=0.0)
        if mins is not None:
            low, high = right & 15, right >> 4
            amount = tl.sum(left.to(tl.float32), 1) + tl.sum(further.to(tl.float32), 1)
        else:
            signed = right.to(tl.int8, bitcast=True)
            low, high = (signed << 4) >> 4, signed >> 4
        fresh = tl.dot(operand(left, like), operand(low, like), sums, input_precision="ieee")
        fresh = tl.dot(operand(further, like), operand(high, like), fresh, input_precision="ieee")
    else:
        # Hopper's FP8 sums keep 14 bits: every step is added to float32.
        fresh = tl.dot(
            operand(left, like), _small(right, FORM, like), sums, input_precision="ieee", max_num_imprecise_acc=INNER
        )
        if mins is not None:
            amount = tl.sum(left.to(tl.float32), 1)
    return fresh, amount


@triton.jit
def _scaled(total, x_scales, scales, row, column, rows, outputs, GROUPED: tl.constexpr, X_SCALES: tl.constexpr):
    """Scales that are the same for a whole sum."""
    total = total.to(tl.float32)
    if not GROUPED:
        total *= tl.load(scales + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
    if X_SCALES == 1:
        total *= tl.load(x_scales + row, mask=row < rows, other=0.0)[:, None]
    return total


@triton.jit(do_not_specialize=["rows"])
def _product(
    x, x_scales, weight, scales, mins, bias, out, rows, x_stride, outputs, inputs, groups,
    GROUP: tl.constexpr, GROUPED: tl.constexpr, X_SCALES: tl.constexpr, SCALE_ROWS: tl.constexpr, FORM: tl.constexpr,
    SHARED_OUT: tl.constexpr, SPLITS: tl.constexpr, PER_SPLIT: tl.constexpr, STEPS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program per block of rows, block of outputs and, where splits are shared out, split."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mine, there = row < rows, column < outputs
    like: tl.constexpr = x.dtype.element_ty
    sums: tl.constexpr = tl.int32 if like == tl.int8 else tl.float32
    WIDTH: tl.constexpr = INNER // 2 if FORM == "int4" else INNER  # numbers of a weight's row in a step
    A_ROW: tl.constexpr = 2 if FORM == "int4" else 1
    at = tl.arange(0, WIDTH)
    x_at = x + row.to(tl.int64)[:, None] * x_stride + at[None, :]
    weight_at = weight + column.to(tl.int64)[None, :] * (inputs // A_ROW) + at[:, None]
    scale_at = scales + (column // SCALE_ROWS) * groups
    first = tl.program_id(2) if SHARED_OUT else 0
    total = tl.zeros([ROWS, COLUMNS], dtype=sums)
    for split in range(first, first + 1 if SHARED_OUT or SPLITS == 1 else SPLITS):
        begin, end = split * PER_SPLIT, tl.minimum((split + 1) * PER_SPLIT, STEPS)
        part = tl.zeros([ROWS, COLUMNS], dtype=sums)
        for step in range(begin, end):
            fresh, amount = turn(
                x_at, weight_at, step, at, mine, there, inputs, None if GROUPED else part, mins, FORM, EVEN, INNER
            )
            if GROUPED:
                group = step * INNER // GROUP
                if X_SCALES == 2:
                    fresh *= tl.load(x_scales + row * groups + group, mask=mine, other=0.0)[:, None]
                part += fresh * tl.load(scale_at + group, mask=there, other=0.0).to(tl.float32)[None, :]
                if mins is not None:
                    least = tl.load(mins + column * groups + group, mask=there, other=0.0).to(tl.float32)
                    part += amount[:, None] * least[None, :]
            else:
                part = fresh
        total += part
    place = row.to(tl.int64)[:, None] * outputs + column[None, :]
    inside = mine[:, None] & there[None, :]
    if SHARED_OUT:
        tl.store(out + tl.cast(first, tl.int64) * rows * outputs + place, total, mask=inside)
    else:
        found = _scaled(total, x_scales, scales, row, column // SCALE_ROWS, rows, outputs, GROUPED, X_SCALES)
        if bias is not None:
            found += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)[None, :]
        tl.store(out + place, narrow(found, out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _sum(
    parts, x_scales, scales, bias, out, rows, outputs,
    GROUPED: tl.constexpr, X_SCALES: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row and block of outputs: splits in order, then scales and bias."""
    row = tl.program_id(0) + tl.arange(0, 1)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < outputs
    place = row.to(tl.int64)[:, None] * outputs + column[None, :]
    total = tl.load(parts + place, mask=there[None, :], other=0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(parts + tl.cast(split, tl.int64) * rows * outputs + place, mask=there[None, :], other=0)
    found = _scaled(total, x_scales, scales, row, column, rows, outputs, GROUPED, X_SCALES)
    if bias is not None:
        found += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, narrow(found, out.dtype.element_ty), mask=there[None, :])
