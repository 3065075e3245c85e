"""Additions of low rank to products (LoRA), grouped: S-LoRA (arXiv:2311.03285), Punica (arXiv:2310.18547).

Tokens of one adapter are tiles, all tiles of a step two launches. Shrink: `scale * (A x)`; expand: adds `B` times that.
Adapters lie in slots, stacked: a slot's matrices are filled up with zeros to the largest rank. A tile has tokens of one
slot, gathered by their numbers, so rows without an adapter are in no tile. A token's sums are taken in one order,
whatever tile it is in: its bits do not depend on the batch, and no two programs write one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, operand

TILE: Final = 16  # tokens: the least that tensor cores take
_RANKS: Final = 64  # of a program of shrink, at most
_OUTPUTS: Final = 64  # of a program of expand
_INPUTS: Final = 64  # of a turn of shrink's loop


class Tiles(NamedTuple):
    """A step's tokens that have adapters.

    Attributes:
        tokens: int32 [count], their numbers in the step, slot by slot.
        slots, firsts, counts: int32 [tiles]; of each tile its adapter, and which of `tokens` are its.
    """

    tokens: Tensor
    slots: Tensor
    firsts: Tensor
    counts: Tensor


def tiles_of(groups: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> Tiles:
    """Cut tokens into tiles. groups: slots, each with the numbers of its tokens."""
    tokens: list[int] = []
    cut: list[tuple[int, int, int]] = []
    for slot, mine in groups:
        for at in range(0, len(mine), TILE):
            cut.append((slot, len(tokens) + at, min(TILE, len(mine) - at)))
        tokens += mine
    columns = torch.tensor(cut, dtype=torch.int32).view(-1, 3).T.contiguous().to(device)
    return Tiles(torch.tensor(tokens, dtype=torch.int32, device=device), columns[0], columns[1], columns[2])


def shrink(x: Tensor, a: Tensor, scales: Tensor, tiles: Tiles) -> Tensor:
    """`scale * (A x)` of every token of the tiles.

    Args:
        x: [tokens of the step, inputs], contiguous in the last dimension.
        a: [slots, rank, inputs], of the same dtype.
        scales: float32 [slots].

    Returns:
        float32 [tokens of the tiles, rank], in their order.
    """
    _, rank, inputs = a.shape
    middle = torch.empty(len(tiles.tokens), rank, dtype=torch.float32, device=x.device)
    block = min(_RANKS, max(16, triton.next_power_of_2(rank)))
    launch(
        _shrink, (len(tiles.slots), triton.cdiv(rank, block)), x=x, a=a, scales=scales, middle=middle,
        tokens=tiles.tokens, slots=tiles.slots, firsts=tiles.firsts, counts=tiles.counts, x_stride=x.stride(0),
        INPUTS=inputs, RANK=rank, ROWS=TILE, BLOCK_R=block, BLOCK_K=_INPUTS,
    )  # fmt: skip
    return middle


def expand(middle: Tensor, b: Tensor, tiles: Tiles, out: Tensor) -> None:
    """Add `B` times what `shrink` found to the outputs of the tiles' tokens.

    Args:
        middle: of `shrink`.
        b: [slots, outputs, rank].
        out: [tokens of the step, outputs], any stride between rows, contiguous within one: a part of fused outputs.
    """
    _, outputs, rank = b.shape
    launch(
        _expand, (len(tiles.slots), triton.cdiv(outputs, _OUTPUTS)), middle=middle, b=b, out=out,
        tokens=tiles.tokens, slots=tiles.slots, firsts=tiles.firsts, counts=tiles.counts, out_stride=out.stride(0),
        OUTPUTS=outputs, RANK=rank, ROWS=TILE, BLOCK_N=_OUTPUTS,
        BLOCK_R=min(_RANKS, max(16, triton.next_power_of_2(rank))),
    )  # fmt: skip


def reference(x: Tensor, a: Tensor, b: Tensor, scales: Tensor, tiles: Tiles, out: Tensor) -> None:
    """Both with torch, in float32."""
    for slot, first, count in zip(tiles.slots.tolist(), tiles.firsts.tolist(), tiles.counts.tolist(), strict=True):
        tokens = tiles.tokens[first : first + count].long()
        middle = (x[tokens].float() @ a[slot].float().T) * scales[slot]
        out[tokens] = (out[tokens].float() + middle.to(b.dtype).float() @ b[slot].float().T).to(out.dtype)


@triton.jit(do_not_specialize_on_alignment=["tokens", "slots", "firsts", "counts"])
def _shrink(
    x, a, scales, middle, tokens, slots, firsts, counts, x_stride,
    INPUTS: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program per tile and block of ranks."""
    slot = tl.load(slots + tl.program_id(0)).to(tl.int64)
    first = tl.load(firsts + tl.program_id(0))
    row = tl.arange(0, ROWS)
    mine = row < tl.load(counts + tl.program_id(0))
    token = tl.load(tokens + first + row, mask=mine, other=0).to(tl.int64)
    rank = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    total = tl.zeros((ROWS, BLOCK_R), tl.float32)
    for begin in range(0, INPUTS, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        left = tl.load(
            x + token[:, None] * x_stride + k[None, :], mask=mine[:, None] & (k[None, :] < INPUTS), other=0.0
        )
        right_at = a + (slot * RANK + rank[None, :]) * INPUTS + k[:, None]
        right = tl.load(right_at, mask=(rank[None, :] < RANK) & (k[:, None] < INPUTS), other=0.0)
        total = tl.dot(operand(left, left.dtype), operand(right, left.dtype), total, input_precision="ieee")
    there = middle + (first + row).to(tl.int64)[:, None] * RANK + rank[None, :]
    tl.store(there, total * tl.load(scales + slot), mask=mine[:, None] & (rank[None, :] < RANK))


@triton.jit(do_not_specialize_on_alignment=["tokens", "slots", "firsts", "counts"])
def _expand(
    middle, b, out, tokens, slots, firsts, counts, out_stride,
    OUTPUTS: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """One program per tile and block of outputs. What was shrunk is rounded to B's dtype, as PEFT has it."""
    slot = tl.load(slots + tl.program_id(0)).to(tl.int64)
    first = tl.load(firsts + tl.program_id(0))
    row = tl.arange(0, ROWS)
    mine = row < tl.load(counts + tl.program_id(0))
    token = tl.load(tokens + first + row, mask=mine, other=0).to(tl.int64)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for begin in range(0, RANK, BLOCK_R):
        rank = begin + tl.arange(0, BLOCK_R)
        left_at = middle + (first + row).to(tl.int64)[:, None] * RANK + rank[None, :]
        left = tl.load(left_at, mask=mine[:, None] & (rank[None, :] < RANK), other=0.0)
        left = narrow(left, b.dtype.element_ty)
        right_at = b + (slot * OUTPUTS + output[None, :]) * RANK + rank[:, None]
        right = tl.load(right_at, mask=(output[None, :] < OUTPUTS) & (rank[:, None] < RANK), other=0.0)
        total = tl.dot(operand(left, right.dtype), operand(right, right.dtype), total, input_precision="ieee")
    there = out + token[:, None] * out_stride + output[None, :]
    inside = mine[:, None] & (output[None, :] < OUTPUTS)
    before = tl.load(there, mask=inside, other=0.0).to(tl.float32)
    tl.store(there, narrow(before + total, out.dtype.element_ty), mask=inside)
