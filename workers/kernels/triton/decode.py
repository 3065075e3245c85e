"""Decode attention over paged KV: split along the keys, then merged (Flash-Decoding, arXiv:2311.01282).

Splits are `SPLIT` tokens long and begin at multiples of it, whatever else is in the batch: a row's result depends on
the row alone. A row may hold a few query tokens (drafts that are verified) while tokens * heads of a group <= ROWS.

| kernel   | programs                        | does                                                            |
|----------|---------------------------------|-----------------------------------------------------------------|
| `_list`  | a row each                      | once a step: lists the splits, from the lengths on the device   |
| `_split` | as many as the GPU holds at once | walks (split, KV head); all query heads of a KV head at once    |
| `_merge` | a query token and head each     | adds the row's splits up, in their order                        |

No grid depends on a length, so a CUDA graph of these serves any step of its number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.attend import Paged, Shape, tile_of_keys
from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import narrow, operand
from workers.kernels.triton.tuning import Tuning

# Part of the results: another length, another order of sums.
SPLIT: Final = 256
# Rows of a product on NVIDIA's tensor cores; the interpreter would take fewer.
ROWS: Final = 16


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a step and the list of their splits; everything stays in place while a graph lives.

    Attributes:
        contexts: int32 [rows], tokens of each sequence after the step.
        query_starts, query_ends: int32 [rows], its query tokens among the step's.
        tables: int32 [rows, pages], their block tables.
        most_tokens: query tokens of a row, at most.
        first_splits: int32 [rows + 1], where each row's splits begin in the list, and their number.
        row_of: int32 [splits], the list.
    """

    contexts: Tensor
    query_starts: Tensor
    query_ends: Tensor
    tables: Tensor
    most_tokens: int
    first_splits: Tensor
    row_of: Tensor

    @classmethod
    def of(
        cls, contexts: Tensor, query_starts: Tensor, query_ends: Tensor, tables: Tensor, most_tokens: int, splits: int
    ) -> Rows:
        """With room for a list of so many splits."""
        first_splits, row_of = torch.empty(len(contexts) + 1 + splits, dtype=torch.int32, device=contexts.device).split(
            [len(contexts) + 1, splits]
        )
        return cls(contexts, query_starts, query_ends, tables, most_tokens, first_splits, row_of)


@dataclass(frozen=True, slots=True)
class Partial:
    """What splits bring, before they are merged. Shared by all layers.

    Attributes:
        sums: float32 [splits, kv_heads, most_tokens * group, head_dim], weighted values.
        peaks, totals: float32 [splits, kv_heads, most_tokens * group], largest score in powers of two, sum of weights.
    """

    sums: Tensor
    peaks: Tensor
    totals: Tensor

    @classmethod
    def of(cls, splits: int, kv_heads: int, rows: int, head_dim: int, device: torch.device) -> Partial:
        """Room for so many splits; rows: most_tokens * group."""
        shape = (splits, kv_heads, rows)
        sums = torch.empty(*shape, head_dim, dtype=torch.float32, device=device)
        return cls(sums, *torch.empty(2, *shape, dtype=torch.float32, device=device).unbind())


def most_splits(context: int, tokens: int = 1, window: int = 0) -> int:
    """Splits of a row, at most."""
    whole = -(-context // SPLIT)
    return whole if not window else min(whole, (window + tokens - 2) // SPLIT + 2)


def list_splits(rows: Rows, window: int) -> None:
    """Fill `first_splits` and `row_of` from the lengths. Once a step and window."""
    count = len(rows.contexts)
    launch(
        _list,
        (count + 1,),
        warps=4,
        contexts=rows.contexts,
        query_starts=rows.query_starts,
        query_ends=rows.query_ends,
        first_splits=rows.first_splits,
        row_of=rows.row_of,
        rows=count,
        WINDOW=window,
        SPLIT=SPLIT,
        BLOCK=triton.next_power_of_2(count),
    )


def decode(
    query: Tensor, kv: Paged, rows: Rows, partial: Partial, shape: Shape, tuning: Tuning, processors: int, out: Tensor
) -> None:
    """Attend, causally, to KV that is in the pages.

    Args:
        query: [tokens, heads, head_dim], heads contiguous.
        kv: of the layer.
        rows: listed for `shape.window`.
        partial: room for their splits.
        shape: of the layer.
        tuning: of the GPU.
        processors: multiprocessors of the GPU.
        out: [tokens, heads, head_dim], heads contiguous, filled for the rows' tokens.
    """
    heads, dim = query.shape[1:]
    group = heads // kv.kv_heads
    entry = tuning.split_for(dim, kv.pages.element_size())
    if rows.most_tokens * group > ROWS:
        raise ValueError(f"{rows.most_tokens} tokens of {group} heads do not fit {ROWS} rows of a product")
    fixed = {
        "KV_HEADS": kv.kv_heads,
        "GROUP": group,
        "KEPT": rows.most_tokens * group,
        "WINDOW": shape.window,
        "SPLIT": SPLIT,
        "DIM": dim,
        "BLOCK_D": max(16, triton.next_power_of_2(dim)),
    }
    launch(
        _split,
        (processors * entry.programs,),
        warps=entry.warps,
        stages=entry.stages,
        query=query,
        pages=kv.pages,
        scales=kv.scales,
        contexts=rows.contexts,
        query_starts=rows.query_starts,
        query_ends=rows.query_ends,
        tables=rows.tables,
        first_splits=rows.first_splits,
        row_of=rows.row_of,
        sums=partial.sums,
        peaks=partial.peaks,
        totals=partial.totals,
        rows=len(rows.contexts),
        query_stride=query.stride(0),
        table_stride=rows.tables.stride(0),
        cell_stride=kv.pages.stride(0),
        kv_stride=kv.pages.stride(1),
        scale=shape.scale,
        CAP=shape.cap,
        PAGE=kv.page_tokens,
        TILE=entry.tile,
        ROWS=ROWS,
        **fixed,
    )
    launch(
        _merge,
        (len(rows.contexts) * rows.most_tokens, heads),
        warps=4,
        sums=partial.sums,
        peaks=partial.peaks,
        totals=partial.totals,
        scales=kv.scales,
        query_starts=rows.query_starts,
        query_ends=rows.query_ends,
        first_splits=rows.first_splits,
        out=out,
        out_stride=out.stride(0),
        TOKENS=rows.most_tokens,
        AT_ONCE=16,
        **{name: value for name, value in fixed.items() if name not in ("WINDOW", "SPLIT")},
    )


@triton.jit
def _first_split(context, tokens, WINDOW: tl.constexpr, SPLIT: tl.constexpr):
    """The split of the first key that any of the row's last `tokens` tokens sees."""
    first = context * 0
    if WINDOW > 0:
        first = tl.maximum(context - tokens - WINDOW + 1, 0) // SPLIT
    return first


@triton.jit(
    do_not_specialize=["rows"],
    do_not_specialize_on_alignment=["contexts", "query_starts", "query_ends", "first_splits", "row_of"],
)
def _list(
    contexts, query_starts, query_ends, first_splits, row_of, rows,
    WINDOW: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row, and one for the total. No program waits for another: each adds up those before it."""
    mine = tl.program_id(0)
    row = tl.arange(0, BLOCK)
    context = tl.load(contexts + row, mask=row < mine, other=0)
    tokens = tl.load(query_ends + row, mask=row < mine, other=0)
    tokens -= tl.load(query_starts + row, mask=row < mine, other=0)
    splits = (context + SPLIT - 1) // SPLIT - _first_split(context, tokens, WINDOW, SPLIT)
    first = tl.sum(tl.where(row < mine, splits, 0), 0)
    tl.store(first_splits + mine, first)
    if mine < rows:
        length = tl.load(contexts + mine)
        count = tl.load(query_ends + mine) - tl.load(query_starts + mine)
        splits_of_mine = (length + SPLIT - 1) // SPLIT - _first_split(length, count, WINDOW, SPLIT)
        for begin in range(0, splits_of_mine, 128):
            at = begin + tl.arange(0, 128)
            tl.store(row_of + first + at, tl.zeros((128,), tl.int32) + mine, mask=at < splits_of_mine)


@triton.jit(
    do_not_specialize=["rows", "table_stride"],
    do_not_specialize_on_alignment=["contexts", "query_starts", "query_ends", "first_splits", "row_of", "tables"],
)
def _split(
    query, pages, scales, contexts, query_starts, query_ends, tables, first_splits, row_of, sums, peaks, totals,
    rows, query_stride, table_stride, cell_stride, kv_stride, scale,
    CAP: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, KEPT: tl.constexpr, WINDOW: tl.constexpr, SPLIT: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Walks every so-many-th (split, KV head). Rows of the product are (query token, head of the group)."""
    slot = tl.arange(0, ROWS)
    dim = tl.arange(0, BLOCK_D)
    units = tl.load(first_splits + rows) * KV_HEADS
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        item = unit // KV_HEADS
        kv_head = unit % KV_HEADS
        row = tl.load(row_of + item)
        context = tl.load(contexts + row)
        first_token = tl.load(query_starts + row)
        tokens = tl.load(query_ends + row) - first_token
        token = slot // GROUP
        valid = token < tokens
        position = context - tokens + token
        head = kv_head * GROUP + slot % GROUP
        at = query + (first_token + token).to(tl.int64)[:, None] * query_stride + head[:, None] * DIM + dim[None, :]
        wanted = tl.load(at, mask=valid[:, None] & (dim[None, :] < DIM), other=0.0)
        q = operand(wanted, wanted.dtype)
        split = item - tl.load(first_splits + row) + _first_split(context, tokens, WINDOW, SPLIT)
        begin = split * SPLIT
        end = tl.minimum(begin + SPLIT, context)
        k_scale = scale
        if scales is not None:
            k_scale = scale * tl.load(scales + kv_head)
        table = tables + row.to(tl.int64) * table_stride
        accumulated = tl.zeros((ROWS, BLOCK_D), tl.float32)
        peak = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        for start in range(begin, end, TILE):
            accumulated, peak, total = tile_of_keys(
                accumulated, peak, total, q, position, valid, pages, table, start, end,
                cell_stride, kv_stride, kv_head, k_scale, WINDOW, CAP, True, PAGE, DIM, BLOCK_D, TILE,
            )  # fmt: skip
        kept = slot < KEPT
        there = (item * KV_HEADS + kv_head).to(tl.int64) * KEPT + slot
        tl.store(peaks + there, peak, mask=kept)
        tl.store(totals + there, total, mask=kept)
        tl.store(sums + there[:, None] * DIM + dim[None, :], accumulated, mask=kept[:, None] & (dim[None, :] < DIM))


@triton.jit(do_not_specialize_on_alignment=["query_starts", "query_ends", "first_splits"])
def _merge(
    sums, peaks, totals, scales, query_starts, query_ends, first_splits, out, out_stride,
    TOKENS: tl.constexpr, AT_ONCE: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, KEPT: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program per query token and head."""
    row = tl.program_id(0) // TOKENS
    token = tl.program_id(0) % TOKENS
    head = tl.program_id(1)
    kv_head = head // GROUP
    first_token = tl.load(query_starts + row)
    if token < tl.load(query_ends + row) - first_token:
        dim = tl.arange(0, BLOCK_D)
        begin = tl.load(first_splits + row)
        end = tl.load(first_splits + row + 1)
        accumulated = tl.zeros((BLOCK_D,), tl.float32)
        peak = float("-inf")
        total = 0.0
        for start in range(begin, end, AT_ONCE):
            item = start + tl.arange(0, AT_ONCE)
            inside = item < end
            at = (item * KV_HEADS + kv_head).to(tl.int64) * KEPT + token * GROUP + head % GROUP
            peaks_here = tl.load(peaks + at, mask=inside, other=float("-inf"))
            totals_here = tl.load(totals + at, mask=inside, other=0.0)
            here = tl.load(
                sums + at[:, None] * DIM + dim[None, :], mask=inside[:, None] & (dim[None, :] < DIM), other=0.0
            )
            higher = tl.maximum(peak, tl.max(peaks_here, 0))
            base = tl.where(higher == float("-inf"), 0.0, higher)
            weight = tl.exp2(peaks_here - base)
            fade = tl.exp2(peak - base)
            accumulated = accumulated * fade + tl.sum(here * weight[:, None], 0)
            total = total * fade + tl.sum(totals_here * weight, 0)
            peak = higher
        found = accumulated / total
        if scales is not None:
            found = found * tl.load(scales + KV_HEADS + kv_head)
        there = out + (first_token + token).to(tl.int64) * out_stride + head * DIM + dim
        tl.store(there, narrow(found, out.dtype.element_ty), mask=dim < DIM)
