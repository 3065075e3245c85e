"""Prefill attention over paged KV: many query tokens of a row at once, after whatever context its pages hold.

A program has a block of query tokens, times the query heads of one KV head, as rows of its products (FlashAttention-2,
arXiv:2307.08691). Tiles that every row sees whole are walked without a mask; the others are those at the diagonal and
at the near end of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.attend import Paged, Shape, tile_of_keys
from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, operand
from workers.kernels.triton.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of query tokens of a step's chunks.

    Attributes:
        rows: int32 [blocks], the row of each.
        tokens: int32 [blocks], its first token within the row's chunk.
        contexts: int32 [rows], tokens of each sequence after the step.
        query_starts, query_ends: int32 [rows], its chunk among the step's tokens.
        tables: int32 [rows, pages].
    """

    rows: Tensor
    tokens: Tensor
    contexts: Tensor
    query_starts: Tensor
    query_ends: Tensor
    tables: Tensor


def block_tokens(rows: int, group: int) -> int:
    """Query tokens of a program that has so many rows.

    Raises:
        ValueError: not even one token's heads fit.
    """
    if group > rows:
        raise ValueError(f"{group} query heads of a KV head do not fit {rows} rows of a product")
    return rows // group


def list_blocks(counts: list[int], tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(rows, first tokens) of the blocks of `tokens` query tokens; the last of a row first, for it is the longest."""
    blocks = [(row, first) for row, count in enumerate(counts) for first in reversed(range(0, count, tokens))]
    packed = torch.tensor(blocks, dtype=torch.int32).view(-1, 2).T.contiguous().to(device, non_blocking=True)
    return packed[0], packed[1]


def prefill(query: Tensor, kv: Paged, blocks: Blocks, shape: Shape, tuning: Tuning, out: Tensor) -> None:
    """Attend, causally, to KV that is in the pages, the step's own included.

    Args:
        query: [tokens, heads, head_dim], heads contiguous.
        kv: of the layer.
        blocks: of `block_tokens(tuning's rows, group)` tokens.
        shape: of the layer.
        tuning: of the GPU.
        out: [tokens, heads, head_dim], heads contiguous, filled for the rows' tokens.
    """
    heads, dim = query.shape[1:]
    group = heads // kv.kv_heads
    entry = tuning.chunk_for(dim, kv.pages.element_size())
    launch(
        _prefill,
        (len(blocks.rows), kv.kv_heads),
        warps=entry.warps,
        stages=entry.stages,
        query=query,
        pages=kv.pages,
        scales=kv.scales,
        block_rows=blocks.rows,
        block_firsts=blocks.tokens,
        contexts=blocks.contexts,
        query_starts=blocks.query_starts,
        query_ends=blocks.query_ends,
        tables=blocks.tables,
        out=out,
        query_stride=query.stride(0),
        out_stride=out.stride(0),
        table_stride=blocks.tables.stride(0),
        cell_stride=kv.pages.stride(0),
        kv_stride=kv.pages.stride(1),
        scale=shape.scale,
        WINDOW=shape.window,
        CAP=shape.cap,
        GROUP=group,
        TOKENS=block_tokens(entry.rows, group),
        KV_HEADS=kv.kv_heads,
        PAGE=kv.page_tokens,
        DIM=dim,
        BLOCK_D=max(16, triton.next_power_of_2(dim)),
        ROWS=entry.rows,
        TILE=entry.tile,
    )


@triton.jit(
    do_not_specialize=["table_stride"],
    do_not_specialize_on_alignment=[
        "block_rows",
        "block_firsts",
        "contexts",
        "query_starts",
        "query_ends",
        "tables",
    ],
)
def _prefill(
    query, pages, scales, block_rows, block_firsts, contexts, query_starts, query_ends, tables, out,
    query_stride, out_stride, table_stride, cell_stride, kv_stride, scale,
    WINDOW: tl.constexpr, CAP: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, KV_HEADS: tl.constexpr,
    PAGE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program per block of query tokens and KV head."""
    row = tl.load(block_rows + tl.program_id(0))
    first = tl.load(block_firsts + tl.program_id(0))
    kv_head = tl.program_id(1)
    context = tl.load(contexts + row)
    query_start = tl.load(query_starts + row)
    count = tl.load(query_ends + row) - query_start
    before = context - count

    slot = tl.arange(0, ROWS)
    dim = tl.arange(0, BLOCK_D)
    token = first + slot // GROUP
    valid = (slot < TOKENS * GROUP) & (token < count)
    position = before + token
    head = kv_head * GROUP + slot % GROUP
    token_at = (query_start + token).to(tl.int64)[:, None]
    wanted_at = query + token_at * query_stride + head[:, None] * DIM + dim[None, :]
    wanted = tl.load(wanted_at, mask=valid[:, None] & (dim[None, :] < DIM), other=0.0)
    q = operand(wanted, wanted.dtype)
    k_scale = scale
    if scales is not None:
        k_scale = scale * tl.load(scales + kv_head)
    table = tables + row.to(tl.int64) * table_stride

    # Keys [begin, near) and [far, end) are seen by some rows, [near, far) by all.
    end = before + tl.minimum(first + TOKENS, count)
    far = (before + first + 1) // TILE * TILE
    begin = far * 0
    near = far * 0
    if WINDOW > 0:
        begin = tl.maximum(before + first - WINDOW + 1, 0) // TILE * TILE
        near = tl.maximum(end - WINDOW + TILE - 1, 0) // TILE * TILE
        near = tl.maximum(tl.minimum(near, far), begin)
        far = tl.maximum(far, near)

    accumulated = tl.zeros((ROWS, BLOCK_D), tl.float32)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    if WINDOW > 0:
        for start in range(begin, near, TILE):
            accumulated, peak, total = tile_of_keys(
                accumulated, peak, total, q, position, valid, pages, table, start, end,
                cell_stride, kv_stride, kv_head, k_scale, WINDOW, CAP, True, PAGE, DIM, BLOCK_D, TILE,
            )  # fmt: skip
    for start in range(near, far, TILE):
        accumulated, peak, total = tile_of_keys(
            accumulated, peak, total, q, position, valid, pages, table, start, end,
            cell_stride, kv_stride, kv_head, k_scale, WINDOW, CAP, False, PAGE, DIM, BLOCK_D, TILE,
        )  # fmt: skip
    for start in range(far, end, TILE):
        accumulated, peak, total = tile_of_keys(
            accumulated, peak, total, q, position, valid, pages, table, start, end,
            cell_stride, kv_stride, kv_head, k_scale, WINDOW, CAP, True, PAGE, DIM, BLOCK_D, TILE,
        )  # fmt: skip
    found = accumulated / tl.where(valid, total, 1.0)[:, None]
    if scales is not None:
        found = found * tl.load(scales + KV_HEADS + kv_head)
    there = out + token_at * out_stride + head[:, None] * DIM + dim[None, :]
    tl.store(there, narrow(found, out.dtype.element_ty), mask=valid[:, None] & (dim[None, :] < DIM))
