"""Between the QKV product and attention, one kernel: norm of queries and keys, rotation, K and V into their pages."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from workers.attention.interface import HeadNorms
from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, rounded


class Destination(NamedTuple):
    """Where a step's K and V go.

    Attributes:
        pages: one layer's, [cells, 2, kv_heads, page tokens, head dim], the last two contiguous.
        page_of, offset_of: int64 [tokens].
        scales: float32 [2, kv_heads] that stored numbers are multiplied with; None where pages are not quantised.
    """

    pages: Tensor
    page_of: Tensor
    offset_of: Tensor
    scales: Tensor | None


def rotate_and_write(
    qkv: Tensor,
    kv_heads: int,
    angles: tuple[Tensor, Tensor] | None,
    to: Destination,
    norms: HeadNorms | None = None,
) -> None:
    """Norm and rotate queries and keys in place, and write K and V into their pages.

    Args:
        qkv: [tokens, heads + 2 * kv_heads, head_dim], queries first; there may be none.
        kv_heads: of this rank.
        angles: cosines and sines, float32 [tokens, rotated / 2]; None where queries and keys are rotated already. What
            is behind the first `rotated` numbers of a head stays as it is.
        to: the pages.
        norms: of queries and keys, for models that have them.
    """
    tokens, all_heads, dim = qkv.shape
    pages, page_of, offset_of, scales = to
    cos, sin = angles if angles is not None else (None, None)
    rotated = dim if cos is None else 2 * cos.shape[-1]
    query_norm, key_norm, eps = norms if norms is not None else (None, None, 0.0)
    launch(
        _rotate_and_write,
        (tokens, all_heads),
        warps=1,
        qkv=qkv,
        cos=cos,
        sin=sin,
        query_norm=query_norm,
        key_norm=key_norm,
        pages=pages,
        page_of=page_of,
        offset_of=offset_of,
        scales=scales,
        token_stride=qkv.stride(0),
        cell_stride=pages.stride(0),
        kv_stride=pages.stride(1),
        eps=eps,
        HEADS=all_heads - 2 * kv_heads,
        KV_HEADS=kv_heads,
        PAGE=pages.shape[3],
        DIM=dim,
        ROTATED=rotated,
        BLOCK=triton.next_power_of_2(rotated // 2),
        REST=triton.next_power_of_2(dim - rotated) if rotated < dim else 0,
    )


def reference(
    qkv: Tensor,
    kv_heads: int,
    angles: tuple[Tensor, Tensor] | None,
    to: Destination,
    norms: HeadNorms | None = None,
) -> None:
    """The same with torch."""
    heads, dim = qkv.shape[1] - 2 * kv_heads, qkv.shape[2]
    rotated = qkv[:, : heads + kv_heads].float()
    if norms is not None:
        normed = F.rms_norm(rotated, (dim,), None, norms.eps)
        weights = torch.stack([norms.query] * heads + [norms.key] * kv_heads)
        normed = normed if weights.dtype == torch.float32 else normed.to(qkv.dtype)
        rotated = (normed * weights).to(qkv.dtype).float()
    if angles is not None:
        cos, sin = (each[:, None] for each in angles)
        (x, y), rest = rotated[..., : 2 * cos.shape[-1]].chunk(2, -1), rotated[..., 2 * cos.shape[-1] :]
        rotated = torch.cat([x * cos - y * sin, x * sin + y * cos, rest], -1)
    rotated = rotated.to(qkv.dtype)
    qkv[:, : heads + kv_heads] = rotated
    kv = qkv[:, heads:].view(len(qkv), 2, kv_heads, dim)
    to.pages[to.page_of, :, :, to.offset_of] = as_stored(kv, to.pages.dtype, to.scales)


def as_stored(kv: Tensor, dtype: torch.dtype, scales: Tensor | None) -> Tensor:
    """K and V, [tokens, 2, kv_heads, head_dim], as pages hold them."""
    if scales is None:
        return kv.to(dtype)
    limit = 127.0 if dtype == torch.int8 else 448.0
    scaled = (kv.float() / scales[:, :, None]).clamp(-limit, limit)
    return ((scaled + 0.5).floor() if dtype == torch.int8 else scaled).to(dtype)


@triton.jit
def _weighted(x, root, weight, at, inside, dtype: tl.constexpr):
    """`x / root * weight`; a weight in float32 multiplies before rounding, any other one after it."""
    x = tl.div_rn(x, root)
    if weight.dtype.element_ty != tl.float32:
        x = rounded(x, dtype)
    return rounded(x * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32), dtype)


@triton.jit
def _rotate_and_write(
    qkv, cos, sin, query_norm, key_norm, pages, page_of, offset_of, scales,
    token_stride, cell_stride, kv_stride, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, ROTATED: tl.constexpr,
    BLOCK: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """One program per token and head of q, k, v: `x` and `y` are the halves of what is rotated, `z` is the rest."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = ROTATED // 2
    at = tl.arange(0, BLOCK)
    inside = at < half
    dtype: tl.constexpr = qkv.dtype.element_ty
    mine = qkv + token * token_stride + head * DIM
    x = tl.load(mine + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(mine + half + at, mask=inside, other=0.0).to(tl.float32)
    if REST > 0:
        behind = ROTATED + tl.arange(0, REST)
        z = tl.load(mine + behind, mask=behind < DIM, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        if query_norm is not None:
            weight = query_norm
            if head >= HEADS:
                weight = key_norm
            total = tl.sum(x * x, 0) + tl.sum(y * y, 0)
            if REST > 0:
                total += tl.sum(z * z, 0)
            root = tl.sqrt_rn(total / DIM + eps)
            x = _weighted(x, root, weight, at, inside, dtype)
            y = _weighted(y, root, weight, half + at, inside, dtype)
            if REST > 0:
                z = _weighted(z, root, weight, behind, behind < DIM, dtype)
        if cos is not None:
            c = tl.load(cos + token * half + at, mask=inside, other=0.0)
            s = tl.load(sin + token * half + at, mask=inside, other=0.0)
            x, y = rounded(x * c - y * s, dtype), rounded(x * s + y * c, dtype)
        if (query_norm is not None) or (cos is not None):
            tl.store(mine + at, x.to(dtype), mask=inside)
            tl.store(mine + half + at, y.to(dtype), mask=inside)
            if REST > 0:
                tl.store(mine + behind, z.to(dtype), mask=behind < DIM)
    if head >= HEADS:
        part = (head - HEADS) // KV_HEADS  # 0 for K, 1 for V
        kv_head = (head - HEADS) % KV_HEADS
        if scales is not None:
            scale = tl.load(scales + part * KV_HEADS + kv_head)
            x, y = tl.div_rn(x, scale), tl.div_rn(y, scale)
            if REST > 0:
                z = tl.div_rn(z, scale)
        cell = tl.load(page_of + token).to(tl.int64)
        offset = tl.load(offset_of + token)
        there = pages + cell * cell_stride + part * kv_stride + kv_head * PAGE * DIM + offset * DIM
        stored: tl.constexpr = pages.dtype.element_ty
        tl.store(there + at, narrow(x, stored), mask=inside)
        tl.store(there + half + at, narrow(y, stored), mask=inside)
        if REST > 0:
            tl.store(there + behind, narrow(z, stored), mask=behind < DIM)
