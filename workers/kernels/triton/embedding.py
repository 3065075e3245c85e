"""The two ends of a model whose vocabulary the ranks of a tensor-parallel group share out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import tanh
from workers.kernels.triton.tuning import Tuning


def embed(ids: Tensor, weight: Tensor, first: int, tuning: Tuning) -> Tensor:
    """Rows of the weight; zeros for ids that other ranks hold, so that the sum over ranks is the embedding.

    Args:
        ids: integers [tokens].
        weight: [ids of this rank, hidden].
        first: the first of them.
        tuning: of the GPU.

    Returns:
        [tokens, hidden].
    """
    held, hidden = weight.shape
    out = torch.empty(len(ids), hidden, dtype=weight.dtype, device=weight.device)
    block = tuning.elementwise.block
    launch(
        _embed,
        (len(ids), triton.cdiv(hidden, block)),
        warps=tuning.elementwise.warps,
        ids=ids,
        weight=weight,
        out=out,
        first=first,
        held=held,
        hidden=hidden,
        BLOCK=block,
    )
    return out


def assemble_logits(parts: Tensor, sizes: Sequence[int], cap: float, tuning: Tuning) -> Tensor:
    """Logits of all ranks, as they were gathered, in the order of the vocabulary.

    Args:
        parts: [ranks, rows, width]: of each rank its ids' logits, padded to the widest rank's.
        sizes: ids of every rank.
        cap: logits are squeezed to (-cap, cap) by tanh (Gemma 2); 0 for no such thing.
        tuning: of the GPU.

    Returns:
        float32 [rows, vocabulary].
    """
    _, rows, width = parts.shape
    out = torch.empty(rows, sum(sizes), dtype=torch.float32, device=parts.device)
    block = tuning.elementwise.block
    first = 0
    for rank, size in enumerate(sizes):
        launch(
            _assemble,
            (rows, triton.cdiv(size, block)),
            warps=tuning.elementwise.warps,
            part=parts[rank],
            out=out,
            width=width,
            vocabulary=sum(sizes),
            first=first,
            size=size,
            CAP=cap,
            BLOCK=block,
        )
        first += size
    return out


def embed_reference(ids: Tensor, weight: Tensor, first: int) -> Tensor:
    """`embed` with torch."""
    local = ids.long() - first
    elsewhere = (local < 0) | (local >= len(weight))
    return weight[local.masked_fill(elsewhere, 0)].masked_fill(elsewhere[:, None], 0)


def assemble_reference(parts: Tensor, sizes: Sequence[int], cap: float) -> Tensor:
    """`assemble_logits` with torch."""
    logits = torch.cat([part[:, :size].float() for part, size in zip(parts, sizes, strict=True)], -1)
    return cap * torch.tanh(logits / cap) if cap else logits


@triton.jit
def _embed(ids, weight, out, first, held, hidden, BLOCK: tl.constexpr):
    """One program per token and block of the row."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    local = tl.load(ids + token).to(tl.int64) - first
    mine = (local >= 0) & (local < held)
    found = tl.load(weight + local * hidden + at, mask=mine & (at < hidden), other=0.0)
    tl.store(out + token * hidden + at, found, mask=at < hidden)


@triton.jit
def _assemble(part, out, width, vocabulary, first, size, CAP: tl.constexpr, BLOCK: tl.constexpr):
    """One program per row and block of one rank's ids."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(part + row * width + at, mask=at < size, other=0.0).to(tl.float32)
    if CAP > 0:
        logits = CAP * tanh(logits / CAP)
    tl.store(out + row * vocabulary + first + at, logits, mask=at < size)
