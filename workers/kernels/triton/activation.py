"""SwiGLU and GeGLU (arXiv:2002.05202): the gated activation between the two products of an MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, rounded, row_scale, tanh
from workers.kernels.triton.tuning import Tuning
from workers.models.architecture import Activation

_ROOT = tl.constexpr(0.7978845608028654)  # of 2 / pi


def gated(gate_up: Tensor, tuning: Tuning, activation: Activation = "silu") -> Tensor:
    """`activation(gate) * up`: [rows, 2 n], gate first, to [rows, n]."""
    rows, twice = gate_up.shape
    out = torch.empty(rows, twice // 2, dtype=gate_up.dtype, device=gate_up.device)
    block = tuning.elementwise.block
    launch(
        _gated,
        (rows, triton.cdiv(twice // 2, block)),
        warps=tuning.elementwise.warps,
        gate_up=gate_up,
        out=out,
        scales=None,
        width=twice // 2,
        GELU=activation == "gelu_tanh",
        BLOCK=block,
    )
    return out


def gated_quantised(
    gate_up: Tensor, tuning: Tuning, dtype: torch.dtype, activation: Activation = "silu"
) -> tuple[Tensor, Tensor]:
    """As `gated`, rounded to `dtype` (float8_e4m3fn or int8) with a scale per row.

    Returns:
        [rows, n] and the scales, float32 [rows].
    """
    rows, twice = gate_up.shape
    out = torch.empty(rows, twice // 2, dtype=dtype, device=gate_up.device)
    scales = torch.empty(rows, dtype=torch.float32, device=gate_up.device)
    launch(
        _gated,
        (rows, 1),
        warps=tuning.rowwise_for(twice).warps,
        gate_up=gate_up,
        out=out,
        scales=scales,
        width=twice // 2,
        GELU=activation == "gelu_tanh",
        BLOCK=triton.next_power_of_2(twice // 2),
    )
    return out, scales


def reference(gate_up: Tensor, activation: Activation = "silu") -> Tensor:
    """The same with torch."""
    gate, up = gate_up.chunk(2, -1)
    return (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")) * up


@triton.jit
def _gated(gate_up, out, scales, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """One program per row and block; per row where rows are scaled."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    dtype: tl.constexpr = gate_up.dtype.element_ty
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        activated = 0.5 * gate * (1.0 + tanh((gate + 0.044715 * gate * gate * gate) * _ROOT))
    else:
        activated = gate / (1.0 + tl.exp(-gate))
    found = rounded(activated, dtype) * up
    if scales is not None:
        found = rounded(found, dtype)
        scale = row_scale(tl.max(tl.abs(found), 0), out.dtype.element_ty)
        tl.store(scales + row, scale)
        found = tl.div_rn(found, scale)
    tl.store(out + row * width + at, narrow(found, out.dtype.element_ty), mask=inside)
