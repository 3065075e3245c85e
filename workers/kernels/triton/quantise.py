"""Rows of inputs rounded to FP8 or INT8, in one pass: the scale is found, told and divided by in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, row_scale
from workers.kernels.triton.tuning import Tuning


def quantise(x: Tensor, dtype: torch.dtype, group: int, tuning: Tuning) -> tuple[Tensor, Tensor]:
    """Rounded by what they are.

    Args:
        x: [rows, inputs], contiguous within a row.
        dtype: float8_e4m3fn or int8.
        group: inputs that share a scale; all of a row, or a power of two. The last group may be shorter.
        tuning: of the GPU.

    Returns:
        [rows, inputs] and the scales, float32 [rows, groups]; the product of both is x. A group of zeros has scale 1;
        one with a number that is none has a scale that is none, and no other group has anything of it.
    """
    return _quantise(x, dtype, None, group, tuning)


def quantise_by(x: Tensor, scale: Tensor, tuning: Tuning) -> tuple[Tensor, Tensor]:
    """As FP8 with a scale that is given, float32 [1], cut off where FP8 ends. The scales, [rows, 1], are that one."""
    return _quantise(x, torch.float8_e4m3fn, scale, x.shape[1], tuning)


def reference(x: Tensor, dtype: torch.dtype, group: int) -> tuple[Tensor, Tensor]:
    """`quantise` with torch."""
    rows, inputs = x.shape
    groups, limit = -(-inputs // group), 127.0 if dtype == torch.int8 else 448.0
    padded = torch.zeros(rows, groups * group)
    padded[:, :inputs] = x.float()
    grouped = padded.view(rows, groups, group)
    peaks = grouped.abs().amax(-1)
    scales = torch.where(peaks == 0, 1.0, peaks / limit)
    return _rounded(grouped / scales[..., None], dtype).view(rows, -1)[:, :inputs], scales


def reference_by(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """`quantise_by` with torch, of numbers."""
    return _rounded(x.float() / scale, torch.float8_e4m3fn), scale.expand(len(x), 1)


def _rounded(scaled: Tensor, dtype: torch.dtype) -> Tensor:
    limit = 127.0 if dtype == torch.int8 else 448.0
    scaled = scaled.nan_to_num(0.0).clamp(-limit, limit)
    return ((scaled + 0.5).floor() if dtype == torch.int8 else scaled).to(dtype)


def _quantise(x: Tensor, dtype: torch.dtype, given: Tensor | None, group: int, tuning: Tuning) -> tuple[Tensor, Tensor]:
    rows, inputs = x.shape
    block, groups = triton.next_power_of_2(group), triton.cdiv(inputs, group)
    assert group in (inputs, block), "groups are whole rows or powers of two"
    out = torch.empty(rows, inputs, dtype=dtype, device=x.device)
    scales = torch.empty(rows, groups, dtype=torch.float32, device=x.device)
    launch(
        _round,
        (rows, groups),
        warps=tuning.rowwise_for(group).warps,
        x=x,
        out=out,
        given=given,
        scales=scales,
        x_stride=x.stride(0),
        inputs=inputs,
        groups=groups,
        BLOCK=block,
    )
    return out, scales


@triton.jit
def _round(x, out, given, scales, x_stride, inputs, groups, BLOCK: tl.constexpr):
    """One program per row and group."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + row * x_stride + at, mask=at < inputs, other=0.0).to(tl.float32)
    scale = row_scale(tl.max(tl.abs(value), 0), out.dtype.element_ty) if given is None else tl.load(given)
    # Maxima and limits pass over what is no number; the row shall not.
    broken = tl.max((value != value).to(tl.int32), 0) != 0
    tl.store(scales + row * groups + tl.program_id(1), tl.where(broken, float("nan"), scale))
    scaled = tl.div_rn(value, scale)
    scaled = tl.where(scaled == scaled, scaled, 0.0)
    tl.store(out + row * inputs + at, narrow(scaled, out.dtype.element_ty), mask=at < inputs)
