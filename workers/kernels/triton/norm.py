"""RMSNorm (arXiv:1910.07467), with what stands around it in a layer: the residual before, quantisation after."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, rounded, row_scale
from workers.kernels.triton.tuning import Tuning


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, tuning: Tuning, scale: float = 1.0
) -> Tensor:
    """`rms_norm(residual + scale * x) * weight`; the sum is the new residual, in place.

    Args:
        x: [rows, hidden], what a block brought; of the embedding where there is no residual yet.
        residual: [rows, hidden], overwritten; None for a plain norm of x.
        weight: [hidden]. One in float32 multiplies before the result is rounded to x's dtype, any other one after it.
        eps: added to the mean square.
        tuning: of the GPU.
        scale: multiplies x, where there is a residual.

    Returns:
        [rows, hidden] in x's dtype.
    """
    out = torch.empty_like(x)
    _launch(x, residual, weight, eps, tuning, out, None, scale)
    return out


def add_rms_norm_quantised(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, tuning: Tuning, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `add_rms_norm`, rounded to `dtype` (float8_e4m3fn or int8) with a scale per row.

    Returns:
        [rows, hidden] and the scales, float32 [rows]: the result is the product of both.
    """
    out = torch.empty_like(x, dtype=dtype)
    scales = torch.empty(len(x), dtype=torch.float32, device=x.device)
    _launch(x, residual, weight, eps, tuning, out, scales)
    return out, scales


def reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same with torch: the norm in x's dtype, and the new residual."""
    total = x if residual is None else torch.add(residual, x, alpha=scale)
    normed = F.rms_norm(total.float(), weight.shape, None, eps)
    if weight.dtype == torch.float32:
        return (normed * weight).to(x.dtype), total
    return normed.to(x.dtype) * weight, total


def quantised_reference(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows [rows, n] rounded to float8_e4m3fn or int8, and their scales, float32 [rows], with torch."""
    limit = 127.0 if dtype == torch.int8 else 448.0
    peaks = values.float().abs().amax(-1)
    scales = torch.where(peaks > 0, peaks / limit, 1.0)
    scaled = (values.float() / scales[:, None]).clamp(-limit, limit)
    return ((scaled + 0.5).floor() if dtype == torch.int8 else scaled).to(dtype), scales


def _launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    tuning: Tuning,
    out: Tensor,
    scales: Tensor | None,
    scale: float = 1.0,
) -> None:
    rows, hidden = x.shape
    launch(
        _norm,
        (rows,),
        warps=tuning.rowwise_for(hidden).warps,
        x=x,
        residual=residual,
        weight=weight,
        out=out,
        scales=scales,
        x_stride=x.stride(0),
        hidden=hidden,
        eps=eps,
        factor=scale,
        BLOCK=triton.next_power_of_2(hidden),
    )


@triton.jit
def _norm(x, residual, weight, out, scales, x_stride, hidden, eps, factor, BLOCK: tl.constexpr):
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < hidden
    dtype: tl.constexpr = x.dtype.element_ty
    value = tl.load(x + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        total = residual + row * hidden + at
        value = rounded(value * factor + tl.load(total, mask=inside, other=0.0).to(tl.float32), dtype)
        tl.store(total, value.to(dtype), mask=inside)
    mean = tl.sum(value * value, 0) / hidden
    normed = tl.div_rn(value, tl.sqrt_rn(mean + eps))
    if weight.dtype.element_ty != tl.float32:
        normed = rounded(normed, dtype)
    found = normed * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if scales is not None:
        found = rounded(found, dtype)
        scale = row_scale(tl.max(tl.abs(found), 0), out.dtype.element_ty)
        tl.store(scales + row, scale)
        found = tl.div_rn(found, scale)
    tl.store(out + row * hidden + at, narrow(found, out.dtype.element_ty), mask=inside)
