"""Quantised weights as floats again, where a step has so many rows that a product of floats is faster."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow
from workers.kernels.triton.product import form_of, numbers_of
from workers.kernels.triton.tuning import Tuning
from workers.weights.quantised.weight import QuantisedWeight, span_of


def dequantised(weight: QuantisedWeight, dtype: torch.dtype, tuning: Tuning) -> Tensor:
    """[rows, inputs]. The reference is `QuantisedWeight.weights`."""
    rows, inputs = weight.rows, weight.inputs
    out = torch.empty(rows, inputs, dtype=dtype, device=weight.numbers.device)
    block = tuning.elementwise.block
    launch(
        _widen,
        (rows, triton.cdiv(inputs, block)),
        warps=tuning.elementwise.warps,
        weight=numbers_of(weight, dtype),
        scales=weight.scales,
        mins=weight.mins,
        out=out,
        inputs=inputs,
        groups=weight.scales.shape[1],
        GROUP=weight.group,
        SCALE_ROWS=-(-rows // len(weight.scales)),
        SPAN=span_of(weight.group) if weight.four_bits else 0,
        FORM=form_of(weight, dtype),
        BLOCK=block,
    )
    return out


@triton.jit
def _widen(
    weight, scales, mins, out, inputs, groups,
    GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr, SPAN: tl.constexpr, FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row and block of inputs."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inputs
    if FORM == "int4":
        half = (at % SPAN) // (SPAN // 2)
        place = at // SPAN * (SPAN // 2) + at % (SPAN // 2)
        code = (tl.load(weight + row * (inputs // 2) + place, mask=inside, other=0).to(tl.int32) >> half * 4) & 15
        if mins is None:
            code = (code << 28) >> 28
        value = code.to(tl.float32)
    else:
        number = tl.load(weight + row * inputs + at, mask=inside, other=0)
        if FORM == "fp8 bits":
            wide = number.to(tl.int32)
            bits = ((wide & 0x80) << 24) | ((wide & 0x7F) << 20)
            value = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36
        else:
            value = number.to(tl.float32)
    group = at // GROUP
    value *= tl.load(scales + (row // SCALE_ROWS) * groups + group, mask=inside, other=0.0).to(tl.float32)
    if mins is not None:
        value += tl.load(mins + row * groups + group, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * inputs + at, narrow(value, out.dtype.element_ty), mask=inside)
