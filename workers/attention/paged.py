"""Paged attention with torch operators on a CPU.

Per layer: scatter the new K and V into their pages, then for every row gather its pages into a scratch buffer and
attend to that. Decode rows of similar length share two batched matrix products, with the query heads of a KV head as
rows of one of them (torch's own grouped-query path is 1.4 times slower); a prefill chunk is one row, in blocks of
queries. Whatever the pages' dtype is, the attention itself is computed in float32.

Every cell whose first token was written here holds finite numbers everywhere: what is behind a sequence's end in its
last page is read, with a weight of zero, and zero times a stray NaN of the page's former life would be NaN.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.groups import group_rows
from workers.models.interface import Batch

_SCRATCH_BYTES: Final = 64 << 20
_MASK_NUMBERS: Final = 1 << 20


class PagedAttention:
    """Implements `workers.attention.interface.Attention`.

    Args:
        kv_heads: the KV heads of this rank, a range of all ranks'.
        group: query heads that share a KV head.
    """

    def __init__(self, kv_heads: range, group: int) -> None:
        self._kv_heads, self._group = kv_heads, group
        self._pages = torch.empty(0)
        self._page_of = self._offset_of = torch.empty(0, dtype=torch.int64)
        self._parts: list[_Part] = []

    def plan(self, batch: Batch, pages: Tensor) -> None:
        heads = slice(self._kv_heads.start, self._kv_heads.stop)
        self._pages = pages[:, :, :, heads]
        self._page_of, self._offset_of = batch.page_of, batch.offset_of
        self._clean(batch)
        starts = batch.row_starts
        counts = [end - start for start, end in itertools.pairwise(starts)]
        decodes = [row for row, count in enumerate(counts) if count == 1]
        self._parts = [
            _Chunk(slice(starts[row], starts[row + 1]), batch.block_tables[row], batch.row_context[row], self._pages)
            for row, count in enumerate(counts)
            if count > 1
        ]
        page_bytes = 2 * len(self._kv_heads) * pages.shape[4] * pages.shape[5] * 4
        lengths = [len(batch.block_tables[row]) for row in decodes]
        for group in group_rows(lengths, _SCRATCH_BYTES // page_bytes):
            rows = [decodes[index] for index in group]
            tokens = torch.tensor([starts[row] for row in rows])
            tables = [batch.block_tables[row] for row in rows]
            contexts = [batch.row_context[row] for row in rows]
            whole = rows == list(range(len(counts)))  # a step of decodes in order needs no picking
            self._parts.append(_Decodes(None if whole else tokens, tables, contexts, self._pages))

    def forward(self, query: Tensor, kv: Tensor, layer: int) -> Tensor:
        pages = self._pages[:, layer]
        pages[self._page_of, :, :, self._offset_of] = kv.to(pages.dtype)
        grouped = query.view(query.shape[0], len(self._kv_heads), self._group, query.shape[2])
        out = torch.empty_like(grouped)
        for part in self._parts:
            part.attend(grouped, pages, out)
        return out.view(query.shape)

    def _clean(self, batch: Batch) -> None:
        """Zero the cells that this step begins and does not fill."""
        begun = batch.page_of[batch.offset_of == 0]
        filled = batch.page_of[batch.offset_of == self._pages.shape[4] - 1]
        partly = begun[~torch.isin(begun, filled)]
        if len(partly):
            self._pages[partly] = 0


class _Part(Protocol):
    """Some of a step's rows."""

    def attend(self, query: Tensor, pages: Tensor, out: Tensor) -> None:
        """Fill this part's tokens of `out`, [tokens, kv_heads, group, dim] as `query`; `pages` is one layer's,
        [cells, 2, kv_heads, page tokens, dim]."""
        ...


@dataclass(slots=True)
class _Gather:
    """Collects pages of one layer into a buffer that all layers share."""

    cells: Tensor  # [pages] int64
    buffer: Tensor  # [2, kv_heads, pages, page tokens, dim] in the pages' dtype

    @classmethod
    def of(cls, cells: Tensor, pages: Tensor) -> _Gather:
        """`pages` is [cells, layers, 2, kv_heads, page tokens, dim]."""
        kv, heads, page_tokens, dim = pages.shape[2:]
        return cls(cells, torch.empty(kv, heads, len(cells), page_tokens, dim, dtype=pages.dtype))

    def __call__(self, pages: Tensor) -> Tensor:
        """[2, kv_heads, pages * page tokens, dim] float32."""
        torch.index_select(pages.permute(1, 2, 0, 3, 4), 2, self.cells, out=self.buffer)
        return self.buffer.flatten(2, 3).float()


class _Decodes:
    """Rows of one token each.

    Args:
        tokens: [rows] indices into the step's tokens; None where the rows are all of them, in order.
        tables: their block tables.
        contexts: tokens of each.
        pages: [cells, layers, 2, kv_heads, page tokens, dim].
    """

    def __init__(self, tokens: Tensor | None, tables: list[Tensor], contexts: list[int], pages: Tensor) -> None:
        self._tokens, self._rows = tokens, len(tables)
        longest, page_tokens = max(map(len, tables)), pages.shape[4]
        # Padding repeats the row's first page, which is sure to hold finite numbers.
        padded = torch.stack([torch.cat([table, table[:1].expand(longest - len(table))]) for table in tables])
        self._gather = _Gather.of(padded.flatten(), pages)
        self._length = contexts[0] if self._rows == 1 else longest * page_tokens
        self._mask: Tensor | None = None
        if min(contexts) < self._length:
            behind = torch.arange(self._length) >= torch.tensor(contexts)[:, None]
            self._mask = torch.zeros(self._rows, 1, self._length).masked_fill_(behind[:, None], float("-inf"))

    def attend(self, query: Tensor, pages: Tensor, out: Tensor) -> None:
        _, heads, group, dim = query.shape
        keys, values = self._gather(pages).view(2, heads * self._rows, -1, dim)[:, :, : self._length]
        mine = query if self._tokens is None else query[self._tokens]
        wanted = (mine.float() * dim**-0.5).transpose(0, 1).reshape(heads * self._rows, group, dim)
        scores = torch.bmm(wanted, keys.transpose(1, 2))
        if self._mask is not None:
            scores.view(heads, self._rows, group, self._length).add_(self._mask)
        found = torch.bmm(torch.softmax(scores, -1), values)
        rows = found.view(heads, self._rows, group, dim).transpose(0, 1).to(out.dtype)
        if self._tokens is None:
            out.copy_(rows)
        else:
            out[self._tokens] = rows


class _Chunk:
    """One row of several tokens: the last `tokens` of its sequence.

    Args:
        tokens: its place among the step's tokens.
        table: its block table.
        context: tokens of its sequence.
        pages: [cells, layers, 2, kv_heads, page tokens, dim].
    """

    def __init__(self, tokens: slice, table: Tensor, context: int, pages: Tensor) -> None:
        self._tokens, self._context = tokens, context
        self._gather = _Gather.of(table, pages)
        count = tokens.stop - tokens.start
        self._before = context - count
        block = max(16, _MASK_NUMBERS // context)
        block = min(count, max(16, _MASK_NUMBERS // context))
        self._blocks = [(begin, min(begin + block, count)) for begin in range(0, count, block)]
        ahead = torch.arange(context) > torch.arange(context - block, context)[:, None]
        self._mask = torch.zeros(block, context).masked_fill_(ahead, float("-inf"))

    def attend(self, query: Tensor, pages: Tensor, out: Tensor) -> None:
        _, heads, group, dim = query.shape
        keys, values = self._gather(pages)[:, :, None].expand(2, heads, group, -1, dim)
        for begin, end in self._blocks:
            at = slice(self._tokens.start + begin, self._tokens.start + end)
            upto = self._before + end
            found = F.scaled_dot_product_attention(
                query[at].float().permute(1, 2, 0, 3),
                keys[:, :, :upto],
                values[:, :, :upto],
                # The mask of the last block, of which every other block's is the lower right corner's left part.
                attn_mask=self._mask[begin - end :, self._context - upto :],
            )
            out[at] = found.permute(2, 0, 1, 3)
